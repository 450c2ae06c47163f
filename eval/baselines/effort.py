"""What a baseline costs, and what is known of the data that an outside encoder was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dec2vec.errors import UserError
from eval.baselines.baseline import Baseline, PairBaseline, SearchBaseline
from eval.baselines.encoder import OutsideEncoder
from eval.baselines.input_embeddings import InputEmbeddings
from eval.results.effort import Effort, speed

SHOWN = 30
"""Data sets of a model card that are named."""
UNKNOWN = "its training data are not known: no model card names them"


def baseline_effort(baseline: Baseline, texts: list[str], notes: Mapping[str, str]) -> Effort:
    """After its fit. Those without vectors have no dimension, and no speed of a text."""
    note = notes.get(baseline.name, "")
    if isinstance(baseline, (PairBaseline, SearchBaseline)):
        return Effort(None, None, None, note)
    if isinstance(baseline, OutsideEncoder):
        note = note or card_note(Path(baseline.path))
    width = baseline.encode(texts[:1]).shape[1] if texts else None
    return Effort(_parameters(baseline), width, speed(baseline.encode, texts), note)


def named_notes(notes: Sequence[str], baselines: Sequence[Baseline]) -> dict[str, str]:
    """`NAME: text` by name. UserError for a name that no baseline has, or without a text."""
    names = [baseline.name for baseline in baselines]
    found: dict[str, str] = {}
    for line in notes:
        name, _, text = line.partition(":")
        if name.strip() not in names or not text.strip():
            raise UserError(
                f"config error: baseline_notes: {line!r} must be NAME: TEXT, where NAME is one of {', '.join(names)}"
            )
        found[name.strip()] = text.strip()
    return found


def card_note(folder: Path) -> str:
    """The data sets that the model card of an encoder names at its top."""
    card = folder / "README.md"
    if not card.is_file():
        return UNKNOWN
    _, found, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    try:
        head: Any = yaml.safe_load(rest.partition("\n---")[0]) if found else None
    except yaml.YAMLError:
        return UNKNOWN
    sets = head.get("datasets") if isinstance(head, dict) else None
    names = [str(name) for name in sets] if isinstance(sets, list) else []
    if not names:
        return UNKNOWN
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"its model card names as training data: {', '.join(names[:SHOWN])}{more}"


def _parameters(baseline: Baseline) -> int | None:
    """Weights of a trained model; counts of words are none."""
    if isinstance(baseline, OutsideEncoder):
        return int(sum(parameter.numel() for parameter in baseline.load().parameters()))
    return baseline.parameters if isinstance(baseline, InputEmbeddings) else None
