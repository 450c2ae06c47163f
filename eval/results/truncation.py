"""How many of a task's texts a decoder read by their beginning alone, as `max_length` cut them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dec2vec.prompts.prompt import Side
from eval.systems.system import UNTUNED, TextEncoder, start_of
from eval.tasks.task import Task

Part = Literal["texts", "queries", "documents"]
"""Of a task with one side, or of a task with two."""
GRAVE = 0.05
"""Share from which on a reader is warned."""


@dataclass(frozen=True)
class Truncation:
    """Of the distinct texts of one side of a task's test data, how many one encoder cut with one prompt."""

    task: str
    part: Part
    reader: str
    """Which encoder it was: `untuned/<prompt>`, `tuned/<run>`, or the name of another encoder."""
    run: str | None
    """None for the untuned decoder and for other encoders."""
    prompt: str | None
    """None for other encoders."""
    max_length: int
    """In tokens, prompt and EOS included."""
    texts: int
    cut: int

    @property
    def share(self) -> float:
        """Between 0 and 1; 0 without texts."""
        return self.cut / self.texts if self.texts else 0.0


def measure_truncation(
    encoder: TextEncoder, prompt: str, run: str | None, tasks: Sequence[Task[Any]]
) -> Iterator[Truncation]:
    """By task and side. Long texts are tokenized anew, so that vectors from a cache are counted like all others."""
    limit = encoder.config.token_limit
    for task in tasks:
        for part, texts, side in sides_of(task):
            cut = sum(encoder.is_cut(texts, prompt=prompt, side=side))
            reader = reader_name(prompt, run, start_of(encoder.config))
            yield Truncation(task.name, part, reader, run, prompt, limit, len(texts), cut)


def reader_name(prompt: str, run: str | None, start: str = UNTUNED) -> str:
    """How a decoder is called that reads with this prompt."""
    return f"{start}/{prompt}" if run is None else f"tuned/{run}"


def sides_of(task: Task[Any]) -> list[tuple[Part, list[str], Side]]:
    """The distinct test texts of a task's one side, or of its two."""
    queries, documents = (list(dict.fromkeys(texts)) for texts in (task.test.queries, task.test.documents))
    if documents:
        return [("queries", queries, "query"), ("documents", documents, "document")]
    return [("texts", queries, "text")]


def worst(found: Sequence[Truncation], task: str) -> list[Truncation]:
    """Of each part of a task the reading that cut most; empty where nothing was cut."""
    best: dict[str, Truncation] = {}
    for row in (row for row in found if row.task == task and row.cut):
        if row.part not in best or row.share > best[row.part].share:
            best[row.part] = row
    return list(best.values())
