"""Token ids from disk make the batches that texts make, and are found again by the same configuration alone."""

from __future__ import annotations

import os
import shutil
import threading
import unittest.mock
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dec2vec.files.atomic
import train.data.token_cache
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.helpers import word_pairs
from tests.processes import run_alone, run_ranks
from tests.tiny_run import MIXTURE, STEPS, fingerprint, metrics_of, sha256, write_run
from tests.tiny_run import train as train_run
from tests.training_setup import data_of, tiny_encoder
from train.config import BatchConfig, TrainConfig
from train.data.batch import BatchOptions, LocalBatch, prepare
from train.data.dataset import TrainingData
from train.data.prompted_input import PromptedInput
from train.data.table import SourceTable
from train.data.token_cache import keeps_tokens, known_tokens, load_tokens
from train.options.data import SourceConfig

LONG = "The cat sat on the mat and The dog ran " * 9
ROWS = [("A cat", "a CAT", "dog"), ("A cat", LONG), ("sat \ud800 on", "Query: A cat"), ("", "a cat")]
READING = {"text_normalization": "lower", "prompt": "Query: {text}", "tokenization": "separate"}


def data() -> TrainingData:
    """Pairs read in two prompts of their own, graded pairs and single texts; some texts come twice."""
    tables = [SourceTable("pairs", ROWS), SourceTable("graded", ROWS[1:3], scores=(0.5, 1.0))]
    mixed = data_of(*tables, SourceTable("texts", [("A cat",), ("dog",)]))
    pairs = SourceConfig(query_prompt="Q: {text}", document_prompt="{text} means")
    return TrainingData((pairs, *mixed.sources[1:]), mixed.tables, mixed.counts)


