"""Tables that are given in Python: each kind has the rows of a plain list, or is refused in one line."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch

from dec2vec import UserError
from dec2vec.api import _configuration, _rows_named, _with_data
from dec2vec.config.tasks import DevTaskConfig, is_task
from dec2vec.files.given_rows import are_rows, check_name, each_row
from train.config import TrainConfig

COLUMNS: dict[str, list[Any]] = {"anchor": ["a", "b", "c"], "positive": ["p", "q", "r"]}
ROWS = [{"anchor": "a", "positive": "p"}, {"anchor": "b", "positive": "q"}, {"anchor": "c", "positive": "r"}]
TEXTS = [["a", "p"], ["b", "q"], ["c", "r"]]
Pair = namedtuple("Pair", ["positive", "anchor"])


def frame() -> pandas.DataFrame:
    return pandas.DataFrame(ROWS, index=[7, 7, -1])


def yielded() -> Iterator[dict[str, str]]:
    yield from ROWS


@pytest.mark.parametrize(
    "make",
    [
        lambda: COLUMNS,
        lambda: {name: tuple(cells) for name, cells in COLUMNS.items()},
        lambda: {name: np.array(cells) for name, cells in COLUMNS.items()},
        lambda: {name: frame()[name] for name in COLUMNS},
        lambda: {name: datasets.Dataset.from_dict(COLUMNS)[name] for name in COLUMNS},
        lambda: datasets.Dataset.from_dict(COLUMNS).with_format("numpy"),
        lambda: datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(),
        lambda: pyarrow.table(COLUMNS),
        frame,
        lambda: frame().set_index("anchor"),
        lambda: frame().set_index(["anchor", "positive"]),
        lambda: np.array(ROWS, dtype=object),
        lambda: np.array(
            [(row["positive"], row["anchor"]) for row in ROWS], dtype=[("positive", "U9"), ("anchor", "U9")]
        ),
        lambda: [Pair(row["positive"], row["anchor"]) for row in ROWS],
        yielded,
    ],
)
def test_tables_with_columns_have_the_rows_of_a_list(make: Callable[[], Any]) -> None:
    assert list(each_row(make(), "data")) == ROWS


@pytest.mark.parametrize("make", [lambda: np.array(TEXTS), lambda: zip(*COLUMNS.values(), strict=True)])
def test_rows_without_columns_are_lists_of_texts(make: Callable[[], Any]) -> None:
    assert are_rows(make()) and list(map(list, each_row(make(), "data"))) == TEXTS


def test_cells_of_columns_may_be_lists_and_objects() -> None:
    passages = [[{"docid": "1", "text": "p"}], []]
    table = {"query": ["a", "b"], "positive_passages": passages}
    assert list(each_row(table, "data")) == [
        {"query": "a", "positive_passages": passages[0]},
        {"query": "b", "positive_passages": []},
    ]


SPLITS = {"train": datasets.Dataset.from_dict(COLUMNS), "test": datasets.Dataset.from_dict(COLUMNS)}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            {**COLUMNS, "positive": ["p"]},
            "column 'anchor' has 3 values and column 'positive' has 1; give each row a val",
        ),
        (
            {"anchor": "a", "positive": "p"},
            "column 'anchor' is the text 'a', and not a list; give a list of rows, or a",
        ),
        ({"anchor": ["a"], "positive": None}, "column 'positive' is None, and not a list"),
        ({"anchor": ["a"], "positive": iter("p")}, "column 'positive' is a str_ascii_iterator, and not a list"),
        (datasets.DatasetDict(SPLITS), "data: a DatasetDict of train, test; give one of them, such as data['train']"),
        ({"train": ROWS, "test": ROWS}, "data: a dict of train, test; give one of them, such as data['train']"),
        ({"train": frame()}, "data: a dict of train; give one of them, such as data['train']"),
        (pandas.concat([frame(), frame()], axis=1), "data has two columns called 'anchor'; rename one of them"),
        (frame().set_index("anchor", drop=False), "data has two columns called 'anchor'"),
        (frame()["anchor"], 'data row 1 is the text \'a\'; a row is a dict of columns, such as {"anchor": "a query"'),
        (np.zeros((2, 2)), "data row 1 is a list; a row is a dict of columns"),
        (torch.zeros(2, 2), "data row 1 is a list; a row is a dict of columns"),
        (np.array("a"), "data: the text 'a'; give a datasets.Dataset, a pandas frame or a list of dicts"),
        (yielded, "data: the function yielded; call it, and give the rows that it returns or yields"),
        ({("a", "p"), ("b", "q")}, "data: a set; give a datasets.Dataset"),
        (b"a", "data: a bytes; give a datasets.Dataset"),
        (7, "data: an int; give a datasets.Dataset"),
        (None, "data: None; give a datasets.Dataset"),
    ],
)
def test_other_values_are_refused_in_one_line(table: Any, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        list(each_row(table, "data"))
    assert problem in str(refused.value)


def with_data(data: Any = None, dev: Any = None) -> TrainConfig:
    with _rows_named("out") as rows:
        return _with_data(_configuration(TrainConfig, {}), data, dev, rows)


def test_texts_where_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    for name in ("pairs", "pairs@test", "owner/name:sub@train", "part-*.jsonl", "absent.jsonl.gz", tmp_path):
        check_name(name, "data")
    assert [source.path for source in with_data(["pairs", "absent.csv"]).data] == ["pairs", "absent.csv"]
    for given, name in (
        (["a", "b"], r"data\[0\]: 'a'"),
        ("two words", "data: 'two words'"),
        (["pairs", "x"], r"\[1\]: 'x'"),
    ):
        with pytest.raises(
            UserError, match=name + r" is no file, .*; a row is .* or \{\"text\": \"a text\"\} with data\.0\.kind"
        ):
            with_data(given)
    with pytest.raises(UserError, match=r"dev\[1\]: 'a' is no file.*\"sentence1\": \"a text\", \"sentence2\""):
        with_data(dev=["pairs", "a"])
    with pytest.raises(UserError, match=r"\{'path': 'pairs', 'anchor': 'title'\} is a source and no row; name it in"):
        with_data([{"path": "pairs", "anchor": "title"}])
    assert with_data([{"path": "main.py", "text": "print()"}]).data, "a row of kind texts"


def test_what_is_a_task_and_what_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (
        {"held_out": 6},
        {"heldout": 6},
        {"held_out": 6, "limt": 2},
        {"held_out": 6, "foo": 2},
        {"retreival": {}},
    ):
        assert is_task(task), task
    graded = {"sentence1": "a", "sentence2": "b", "score": 1, "limit": 2, "documents": 3}
    for row in ("held_out", {}, graded, {"text1": "a", "text2": "b", "similarity": 1}, {"query": "a", "document": "b"}):
        assert not is_task(row), row
    assert not is_task({"topics": ["a"], "pairs": ["b"]}), "columns of cells"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev.jsonl").touch()
    assert with_data(dev=["dev.jsonl", {"held_out": 6}]).eval.dev == ("dev.jsonl", DevTaskConfig(held_out=6))
    for dev, problem in (
        ([{"heldout": 6}], r"dev\.0\.heldout: unknown option; did you mean dev\.0\.held_out\?"),
        (
            [{"held_out": 6}, {"limit": 3, "helt_out": 6}],
            r"dev\.1\.helt_out: unknown option; did you mean dev\.1\.held_out",
        ),
        ({"held_out": 6}, r"dev: \{'held_out': 6\} is a task; give tasks as a list"),
    ):
        with pytest.raises(UserError, match=problem):
            with_data(dev=dev)
