"""How many of a task's texts a decoder read by their beginning alone, as `max_length` cut them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dec2vec.prompts.prompt import Side
from eval.systems.system import TextEncoder
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
    run: str | None
    """None for the untuned decoder."""
    prompt: str
    max_length: int
    """In tokens, prompt and EOS included."""
    texts: int
    cut: int

    @property
    def share(self) -> float:
        """Between 0 and 1; 0 without texts."""
        return self.cut / self.texts if self.texts else 0.0

    @property
    def reader(self) -> str:
        """Which encoder it was, with its prompt."""
        return f"untuned/{self.prompt}" if self.run is None else f"tuned/{self.run}"


def measure_truncation(
    encoder: TextEncoder, prompt: str, run: str | None, tasks: Sequence[Task[Any]]
) -> Iterator[Truncation]:
    """By task and side. Long texts are tokenized anew, so that vectors from a cache are counted like all others."""
    for task in tasks:
        queries, documents = task.test.queries, task.test.documents
        parts: list[tuple[Part, list[str], Side]] = [("texts", queries, "query")]
        if documents:
            parts = [("queries", queries, "query"), ("documents", documents, "document")]
        for part, texts, side in parts:
            distinct = list(dict.fromkeys(texts))
            cut = sum(encoder.is_cut(distinct, prompt=prompt, side=side))
            yield Truncation(task.name, part, run, prompt, encoder.config.max_length, len(distinct), cut)


def worst(found: Sequence[Truncation], task: str) -> list[Truncation]:
    """Of each part of a task the reading that cut most; empty where nothing was cut."""
    best: dict[str, Truncation] = {}
    for row in (row for row in found if row.task == task and row.cut):
        if row.part not in best or row.share > best[row.part].share:
            best[row.part] = row
    return list(best.values())
