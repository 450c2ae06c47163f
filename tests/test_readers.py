"""Reading tables: the same rows from every format, and errors that name file, row and fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dec2vec.errors import UserError
from dec2vec.files.tables import read_blocks, read_rows, read_table, read_texts
from eval.tasks.sts import read_similarity
from tests.helpers import write_jsonl

ROWS = [{"a": "one, two", "b": 'say "x"'}, {"a": "line\u2028separator", "b": "Ärger 北京"}]


def jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def raw(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def complaint(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_tsv(path: Path) -> None:
    path.write_text("a\tb\n" + "".join(f"{row['a']}\t{row['b']}\n" for row in ROWS), encoding="utf-8")


def write_saved(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.jsonl", lambda path: jsonl(path, ROWS)),
        ("t.JSONL", lambda path: jsonl(path, ROWS)),
        ("t.csv", lambda path: pd.DataFrame(ROWS).to_csv(path, index=False)),
        ("t.tsv", write_tsv),
        ("t.parquet", lambda path: pd.DataFrame(ROWS).to_parquet(path)),
        ("saved", write_saved),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    path = tmp_path / name
    write(path)
    assert read_rows(path, ["a", "b"]) == ROWS


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    import datasets

    parts = {"train": datasets.Dataset.from_list(ROWS), "dev": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert len(read_table(tmp_path / "saved", split="dev")) == 1
    assert len(read_table(f"{tmp_path / 'saved'}@dev")) == 1 and len(read_table(tmp_path / "saved")) == len(ROWS)
    words = complaint(lambda: read_table(f"{tmp_path / 'saved'}@test"))
    assert "no split 'test'; it has train, dev" in words


text_cells = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.fixed_dictionaries({"a": text_cells, "b": text_cells}), min_size=1, max_size=5))
def test_jsonl_and_csv_keep_any_text(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    """pandas writes the csv, so that our reader is not judged by itself."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline=""
    )
    pd.DataFrame(rows).to_csv(folder / "any.csv", index=False, quoting=1, lineterminator="\n")
    assert read_rows(folder / "any.jsonl", ["a", "b"]) == rows
    assert read_rows(folder / "any.csv", ["a", "b"]) == rows


def test_byte_order_mark_crlf_and_blank_lines(tmp_path: Path) -> None:
    path = raw(tmp_path, "t.jsonl", b'\xef\xbb\xbf{"a": "x"}\r\n\r\n{"a": "y"}')
    table = read_table(path)
    assert table.rows == [{"a": "x"}, {"a": "y"}]
    assert table.where(1).endswith("t.jsonl line 3")
    assert read_rows(raw(tmp_path, "t.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n"), ["a"]) == [{"a": "1", "b": "2"}]
    assert read_rows(raw(tmp_path, "t.tsv", b"a\tb\r\n1\t2\r\n"), ["a"]) == [{"a": "1", "b": "2"}]


def test_only_keeps_rows_with_a_value(tmp_path: Path) -> None:
    rows = [{"a": f"t{i}", "source": "xyz"[i % 3], "year": 2000 + i} for i in range(9)]
    path = write_jsonl(tmp_path / "t.jsonl", [*rows, {"a": "none"}])
    assert [row["a"] for row in read_table(path, only=["source=x"]).rows] == ["t0", "t3", "t6"]
    some = read_table(path, only=["source=x", "year=2001"], limit=3)
    assert [row["a"] for row in some.rows] == ["t0", "t1", "t3"]
    assert some.where(2) == f"{path} line 4"
    with pytest.raises(UserError, match="no row has source=w or year=1; change `only`"):
        read_table(path, only=["source=w", "year=1"])
    with pytest.raises(UserError, match="only 'source': write column=value"):
        read_table(path, only=["source"])


