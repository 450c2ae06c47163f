"""The surest mistakes of a topic task's headline system: what to read first when a class goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.tasks.topic_evidence import TopicEvidence, Wrong

SHOWN = 10


@dataclass(frozen=True)
class Mistakes:
    """Of one system on one task: `total` of `n` test texts were taken for another class, the surest are `shown`."""

    task: str
    system: str
    n: int
    total: int
    shown: Sequence[Wrong]

    @classmethod
    def of(cls, task: str, system: str, decided: TopicEvidence, limit: int = SHOWN) -> Mistakes:
        """By how far the wrong class led."""
        wrong = decided.wrong()
        return cls(task, system, len(decided.texts), len(wrong), wrong[:limit])
