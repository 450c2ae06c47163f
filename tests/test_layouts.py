"""Files of other trainers: the same pairs give the same rows, batches and losses, whoever's layout they are in."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
import pytest
import torch

from dec2vec import Encoder, ModelConfig
from dec2vec.errors import UserError
from dec2vec.files.layouts.read import PairFile, open_layout
from dec2vec.files.sources import Named
from eval.leakage.overlap import EvaluationSet, measure
from eval.leakage.trained_on import _run_data
from eval.leakage.training_text import TextSource, read_training_texts
from tests.peer_files import NARROWER, WRITERS, Pairs, gzipped, jsonl, message, pairs, tsv
from tests.tiny_run import sha256, train, write_run
from tests.training_setup import gradients, tiny_encoder
from train.config import BatchConfig, EvalSection, LoraConfig, OptimConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData, load_data
from train.data.make_sampler import make_sampler
from train.distributed.single import Single
from train.gradcache.cached_step import cached_step
from train.losses.infonce.infonce import infonce
from train.losses.objective import Temperature
from train.mining.encoders import NO_INSTRUCTIONS
from train.mining.pairs import read_material
from train.options.data import SourceConfig
from train.options.losses import LossConfig

ROWS = pairs(12)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"), lora=LoraConfig(rank=4, dropout=0.0))


def read(path: Path | str, **options: object) -> TrainingData:
    return load_data([SourceConfig(str(path), **options)])


def texts(path: Path | str, **options: object) -> list[tuple[str, ...]]:
    return list(read(path, **options).tables[0].texts)


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_pairs_in_every_layout(tmp_path: Path, name: str) -> None:
    data = read(WRITERS[name](tmp_path, ROWS))
    assert list(data.tables[0].texts) == ROWS
    if name not in ("own", "list_columns"):
        assert ": 1 positive, 2 negatives a query" in data.told[0].layout[0]


@pytest.mark.parametrize("name", NARROWER)
def test_layouts_with_fewer_negatives(tmp_path: Path, name: str) -> None:
    write, negatives = NARROWER[name]
    assert list(read(write(tmp_path, ROWS)).tables[0].texts) == [row[: 2 + negatives] for row in ROWS]


def step_of(data: TrainingData, encoder: Encoder) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    """Token ids of the third batch, its loss, and all gradients."""
    config = TrainConfig(data=data.sources, batch=BatchConfig(size=5), loss=LossConfig(temperature=0.05))
    rows = make_sampler(config, data).rows(2)
    batch = prepare(data, rows, encoder, BatchOptions(256))
    temperature = Temperature(0.05, learned=False)
    objective = partial(infonce, rows=batch.loss_inputs, config=config.loss, temperature=temperature)
    result = cached_step(Single(encoder.embedder), batch.chunks, objective, graph_tokens=1024)
    return [chunk.input_ids for chunk in batch.chunks], result.loss, list(gradients(encoder.embedder).values())


@pytest.mark.parametrize("name", ["flag_embedding", "tevatron", "swift", "lists", "list_columns"])
def test_batches_and_losses_are_equal_bit_for_bit(tmp_path: Path, encoder: Encoder, name: str) -> None:
    ours = step_of(read(WRITERS["own"](tmp_path, ROWS)), encoder)
    found = step_of(read(WRITERS[name](tmp_path, ROWS)), encoder)
    for one, other in zip((*ours[0], ours[1], *ours[2]), (*found[0], found[1], *found[2]), strict=True):
        assert torch.equal(one, other)
    changed = [(*row[:2], f"{row[2]}!", *row[3:]) for row in ROWS]
    assert not torch.equal(step_of(read(WRITERS[name](tmp_path, changed)), encoder)[1], ours[1])


# what the peers document


def test_several_positives_make_several_rows(tmp_path: Path) -> None:
    """FlagEmbedding's own example has lists of any length."""
    rows = [
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1", "n2"], "pos_scores": [3.0, 2.0], "neg_scores": [1, 0]},
        {"query": "q2", "pos": ["p3"], "neg": []},
    ]
    path = jsonl(tmp_path / "t.jsonl", rows)
    data = read(path)
    assert list(data.tables[0].texts) == [("q1", "p1", "n1", "n2"), ("q1", "p2", "n1", "n2"), ("q2", "p3")]
    assert data.told[0].layout == ("FlagEmbedding rows: 1 to 2 positives, 0 to 2 negatives a query",)
    flat = open_layout(PairFile(Named(str(path))))
    assert flat is not None
    scored = [row.get("teacher_scores") for row in flat.table(scores=True).rows]
    assert scored == [[3.0, 1.0, 0.0], [2.0, 1.0, 0.0], None]