def test_limit_stops_before_a_mistake(tmp_path: Path) -> None:
    path = raw(tmp_path, "t.jsonl", '{"a": "x"}\n{"a": "y"}\nnot json\n')
    assert len(read_table(path, ["a"], limit=2)) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.jsonl", '{"a": "x"}\n{"a": \n', "t.jsonl line 2: not JSON"),
        ("t.jsonl", '{"a": "x"}\n["x"]\n', "t.jsonl line 2: a row must be an object"),
        ("t.jsonl", '{"a": "x"}\n\n{"b": "x"}\n', "t.jsonl line 3: no 'a'; this row has: b"),
        ("t.jsonl", '{"b": "x", "c": 1}\n', "t.jsonl: no column 'a'; the columns are: b, c"),
        ("t.jsonl", b'{"a": "x"}\n{"a": "\xe9"}\n', "t.jsonl line 2: byte 0xe9 is not UTF-8"),
        ("t.jsonl", '{"a": ' + "9" * 5000 + "}", "t.jsonl line 1: not a row"),
        ("t.jsonl", "[" * 100_000, "t.jsonl line 1: not a row"),
        ("t.jsonl", "", "t.jsonl is empty"),
        ("t.jsonl", "\n\n", "t.jsonl is empty"),
        ("t.csv", "", "t.csv is empty"),
        ("t.csv", "a,b\n", "t.csv is empty"),
        ("t.csv", "b,c\n1,2\n", "t.csv: no column 'a'; the columns are: b, c"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "t.csv row 3: 3 fields under 2 column names"),
        ("t.csv", "a,a\n1,2\n", "t.csv row 1: a column name occurs twice: a, a"),
        ("t.csv", 'a\n"x"y\n', "t.csv row 2"),
        ("t.csv", 'a\n"x\n', "t.csv row 2"),
        ("t.jsonl", '{"a": "x"}\n{"a": "y", "a": "z"}\n', "t.jsonl line 2: 'a' occurs twice in an object"),
        ("t.csv", b"a\nx\n\xff\n", "t.csv line 3: byte 0xff is not UTF-8"),
        ("t.tsv", "a\tb\n1\n", "t.tsv row 2: 1 fields under 2 column names"),
        ("t.parquet", "hello", "t.parquet: not a readable parquet file"),
        ("t.parquet", "", "t.parquet: not a readable parquet file"),
        ("t.xlsx", "hello", "t.xlsx: unknown format .xlsx; use .jsonl, .csv, .tsv, .parquet"),
        ("noname", "hello", "noname: unknown format without a suffix"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    path = raw(tmp_path, name, content)
    assert words in complaint(lambda: read_table(path, ["a"]))


def test_missing_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no.jsonl does not exist" in complaint(lambda: read_table(tmp_path / "no.jsonl"))
    (tmp_path / "odd.jsonl").mkdir()
    assert "not a data set written by datasets.save_to_disk" in complaint(lambda: read_table(tmp_path / "odd.jsonl"))
    assert "no data file is given" in complaint(lambda: read_table(""))
    monkeypatch.chdir(tmp_path)
    assert "pairs does not exist" in complaint(lambda: read_table("pairs"))
    (tmp_path / "data").mkdir()
    assert "data/pairs does not exist" in complaint(lambda: read_table("data/pairs"))


def test_hub_id_is_loaded_and_its_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> datasets.Dataset:
        if name != "someone/pairs":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}'\ndoes not exist")
        return datasets.Dataset.from_list([{"a": split if subset is None else f"{subset} {split}"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = read_table("someone/pairs", ["a"], split="dev")
    assert table.rows == [{"a": "dev"}]
    assert table.where(0) == "someone/pairs [dev] row 1"
    part = read_table("someone/pairs", ["a"], subset="triplet")
    assert part.rows == [{"a": "triplet train"}] and part.where(0) == "someone/pairs [triplet, train] row 1"
    for source, cell in {"@test": "test", ":triplet@dev": "triplet dev", ":triplet": "triplet train"}.items():
        assert read_table(f"someone/pairs{source}", ["a"]).rows == [{"a": cell}]
    assert read_table("someone/pairs:triplet@dev").where(0) == "someone/pairs [triplet, dev] row 1"
    for source, option in (("@test", {"split": "dev"}), (":triplet", {"subset": "pair"})):
        message = complaint(lambda source=source, option=option: read_table(f"someone/pairs{source}", **option))
        assert "given both here and as an option" in message
    assert "someone/else is not a local file or folder, and cannot be read from the Hub" in complaint(
        lambda: read_table("someone/else")
    )


def test_a_stream_is_read_no_further_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stream that breaks says so in one line; without the option all of it is stored first."""
    import datasets

    fetched: list[int] = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(1000):
            fetched.append(number)
            if number == 500:
                raise OSError("connection lost")
            yield {"anchor": f"a{number}", "positive": f"p{number}"}

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> datasets.IterableDataset:
        assert streaming
        return datasets.IterableDataset.from_generator(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    blocks = list(
        read_blocks("someone/pairs", ["anchor"], only=["positive=p1", "positive=p7"], limit=2, streaming=True)
    )
    assert [row["anchor"] for block in blocks for row in block.rows] == ["a1", "a7"]
    assert fetched == list(range(8))
    fetched.clear()
    wanted = read_table("someone/pairs", ["anchor"], only=["positive=p1", "positive=p7"], limit=2, streaming=True)
    assert len(wanted) == 2 and fetched == list(range(8))
    broken = complaint(lambda: list(read_blocks("someone/pairs", ["anchor"], streaming=True)))
    assert "someone/pairs" in broken and "connection lost" in broken


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "t.jsonl line 2: a is null"),
        ("", "t.jsonl line 2: a is blank"),
        (" \t", "t.jsonl line 2: a is blank"),
        (float("nan"), "t.jsonl line 2: a is NaN; fill it"),
        (3, "t.jsonl line 2: a is a number (3), not text; put it in quotes"),
        (True, "t.jsonl line 2: a is true or false (True), not text; put it in quotes"),
        (["x"], "t.jsonl line 2: a is a list (['x']), not text; give each text a row of its own"),
        ({"text": "x"}, "t.jsonl line 2: a is an object ({'text': 'x'}), not text; take its text out of it"),
    ],
)
def test_cells_that_are_no_text(tmp_path: Path, cell: object, words: str) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"a": "x"}, {"a": cell}])
    assert words in complaint(lambda: read_table(path, ["a"]).texts("a"))


def test_a_column_of_numbers_is_the_wrong_column(tmp_path: Path) -> None:
    path = raw(tmp_path, "t.csv", "a,b\n1,x\n2.5,2\n")
    table = read_table(path)
    assert "column 'a' contains only numbers" in complaint(lambda: table.texts("a"))
    assert table.texts("b") == ["x", "2"]


def test_texts_to_encode(tmp_path: Path) -> None:
    assert read_texts(raw(tmp_path, "t.txt", "one\r\n\nthree\x0b\u2028still\n")) == [
        "one",
        "",
        "three\x0b\u2028still",
    ]
    assert read_texts(jsonl(tmp_path / "t.jsonl", [{"q": ""}, {"q": "x"}]), "q") == ["", "x"]
    assert "t.txt is empty" in complaint(lambda: read_texts(raw(tmp_path, "t.txt", "")))
    assert "no.txt does not exist" in complaint(lambda: read_texts(tmp_path / "no.txt"))
    assert "line 1: q is null" in complaint(lambda: read_texts(jsonl(tmp_path / "n.jsonl", [{"q": None}]), "q"))


def scored(folder: Path, *scores: object, **columns: object) -> Path:
    rows = [{"sentence1": f"s{i}", "sentence2": f"t{i}", "score": s, **columns} for i, s in enumerate(scores)]
    return jsonl(folder / "sts12.test.jsonl", rows)


def test_similarity_files(tmp_path: Path) -> None:
    data = read_similarity(scored(tmp_path, 1, 2.5, None, "", "4", subset="news"))
    assert data.name == "sts12.test" and len(data) == 3
    assert data.sentences1 == ["s0", "s1", "s4"] and data.sentences2 == ["t0", "t1", "t4"]
    assert data.scores.dtype == np.float64 and data.scores.tolist() == [1.0, 2.5, 4.0]
    assert data.subsets == ["news"] * 3
    tsv = raw(tmp_path, "t.tsv", 'sentence1\tsentence2\tscore\n"a\tb\t1\nc\td\t\ne\tf\t0.5\n')
    assert read_similarity(tsv).sentences1 == ['"a', "e"]
    assert read_similarity(tsv).subsets == ["", ""]


@pytest.mark.parametrize("score", ["high", True, float("nan"), float("inf"), [1], "1e999"])
def test_scores_that_are_no_numbers(tmp_path: Path, score: object) -> None:
    words = complaint(lambda: read_similarity(scored(tmp_path, 1.0, score)))
    assert "sts12.test.jsonl line 2: score" in words and "is not a finite number" in words


def test_similarity_files_without_enough_in_them(tmp_path: Path) -> None:
    assert "1 pairs have a score" in complaint(lambda: read_similarity(scored(tmp_path, 1.0, None)))
    path = jsonl(tmp_path / "t.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 1}])
    assert "no column 'score'; the columns are: sentence1, sentence2, label" in complaint(lambda: read_similarity(path))
    rows = [{"sentence1": "a", "sentence2": text, "score": 1} for text in ("b", " ")]
    assert "line 2: sentence2 is blank" in complaint(lambda: read_similarity(jsonl(tmp_path / "u.jsonl", rows)))
