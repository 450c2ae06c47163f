"""Which layout a row has: recognised by its columns, refused where two would fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dec2vec.errors import UserError
from dec2vec.files.cells import is_negative_column, listed
from dec2vec.files.formats import Row
from dec2vec.files.layouts import flag_embedding, judged, nemo, nli, sentence_transformers, swift, tevatron
from dec2vec.files.layouts.layout import Layout
from dec2vec.files.layouts.raw import FIELDS, LINE
from dec2vec.files.layouts.sentence_transformers import OWN_WITH_LABELS

LAYOUTS: tuple[Layout, ...] = (
    *flag_embedding.LAYOUTS,
    *tevatron.LAYOUTS,
    *nemo.LAYOUTS,
    *swift.LAYOUTS,
    *nli.LAYOUTS,
    *sentence_transformers.LAYOUTS,
    *judged.LAYOUTS,
)
OWN = ("anchor", "positive")
"""Columns of flat rows, which need no layout."""
_HINTS = {
    "scores of the texts, which loss.kind distil_reranker uses": "score scores pos_scores neg_scores teacher_score "
    "teacher_scores",
    "hard negatives, which data.N.negatives would name": "hard_neg hard_negative hard_negatives neg negs negatives "
    "neg_doc rejected rejected_response distractor",
    "a class or a degree; only labels 0 and 1 are read": "label",
    "an instruction for each row, which a prompt with {task} uses, such as data.N.query_prompt instruct": "prompt "
    "task_prompt instruction instruct query_instruction document_instruction task",
    "further positives, which data.N.positive would name": "pos positives positive_passages",
    "ids of documents, which data.N.document_id would name": "docid doc_id document_id pid",
}
"""What a column that is not used might be, and the names by which that is guessed."""
_OURS = frozenset({"positive_score", "negative_scores"})
"""Columns that `dec2vec mine` writes for readers."""


def recognise(row: Row, where: str, name: str) -> Layout | None:
    """The layout of a row; None if its columns are those of flat rows, or some of them.

    UserError, which names the layouts that come near, if no layout or more than one fits.
    """
    if row.keys() >= set(OWN):
        return OWN_WITH_LABELS if OWN_WITH_LABELS.fits(row) else None
    found = [layout for layout in LAYOUTS if layout.fits(row)]
    if len(found) == 1:
        return found[0]
    if not found and not row.keys().isdisjoint(OWN):
        return None
    if found:
        raise UserError(
            f"{where}: two layouts fit, {' and '.join(layout.name for layout in found[:2])} (columns: {listed(row)}); "
            "name the columns with data.N.anchor, data.N.positive and data.N.negatives"
        )
    raise UserError(
        f"{name}: no column {OWN[0]!r}; the columns are: {listed(row)}; no known layout fits{_nearest(row)}; name the "
        f"columns with data.N.anchor and data.N.positive{_other_kind(row)}{_headless(row)}"
    )


def other_layout(row: Row, expected: Layout) -> str:
    """What is wrong with a row that lacks columns of the expected layout, perhaps that it has another one."""
    found = [layout.name for layout in LAYOUTS if layout.fits(row)]
    if found:
        return f"a row of {found[0]} in a file of {expected.name}; put each layout into a file of its own"
    if set(OWN) <= row.keys():
        return f"a row of anchor and positive in a file of {expected.name}; put each layout into a file of its own"
    missing = listed(sorted(expected.needs - row.keys()))
    return f"no {missing}, which rows of {expected.name} have; this row has: {listed(row) or 'nothing'}"


def stray_note(row: Row) -> str | None:
    """What is wrong with a row of another layout in a file of `anchor` and `positive`; None if it has no layout."""
    if row.keys() >= set(OWN):
        return None
    found = next((layout.name for layout in LAYOUTS if layout.fits(row)), None)
    return found and f"a row of {found} in a file of anchor and positive; put each layout into a file of its own"


def unused_note(seen: Iterable[str], used: Sequence[str]) -> str | None:
    """One line that names the columns of a file that are not used, with what they might be."""
    idle = [column for column in dict.fromkeys(seen) if column not in used and column not in _OURS]
    if not idle:
        return None
    guesses = {column: guess for column in idle if (guess := _guess(column))}
    named = [f"{listed([column])} ({guesses[column]})" if column in guesses else listed([column]) for column in idle]
    return f"columns that are not used: {', '.join(sorted(named, key=lambda words: '(' not in words))}"


def _guess(column: str) -> str:
    if is_negative_column(column):
        return "hard negatives, which data.N.negatives would name"
    stem = column.lower().rstrip("0123456789_")
    return next((guess for guess, names in _HINTS.items() if stem in names.split()), "")


def _nearest(row: Mapping[str, object]) -> str:
    """The layouts that share a column with the row, those with the most first."""
    shared = {layout: len(layout.needs & row.keys()) for layout in LAYOUTS}
    near = sorted((layout for layout in LAYOUTS if shared[layout]), key=lambda layout: -shared[layout])[:2]
    named = dict.fromkeys(f"{layout.name} ({', '.join(sorted(layout.needs))})" for layout in near)
    return f" (nearest: {', '.join(named)})" if named else ""


def _other_kind(row: Row) -> str:
    """Advice where the rows are no pairs, by the usual columns of other kinds."""
    for kind, columns in (("graded", {"sentence1", "sentence2", "score"}), ("labelled", {"text", "label"})):
        if columns <= row.keys():
            return f", or is this data.N.kind {kind}?"
    return ""


def _headless(row: Row) -> str:
    """Advice where the names of the columns look like texts."""
    is_text = any(len(column.split()) > 3 for column in row) and not row.keys() & {LINE, FIELDS}
    return "; if the first line is a row, add a line of column names above it" if is_text else ""
