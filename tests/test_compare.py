"""`dec2vec compare`: reports of several runs side by side, and which ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dec2vec import cli
from dec2vec.errors import UserError
from eval.compare.compare import CompareArgs
from eval.compare.saved_report import _with_fields, read_report
from eval.compare.tables import NOTE, comparison_tables, notes_of, older_notes, seed_warnings
from eval.report.report_json import to_json
from eval.results.results import AVERAGE
from tests.report_data import OTHERS, OUTSIDE, RIVAL, TESTS, TUNED, full_report

GAPS = {"mine-seed1": 0.08, "mine-seed2": 0.05, "other": 0.02}


def write_run(folder: Path, gap: float, *, digest: str = "same", tests: tuple[str, ...] = TESTS) -> Path:
    data = {name: {"pairs": 100, "sha256": f"{digest} {name}"} for name in ("dev", *tests)}
    report = replace(
        full_report(gap=gap), provenance={"data": data}, dev_curves=(), scatter=(), confusions=(), curves=()
    )
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(to_json(replace(report, tests=tests)))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("runs")
    return {name: str(write_run(place / name, gap)) for name, gap in GAPS.items()}


def compare(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(["compare", *argv])
    done = capsys.readouterr()
    return code, done.out, done.err


def test_a_row_a_run_and_the_spread_of_its_seeds(runs: dict[str, str]) -> None:
    main, untuned, outside = comparison_tables([read_report(path) for path in runs.values()])
    rows = {row[0]: row for row in main.rows}
    assert list(rows) == ["mine-seed1", "mine-seed2", "mean of mine (n = 2)", "sd of mine (n = 2)", "other"]
    assert main.header == ["run", *TESTS, AVERAGE, "95 % interval", "minus untuned", "95 % interval", "p"]
    assert rows["mine-seed1"][4:] == ["58.00", "55.00 to 61.00", "+8.00", "4.00 to 12.00", "0.002"]
    assert rows["other"][6:] == ["+2.00", "-2.00 to 6.00 (tie)", "0.400"]
    averages = [58.0, 55.0]
    assert rows["mean of mine (n = 2)"][4] == f"{np.mean(averages):.2f}"
    assert rows["sd of mine (n = 2)"][4] == f"{np.std(averages, ddof=1):.2f}"
    assert [[row[0], row[-1]] for row in untuned.rows] == [[RIVAL, "all"]]
    assert outside.rows[0] == ["mine-seed1", OUTSIDE, "45.00", "42.00 to 48.00", "+13.00", "+9.00 to +17.00"]


def test_several_p_values_are_said_to_be_uncorrected(runs: dict[str, str]) -> None:
    reports = [read_report(path) for path in runs.values()]
    assert "The p-values are not corrected for 3 comparisons." in notes_of(reports)
    assert notes_of(reports[:1]) == [NOTE]


def test_group_takes_all_runs_as_seeds(runs: dict[str, str]) -> None:
    main, *_ = comparison_tables([read_report(path) for path in runs.values()], group=True)
    assert [row[0] for row in main.rows][3:] == ["mean of all runs (n = 3)", "sd of all runs (n = 3)"]
    assert main.rows[3][4] == "55.00"
    assert main.rows[4][4] == f"{np.std([58, 55, 52], ddof=1):.2f}"


def recipe_of(place: Path, name: str, gap: float, recipe: dict[str, object] | None) -> str:
    """A saved report whose provenance says how its run was trained."""
    path = write_run(place / name, gap) / "report" / "report.json"
    tree = json.loads(path.read_text())
    if recipe is not None:
        tree["provenance"]["recipes"] = {TUNED.removeprefix("tuned/"): recipe}
    path.write_text(json.dumps(tree))
    return str(path)


def test_runs_of_one_name_and_two_recipes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low = {"optim.lr": 1e-5, "optim.steps": 100}
    runs = {
        "a-seed1": low,
        "a-seed2": dict(low),
        "b-seed1": low,
        "b-seed2": {**low, "optim.lr": 2e-5},
        "c-seed1": low,
        "c-seed2": None,
    }
    paths = [recipe_of(tmp_path, name, 0.05, recipe) for name, recipe in runs.items()]
    reports = [read_report(path) for path in paths]
    warnings = seed_warnings(reports)
    assert warnings == [
        "Warning: b: the runs differ in other settings than the seed: optim.lr is b-seed1 1e-05, b-seed2 2e-05.",
        "Note: c are treated as seeds because of their names; there is no record of how c-seed2 was trained.",
    ]
    assert len(seed_warnings(reports, group=True)) == 1
    _, out, _ = compare(capsys, *paths, "--output", str(tmp_path / "all.md"))
    assert warnings[0] in out and warnings[0] in (tmp_path / "all.md").read_text()
    assert "Warning: a" not in out and "Note: a" not in out


def test_without_similarity_there_is_nothing_to_compare(tmp_path: Path) -> None:
    path = write_run(tmp_path / "tasks", 0.05) / "report" / "report.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "results": [], "tests": [], "dev": "", "provenance": {"data": {}}}))
    with pytest.raises(UserError, match=r"report.json has no similarity tests"):
        read_report(str(path))


def test_terminal_and_files(runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("md", "html"):
        code, out, _ = compare(capsys, *runs.values(), "--output", str(tmp_path / "new" / f"all.{suffix}"))
        assert code == 0 and "mean of mine (n = 2)" in out and "all." in out
        text = (tmp_path / "new" / f"all.{suffix}").read_text()
        assert "mine-seed2" in text and "+5.00" in text
    assert "http" not in text.replace("http-equiv", "") and "<script>" in text
    code, out, _ = compare(capsys, *runs.values(), "--group")
    assert code == 0 and "mean of all runs" in out


def test_a_report_is_found_by_run_folder_or_file(runs: dict[str, str]) -> None:
    folder = Path(runs["other"])
    for place in (folder, folder / "report", folder / "report" / "report.json"):
        assert read_report(str(place)).name == "other"


def test_reports_without_anything_tuned_and_of_the_first_version(tmp_path: Path) -> None:
    run = write_run(tmp_path / "old-seed1", 0.08)
    path = run / "report" / "report.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({key: tree[key] for key in ("provenance", "results", "overlap")}))
    old = read_report(str(run))
    assert (old.tuned, old.untuned, old.p_value, list(old.tests)) == (TUNED, RIVAL, None, list(TESTS))
    assert old.is_older and old.outside is None
    fresh = read_report(str(write_run(tmp_path / "new", 0.08)))
    [line] = older_notes([old, fresh])
    assert line.startswith("Warning: old-seed1: reports of an earlier version") and older_notes([old, old]) == []
    tree["comparison"] = None
    tree["results"] = [row for row in tree["results"] if row["system"] in (RIVAL, *OTHERS)]
    path.write_text(json.dumps(tree))
    lone = read_report(str(run))
    assert (lone.tuned, lone.best, lone.gain) == (None, RIVAL, None)
    main, *_ = comparison_tables([lone, replace(old, name="old-seed2")])
    assert main.rows[0][0] == "old-seed1 (nothing tuned)" and main.rows[0][-3:] == ["–", "–", "–"]
    assert main.rows[2][6] == "–"


def test_reports_whose_rows_do_not_say_what_they_are(tmp_path: Path) -> None:
    """As they were written before: the same comparison comes out, and the tuned run's recipe is found."""
    path = write_run(tmp_path / "a-seed1", 0.08) / "report" / "report.json"
    tree = json.loads(path.read_text())
    names = {"tuned/a+b-seed1": None, "tuned/a+whiten-64(transductive)": None, "baseline/tfidf": 0.99}
    extra = [{**tree["results"][0], "system": name, "task": "dev", "value": value} for name, value in names.items()]
    recipe = {TUNED.removeprefix("tuned/"): {"optim.lr": 1e-5}}
    tree["provenance"]["recipes"] = recipe
    path.write_text(json.dumps(tree))
    new = read_report(str(path))
    fields = ("kind", "of", "run", "post", "k", "transductive", "clean")
    old_rows = [{key: value for key, value in row.items() if key not in fields} for row in [*tree["results"], *extra]]
    path.write_text(json.dumps({**tree, "results": old_rows}))
    old = read_report(str(path))
    assert {key: old.scores[key] for key in new.scores} == new.scores
    assert ("baseline/tfidf", "dev") not in old.scores
    assert replace(old, scores=new.scores) == new and new.recipe == recipe[TUNED.removeprefix("tuned/")]
    typed = _with_fields({"system": "tuned/a+whiten-64(transductive)", "metric": "spearman_all_clean"})
    assert (typed["run"], typed["transductive"], typed["clean"], typed["kind"]) == ("a", True, True, "system")
    assert _with_fields({"system": "tuned/a+b-seed1", "metric": "spearman_all"})["run"] == "a+b-seed1"


def test_mistakes_are_one_line(runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, fewer = runs["other"], write_run(tmp_path / "fewer", 0.01, tests=TESTS[:2])
    changed = write_run(tmp_path / "changed", 0.01, digest="another")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "report.json"
    broken.write_text("[1]")
    cases = {
        (mine,): "give at least two runs",
        (): "give at least two runs",
        (mine, str(tmp_path / "gone")): "gone: there is no such folder; evaluate the run first",
        (mine, str(tmp_path / "empty")): "empty: there is no report/report.json in it",
        (mine, str(broken)): "report.json: not a report of dec2vec (Type",
        (mine, str(fewer)): "was tested on sts12, sts13, ",
        (mine, str(changed)): "sts12 has different pairs in ",
        (mine, mine): "two runs have the name other",
        (mine, runs["mine-seed1"], "--output", "x.pdf"): "--output x.pdf: must end in .html or .md",
        (mine, "--outptu", "x"): "did you mean output?",
    }
    for argv, message in cases.items():
        code, out, err = compare(capsys, *argv)
        assert (code, out) == (2, ""), argv
        assert message in err and err.count("\n") == 1, err


def test_options() -> None:
    assert list(CompareArgs.__dataclass_fields__) == ["runs", "output", "group"]
