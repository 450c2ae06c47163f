"""The figures of a training run, in `metrics.jsonl` and on the console, against what they are said to be."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import train.loop.fit
from dec2vec import Encoder, ModelConfig
from dec2vec.config.load import load
from dec2vec.files.tables import read_table
from tests.helpers import graded_pairs, write_jsonl
from tests.naive_info_nce import Texts, naive_loss
from tests.processes import run_alone
from tests.tiny_run import STEPS, metrics_of, write_run
from tests.tiny_run import train as train_run
from train.config import LoraConfig, OptimConfig, TrainConfig
from train.data.dataset import load_data
from train.data.make_sampler import make_sampler
from train.options.losses import LossConfig
from train.tracking.step_metrics import StepTotals, step_metrics

LOSS = LossConfig(learn_temperature=True)


@dataclass(frozen=True)
class Ran:
    """A finished run: its folder, what it printed, and by step the totals and the gradients' norm."""

    folder: Path
    printed: str
    totals: list[StepTotals]
    norms: list[float]


def observed(config: Path, output: Path, *overrides: str) -> tuple[str, list[StepTotals], list[float]]:
    os.chdir(config.parent)
    totals: list[StepTotals] = []
    norms: list[float] = []
    metrics, step = train.loop.fit.step_metrics, train.loop.fit.train_step

    def counted(found: StepTotals, **more: Any) -> dict[str, float]:
        totals.append(found)
        return metrics(found, **more)

    def watched(learner: Any, *given: Any, **more: Any) -> Any:
        clip = learner.optimizer.clip

        def measured() -> Any:
            gradients = [p.grad for p in learner.model.embedder.parameters() if p.grad is not None]
            norms.append(math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients)))
            return clip()

        learner.optimizer.clip = measured
        try:
            return step(learner, *given, **more)
        finally:
            learner.optimizer.clip = clip

    train.loop.fit.step_metrics, train.loop.fit.train_step = counted, watched
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        train_run(config, output, *overrides)
    return said.getvalue(), totals, norms


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("figures")
    optim = OptimConfig(steps=STEPS, lr=1e-2, max_grad_norm=1e-3)  # every gradient is clipped
    config = write_run(folder, lora=LoraConfig(rank=4, alpha=8.0), loss=LOSS, optim=optim)
    write_jsonl(folder / "dev.jsonl", graded_pairs(60))
    return Ran(folder, *run_alone(observed, config, folder / "out"))


def encoder(path: Path) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(path), device="cpu", autocast="off", max_length=64))


def test_the_loss_is_that_of_the_whole_batch_before_the_step(ran: Ran) -> None:
    """The first one, with the weights of the base, in float64."""
    config = load(TrainConfig, ran.folder / "out" / "config.yaml", [])
    data = load_data(config.data)
    rows = [data.tables[0].texts[int(row)] for row in make_sampler(config, data).rows(0)]
    negatives = tuple(text for row in rows for text in row[2:])
    texts = Texts(tuple(row[0] for row in rows), tuple(row[1] for row in rows), negatives)
    vectors = encoder(ran.folder / "decoder").encode([*texts.anchors, *texts.documents])
    expected = naive_loss(torch.from_numpy(vectors).double(), texts, LOSS, torch.tensor(math.log(0.05)).double())
    line = metrics_of(ran.folder / "out")[0]
    assert line["step"] == 1 and line["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert line["temperature"] == pytest.approx(0.05)


def test_the_gradient_norm_is_the_one_before_clipping(ran: Ran) -> None:
    lines = [line for line in metrics_of(ran.folder / "out") if "grad_norm" in line]
    np.testing.assert_allclose([line["grad_norm"] for line in lines], ran.norms, rtol=1e-5)
    assert min(ran.norms) > 1e-3


def test_pairs_and_tokens_are_counted_once(ran: Ran) -> None:
    config = load(TrainConfig, ran.folder / "out" / "config.yaml", [])
    data, base = load_data(config.data), encoder(ran.folder / "decoder")
    sampler = make_sampler(config, data)
    for step, totals in enumerate(ran.totals):
        rows = sampler.rows(step)
        texts = {text for row in rows for text in data.tables[0].texts[int(row)]}
        assert totals.pairs == len(rows) in (6, 8)
        assert totals.real_tokens == sum(map(len, base.tokenize(sorted(texts)))) <= totals.computed_tokens


def test_rates_are_over_the_seconds_of_the_step() -> None:
    line = step_metrics(
        StepTotals(256.0, 4000.0, 5000.0, [1.5]),
        loss=1.0,
        lr=1e-3,
        temperature=0.05,
        grad_norm=2.0,
        seconds=2.0,
        device=torch.device("cpu"),
        skipped_steps=3,
    )
    assert (line["pairs_per_second"], line["tokens_per_second"], line["padding_ratio"]) == (128.0, 2000.0, 1.25)
    assert line["skipped_steps"] == 3.0 and line["memory_mib"] > 1.0 and "slowest_rank" not in line


def test_the_dev_score_is_spearman_of_the_dev_file_and_the_adapter_has_the_best(ran: Ran) -> None:
    lines = {line["step"]: line["dev_spearman"] for line in metrics_of(ran.folder / "out") if "dev_spearman" in line}
    rows = read_table(ran.folder / "dev.jsonl").rows
    left, right = (
        encoder(ran.folder / "out").encode([str(row[column]) for row in rows]) for column in ("sentence1", "sentence2")
    )
    found = spearmanr((left * right).sum(axis=1), [float(str(row["score"])) for row in rows]).statistic
    assert list(lines) == [4, 8, 10] and len(set(lines.values())) == 3
    assert max(lines.values()) == pytest.approx(float(found), abs=1e-6)


def test_the_console_says_what_the_file_says_and_best_so_far_is_the_running_maximum(ran: Ran) -> None:
    lines = [line for line in metrics_of(ran.folder / "out") if "dev_spearman" in line]
    shown = re.findall(r"step (\d+): dev Spearman (-?[\d.]+)( \(best so far\))?", ran.printed)
    scores = [line["dev_spearman"] for line in lines]
    assert [(int(step), score) for step, score, _ in shown] == [
        (line["step"], f"{100 * line['dev_spearman']:.2f}") for line in lines
    ]
    highest = [max(scores[:at], default=-2.0) for at in range(len(scores))]
    assert [bool(best) for *_, best in shown] == [score > before for score, before in zip(scores, highest, strict=True)]
    last = re.findall(r"step 10/10  loss ([\d.]+)", ran.printed)
    assert last == [f"{next(line['loss'] for line in metrics_of(ran.folder / 'out') if line['step'] == 10):.4f}"]
