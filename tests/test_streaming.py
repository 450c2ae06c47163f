"""Streamed sources: the rows, counts and messages of rows in memory, and runs that are equal to those in memory."""

from __future__ import annotations

import gzip
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dec2vec.errors import UserError
from tests.helpers import write_jsonl
from tests.processes import run_alone, run_ranks
from tests.tiny_run import fingerprint, metrics_of, sha256, stopped_at, write_run
from tests.tiny_run import train as train_run
from tests.training_setup import tiny_encoder
from train.checkpointing.run_folder import RunFolder
from train.config import BatchConfig, CheckpointConfig, OptimConfig, TrainConfig
from train.data import stored, stored_siblings, stream, windows
from train.data.dataset import TrainingData, load_data
from train.data.make_sampler import make_sampler
from train.data.siblings import find_siblings
from train.data.stored import StoredTexts
from train.mining.refresh import make_refreshed
from train.options.data import MiningConfig, SourceConfig
from train.options.losses import LossConfig
from train.preflight import check_config


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "dec2vec-streams"


def lines(path: Path, *rows: str, encoding: str = "utf-8") -> str:
    path.write_bytes("".join(f"{row}\n" for row in rows).encode(encoding))
    return str(path)


def both(source: SourceConfig, normalization: Any = "none") -> list[TrainingData]:
    """The rows of a source in memory, and streamed."""
    kept = {name: getattr(source, name) for name in source.__dataclass_fields__} | {"streaming": True}
    return [load_data([some], normalization=normalization) for some in (source, SourceConfig(**kept))]


def assert_equal(source: SourceConfig, normalization: Any = "none") -> TrainingData:
    memory, streamed = both(source, normalization)
    (one,), (other,) = memory.tables, streamed.tables
    assert isinstance(other.texts, StoredTexts)
    assert list(one.texts) == list(other.texts) == [other.texts[row] for row in range(len(other))]
    assert (list(one.scores), list(one.labels), list(one.ids)) == (
        list(other.scores),
        list(other.labels),
        [other.ids[row] for row in range(len(other.ids))],
    )
    assert memory.counts == streamed.counts and memory.told == streamed.told
    assert memory.content_hash == streamed.content_hash and memory.source_hashes == streamed.source_hashes
    return streamed


PAIRS: list[dict[str, object]] = [
    {"anchor": "naïve 東京", "positive": "p 1", "negative": "n 1", "source": "x"},
    {"anchor": "a 2", "positive": "p 2", "negative_2": "n 2", "source": "y"},
    {"anchor": "a 2", "positive": "p 2", "negative_2": "n 2", "source": "y"},
    {"anchor": "same", "positive": "same", "negative": "", "negative_2": None, "source": "x"},
    {"anchor": "SAME", "positive": "same", "source": "x"},
    {"anchor": "2020-01-01", "positive": "12", "negative": "n 3", "negative_2": "n 4", "source": "x"},
]
PEER: list[dict[str, object]] = [
    {"query": f"q {row}", "pos": [f"p {row}", f"r {row}"], "neg": ["n"], "pos_scores": [1, 2]} for row in range(5)
]


@pytest.mark.parametrize("options", [{}, {"clean": True}, {"limit": 3}, {"only": ("source=x",)}, {"negatives": ()}])
def test_rows_of_jsonl(tmp_path: Path, options: dict[str, Any]) -> None:
    path = str(write_jsonl(tmp_path / "t.jsonl", PAIRS))
    streamed = assert_equal(SourceConfig(path, **options))
    assert not options or len(streamed) != 0
    assert_equal(SourceConfig(path, **options), "lower")
    texts = streamed.tables[0].texts
    assert isinstance(texts, StoredTexts) and texts.rows.with_further == sum(len(row) > 2 for row in texts)


