"""`dec2vec sweep`: a configuration and a grid -> a run for each recipe and seed, and their comparison on dev."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT, load
from dec2vec.errors import UserError


@dataclass(frozen=True, config=STRICT)
class SweepArgs:
    """Train every recipe of a grid, one after another, and select on dev. Other options are passed to every run."""

    config: Path
    """Training configuration shared by all runs."""
    output: Path
    """Folder of the runs, their logs and the comparison. The same command resumes a stopped sweep."""
    grid: tuple[str, ...] = ()
    """An option and its values, such as optim.lr=1e-4,3e-4. Several options give all combinations."""
    seeds: tuple[str, ...] = ()
    """Seeds of every recipe, such as 1,2,3. The comparison shows mean and standard deviation."""
    wandb_sweep: Path | None = None
    """Write a W&B sweep file of the same grid instead of training."""


def main(argv: Sequence[str]) -> None:
    """Run the sweep, or write its W&B file. Raises UserError at the end if a run failed."""
    args, training = parse(argv)
    from train.config import TrainConfig
    from train.sweep.grid import plan
    from train.sweep.run_all import run_all
    from train.sweep.wandb_sweep import write_wandb_sweep

    planned = plan(args.config, args.grid, args.seeds, training)
    shared = load(TrainConfig, args.config, training)
    if not shared.eval.dev_tasks:
        raise UserError("sweep: recipes are selected on dev; give a similarity file or tasks with eval.dev")
    if shared.export.push is not None:
        raise UserError(
            "sweep: export.push would push every run to the same repository; push the best run with dec2vec export"
        )
    if args.wandb_sweep is None:
        run_all(args.config, args.output, planned, report=shared.eval.after_training and bool(shared.eval.tests))
        return
    write_wandb_sweep(args.wandb_sweep, args.config, args.output, args.grid, args.seeds, training)
    sys.stdout.write(f"{args.wandb_sweep}: wandb sweep {args.wandb_sweep}, then wandb agent with the id it prints\n")


def parse(argv: Sequence[str]) -> tuple[SweepArgs, list[str]]:
    """The sweep's own options, and those for every training run as they were typed."""
    own_names = {field.name for field in dataclasses.fields(SweepArgs)} | {"help", "h"}
    has_config = bool(argv) and not argv[0].startswith("-")
    own: list[str] = ["--config", argv[0]] if has_config else []
    training: list[str] = []
    target = own
    for token in argv[has_config:]:
        if token.startswith("--") or token == "-h":
            name = token.lstrip("-").partition("=")[0].replace("-", "_")
            target = own if name in own_names else training
        target.append(token)
    prog = "dec2vec sweep CONFIG.yaml --grid OPTION=VALUE,VALUE --output DIR [--section.key value ...]"
    return load(SweepArgs, None, own, prog=prog), training