def tensors_of(batch: LocalBatch) -> list[Tensor]:
    chunks = [part for chunk in batch.chunks for part in (chunk.rows, chunk.input_ids, chunk.lengths)]
    return [*chunks, *(value for value in vars(batch.loss_inputs).values() if value is not None)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call tokenised."""
    counts: list[int] = []
    tokenize = Encoder.tokenize

    def counted(self: Encoder, texts: Sequence[str], **options: object) -> list[list[int]]:
        counts.append(len(texts))
        return tokenize(self, texts, **options)

    monkeypatch.setattr(Encoder, "tokenize", counted)
    return counts


def test_the_batches_are_the_same(tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.data.token_cache, "BLOCK", 3)
    encoder = tiny_encoder(tmp_path / "model", **READING)
    known = load_tokens(data(), encoder, tmp_path / "tokens")
    for rows in ([0, 1, 2, 3], [3, 1], [4, 5], [7, 6], []):
        for rank in (0, 1):
            expected = prepare(data(), np.array(rows, dtype=np.int64), encoder, BatchOptions(60, rank=rank, world=2))
            made.clear()
            found = prepare(
                data(),
                np.array(rows, dtype=np.int64),
                encoder,
                BatchOptions(60, rank=rank, world=2, token_source=known),
            )
            assert sum(made) == (0 if len(rows) > rank else 1)  # the empty text of a rank without a row
            assert (found.real_tokens, found.pairs) == (expected.real_tokens, expected.pairs)
            assert all(map(torch.equal, tensors_of(found), tensors_of(expected)))


def test_equal_readings_are_made_once_and_found_again(tmp_path: Path, made: list[int]) -> None:
    encoder = tiny_encoder(tmp_path / "model", **READING)
    first = load_tokens(data(), encoder, tmp_path / "tokens")
    assert sum(made) == len(first.keys) == 3 + 4 + 4 + 1
    made.clear()
    again = load_tokens(data(), tiny_encoder(tmp_path / "model", **READING), tmp_path / "tokens")
    readings = [
        PromptedInput("a cat", "Q: {text}"),
        PromptedInput("a cat", "{text} means", "document"),
        PromptedInput("dog", None, "text"),
    ]
    assert not made and again.of(readings) == first.of(readings)
    assert len({tuple(ids) for ids in again.of(readings) or ()}) == 3


@pytest.mark.parametrize(
    "asked", [PromptedInput("a bird", None, "text"), PromptedInput("dog", "{text}", "text"), PromptedInput("dog", None)]
)
def test_what_was_not_made_is_tokenised(tmp_path: Path, made: list[int], asked: PromptedInput) -> None:
    encoder = tiny_encoder(tmp_path / "model", **READING)
    known = load_tokens(data(), encoder, tmp_path / "tokens")
    assert known.of([PromptedInput("dog", None, "text"), asked]) is None
    other = data_of(SourceTable("texts", [("a bird",), ("dog",)]))
    rows = np.array([0, 1])
    pair = (
        prepare(other, rows, encoder, BatchOptions(60, token_source=known)),
        prepare(other, rows, encoder, BatchOptions(60)),
    )
    assert all(map(torch.equal, *map(tensors_of, pair)))


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 40},
        {"text_normalization": "none"},
        {"prompt": "{text}"},
        {"tokenization": "joint"},
        "text",
        "eos",
    ],
)
def test_another_reading_has_a_file_of_its_own(tmp_path: Path, change: dict[str, object] | str) -> None:
    folder, names = tmp_path / "tokens", []
    for changed in (False, True, False):
        options = {**READING, **change} if changed and isinstance(change, dict) else READING
        encoder = tiny_encoder(tmp_path / "model", **options)
        if changed and change == "eos":
            encoder.tokenizer.eos_token = encoder.tokenizer.convert_ids_to_tokens(7)
        texts = ROWS[:-1] if changed and change == "text" else ROWS
        load_tokens(data_of(SourceTable("pairs", texts)), encoder, folder)
        names.append([path.name for path in folder.glob("*.arrow")])
    assert all(len(found) == 1 for found in names)  # the other one is gone
    assert names[0] == names[2] != names[1]


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    encoder, folder = tiny_encoder(tmp_path / "model"), tmp_path / "tokens"
    load_tokens(data(), encoder, folder)
    (path,) = folder.glob("*.arrow")
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(UserError, match=r"\.arrow is damaged.* delete it"):
        load_tokens(data(), encoder, folder)


def test_what_cannot_be_kept_is_tokenised_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = tiny_encoder(tmp_path / "model", **READING)
    config = TrainConfig(batch=BatchConfig(size=8))
    monkeypatch.setattr(train.data.token_cache, "keeps_tokens", lambda *_: True)
    (tmp_path / "tokens").write_text("a file where the folder should be")
    assert known_tokens(config, data(), encoder, tmp_path / "tokens", 100) is None
    assert "cannot cache token ids in" in caplog.text and "tokenized in each step" in caplog.text


def test_a_write_that_broke_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, folder = tiny_encoder(tmp_path / "model"), tmp_path / "tokens"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"cannot cache token ids in .*disk is full"):
        patch.setattr(dec2vec.files.atomic, "fsync_file", lambda path: (_ for _ in ()).throw(OSError(28, "full")))
        load_tokens(data(), encoder, folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert load_tokens(data(), encoder, folder).of([PromptedInput("", "Q: {text}")]) is not None


def test_one_of_several_processes_writes(tmp_path: Path, made: list[int]) -> None:
    """Threads with files of their own wait for each other's lock as processes do."""
    encoders = [tiny_encoder(tmp_path / "model") for _ in range(3)]
    made.clear()
    threads = [threading.Thread(target=load_tokens, args=(data(), one, tmp_path / "tokens")) for one in encoders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == len(load_tokens(data(), encoders[0], tmp_path / "tokens").keys)


@pytest.mark.parametrize(
    ("layer", "steps", "kept"),
    [(0, 8, True), (0, 7, False), (1, 8, False)],
)
def test_when_ids_are_kept(tmp_path: Path, layer: int, steps: int, kept: bool) -> None:
    """Two epochs of 8 rows are 8 steps of 2."""
    config = TrainConfig(batch=BatchConfig(size=2))
    encoder = tiny_encoder(tmp_path)
    encoder.embedder.view = type(encoder.embedder.view)("mean", layer)
    pairs = data_of(SourceTable("pairs", [(str(row["anchor"]), str(row["positive"])) for row in word_pairs(8)]))
    assert keeps_tokens(config, pairs, encoder, steps) == kept


def run(config: Path, output: Path, setting: str) -> None:
    os.chdir(config.parent)
    with unittest.mock.patch("train.data.token_cache.keeps_tokens", lambda *_: setting == "on"):
        train_run(config, output)


def weights(output: Path) -> dict[str, str]:
    return {name: value for name, value in fingerprint(output).items() if name.endswith(".safetensors")}


def test_a_run_is_the_same_also_resumed(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run", data=MIXTURE[:3], batch=BatchConfig(size=8, chunk_tokens=64, sources="single"))
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    run_alone(run, config, plain, "off")
    run_alone(run, config, kept, "on")
    assert not (plain / "tokens").exists()
    (ids,) = (kept / "tokens").glob("*.arrow")
    before = sha256(ids), ids.stat().st_mtime_ns
    shutil.rmtree(kept / "checkpoints" / f"step-{STEPS:06d}")
    run_alone(run, config, kept, "on")
    assert (sha256(ids), ids.stat().st_mtime_ns) == before
    assert metrics_of(kept) == metrics_of(plain) and weights(kept) == weights(plain)


@pytest.mark.slow
def test_a_run_on_ranks_is_the_same(tmp_path: Path) -> None:
    config = write_run(tmp_path / "run", data=MIXTURE[:1], batch=BatchConfig(size=8, chunk_tokens=64, sources="single"))
    for setting in ("off", "on"):
        run_ranks(2, run, config, tmp_path / setting, setting)
    assert metrics_of(tmp_path / "on") == metrics_of(tmp_path / "off")
    assert weights(tmp_path / "on") == weights(tmp_path / "off")
