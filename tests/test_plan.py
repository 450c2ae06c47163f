"""`dec2vec train CONFIG --plan`: what it says holds of the run, and nothing is written."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from dec2vec.batching import ChunkCost
from dec2vec.config.load import load
from dec2vec.errors import UserError
from tests.tiny_run import metrics_of, train, write_run
from tests.training_setup import tiny_encoder
from train.config import BatchConfig, EvalSection, LoraConfig, OptimConfig, TrainConfig
from train.distributed.single import Single
from train.gradcache.memory import affordable_chunk
from train.loop import batches
from train.loop.batches import settle_chunk_tokens
from train.loop.timing import ChunkCosts
from train.options.losses import LossConfig
from train.preflight import without_effects
from train.state import Run, TrainState


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_run(
        tmp_path,
        lora=LoraConfig(rank=4),
        optim=OptimConfig(steps=6, lr=1e-2),
        batch=BatchConfig(size=8, chunk_tokens=64, graph_tokens=128),
        eval=EvalSection(dev="dev.jsonl", every=4, after_training=False),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def number(name: str, text: str) -> float:
    found = re.search(name, text, re.M)
    assert found is not None, text
    return float(found.group(1).replace(",", ""))


@pytest.mark.slow
def test_what_it_says_is_so(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(tmp_path)
    train(config, tmp_path / "out", "--plan")
    shown = capsys.readouterr().out
    assert contents(tmp_path) == before and not (tmp_path / "out").exists()
    train(config, tmp_path / "out")
    steps = [line for line in metrics_of(tmp_path / "out") if "loss" in line]
    scores = [line for line in metrics_of(tmp_path / "out") if "dev_spearman" in line]
    assert number(r"^steps +(\d+) of", shown) == len(steps) == 6
    assert number(r"^rows +(\d+) in 1 source", shown) == 22
    assert number(r"^dev .* (\d+) times", shown) == len(scores) == 2
    padding = 100 * (1 - 1 / np.mean([line["padding_ratio"] for line in steps]))
    assert number(r"([\d.]+) % of what is computed is padding", shown) == pytest.approx(padding, abs=1)
    assert 64 <= number(r"graphs of (\d+) tokens", shown) <= 128
    assert "model.pooling is last" in shown and "model.device" not in shown
    assert number(r"([\d.]+) s a step", shown) > 0 and number(r"memory +([\d,]+) MiB", shown) > 100


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(config: Path, tmp_path: Path) -> None:
    train(config, tmp_path / "out", "--optim.steps", "2", "--eval.dev", "none")
    before = contents(tmp_path)
    train(config, tmp_path / "out", "--plan", "--optim.steps", "4", "--checkpoint.resume", "fresh")
    assert contents(tmp_path) == before


def test_what_cannot_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught = write_run(tmp_path, loss=LossConfig(kind="distil_scores", teacher="decoder"))
    with pytest.raises(UserError, match="a teacher's vectors"):
        train(taught, tmp_path / "out", "--plan")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="of one process"):
        without_effects(TrainConfig())


def test_the_cost_of_a_chunk(tmp_path: Path) -> None:
    """Between two widths that were timed, the cost of a token is between theirs; a kept graph saves a pass."""
    costs = ChunkCosts(np.array([10.0, 30.0]), np.array([1.0, 2.0]), np.array([3.0, 5.0]), ChunkCost(fixed=6))
    chunk = batches._probe(tiny_encoder(tmp_path, max_length=20))
    assert chunk.input_ids.shape == (12, 20)
    assert costs.seconds(chunk, keep_graph=True) == pytest.approx((3 + 5) / 2 * 246)
    assert costs.seconds(chunk, keep_graph=False) == pytest.approx((1 + 2 + 3 + 5) / 2 * 246)


def test_chunks_of_an_accelerator_are_settled_once(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_encoder(tmp_path / "tiny")
    model = Single(encoder.embedder)
    wanted = load(TrainConfig, config, ["--batch.chunk_tokens", "auto"])
    written: list[str] = []
    run = object.__new__(Run)  # with no more than is needed
    vars(run).update(
        config=wanted,
        state=TrainState(),
        encoder=encoder,
        learner=SimpleNamespace(model=model),
        rank=0,
        folder=SimpleNamespace(write_config=written.append),
    )
    assert settle_chunk_tokens(run) == 1024 and not written  # a CPU
    monkeypatch.setattr(batches, "is_accelerator", lambda device: True)
    monkeypatch.setattr(batches, "free_bytes", lambda device: 2 * 10**6)
    found = settle_chunk_tokens(run)
    assert (
        found == affordable_chunk(batches.token_bytes(model, batches._probe(encoder)), 2 * 10**6) and 1 < found < 1024
    )
    assert yaml.safe_load(written[0])["batch"]["chunk_tokens"] == found == run.state.chunk_tokens
    monkeypatch.setattr(batches, "free_bytes", lambda device: 10**8)
    assert settle_chunk_tokens(run) == found and len(written) == 1  # also when the run goes on with more memory
    vars(run)["config"] = load(TrainConfig, config, ["--batch.chunk_tokens", "5"])
    assert settle_chunk_tokens(run) == 5
