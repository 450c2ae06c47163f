"""Check that the model differs from its base. It does not if the adapter is untrained, missing or not loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers.utils import ADAPTER_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from dec2vec.checks.finding import Finding
from dec2vec.checks.loaded_model import PROBES, LoadedModel
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.load import load_architecture
from dec2vec.decoder.quantized import stored_tensors
from dec2vec.decoder.scaled_weights import Lazy
from dec2vec.errors import UserError
from dec2vec.vectors.averaging import unit_rows

NAME = "adapter"
BARELY = 1e-4
_FIX = (
    "export the run again from a trained checkpoint; if the result is the same, check the loss: the run did not learn"
)


def check_adapter(model: LoadedModel) -> Finding:
    """Compare vectors with and without a separate adapter, or merged weights with those of the base."""
    if _lies_beside_weights(model):
        return Finding(NAME, "warn", _BESIDE, _FIX_BESIDE)
    kept = _adapter_file(model)
    if kept is not None:
        zero, count = _zero_matrices(kept)
        if count and zero == count:
            return Finding(NAME, "fail", f"all {count} lora_B matrices are zero, so the model equals the base", _FIX)
        return _with_and_without(model, zero, count)
    return _against_base(model)


_BESIDE = "adapter_config.json lies beside complete weights: dec2vec reads these alone, other libraries add the adapter"
_FIX_BESIDE = "if the adapter is merged into the weights, move adapter_config.json and adapter_model.safetensors away"


def _lies_beside_weights(model: LoadedModel) -> bool:
    """Whether a folder without dec2vec.json has both an adapter and weights."""
    folder = model.files.library or model.files.folder
    names = {path.name for path in folder.iterdir()}
    has_weights = bool(names & {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME})
    return model.files.artifact is None and ADAPTER_CONFIG_NAME in names and has_weights


def _adapter_file(model: LoadedModel) -> Path | None:
    """The weights of a separate adapter, which is loaded on top of the base; None if there is none."""
    artifact = model.files.artifact
    folder = model.files.library if artifact is None else artifact.adapter
    if folder is None or not (folder / "adapter_model.safetensors").is_file():
        return None
    return folder / "adapter_model.safetensors"


def _zero_matrices(file: Path) -> tuple[int, int]:
    """The number of lora_B matrices that are still zero, as they are before training, and of all lora_B matrices."""
    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if "lora_B" in name]  # noqa: SIM118
        return sum(not bool(opened.get_tensor(name).any()) for name in names), len(names)


def _with_and_without(model: LoadedModel, zero: int, count: int) -> Finding:
    """By each library whose folder has the adapter; beside that of dec2vec, `model/` may hold merged weights."""
    largest = 0.0
    for route, embed in model.routes.items():
        if route == "sentence-transformers" and not _is_with_library(model):
            continue
        tuned = unit_rows(embed(PROBES))
        with _disabled(model.backbones[route]):
            untuned = unit_rows(embed(PROBES))
        difference = float(np.abs(tuned - untuned).max())
        if difference == 0:
            return Finding(
                NAME, "fail", f"{route}: vectors equal those of the base, so the adapter has no effect", _FIX
            )
        if difference < BARELY:
            return Finding(
                NAME, "warn", f"{route}: vectors differ from those of the base by only {difference:.1g}", _FIX
            )
        largest = max(largest, difference)
    if zero:
        what = f"{zero} of {count} lora_B matrices are zero, so these modules were not trained"
        return Finding(NAME, "warn", what, "check lora.targets and the gradients of these modules")
    return Finding(NAME, "pass", f"vectors differ from those of the base by up to {largest:.2g}")


def _is_with_library(model: LoadedModel) -> bool:
    """Whether sentence-transformers' folder has the adapter."""
    return model.files.library is not None and (model.files.library / ADAPTER_CONFIG_NAME).is_file()


@contextlib.contextmanager
def _disabled(backbone: Any) -> Iterator[None]:
    """Disable an adapter that PEFT wraps around the model or that transformers has put into it."""
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


def _against_base(model: LoadedModel) -> Finding:
    """Compare merged weights with those of the base, if it is on this machine."""
    artifact = model.files.artifact
    if artifact is None:
        return Finding(NAME, "skip", "there is no adapter, and no file that names the base to compare with")
    base = artifact.config
    if Path(base.name_or_path) in model.files.folders:
        return Finding(NAME, "skip", "the folder names itself as its base")
    try:
        theirs = _tensors(ModelConfig(name_or_path=base.name_or_path, revision=base.revision, device="cpu"))
        ours = _tensors(replace(artifact.base, device="cpu"))
    except UserError:
        return Finding(
            NAME, "skip", f"merged weights cannot be compared, because the base {base.name_or_path} is not available"
        )
    return _compared(ours, theirs, base.name_or_path)


def _tensors(config: ModelConfig) -> Mapping[str, Lazy]:
    return stored_tensors(config, load_architecture(config))


def _compared(ours: Mapping[str, Lazy], theirs: Mapping[str, Lazy], base: str) -> Finding:
    """Compare tensors whose names end alike: a base stored with its LM head has names one level deeper."""
    deeper = {name.partition(".")[2]: name for name in theirs} | {name: name for name in theirs}
    shared = [(name, deeper[name]) for name in ours if name in deeper]
    if not shared:
        return Finding(NAME, "warn", f"no weight has the same name as in {base}", "check base_model in dec2vec.json")
    for mine, other in shared:
        one, two = ours[mine][...], theirs[other][...]
        if one.shape != two.shape or not _equal_when_rounded(one, two):
            return Finding(NAME, "pass", f"merged weights differ from those of {base} ({mine})")
    return Finding(NAME, "fail", f"all {len(shared)} weights equal those of {base}", _FIX)


def _equal_when_rounded(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.equal(one.to(two.dtype), two) or torch.equal(one, two.to(one.dtype))
