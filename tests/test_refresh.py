"""Negatives that follow the model: what a naive search finds, the same on one rank, on two, and after a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from dec2vec.config.model import EncodeOptions
from dec2vec.errors import UserError
from tests.processes import run_alone, run_ranks
from tests.tiny_run import metrics_of, sha256, stopped_at, write_run
from tests.tiny_run import train as train_run
from tests.training_setup import data_of, tiny_encoder
from train.checkpointing.run_folder import RunFolder
from train.config import BatchConfig, CheckpointConfig, ExportConfig, OptimConfig, TrainConfig
from train.data.table import SourceTable
from train.mining.refresh import NONE, WithNegatives, make_refreshed, mine_source
from train.options.data import MiningConfig, SourceConfig
from train.preflight import check_config

TEXTS = [
    (f"a {word}", f"the {word} of {other}", f"no {word}") for word, other in zip("abcdefgh", "hgfedcba", strict=True)
]
TEXTS += [("a x", "The  c of F", "no c"), ("a c", "another")]


def naive(prompts: tuple[str | None, str | None], encoder: Any, ratio: float, count: int) -> list[set[str]]:
    """For each row the most similar positives of others, one cosine at a time."""

    def vector(text: str, prompt: str | None, side: str) -> np.ndarray[Any, Any]:
        found = encoder.encode_views([text], [encoder.embedder.view], EncodeOptions(prompt, side=side))
        (row,) = found[encoder.embedder.view]
        return np.asarray(row / np.linalg.norm(row))

    def same(text: str) -> str:
        return " ".join(text.lower().split())

    chosen = []
    for texts in TEXTS:
        query = vector(texts[0], prompts[0], "query")
        best = float(query @ vector(texts[1], prompts[1], "document"))
        partners = {same(other[1]) for other in TEXTS if same(other[0]) == same(texts[0])}
        forbidden = {same(texts[0]), *partners, *map(same, texts[2:])}
        scores = {}
        for other in TEXTS:
            if same(other[1]) not in forbidden | {same(text) for text in scores}:
                scores[other[1]] = float(query @ vector(other[1], prompts[1], "document"))
        allowed = [text for text in scores if scores[text] <= best - (1 - ratio) * abs(best)]
        chosen.append(set(sorted(allowed, key=lambda text: -scores[text])[:count]))
    return chosen


@pytest.mark.parametrize("prompts", [(None, None), ("Query: {text}", "Text: {text}")])
def test_finds_what_a_naive_search_finds(tmp_path: Path, prompts: tuple[str | None, str | None]) -> None:
    encoder = tiny_encoder(tmp_path, pooling="mean")
    encoder.embedder.train()
    source = SourceConfig(query_prompt=prompts[0], document_prompt=prompts[1])
    table = SourceTable("pairs", TEXTS)
    found = mine_source(table, source, encoder, MiningConfig(every=1, negatives=2, ratio=0.99), seed=0)
    rows = WithNegatives(TEXTS, found)
    expected = naive(prompts, encoder, 0.99, 2)
    assert [set(row[len(own) :]) for row, own in zip(rows, TEXTS, strict=True)] == expected
    assert any(expected) and len(rows) == len(TEXTS) and rows[:1] == [rows[0]]
    assert encoder.embedder.training
    assert (found == NONE).sum() == 2 * len(TEXTS) - sum(map(len, expected))


MINED = {
    "mining": MiningConfig(every=3, negatives=2, ratio=1.0),
    "checkpoint": CheckpointConfig(every=4, keep=2),
    "batch": BatchConfig(size=8, chunk_tokens=64, graph_tokens=128),
    "optim": OptimConfig(steps=7, lr=1e-2),
}
ADAPTER = "adapter/adapter_model.safetensors"


def in_folder(config: Path, output: Path, *overrides: str) -> None:
    faiss.omp_set_num_threads(1)  # the threads of the process that forked this one are gone
    os.chdir(config.parent)
    train_run(config, output, *overrides)


def stopped(config: Path, output: Path, at: int) -> None:
    stopped_at(at, lambda: in_folder(config, output))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), **MINED)


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    run_alone(in_folder, config, config.parent / "whole")
    return config.parent / "whole"


@pytest.mark.parametrize("at", [4, 5])
def test_a_stopped_run_goes_on_as_it_was(config: Path, whole: Path, tmp_path: Path, at: int) -> None:
    """Between two searches (the file is read again), and right before one."""
    run_alone(stopped, config, tmp_path, at)
    run_alone(in_folder, config, tmp_path)
    assert metrics_of(tmp_path) == metrics_of(whole)
    assert sha256(tmp_path / ADAPTER) == sha256(whole / ADAPTER)
    kept = sorted(path.name for path in (tmp_path / "negatives").iterdir())
    assert kept == ["step-000003.npz", "step-000006.npz"]


def test_the_negatives_are_trained_on(config: Path, whole: Path, tmp_path: Path) -> None:
    run_alone(in_folder, config, tmp_path, "--mining.every", "null")
    losses = [[line["loss"] for line in metrics_of(folder) if "loss" in line] for folder in (whole, tmp_path)]
    assert losses[0][:3] == losses[1][:3] and losses[0][3] != losses[1][3]
    assert sha256(tmp_path / ADAPTER) != sha256(whole / ADAPTER)


def refused(config: Path, output: Path, words: str) -> None:
    with pytest.raises(UserError, match=words):
        in_folder(config, output)


def test_negatives_that_are_gone(config: Path, tmp_path: Path) -> None:
    run_alone(stopped, config, tmp_path, 4)
    (tmp_path / "negatives" / "step-000003.npz").unlink()
    run_alone(refused, config, tmp_path, "step-000003.npz: .*checkpoint.resume fresh")


def ranks_in_folder(config: Path, output: Path) -> None:
    in_folder(config, output, "--lora.dropout", "0", "--eval.dev", "null")


def test_two_ranks_read_what_the_main_one_finds(config: Path, tmp_path: Path) -> None:
    run_ranks(2, ranks_in_folder, config, tmp_path / "two")
    run_alone(ranks_in_folder, config, tmp_path / "one")
    losses: list[Sequence[float]] = [
        [line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line] for name in ("one", "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_refusals(tmp_path: Path) -> None:
    pairs = SourceConfig(path="pairs.jsonl")
    for source, section, words in (
        (SourceConfig(path="texts.jsonl", kind="texts"), {}, "only pairs get negatives"),
        (pairs, {"batch": BatchConfig(no_duplicates=True)}, "batch.no_duplicates forbids"),
        (
            pairs,
            {"mining": MiningConfig(every=1, negatives=9, max_rank=8)},
            "mining.negatives 9 is more than the window of ranks 1 to 8",
        ),
    ):
        settings: dict[str, Any] = {"mining": MiningConfig(every=1), "export": ExportConfig(model=False), **section}
        with pytest.raises(UserError, match=words):
            check_config(TrainConfig(data=(source,), **settings))
    one_positive = data_of(SourceTable("pairs", [("a", "x"), ("b", " X ")]))
    config, folder = TrainConfig(mining=MiningConfig(every=1)), RunFolder(tmp_path)
    with pytest.raises(UserError, match="only one positive"):
        make_refreshed(config, one_positive, folder, is_main=True)
    assert make_refreshed(TrainConfig(), one_positive, folder, is_main=True) is None
