"""The report: the shape of report.json, one set of figures in three formats, a page that fetches nothing."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from eval import __main__ as command_line
from eval.config import EvalConfig, SystemsConfig
from eval.leakage import trained_on
from eval.leakage.normal_form import normalized
from eval.leakage.overlap import EvaluationSet, measure
from eval.leakage.trained_on import run_sources
from eval.leakage.training_text import TextSource, read_training_texts, sample_fit_text
from eval.report.markdown import to_markdown
from eval.report.numbers import hundred
from eval.report.report import Report, format_table, headline
from eval.report.report_json import to_json
from eval.report.write import check_writable, write_report
from eval.run import evaluate, report_folder
from eval.tasks.sts import load_task
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvalConfig:
    folder = tmp_path_factory.mktemp("data")
    return EvalConfig(
        model=ModelConfig(name_or_path="fake"),
        dev=str(write_similarity(folder / "dev.jsonl", 80, 1)),
        tests=tuple(str(write_similarity(folder / f"test{seed}.jsonl", 90, seed)) for seed in (3, 4)),
        fit=(str(write_pairs(folder / "fit.jsonl", 150, 2)),),
        systems=SystemsConfig(
            prompts=("bare", "one | <b>bold</b> {text}"), poolings=("last", "mean"), dimensions=(16, 4)
        ),
        baselines=(),
        bootstrap=150,
        output_dir=str(folder / "run"),
    )


@pytest.fixture(scope="module")
def report(config: EvalConfig) -> Report:
    tuned = {"mine": FakeEncoder(ModelConfig(pooling="last", layer=-1), noise=(0.1, 0.1, 0.1))}
    return evaluate(config, base=FakeEncoder(noise=(4.0, 0.5, 3.0)), tuned=tuned, progress=False)


def test_json_has_the_documented_shape(report: Report, config: EvalConfig) -> None:
    tree = json.loads(to_json(report))
    assert list(tree)[:6] == ["provenance", "results", "overlap", "dev", "tests", "comparison"]
    assert list(tree)[6:10] == ["tasks", "truncation", "sweep", "confusions"]
    assert list(tree)[10:] == ["curves", "mistakes", "seeds", "costs", "notes", "efforts", "headlines", "leading"]
    for row in tree["results"]:
        assert list(row)[:8] == ["system", "task", "metric", "value", "ci_low", "ci_high", "n", "chosen_on"]
        assert list(row)[8:16] == ["kind", "of", "run", "post", "k", "transductive", "fitted_on", "clean"]
        assert list(row)[16:] == ["exported", "selection", "no_interval", "conservative"]
        assert row["ci_low"] <= row["value"] <= row["ci_high"] or abs(row["value"] - row["ci_low"]) < 0.1
        assert row["n"] in (80, 90, 180)
    systems = {row["system"] for row in tree["results"] if not row["metric"].endswith("difference")}
    assert len(systems) == 2 * 2 * 2 + 2 + 1
    assert all(re.match(r"(untuned/.+/\w+@\d+|tuned/mine)(\+whiten-\d+)?$", name) for name in systems)
    for row in tree["results"]:
        is_difference = row["metric"].endswith("difference")
        assert (row["kind"] == "difference") == is_difference and row["clean"] == ("_clean" in row["metric"])
        assert row["run"] == ("mine" if row["system"].startswith("tuned/mine") else None)
        if is_difference:
            assert row["system"] == " minus ".join(row["of"]) and set(row["of"]) <= systems
        else:
            label = row["system"].partition("+")[2]
            assert label == (f"{row['post']}-{row['k']}" if row["post"] else "")
    chosen = {row["system"]: row["chosen_on"] for row in tree["results"] if row["system"] in systems}
    assert {name for name, task in chosen.items() if task is None} == {"tuned/mine", "untuned/bare/last@2"}
    tasks = {row["task"] for row in tree["results"]}
    assert tasks == {"dev", "test3", "test4", "average"}
    provenance = tree["provenance"]
    assert len(provenance["config_sha256"]) == 64
    assert {task: len(facts["sha256"]) for task, facts in provenance["data"].items()} == dict.fromkeys(
        ("dev", "test3", "test4"), 64
    )
    assert provenance["whitening_fit"]["sentences"] == 300
    assert provenance["versions"]["python"].startswith(f"{sys.version_info.major}.")
    assert Path(sys.orig_argv[0]).name in provenance["command"]
    assert tree["overlap"][0]["training"] == config.fit[0]


def test_average_and_differences_add_up(report: Report) -> None:
    for name in report.systems:
        parts = [report.result(name, task).value for task in report.tests]
        assert report.result(name, "average").value == pytest.approx(np.mean(parts))
    found = report.comparison
    assert found is not None and found.tuned is not None and found.untuned is not None
    assert found.to_untuned is not None and found.highest_untuned is not None
    assert (found.tuned.name, found.tuned.selection, found.tuned.selected_on) == ("tuned/mine", "fixed", None)
    name = f"{found.tuned.name} minus {found.untuned.name}"
    assert report.gain == name
    rows = {task: report.result(name, task) for task in ("test3", "test4", "average")}
    assert {row.task for row in report.results if row.system == name} == set(rows)
    for task, row in rows.items():
        expected = report.result(found.tuned.name, task).value - report.result(found.untuned.name, task).value
        assert row.value == pytest.approx(expected)
        assert row.low <= row.value <= row.high
    assert (rows["average"].low, rows["average"].high) == (found.to_untuned.low, found.to_untuned.high)
    untuned = [name for name, subject in report.subjects.items() if subject.is_rival]
    by_dev = max(untuned, key=lambda name: report.result(name, "dev").value)
    assert (found.untuned.name, found.untuned.selection, found.untuned.selected_on) == (by_dev, "dev", "dev")
    best = max(report.result(name, "average").value for name in untuned)
    assert found.highest_untuned.value == best
    assert found.is_above_every_untuned == (found.tuned.value > best)
    assert found.untuned.candidates == len(untuned)


def test_three_formats_hold_the_same_figures(report: Report, config: EvalConfig, tmp_path: Path) -> None:
    paths = write_report(report, tmp_path / "report")
    tree = json.loads(paths.json.read_text())
    markdown, page = paths.markdown.read_text(), paths.html.read_text()
    values = {(r["system"], r["task"], r["metric"]): r["value"] for r in tree["results"]}
    cells = _tables(page)
    for name in report.systems:
        *figures, average = [hundred(values[name, task, "spearman_all"]) for task in report.columns]
        shown = name.replace("|", "\\|")
        [line] = [line for line in markdown.splitlines() if line.startswith(f"| {shown} | {average} | ")][:1]
        assert line.endswith(" | " + " | ".join(figures) + " |")
        assert any(row[:2] == [name, average] and row[-len(figures) :] == figures for row in cells)
    for line in headline(report):
        assert line in markdown
        assert line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
    table = format_table(report)
    assert headline(report)[0] in table
    assert f"{hundred(values[report.highlights[0], 'average', 'spearman_all'])}" in table
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.json", "report.md", "report.html",
        "averages.png", "tests.png", "layers.png", "layers-post.png", "dimensions.png",
        "cosines-0.png", "cosines-1.png",
    }  # fmt: skip
    for picture in paths.pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert f"({picture.name})" in markdown


class _Page(HTMLParser):
    """Tags that could fetch something, and the cells of every table row."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self.lasttag == "td":
            self.rows[-1][-1] += data


