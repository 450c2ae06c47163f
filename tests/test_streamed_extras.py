"""Scores and instructions of streamed rows: those of rows in memory, in the batches and in what is told of them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import TextNormalization
from tests.peer_files import jsonl
from tests.test_instructions import MEDI, OWN, ROWS
from tests.test_reranker import FLAG
from tests.training_setup import tiny_encoder
from train.config import BatchConfig, DevTaskConfig, EvalSection, TrainConfig
from train.data import stream
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData, load_data
from train.data.held_out import load_run_data
from train.data.make_sampler import make_sampler
from train.data.report import describe
from train.data.row_extras import Extras, extras_of
from train.data.stored import StoredTexts
from train.losses.inputs import PairInputs
from train.options.data import SourceConfig
from train.options.losses import LossConfig

SCORED: list[object] = [
    {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": None, "teacher_scores": [2, None]},
    {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": None, "teacher_scores": [2, 1]},
    {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "m", "scores": [1e-7, -3, 0.1]},
    {"anchor": "b", "positive": "q", "negative_1": None, "negative_2": None, "query_instruction": 'It\'s "odd".\n東'},
    {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": None, "teacher_scores": [2, 1]},
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def both(config: TrainConfig, normalization: TextNormalization = "none") -> list[TrainingData]:
    """The data of a configuration in memory, and streamed; both are checked to be equal."""
    found = []
    for streaming in (False, True):
        sources = [replace(source, streaming=streaming) for source in config.data]
        extras = [extras_of(config, source) for source in sources]
        found.append(load_data(sources, normalization=normalization, extras=extras))
    memory, streamed = found
    for one, other in zip(memory.tables, streamed.tables, strict=True):
        assert isinstance(other.texts, StoredTexts) and one.named() == other.named()
        assert list(one.texts) == list(other.texts)
        assert list(map(repr, one.document_scores)) == list(map(repr, other.document_scores))
        assert list(one.instructions) == list(other.instructions)
        assert other.texts.rows.with_further == sum(len(row) > 2 for row in one.texts)
    assert (memory.counts, memory.told) == (streamed.counts, streamed.told)
    assert (memory.content_hash, memory.source_hashes) == (streamed.content_hash, streamed.source_hashes)
    return found


def config_of(path: Path, loss: str = "infonce", **options: object) -> TrainConfig:
    return TrainConfig(data=(SourceConfig(str(path), **options),), loss=LossConfig(kind=loss))


@pytest.mark.parametrize("clean", [False, True])
def test_scores(tmp_path: Path, clean: bool) -> None:
    for name, rows in {"flag": FLAG, "own": SCORED}.items():
        path = jsonl(tmp_path / f"{name}.jsonl", rows)
        config = config_of(path, "distil_reranker", clean=clean, query_prompt="instruct")
        memory, streamed = both(config, "lower")
        assert streamed.tables[0].named() == ("document_scores", "instructions")
        assert streamed.counts[0].duplicate == (name == "own")
        assert both(config_of(path))[1].content_hash != streamed.content_hash
        encoder, options = tiny_encoder(tmp_path / f"tiny-{name}"), BatchOptions(512)
        parts = [prepare(data, np.arange(len(data)), encoder, options).loss_inputs for data in (memory, streamed)]
        assert all(isinstance(part, PairInputs) and part.scored is not None for part in parts)
        scores = [part.scored.scores for part in parts if isinstance(part, PairInputs) and part.scored is not None]
        torch.testing.assert_close(scores[0], scores[1], equal_nan=True)
        assert torch.isfinite(scores[1]).any()
    plain = config_of(jsonl(tmp_path / "plain.jsonl", [{"anchor": "a", "positive": "b"}] * 2), "distil_reranker")
    with pytest.raises(UserError, match="distil_reranker: no row has scores of two documents"):
        both(replace(plain, data=(replace(plain.data[0], streaming=True),)))


@pytest.mark.parametrize("name", [*ROWS, "medi"])
def test_instructions(tmp_path: Path, name: str) -> None:
    path = jsonl(tmp_path / "t.jsonl", ROWS.get(name, MEDI))
    config = config_of(path, query_prompt=OWN, document_prompt="{task}: {text}", document_id=None)
    memory, streamed = both(config)
    assert "model.task" in streamed.told[0].layout[-1]
    encoder = tiny_encoder(tmp_path / "tiny", task="Whatever.")
    batches = [prepare(data, np.arange(len(data)), encoder, BatchOptions(512)) for data in (memory, streamed)]
    ids = [[chunk.input_ids.tolist() for chunk in batch.chunks] for batch in batches]
    assert ids[0] == ids[1]
    config = replace(config, batch=BatchConfig(size=2))
    reports = [describe(data, make_sampler(config, data), encoder) for data in (memory, streamed)]
    assert reports[0] == reports[1]


def test_rows_without_instructions_are_read_by_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of instructions that comes later in the files is found, and read row by row."""
    read: list[int] = []
    row_by_row = stream.read_and_tell
    monkeypatch.setattr(stream, "read_and_tell", lambda *given: read.append(1) or row_by_row(*given))
    rows = [{"anchor": f"a{row}", "positive": f"p{row}"} for row in range(9)]
    config = config_of(jsonl(tmp_path / "a.jsonl", rows), query_prompt="instruct")
    assert both(config)[1].tables[0].named() == ("instructions",) and not read
    late = json.dumps({"anchor": "x", "positive": "y", "instruction": "Late."}).encode()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(late))
    found = both(config_of(tmp_path / "*.jsonl*", query_prompt="instruct"))[1]
    assert read and found.tables[0].instructions[9] == ("Late.", "")


def test_other_extras_are_other_files(tmp_path: Path) -> None:
    source = SourceConfig(str(jsonl(tmp_path / "t.jsonl", FLAG)), streaming=True)
    for _ in range(2):
        named = [stream.open_stream(source, "none", extras)[0].named() for extras in (Extras(), Extras("logit"))]
        assert named == [(), ("document_scores",)]


def test_pairs_are_not_held_out_of_a_stream(tmp_path: Path) -> None:
    source = SourceConfig(str(jsonl(tmp_path / "t.jsonl", FLAG)), streaming=True)
    config = TrainConfig(data=(source,), eval=EvalSection(dev=(DevTaskConfig(held_out=2),)))
    with pytest.raises(UserError, match=r"eval\.dev\.0\.held_out: data\.0 is streamed.* give a dev file"):
        load_run_data(config)
