"""The whole page, every optional part filled: order, marks, nothing fetched. `test_report_browser` opens it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import findfont, get_font
from sklearn.metrics import average_precision_score, confusion_matrix, precision_score, recall_score

from eval.report.blocks import Picture, Table
from eval.report.markdown import to_markdown
from eval.report.numbers import hundred
from eval.report.overview import find_duel, main_rows, overview_rows
from eval.report.plots import style as plots_style
from eval.report.report import headline, task_lines
from eval.report.report_json import to_json
from eval.report.sections import sections
from eval.report.write import write_report
from eval.results.diagnostics import MAX_CURVE, Confusion, PrecisionRecall, Scatter
from eval.results.headline import Party
from eval.results.results import Result, TaskTable
from eval.selection.dev_curves import by_dimension, by_layer
from eval.systems.subject import Subject
from tests.report_data import LABELS, OTHERS, OUTSIDE, RIVAL, TUNED, full_report

REPORT = full_report()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    write_report(REPORT, place)
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


class _Page(HTMLParser):
    """What could fetch, the headings, and rows by class."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.row = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        names = ("src", "href", "srcset", "data", "action", "background", "poster")
        self.fetched += [found[name] or "" for name in names if name in found]
        self.open.append(tag)
        if tag == "tr":
            self.row = found.get("class") or ""
        if tag == "h2":
            self.headings.append("")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings[-1] += data
        if self.open and self.open[-1] == "td":
            self.rows.setdefault(self.row, []).append(data)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


