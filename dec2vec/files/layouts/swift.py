"""ms-swift's rows: conversations, and the older rows of query and response.

    {"messages": [{"role": "user", "content": "..."}], "positive_messages": [[{"role": "user", "content": "..."}]],
     "negative_messages": [[{"role": "user", "content": "..."}], ...]}
    {"messages": [...], "positive_messages": [[...]], "label": 0}
    {"query": "...", "response": "...", "rejected_response": ["...", "..."]}

A system message is an instruction and no part of the text. With labels, 1 is a match; the texts labelled 0 are the hard
negatives of their query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from dec2vec.files.cells import is_absent
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Layout, Survey, layout
from dec2vec.files.layouts.query import MisshapenError, Query, described, text_in, text_of, texts_in
from dec2vec.files.layouts.verdicts import Judged, Words, survey_verdicts

_WORDS = Words("label 1", "label 0", "no label")


def _conversations(row: Row) -> Query:
    instruction, anchor = _conversation("messages", row["messages"])
    positives = [_conversation("positive_messages", item)[1] for item in _several(row, "positive_messages")]
    negatives = [_conversation("negative_messages", item)[1] for item in _several(row, "negative_messages")]
    extra: Row = {"query_instruction": instruction} if instruction else {}
    return Query(anchor, positives, [text for text in negatives if text], extra=extra)


def _several(row: Row, column: str) -> list[object]:
    """A list of conversations; one conversation will do as well."""
    value = row.get(column)
    if value is None or value == []:
        return []
    if not isinstance(value, list):
        raise MisshapenError(f"{column} is {described(value)}, not a list of conversations")
    return value if isinstance(value[0], list) else [value]


def _conversation(column: str, value: object) -> tuple[str, str]:
    """The system message, and the other messages as one text."""
    if not isinstance(value, list) or not all(isinstance(item, dict) and "content" in item for item in value):
        raise MisshapenError(f"{column} is {described(value)}, not a list of messages with role and content")
    said = [(item.get("role"), _content(column, item["content"])) for item in value]
    instruction, text = (
        "\n".join(words for role, words in said if (role == "system") is wanted) for wanted in (True, False)
    )
    return instruction, text


def _content(column: str, value: object) -> str:
    """The text of a message, which may come in parts. Images and sounds are refused: there is no text in them."""
    if not isinstance(value, list):
        return text_of(f"content of {column}", value)
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        raise MisshapenError(f"content of {column} is {described(value)}, with a part that is no text")
    return "".join(part["text"] for part in value)


def _responses(row: Row) -> Query:
    return Query(text_in(row, "query"), texts_in(row, "response"), texts_in(row, "rejected_response"))


def _unlabelled(read: Callable[[Row], Query], row: Row) -> Query:
    if _is_labelled(row):
        raise MisshapenError(f"label is {described(row['label'])}, but the first row has none")
    return read(row)


def _judge(read: Callable[[Row], Query], row: Row) -> Judged:
    query, label = read(row), row.get("label")
    if is_absent(label):
        return Judged(query.anchor, "", "neither")
    if label not in (0, 1, "0", "1", "0.0", "1.0"):
        raise MisshapenError(
            f"label is {described(label)}, neither 0 nor 1; rows with degrees are for data.N.kind graded"
        )
    if len(query.positives) != 1:
        raise MisshapenError(f"there are {len(query.positives)} texts beside a label, not 1")
    return Judged(query.anchor, query.positives[0], "right" if float(str(label)) else "wrong", tuple(query.negatives))


def is_graded(row: Row) -> bool:
    """Whether a row of conversations has a label, which may be a degree of similarity."""
    return {"messages", "positive_messages", "label"} <= row.keys()


def graded_row(row: Row) -> Row:
    """A row with a degree of similarity as two texts and a score."""
    query = _conversations(row)
    if len(query.positives) != 1:
        raise MisshapenError(f"there are {len(query.positives)} texts beside a label, not 1")
    rest = {name: value for name, value in row.items() if name not in ("messages", "positive_messages", "label")}
    return {**rest, "sentence1": query.anchor, "sentence2": query.positives[0], "score": row["label"]}


def _survey(read: Callable[[Row], Query], rows: Iterable[Row], beside: Beside) -> Survey:
    del beside  # all texts are in the rows
    return survey_verdicts(rows, partial(_judge, read), _WORDS)


def _is_labelled(row: Row) -> bool:
    return not is_absent(row.get("label"))


def _pair_of_layouts(name: str, needs: str, read: Callable[[Row], Query], texts: str) -> tuple[Layout, Layout]:
    """Without labels and with them."""
    plain = layout(
        name,
        needs,
        partial(_unlabelled, read),
        texts=texts,
        used="label",
        fits_values=lambda row: not _is_labelled(row),
    )
    survey = partial(_survey, read)
    return plain, layout(
        f"{name} with labels", needs, survey=survey, texts=texts, used="label", fits_values=_is_labelled
    )


LAYOUTS = (
    *_pair_of_layouts("ms-swift", "messages positive_messages", _conversations, "negative_messages"),
    *_pair_of_layouts("older ms-swift", "query response", _responses, "rejected_response"),
)
