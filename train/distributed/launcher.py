"""What a launcher has left in the environment: refused in one line where Accelerate or torch would fail on it."""

from __future__ import annotations

import logging
import os
import re

import torch

from dec2vec.errors import UserError
from train.distributed.collectives import is_first_process

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "LOCAL_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_START = "start the processes with torchrun or accelerate launch"
_log = logging.getLogger(__name__)


def check_launcher() -> None:
    """Refuse variables of a launcher that do not describe a group of processes, such as those of an MPI shell."""
    numbers = {name: _number(name) for name in (*_SIZES, *_RANKS, "LOCAL_WORLD_SIZE", "MASTER_PORT")}
    size = max(number or 1 for name, number in numbers.items() if name in _SIZES)
    named = next((name for name in _SIZES if (numbers[name] or 1) > 1), None)
    local = numbers["LOCAL_RANK"]
    if named is None and local is not None and local >= 0:
        named = "LOCAL_RANK"
    if named is not None and not os.environ.get("MASTER_ADDR") and not torch.distributed.is_mpi_available():
        raise UserError(
            f"{named}={numbers[named]} is set in the environment, as for several processes, but MASTER_ADDR is not; "
            f"{_START}, or unset {named} to train in one process"
        )
    rank = numbers["RANK"]
    if rank is not None and rank >= size:
        raise UserError(f"RANK={rank} is set in the environment of {size} process(es); {_START}, or unset RANK")


def note_launcher_options() -> None:
    """Say which options of an Accelerate configuration are not used."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if precision != "no" and is_first_process():
        _log.info("mixed_precision %s of the launcher is not used: model.dtype and model.autocast decide", precision)
    if backend != "no" and is_first_process():
        _log.info(
            "dynamo_backend %s of the launcher is not used: chunks differ in shape, and each shape would be compiled",
            backend,
        )


def _number(name: str) -> int | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if not re.fullmatch(r"-?\d+", value):
        raise UserError(f"{name}={value} in the environment is not a number; {_START}, or unset {name}")
    return int(value)
