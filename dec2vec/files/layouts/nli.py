"""Inference data: the contradictions of a premise are the hard negatives of the texts that it entails (SimCSE).

    {"premise": "...", "hypothesis": "...", "label": 0}                 AllNLI, subset pair-class
    {"sentence1": "...", "sentence2": "...", "gold_label": "neutral"}   SNLI and MultiNLI as published

Labels are names, or numbers as in the data sets of the Hub: 0 entailment, 1 neutral, 2 contradiction.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from dec2vec.files.cells import as_name
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Survey, layout
from dec2vec.files.layouts.query import MisshapenError, described, text_in
from dec2vec.files.layouts.verdicts import Judged, Verdict, Words, survey_verdicts

_VERDICTS: dict[str, Verdict] = {
    "0": "right",
    "entailment": "right",
    "1": "neither",
    "neutral": "neither",
    "2": "wrong",
    "contradiction": "wrong",
    "-1": "neither",
    "-": "neither",
}
"""-1 and - mark pairs on which the annotators did not agree."""
_WORDS = Words("entailment", "contradiction", "neutral or undecided")


def _judge(columns: tuple[str, str, str], row: Row) -> Judged:
    first, second, label = columns
    name = as_name(row[label])
    verdict = None if name is None else _VERDICTS.get(name.strip().lower())
    if verdict is None:
        found = described(row[label])
        raise MisshapenError(f"{label} is {found}, not entailment (0), neutral (1) or contradiction (2)")
    return Judged(text_in(row, first), text_in(row, second), verdict)


def _survey(columns: tuple[str, str, str], rows: Iterable[Row], beside: Beside) -> Survey:
    del beside  # all texts are in the rows
    return survey_verdicts(rows, partial(_judge, columns), _WORDS)


def _is_label(row: Row) -> bool:
    """Whether the label is a class; a score of 0.5 is none."""
    return as_name(row["label"]) is not None


ALL_NLI = layout(
    "NLI pair-class",
    "premise hypothesis label",
    survey=partial(_survey, ("premise", "hypothesis", "label")),
    used="label idx",
    fits_values=_is_label,
)
SNLI = layout(
    "SNLI or MultiNLI",
    "sentence1 sentence2 gold_label",
    survey=partial(_survey, ("sentence1", "sentence2", "gold_label")),
    used="gold_label pairID promptID captionID genre annotator_labels sentence1_parse sentence2_parse "
    "sentence1_binary_parse sentence2_binary_parse",
)
LAYOUTS = (ALL_NLI, SNLI)
