"""The report says of each task how many of its texts `max_length` cut, and warns above 5 %."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec import ModelConfig, cli
from eval.config import EvalConfig, RetrievalConfig, SystemsConfig
from eval.report.html import to_html
from eval.report.markdown import to_markdown
from eval.report.report import Report, headline
from eval.report.report_json import to_json
from eval.report.truncation import truncation_line, truncation_notes
from eval.results.truncation import Truncation, worst
from eval.run import evaluate
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import tiny_model_folder, write_jsonl

LIMIT = 8
SYSTEMS = SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",))
Rows = list[dict[str, object]]


def documents(long: int, short: int) -> Rows:
    """`long` documents have more than LIMIT words."""
    lengths = [LIMIT + 3] * long + [LIMIT - 3] * short
    return [{"id": f"d{row}", "text": f"text {row} " + "more " * (count - 2)} for row, count in enumerate(lengths)]


def collection(folder: Path, corpus: Rows) -> Path:
    """Six short queries, of which one is long, each with a document."""
    folder.mkdir(exist_ok=True)
    queries: Rows = [{"id": f"q{row}", "text": f"text {row}"} for row in range(5)]
    queries.append({"id": "q5", "text": "text 5 " + "more " * LIMIT})
    write_jsonl(folder / "corpus.jsonl", corpus)
    write_jsonl(folder / "queries.jsonl", queries)
    write_jsonl(folder / "qrels.jsonl", [{"query_id": f"q{row}", "doc_id": f"d{row}", "score": 1} for row in range(6)])
    return folder


def report_on(folder: Path, corpus: Rows, *, tuned_length: int = 100) -> Report:
    dev = write_similarity(folder / "dev.jsonl", 40, 1)
    test = write_similarity(folder / "sts.jsonl", 30, 2)
    path = str(collection(folder / "search", corpus))
    config = EvalConfig(
        dev=str(dev), tests=(str(test),), retrieval=(RetrievalConfig(path=path),), systems=SYSTEMS, bootstrap=100
    )
    base, tuned = (FakeEncoder(ModelConfig(max_length=length)) for length in (LIMIT, tuned_length))
    return evaluate(config, base=base, tuned={"mine": tuned}, progress=False)


def counted(report: Report) -> dict[tuple[str, str, str], tuple[int, int, int]]:
    return {(row.task, row.part, row.reader): (row.max_length, row.texts, row.cut) for row in report.truncation}


def test_counts_by_task_part_and_encoder(tmp_path: Path) -> None:
    report = report_on(tmp_path, documents(9, 11))
    found = counted(report)
    assert found["search", "documents", "untuned/bare"] == (LIMIT, 20, 9)
    assert found["search", "queries", "untuned/bare"] == (LIMIT, 6, 1)
    assert found["search", "documents", "tuned/mine"] == (100, 20, 0)
    assert {key for key in found if key[0] != "search"} == {
        (task, "texts", reader) for task in ("dev", "sts") for reader in ("untuned/bare", "tuned/mine")
    }
    tree = json.loads(to_json(report))
    [task] = tree["tasks"]
    assert {(row["part"], row["run"], row["cut"], row["texts"], row["share"]) for row in task["truncation"]} == {
        ("queries", None, 1, 6, 1 / 6),
        ("documents", None, 9, 20, 9 / 20),
        ("queries", "mine", 0, 6, 0),
        ("documents", "mine", 0, 20, 0),
    }
    assert {row["task"] for row in tree["truncation"]} == {"dev", "sts"}


def test_it_stands_beside_the_task_and_warns_above_five_percent(tmp_path: Path) -> None:
    report = report_on(tmp_path, documents(9, 11))
    said = "9 of 20 documents (45.0 %; untuned/bare, 8 tokens)"
    [warning] = [line for line in headline(report) if "only the beginning was read" in line]
    assert warning.startswith("Warning: search: ") and said in warning
    assert truncation_line(report.truncation).endswith(said)
    for page in (to_markdown(report), to_html(report, _no_pictures())):
        section = page.split("Task: search")[1]
        assert f"Texts cut by max_length: 1 of 6 queries (16.7 %; untuned/bare, 8 tokens), {said}." in section
        assert "Texts cut by max_length: none." in page.split("Systems and tests")[1].split("Task: search")[0]
    few = report_on(tmp_path, documents(1, 19))
    few = replace(few, truncation=[row for row in few.truncation if row.part != "queries"])
    assert counted(few)["search", "documents", "untuned/bare"] == (LIMIT, 20, 1)
    assert truncation_notes(few.truncation) == [] and "1 of 20" in truncation_line(few.truncation)


def _no_pictures() -> dict[str, bytes]:
    from collections import defaultdict

    return defaultdict(bytes)


def test_counts_change_with_the_texts_alone(tmp_path: Path) -> None:
    """Permuted rows change nothing; a text more is one more; what is cut does not depend on the score or the name."""
    corpus = documents(9, 11)
    plain = report_on(tmp_path, corpus)
    order = np.random.default_rng(0).permutation(len(corpus))
    assert counted(report_on(tmp_path, [corpus[row] for row in order])) == counted(plain)
    repeated: Rows = [*corpus, {"id": "copy", "text": corpus[0]["text"]}]
    assert counted(report_on(tmp_path, repeated)) == counted(plain), "equal documents are one text"
    more = counted(report_on(tmp_path, [*corpus, {"id": "new", "text": "quite unrelated " * LIMIT}]))
    changed = {key for key, value in more.items() if value != counted(plain)[key]}
    assert {key[:2] for key in changed} == {("search", "documents")}
    assert more["search", "documents", "untuned/bare"] == (LIMIT, 21, 10)
    shorter = counted(report_on(tmp_path, corpus, tuned_length=LIMIT))
    assert {key for key in shorter if shorter[key] != counted(plain)[key]} == {
        key for key in shorter if key[2] == "tuned/mine"
    }


def test_cached_vectors_are_counted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a real tokenizer; the second evaluation embeds nothing and says the same, once."""
    model = tiny_model_folder(tmp_path / "model")
    texts = ["a dog", "two cats", "the man runs", *(f"the old dog {n} " * 30 for n in range(5))]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, texts[-1]]))
    dev = write_similarity(tmp_path / "dev.jsonl", 40, 1)
    config: dict[str, Any] = {
        "model": {"name_or_path": str(model), "max_length": 40, "device": "cpu"},
        "dev": str(dev),
        "tests": [str(write_similarity(tmp_path / "sts.jsonl", 30, 2))],
        "isotropy": [{"path": str(tmp_path / "texts.txt")}],
        "systems": {"prompts": ["bare", "prompteol"], "poolings": ["last"], "layers": [-1], "post": ["raw"]},
        "bootstrap": 100,
        "output_dir": str(tmp_path / "out"),
    }
    (tmp_path / "e.yaml").write_text(json.dumps(config))
    lines = []
    for _ in range(2):
        assert cli.main(["eval", str(tmp_path / "e.yaml")]) == 0
        lines.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("max_length cuts")])
        tree = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
        [task] = tree["tasks"]
        assert [(row["prompt"], row["texts"], row["cut"]) for row in task["truncation"]] == [
            ("bare", 8, 5),
            ("prompteol", 8, 5),
        ]
    assert lines[0] == lines[1] and len(lines[0]) == 1 and "5 of 8 texts (62.5 %" in lines[0][0]


def test_the_worst_reading_of_each_part() -> None:
    rows = [
        Truncation("t", "queries", "untuned/bare", None, "bare", 9, 10, 1),
        Truncation("t", "queries", "tuned/a", "a", "bare", 9, 10, 4),
        Truncation("t", "documents", "other", None, None, 9, 10, 0),
        Truncation("u", "texts", "other", None, None, 9, 0, 0),
    ]
    assert worst(rows, "t") == [rows[1]] and worst(rows, "u") == [] and rows[3].share == 0
    assert truncation_line([rows[2], rows[3]]) == ""
