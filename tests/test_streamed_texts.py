"""Streamed training text in a report: a leak is found in any row, and a sample of bounded size is fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.leakage import streamed_texts, training_text
from eval.leakage.overlap import EvaluationSet, Overlap, measure
from eval.leakage.streamed_texts import StreamedTexts, joined_texts
from eval.leakage.trained_on import trained_on
from eval.leakage.training_text import sample_fit_text, with_fit_text
from tests.helpers import write_jsonl
from tests.tiny_run import train as train_run
from tests.tiny_run import write_run
from train.config import EvalSection
from train.options.data import SourceConfig

LEAK = "the leaked sentence of the test set stands in the last row"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 30 rows are streamed, in samples of 20 texts."""
    monkeypatch.setattr(training_text, "FEW", 30)
    monkeypatch.setattr(streamed_texts, "SAMPLE", 20)


def run_of(folder: Path, *sources: dict[str, object]) -> str:
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps({"data": list(sources)}))
    return str(folder)


def found(texts: dict[str, object]) -> list[Overlap]:
    evaluated = ["never seen", LEAK.upper(), f"{LEAK} too", "p 3"]
    return measure(texts, [EvaluationSet.from_texts("test", evaluated)]).counts  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["own", "FlagEmbedding", "graded"])
def test_a_leak_is_found_as_in_memory(tmp_path: Path, layout: str) -> None:
    pairs = [(f"q {row}", f"p {row}") for row in range(60)] + [("last", LEAK)]
    rows: list[dict[str, object]] = [{"anchor": one, "positive": other} for one, other in pairs]
    more: dict[str, object] = {}
    if layout == "FlagEmbedding":
        rows = [{"query": one, "pos": [other], "neg": ["n"]} for one, other in pairs]
    if layout == "graded":
        rows = [{"sentence1": one, "sentence2": other, "score": 1.0} for one, other in pairs]
        more = {"kind": "graded"}
    path = str(write_jsonl(tmp_path / "t.jsonl", rows))
    counts = []
    for streaming in (False, True):
        run = run_of(tmp_path / f"run{streaming}", {"path": path, "streaming": streaming, **more})
        texts = trained_on(run).texts
        assert isinstance(texts[path], StreamedTexts) is streaming
        counts.append(found(dict(with_fit_text(texts, trained_on(run).texts))))
    assert counts[0] == counts[1]
    (row,) = counts[0]
    assert (row.texts, row.exact, row.normalized, row.near) == (4, 1, 2, 3)
    rest = write_jsonl(tmp_path / "t.jsonl", rows[:-1])
    assert rest and found(dict(trained_on(str(tmp_path / "runTrue")).texts))[0].near == 1, "without the leak"


def test_two_sources_of_one_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"anchor": f"q {row}", "positive": f"p {row}"} for row in range(60)]
    path = str(write_jsonl(tmp_path / "t.jsonl", rows))
    few: dict[str, object] = {"path": path, "streaming": True, "limit": 4}
    texts = trained_on(run_of(tmp_path / "both", {"path": path, "streaming": True}, few)).texts
    whole = texts[path]
    assert isinstance(whole, StreamedTexts) and whole.total == 128 and found(dict(texts))[0].exact == 1
    assert trained_on(run_of(tmp_path / "few", few)).texts[path] == [
        *(f"q {row}" for row in range(4)),
        *(f"p {row}" for row in range(4)),
    ], "so few rows are a list, as in memory"
    extra = with_fit_text(texts, {path: ["q 59", "new"]})
    assert extra[f"{path} (fit)"] == ["new"]


def test_samples() -> None:
    """The same texts in every order, each once, no more than the size, and spread over all texts."""
    texts = [f"text {number % 500}" for number in range(1000)]
    blocks = [texts[start : start + 37] for start in range(0, 1000, 37)]
    sample = StreamedTexts(lambda: iter(blocks))
    assert len(sample) == len(set(sample)) == 20 and sample.total == 1000
    assert list(sample) == list(StreamedTexts(lambda: iter([texts[::-1]])))
    assert sum(int(text.split()[1]) < 250 for text in sample) in range(4, 17)
    assert "all of its 1,000 texts" in sample.note("x") and "20 of them (2 %)" in sample.note("x")
    fit = sample_fit_text({"x": sample}, [sample[0]], 10, 0)
    assert len(fit.sentences) == 10 and set(fit.sentences) <= set(sample) - {sample[0]}
    assert set(StreamedTexts(lambda: iter([["a", "b", "a"]]))) == {"a", "b"}
    assert joined_texts([["a", "b"], ["b", "c"]]) == ["a", "b", "c"]


@pytest.mark.slow
def test_a_streamed_run_whitens_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(training_text, "FEW", 10)
    monkeypatch.chdir(tmp_path)
    evaluation = EvalSection(dev="dev.jsonl", every=4, tests=("test.jsonl",), after_training=True)
    streamed = (SourceConfig(path="pairs.jsonl", streaming=True),)
    config = write_run(tmp_path, data=streamed, eval=evaluation)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    tests = [
        {"sentence1": f"{row['anchor']} x", "sentence2": row["positive"], "score": n} for n, row in enumerate(pairs)
    ]
    write_jsonl(tmp_path / "test.jsonl", tests)
    train_run(config, tmp_path / "out", "--export.whiten", "true")
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    seen = next(row for row in report["overlap"] if row["evaluation"] == "test" and "pairs" in row["training"])
    assert seen["exact"] == len({row["positive"] for row in pairs})
    assert "is streamed: overlap was looked for in all of its" in json.dumps(report)
