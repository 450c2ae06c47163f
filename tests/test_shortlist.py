"""Many prompts on dev alone, then the best of them on everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from dec2vec.config.load import load, validate
from dec2vec.errors import UserError
from eval.config import EvalConfig
from eval.report.report import Report
from eval.report.report_json import to_json
from eval.run import evaluate
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder

PROMPTS = ["bare", "prompteol", "promptsth", "instruct"]


def settings(folder: Path, **systems: object) -> EvalConfig:
    named = {"prompts": PROMPTS, "poolings": ["mean", "last"], "layers": [0, 2], "post": ["raw", "whiten"], **systems}
    return validate(
        EvalConfig,
        {
            "dev": str(write_similarity(folder / "dev.jsonl", 24, 1)),
            "tests": [str(write_similarity(folder / "test.jsonl", 24, 2))],
            "fit": [str(write_pairs(folder / "fit.jsonl", 40, 3))],
            "systems": named,
            "bootstrap": 100,
            "output_dir": str(folder / "out"),
        },
    )


def evaluated(folder: Path, **systems: object) -> tuple[Report, FakeEncoder]:
    encoder = FakeEncoder()
    return evaluate(settings(folder, **systems), base=encoder, progress=False), encoder


def prompts_of(report: Report) -> list[str]:
    names = (row.system.split("/") for row in report.results if row.subject.is_rival)
    return list(dict.fromkeys(parts[1] for parts in names if parts[0] == "untuned"))


def best_by_prompt(report: Report) -> Mapping[str, float]:
    points = report.dev_curves
    return {prompt: max(point.dev_score for point in points if point.prompt == prompt) for prompt in PROMPTS}


def test_the_best_on_dev_are_those_of_the_whole_evaluation(tmp_path: Path) -> None:
    """An evaluation of everything says which prompts are the best on dev: they are kept, with equal rows."""
    whole, _ = evaluated(tmp_path)
    few, encoder = evaluated(tmp_path, shortlist={"prompts": 2})
    scores = best_by_prompt(whole)
    kept = sorted(PROMPTS, key=lambda prompt: -scores[prompt])[:2]
    assert sorted(prompts_of(few)) == sorted(kept) and sorted(prompts_of(whole)) == sorted(PROMPTS)
    values = {(row.system, row.task, row.metric): row.value for row in whole.results}
    rows = [row for row in few.results if row.subject.kind == "system"]
    assert rows and all(values[row.system, row.task, row.metric] == row.value for row in rows)
    assert best_by_prompt(few) == scores, "the curves of dev scores show the prompts that were left out"
    left_out = [prompt for prompt in PROMPTS if prompt not in kept]
    note = next(line for line in few.notes if "systems.shortlist" in line)
    assert note.startswith("Note: 2 of 4 prompts were tried on dev alone")
    assert all(f"{prompt} {100 * scores[prompt]:.2f}" in note for prompt in PROMPTS)
    seen = {prompt: sum(texts for name, texts, _ in encoder.calls if name == prompt) for prompt in PROMPTS}
    assert all(seen[prompt] < seen[other] for prompt in left_out for other in kept)
    assert json.loads(to_json(few))["sweep"]["prompt"].count(left_out[0]) > 0


def test_kept_prompts_are_tried_at_more_layers(tmp_path: Path) -> None:
    report, _ = evaluated(tmp_path, shortlist={"prompts": 1, "layers": "all"})
    (kept,) = prompts_of(report)
    tried = {prompt: {point.layer for point in report.dev_curves if point.prompt == prompt} for prompt in PROMPTS}
    assert tried == {prompt: {0, 1, 2} if prompt == kept else {0, 2} for prompt in PROMPTS}
    assert any(" at 2 layers; the prompts that were kept were then tried at 3." in note for note in report.notes)


def test_few_prompts_need_no_first_pass(tmp_path: Path) -> None:
    plain, one = evaluated(tmp_path)
    report, two = evaluated(tmp_path, shortlist={"prompts": 4})
    trials = {(prompt, 1, 1) for prompt in PROMPTS}
    assert [call for call in two.calls if call not in trials] == [call for call in one.calls if call not in trials]
    assert report.results == plain.results
    assert not any("shortlist" in note for note in report.notes)


def test_the_tuned_reading_is_measured_whatever_its_rank(tmp_path: Path) -> None:
    """The untuned decoder read as the tuned run is a row, though its prompt is not among the best."""
    scores = best_by_prompt(evaluated(tmp_path)[0])
    worst = min(PROMPTS, key=lambda prompt: scores[prompt])
    tuned = FakeEncoder(validate(EvalConfig, {"model": {"prompt": worst, "pooling": "mean", "layer": 2}}).model)
    config = settings(tmp_path, shortlist={"prompts": 1})
    report = evaluate(config, base=FakeEncoder(), tuned={"run": tuned}, progress=False)
    assert report.reference == f"untuned/{worst}/mean@2"
    assert [row.system for row in report.results if f"/{worst}/" in row.system and "/last@" in row.system] == []


def test_a_dev_file_is_needed() -> None:
    with pytest.raises(UserError, match=r"systems\.shortlist: prompts are .* on a similarity file; give one as dev"):
        evaluate(validate(EvalConfig, {"tests": ["x.jsonl"], "systems": {"shortlist": {"prompts": 2}}}))


@pytest.mark.parametrize(("typed", "layers"), [("all", "all"), ("3 -1", (3, -1)), ("3", (3,))])
def test_layers_as_typed(typed: str, layers: object) -> None:
    words = ["--systems.shortlist.prompts", "3", "--systems.shortlist.layers", *typed.split()]
    assert load(EvalConfig, None, words).systems.shortlist.layers == layers
