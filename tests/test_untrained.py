"""A run that has changed nothing fails, and says what may help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train.loop.fit
from dec2vec import ModelConfig
from dec2vec.errors import UserError
from tests.tiny_run import train as run_training
from tests.tiny_run import write_run
from train.config import OptimConfig
from train.step import StepResult


@pytest.fixture
def skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the steps that are to have no finite gradient; they change no weights."""
    skipped: list[int] = []
    plain = train.loop.fit.train_step

    def step(learner: Any, batch: Any, number: int, *args: Any, **options: Any) -> StepResult:
        result = plain(learner, batch, number, *args, **options)
        return replace(result, loss=float("nan"), applied=False) if number in skipped else result

    monkeypatch.setattr(train.loop.fit, "train_step", step)
    monkeypatch.chdir(tmp_path)
    return skipped


def error_of(config: Path) -> str:
    """The message of the error that ends the run."""
    with pytest.raises(UserError) as stopped:
        run_training(config, Path("out"))
    return str(stopped.value)


def test_nothing_trained_is_no_success(tmp_path: Path, skips: list[int]) -> None:
    config = write_run(tmp_path, optim=OptimConfig(steps=2))
    skips += [0, 1]
    for _ in range(2):  # the repetition, which goes on from the last checkpoint, is refused as well
        line = error_of(config)
        assert "none of the 2 steps had a finite gradient" in line and "(dec2vec check " in line
    assert not (tmp_path / "out/adapter").exists() and not (tmp_path / "out/model").exists()


def test_one_skipped_step_is_no_failure(tmp_path: Path, skips: list[int]) -> None:
    skips += [0]
    run_training(write_run(tmp_path, optim=OptimConfig(steps=2)), tmp_path / "out")
    assert (tmp_path / "out/adapter").is_dir()


@pytest.mark.parametrize(
    ("first_bad", "model", "advice", "not_advised"),
    [
        (0, {}, "(dec2vec check ", "use model."),
        (0, {"autocast": "on"}, "use model.autocast off", "float32"),
        (0, {"dtype": "bfloat16"}, "use model.dtype float32", "lower"),
        (1, {}, "use a lower optim.lr; earlier checkpoints", "use model."),
        (1, {"autocast": "on"}, "use a lower optim.lr or model.autocast off", "float32"),
    ],
)
def test_advice_fits_the_cause(
    tmp_path: Path,
    skips: list[int],
    first_bad: int,
    model: dict[str, Any],
    advice: str,
    not_advised: str,
) -> None:
    options = {"name_or_path": "decoder", "max_length": 64, "device": "cpu", "autocast": "off", **model}
    config = write_run(tmp_path, model=ModelConfig(**options), optim=OptimConfig(steps=9))
    skips += range(first_bad, 9)
    line = error_of(config)
    assert "5 consecutive steps had no finite gradient" in line
    assert advice in line and not_advised not in line