def test_rows_of_other_files_and_kinds(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", PAIRS)
    packed = tmp_path / "t2.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\n"))
    columns = {name: [row.get(name) for row in PAIRS] for name in ("anchor", "positive", "negative_2", "source")}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "saved"))
    for name in ("t2.jsonl.gz", "t*.jsonl*", "t.parquet", "saved"):
        assert_equal(SourceConfig(str(tmp_path / name)))
    assert_equal(SourceConfig(str(path), document_id="source"))
    assert_equal(SourceConfig(str(path), anchor="source", positive="anchor", negatives=("negative",)))
    assert "FlagEmbedding" in assert_equal(SourceConfig(str(write_jsonl(tmp_path / "p.jsonl", PEER)))).told[0].layout[0]
    graded = [f"{row},t {row % 3} x,{row / 4}" for row in range(6)]
    scored = lines(tmp_path / "g.csv", "sentence1,sentence2,score", *(f"s {row}" for row in graded))
    assert_equal(SourceConfig(scored, kind="graded", clean=True))
    labelled: list[dict[str, object]] = [{"text": f"t {row}", "label": "aabbcca"[row]} for row in range(7)]
    named = str(write_jsonl(tmp_path / "l.jsonl", [*labelled, {"text": "alone", "label": "d"}]))
    assert_equal(SourceConfig(named, kind="labelled"))
    assert_equal(SourceConfig(named, kind="texts"))


GOOD = '{"anchor": "a", "positive": "b"}'
ODD = {
    "a key twice": '{"anchor": "a", "anchor": "c", "positive": "b"}',
    "a number": '{"anchor": 3, "positive": "b"}',
    "null": '{"anchor": null, "positive": "b"}',
    "blank": '{"anchor": "\\u2003 ", "positive": "b"}',
    "a blank negative": '{"anchor": "a", "positive": "b", "negative": " "}',
    "no column": '{"positive": "b"}',
    "another layout": '{"query": "a", "pos": ["b"], "neg": ["c"]}',
    "two objects": f"{GOOD} {GOOD}",
    "half an object": '{"anchor": "a",',
    "a list": '["a", "b"]',
    "a control character": '{"anchor": "a\tb", "positive": "b"}',
}


@pytest.mark.parametrize("row", ODD.values(), ids=list(ODD))
def test_faults_are_found_and_told_as_in_memory(tmp_path: Path, row: str) -> None:
    path = lines(tmp_path / "t.jsonl", GOOD, '{"anchor": "c", "positive": "d"}', row)
    told = []
    for streaming in (False, True):
        with pytest.raises(UserError) as error:
            load_data([SourceConfig(path, streaming=streaming)])
        told.append(str(error.value))
    assert told[0] == told[1] and "line 3" in told[0]
    assert not list((tmp_path / "cache").rglob("rows.bin")), "nothing is kept of a refused file"


def test_more_faults_and_rows_that_only_look_like_some(tmp_path: Path) -> None:
    latin = lines(tmp_path / "latin.jsonl", GOOD, '{"anchor": "é", "positive": "b"}', encoding="latin-1")
    numbers = lines(tmp_path / "n.jsonl", '{"anchor": "1", "positive": "b"}', '{"anchor": "2", "positive": "c"}')
    equal = lines(tmp_path / "e.jsonl", GOOD, GOOD)
    for path in (latin, numbers, equal, str(tmp_path / "absent.jsonl")):
        told = []
        for streaming in (False, True):
            with pytest.raises(UserError) as error:
                load_data([SourceConfig(path, streaming=streaming)])
            told.append(str(error.value))
        assert told[0] == told[1]
    lists = '{"anchor": "l", "positive": ["x", "y"], "negative": ["n", ""]}'
    assert_equal(SourceConfig(lines(tmp_path / "lists.jsonl", GOOD, "", lists)))
    assert_equal(SourceConfig(lines(tmp_path / "alone.jsonl", GOOD, '{"anchor": "\\ud800", "positive": "c"}')))
    blank = lines(tmp_path / "b.jsonl", GOOD, '{"anchor": " ", "positive": "b"}', '{"anchor": "c", "positive": "d"}')
    assert assert_equal(SourceConfig(blank, clean=True)).counts[0].empty == 1


def test_usual_rows_are_not_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise AssertionError("read one by one")

    monkeypatch.setattr(stream, "read_and_tell", refuse)
    assert len(load_data([SourceConfig(str(write_jsonl(tmp_path / "t.jsonl", PAIRS)), streaming=True)])) == len(PAIRS)
    with pytest.raises(AssertionError, match="one by one"):
        load_data([SourceConfig(str(write_jsonl(tmp_path / "p.jsonl", PEER)), streaming=True)])


