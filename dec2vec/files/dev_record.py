"""What a run folder records of dev: the tasks that chose the checkpoint, and the texts that were held out of training.

Training writes it. Later exports name in the model card what chose, and later evaluations don't take held-out texts for
texts that were trained on; neither has the data of the training in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, why_not_written
from dec2vec.files.held_out import text_key

NAME = "dev.json"


@dataclass(frozen=True)
class Chooser:
    """A task by which the checkpoint was chosen, and its metric; empty where that is not known."""

    task: str
    metric: str = ""


@dataclass(frozen=True)
class DevRecord:
    """Several tasks choose together, by the mean of their metrics."""

    chose: tuple[Chooser, ...] = ()
    left_out: frozenset[int] = frozenset()
    """Keys of the texts that only rows have that were held out of training, see `text_key`."""

    @classmethod
    def of_texts(cls, chose: Iterable[Chooser], left_out: Iterable[str]) -> DevRecord:
        return cls(tuple(chose), frozenset(map(text_key, left_out)))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks that chose."""
        return tuple(dict.fromkeys(chooser.task for chooser in self.chose))

    def has_left_out(self, text: str) -> bool:
        """Whether a text of the run's files was not trained on."""
        return bool(self.left_out) and text_key(text) in self.left_out


def merged(records: Sequence[DevRecord]) -> DevRecord:
    """Of a model that was merged from runs: all that chose one of them, and what was held out of each."""
    chose = dict.fromkeys(chooser for record in records for chooser in record.chose)
    return DevRecord(tuple(chose), frozenset.intersection(*(record.left_out for record in records)))


def write_record(record: DevRecord, folder: Path) -> None:
    """Write `dev.json`; without anything to record, no earlier one stays."""
    path = folder / NAME
    chose, left_out = (
        [asdict(chooser) for chooser in record.chose],
        " ".join(f"{key:x}" for key in sorted(record.left_out)),
    )
    text = json.dumps({"chose": chose, "left_out": left_out}, indent=2, ensure_ascii=False)
    try:
        if record == DevRecord():
            path.unlink(missing_ok=True)
        else:
            atomic_write_text(path, text + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {why_not_written(error)}") from error


def read_record(folder: Path) -> DevRecord | None:
    """The record in a run folder; None where there is none, as in those of earlier versions."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        keys = frozenset(int(key, 16) for key in tree["left_out"].split())
        return DevRecord(tuple(Chooser(**chooser) for chooser in tree["chose"]), keys)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no record of a run ({type(error).__name__}); restore it, or delete it") from error
