"""What a run is: its options, and by content every file that decides something.

A checkpoint records both, so that it is only resumed by the run that wrote it, and a refusal names the option or the
file that differs. The path of a file whose content is known is no part of it: a moved project is the same run.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dec2vec.config.load import read_config, validate
from dec2vec.config.renames import translated
from dec2vec.errors import UserError
from dec2vec.files.kept_rows import is_kept
from train.config import MEMORY_CHANGES, RESUMABLE_CHANGES, TrainConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_START_ANEW = "start from the beginning with checkpoint.resume fresh, or choose another output_dir"
_OTHER_ROWS = 'give them another output_dir, or start from the beginning with {"checkpoint": {"resume": "fresh"}}'
_ABSENT = object()
_FREE = RESUMABLE_CHANGES + MEMORY_CHANGES
PUBLISHED_BASE = "model.published"
"""Of `inputs`: how a base reads texts that is a published embedder."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """The resolved configuration of a run, and the sha256 of what its options name."""

    config_hash: str
    """Hash of options and training data by which checkpoints of earlier versions belong to a run."""
    config: TrainConfig = field(default_factory=TrainConfig)
    inputs: Mapping[str, str] = field(default_factory=dict)
    """By option, such as `eval.dev` or `data.0.path`, the sha256 of the content that it names."""

    def record(self) -> dict[str, object]:
        """What a manifest holds of it, as plain data."""
        return {
            "config_hash": self.config_hash,
            "config": dataclasses.asdict(self.config),
            "inputs": dict(self.inputs),
        }


def check_same_run(checkpoint: Path, manifest: Mapping[str, object], run: Identity) -> None:
    """Raise UserError, which names what differs, unless the checkpoint with this manifest belongs to `run`."""
    recorded, inputs = manifest.get("config"), manifest.get("inputs")
    if PUBLISHED_BASE in run.inputs and PUBLISHED_BASE not in (inputs if isinstance(inputs, dict) else {}):
        raise UserError(_read_as_bare(checkpoint, run))
    if isinstance(recorded, dict) and isinstance(inputs, dict):
        earlier = validate(TrainConfig, translated(recorded))
        _refuse_changed_option(checkpoint, earlier, inputs, run)
        _refuse_changed_content(checkpoint, inputs, run)
    elif manifest["config_hash"] != run.config_hash:
        raise UserError(_why_not_of_earlier_version(checkpoint, run))


def _read_as_bare(checkpoint: Path, run: Identity) -> str:
    return (
        f"checkpoint {checkpoint} was written by an earlier version, which read the published embedder "
        f"{run.config.model.name_or_path} as a bare decoder, with another ending of texts; {_START_ANEW}"
    )


def note_unrecorded(checkpoint: Path, manifest: Mapping[str, object], run: Identity) -> None:
    """Say in a line what a checkpoint of an earlier version does not show to be unchanged."""
    unknown = [option for option in run.inputs if not option.endswith(".path")]  # the data are in its hash
    if "inputs" not in manifest and unknown:
        _log.warning(
            "checkpoint %s was written by an earlier version, which did not record the content of %s; make sure that "
            "it has not changed since",
            checkpoint,
            " and ".join(unknown),
        )


def _refuse_changed_option(checkpoint: Path, earlier: TrainConfig, inputs: Mapping[str, object], run: Identity) -> None:
    for option, then, now in _differences(earlier, run.config):
        if option in inputs and inputs[option] == run.inputs.get(option):
            continue  # another path to the same content
        raise UserError(_other_option(checkpoint, option, then, now))


def _refuse_changed_content(checkpoint: Path, inputs: Mapping[str, object], run: Identity) -> None:
    named = dict(options_of(run.config))
    for option, sha256 in run.inputs.items():
        if option in inputs and inputs[option] != sha256:
            raise UserError(
                f"{option} {named.get(option)}: its content has changed since checkpoint {checkpoint} was written; "
                f"restore it, or {_START_ANEW}"
            )


def _why_not_of_earlier_version(checkpoint: Path, run: Identity) -> str:
    """Earlier versions recorded a hash only; the options are in the run folder's `config.yaml`."""
    try:
        earlier = validate(TrainConfig, read_config(checkpoint.parent.parent / "config.yaml"))
    except UserError:
        return f"checkpoint {checkpoint} belongs to another configuration; {_START_ANEW}"
    for option, then, now in _differences(earlier, run.config):
        return _other_option(checkpoint, option, then, now)
    return f"checkpoint {checkpoint} was trained on other data; restore them, or {_START_ANEW}"


def _other_option(checkpoint: Path, option: str, then: object, now: object) -> str:
    if all(isinstance(value, str) and is_kept(value) for value in (then, now)):
        return f"{option}: the rows have changed since checkpoint {checkpoint} was written; {_OTHER_ROWS}"
    was, is_now = ("absent" if value is _ABSENT else _shown(value) for value in (then, now))
    return (
        f"checkpoint {checkpoint} belongs to another configuration: {option} was {was}, and is now {is_now}; "
        f"{_START_ANEW}"
    )


def _shown(value: object) -> str:
    if isinstance(value, str) and is_kept(value):
        return "rows given in Python"
    return "null" if value is None else str(value)


def _differences(earlier: TrainConfig, present: TrainConfig) -> Iterator[tuple[str, object, object]]:
    """(option, earlier value, present value) of each that must be equal within a run, and is not."""
    then, now = dict(options_of(earlier)), dict(options_of(present))
    for option in dict.fromkeys([*then, *now]):
        pair = then.get(option, _ABSENT), now.get(option, _ABSENT)
        if pair[0] != pair[1] and not any(f"{option}.".startswith(f"{free}.") for free in _FREE):
            yield option, *pair


def options_of(config: DataclassInstance) -> Iterator[tuple[str, object]]:
    """Every option by its dotted name, such as `data.0.path`."""
    return _leaves("", dataclasses.asdict(config))


def left_open(given: DataclassInstance, settled: DataclassInstance) -> Iterator[tuple[str, object]]:
    """The options that were null or auto as `given`, with the values they have been `settled` to."""
    before = dict(options_of(given))
    return (
        item
        for item in options_of(settled)
        if before.get(item[0]) in (None, "auto") != item[1] and item[1] not in (None, "auto")
    )


def _leaves(name: str, node: object) -> Iterator[tuple[str, object]]:
    items: Mapping[str, object] | None = node if isinstance(node, dict) else None
    if isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
        items = {str(number): item for number, item in enumerate(node)}
    if items is None:
        yield name, node
        return
    for key, item in items.items():
        yield from _leaves(f"{name}.{key}".lstrip("."), item)