def parsed(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    return parser


def test_top_down(page: str) -> None:
    found = parsed(page)
    wanted = [
        "Tuned run, untuned and outside systems", "Systems and tests", "Task: iflytek-6", "Intervals", "Score by layer",
        "Quality by dimension", "Cosines by gold similarity",
        "Vectors by label", f"Confusion: iflytek-6, {TUNED}", "Precision and recall",
        "Aggregation over sub-sets", "Overlap of training and evaluation texts", "Cost", "Command", "Provenance",
    ]  # fmt: skip
    assert found.headings == wanted
    assert re.findall(r"^## (.+)$", to_markdown(REPORT), re.MULTILINE) == wanted
    assert page.index("headline") < page.index("<table") < page.index("<img")
    assert RIVAL in found.rows["best"] and TUNED not in found.rows["best"]
    assert TUNED in found.rows["tuned"] and OTHERS[0] in found.rows["untuned"]
    assert "dec2vec eval configs/eval/sts-en.yaml --tuned runs/english-8m-seed1</pre>" in page
    assert "| untuned: prompteol | 1,200 | 23,456 | 8 | 9,592 | 12.3 |" in to_markdown(REPORT)


def test_nothing_is_fetched_and_everything_is_escaped(page: str) -> None:
    found = parsed(page)
    assert len(found.fetched) == page.count("<img") == 11
    assert all(source.startswith("data:image/png;base64,") for source in found.fetched)
    assert "@import" not in page and "url(" not in page and "//" not in re.sub(r"base64,[^\"]+", "", page)
    assert "default-src 'none'" in page and 'name="viewport" content="width=device-width' in page
    assert OTHERS[1] not in page and escape(OTHERS[1]) in page
    assert LABELS[1] not in page


def test_three_formats_hold_the_same_tables(page: str) -> None:
    markdown, tree = to_markdown(REPORT), json.loads(to_json(REPORT))
    for section in sections(REPORT):
        for table in (block for block in section.blocks if isinstance(block, Table)):
            for row in table.rows:
                assert "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" in markdown
                assert "".join(f"<td>{escape(cell)}</td>" for cell in row) in page
    assert tree["comparison"]["p_value"] == 0.002 and tree["comparison"]["is_tie"] is False
    assert tree["tasks"][0]["rows"][0]["value"] == 0.81
    assert [len(column) for column in tree["sweep"].values()] == [len(REPORT.dev_curves)] * 7
    assert tree["sweep"]["dev_score"][-1] is None
    assert np.array(tree["confusions"][0]["counts"]).sum() == 300
    assert tree["curves"][0]["threshold"] == 0.55


def test_pictures_are_those_the_sections_name(folder: Path) -> None:
    named = {block.file for section in sections(REPORT) for block in section.blocks if isinstance(block, Picture)}
    assert named == {path.name for path in folder.glob("*.png")}


def test_what_is_absent_is_left_out(tmp_path: Path) -> None:
    bare = replace(REPORT, histograms=(), tasks=(), dev_curves=(), scatter=(), confusions=(), curves=(), overlap=())
    paths = write_report(replace(bare, provenance={}, costs={}), tmp_path)
    assert parsed(paths.html.read_text()).headings == [
        "Tuned run, untuned and outside systems", "Systems and tests", "Intervals", "Aggregation over sub-sets",
        "Provenance",
    ]  # fmt: skip
    assert [path.name for path in paths.pictures] == ["averages.png", "tests.png"]


def test_headline_says_p_and_calls_a_tie_a_tie() -> None:
    clear, tie = headline(REPORT), headline(full_report(gap=0.02))
    assert clear[0] == (
        f"Spearman x 100, average of 3 test sets: 58.00 tuned ({TUNED}; 55.00 to 61.00), 50.00 best untuned ({RIVAL}; "
        f"47.00 to 53.00; selected on dev from 3 rows), 45.00 best outside row ({OUTSIDE}; 42.00 to 48.00). "
        "5 systems in the table."
    )
    assert "+4.00 to +12.00, p = 0.002 (paired bootstrap" in clear[1] and "tie" not in clear[1]
    assert "-2.00 to +6.00, p = 0.400" in tie[1] and "A tie: the interval contains 0." in tie[1]
    assert clear[2].startswith("Tuned minus the best outside row: +13.00, 95 % interval +9.00 to +17.00")
    assert clear[4].startswith("Overlap: 60 of 300 test pairs") and "On the other 240: tuned 56.00" in clear[4]
    of_task = task_lines(REPORT.tasks)[0]
    assert of_task.startswith(f"iflytek-6: accuracy x 100: 81.00 tuned ({TUNED}; ")
    assert f"74.00 untuned ({RIVAL}; 72.00 to 76.00; read as the tuned run), 69.00 best outside row" in of_task
    assert "the highest of 2 on the test" in of_task and "Corrected for 2 outside rows (Holm): p = 0.004." in of_task


def test_dev_curves_are_maxima() -> None:
    points = REPORT.dev_curves
    raw = by_layer(points, raw=True)
    assert "broken" not in raw
    for prompt, curve in by_layer(points, raw=False).items():
        for layer, score in curve:
            assert score == max(p.dev_score for p in points if (p.prompt, p.layer) == (prompt, layer))
            assert score > dict(raw[prompt])[layer]
    curves = by_dimension(points)
    best = max((p for p in points if p.post.startswith("whiten")), key=lambda p: p.dev_score)
    name = f"whiten: {best.prompt}, mean, layer {best.layer}"
    assert next(iter(curves)) == name and len(curves) == 2
    assert max(score for _, score in curves[name]) == best.dev_score
    assert [k for k, _ in curves[name]] == [8, 16, 32, 64, 96, 128, 192, 256]


def test_confusion_and_precision_recall_against_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    gold, given = ([f"l{index}" for index in generator.integers(0, 5, 200)] for _ in range(2))
    item = Confusion.from_labels("x", gold, given)
    np.testing.assert_array_equal(item.counts, confusion_matrix(gold, given, labels=list(item.labels)))
    assert item.accuracy == np.mean([a == b for a, b in zip(gold, given, strict=True)])
    first = item.mistakes(1)[0]
    assert first[2] == max(
        sum((a, b) == (x, y) for a, b in zip(gold, given, strict=True)) for x in set(gold) for y in set(given) if x != y
    )
    labels = generator.random(5000) < 0.3
    scores = labels + generator.standard_normal(5000)
    curve = PrecisionRecall.from_scores("x", scores, labels, 0.7)
    said = scores >= 0.7
    assert curve.at_threshold == pytest.approx((precision_score(labels, said), recall_score(labels, said)))
    assert curve.average_precision == pytest.approx(average_precision_score(labels, scores))
    assert len(curve.precision) == len(curve.recall) <= MAX_CURVE
    assert PrecisionRecall.from_scores("x", scores, labels, 99.0).at_threshold == (1.0, 0.0)


def test_overview_has_every_task_and_calls_ties_ties() -> None:
    rows = overview_rows(REPORT)
    assert [row[0] for row in rows] == ["sts12", "sts13", "sts14", "average of the similarity tests", "iflytek-6"]
    assert rows[3][1:7] == ["Spearman", "58.00", "50.00", "+8.00", "+4.00 to +12.00", "higher"]
    assert rows[3][7:] == ["yes", "45.00", "+13.00", "+9.00 to +17.00", "higher"]
    assert rows[4][1:7] == ["accuracy", "81.00", "74.00", "+7.00", "-1.00 to +11.00", "tied"]
    assert rows[4][7:] == ["yes", "69.00", "+12.00", "+4.00 to +16.00", "higher"]
    task = REPORT.tasks[0]
    above = Result(Subject("untuned/x", "system"), task.name, "accuracy", 0.9, None, None, 500)
    assert overview_rows(replace(REPORT, tasks=[replace(task, rows=[*task.rows, above])]))[4][7] == "no"
    one, other = Subject("a", "system", run="a"), Subject("b minus c", "system")
    gain = Subject.from_difference(one, other)
    odd = [Result(subject, "x", "auc", 0.5, None, None, 9) for subject in (one, other, gain)]
    rows_of = main_rows(TaskTable("x", "auc", odd))
    ours, rival = (Party(subject.name, 0.5, None, None, "fixed", None, 1) for subject in (one, other))
    duel = find_duel(rows_of, ours, rival)
    assert duel is not None and (duel.ours.system, duel.rival.system) == ("a", "b minus c")
    assert find_duel(rows_of, ours, None) is find_duel(rows_of, None, rival) is None
    assert overview_rows(replace(REPORT, comparison=None, tasks=())) == []


def test_long_task_tables_are_folded_and_keep_what_is_compared() -> None:
    task = REPORT.tasks[0]
    low = [
        Result(Subject(f"untuned/p{index}", "system"), task.name, "accuracy", 0.9 - index / 1000, None, None, 500)
        for index in range(200)
    ]
    section = sections(replace(REPORT, tasks=[replace(task, rows=[*task.rows, *low])]))[2]
    few, whole = [block for block in section.blocks if isinstance(block, Table)]
    assert len(few.rows) == 12 and not few.fold and few.best == whole.best == RIVAL
    assert {TUNED, RIVAL, f"{TUNED} minus {RIVAL}"} < {row[0] for row in few.rows}
    assert [row[0] for row in whole.rows[:3]] == [TUNED, f"{TUNED} minus {RIVAL}", f"{TUNED} minus {OUTSIDE}"]
    assert len(whole.rows) == 206 and whole.fold == "Every system (206 rows)"


def test_letters_of_other_fonts_are_drawn_where_these_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A font that matplotlib brings stands in for a Chinese one; a warning of a missing glyph would fail the test."""
    own, other = (set(get_font(findfont(name)).get_charmap()) for name in ("DejaVu Sans", "STIXGeneral"))
    letter = chr(max(other - own))
    assert plots_style.numbered(["plain", letter]) == ["1 plain", "2"] and plots_style.drawable(letter) == "□"
    monkeypatch.setattr(plots_style, "OTHER_FONTS", ("no such font", "STIXGeneral"))
    monkeypatch.setattr(plots_style, "_others", plots_style._others.__wrapped__)
    monkeypatch.setattr(plots_style, "_glyphs", plots_style._glyphs.__wrapped__)
    assert plots_style.numbered([letter]) == [f"1 {letter}"]
    with plots_style.settings():
        figure, axes = plots_style.canvas(2.0)
        axes.set_title(letter)
        figure.savefig(io.BytesIO())


def test_many_labels_are_drawn_without_text(tmp_path: Path) -> None:
    names = [f"label {index}" for index in range(40)]
    many = Confusion.from_labels("many", names * 2, [*names, *names[1:], names[0]])
    generator = np.random.default_rng(0)
    panel = Scatter.from_vectors("many", generator.standard_normal((60, 5)), [names[i % 15] for i in range(60)])
    assert len(panel.coloured) == 9 and np.isfinite(panel.tsne).all()
    report = replace(REPORT, confusions=[many], scatter=[panel], dev_curves=REPORT.dev_curves[:9])
    markdown = write_report(report, tmp_path).markdown.read_text()
    assert "The most frequent mistakes" in markdown and "The counts" not in markdown
    assert hundred(many.accuracy) == "50.00" and "Accuracy x 100: 50.00; n = 80." in markdown
