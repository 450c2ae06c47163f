"""`dec2vec merge`: several runs -> one folder that is read like a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.errors import UserError


@dataclass(frozen=True, config=STRICT)
class MergeArgs:
    """Merge several runs of the same decoder into one run folder by averaging or interpolating their weights."""

    output: Path
    """Run folder to write. encode, eval --tuned and export accept it like a trained run."""
    runs: tuple[Path, ...] = ()
    """Run folders with the same base, prompt, layer and pooling."""
    weights: tuple[Annotated[float, Ge(0.0)], ...] = ()
    """Weight of each run, such as 0.7 0.3. Weights are scaled to a sum of 1. Empty uses equal weights."""
    method: Literal["average", "slerp"] = "average"
    """average averages the weights; slerp interpolates spherically between the changes of two runs (Shoemake 1985)."""
    rank: Annotated[int, Ge(1)] | None = None
    """Rank of the merged adapter; the approximation error is printed. None is exact and uses the sum of the runs'
    ranks."""


def merge_command(args: MergeArgs) -> None:
    """Merge the runs. Everything is checked before the folder is written, which appears as a whole."""
    weights = _normalized_weights(args)
    _check_output(args)
    from train.merging.merged_run import read_runs, write_merged

    runs = read_runs(args.runs)
    form = write_merged(runs, args.output, weights, args.method, args.rank)
    if any(run.artifact.whitening is not None for run in runs):
        sys.stderr.write("the whitening of the runs is not kept, because it was fitted on vectors of other models\n")
    sys.stdout.write(f"{args.output}: {form}\n")


def _normalized_weights(args: MergeArgs) -> tuple[float, ...]:
    """One weight for each run; their sum is 1."""
    if len(args.runs) < 2:
        raise UserError("merge: give at least two runs: dec2vec merge RUN RUN ... --output DIR")
    if len({run.resolve() for run in args.runs}) < len(args.runs):
        raise UserError("merge: a run is given twice; use a larger weight instead")
    if args.method == "slerp" and len(args.runs) != 2:
        raise UserError(f"merge: --method slerp needs two runs, not {len(args.runs)}; use --method average")
    weights = args.weights or (1.0,) * len(args.runs)
    if len(weights) != len(args.runs):
        raise UserError(f"merge: {len(weights)} weights for {len(args.runs)} runs; give one for each")
    total = sum(weights)
    if total == 0:
        raise UserError("merge: all weights are 0; set at least one above 0")
    return tuple(weight / total for weight in weights)


def _check_output(args: MergeArgs) -> None:
    """Only an empty folder or an earlier merge is replaced, and never one of the runs."""
    from train.export.merge_record import RECORD

    target = args.output.resolve()
    if any(run.resolve().is_relative_to(target) or target.is_relative_to(run.resolve()) for run in args.runs):
        raise UserError(f"--output {args.output} overlaps with one of the runs; use another folder")
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file()):
        raise UserError(f"--output {args.output} exists and is not a merged run; use another folder or move it away")
