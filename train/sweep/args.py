"""Options of `dec2vec sweep`, which stand among those of the training runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT, load


@dataclass(frozen=True, config=STRICT)
class SweepArgs:
    """Train every recipe of a grid, one after another, and choose on dev. Other options go to every run."""

    config: Path
    """Training configuration that all runs share."""
    output: Path
    """Folder of the runs, the comparison and their logs; the same command goes on where it was stopped."""
    grid: tuple[str, ...] = ()
    """An option and its values: optim.lr=1e-4,3e-4; several make every combination."""
    seeds: tuple[str, ...] = ()
    """Seeds of every recipe: 1,2,3; the comparison shows their mean and spread."""
    wandb_sweep: Path | None = None
    """Write a W&B sweep file of the same grid instead of training."""


def parse(argv: Sequence[str]) -> tuple[SweepArgs, list[str]]:
    """The sweep's options, and those for every training run as they were typed."""
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
