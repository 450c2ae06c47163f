"""How many evaluation texts were seen in training: every report says it, so that a gain is not memory."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.tasks.sts import StsTask

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Counts for one training-side file and one evaluation file.

    `exact` and `normalized` count distinct evaluation texts; `pairs_with_both` counts pairs whose two texts
    are both in the training file once normalised.
    """

    training: str
    evaluation: str
    texts: int
    exact: int
    normalized: int
    pairs: int
    pairs_with_both: int


def normalized(text: str) -> str:
    """Words alone: case, punctuation, spacing and Unicode spelling do not hide a copy."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def measure(sources: Mapping[str, Sequence[str]], tasks: Sequence[StsTask]) -> list[Overlap]:
    """Every source against every task."""
    keys = {task.name: [normalized(text) for text in task.texts] for task in tasks}
    found: list[Overlap] = []
    for name, texts in sources.items():
        exact, loose = set(texts), {normalized(text) for text in texts}
        found += [_count(name, exact, loose, task, keys[task.name]) for task in tasks]
    return found


def _count(name: str, exact: set[str], loose: set[str], task: StsTask, keys: Sequence[str]) -> Overlap:
    seen = [key in loose for key in keys]
    both = sum(seen[left] and seen[right] for left, right in zip(task.left, task.right, strict=True))
    return Overlap(
        training=name,
        evaluation=task.name,
        texts=len(task.texts),
        exact=sum(text in exact for text in task.texts),
        normalized=sum(seen),
        pairs=len(task),
        pairs_with_both=both,
    )
