"""ms-swift's rows: conversations, and the older rows of query and response.

    {"messages": [{"role": "user", "content": "..."}], "positive_messages": [[{"role": "user", "content": "..."}]],
     "negative_messages": [[{"role": "user", "content": "..."}], ...]}
    {"messages": [...], "positive_messages": [[...]], "label": 0}
    {"query": "...", "response": "...", "rejected_response": ["...", "..."]}

A system message is an instruction and no part of the text. With labels, 1 is a match; the texts labelled 0 are the hard
negatives of their query.
"""

from __future__ import annotations

from dec2vec.files.formats import Row
from dec2vec.files.layouts.query import QUERY_INSTRUCTION, MisshapenError, Query, described, text_in, text_of, texts_in
from dec2vec.files.layouts.verdicts import with_and_without_labels


def _conversations(row: Row) -> Query:
    instruction, anchor = _conversation("messages", row["messages"])
    positives = [_conversation("positive_messages", item)[1] for item in _several(row, "positive_messages")]
    negatives = [_conversation("negative_messages", item)[1] for item in _several(row, "negative_messages")]
    extra: Row = {QUERY_INSTRUCTION: instruction} if instruction else {}
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


LAYOUTS = (
    *with_and_without_labels("ms-swift", "messages positive_messages", _conversations, "negative_messages"),
    *with_and_without_labels("older ms-swift", "query response", _responses, "rejected_response"),
)
