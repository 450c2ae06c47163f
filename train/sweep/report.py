"""The comparison of a sweep: recipes by their mean dev score. Tests are not part of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dec2vec.text_tables import markdown_table
from train.sweep.state import Outcome


@dataclass(frozen=True)
class Recipe:
    """The dev scores of a recipe's finished runs, and the number of planned ones."""

    name: str
    scores: tuple[float, ...]
    planned: int

    @property
    def complete(self) -> bool:
        """Whether every seed has a score, so that means are over the same seeds."""
        return len(self.scores) == self.planned

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


def recipes(outcomes: Sequence[Outcome]) -> list[Recipe]:
    """All recipes: complete ones first, then by their mean, then in the order of the grid."""
    names = dict.fromkeys(outcome.recipe for outcome in outcomes)
    compared = [_recipe(name, [outcome for outcome in outcomes if outcome.recipe == name]) for name in names]
    return sorted(compared, key=lambda recipe: (not recipe.complete, -recipe.mean if recipe.scores else 2.0))


def _recipe(name: str, members: Sequence[Outcome]) -> Recipe:
    done = [outcome for outcome in members if outcome.status == "done"]
    return Recipe(name, tuple(outcome.dev for outcome in done if outcome.dev is not None), len(members))


def winner_of(outcomes: Sequence[Outcome]) -> str | None:
    """The complete recipe with the best mean dev score, or None if no recipe is complete."""
    best = next(iter(recipes(outcomes)), None)
    return best.name if best is not None and best.complete else None


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Markdown lines, best recipe first; scores times 100."""
    rows: list[tuple[str, ...]] = []
    for recipe in recipes(outcomes):
        mean = f"{100 * recipe.mean:.2f}" if recipe.scores else "–"
        spread = f"{100 * recipe.deviation:.2f}" if recipe.deviation is not None else "–"
        each = ", ".join(f"{100 * score:.2f}" for score in recipe.scores)
        rows.append((recipe.name, mean, spread, f"{len(recipe.scores)} of {recipe.planned}", each))
    return markdown_table(("recipe", "dev", "sd", "runs", "of each seed"), rows, left=(0, 4))


def report_markdown(
    outcomes: Sequence[Outcome], winner: str | None, folder: Path, others: Sequence[Outcome] = ()
) -> str:
    """The text of `sweep.md`. `others` are listed but not compared."""
    lines = [
        f"# Sweep {folder.name}",
        "",
        "The dev score x 100 at each run's best step (Spearman for a similarity file); mean and sd (sample standard "
        "deviation) over seeds. "
        "Recipes are chosen by this mean alone.",
        "",
        *table(outcomes),
        "",
    ]
    if winner is not None:
        lines += [f"Winner: `{winner}`", ""]
        lines += [
            f"- [{outcome.name}]({outcome.name}/report/report.html): its report, with the tests"
            for outcome in outcomes
            if outcome.recipe == winner and outcome.reported
        ]
        lines.append("")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        lines += ["## Failed", "", *(f"- {outcome.name}: {outcome.error}" for outcome in failed), ""]
    if others:
        lines += [
            "## Runs of other commands",
            "",
            "Not compared. A grid that names their values too compares them, and trains nothing twice.",
            "",
            *(f"- {outcome.name}" for outcome in others),
            "",
        ]
    return "\n".join(lines)
