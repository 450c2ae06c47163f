"""Models averaged weight by weight: fully tuned ones, and those with an adapter that is not just a low-rank update.

An adapter is folded into its base first. The average of the folded weights is the base plus the average update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import Artifact
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.merging.low_rank import slerp_weights

State = dict[str, Tensor]


def average_whole(artifacts: Sequence[Artifact], names: Sequence[str], weights: Sequence[float]) -> Encoder:
    """The first run's encoder with the weighted average of all runs, summed in float32.

    The runs are loaded one after another.
    """
    encoder = load_folded(names[0], artifacts[0])
    total = {name: weights[0] * tensor for name, tensor in _floats(encoder).items()}
    for name, artifact, weight in zip(names[1:], artifacts[1:], weights[1:], strict=True):
        state = _floats(load_folded(name, artifact))
        _check_same(total, state, name, names[0])
        for key, tensor in state.items():
            total[key] += weight * tensor
    _assign(encoder, total)
    return encoder


def slerp_whole(artifacts: Sequence[Artifact], names: Sequence[str], fraction: float) -> Encoder:
    """The base plus, for each matrix, the point at `fraction` of the arc between the updates of two runs."""
    encoder = load_folded(names[0], artifacts[0])
    one, other = _floats(encoder), _floats(load_folded(names[1], artifacts[1]))
    first = artifacts[0]
    base = _floats(Encoder.from_backbone(replace(first.config, device="cpu"), published=first.published))
    _check_same(one, other, names[1], names[0])
    _check_same(one, base, artifacts[0].config.name_or_path, names[0])
    merged = {name: _slerp(base[name], one[name], other[name], fraction) for name in one}
    _assign(encoder, merged)
    return encoder


def load_folded(name: str, artifact: Artifact) -> Encoder:
    """The encoder at `name` on the CPU, its adapter folded into its weights."""
    if artifact.config.load_in_4bit:
        raise UserError(f"{name}: tuned on 4-bit weights, into which an adapter can't be folded; merge plain LoRA runs")
    encoder = Encoder.load(ModelConfig(name_or_path=name, device="cpu"))
    backbone: Any = encoder.embedder.backbone
    if isinstance(backbone, PeftModel):
        encoder.embedder.backbone = backbone.merge_and_unload(safe_merge=True)
    return encoder


def _slerp(base: Tensor, one: Tensor, other: Tensor, fraction: float) -> Tensor:
    first, second = (one - base).double(), (other - base).double()
    lengths, product = (float((first**2).sum()), float((second**2).sum())), float((first * second).sum())
    left, right = slerp_weights(*lengths, product, fraction)
    return (base + left * first + right * second).float()


def _floats(encoder: Encoder) -> State:
    """Weights in float32. Integer buffers are equal in all runs."""
    state = encoder.embedder.backbone.state_dict()
    return {name: tensor.float() for name, tensor in state.items() if tensor.is_floating_point()}


def _check_same(left: State, right: State, name: str, first: str) -> None:
    shapes = [{key: tensor.shape for key, tensor in state.items()} for state in (left, right)]
    if shapes[0] != shapes[1]:
        odd = next(key for key in sorted({*left, *right}) if shapes[0].get(key) != shapes[1].get(key))
        raise UserError(f"{name}: {odd} has another size than in {first}, or is in one of them only")


def _assign(encoder: Encoder, merged: State) -> None:
    state = encoder.embedder.backbone.state_dict()
    with torch.no_grad():
        for name, tensor in merged.items():
            state[name].copy_(tensor)
