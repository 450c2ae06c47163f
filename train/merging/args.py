"""Options of `dec2vec merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class MergeArgs:
    """Make one run folder from several runs of the same decoder, by averaging or interpolating their weights."""

    output: Path
    """Run folder to write; encode, eval --tuned and export take it like a trained one."""
    runs: tuple[Path, ...] = ()
    """Run folders of the same base and reading."""
    weights: tuple[Annotated[float, Ge(0.0)], ...] = ()
    """Share of each run, such as 0.7 0.3; scaled to a sum of 1; empty takes equal ones."""
    method: Literal["average", "slerp"] = "average"
    """average of the weights, or, of two runs, the arc between their changes of the base (Shoemake 1985)."""
    rank: Annotated[int, Ge(1)] | None = None
    """Rank of the merged adapter, its error is printed; None is exact, with the sum of the runs' ranks."""
