"""What a reader of the headline must know beside it, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.leakage.overlap import Overlap
from eval.results.results import Comparison, Judged
from eval.selection.choose import Choice, best
from eval.selection.judge import dimension_edge
from eval.systems.recipes import Recipe, unlike
from eval.systems.seeds import seeds_of, split_name

SHOWN = 0.05
"""Share of dev texts beyond which a reader is warned."""


def notes(
    judged: Sequence[Judged], comparison: Comparison | None, runs: Sequence[str], recipes: Mapping[str, Recipe]
) -> list[str]:
    """Of the headline's systems: k at the edge of its grid. Of `runs`: seeds by name that are not seeds by recipe."""
    edges = [(choice.system.name, choice_edge(choice)) for choice in _shown(judged, comparison)]
    found = [f"Note: {name}: {line}." for name, line in edges if line is not None]
    for seeds in seeds_of(f"tuned/{run}" for run in runs):
        members = [split_name(system)[0] for system in seeds.systems]
        line = unlike(seeds.label, {run: recipes.get(run) for run in members})
        found += [] if line is None else [line]
    return found


def unknown_training(runs: Mapping[str, str]) -> list[str]:
    """By run why its training text is not known."""
    return [
        f"Warning: what {run} was trained on is not known, so that its overlap with the tests is not measured: {why}."
        for run, why in runs.items()
    ]


def shown_dev(counts: Sequence[Overlap], trained: Sequence[str]) -> list[str]:
    """Where tuning has shown a good part of a task's dev texts: on them a tuned system is surer than on new ones.

    They are not left out of choices: training files hold matches alone, and what is left would be of other labels.
    """
    found = [row for row in counts if row.training in trained and row.evaluation.endswith(" dev")]
    return [
        f"Warning: {row.near:,} of the {row.texts:,} texts of {row.evaluation} are in, or close to, {row.training},"
        " on which a tuned run was trained: a threshold or reading that it chose there may not fit new text."
        for row in found
        if row.near > SHOWN * row.texts
    ]


def choice_edge(choice: Choice) -> str | None:
    """Of a system of the similarity tasks, at its own layer."""
    system = choice.system
    if system.post is None or choice.post is None or not choice.sweep:
        return None
    tried = [found.k for found in choice.sweep if found.system.view == system.view]
    return dimension_edge(system.post, choice.k, tried, len(choice.post.mean))


def _shown(judged: Sequence[Judged], comparison: Comparison | None) -> list[Choice]:
    if comparison is not None:
        return [item.choice for item in judged if item.system.name in (comparison.tuned, comparison.untuned)]
    honest = [item.choice for item in judged if not item.system.is_transductive]
    return [best(honest)] if honest else []