def test_e5_rows_with_and_without_an_instruction(tmp_path: Path) -> None:
    rows = [{"task_prompt": "Find.", "query": "a", "pos": ["b"], "neg": ["c"]}, {"query": "d", "pos": "e", "neg": None}]
    data = read(jsonl(tmp_path / "t.jsonl", rows))
    assert list(data.tables[0].texts) == [("a", "b", "c"), ("d", "e")]
    assert data.told[0].unused is not None and "task_prompt (an instruction for each row" in data.told[0].unused


def test_titles_come_first(tmp_path: Path) -> None:
    passages = [{"docid": "1", "title": "Rome", "text": "a city"}], [{"docid": "2", "title": None, "text": "no city"}]
    row = {"query_id": "1", "query": "q", "positive_passages": passages[0], "negative_passages": passages[1]}
    other = {**row, "query": "r", "positive_passages": passages[1], "negative_passages": []}
    assert texts(jsonl(tmp_path / "t.jsonl", [row, other])) == [("q", "Rome a city", "no city"), ("r", "no city")]


def test_sets_and_lists_of_sentence_transformers(tmp_path: Path) -> None:
    assert texts(jsonl(tmp_path / "l.jsonl", [["a", "b"], ["c", "d"]])) == [("a", "b"), ("c", "d")]
    found = texts(jsonl(tmp_path / "s.jsonl", [{"set": ["a", "b", "c"]}, {"set": ["d", "e"]}]))
    assert found == [("a", "b"), ("a", "c"), ("d", "e")]


def test_contradictions_of_a_premise_are_its_hard_negatives(tmp_path: Path) -> None:
    labels = [
        ("p", "e1", 0),
        ("p", "c1", 2),
        ("x", "c9", 2),
        ("p", "e2", 0),
        ("p", "n", 1),
        ("r", "e3", 0),
        ("p", "c2", 2),
    ]
    data = read(jsonl(tmp_path / "t.jsonl", [{"premise": p, "hypothesis": h, "label": n} for p, h, n in labels]))
    assert list(data.tables[0].texts) == [("p", "e1", "c1", "c2"), ("p", "e2", "c1", "c2"), ("r", "e3")]
    assert data.told[0].layout[0] == (
        "NLI pair-class rows: 1 positive, 0 to 2 negatives a query; entailment 3 (positives), contradiction 3 (hard "
        "negatives; 1 of queries without a positive not used), neutral or undecided 1 (not used)"
    )


def test_simcse_csv(tmp_path: Path) -> None:
    (tmp_path / "nli.csv").write_text('sent0,sent1,hard_neg\n"a, b",c,d\ne,f,g\n')
    assert texts(tmp_path / "nli.csv") == [("a, b", "c", "d"), ("e", "f", "g")]


def test_ms_marco_triples_have_no_header(tmp_path: Path) -> None:
    lines = [("what is a corporation?", "A company.", "Not so."), ("is a cat an animal", "Yes it is.", "cats")]
    data = read(tsv(tmp_path / "triples.train.small.tsv", lines))
    assert list(data.tables[0].texts) == lines
    assert data.told[0].layout == ("MS MARCO (no header) rows: 1 positive, 1 negative a query",)