def _tables(page: str) -> list[list[str]]:
    parser = _Page()
    parser.feed(page)
    return parser.rows


def test_the_page_fetches_nothing_and_escapes_prompts(report: Report, tmp_path: Path) -> None:
    page = write_report(report, tmp_path).html.read_text()
    parser = _Page()
    parser.feed(page)
    assert len(parser.sources) == 7
    assert all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert not parser.tags & {"link", "iframe", "object", "b"}
    assert "url(" not in page
    assert "@import" not in page


def test_a_table_without_anything_tuned(config: EvalConfig, tmp_path: Path) -> None:
    lone = replace(config, tests=config.tests[:1], systems=replace(config.systems, post=("raw",), poolings=("last",)))
    report = evaluate(lone, base=FakeEncoder(), tuned={}, progress=False)
    assert report.comparison is not None and report.comparison.tuned is report.reference is None
    assert report.columns == ["test3"]
    assert re.match(r"Spearman x 100, test set test3: \d+\.\d+ best untuned \(untuned/", headline(report)[0])
    assert "selected on dev from 2 rows" in headline(report)[0]
    paths = write_report(report, tmp_path)
    assert [path.name for path in paths.pictures] == ["averages.png", "tests.png", "layers.png"]
    assert "cosines-0.png" not in paths.markdown.read_text()
    assert json.loads(paths.json.read_text())["provenance"]["whitening_fit"] is None


