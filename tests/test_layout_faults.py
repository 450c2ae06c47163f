"""Faults in the files of other trainers: those of shape are refused in one line, those of single rows are counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from dec2vec.errors import UserError
from dec2vec.files.tables import count_rows, read_blocks, read_rows, read_table, read_texts
from tests.peer_files import WRITERS, Row, gzipped, jsonl, message, pairs, tsv, zstandard
from train.data.dataset import TrainingData, load_data
from train.data.row_extras import NOTHING, Extras
from train.mining.pairs import read_material
from train.options.data import SourceConfig
from train.resolve import _absolute

ROWS = pairs(12)
SCORED = Extras(scores="logit")
FLAG: list[Row] = [{"query": f"q{i}", "pos": [f"p{i}"], "neg": [f"n{i}"]} for i in range(300)]


def read(path: Path | str, extras: Extras = NOTHING, **options: object) -> TrainingData:
    return load_data([SourceConfig(str(path), **options)], extras=[extras])


def complaint(path: Path | str, extras: Extras = NOTHING, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, extras, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SWIFT = {"messages": [message("q")], "positive_messages": [[message("p")]]}
NLI = {"premise": "a", "hypothesis": "b", "label": 0}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*FLAG[:1], {"query": "q", "pos": 3}], "line 2: not a row of FlagEmbedding: pos is a number (3), not a list"),
        ([*FLAG[:1], {"query": "q", "pos": ["p", 4]}], "line 2: not a row of FlagEmbedding: item 2 of pos is a number"),
        ([*FLAG[:1], {"query": ["i", "q"], "pos": ["i", "p"]}], "line 2: not a row of FlagEmbedding: query is a list"),
        ([{**FLAG[0], "pos_scores": ["high"]}], "line 1: not a row of FlagEmbedding: pos_scores is a list"),
        (
            [*FLAG[:1], {"query": "q", "positive_passages": []}],
            "line 2: not a row of FlagEmbedding: a row of Tevatron in",
        ),
        ([*FLAG[:1], {"anchor": "q", "positive": "p"}], "a row of anchor and positive in a file of FlagEmbedding"),
        ([*FLAG[:1], {"query": "q"}], "no pos, which rows of FlagEmbedding have; this row has: query"),
        ([{"query": "q", "pos": "p", "answer": "a"}], "line 1: two layouts fit, FlagEmbedding and query and answer"),
        ([{"query": "q", "pos": ["p"], "pos_doc": "p"}], "line 1: two layouts fit, FlagEmbedding and NeMo"),
        ([{"query": ["i", "q"], "pos": ["i", "p", "x"]}], "line 1: not a row of MEDI: pos is a list"),
        ([{"query": "q", "positive_passages": ["p"]}], "item 1 of positive_passages is a text (p), not an object"),
        ([{"query": "q", "positive_passages": [{"docid": "p0"}]}], "item 1 of positive_passages has no text (docid)"),
        ([{"query_text": "q", "positive_document_ids": [0.5]}], "item 1 of positive_document_ids is a number (0.5)"),
        ([{"query_text": "q", "positive_document_ids": ["1"]}], "there is no corpus.jsonl or collection.jsonl in"),
        ([{**SWIFT, "positive_messages": "p"}], "positive_messages is a text (p), not a list of conversations"),
        ([{**SWIFT, "messages": [{"role": "user"}]}], "not a list of messages with role and content"),
        ([{**SWIFT, "messages": [message([{"type": "image"}])]}], "with a part that is no text"),
        ([SWIFT, {**SWIFT, "label": 0}], "line 2: not a row of ms-swift: label is a number (0), but the first row has"),
        ([{**SWIFT, "label": 0.4}], "label is a number (0.4), neither 0 nor 1; rows with degrees are for data.0.kind"),
        ([NLI, {**NLI, "label": "maybe"}], "line 2: not a row of NLI pair-class: label is a text (maybe)"),
        ([["a", "b"], ["c", "d", "e"]], "line 2: not a row of sentence-transformers list: a list of 3 texts, but the"),
        ([["a"], ["b"]], "line 1: not a row of sentence-transformers list: a list (['a']) has no second text"),
        ([["a", "b"], {"set": ["a", "b"]}], "line 2: not a row of sentence-transformers list: a row of sentence-tr"),
        ([["a", "b"], "c"], 'line 2: a row must be an object {"column": value} or a list, not'),
        ([{"query": "q", "passages": ["p"]}], "no known layout fits (nearest: FlagEmbedding (pos, query)"),
        ([{"text": "a", "label": "x"}], "or is this data.0.kind labelled?"),
    ],
)
def test_faults_of_shape(tmp_path: Path, rows: list[object], words: str) -> None:
    found = complaint(jsonl(tmp_path / "t.jsonl", rows))
    assert words in found and "t.jsonl" in found


@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("t.tsv", [("Query text", "Positive passage", "Negative text")], "the columns are: 'Query text', 'Positive pa"),
        ("t.tsv", [("question", "passage_a", "passage_b")], "no known layout fits (nearest: question and positive"),
        ("t.tsv", [("what is a one", "passage one text", "n"), ("q", "p")], "row 2: 2 fields, but 3 in row 1"),
        ("t.tsv", [("1", "2", "3"), ("4", "a text", "6")], "row 2: not a row of MS MARCO (ids)"),
        ("t.csv", [("what is the first row here", "a text of it")], "if the first line is a row, add a line of column"),
    ],
)
def test_headers_and_rows_without_them(tmp_path: Path, name: str, lines: Sequence[Sequence[str]], words: str) -> None:
    """A header is never trained on, and a row is never taken for one without a word."""
    path = tsv(tmp_path / name, [*lines, *[["a text", "b text", "c text"][: len(lines[0])]] * (len(lines) == 1)])
    assert words in complaint(path)


def test_a_message_has_the_number_of_its_source(tmp_path: Path) -> None:
    good = SourceConfig(str(jsonl(tmp_path / "good.jsonl", FLAG)))
    rows = [{"anchor": "a", "text": "p"}] * 3
    odd = SourceConfig(str(jsonl(tmp_path / "odd.jsonl", rows)), positive="text", min_grade=2)
    unused = SourceConfig(str(jsonl(tmp_path / "unused.jsonl", [dict(row, prompt="i") for row in FLAG])))
    with pytest.raises(UserError, match=r"rows of anchor and text do not use data\.1\.min_grade; remove it"):
        load_data([good, odd])
    told = load_data([good, unused]).told[1].unused
    assert told is not None and "such as data.1.query_prompt instruct" in told


# single rows


def test_faulty_rows_are_counted_by_kind_and_left_out(tmp_path: Path) -> None:
    rows = [dict(row) for row in FLAG]
    rows[7]["pos"], rows[20]["pos_scores"], rows[21]["neg"] = [], [1.0, 2.0], ["n", "p21"]
    rows[40] |= {"pos_scores": [1.0], "neg_scores": [0.5]}
    path = jsonl(tmp_path / "t.jsonl", rows)
    data = read(path, SCORED)
    assert len(data) == 297 and {row[0] for row in data.tables[0].texts}.isdisjoint({"q7", "q20", "q21"})
    counted = (
        "3 of 300 rows: 1 with an empty query or positive (first: t.jsonl line 8), 1 with scores of another length "
        "than the texts (first: t.jsonl line 21), 1 with a positive among its own negatives (first: t.jsonl line 22)"
    )
    assert data.told[0].layout[1] == f"left out {counted}"
    assert len(read(path)) == 298  # scores that no loss uses refuse no row
    rows[30]["query"] = " "
    jsonl(path, rows)
    assert f"{path}: 4 of 300 rows: 2 with an empty query or positive (first: t.jsonl line 8)" in complaint(
        path, extras=SCORED
    )
    assert "more than data.0.bad_rows 0.01 allows" in complaint(path, extras=SCORED)
    assert len(read(path, SCORED, bad_rows=0.02)) == 296
    cleaned = read(path, SCORED, clean=True)
    assert len(cleaned) == 296 and cleaned.counts[0].empty == 2 and cleaned.counts[0].read == 298


def test_unknown_ids(tmp_path: Path) -> None:
    path = WRITERS["tevatron_ids"](tmp_path, ROWS)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["negative_document_ids"].append("gone")
    jsonl(path, rows)
    words = "1 of 12 rows: 1 with an id that is not in the corpus or the queries (first: tevatron2.jsonl line 4)"
    assert words in complaint(path)
    assert list(read(path, bad_rows=0.1).tables[0].texts) == [*ROWS[:3], *ROWS[4:]]


def test_ids_of_documents_in_rows_of_a_layout(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": [f"p{i}"], "doc": i} for i in range(3)]
    path = jsonl(tmp_path / "t.jsonl", rows)
    data = read(path, document_id="doc")
    assert data.tables[0].ids == ["0", "1", "2"] and data.told[0].unused is None
    assert "t.jsonl: no column 'page'; the columns are: doc, anchor, positive" in complaint(path, document_id="page")


def test_a_file_without_any_pair(tmp_path: Path) -> None:
    assert "no row gives a pair (NLI pair-class; entailment 0" in complaint(
        jsonl(tmp_path / "t.jsonl", [{**NLI, "label": 1}, {**NLI, "label": 2}])
    )


# files


@pytest.mark.parametrize("pack", [gzipped, zstandard])
def test_compressed_files_hold_the_same_rows(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    for name in ("own", "flag_embedding"):
        packed = pack(WRITERS[name](tmp_path, ROWS))
        assert list(read(packed).tables[0].texts) == ROWS
        assert count_rows(packed) == 12 and len(list(read_blocks(packed))) == 1
    table = pack(tsv(tmp_path / "t.tsv", [("anchor", "positive"), ("a", "b"), ("c", "d")]))
    assert read_rows(table, ["anchor"]) == [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]


@pytest.mark.parametrize("pack", [gzipped, zstandard])
def test_a_compressed_file_that_ends_early(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    rows = [{"anchor": f"a{i * 7919 % 1009}", "positive": f"p{i * 104729 % 997}"} for i in range(40_000)]
    packed: Path = pack(jsonl(tmp_path / "t.jsonl", rows))
    packed.write_bytes(packed.read_bytes()[:-20])
    words = complaint(packed)
    line = int(words.split("after line ")[1].split(":")[0])
    assert f"{packed} ends early, after line {line}: a part of the file is missing" in words and 1_000 < line < 40_000
    packed.write_bytes(b"this was never compressed, whatever its name says")
    assert f"line 1: not a {packed.suffix} file, or damaged" in complaint(packed)


def test_json_arrays(tmp_path: Path) -> None:
    rows = [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "d"}]
    path = tmp_path / "t.json"
    for text in (json.dumps(rows, indent=2), json.dumps({"data": rows}), "\n".join(map(json.dumps, rows))):
        path.write_text(text)
        assert read_rows(path, ["anchor"]) == rows
    assert list(read(path).tables[0].texts) == [("a", "b"), ("c", "d")]
    path.write_text('[["a", "b"], ["c", "d"]]')
    assert list(read(path).tables[0].texts) == [("a", "b"), ("c", "d")]
    for text, words in (("[1]", "row 1: a row must be an object"), ('["a"', "not JSON"), ("3", "neither a JSON array")):
        path.write_text(text)
        assert words in complaint(path)


def test_shards_and_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    first, second = WRITERS["flag_embedding"](tmp_path, ROWS[:5]), WRITERS["flag_embedding"](folder, ROWS[5:])
    gzipped(first.rename(folder / "a.jsonl")).rename(folder / "0.jsonl.gz")
    (folder / "a.jsonl").unlink()
    (folder / "README.md").write_text("no rows")
    for source in (folder, folder / "*.jsonl*", f"{tmp_path}/sh*/*"):
        if not str(source).endswith("/*"):
            assert list(read(source).tables[0].texts) == ROWS
    assert list(read(second).tables[0].texts) == ROWS[5:]
    assert f"{folder}/none-*.jsonl: no file matches this pattern" in complaint(folder / "none-*.jsonl")
    second.write_text(second.read_text() + '{"query": "q", "pos": 1}\n')
    assert f"{second} line 8: not a row of FlagEmbedding" in complaint(folder)
    assert read_table(folder).where(5) == f"{second} line 1"


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for name, row in (("train-00000-of-00002", 0), ("train-00001-of-00002", 1), ("test-00000-of-00001", 2)):
        jsonl(tmp_path / f"{name}.jsonl", [{"a": row}])
    assert read_rows(tmp_path, ["a"]) == [{"a": 0}, {"a": 1}]
    assert read_rows(f"{tmp_path}@test", ["a"]) == [{"a": 2}]
    with pytest.raises(UserError, match="has no file of split 'dev'; it has test-00000"):
        read_table(tmp_path, split="dev")
    with pytest.raises(UserError, match=r"no file of split 'train\[:1\]'; it has test-00000"):
        read_table(f"{tmp_path}@train[:1]")
    jsonl(tmp_path / "more.jsonl", [{"a": 3}])
    with pytest.raises(UserError, match=r"train-00000-of-00002.jsonl names a split and more.jsonl none"):
        read_table(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"not a data set written by datasets.save_to_disk, and has no file of rows"):
        read_table(empty)


def test_a_split_is_a_word_anywhere_in_the_name(tmp_path: Path) -> None:
    jsonl(tmp_path / "mine_train.jsonl", [{"a": 0}])
    jsonl(tmp_path / "mine_test.jsonl", [{"a": 1}])
    assert read_rows(tmp_path, ["a"]) == [{"a": 0}]
    assert read_rows(f"{tmp_path}@test", ["a"]) == [{"a": 1}]
    plain = tmp_path / "plain"
    plain.mkdir()
    jsonl(plain / "trains.jsonl", [{"a": 2}])  # another word
    jsonl(plain / "protest.jsonl", [{"a": 3}])
    assert read_rows(plain, ["a"]) == [{"a": 3}, {"a": 2}]
    with pytest.raises(UserError, match=r"no file of split 'validation'; it has protest.jsonl, trains.jsonl; give"):
        read_table(f"{plain}@validation")


def test_one_file_in_two_formats_is_not_read_twice(tmp_path: Path) -> None:
    gzipped(jsonl(tmp_path / "x.jsonl", [{"a": 0}]))
    for source in (tmp_path, tmp_path / "x*"):
        with pytest.raises(UserError, match=r"x.jsonl and x.jsonl.gz look like one file in two formats; remove one"):
            read_table(source)
    jsonl(tmp_path / "y.jsonl", [{"a": 1}])
    assert read_rows(tmp_path / "*.jsonl", ["a"]) == [{"a": 0}, {"a": 1}]


def test_folders_of_repositories_and_of_beir(tmp_path: Path) -> None:
    """A cloned repository has its shards in `data`; the queries of a BEIR folder are no documents."""
    cloned = tmp_path / "cloned"
    (cloned / "data").mkdir(parents=True)
    (cloned / "README.md").write_text("no rows")
    jsonl(cloned / "data" / "train-00000-of-00001.jsonl", [{"a": 0}])
    jsonl(cloned / "data" / "test-00000-of-00001.jsonl", [{"a": 1}])
    assert read_rows(cloned, ["a"]) == [{"a": 0}] and read_rows(f"{cloned}@test", ["a"]) == [{"a": 1}]
    beir = tmp_path / "beir"
    beir.mkdir()
    jsonl(beir / "corpus.jsonl", [{"_id": "d", "title": "T", "text": "a document"}, {"_id": "e", "text": "another"}])
    jsonl(beir / "queries.jsonl", [{"_id": "q", "text": "a question"}])
    assert read_texts(beir) == ["a document", "another"]
    assert read_material(str(WRITERS["own"](tmp_path, ROWS)), corpus=beir).corpus == ["T a document", "another"]


def test_what_is_no_pattern(tmp_path: Path) -> None:
    assert "a**b.jsonl is not a pattern of files: " in complaint(tmp_path / "a**b.jsonl")


def test_slices_of_the_hub_and_splits_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name@train[:100]", "owner/name:sub@train[:10%]", "owner/name:sub", "owner/name"):
        assert _absolute(name) == name
    assert _absolute("own@test") == f"{tmp_path}/own@test"
    assert _absolute("own@train[:9]") == f"{tmp_path}/own@train[:9]"
    assert _absolute("own/part[0-9].jsonl") == f"{tmp_path}/own/part[0-9].jsonl"


def test_a_pattern_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["own"](tmp_path, ROWS)
    monkeypatch.chdir(tmp_path)
    found = _absolute("ow*.jsonl")
    monkeypatch.chdir("/")
    assert list(read(found).tables[0].texts) == ROWS
    assert _absolute("owner/name") == "owner/name"


def test_a_revision_of_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[object] = []

    def load_dataset(name: str, subset: str | None, **options: object) -> datasets.Dataset:
        asked.append((name, subset, options))
        return datasets.Dataset.from_list(FLAG[:3])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = read("some/set", revision="v1.0")
    assert next(iter(data.tables[0].texts)) == ("q0", "p0", "n0")
    assert asked[-1] == ("some/set", None, {"split": "train", "streaming": False, "revision": "v1.0"})


def test_parquet_is_not_read_from_a_gz(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1"))
    assert "unknown format .gz; use .jsonl" in complaint(path)
    assert pa.__version__