def test_rows_are_kept_by_the_content_of_their_files(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", PAIRS)
    before = load_data([SourceConfig(str(path), streaming=True)]).content_hash
    converted: list[str] = []
    convert: Callable[..., None] = stream._convert

    def counted(source: SourceConfig, *more: Any) -> None:
        converted.append(source.path)
        convert(source, *more)

    monkeypatch.setattr(stream, "_convert", counted)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "t.jsonl")
    assert load_data([SourceConfig(str(moved), streaming=True, weight=2.0)]).content_hash == before and not converted
    for options in ({"limit": 4}, {"clean": True}, {"negatives": ()}):
        load_data([SourceConfig(str(moved), streaming=True, **options)])
    assert len(converted) == 3
    write_jsonl(moved, [*PAIRS, {"anchor": "new", "positive": "row"}])
    assert load_data([SourceConfig(str(moved), streaming=True)]).content_hash != before and len(converted) == 4
    for folder in cache.iterdir():
        (folder / "rows" / "facts.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged; delete it"):
        load_data([SourceConfig(str(moved), streaming=True)])


@pytest.mark.parametrize("normalization", ["none", "lower"])
def test_siblings_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalization: Any) -> None:
    """Those of the dictionaries in memory, in blocks and strides that several queries cross."""
    for module, name, value in ((stored_siblings, "_STRIDE", 5), (stored_siblings, "BLOCK", 11), (stored, "BLOCK", 13)):
        monkeypatch.setattr(module, name, value)
    draw = random.Random(0)
    rows: list[dict[str, object]] = [
        {"anchor": f"A {draw.randint(0, 150)}", "positive": f"p {draw.randint(0, 150)}"} for _ in range(400)
    ]
    rows += [{"anchor": "many", "positive": f"P {row}"} for row in range(40)]
    memory, streamed = both(SourceConfig(str(write_jsonl(tmp_path / "t.jsonl", rows))), normalization)
    normalize = str.lower if normalization == "lower" else str
    one, other = (find_siblings(data, normalize) for data in (memory, streamed))
    two = find_siblings(TrainingData(memory.sources * 2, (*memory.tables, *streamed.tables), ()), normalize)
    for known in (other, two):
        for expected, found in ((one.answers, known.answers), (one.askers, known.askers)):
            assert sorted(found) == sorted(expected) and len(found) == len(expected) > 50
            assert all(np.array_equal(found[name], keys) for name, keys in expected.items())
            assert 7 not in found


def test_rows_on_the_disk_take_no_memory(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"anchor": f"a {row}", "positive": f"{row} of it"} for row in range(6000)]
    path = str(write_jsonl(tmp_path / "t.jsonl", rows))
    held = []
    for streaming in (True, False):
        load_data([SourceConfig(path, streaming=streaming)])
        tracemalloc.start()
        data = load_data([SourceConfig(path, streaming=streaming)])
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(data) == 6000
    assert held[0] < 30_000 < 10 * 30_000 < held[1]


def test_mined_negatives_of_the_coming_rows(tmp_path: Path) -> None:
    """Where these are all rows of an epoch the negatives are those of a search through all rows."""
    rows: list[dict[str, object]] = [
        {"anchor": f"a {word}", "positive": f"the {word} of it"} for word in "abcdefghijkl"
    ]
    memory, streamed = both(SourceConfig(str(write_jsonl(tmp_path / "t.jsonl", rows))))
    encoder = tiny_encoder(tmp_path / "decoder", pooling="mean")
    encoder.embedder.train()
    found: list[Any] = []
    for data, every in ((memory, 3), (streamed, 3), (streamed, 1)):
        config = TrainConfig(
            data=data.sources, batch=BatchConfig(size=4), mining=MiningConfig(every=every, ratio=1.0, negatives=2)
        )
        sampler = make_sampler(config, data)
        folder = RunFolder(tmp_path / f"run{len(found)}")
        folder.path.mkdir()
        refreshed = make_refreshed(config, data, folder, sampler, is_main=True, stop=6)
        assert refreshed is not None
        refreshed.search(encoder, 3)
        found.append(list(refreshed.data.tables[0].texts))
    assert found[0] == found[1] and sum(map(len, found[0])) > 3 * 12
    coming = set(sampler.rows(3).tolist())
    assert {row for row in range(12) if len(found[2][row]) > 2} <= coming and sum(map(len, found[2])) > 2 * 12
    assert {text for row in coming for text in found[2][row][2:]} <= {found[0][row][1] for row in coming}


