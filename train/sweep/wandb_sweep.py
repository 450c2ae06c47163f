"""The same grid as a W&B sweep, for `wandb sweep FILE` and `wandb agent ID` on any number of machines."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dec2vec.config.load import load
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, why_not_written
from train.config import TrainConfig
from train.judge import score_name
from train.sweep.grid import Axis, parse_axes, parse_seeds


def wandb_sweep(
    config: Path, output: Path, grid: Sequence[str], seed_words: Sequence[str], training: Sequence[str]
) -> dict[str, Any]:
    """The sweep as W&B expects it. Dotted names are options of dec2vec: the agent passes `--optim.lr=0.0001`.

    Each run needs its own folder. W&B replaces `${envvar:...}` before it sets the run's id, so a shell inserts the id.
    With -P no file of the agent's folder takes the place of a module.
    """
    parameters: dict[str, Any] = {
        axis.option: {"values": [_typed(config, training, axis, tokens) for tokens in axis.values]}
        for axis in parse_axes(grid)
    }
    seeds = parse_seeds(seed_words)
    if seeds:
        parameters["seed"] = {"values": seeds}
    fixed = shlex.join([*training, "--tracking.backend", "wandb", "--eval.after_training", "false"])
    folder = f'{shlex.quote(str(output))}/"$WANDB_RUN_ID"'
    command = f'exec python -P -m dec2vec train {shlex.quote(str(config))} {fixed} "$@" --output_dir {folder}'
    return {
        "program": "train",
        "method": "grid",
        "metric": {"name": score_name(load(TrainConfig, config, training).eval), "goal": "maximize"},
        "parameters": parameters,
        "command": ["${env}", "sh", "-c", command, "sh", "${args}"],
    }


def write_wandb_sweep(
    path: Path, config: Path, output: Path, grid: Sequence[str], seed_words: Sequence[str], training: Sequence[str]
) -> None:
    text = yaml.safe_dump(
        wandb_sweep(config, output, grid, seed_words, training), sort_keys=False, allow_unicode=True, width=1000
    )
    try:
        atomic_write_text(path, text)
    except OSError as error:
        raise UserError(f"--wandb_sweep {path}: can't be written; {why_not_written(error, '--wandb_sweep')}") from error


def _typed(config_path: Path, training: Sequence[str], axis: Axis, tokens: tuple[str, ...]) -> object:
    """The value with its type in the configuration: W&B draws charts of numbers, not of the text 1e-4."""
    config: Any = load(TrainConfig, config_path, [*training, f"--{axis.option}", *tokens])
    for part in axis.option.split("."):
        config = config[int(part)] if part.isdigit() else vars(config)[part]
    if isinstance(config, (list, tuple)):
        raise UserError(
            f"--grid {axis.option}: W&B cannot pass lists; remove it from the grid, or remove --wandb_sweep"
        )
    return config
