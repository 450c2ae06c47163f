"""Adapters as files: read PEFT's safetensors and JSON, write one merged adapter. The base is not loaded.

PEFT's own `add_weighted_adapter` needs the base in memory, has one weight per adapter where an arc has one per module,
and does not tell the error of a truncation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dec2vec.errors import UserError
from train.export.read_back import read_back
from train.merging.low_rank import LowRank, inner, slerp_weights, truncate, weighted_sum

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_FACTOR = re.compile(r"(.*)\.lora_(embedding_)?([AB])(\.weight)?")
_PLAIN_INITS = (True, False, "gaussian", "orthogonal")
"""Initializations that do not change the base. PiSSA, for one, subtracts the adapter from it."""

Weigh = Callable[[Sequence[LowRank]], Sequence[float]]


@dataclass(frozen=True, eq=False)
class Adapter:
    """The change of each module, and the configuration with which the adapter was saved."""

    config: dict[str, Any]
    changes: dict[str, LowRank]
    """Keyed by the pattern of the module's keys: `layers.0.q_proj.lora_{}.weight`."""


def read_adapter(folder: Path) -> Adapter | None:
    """Read an adapter. None if it is not just B A added to the base: DoRA, PiSSA, modules_to_save, rank patterns.

    Raises UserError for damaged files.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: the adapter can't be read ({str(error).splitlines()[0]}); copy it again") from None
    if not _is_plain(config) or not all(map(_FACTOR.fullmatch, tensors)):
        return None
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    return Adapter(config, _changes(tensors, scale))


def _is_plain(config: dict[str, Any]) -> bool:
    return (
        config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and config.get("init_lora_weights", True) in _PLAIN_INITS
        and not any(config.get(key) for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"))
    )


def _changes(tensors: dict[str, Tensor], scale: float) -> dict[str, LowRank]:
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _FACTOR.fullmatch(key)
        assert match is not None
        module = f"{match[1]}.lora_{match[2] or ''}{{}}{match[4] or ''}"
        factors.setdefault(module, {})[match[3]] = tensor.double()
    return {module: LowRank(pair["A"], scale * pair["B"]) for module, pair in factors.items()}


def check_modules(adapters: Sequence[Adapter], names: Sequence[str]) -> None:
    """UserError unless the adapters have the same modules with the same sizes."""
    first = adapters[0].changes
    for adapter, name in zip(adapters[1:], names[1:], strict=True):
        if adapter.changes.keys() != first.keys():
            module = min(adapter.changes.keys() ^ first.keys()).partition(".lora_")[0]
            raise UserError(f"{name}: adapts other modules than {names[0]} ({module} is in one of them only)")
        for module, change in adapter.changes.items():
            if change.a.shape[1] != first[module].a.shape[1] or change.b.shape[0] != first[module].b.shape[0]:
                raise UserError(
                    f"{name}: the size of {module.partition('.lora_')[0]} differs from that in {names[0]}; merge runs "
                    "with the same sizes"
                )


def weigh_average(weights: Sequence[float]) -> Weigh:
    """The same weights for every module."""
    return lambda changes: weights


def weigh_slerp(fraction: float) -> Weigh:
    """Weights on each module's own arc."""
    return lambda changes: slerp_weights(
        inner(changes[0], changes[0]), inner(changes[1], changes[1]), inner(changes[0], changes[1]), fraction
    )


def merge_adapters(adapters: Sequence[Adapter], weigh: Weigh, rank: int | None) -> tuple[Adapter, float]:
    """The merged adapter, and its relative error (Frobenius norm over all modules; 0 without a `rank`)."""
    merged: dict[str, LowRank] = {}
    lost = total = 0.0
    for module in adapters[0].changes:
        changes = [adapter.changes[module] for adapter in adapters]
        merged[module] = weighted_sum(changes, weigh(changes))
        if rank is not None and rank < merged[module].rank:
            total += inner(merged[module], merged[module])
            merged[module], distance = truncate(merged[module], rank)
            lost += distance
    config = dict(adapters[0].config)
    full_rank = max(change.rank for change in merged.values())
    config |= {"r": full_rank, "lora_alpha": full_rank, "use_rslora": False, "init_lora_weights": True}
    return Adapter(config, merged), math.sqrt(lost / total) if total > 0 else 0.0


def write_adapter(adapter: Adapter, folder: Path) -> None:
    """Write PEFT's files in float32, with a scale alpha / r of 1."""
    tensors = {
        module.format(side): factor.to(torch.float32).contiguous()
        for module, change in adapter.changes.items()
        for side, factor in (("A", change.a), ("B", change.b))
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(adapter.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    with read_back(folder) as read:
        read.file(folder / WEIGHTS, tensors)