def test_a_teacher_is_refused() -> None:
    source = SourceConfig("pairs.jsonl", streaming=True, losses=(LossConfig(kind="distil_scores", teacher="t"),))
    with pytest.raises(UserError, match=r"data\.0\.streaming: the teacher t embeds all texts"):
        check_config(TrainConfig(data=(source,)))


ADAPTER = "adapter/adapter_model.safetensors"
STREAMED = (SourceConfig(path="pairs.jsonl", streaming=True),)
WEIGHTED = (
    SourceConfig(path="pairs.jsonl", weight=2.0, streaming=True),
    SourceConfig(path="pairs.jsonl", limit=16, weight=1.0, streaming=True),
)
SMALL = {
    "batch": BatchConfig(size=4, sources="single", no_duplicates=True, chunk_tokens=64, graph_tokens=128),
    "checkpoint": CheckpointConfig(every=4, keep=2),
    "optim": OptimConfig(steps=12, lr=1e-2),
}


def in_folder(config: Path, output: Path, window: int, *overrides: str) -> None:
    windows.WINDOW, windows.BLOCK = window, 2
    os.chdir(config.parent)
    train_run(config, output, *overrides)


def stopped(config: Path, output: Path, window: int, at: int) -> None:
    stopped_at(at, lambda: in_folder(config, output, window))


def test_a_streamed_run_is_the_run_in_memory(tmp_path: Path) -> None:
    """Bit for bit where the rows fit into a window; in smaller windows they come in another order."""
    config = write_run(tmp_path / "run", data=STREAMED)
    run_alone(in_folder, config, tmp_path / "streamed", 64)
    run_alone(in_folder, config, tmp_path / "memory", 64, "--data.0.streaming", "false")
    assert metrics_of(tmp_path / "streamed") == metrics_of(tmp_path / "memory")
    assert sha256(tmp_path / "streamed" / ADAPTER) == sha256(tmp_path / "memory" / ADAPTER)
    facts = [json.loads((tmp_path / name / "data.json").read_text()) for name in ("streamed", "memory")]
    assert facts[0] == facts[1]


def test_a_stopped_run_goes_on_in_its_window(tmp_path: Path) -> None:
    """With weights and batches without duplicates, in windows of two batches."""
    config = write_run(tmp_path / "run", data=WEIGHTED, **SMALL)
    run_alone(in_folder, config, tmp_path / "whole", 8)
    run_alone(stopped, config, tmp_path / "halved", 8, 6)
    run_alone(in_folder, config, tmp_path / "halved", 8)
    assert metrics_of(tmp_path / "halved") == metrics_of(tmp_path / "whole")
    found, expected = (fingerprint(tmp_path / name) for name in ("halved", "whole"))
    assert found == expected


@pytest.mark.slow
def test_a_stopped_run_with_mined_negatives(tmp_path: Path) -> None:
    mined = {**SMALL, "batch": BatchConfig(size=4, sources="single"), "mining": MiningConfig(every=3, ratio=1.0)}
    config = write_run(tmp_path / "run", data=WEIGHTED, **mined)
    run_alone(in_folder, config, tmp_path / "whole", 8)
    for at in (4, 6):
        run_alone(stopped, config, tmp_path / f"halved{at}", 8, at)
        run_alone(in_folder, config, tmp_path / f"halved{at}", 8)
        assert metrics_of(tmp_path / f"halved{at}") == metrics_of(tmp_path / "whole")
        assert sha256(tmp_path / f"halved{at}" / ADAPTER) == sha256(tmp_path / "whole" / ADAPTER)


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Each reads its share of a batch; one of them has made the files."""
    config = write_run(tmp_path / "run", data=STREAMED)
    usual = (8, "--lora.dropout", "0", "--eval.dev", "null", "--export.model", "false")
    run_ranks(2, in_folder, config, tmp_path / "two", *usual)
    run_alone(in_folder, config, tmp_path / "one", *usual)
    losses = [[line["loss"] for line in metrics_of(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert len(list((tmp_path / "cache" / "dec2vec-streams").iterdir())) == 1
