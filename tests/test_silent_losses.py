"""No row of a peer's file is trained on as what it is not, and no option about it goes unused without a word."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from dec2vec.errors import UserError
from eval.leakage.training_text import TextSource, read_training_texts
from tests.peer_files import WRITERS, Row, jsonl, pairs, tsv
from train.config import TrainConfig
from train.data.dataset import TrainingData, load_data
from train.options.data import SourceConfig
from train.preflight import _check_sources

Judged = list[tuple[str, str, object]]


def read(path: Path | str, **options: object) -> TrainingData:
    return load_data([SourceConfig(str(path), **options)])


def texts(path: Path | str, **options: object) -> list[tuple[str, ...]]:
    return list(read(path, **options).tables[0].texts)


def complaint(path: Path | str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# labels

WIKIQA: Judged = [("q1", "wrong", 0), ("q1", "right", 1), ("q2", "no", 0), ("q1", "bad", 0), ("q3", "yes", 1)]
SPLIT = [("q1", "right", "wrong", "bad"), ("q3", "yes")]


@pytest.mark.parametrize("form", [int, float, bool, str])
@pytest.mark.parametrize(
    "names", [("question", "answer"), ("query", "answer"), ("query", "positive"), ("anchor", "positive")]
)
def test_answers_of_label_0_are_hard_negatives(tmp_path: Path, names: tuple[str, str], form: type) -> None:
    rows = [dict(zip((*names, "label"), (query, text, form(label)), strict=True)) for query, text, label in WIKIQA]
    data = read(jsonl(tmp_path / "t.jsonl", rows))
    assert list(data.tables[0].texts) == SPLIT
    assert "label 1 2 (positives), label 0 3 (hard negatives; 1 of queries without" in data.told[0].layout[0]
    assert data.told[0].unused is None


def test_labels_that_are_no_verdict(tmp_path: Path) -> None:
    rows: list[Row] = [{"question": f"q{i}", "answer": f"a{i}", "label": label} for i, label in enumerate("xyz")]
    data = read(jsonl(tmp_path / "t.jsonl", rows))
    assert len(data) == 3
    assert data.told[0].unused == "columns that are not used: label (a class or a degree; only labels 0 and 1 are read)"
    degrees = [{**row, "label": degree} for row, degree in zip(rows, (0.0, 0.4, 1.0), strict=True)]
    words = complaint(jsonl(tmp_path / "d.jsonl", degrees))
    assert "d.jsonl line 2" in words and "label is a number (0.4), neither 0 nor 1; rows with degrees are" in words
    late = complaint(jsonl(tmp_path / "l.jsonl", [*rows, {**rows[0], "label": 0}]))
    assert "l.jsonl line 4" in late and "label is a number (0), but the first row has no label 0 or 1" in late


# negatives


def test_columns_that_are_said_to_be_unused_are_not_trained_on(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": [f"p{i}"], "neg": ["n"], "negative": "z", "negative_1": "y"} for i in range(3)]
    path = jsonl(tmp_path / "t.jsonl", rows)
    data = read(path)
    assert list(data.tables[0].texts) == [(f"q{i}", f"p{i}", "n") for i in range(3)]
    assert data.told[0].unused is not None and "negative (hard neg" in data.told[0].unused
    assert texts(path, negatives=("negative", "neg"))[0] == ("q0", "p0", "z", "n")
    many = [{"query": f"q{i}", "answer": f"p{i}", "negative_1000": "n", "negative_7": "m"} for i in range(2)]
    data = read(jsonl(tmp_path / "m.jsonl", many))
    assert list(data.tables[0].texts) == [("q0", "p0", "m", "n"), ("q1", "p1", "m", "n")]
    assert data.told[0].unused is None


def test_named_negatives_exist(tmp_path: Path) -> None:
    path = WRITERS["flag_embedding"](tmp_path, pairs(4))
    assert "no column 'nge'; the columns are: query, pos, neg" in complaint(path, negatives=("nge",))
    assert texts(path, negatives=("neg",)) == texts(path)


def test_degrees_are_no_negatives(tmp_path: Path) -> None:
    lines = [(f"the text {i}", f"another text {i}", f"{i}.2") for i in range(4)]
    words = complaint(tsv(tmp_path / "t.tsv", lines))
    assert "all hard negatives of its MS MARCO (no header) rows are numbers (0.2); if these are degrees" in words
    one_text = [*lines, ("the text", "another text", "a third")]
    assert len(read(tsv(tmp_path / "t.tsv", one_text))) == 5


# options


def test_the_revision_of_a_hub_data_set_holds_for_its_corpus_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str | None, list[Row]] = {
        None: [{"query-id": f"q{name}", "corpus-id": name, "score": 1} for name in "de"],
        "corpus": [{"_id": name, "text": f"old {name}"} for name in "de"],
        "queries": [{"_id": f"q{name}", "text": f"query {name}"} for name in "de"],
    }
    asked: list[tuple[object, ...]] = []

    def load_dataset(
        name: str, subset: str | None, *, revision: str | None = None, **options: object
    ) -> datasets.Dataset:
        asked.append((name, subset, revision))
        return datasets.Dataset.from_list(parts[subset])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert texts("mteb/some", revision="v1") == [("query d", "old d"), ("query e", "old e")]
    assert {("mteb/some", "corpus", "v1"), ("mteb/some", "queries", "v1")} <= set(asked)
    asked.clear()
    texts("mteb/some", revision="v1", corpus="other/set:corpus@corpus")
    assert ("other/set", "corpus", None) in asked and ("mteb/some", "queries", "v1") in asked


@pytest.mark.parametrize("option", [{"corpus": "c.jsonl"}, {"queries": "q.jsonl"}, {"min_grade": 2}])
def test_options_without_effect_are_refused(tmp_path: Path, option: dict[str, object]) -> None:
    (name,) = option
    for layout, words in (("flag_embedding", "FlagEmbedding"), ("own", "anchor and positive")):
        found = complaint(WRITERS[layout](tmp_path, pairs(4)), **option)
        assert f"rows of {words} do not use data.0.{name}; remove it" in found


@pytest.mark.parametrize("option", [{"min_grade": 2}, {"bad_rows": 0.0}, {"corpus": "c"}])
def test_options_of_pairs_for_other_kinds(option: dict[str, object]) -> None:
    source = SourceConfig("t.jsonl", kind="texts")
    _check_sources(TrainConfig(data=(source,)))
    (name,) = option
    with pytest.raises(UserError, match=f"data.0.{name} is only for pairs"):
        _check_sources(TrainConfig(data=(SourceConfig("t.jsonl", kind="texts", **option),)))


def test_a_row_of_another_layout_among_our_own(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"anchor": "a", "positive": "p"}, {"query": "q", "pos": ["p"]}])
    words = "t.jsonl line 2: a row of FlagEmbedding in a file of anchor and positive; put each layout into a file of"
    assert words in complaint(path)


# text that is only read


def test_text_to_fit_need_not_be_fit_for_training(tmp_path: Path) -> None:
    neutral = jsonl(tmp_path / "n.jsonl", [{"premise": f"a{i}", "hypothesis": f"b{i}", "label": 1} for i in range(2)])
    assert read_training_texts(TextSource(str(neutral))) == ["a0", "a1", "b0", "b1"]
    mixed = jsonl(tmp_path / "m.jsonl", [{"query": "q", "pos": ["p", "r"]}, {"question": "w", "answer": "a"}])
    assert read_training_texts(TextSource(str(mixed))) == ["q", "p", "r", "w", "a"]
    with pytest.raises(UserError, match="no row gives a pair"):  # a run that names this file was not trained on it
        read_training_texts(TextSource(str(neutral), ("anchor", "positive")))
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    jsonl(folder / "corpus.jsonl", [{"_id": "d", "text": "a document"}])
    jsonl(folder / "queries.jsonl", [{"_id": "q", "text": "a query"}])
    tsv(folder / "qrels" / "test.tsv", [("query-id", "corpus-id", "score"), ("q", "d", 1)])
    assert read_training_texts(TextSource(str(folder))) == ["a document"]
    useless = jsonl(tmp_path / "u.jsonl", [{"a": "b"}])
    with pytest.raises(UserError) as caught:
        read_training_texts(TextSource(str(useless)))
    assert "contains texts" in str(caught.value) and "data.N" not in json.dumps(str(caught.value))