def test_ms_marco_ids_beside_collection_and_queries(tmp_path: Path) -> None:
    tsv(tmp_path / "collection.tsv", [(0, "the first passage"), (1, "a second one"), (2, "the third"), (3, "unused")])
    tsv(tmp_path / "queries.tsv", [(10, "what is first"), (11, "what is second")])
    path = gzipped(tsv(tmp_path / "qidpidtriples.train.full.2.tsv", [(10, 0, 1), (11, 1, 2)]))
    data = read(path)
    assert list(data.tables[0].texts) == [
        ("what is first", "the first passage", "a second one"),
        ("what is second", "a second one", "the third"),
    ]
    assert "collection.tsv" in data.told[0].layout[0] and "queries.tsv" in data.told[0].layout[0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = path.rename(elsewhere / path.name)
    named = texts(moved, corpus=str(tmp_path / "collection.tsv"), queries=str(tmp_path / "queries.tsv"))
    assert named == list(data.tables[0].texts)


def beir(folder: Path) -> Path:
    jsonl(
        folder / "corpus.jsonl", [{"_id": f"d{i}", "title": f"T{i}" if i else "", "text": f"doc {i}"} for i in range(4)]
    )
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)])
    (folder / "qrels").mkdir()
    grades = [("q0", "d0", 2), ("q0", "d1", 1), ("q1", "d2", 1), ("q1", "d3", 0), ("q2", "d3", 2)]
    tsv(folder / "qrels" / "train.tsv", [("query-id", "corpus-id", "score"), *grades])
    tsv(folder / "qrels" / "test.tsv", [("query-id", "corpus-id", "score"), ("q2", "d0", 1), ("q1", "d1", 1)])
    return folder


def test_a_beir_folder_with_judgements_for_training(tmp_path: Path) -> None:
    folder = beir(tmp_path)
    data = read(folder)
    expected = [("query 0", "doc 0"), ("query 0", "T1 doc 1"), ("query 1", "T2 doc 2"), ("query 2", "T3 doc 3")]
    assert list(data.tables[0].texts) == expected
    assert "judgements below data.0.min_grade 1 are not used: 1 of grade 0" in data.told[0].layout[0]
    assert texts(folder, min_grade=2) == [expected[0], expected[3]]
    assert texts(f"{folder}@test") == texts(folder, split="test") == [("query 2", "doc 0"), ("query 1", "T1 doc 1")]
    assert texts(folder / "qrels" / "train.tsv") == expected
    with pytest.raises(UserError, match=r"qrels/dev.tsv does not exist; the splits with judgements are: test, train"):
        texts(folder, split="dev")
    tsv(folder / "qrels" / "dev.tsv", [("q0", "d0", 1), ("q1", "d2", 1)])
    with pytest.raises(UserError, match=r"dev.tsv: the first line must name the columns query-id, corpus-id and score"):
        texts(folder, split="dev")