def test_a_figure_that_does_not_exist_is_null(config: EvalConfig, tmp_path: Path) -> None:
    class Overflowing(FakeEncoder):
        def _vector(self, text: str, view: object, prompt: str) -> np.ndarray:
            return np.full(16, np.nan)

    report = evaluate(config, base=FakeEncoder(), tuned={"broken": Overflowing()}, progress=False)
    assert math.isnan(report.result("tuned/broken", "average").value)
    tree = json.loads(to_json(report))
    row = next(row for row in tree["results"] if row["system"] == "tuned/broken")
    assert row["value"] is row["ci_low"] is None
    assert report.comparison is not None
    assert not report.comparison.is_above_every_untuned
    assert "Tuned minus untuned: not available, because a score is missing." in headline(report)
    assert "| tuned/broken | – |" in to_markdown(report)
    write_report(report, tmp_path)


def test_same_config_same_figures(config: EvalConfig, report: Report) -> None:
    tuned = {"mine": FakeEncoder(ModelConfig(pooling="last", layer=-1), noise=(0.1, 0.1, 0.1))}
    again = evaluate(config, base=FakeEncoder(noise=(4.0, 0.5, 3.0)), tuned=tuned, progress=False)
    assert again.results == report.results


def test_tests_meet_one_forward_pass_a_prompt(config: EvalConfig) -> None:
    base = FakeEncoder()
    evaluate(config, base=base, tuned={}, progress=False)
    texts = len({text for path in config.tests for text in load_task(path).test.queries})
    assert [call[0] for call in base.calls if call[1] == texts] == list(config.systems.prompts)


