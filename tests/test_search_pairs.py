"""Pairs made from documents alone: what stands in for a query is nowhere in its document, and nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from search_pairs import main

from tests.helpers import write_jsonl
from train.data.dataset import load_data
from train.options.data import SourceConfig

DOCUMENTS: list[dict[str, object]] = [
    {
        "id": "1",
        "title": "Growth of oaks .",
        "text": "Growth of oaks . An oak of 3 .5 metres is still young . Its roots go very deep ! Short one . "
        "The end is near now .",
    },
    {"id": "2", "title": "", "text": "A single sentence without a title."},
    {"id": "3", "title": "Only a title", "text": ""},
]


def test_titles_and_sentences_with_the_rest_of_their_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "oaks.jsonl", DOCUMENTS)
    main([str(source), str(tmp_path / "pairs")])
    written = tmp_path / "pairs" / "oaks.jsonl"
    assert capsys.readouterr().err == f"{tmp_path / 'pairs' / 'oaks'}.jsonl: 4 pairs\n"
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    first, second, short, last = (
        "An oak of 3 .5 metres is still young .",
        "Its roots go very deep !",
        "Short one .",
        "The end is near now .",
    )
    assert [(row["source"], row["anchor"], row["positive"]) for row in rows] == [
        ("title", "Growth of oaks .", f"{first} {second} {short} {last}"),
        ("sentence", first, f"{second} {short} {last}"),
        ("sentence", second, f"{first} {short} {last}"),
        ("sentence", last, f"{first} {second} {short}"),
    ]
    assert [row[:2] for row in load_data([SourceConfig(str(written))]).tables[0].texts] == [
        (row["anchor"], row["positive"]) for row in rows
    ]


def test_documents_without_ids_and_without_a_column(tmp_path: Path) -> None:
    bare = [{name: value for name, value in row.items() if name != "id"} for row in DOCUMENTS]
    main([str(write_jsonl(tmp_path / "bare.jsonl", bare)), str(tmp_path / "pairs")])
    main([str(write_jsonl(tmp_path / "oaks.jsonl", DOCUMENTS)), str(tmp_path / "pairs")])
    found, known = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "pairs" / "bare.jsonl", tmp_path / "pairs" / "oaks.jsonl")
    )
    assert {row.pop("document") for row in found} == {"0"} and {row.pop("document") for row in known} == {"1"}
    assert found == known
    with pytest.raises(SystemExit, match=r"document 2 has no column 'title'; its columns are: id, text"):
        main([str(write_jsonl(tmp_path / "other.jsonl", [DOCUMENTS[0], {"id": "2", "text": "t"}])), str(tmp_path)])


def test_the_folder_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("retrieval", "train", "classification"):
        (tmp_path / folder).mkdir()
    write_jsonl(tmp_path / "retrieval" / "cranfield.corpus.jsonl", DOCUMENTS)
    write_jsonl(tmp_path / "train" / "wiki_split.jsonl", [{"anchor": "ab", "split_sentences": ["a", "b"]}])
    write_jsonl(tmp_path / "classification" / "banking77.train.jsonl", [{"text": "t", "label": "card_arrival"}])
    main([str(tmp_path), str(tmp_path / "out")])
    found = {path.stem: path.read_text().splitlines() for path in (tmp_path / "out").iterdir()}
    assert {name: len(lines) for name, lines in found.items()} == {"cranfield": 4, "wiki": 1, "banking77": 1}
    assert json.loads(found["wiki"][0]) == {"anchor": "a", "positive": "b"}
    assert json.loads(found["banking77"][0]) == {"anchor": "t", "positive": "card arrival"}
    assert capsys.readouterr().err.count(" pairs\n") == 3
