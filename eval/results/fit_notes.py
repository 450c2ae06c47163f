"""What the rows of a table were fitted on, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from eval.systems.subject import Subject
from eval.systems.system import CORPUS


def fit_notes(subjects: Sequence[Subject]) -> list[str]:
    """One sentence for each text that baselines were fitted on, and one for the rows that are marked as corpus."""
    by_text: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.kind == "baseline" and subject.fitted_on is not None:
            by_text.setdefault(subject.fitted_on, []).append(subject.name)
    notes = [f"Fitted on {text}: {', '.join(names)}." for text, names in by_text.items()]
    marked = next((subject.fitted_on for subject in subjects if subject.kind == "system" and subject.fitted_on), None)
    return notes if marked is None else [*notes, f"Rows marked {CORPUS} were fitted on the {marked}, not on `fit`."]