def test_judgements_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mteb's data sets have the judgements in `default`, and subsets for corpus and queries."""
    parts = {
        (None, "train"): [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(2)],
        ("corpus", "corpus"): [{"_id": f"d{i}", "title": "T", "text": f"doc {i}"} for i in range(3)],
        ("queries", "queries"): [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)],
    }

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> datasets.Dataset:
        assert name == "mteb/some"
        return datasets.Dataset.from_list(parts[subset, split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert texts("mteb/some") == [("query 0", "T doc 0"), ("query 1", "T doc 1")]


def test_degrees_of_ms_swift_are_graded_rows(tmp_path: Path) -> None:
    rows = [
        {"messages": [message(f"a{i}")], "positive_messages": [[message(f"p{i}")]], "label": i / 4} for i in range(3)
    ]
    path = jsonl(tmp_path / "t.jsonl", rows)
    (table,) = read(path, kind="graded").tables
    assert list(table.texts) == [(f"a{i}", f"p{i}") for i in range(3)] and table.scores == [0.0, 0.25, 0.5]
    assert read_training_texts(TextSource(str(path), ("sentence1", "sentence2"), kind="graded"))[3:] == [
        "p0",
        "p1",
        "p2",
    ]
    jsonl(path, [*rows, {"messages": [message("a")]}])
    with pytest.raises(UserError, match=r"t.jsonl line 4: not a row of ms-swift with degrees: no messages, positive_m"):
        read(path, kind="graded")


# one source like another


def test_sources_of_different_layouts_mix(tmp_path: Path) -> None:
    names = ("flag_embedding", "tevatron", "swift", "own")
    parts = [SourceConfig(str(WRITERS[name](tmp_path, ROWS[3 * i : 3 * i + 3]))) for i, name in enumerate(names)]
    data = load_data(parts)
    assert [row for table in data.tables for row in table.texts] == ROWS
    assert [bool(told.layout) for told in data.told] == [True, True, True, False]


def test_named_columns_win_and_may_hold_lists(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n"], "answer": "x"},
        {"query": "q2", "pos": ["p3"], "neg": []},
    ]
    path = jsonl(tmp_path / "t.jsonl", rows)
    named = {"anchor": "query", "positive": "pos"}
    found = texts(path, **named, negatives=("neg",))
    assert found == [("q1", "p1", "n"), ("q1", "p2", "n"), ("q2", "p3")]
    assert texts(path, **named)[0] == ("q1", "p1")
    flag = jsonl(tmp_path / "flag.jsonl", [{"query": "q1", "pos": ["p1"], "neg": ["n"], "hard": ["h", "i"]}] * 2)
    flag = jsonl(flag, [{"query": f"q{i}", "pos": [f"p{i}"], "neg": ["n"], "hard": ["h", "i"]} for i in range(2)])
    assert texts(flag, negatives=()) == [("q0", "p0"), ("q1", "p1")]
    assert texts(flag, negatives=("hard",))[0] == ("q0", "p0", "h", "i")


def test_only_and_limit_count_the_rows_of_the_file(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": [f"p{i}", f"r{i}"], "source": "ab"[i % 2]} for i in range(6)]
    path = jsonl(tmp_path / "t.jsonl", rows)
    found = texts(path, only=("source=b",), limit=2)
    assert found == [("q1", "p1"), ("q1", "r1"), ("q3", "p3"), ("q3", "r3")]
    material = read_material(str(path), only=["source=b"], limit=2)
    assert list(zip(material.anchors, material.positives, strict=True)) == found
    assert material.other_columns[0] == {"source": "b"} and len(material.corpus) == 12


def test_columns_that_are_not_used_are_named_with_what_they_might_be(tmp_path: Path) -> None:
    rows = [{"anchor": f"a{i}", "positive": f"p{i}", "hard_neg": "n", "score": 0.3, "origin": "x"} for i in range(3)]
    path = jsonl(tmp_path / "t.jsonl", rows)
    (told,) = read(path).told
    assert told.unused == (
        "columns that are not used: hard_neg (hard negatives, which data.0.negatives would name), score (scores of the "
        "texts, which loss.kind distil_reranker uses), origin"
    )
    (told,) = read(path, negatives=("hard_neg",), only=("origin=x",)).told
    assert told.unused == "columns that are not used: score (scores of the texts, which loss.kind distil_reranker uses)"
    assert read(WRITERS["own"](tmp_path, ROWS)).told[0].unused is None


# mining, overlap, whitening


@pytest.mark.parametrize("name", ["flag_embedding", "tevatron_ids", "swift", "list_columns"])
def test_mining_reads_the_same_pairs(tmp_path: Path, name: str) -> None:
    ours, found = (read_material(str(WRITERS[one](tmp_path, ROWS))) for one in ("own", name))
    alike = {"name": "", "other_columns": [], "instructions": NO_INSTRUCTIONS}
    assert replace(found, **alike) == replace(ours, **alike)
    instruction = {"flag_embedding": "Find it:", "swift": "Find it."}.get(name)
    assert list(found.instructions.queries) == ([] if instruction is None else [instruction] * len(ROWS))
    assert ours.given[0] == ROWS[0][2:]


def test_texts_for_whitening_and_a_planted_leak(tmp_path: Path) -> None:
    """The leak stands in a list of negatives of FlagEmbedding rows, where no column has it as a text."""
    leak = "a sentence of the test that stands in the negatives of a training row"
    rows = [*ROWS[:-1], (*ROWS[-1][:3], leak)]
    own = read_training_texts(TextSource(str(WRITERS["own"](tmp_path, rows))))
    path = WRITERS["flag_embedding"](tmp_path, rows)
    (tmp_path / "config.yaml").write_text(f"data:\n- path: {path}\n")
    (source,) = _run_data(str(tmp_path))
    assert read_training_texts(TextSource(str(path))) == read_training_texts(source) == own
    test = EvaluationSet.from_texts("test", [leak, "another text that is nowhere in the training rows"])
    (count,) = measure({"flag": read_training_texts(source)}, [test]).counts
    assert (count.exact, count.pairs, count.pairs_clean) == (1, 2, 1)
    clean = WRITERS["flag_embedding"](tmp_path, ROWS)
    assert measure({"flag": read_training_texts(TextSource(str(clean)))}, [test]).counts[0].near == 0


# a whole run


def run_of(folder: Path, name: str, rows: Pairs) -> Path:
    folder.mkdir(exist_ok=True)
    write = WRITERS[name] if name in WRITERS else NARROWER[name][0]
    return run_of_file(folder, write(folder, rows))


def run_of_file(folder: Path, path: Path) -> Path:
    folder.mkdir(exist_ok=True)
    model = ModelConfig(name_or_path=str(folder / "decoder"), max_length=64, device="cpu", autocast="off")
    sections = {"model": model, "data": (SourceConfig(str(path)),), "eval": EvalSection()}
    config = write_run(folder, **sections, optim=OptimConfig(steps=4))
    train(config, folder / "run", "--export.model", "false")
    return folder / "run"


def test_the_first_lines_of_a_run_say_what_was_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="train"):
        output = run_of(tmp_path, "flag_embedding", ROWS)
    path = tmp_path / "flag.jsonl"
    first, second = (record.getMessage() for record in caplog.records[:2])
    assert first == f"data.0 {path}: FlagEmbedding rows: 1 positive, 2 negatives a query"
    assert second.startswith(f"data.0 {path}: columns that are not used: prompt (an instruction for each row")
    (source,) = json.loads((output / "data.json").read_text())["sources"]
    assert source["told"] == ["FlagEmbedding rows: 1 positive, 2 negatives a query"] and source["rows"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WRITERS if name != "own"])
def test_a_run_of_each_layout_is_that_of_our_own_rows(tmp_path: Path, name: str) -> None:
    ours, found = (run_of(tmp_path / one, one, ROWS) for one in ("own", name))
    assert sha256(ours / "adapter" / "adapter_model.safetensors") == sha256(
        found / "adapter" / "adapter_model.safetensors"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NARROWER)
def test_a_run_of_each_layout_with_fewer_negatives(tmp_path: Path, name: str) -> None:
    found = run_of(tmp_path / name, name, ROWS)
    narrow = [{"anchor": a, "positive": p, **({"negative": n[0]} if NARROWER[name][1] else {})} for a, p, *n in ROWS]
    path = jsonl(tmp_path / "own.jsonl", narrow)
    ours = run_of_file(tmp_path / "own", path)
    weights = "adapter/adapter_model.safetensors"
    assert sha256(ours / weights) == sha256(found / weights)
