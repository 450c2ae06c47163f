"""Checkpoints that survive a kill at any instant: whole folders, safetensors and JSON only, with checksums.

    checkpoints/step-000200/
        adapter.safetensors    the trained tensors
        optimizer.safetensors  the optimizer's moments, one tensor per key
        state.json             everything else a resumed run needs
        manifest.json          format, step, what run it belongs to, sha256 and size of the files above

A checkpoint is written under a temporary name in the same folder, flushed to the disk and renamed, so a folder called
`step-*` was complete when it got its name. The checksums detect later damage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dec2vec.errors import UserError
from dec2vec.files.atomic import PICKLE_SUFFIXES, atomic_path, refuse_pickle, sha256_file, why_not_written
from train.checkpointing.identity import Identity, check_same_run, note_unrecorded

FORMAT = 1
TENSORS = "adapter.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
FILES = (TENSORS, OPTIMIZER, STATE)
_NAME = re.compile(r"step-(\d+)")
_DOOMED = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-.*|\.step-\d+\.\d+\.(tmp|old)")
"""What a killed run was writing or removing."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, with correct checksums."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, object]


class _Damaged(Exception):
    """Why a checkpoint can't be used."""


def save_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, object],
    run: Identity,
) -> Path:
    """Write `root/step-NNNNNN` completely or not at all; a failure leaves earlier checkpoints as they were.

    `state` must be JSON. Folders of later steps are removed: a run that saves step n has resumed from step n or an
    earlier one, so it has refused the later ones as damaged.
    """
    final = root / f"step-{step:06d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_temporaries(root)
        with atomic_path(final) as temporary:
            temporary.mkdir()
            _write_files(temporary, step, tensors, optimizer, state, run)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write checkpoint {final}: {why_not_written(error)} (earlier checkpoints are intact)"
        ) from error
    for later, path in _listed(root):
        if later > step:
            _remove(path)
    return final


def latest_checkpoint(root: Path, run: Identity) -> Checkpoint | None:
    """The newest complete checkpoint below `root`, or None; damaged ones are skipped with a warning."""
    refused = 0
    for _, path in reversed(_listed(root)):
        try:
            found, manifest = _read(path, run)
        except _Damaged as reason:
            refused += 1
            _log.warning("checkpoint %s is damaged (%s); trying the one before it", path, reason)
            continue
        note_unrecorded(path, manifest, run)
        return found
    if refused:
        _log.warning("no complete checkpoint in %s; starting from the first step", root)
    return None


def load_checkpoint(path: Path, run: Identity) -> Checkpoint:
    """One checkpoint by its folder, such as the best one of a run."""
    try:
        return _read(path, run)[0]
    except _Damaged as reason:
        raise UserError(
            f"checkpoint {path} is damaged ({reason}); train again from the start with checkpoint.resume fresh"
        ) from None


def prune(root: Path, keep: int, protect: Path | None) -> None:
    """Remove all but the newest `keep` checkpoints; `protect` (the best one) always stays."""
    for _, path in _listed(root)[: -keep if keep > 0 else None]:
        if protect is None or path.name != protect.name:
            _remove(path)
    _remove_temporaries(root)


def discard_checkpoints(root: Path) -> None:
    """Remove every checkpoint, for a run that starts from the beginning in a used folder."""
    for _, path in _listed(root):
        _remove(path)
    _remove_temporaries(root)


def _write_files(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, object],
    run: Identity,
) -> None:
    """The manifest comes last and covers the other files."""
    save_file(_on_cpu(tensors), folder / TENSORS)
    save_file(_on_cpu(optimizer), folder / OPTIMIZER)
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    files: dict[str, dict[str, str | int]] = {}
    for name in FILES:
        files[name] = {"sha256": sha256_file(folder / name), "size": (folder / name).stat().st_size}
    manifest = {"format": FORMAT, "step": step, **run.record(), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8", errors="surrogatepass")


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _listed(root: Path) -> list[tuple[int, Path]]:
    """(step, folder), oldest first."""
    if not root.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in root.iterdir())
    return sorted((int(match.group(1)), path) for match, path in matches if match and path.is_dir())


def _remove(path: Path) -> None:
    """Rename before deleting, so that a kill halfway leaves no damaged checkpoint under its real name."""
    renamed = path.with_name(f"{_DOOMED}{path.name}")
    with contextlib.suppress(OSError):
        shutil.rmtree(renamed, ignore_errors=True)
        path.rename(renamed)
        shutil.rmtree(renamed, ignore_errors=True)


def _remove_temporaries(root: Path) -> None:
    """Remove temporary folders of any process, because only this run writes here."""
    for path in root.iterdir() if root.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, run: Identity) -> tuple[Checkpoint, dict[str, object]]:
    """The checkpoint and its manifest."""
    _refuse_pickles(path)
    manifest = _read_json(path / MANIFEST)
    _check_files(path, manifest)
    step = manifest["step"]
    if not isinstance(step, int) or f"step-{step:06d}" != path.name:
        raise _Damaged(f"{MANIFEST} says step {step}")
    check_same_run(path, manifest, run)
    try:
        state = _read_json(path / STATE)
        return Checkpoint(path, step, load_file(path / TENSORS), load_file(path / OPTIMIZER), state), manifest
    except (OSError, SafetensorError) as error:
        raise _Damaged(str(error)) from error


def _refuse_pickles(path: Path) -> None:
    """Refuse files of torch.save with a message; only safetensors are ever read here."""
    for name in (TENSORS, OPTIMIZER):
        file = path / name
        if file.exists():
            refuse_pickle(file)
            continue
        for suffix in sorted(PICKLE_SUFFIXES):
            if file.with_suffix(suffix).exists():
                refuse_pickle(file.with_suffix(suffix))


def _check_files(path: Path, manifest: dict[str, object]) -> None:
    """Sizes first (cheap), then checksums."""
    files = manifest.get("files")
    if not isinstance(files, dict) or not {"format", "step", "config_hash"} <= set(manifest):
        raise _Damaged(f"{MANIFEST} lacks a field")
    if manifest["format"] != FORMAT:
        raise UserError(
            f"checkpoint {path} has format {manifest['format']}, but this dec2vec supports {FORMAT}; update dec2vec"
        )
    for name in FILES:
        file, expected = path / name, files.get(name)
        if not isinstance(expected, dict) or not file.is_file():
            raise _Damaged(f"{name} is missing")
        if file.stat().st_size != expected.get("size"):
            raise _Damaged(f"{name} has {file.stat().st_size} bytes instead of {expected.get('size')}")
        if sha256_file(file) != expected.get("sha256"):
            raise _Damaged(f"{name} fails its checksum")


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _Damaged(f"{path.name} can't be read") from error
    if not isinstance(value, dict):
        raise _Damaged(f"{path.name} is not an object")
    return value
