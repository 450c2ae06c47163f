"""Options of `dec2vec score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class ScoreArgs:
    """Say of each pair of a file whether its texts mean the same: cosine, threshold, usable yes or no."""

    model: str
    """Run folder, model folder or Hub id."""
    input: Path
    """Pairs: a .jsonl, .csv, .tsv or .parquet."""
    output: Path
    """.jsonl or .csv: the rows of the input with cosine, threshold and usable."""
    column1: str = "generated"
    """Column of the texts to be judged."""
    column2: str = "reference"
    """Column of the texts they should agree with."""
    threshold: Annotated[float, Ge(-1), Le(1)] | None = None
    """Cosine from which on a pair is usable, when it is known beforehand."""
    dev: Path | None = None
    """Pairs with a label that choose the threshold; the same columns and `label`."""
    label: str = "label"
    """Column of dev's labels, 1 for usable and 0."""
    criterion: Literal["accuracy", "f1", "precision"] = "accuracy"
    """What the threshold is chosen for on dev: best accuracy, best f1, or a wanted precision."""
    precision: Annotated[float, Gt(0), Le(1)] | None = None
    """Wanted share of usable pairs that are truly so: the smallest threshold that reaches it on dev."""
    prompt: str | None = None
    """Prompt name, or a template with one {text}; None takes the model's own."""
    batch_tokens: Annotated[int, Ge(1)] = 16_384
    """Padded tokens of one forward pass: bounds the memory."""
    max_length: Annotated[int, Ge(1)] | None = None
    """Tokens kept of a text with its prompt; None takes the model's own (512 of an untuned one)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""
