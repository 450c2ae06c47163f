"""float16 autocast with a loss scale, on a CPU: it follows float32, and overflows are skipped and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import train.loop.fit
from dec2vec import ModelConfig
from dec2vec.errors import UserError
from tests.helpers import tiny_model_folder
from tests.tiny_run import train as run_training
from tests.tiny_run import write_run
from train.config import CheckpointConfig, LoraConfig, OptimConfig, TrainConfig
from train.distributed.engine import make_accelerator
from train.optim import FIRST, GROWTH_INTERVAL, LossScale
from train.resolve import resolve
from train.state import TrainState
from train.step import StepResult


def run(folder: Path, autocast: str, steps: int = 8, **more: Any) -> list[dict[str, float]]:
    """The metrics of a run's steps."""
    model = ModelConfig(name_or_path="decoder", max_length=64, device="cpu", autocast=autocast)  # type: ignore[arg-type]
    config = write_run(folder, model=model, optim=OptimConfig(steps=steps, lr=1e-3), **more)
    run_training(config, folder / "out")
    lines = (folder / "out/metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def test_the_loss_curve_follows_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a scale that suits these gradients from the first step on, so that both runs make the same steps."""
    monkeypatch.setattr(train.loop.fit, "_loss_scale", lambda run: 256.0 if run.encoder.embedder.autocast else 1.0)
    curves = {}
    for autocast in ("off", "float16"):
        folder = tmp_path / autocast
        folder.mkdir()
        monkeypatch.chdir(folder)
        curves[autocast] = run(folder, autocast)
    for exact, half in zip(curves["off"], curves["float16"], strict=True):
        assert half["loss"] == pytest.approx(exact["loss"], rel=5e-3)
        assert half["grad_norm"] == pytest.approx(exact["grad_norm"], rel=5e-2)
    assert curves["float16"][-1]["skipped_steps"] == 0
    assert [row["loss"] for row in curves["off"]] != [row["loss"] for row in curves["float16"]]


def test_overflows_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted at every scale above 64, ten times in a row: any other five bad steps end a run."""
    scales: list[float] = []
    plain = train.loop.fit.train_step

    def step(learner: Any, batch: Any, number: int, config: Any, *, scale: float, **options: Any) -> StepResult:
        scales.append(scale)
        scale = 1e30 if scale > 64 else scale  # more than float16 holds
        return plain(learner, batch, number, config, scale=scale, **options)

    monkeypatch.setattr(train.loop.fit, "train_step", step)
    monkeypatch.chdir(tmp_path)
    rows = run(tmp_path, "float16", steps=13)
    assert scales == [FIRST / 2**power for power in range(10)] + [64.0] * 3
    assert [row["skipped_steps"] for row in rows] == [*range(1, 11), 10, 10, 10]
    assert (tmp_path / "out/adapter").is_dir()


def test_what_is_wrong_at_any_scale_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite did not come from the scale."""
    plain = train.loop.fit.train_step

    def step(*args: Any, **options: Any) -> StepResult:
        result = plain(*args, **options)
        return StepResult(**{**vars(result), "loss": float("nan"), "applied": False})

    monkeypatch.setattr(train.loop.fit, "train_step", step)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="5 consecutive steps had no finite gradient"):
        run(tmp_path, "float16")


def test_the_scale_survives_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "float16", steps=8, checkpoint=CheckpointConfig(every=1))
    (path,) = (tmp_path / "out/checkpoints").glob("step-000008/state.json")
    state = json.loads(path.read_text())
    assert 0 < state["skipped_steps"] < 8 and state["loss_scale"] == FIRST / 2 ** state["skipped_steps"]
    assert 0 < state["steps_at_scale"] <= 8 - state["skipped_steps"]
    resumed = TrainState()
    resumed.take(state)
    assert resumed.loss_scale == state["loss_scale"]


def test_the_scale_changes_as_in_torch() -> None:
    """`torch.amp.GradScaler` over the same overflows."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu")
    scale = LossScale()
    overflows = {0, 1, 5, GROWTH_INTERVAL + 6, 2 * GROWTH_INTERVAL + 6}
    for step in range(2 * GROWTH_INTERVAL + 10):
        assert scale.value == scaler.get_scale()
        weight.grad = torch.full((1,), float("inf") if step in overflows else 1.0)
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()
        scale = scale.after(overflowed=step in overflows)
    assert scale.value != FIRST


def test_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="autocast float16: DeepSpeed has no loss scale here; use FSDP2 or DDP"):
        make_accelerator(TrainConfig(model=ModelConfig(autocast="float16")))


@pytest.mark.parametrize(
    ("method", "asked", "kept"),
    [("full", "bfloat16", "float32"), ("full", "float32", "float32"), ("lora", "bfloat16", "bfloat16")],
)
def test_weights_trained_in_full_are_kept_in_float32(tmp_path: Path, method: str, asked: str, kept: str) -> None:
    """A relative update of 1e-3 is less than half of bfloat16's last bit: added to the weight, it would be lost."""
    assert torch.tensor(1.0, dtype=torch.bfloat16) + 1e-3 == 1.0
    tiny_model_folder(tmp_path)
    model = ModelConfig(name_or_path=str(tmp_path), dtype=asked, device="cpu")  # type: ignore[arg-type]
    assert resolve(TrainConfig(model=model, lora=LoraConfig(method=method))).model.dtype == kept  # type: ignore[arg-type]
