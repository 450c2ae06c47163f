"""What must change a published figure, and what must not: whole evaluations, run twice with one thing different."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec.config.load import validate
from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Moments, Whitening, fit_whitening
from eval.config import EvalConfig, IsotropyConfig
from eval.report.html import to_html
from eval.report.markdown import to_markdown
from eval.report.overview import overview_rows
from eval.report.report import Report, format_table, headline
from eval.report.report_json import to_json
from eval.results.headline import Headline
from eval.results.results import Result
from eval.run import evaluate
from eval.systems.system import own_view
from eval.tasks.sts import load_task
from eval.tasks.task import TaskVectors
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder
from tests.task_data import collection, labelled_pairs, topics


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def config(place: Path) -> EvalConfig:
    """Similarity with a dev file, a task with dev data of its own, and two without."""
    pairs = [str(labelled_pairs(place / f"{name}.jsonl", seed)) for name, seed in (("pairs", 5), ("pairs-dev", 6))]
    return validate(
        EvalConfig,
        {
            "dev": str(write_similarity(place / "sts-dev.jsonl", 60, 1)),
            "tests": [str(write_similarity(place / "sts.jsonl", 60, 3))],
            "fit": [str(write_pairs(place / "fit.jsonl", 60, 2))],
            "systems": {"prompts": ["bare"], "poolings": ["last", "mean"], "dimensions": [16, 8]},
            "pairs": [{"test": pairs[0], "dev": pairs[1]}],
            "clustering": [{"test": str(topics(place / "news.jsonl", 12, 1)), "seeds": 2}],
            "retrieval": [{"path": str(collection(place / "found"))}],
            "baselines": ["tfidf", "char-ngrams"],
            "bootstrap": 100,
        },
    )


def encoder(**options: Any) -> FakeEncoder:
    return FakeEncoder(ModelConfig(pooling="last", layer=-1), **{"noise": (4.0, 0.3, 0.3), **options})


def evaluated(config: EvalConfig, **tuned: FakeEncoder) -> Report:
    return evaluate(config, base=FakeEncoder(), tuned=tuned or {"a": encoder()}, progress=False)


@pytest.fixture(scope="module")
def report(config: EvalConfig) -> Report:
    return evaluated(config)


def all_rows(report: Report) -> dict[tuple[str, str, str, bool], Result]:
    """By system, task and metric every figure of the report."""
    rows = [*report.results, *(row for table in report.tasks for row in table.rows)]
    return {(row.system, row.task, row.metric, row.clean): row for row in rows}


def headlines(report: Report) -> dict[str, Headline]:
    found = {table.name: table.headline for table in report.tasks} | {"average": report.comparison}
    return {name: item for name, item in found.items() if item is not None}


def same_values(one: Report, other: Report, *, but: str = "no system") -> None:
    """Every figure of `one` is in `other`, but of systems whose names begin with `but`; intervals may differ."""
    rows = all_rows(other)
    for key, row in all_rows(one).items():
        if not key[0].startswith(but) and row.subject.kind != "difference":
            assert rows[key].value == pytest.approx(row.value, abs=1e-6, nan_ok=True), key
            assert (rows[key].n, rows[key].selection, rows[key].chosen_on) == (row.n, row.selection, row.chosen_on)


def test_a_renamed_run_changes_names_only(report: Report, config: EvalConfig) -> None:
    renamed = to_json(evaluated(config, a_new_name=encoder()))
    one, other = (json.loads(text) for text in (to_json(report), renamed.replace("tuned/a_new_name", "tuned/a")))
    for tree in (one, other):
        tree["provenance"]["seconds"] = 0
        tree["costs"] = {}
        for effort in tree["efforts"].values():
            effort["texts_per_second"] = None  # measured by the clock
    assert json.dumps(other).replace("a_new_name", "a") == json.dumps(one)


def permuted(path: str) -> None:
    lines = Path(path).read_text().splitlines(keepends=True)
    shuffled = [lines[row] for row in np.random.default_rng(0).permutation(len(lines))]
    Path(path).write_text("".join(shuffled))


@pytest.fixture
def changed(config: EvalConfig, place: Path) -> Iterator[Callable[[Callable[[str], None]], list[str]]]:
    """Applies a function to each test file of the configuration; the files are restored afterwards."""
    paths = [config.tests[0], config.pairs[0].test, str(place / "found" / "queries.jsonl")]
    before = {path: Path(path).read_text() for path in paths}

    def change(function: Callable[[str], None]) -> list[str]:
        for path in paths:
            function(path)
        return paths

    yield change
    for path, text in before.items():
        Path(path).write_text(text)


def test_permuted_rows_of_a_test_change_no_figure(
    report: Report, config: EvalConfig, changed: Callable[[Callable[[str], None]], list[str]]
) -> None:
    """Other resamples are drawn, so intervals move by the noise of 100 resamples."""
    changed(permuted)
    other = evaluated(config)
    same_values(report, other)
    rows = all_rows(other)
    moved = 0
    for key, row in all_rows(report).items():
        if row.low is not None and key[1] in ("sts", "pairs"):
            assert rows[key].low == pytest.approx(row.low, abs=0.12), key
            moved += rows[key].low != row.low
    assert moved > 0, "the permutation did reach the figures"


def test_a_copy_of_a_test_has_the_same_figures_and_moves_no_average(
    report: Report, config: EvalConfig, place: Path
) -> None:
    copy = place / "copy.jsonl"
    copy.write_text(Path(config.tests[0]).read_text())
    twice = evaluated(replace(config, tests=(*config.tests, str(copy))))
    for name in report.systems:
        value = report.result(name, "sts").value
        assert [twice.result(name, task).value for task in ("sts", "copy", "average")] == pytest.approx([value] * 3)
    for task, found in headlines(report).items():
        other = headlines(twice)[task]
        assert other.tuned is not None and found.tuned is not None and other.outside is not None
        assert (other.tuned.name, other.tuned.value) == (found.tuned.name, pytest.approx(found.tuned.value))


def shifted(path: str) -> None:
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    moved = [{**row, "score": 20 * row["score"] - 7} if "score" in row and "sentence1" in row else row for row in rows]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in moved))


def test_a_shifted_and_scaled_gold_score_changes_nothing(
    report: Report, config: EvalConfig, changed: Callable[[Callable[[str], None]], list[str]]
) -> None:
    before = Path(config.tests[0]).read_text()
    changed(shifted)
    assert Path(config.tests[0]).read_text() != before
    rows = all_rows(evaluated(config))
    for key, row in all_rows(report).items():
        for bound in ("value", "low", "high"):
            wanted = getattr(row, bound)
            assert wanted is None or getattr(rows[key], bound) == pytest.approx(wanted, abs=1e-9), key


def test_a_second_tuned_run_changes_no_figure_of_the_first(report: Report, config: EvalConfig) -> None:
    other = evaluated(config, a=encoder(), worse=encoder(noise=(4.0, 3.0, 3.0)))
    same_values(report, other)
    found = headlines(other)
    for task, one in headlines(report).items():
        tuned = found[task].tuned
        assert tuned is not None and one.tuned is not None
        assert (tuned.name, tuned.value, tuned.candidates) == (one.tuned.name, one.tuned.value, 2), "dev put it first"
        assert (tuned.selection, tuned.selected_on) == {
            "average": ("dev", "sts-dev"),
            "pairs": ("dev", "pairs dev"),
        }.get(task, ("other dev", "sts-dev"))


def test_a_second_seed_changes_intervals_alone(report: Report, config: EvalConfig) -> None:
    other = evaluated(replace(config, seed=7))
    same_values(report, other)
    rows = all_rows(other)
    assert any(rows[key].low != row.low for key, row in all_rows(report).items())


def test_one_more_baseline_changes_no_other_row(report: Report, config: EvalConfig) -> None:
    more = evaluated(replace(config, baselines=(*config.baselines, "bag-of-words")))
    same_values(report, more)
    for task, found in headlines(more).items():
        before = headlines(report)[task]
        assert found.outside is not None and before.outside is not None
        assert found.outside.candidates == 3 and found.outside.value >= before.outside.value
        for one, other in zip(parts(found), parts(before), strict=True):
            assert repr(one) == repr(other), "nan is nan here"


def parts(found: Headline) -> tuple[object, ...]:
    """What does not speak of outside rows."""
    return found.tuned, found.untuned, found.highest_untuned, found.to_untuned, found.to_highest_untuned


@pytest.mark.parametrize("section", ["tests", "pairs", "clustering", "retrieval"])
def test_an_empty_test_is_refused_with_one_line(config: EvalConfig, place: Path, section: str) -> None:
    (place / "empty.jsonl").write_text("")
    empty, judged = str(place / "empty.jsonl"), place / "empty"
    shutil.copytree(place / "found", judged, dirs_exist_ok=True)
    (judged / "queries.jsonl").write_text("")
    sections: dict[str, Any] = {
        "tests": (empty,),
        "pairs": (replace(config.pairs[0], test=empty),),
        "clustering": (replace(config.clustering[0], test=empty),),
        "retrieval": (replace(config.retrieval[0], path=str(judged)),),
    }
    with pytest.raises(UserError, match=r"empty|queries") as caught:
        evaluated(replace(config, **{section: sections[section]}))
    assert "\n" not in str(caught.value)


def test_a_copy_of_the_base_gains_nothing(config: EvalConfig) -> None:
    """The same vectors on both sides: each difference is 0, with an interval of 0 and a p-value of 1, or without."""
    base = FakeEncoder(ModelConfig(pooling="last", layer=1))
    alone = replace(config, systems=replace(config.systems, poolings=("last",), layers=(1,), post=("raw",)), fit=())
    copy = evaluate(replace(alone, baselines=()), base=base, tuned={"copy": base}, progress=False)
    for task, found in headlines(copy).items():
        gap = found.to_untuned
        assert gap is not None and gap.value == 0 and gap.is_tie, task
        assert gap.no_interval or (gap.low, gap.high, gap.p_value) == (0, 0, 1), task


def test_the_headline_is_the_run_as_it_is_exported(report: Report) -> None:
    """Clusters of news, with a similarity dev file that prefers the whitened run: the raw one is in the headline."""
    devs = {name: report.result(name, "sts-dev").value for name in report.systems if name.startswith("tuned/a")}
    [whitened] = [name for name in devs if "+whiten" in name]
    assert devs[whitened] > devs["tuned/a"], "dev prefers what is not exported"
    for task, found in headlines(report).items():
        assert found.tuned is not None and (found.tuned.name, found.tuned.selection) == ("tuned/a", "fixed"), task
    [news] = [table for table in report.tasks if table.name == "news/clusters"]
    rows = {row.system: row for row in news.rows if row.metric == news.metric}
    whitened_here = next(name for name in rows if name.startswith("tuned/a+whiten") and "minus" not in name)
    assert (rows[whitened_here].selection, rows[whitened_here].chosen_on) == ("other dev", "sts-dev")
    assert (rows["tuned/a"].selection, rows["tuned/a"].chosen_on) == ("fixed", None)
    assert {row.dev_metric for row in rows.values() if row.dev is not None} == {"spearman_all"}
    assert news.headline is not None and news.headline.untuned is not None
    assert (news.headline.untuned.name, news.headline.untuned.selection) == ("untuned/bare/last@2", "fixed")
    assert "sts-dev, another task" in to_markdown(report)


def own_whitening(config: EvalConfig, tuned: FakeEncoder) -> Whitening:
    view, moments = own_view(tuned), Moments(16)
    texts = [text for line in Path(config.fit[0]).read_text().splitlines() for text in json.loads(line).values()]
    moments.update(tuned.encode_views(texts[:70], [view], EncodeOptions("bare"))[view])
    return fit_whitening(moments, k=5)


def test_a_run_that_exports_a_whitening_is_whitened_by_it(report: Report, config: EvalConfig) -> None:
    """By the very map that it exports, not by one that the evaluation fits."""
    tuned = encoder()
    tuned.whitening = own_whitening(config, tuned)
    other = evaluated(config, a=tuned)
    for task, found in headlines(other).items():
        assert found.tuned is not None and found.tuned.name == "tuned/a+whiten-5", task
    same_values(report, other, but="tuned/a+whiten")
    task = load_task(config.tests[0])
    view = own_view(tuned)
    vectors = tuned.whitening.apply(tuned.encode_views(task.test.queries, [view], EncodeOptions("bare"))[view])
    expected = task.dev_score(TaskVectors.from_queries(vectors))
    assert other.result("tuned/a+whiten-5", "sts").value == pytest.approx(expected, abs=1e-6)
    exported = {row.system for row in all_rows(other).values() if row.subject.exported}
    assert exported == {"tuned/a+whiten-5"} and "tuned/a" in other.systems


def test_figures_of_the_headline_are_those_of_the_rows(report: Report) -> None:
    rows = all_rows(report)
    for task, found in headlines(report).items():
        parties = [found.tuned, found.untuned, found.outside, found.highest_untuned]
        named = [rows[party.name, task, found.metric, False] for party in parties if party is not None]
        assert [row.value for row in named] == [party.value for party in parties if party is not None]
        assert [row.low for row in named] == [party.low for party in parties if party is not None]
        for gap, rival in ((found.to_untuned, found.untuned), (found.to_outside, found.outside)):
            assert gap is not None and rival is not None and found.tuned is not None
            row = rows[f"{found.tuned.name} minus {rival.name}", task, found.metric, False]
            assert (row.value, row.low, row.high) == (gap.value, gap.low, gap.high)
            assert gap.value == pytest.approx(found.tuned.value - rival.value)
            assert gap.p_corrected >= gap.p_value or (
                gap.no_interval and np.isnan([gap.p_corrected, gap.p_value]).all()
            )
        systems = {key[0]: row for key, row in rows.items() if key[1:] == (task, found.metric, False)}
        outside = {name: row.value for name, row in systems.items() if row.subject.kind == "baseline"}
        assert found.outside is not None and found.outside.value == max(outside.values())
        assert found.outside.candidates == len(outside) == 2
        assert found.highest_untuned is not None and found.tuned is not None and found.untuned is not None
        luckiest = found.to_highest_untuned
        assert (luckiest is None) == (found.highest_untuned.name == found.untuned.name)
        if luckiest is not None:
            assert luckiest.value == pytest.approx(found.tuned.value - found.highest_untuned.value)
        assert found.highest_untuned.value == max(row.value for row in systems.values() if row.subject.is_rival)
        kinds = ("system", "baseline")
        assert found.compared == sum(row.subject.kind in kinds for row in systems.values())


def test_the_headline_is_the_same_everywhere(report: Report) -> None:
    tree = json.loads(to_json(report))
    page, markdown, terminal = unescape(to_html(report, _Pictures())), to_markdown(report), format_table(report)
    assert [item["task"] for item in tree["headlines"]] == ["average", "pairs", "news/clusters", "found"]
    for item in tree["headlines"]:
        assert item["tuned"]["name"] == "tuned/a" and item["outside"]["name"].startswith("baseline/")
        for sentence in item["sentences"]:
            assert sentence in page and sentence in markdown and sentence in terminal, sentence
    assert all(line in markdown for line in headline(report))


class _Pictures(dict[str, bytes]):
    """No picture is drawn."""

    def __missing__(self, name: str) -> bytes:
        return b""


def test_a_description_has_its_own_metric_in_its_headline_and_no_best_row(config: EvalConfig, place: Path) -> None:
    """IsoScore in the table and in the headline, where a mean cosine stood; nothing is best where higher is not."""
    spread = (IsotropyConfig(path=str(place / "news.jsonl")),)
    report = evaluated(replace(config, isotropy=spread, pairs=(), clustering=()))
    for table in report.tasks:
        assert table.headline is not None and table.headline.metric == table.metric
    table = next(table for table in report.tasks if table.kind == "isotropy")
    found = table.headline
    assert found is not None and found.tuned is not None and found.untuned is not None
    assert found.tuned.value == all_rows(report)[found.tuned.name, table.name, "IsoScore", False].value
    assert found.outside is None and found.highest_untuned is None and found.to_outside is None
    assert not any(" minus baseline/" in row.system for row in table.rows)
    page, row = to_markdown(report), next(row for row in overview_rows(report) if row[0] == table.name)
    assert "This describes the vectors: a higher figure is not a better one." in page
    assert row[1] == "IsoScore" and row[6:] == ["–"] * 6
    judged = next(row for row in overview_rows(report) if row[0] == "found")
    assert judged[7] in ("yes", "no") and judged[8] != "–"