def test_overlap_counts(tmp_path: Path) -> None:
    rows = [
        {"sentence1": "A cat sat.", "sentence2": "a  CAT sat", "score": 5},
        {"sentence1": "Dogs run!", "sentence2": "Birds fly.", "score": 0},
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = [EvaluationSet.from_pairs(load_task(path).test_pairs)]
    (found,) = measure({"train": ["A cat sat.", "dogs run", "else"]}, sets).counts
    assert (found.texts, found.exact, found.normalized, found.pairs, found.pairs_with_both) == (4, 1, 3, 2, 1)
    assert normalized("Ｄon't  STOP—now!") == "don t stop now"


def test_fit_text_is_sampled_without_evaluation_texts(tmp_path: Path) -> None:
    texts = load_task(write_similarity(tmp_path / "test.jsonl", 30, 1)).test.queries
    pool = [*texts[:10], *(f"new {index}" for index in range(40))]
    fit = sample_fit_text({"a": pool, "b": pool[:5]}, texts, 100, 0)
    assert sorted(fit.sentences) == sorted(pool[10:])
    assert fit.dropped == 10
    assert sample_fit_text({"a": pool}, texts, 7, 0) == sample_fit_text({"a": pool}, texts, 7, 0)
    assert len(sample_fit_text({"a": pool}, texts, 7, 0).sentences) == 7
    assert sample_fit_text({"a": pool}, texts, 7, 0).sha256 != sample_fit_text({"a": pool}, texts, 7, 1).sha256


def test_training_texts_of_files_and_of_runs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 5, 0)
    assert len(read_training_texts(TextSource(str(pairs)))) == 10
    (tmp_path / "lines.txt").write_text("one\n\ntwo\none\n")
    assert read_training_texts(TextSource(str(tmp_path / "lines.txt"))) == ["one", "two"]
    (tmp_path / "wrong.jsonl").write_text('{"a": "x"}\n')
    with pytest.raises(UserError, match=r"none of the columns \['a'\] contains texts"):
        read_training_texts(TextSource(str(tmp_path / "wrong.jsonl")))
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / "config.yaml").write_text(f"data:\n- path: {pairs}\n- path: {tmp_path / 'gone.jsonl'}\n")
    assert list(run_sources(str(run))) == list(run_sources(str(run / "adapter"))) == [str(pairs)]
    assert run_sources(str(tmp_path)) == {}


def test_training_texts_of_a_run_are_those_it_read(tmp_path: Path) -> None:
    """Its columns, limit and negatives; of a source named twice both parts."""
    rows = [{"q": f"q{i}", "d": f"d{i}", "bad": f"n{i}", "negative_1": f"m{i}", "text": "never"} for i in range(4)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    source = {"path": str(pairs), "anchor": "q", "positive": "d", "only": [], "limit": 1, "negatives": ["bad"]}
    third = {"path": str(pairs), "anchor": "q", "positive": "d", "only": ["q=q3"], "negatives": []}
    data = [source, {**source, "limit": 2, "negatives": None}, third]
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data}))
    assert sorted(run_sources(str(tmp_path))[str(pairs)]) == sorted(
        ["q0", "d0", "n0", "q1", "d1", "m0", "m1", "q3", "d3"]
    )


def test_runs_of_different_parts_of_a_file_are_all_counted(tmp_path: Path) -> None:
    """And what they share is read once."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(4)])
    for run, rows in {"first": ["anchor=a0"], "second": ["anchor=a3"], "third": ["anchor=a3"]}.items():
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").write_text(json.dumps({"data": [{"path": str(pairs), "only": rows}]}))
    runs = [str(tmp_path / run) for run in ("first", "second", "third")]
    with mock.patch.object(trained_on, "read_training_texts", wraps=read_training_texts) as reads:
        assert sorted(run_sources(*runs)[str(pairs)]) == ["a0", "a3", "p0", "p3"]
    assert reads.call_count == 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written; a file is in the way"):
        check_writable(tmp_path / "file" / "report")


def test_command_line(
    config: EvalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dec2vec.config.load import dump

    path = tmp_path / "eval.yaml"
    path.write_text(dump(config))
    loaded: list[str] = []

    def load(wanted: ModelConfig) -> FakeEncoder:
        loaded.append(wanted.name_or_path)
        return FakeEncoder(noise=(0.1, 0.1, 0.1) if "mine" in wanted.name_or_path else (4.0, 0.5, 3.0))

    monkeypatch.setattr("dec2vec.encoder.Encoder.load", load)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").touch()
    command_line.main([str(path), "--output_dir", str(tmp_path / "out"), "--tuned", str(tmp_path / "mine")])
    printed = capsys.readouterr().out
    assert loaded == [str(tmp_path / "mine"), "fake"]
    assert "Tuned above every untuned row: no. The highest of " in printed
    assert str(tmp_path / "out" / "report" / "report.html") in printed
    assert report_folder(replace(config, output_dir=str(tmp_path / "out"))).is_dir()
