"""An optimizer's state as flat named tensors and back, bit for bit, so that no pickle is needed.

Only the moments and step counts are kept: learning rates, decay and betas follow from the configuration and the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from train.distributed.interface import EngineOptimizer


def optimizer_tensors(optimizer: EngineOptimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """`{"<parameter>.<key>": tensor}`; `names` are the parameters' names in the optimizer's order.

    Parameters that were never updated have no entry. See `EngineOptimizer.tensors` for who must call this.
    """
    _check_count(optimizer, names)
    return {
        f"{names[index]}.{key}": tensor
        for index, entry in optimizer.tensors().items()
        for key, tensor in _checked(names[index], entry).items()
    }


def restore_optimizer(optimizer: EngineOptimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned, into an optimizer of the same parameters; every tensor is copied."""
    _check_count(optimizer, names)
    position = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for flat, tensor in tensors.items():
        name, _, key = flat.rpartition(".")
        if name not in position:
            raise ValueError(f"optimizer state of unknown parameter {name!r}")
        state.setdefault(position[name], {})[key] = tensor.clone()
    optimizer.restore(state)


def _check_count(optimizer: EngineOptimizer, names: Sequence[str]) -> None:
    if optimizer.parameter_count != len(names) or len(set(names)) != len(names):
        raise ValueError(f"{len(set(names))} different names for {optimizer.parameter_count} parameters")


def _checked(name: str, entry: Mapping[str, object]) -> dict[str, Tensor]:
    tensors = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
    if len(tensors) != len(entry):
        raise ValueError(f"optimizer state of {name} holds {sorted(entry)}, not only tensors")
    return tensors
