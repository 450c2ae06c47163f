"""`sweep.json`: the state of every run, rewritten after each run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, why_not_written
from train.sweep.grid import Planned, hash_inputs

STATE = "sweep.json"
FORMAT = 1
Status = Literal["waiting", "interrupted", "failed", "done"]


@dataclass(frozen=True)
class Outcome:
    """One run: `dev` is the best dev score (Spearman in [-1, 1]), reached at `best_step`."""

    name: str
    recipe: str
    seed: int
    options: tuple[str, ...]
    config_hash: str
    status: Status = "waiting"
    dev: float | None = None
    best_step: int | None = None
    seconds: float = 0.0
    error: str = ""
    reported: bool = False
    """Whether the run has been evaluated on the tests, which is done for the winner only."""
    inputs: dict[str, str] = field(default_factory=dict)
    """sha256 of those of its data and dev files that are local."""


def begin(folder: Path, planned: Sequence[Planned]) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes of the planned runs, resumed from an earlier command, and the outcomes of runs that are not planned.

    Raises UserError if a folder belongs to a run with other options, or a data file has changed.
    """
    earlier = {outcome.name: outcome for outcome in _read(folder / STATE)}
    hashes = hash_inputs(name for run in planned for name in run.inputs)
    outcomes = []
    for run in planned:
        inputs = {name: hashes[name] for name in run.inputs if name in hashes}
        fresh = Outcome(run.name, run.recipe, run.seed, run.options, run.config_hash, inputs=inputs)
        previous = earlier.pop(run.name, fresh)
        if previous.config_hash != run.config_hash and previous.status != "waiting":
            raise UserError(f"{folder / run.name} was trained with other options; use another --output")
        if previous.status in ("done", "interrupted"):
            _refuse_changed(folder / run.name, previous.inputs, inputs)
        kept = fresh if previous.status == "waiting" else previous
        outcomes.append(dataclasses.replace(kept, options=run.options, inputs=inputs))
    return outcomes, list(earlier.values())


def _refuse_changed(run: Path, before: dict[str, str], now: dict[str, str]) -> None:
    """Refuse changed inputs. (Those of a failed run may change, because they may be the reason of the failure.)"""
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            raise UserError(f"{name} has changed since {run} read it; restore it, or use another --output")


def save(folder: Path, outcomes: Sequence[Outcome], winner: str | None) -> None:
    """Write the state, whole or not at all."""
    state = {"format": FORMAT, "winner": winner, "runs": [dataclasses.asdict(outcome) for outcome in outcomes]}
    try:
        atomic_write_text(folder / STATE, json.dumps(state, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{folder / STATE} cannot be written; {why_not_written(error, '--output')}") from error


def _read(path: Path) -> list[Outcome]:
    if not path.is_file():
        return []
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise UserError(f"{path}: format {state['format']!r} is not {FORMAT}; update dec2vec")
        return TypeAdapter(list[Outcome]).validate_python(state["runs"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); move it away, and finished runs will be detected"
        ) from None
