"""What a reader of the headline must know with it, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dec2vec.config.model import ModelConfig
from eval.leakage.overlap import Overlap
from eval.results.headline import Headline
from eval.selection.choose import Choice
from eval.systems.recipes import Recipe, unlike
from eval.systems.seeds import find_seeds
from eval.systems.subject import Subject
from eval.systems.system import BEFORE, run_name
from eval.tasks.task import Task

SHOWN = 0.05
"""Share of dev texts beyond which a reader is warned."""


def edge_notes(choices: Sequence[Choice], headline: Headline | None) -> list[str]:
    """Where k of the similarity headline's systems lies at the edge of its grid."""
    parties = [] if headline is None else [headline.tuned, headline.untuned]
    names = [party.name for party in parties if party is not None]
    edges = [(choice.system.name, choice.edge) for choice in choices if choice.system.name in names]
    return [f"Note: {name}: {line}." for name, line in edges if line is not None]


def start_notes(model: ModelConfig) -> list[str]:
    """What the rows `before/...` are."""
    if model.adapter is None:
        return []
    return [
        f"Note: untuned means before this run here: the rows {BEFORE}/... are the decoder with the adapter "
        f"{run_name(model.adapter)}, from which training went on."
    ]


def data_notes(tasks: Sequence[Task[Any]]) -> list[str]:
    """What was left out of the data of a task."""
    return [f"Note: {task.name}: {note}." for task in tasks for note in task.notes]


def seed_notes(runs: Sequence[str], recipes: Mapping[str, Recipe]) -> list[str]:
    """Where runs are seeds of one recipe by their names, and by their configurations are not."""
    lines = []
    for seeds in find_seeds(Subject(run, "system", run=run) for run in runs):
        members = [member.name for member in seeds.members]
        lines.append(unlike(seeds.label, {run: recipes.get(run) for run in members}))
    return [line for line in lines if line is not None]


def unknown_training(runs: Mapping[str, str]) -> list[str]:
    """A line for each run whose training text is not known, with the reason."""
    return [
        f"Warning: the training data of {run} is unknown, so its overlap with the tests is not measured: {why}."
        for run, why in runs.items()
    ]


def shown_dev(counts: Sequence[Overlap], trained: Sequence[str]) -> list[str]:
    """Where tuning has seen a good part of a task's dev texts, on which a tuned system is then surer than on new ones.

    They are not left out of choices: training files hold matches alone, and what is left would be of other labels.
    """
    seen = [row for row in counts if row.training in trained and row.part == "dev"]
    return [
        f"Warning: {row.near:,} of the {row.texts:,} texts of {row.evaluation} occur in {row.training}, on which a "
        "tuned run was trained, or have a near-duplicate there. Settings selected on them may not suit new texts."
        for row in seen
        if row.near > SHOWN * row.texts
    ]
