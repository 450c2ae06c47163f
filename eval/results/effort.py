"""What a row of the report costs: parameters that are used, the length of a vector, and texts a second.

The speed is measured on a sample of test texts, for every layer that is read, with the decoder ending there. It is that
of this machine under the load of the day, so that only rows of one report can be compared by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.decoder.pooling import View, layers_of
from dec2vec.encoder import Encoder
from eval.selection.judge import Measured
from eval.systems.system import TextEncoder
from eval.tasks.task import Task

SAMPLE = 64
"""Texts that are timed."""
WARM = 4
"""Texts that are read before, as a first call loads and plans."""


@dataclass(frozen=True)
class Effort:
    """Of one row. None is what can't be said: of a comparison of words, or of an encoder that is no decoder of ours."""

    parameters: int | None
    """Weights that a text meets: those of the blocks above the layer are not among them."""
    dimension: int | None
    """Length of a vector."""
    texts_per_second: float | None
    note: str = ""
    """What is known of the data that an outside encoder was trained on."""


def sample_texts(tasks: Sequence[Task[Any]]) -> list[str]:
    """Distinct test texts of the first task, evenly from its whole length."""
    texts = list(dict.fromkeys(tasks[0].test.queries)) if tasks else []
    return texts[:: max(1, len(texts) // SAMPLE)][:SAMPLE]


def speed(read: Callable[[list[str]], object], texts: list[str]) -> float | None:
    """Texts a second; None without texts."""
    if not texts:
        return None
    read(texts[:WARM])
    started = time.perf_counter()
    read(texts)
    return len(texts) / max(time.perf_counter() - started, 1e-9)


def efforts(
    encoder: TextEncoder, prompt: str, rows: Sequence[Measured], texts: list[str], batch_tokens: int
) -> Mapping[str, Effort]:
    """Of the rows of one prompt, by name. Rows of one depth share their speed."""
    whole = encoder if isinstance(encoder, Encoder) else None
    found: dict[str, Effort] = {}
    by_depth: dict[int, Effort] = {}
    for row in rows:
        if row.choice is None or row.name in found:
            continue
        view = row.choice.system.view
        top = max(layers_of(view, encoder.layer_count))
        if top not in by_depth:
            by_depth[top] = Effort(None, None, None) if whole is None else _of(whole, prompt, view, texts, batch_tokens)
        found[row.name] = replace(by_depth[top], dimension=row.choice.k)
    return found


def _of(encoder: Encoder, prompt: str, view: View, texts: list[str], batch_tokens: int) -> Effort:
    options = EncodeOptions(prompt, batch_tokens=batch_tokens, progress=False)

    def read(some: list[str]) -> object:
        return [rows for rows, _ in encoder.iter_views(some, [view], options)]

    return Effort(used_parameters(encoder, view), None, speed(read, texts))


def used_parameters(encoder: Encoder, view: View) -> int:
    """Of the decoder up to the highest layer that the view needs, adapters included."""
    backbone = encoder.embedder.backbone
    total = _count(backbone)
    blocks = decoder_blocks(backbone, encoder.layer_count)
    top = max(layers_of(view, encoder.layer_count))
    return total if blocks is None else total - sum(_count(block) for block in list(blocks)[top:])


def _count(module: Any) -> int:
    """Weights that are shared count once."""
    return sum(parameter.numel() for parameter in module.parameters())
