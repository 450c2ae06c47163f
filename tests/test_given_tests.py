"""`dec2vec.evaluate` with dev and tests in memory: the figures of the same rows in files, and nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

import dec2vec
from dec2vec.config.load import validate
from dec2vec.errors import UserError
from dec2vec.files.given_tests import with_given
from eval.config import EvalConfig
from eval.run import evaluate
from tests.fake_encoder import FakeEncoder
from tests.helpers import graded_pairs, tiny_model_folder, write_jsonl

YES_NO = [{"sentence1": f"cat {n}", "sentence2": f"{n} mat", "label": n % 2} for n in range(24)]


SYSTEMS = {"prompts": ["bare"], "poolings": ["mean"], "layers": [-1], "post": ["raw"]}
ROWS = {name: graded_pairs(20, seed=seed) for name, seed in {"dev": 1, "tests-0": 2, "tests-1": 3}.items()}


def test_figures_are_those_of_files(tmp_path: Path) -> None:
    """Frames, data sets and lists of dictionaries."""
    config = {"systems": SYSTEMS, "baselines": [], "bootstrap": 100, "cache": ""}
    files = {name: str(write_jsonl(tmp_path / f"{name}.jsonl", found)) for name, found in ROWS.items()}
    named = validate(EvalConfig, {**config, "dev": files["dev"], "tests": [files["tests-0"], files["tests-1"]]})
    in_memory = [datasets.Dataset.from_list(ROWS["tests-0"]), ROWS["tests-1"]]
    with with_given(validate(EvalConfig, config), pandas.DataFrame(ROWS["dev"]), in_memory) as given:
        found = evaluate(given, base=FakeEncoder(), tuned={"run": FakeEncoder()}, progress=False)
    expected = evaluate(named, base=FakeEncoder(), tuned={"run": FakeEncoder()}, progress=False)
    assert found.results == expected.results and len(found.results) > 10
    assert (found.dev, found.tests) == ("dev", ["tests-0", "tests-1"])


@pytest.mark.slow
def test_nothing_of_the_rows_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the folder of the report nor in that of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = {"name_or_path": str(tiny_model_folder(tmp_path / "model")), "max_length": 64, "device": "cpu"}
    config = {
        "model": model,
        "systems": SYSTEMS,
        "baselines": [],
        "bootstrap": 100,
        "output_dir": str(tmp_path / "out"),
    }
    found = dec2vec.evaluate(config, ROWS["dev"], ROWS["tests-0"], progress=False)
    assert (found.report["dev"], found.report["tests"]) == ("dev", ["tests"])
    assert not list((tmp_path / "temporary").iterdir()) and not list((tmp_path / "out").rglob("*.jsonl"))


def test_tables_fill_the_tasks_without_a_test() -> None:
    given = {"pairs": [{"metric": "ap"}, {"test": "there.jsonl", "metric": "ap"}], "clustering": [{"seeds": 2}]}
    texts = pandas.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
    with with_given(validate(EvalConfig, given), None, [YES_NO, texts]) as config:
        pairs, there = config.pairs
        assert (Path(pairs.test).name, there.test) == ("tests-0.jsonl", "there.jsonl")
        assert Path(config.clustering[0].test).read_text(encoding="utf-8").count("\n") == 2
        assert config.clustering[0].seeds == 2 and config.tests == ()
    assert not Path(pairs.test).exists()
    with with_given(validate(EvalConfig, {}), "dev.csv", YES_NO) as config:
        assert (config.dev, [Path(path).name for path in config.tests]) == ("dev.csv", ["tests.jsonl"])


@pytest.mark.parametrize(
    ("config", "dev", "tests", "said"),
    [
        ({"dev": "a.jsonl"}, YES_NO, None, "dev: config names dev a.jsonl too; give one of them"),
        ({"tests": ["a.jsonl"]}, None, YES_NO, "tests: config names tests a.jsonl too"),
        ({"pairs": [{"metric": "ap"}]}, None, [YES_NO, YES_NO], "2 given, but 1 of the tasks in config have no test"),
        ({}, None, 7, "tests: an int; give a datasets.Dataset"),
    ],
)
def test_what_does_not_fit_is_refused(config: dict[str, Any], dev: Any, tests: Any, said: str) -> None:
    with pytest.raises(UserError, match=said), with_given(validate(EvalConfig, config), dev, tests):
        pass


def test_a_message_names_what_was_given(tmp_path: Path) -> None:
    """And no file of a folder that is deleted."""
    wrong = [{"sentence1": "a", "sentence2": "b", "score": "high"}, {"sentence1": "a", "sentence2": "c", "score": 1}]
    with pytest.raises(UserError, match=r"^tests\[1\] row 1: score 'high' is not a finite number"):
        dec2vec.evaluate({"output_dir": str(tmp_path)}, None, [graded_pairs(4), wrong], progress=False)
