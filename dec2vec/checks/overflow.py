"""Check the largest activation of the decoder: beyond the range of float16 its vectors would be nan in float16."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from dec2vec.checks.finding import Finding, worst
from dec2vec.checks.loaded_model import PROBES, LoadedModel, Route

NAME = "overflow"
FLOAT16_MAX = 65_504.0


def check_overflow(model: LoadedModel) -> Finding:
    """Check the activations in both libraries. A model saved in float16 was loaded in float32 for this."""
    findings, largest = [], 0.0
    for route, embed in model.routes.items():
        top = _largest_activation(model.backbones[route], embed)
        findings.append(_judged(route, top, model.saved_dtype, np.isfinite(embed(PROBES)).all()))
        largest = max(largest, top)
    return worst(NAME, findings, f"largest activation {largest:.3g} (float16 holds {FLOAT16_MAX:.0f})")


def _judged(route: str, top: float, dtype: str, is_finite: np.bool_) -> Finding:
    if not is_finite or not math.isfinite(top):
        what = f"{route}: vectors or activations contain nan or inf"
        return Finding(
            NAME, "fail", what, "load it in float32 or bfloat16; if that does not help, the weights are damaged"
        )
    if top >= FLOAT16_MAX and dtype == "float16":
        what = f"{route}: an activation is {top:.3g}, but the model is saved for float16, whose maximum is 65504"
        return Finding(NAME, "fail", what, "change dtype to bfloat16 (sentence_bert_config.json, dec2vec.json)")
    if top >= FLOAT16_MAX / 2:
        what = f"{route}: an activation is {top:.3g}; the maximum of float16 is 65504"
        return Finding(NAME, "warn", what, "serve the model in bfloat16 or float32, not in float16")
    return Finding(NAME, "pass", "")


@torch.no_grad()
def _largest_activation(backbone: Any, embed: Route) -> float:
    """The largest absolute value in the outputs of all modules."""
    tops = [0.0]

    def note(module: Any, inputs: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                top = float(value.abs().max())
                tops[0] = top if math.isnan(top) or top > tops[0] else tops[0]

    handles = [module.register_forward_hook(note) for module in backbone.modules()]
    try:
        embed(PROBES)
    finally:
        for handle in handles:
            handle.remove()
    return tops[0]
