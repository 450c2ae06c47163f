"""The golden comparison finds what differs between two trees, and nothing else."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = """usage: dec2vec eval [CONFIG.yaml] [--option value ...]

An evaluation run.

  --tuned TEXT ...
      Run folders (or exported adapters) to compare with it. (now: empty)

pairs: Pairs with a yes/no label.
  --pairs.0.metric {accuracy,f1}
      The main figure. (now:
      accuracy)
  --pairs.0.test TEXT
      File of pairs. (required)
"""
REPORT: dict[str, Any] = {
    "provenance": {"seconds": 3.5, "recipes": {"run": {"lora.fast": True, "batch.sources": "one"}}},
    "results": [{"system": "tuned/run", "task": "test", "metric": "spearman_all", "value": 0.5}],
    "notes": ["A note about 12 pairs."],
}


@pytest.fixture(autouse=True)
def checks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts" / "checks")


def golden(name: str) -> ModuleType:
    return importlib.import_module(f"golden_runs.{name}")


def report_differences(**changes: Any) -> list[str]:
    findings = golden("reports").compare_reports("report", REPORT, {**REPORT, **changes})
    return [finding.difference for finding in findings if finding.difference]


def test_options_are_read_from_a_help_page() -> None:
    options = golden("trees").parse_help(PAGE)
    shown = {name: (option.kind, option.default) for name, option in options.items()}
    assert shown == {
        "tuned": ("TEXT ...", "empty"),
        "pairs.N.metric": ("{accuracy,f1}", "accuracy"),
        "pairs.N.test": ("TEXT", "required"),
    }


def test_renamed_options_are_no_difference_and_all_others_are() -> None:
    old = {"lora.fast": {"kind": "true|false", "default": "true"}, "seed": {"kind": "INT", "default": "0"}}
    renamed = {"lora.fused": old["lora.fast"], "seed": old["seed"]}
    compare = golden("helps").compare_options
    assert compare("train", old, renamed).difference == ""
    assert "removed: seed" in compare("train", old, {"lora.fused": old["lora.fast"]}).difference
    assert "added: more" in compare("train", old, {**renamed, "more": old["seed"]}).difference
    changed = {**renamed, "seed": {"kind": "INT", "default": "1"}}
    assert "seed default: 0 is now 1" in compare("train", old, changed).difference


def test_old_options_are_typed_in_the_words_of_the_present_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = golden("trees")
    known = {"lora.fused": trees.Option("true|false", "true"), "batch.sources": trees.Option("{mixed,single}", "mixed")}
    monkeypatch.setattr(trees, "known_options", lambda tree, verb: known)
    typed = trees.Tree(ROOT).arguments("train", {"lora.fast": "false", "batch.sources": "one"})
    assert typed == ["--lora.fused", "false", "--batch.sources", "single"]


def test_reports_may_differ_in_times_sentences_and_new_keys() -> None:
    provenance = {"seconds": 9.0, "recipes": {"run": {"lora.fused": True, "batch.sources": "single"}}}
    rows = [{**REPORT["results"][0], "kind": "system"}]
    assert report_differences(provenance=provenance, results=rows, notes=["Of 12 pairs."], more=1) == []


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"results": [{**REPORT["results"][0], "value": 0.5000001}]}, "value: 0.5 is now 0.5000001"),
        ({"results": [{"system": "tuned/run", "task": "test", "metric": "spearman_all"}]}, "value is missing"),
        ({"results": [*REPORT["results"], {"system": "a", "task": "test", "metric": "b"}]}, "1 new rows"),
        ({"notes": ["A note about 13 pairs."]}, "13 pairs"),
    ],
)
def test_reports_may_not_differ_in_figures_and_keys(changes: dict[str, Any], difference: str) -> None:
    (found,) = report_differences(**changes)
    assert difference in found


def test_gradient_hashes_depend_on_values_and_not_on_the_order() -> None:
    digest = golden("in_tree").digest
    one, two = torch.ones(2, 3), torch.zeros(())
    assert digest([one, two]) == digest([two, one])
    assert len({digest([one, two]), digest([one]), digest([one.T, two]), digest([one + 1e-7, two])}) == 4


def test_packages_of_another_tree_are_refused(tmp_path: Path) -> None:
    golden("in_tree").check_packages(ROOT)
    with pytest.raises(SystemExit, match="the package dec2vec comes from"):
        golden("in_tree").check_packages(tmp_path)
