"""Tables as pandas and pyarrow write them and as people have them; pandas says what is in them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dec2vec.corpus.vector_files import open_vectors, write_vectors
from dec2vec.errors import UserError
from dec2vec.files.cells import as_name, listed
from dec2vec.files.tables import count_rows, iter_tables, read_rows, read_table, read_texts
from eval.tasks.labelled import read_labelled
from eval.tasks.pair_files import PairColumns, read_pairs
from tests.helpers import write_jsonl
from train.data.read import read_source
from train.options.data import SourceConfig

LONG = "word " * 60_000
"""300,000 characters; the csv module gives up at 131,072."""


def test_csv_fields_of_any_length(tmp_path: Path) -> None:
    """Whatever another library has set the limit of the csv module to."""
    frame = pd.DataFrame({"anchor": ["short", f'"{LONG}"\n'], "positive": [LONG, "b"]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    csv.field_size_limit(1000)
    assert read_rows(tmp_path / "t.csv", ["anchor"]) == frame.to_dict("records")
    table, left_out = read_source(SourceConfig(path=str(tmp_path / "t.csv")))
    assert (next(iter(table.texts)), left_out) == (("short", LONG), 0)


def test_an_open_quotation_mark_is_still_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a\n"x\n' + LONG)
    with pytest.raises(UserError, match=r"t.csv row 2: unexpected end of data"):
        read_table(tmp_path / "t.csv")


BLANKS = "first\n\nthird\n\n"


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_vector_i_belongs_to_line_i(tmp_path: Path, suffix: str) -> None:
    """As pandas reads it when told to keep blank lines, and as the lines of a .txt are."""
    path = tmp_path / f"one.{suffix}"
    path.write_text(f"text\n{BLANKS}")
    (tmp_path / "one.txt").write_text(BLANKS)
    by_pandas = pd.read_csv(path, skip_blank_lines=False, keep_default_na=False)["text"].tolist()
    assert read_texts(path) == by_pandas == read_texts(tmp_path / "one.txt") == ["first", "", "third", ""]
    assert count_rows(path) == 4 and sum(map(len, iter_tables(path, 3))) == 4
    assert read_table(path).where(2) == f"{path} row 4"


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_blank_lines_are_nothing_where_there_are_several_columns(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"two.{suffix}"
    path.write_text("\na,b\n\n1,2\n\n".replace(",", separator))
    table = read_table(path)
    assert table.rows == [{"a": "1", "b": "2"}] and table.where(0) == f"{path} row 4"


def test_a_column_that_occurs_twice(tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["other"])]
    twice = pa.Table.from_arrays(columns, names=["anchor", "positive", "positive"])
    pq.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t.parquet: a column name occurs twice: anchor, positive, positive"):
        read_table(tmp_path / "t.parquet")
    pq.write_table(twice.rename_columns(["anchor", "positive", "Positive"]), tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet", ["positive"]) == [{"anchor": "a", "positive": "b", "Positive": "other"}]


def test_names_are_in_quotes_where_a_space_would_go_unnoticed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("anchor, positive\na, b\n")
    with pytest.raises(UserError, match=r"t.csv: no column 'positive'; the columns are: anchor, ' positive'$"):
        read_table(tmp_path / "t.csv", ["positive"])
    with pytest.raises(UserError, match=r"no column 'positive'; the columns are: anchor, ' positive'$"):
        read_source(SourceConfig(path=str(tmp_path / "t.csv")))
    assert listed(["a", "a;b", "", "größe", "a b", "x\u00a0"]) == "a, 'a;b', '', größe, 'a b', 'x\\xa0'"


@pytest.mark.parametrize("absent", [None, float("nan"), ""])
def test_an_absent_negative(tmp_path: Path, absent: object) -> None:
    rows = [{"anchor": f"a{i}", "positive": f"p{i}", "negative": "n" if i else absent} for i in range(3)]
    write_jsonl(tmp_path / "t.jsonl", rows)
    table, _ = read_source(SourceConfig(path=str(tmp_path / "t.jsonl")))
    assert list(table.texts) == [("a0", "p0"), ("a1", "p1", "n"), ("a2", "p2", "n")]


def test_clean_counts_nan_as_a_missing_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", [{"anchor": "a", "positive": "p"}, {"anchor": "b", "positive": float("nan")}])
    table, left_out = read_source(SourceConfig(path=str(tmp_path / "t.jsonl"), clean=True))
    assert (list(table.texts), left_out) == ([("a", "p")], 1)
    with pytest.raises(UserError, match=r"line 2: positive is NaN; fill it or remove the row"):
        read_source(SourceConfig(path=str(tmp_path / "t.jsonl")))


CELLS: list[tuple[object, str]] = [
    ([["x", "y"]], r"negative is a list \(\['x', 'y'\]\), not text; give each text a column of its own: negative_1"),
    (b"bytes", r"negative is bytes \(b'bytes'\), not text; save the column as text, decoded from UTF-8"),
    (7, r"negative is a number \(7\), not text; save the column as text"),
    ({"text": "x"}, r"negative is an object \({'text': 'x'}\), not text; take its text out of it"),
    (pd.Timestamp("2024-05-01"), r"negative is a datetime \(2024-05-01 00:00:00\), not text; save the column as text"),
]


@pytest.mark.parametrize(("cell", "message"), CELLS, ids=lambda value: type(value).__name__)
def test_cells_of_parquet_that_are_no_text(tmp_path: Path, cell: object, message: str) -> None:
    pq.write_table(pa.table({"anchor": ["a"], "positive": ["b"], "negative": [cell]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"t.parquet row 1: {message}"):
        read_source(SourceConfig(path=str(tmp_path / "t.parquet")))


def test_whole_numbers_that_pandas_made_floats(tmp_path: Path) -> None:
    """A gap in a column makes floats of its integers; they are the classes 0, 1 and 2 as before."""
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(6)], "label": [0, 1, 2, 0, 1, None]})
    frame.to_parquet(tmp_path / "gap.parquet")
    frame[:5].to_parquet(tmp_path / "floats.parquet")
    frame[:5].astype({"label": int}).to_parquet(tmp_path / "whole.parquet")
    source = SourceConfig(path=str(tmp_path / "floats.parquet"), kind="labelled")
    for name in ("floats", "whole"):
        assert read_labelled(tmp_path / f"{name}.parquet").labels == ["0", "1", "2", "0", "1"]
    assert list(read_source(source)[0].labels) == ["0", "1", "2", "0", "1"]
    assert len(read_table(tmp_path / "floats.parquet", only=["label=1"])) == 2
    for read in (read_labelled, lambda path: read_source(SourceConfig(path=str(path), kind="labelled"))):
        with pytest.raises(UserError, match=r"row 6: label is null; fill it or remove the row"):
            read(tmp_path / "gap.parquet")


def test_names_of_classes_and_documents() -> None:
    names: list[object] = ["a", "1.0", 3, 3.0, -2.0, 1e20]
    assert [as_name(value) for value in names] == ["a", "1.0", "3", "3", "-2", "100000000000000000000"]
    assert as_name(True) == "True" and as_name(False) == "False"  # as a csv of pandas has them
    nameless: list[object] = [None, "", "  ", 0.5, float("nan"), float("inf"), ["a"], b"a", {}]
    assert [as_name(value) for value in nameless] == [None] * len(nameless)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_yes_and_no_as_pandas_writes_them(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [True, False]})
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    assert read_pairs(path, PairColumns()).labels.tolist() == [True, False]
    classes = ["True", "False"]
    assert read_labelled(path, "sentence1", "label").labels == classes
    source = SourceConfig(path=str(path), kind="labelled", text="sentence1")
    assert list(read_source(source)[0].labels) == classes


def test_the_advice_about_labels_is_an_option_of_the_verb(tmp_path: Path) -> None:
    """`score` has no positive_from, pair matching does."""
    from eval.config import PairsConfig
    from eval.tasks.pairs import load_pairs

    path = tmp_path / "t.jsonl"
    write_jsonl(path, [{"sentence1": "a", "sentence2": "b", "label": 3.5}])
    with pytest.raises(UserError, match=r"line 1: label 3.5 is not 0 or 1; correct it or remove the row$"):
        read_pairs(path, PairColumns())
    with pytest.raises(UserError, match=r"label 3.5 is not 0 or 1; correct it, or say with positive_from"):
        load_pairs(PairsConfig(test=str(path)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_that_pandas_wrote(tmp_path: Path, dtype: type[np.floating]) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(dtype)
    pd.DataFrame({"text": list("abcdefg"), "embedding": list(vectors)}).to_parquet(
        tmp_path / "v.parquet", row_group_size=3
    )
    read = open_vectors(tmp_path / "v.parquet").everything()
    np.testing.assert_array_equal(read, np.stack(pd.read_parquet(tmp_path / "v.parquet").embedding).astype(np.float32))
    write_vectors(tmp_path / "ours.parquet", list("abcdefg"), vectors.astype(np.float32))
    np.testing.assert_array_equal(open_vectors(tmp_path / "ours.parquet").everything(), read)


FLOATS = pa.list_(pa.float32(), 2)
NO_MATRIX: list[tuple[pa.Array, str]] = [
    (pa.array([[1.0, 2.0], [3.0]]), "row 2: embedding has 1 numbers, and row 1 has 2; give each row"),
    (pa.array([[1.0, 2.0], None, [3.0, 4.0]]), "row 2: embedding is null"),
    (pa.array([[1.0, 2.0], [3.0, 4.0], None], FLOATS), "row 3: embedding is null"),
    (pa.array([None, [1.0, 2.0]], FLOATS), "row 1: embedding is null"),
    (pa.array([[1, 2], [3, 4]]), "embedding holds int64, not floats"),
    (pa.array([["a"], ["b"]]), "embedding holds object, not floats"),
    (pa.array(["a", "b"]), "there is no column embedding with vectors"),
    (pa.array([], FLOATS), "is empty: it has no vectors"),
]


@pytest.mark.parametrize(("column", "message"), NO_MATRIX)
def test_what_is_no_matrix_is_refused(tmp_path: Path, column: pa.Array, message: str) -> None:
    """A null row of a list of fixed size would vanish, and later vectors belong to the wrong text."""
    pq.write_table(pa.table({"embedding": column}), tmp_path / "v.parquet")
    with pytest.raises(UserError, match=message):
        open_vectors(tmp_path / "v.parquet")


def test_the_rows_of_json_hold_what_json_says(tmp_path: Path) -> None:
    """The decoder that finds repeated keys gives what `json.loads` gives."""
    rows = [{"a": {"b": [1, {"c": None}]}, "d": "é\u2028"}, {"a": 1e3, "d": "", "e": True}]
    write_jsonl(tmp_path / "t.jsonl", rows)
    assert read_rows(tmp_path / "t.jsonl", []) == [json.loads(json.dumps(row)) for row in rows]
    (tmp_path / "t.jsonl").write_text('{"a": {"b": 1, "b": 2}}\n')
    with pytest.raises(UserError, match=r"t.jsonl line 1: 'b' occurs twice in an object; keep one"):
        read_table(tmp_path / "t.jsonl")
