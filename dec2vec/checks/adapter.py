"""The tuned model is not the base: an adapter that was never trained, lost or not loaded gives the base's vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from dec2vec.checks.finding import Finding
from dec2vec.checks.loaded_model import PROBES, Subject
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.load import checkpoint_tensors
from dec2vec.errors import UserError
from dec2vec.vectors.averaging import unit_rows

NAME = "adapter"
BARELY = 1e-4
_FIX = "export the run again from a trained checkpoint; if it is the same, look at the loss: nothing was learnt"


def check_adapter(subject: Subject) -> Finding:
    """Vectors with and without an adapter that is kept; weights against the base's where it was merged."""
    kept = _adapter_file(subject)
    if kept is not None:
        zero, count = _zero_matrices(kept)
        if count and zero == count:
            return Finding(NAME, "fail", f"all {count} lora_B are zero: the model is the base", _FIX)
        return _with_and_without(subject, zero, count)
    return _against_base(subject)


def _adapter_file(subject: Subject) -> Path | None:
    """Of an adapter that is loaded on top of the base."""
    artifact = subject.place.artifact
    folders = [artifact.adapter if artifact is not None else subject.place.library]
    files = [folder / "adapter_model.safetensors" for folder in folders if folder is not None]
    return next((file for file in files if file.is_file()), None)


def _zero_matrices(file: Path) -> tuple[int, int]:
    """lora_B that are zero throughout, as they start, and all lora_B."""
    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if "lora_B" in name]  # noqa: SIM118
        return sum(not bool(opened.get_tensor(name).any()) for name in names), len(names)


def _with_and_without(subject: Subject, zero: int, count: int) -> Finding:
    largest = 0.0
    for route, embed in subject.routes.items():
        tuned = unit_rows(embed(PROBES))
        with _disabled(subject.backbones[route]):
            plain = unit_rows(embed(PROBES))
        difference = float(np.abs(tuned - plain).max())
        if difference == 0:
            return Finding(NAME, "fail", f"{route}: vectors are the base's: the adapter is not in effect", _FIX)
        if difference < BARELY:
            return Finding(NAME, "warn", f"{route}: vectors differ from the base's by {difference:.1g} only", _FIX)
        largest = max(largest, difference)
    if zero:
        what = f"{zero} of {count} lora_B are zero: these modules were not trained"
        return Finding(NAME, "warn", what, "look at --lora.targets, and at the gradients of these modules")
    return Finding(NAME, "pass", f"vectors differ from the base's by up to {largest:.2g}")


@contextlib.contextmanager
def _disabled(backbone: Any) -> Iterator[None]:
    """PEFT's wrapper, or the adapter that transformers put into the model itself; without one, nothing changes."""
    from peft import PeftModel

    if isinstance(backbone, PeftModel):
        with backbone.disable_adapter():
            yield
    elif not backbone._hf_peft_config_loaded:
        yield
    else:
        backbone.disable_adapters()
        try:
            yield
        finally:
            backbone.enable_adapters()


def _against_base(subject: Subject) -> Finding:
    """The first tensor that differs is proof enough; only where the base is on this machine."""
    artifact = subject.place.artifact
    if artifact is None:
        return Finding(NAME, "skip", "no adapter, and no file that names a base to compare with")
    base = artifact.config
    if Path(base.name_or_path) in subject.place.folders:
        return Finding(NAME, "skip", "the folder names itself as its base")
    try:
        theirs = checkpoint_tensors(ModelConfig(name_or_path=base.name_or_path, revision=base.revision))
        ours = checkpoint_tensors(artifact.base)
    except UserError:
        return Finding(NAME, "skip", f"merged weights; the base {base.name_or_path} is not here to compare with")
    return _compared(ours, theirs, base.name_or_path)


def _compared(ours: dict[str, Path], theirs: dict[str, Path], base: str) -> Finding:
    """By the ends of names: the base may be stored with its LM head, one level deeper."""
    deeper = {name.partition(".")[2]: name for name in theirs} | {name: name for name in theirs}
    shared = [(name, deeper[name]) for name in ours if name in deeper]
    if not shared:
        return Finding(NAME, "warn", f"no weight of {base} has the same name here", "check base_model in dec2vec.json")
    for mine, other in shared:
        one, two = _tensor(ours[mine], mine), _tensor(theirs[other], other)
        if one.shape != two.shape or not torch.equal(one.to(two.dtype), two):
            return Finding(NAME, "pass", f"merged weights differ from {base}'s ({mine})")
    return Finding(NAME, "fail", f"all {len(shared)} weights equal those of {base}", _FIX)


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor
