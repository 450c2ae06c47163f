"""Cards of real runs: trained, evaluated together, exported, merged, renamed, trained on; each against report.json."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from dec2vec.cli import main
from tests.card_reports import expected
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, write_jsonl
from tests.hub_card import card_errors
from tests.tiny_run import train, write_run

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
STEPS = ("--optim.steps", "2", "--eval.every", "1")
EVALUATION = """
model: {name_or_path: decoder, max_length: 64, device: cpu, autocast: "off"}
dev: dev.jsonl
tests: [test.jsonl, other.jsonl]
fit: [pairs.jsonl]
systems: {prompts: [bare], poolings: [mean], layers: [-1], post: [raw, whiten], dimensions: [8, 4]}
pairs: [{test: matches.jsonl, metric: ap}]
bootstrap: 100
cache: ""
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs a and b of one recipe, and w, whose export is whitened; evaluated together, with the report in a and in w.

    Tests work on copies of it.
    """
    folder = tmp_path_factory.mktemp("cards")
    config = write_run(folder)
    write_jsonl(folder / "test.jsonl", graded_pairs(16, seed=2))
    rows = [{**row, "sentence1": f"{row['sentence1']} then"} for row in graded_pairs(12)]
    write_jsonl(folder / "other.jsonl", rows)
    write_jsonl(folder / "matches.jsonl", [{**row, "label": number % 2} for number, row in enumerate(rows)])
    (folder / "ev.yaml").write_text(EVALUATION)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(config, folder / "a", *STEPS)
        train(config, folder / "b", *STEPS, "--seed", "5")
        train(config, folder / "w", *STEPS, "--seed", "6", "--export.whiten", "true")
        assert main(["eval", "ev.yaml", "--tuned", "a", "b", "w", "--output_dir", "a"]) == 0
        shutil.copytree(folder / "a" / "report", folder / "w" / "report")
        yield folder


def tree_of(run: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((run / "report" / "report.json").read_text())
    return tree


def card_of(run: Path, to: Path) -> str:
    assert main(["export", str(run), "--to", str(to)]) == 0
    card = (to / "README.md").read_text()
    assert card_errors(card) == [] and str(run.parent) not in card
    return card


def figures(card: str) -> dict[str, float]:
    results = ModelCard(card).data.eval_results or []
    return {item.dataset_name: item.metric_value for item in results}


def test_each_of_two_runs_has_its_own_figures(place: Path, tmp_path: Path) -> None:
    tree = tree_of(place / "a")
    shutil.copytree(place / "a" / "report", place / "b" / "report", dirs_exist_ok=True)
    cards = {run: card_of(place / run, tmp_path / run) for run in ("a", "b")}
    for run, card in cards.items():
        assert figures(card) == expected(tree, run) and {"test", "other", "matches"} == set(figures(card))
    assert figures(cards["a"]) != figures(cards["b"])
    assert "dev (n = 16; chosen on)" in cards["a"] and "| tuned/" not in cards["a"]


def test_a_whitened_export_has_the_figures_of_its_whitening(place: Path, tmp_path: Path) -> None:
    card = card_of(place / "w", tmp_path / "w")
    (k,) = {row["k"] for row in tree_of(place / "w")["results"] if row["run"] == "w" and row["post"] == "whiten"}
    found, wanted = figures(card), expected(tree_of(place / "w"), "w", post="whiten", k=k)
    assert set(found) <= set(wanted) and all(found[name] == wanted[name] for name in found)
    facts = json.loads((tmp_path / "w" / "2_Dense" / "config.json").read_text())
    assert found if facts["out_features"] == k else not found


def test_a_renamed_run_has_the_same_card(place: Path, tmp_path: Path) -> None:
    before = card_of(place / "a", tmp_path / "before")
    renamed = shutil.copytree(place / "a", tmp_path / "another name")
    after = card_of(renamed, tmp_path / "after")
    assert figures(after) == figures(before) != {}


def test_a_run_that_was_trained_on_has_no_figures(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = shutil.copytree(place / "a", tmp_path / "a")
    file = run / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        card = card_of(run, tmp_path / "ex")
    assert figures(card) == {} and "of other weights than these" in card and "of other weights" in caplog.text


def test_an_adapter_that_was_evaluated_under_another_name_has_its_own_figures(place: Path, tmp_path: Path) -> None:
    """The folder of a with the adapter of b: by content it is b."""
    run = shutil.copytree(place / "a", tmp_path / "a")
    shutil.copytree(place / "b" / "adapter", run / "adapter", dirs_exist_ok=True)
    assert figures(card_of(run, tmp_path / "ex")) == expected(tree_of(place / "a"), "b")


def test_a_merged_run_has_no_figures_of_its_members(place: Path, tmp_path: Path) -> None:
    merged = tmp_path / "m"
    assert main(["merge", str(place / "a"), str(place / "b"), "--output", str(merged)]) == 0
    alone = card_of(merged, tmp_path / "alone")
    assert figures(alone) == {} and "## Results" not in alone
    assert "Merged (average) from `a` (0.5), `b` (0.5)." in alone
    shutil.copytree(place / "a" / "report", merged / "report")
    assert figures(card_of(merged, tmp_path / "copied")) == {}


def test_the_dev_file_under_another_name_is_no_test(place: Path, tmp_path: Path) -> None:
    """The evaluation chooses on another file, and calls a copy of the runs' dev file a test."""
    run = shutil.copytree(place / "a", tmp_path / "a")
    shutil.copyfile(place / "dev.jsonl", place / "copy.jsonl")
    tests = ["--dev", "other.jsonl", "--tests", "copy.jsonl", "test.jsonl"]
    words = ["--tuned", str(run), "--output_dir", str(run), *tests]
    assert main(["eval", "ev.yaml", *words]) == 0
    card = card_of(run, tmp_path / "ex")
    assert set(figures(card)) == {"test", "matches"}
    assert "copy (n = 16; chosen on)" in card
