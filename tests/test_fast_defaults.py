"""A whole run with every fast path, as by default, has the losses of one with all of them switched off."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

import train.loop.fit
import train.step
from dec2vec import ModelConfig
from tests.tiny_run import metrics_of, write_run
from tests.tiny_run import train as train_run
from train.config import BatchConfig, LoraConfig

PLAIN = {"fused": False}, {"graph_tokens": 0, "chunk_tokens": 64, "share_prefix": False}


def losses(folder: Path, lora: dict[str, object], batch: dict[str, object]) -> list[float]:
    """Of every step; dropout off, which some fast paths step back from."""
    model = ModelConfig(
        name_or_path="decoder",
        max_length=96,
        device="cpu",
        autocast="off",
        prompt="The text that means this is: {text}",
    )
    config = write_run(folder / "run", model=model, lora=LoraConfig(rank=4, **lora), batch=BatchConfig(size=8, **batch))
    train_run(config, folder / "out", "--optim.lr", "1e-4", "--optim.steps", "5")
    return [float(line["loss"]) for line in metrics_of(folder / "out") if "loss" in line]


def test_fast_equals_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / name for name in ("fast", "plain", "other")]
    found = []
    for folder, (lora, batch) in zip(folders, (({}, {}), PLAIN, ({"alpha": 64.0}, {})), strict=True):
        folder.mkdir()
        (folder / "run").mkdir()
        monkeypatch.chdir(folder / "run")
        with monkeypatch.context() as patches:
            if (lora, batch) == PLAIN:
                patches.setattr(train.loop.fit, "fit", partial(train.loop.fit.fit, prefetch=False))
                patches.setattr(train.step, "cached_step", partial(train.step.cached_step, threads=1))
            found.append(losses(folder, lora, batch))
    fast, plain, other = found
    assert len(fast) == 5 and fast == pytest.approx(plain, rel=1e-4)
    assert other != pytest.approx(plain, rel=1e-4)
