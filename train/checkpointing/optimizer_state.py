"""An optimiser's state as flat named tensors and back, bit for bit, so that no pickle is needed.

Only the moments and step counts are kept: learning rates, decay and betas come from the configuration
and the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer

from train.distributed.deepspeed import DeepSpeedAdamW
from train.distributed.sharded import sharded_like


def optimizer_tensors(optimizer: Optimizer | DeepSpeedAdamW, names: Sequence[str]) -> dict[str, Tensor]:
    """`{"<parameter>.<key>": tensor}`; `names` are the parameters' names in the optimiser's order.

    The tensors are the live ones, not copies. Parameters that were never stepped have no entry. What DeepSpeed keeps
    in parts is gathered by all processes, and the main one's alone to have.
    """
    if isinstance(optimizer, DeepSpeedAdamW):
        own, others = names[: optimizer.count], names[optimizer.count :]
        moments = dict(enumerate(optimizer.moments()))
        return _flat(own, moments) | ({} if optimizer.rest is None else optimizer_tensors(optimizer.rest, others))
    _check_count(optimizer, names)
    return _flat(names, optimizer.state_dict()["state"])


def restore_optimizer(
    optimizer: Optimizer | DeepSpeedAdamW, names: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """Put what `optimizer_tensors` returned into an optimiser of the same parameters.

    Every tensor is copied. Devices and dtypes follow the parameters, as `load_state_dict` decides.
    """
    if isinstance(optimizer, DeepSpeedAdamW):
        own, others = names[: optimizer.count], names[optimizer.count :]
        ends = tuple(f"{name}." for name in others)
        optimizer.restore(_states(own, {flat: tensor for flat, tensor in tensors.items() if not flat.startswith(ends)}))
        if optimizer.rest is not None:
            rest = {flat: tensor for flat, tensor in tensors.items() if flat.startswith(ends)}
            restore_optimizer(optimizer.rest, others, rest)
        return
    _check_count(optimizer, names)
    state = _states(names, tensors)
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entry in state.items():
        for key, tensor in entry.items():
            if tensor.ndim and tensor.shape != parameters[index].shape:
                raise ValueError(f"{names[index]}.{key} has shape {tuple(tensor.shape)}")
            if tensor.ndim:
                entry[key] = sharded_like(parameters[index], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _flat(names: Sequence[str], state: Mapping[int, Mapping[str, object]]) -> dict[str, Tensor]:
    return {
        f"{names[index]}.{key}": value
        for index, entry in state.items()
        for key, value in _checked(names[index], entry).items()
    }


def _states(names: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Copies, by the parameters' positions."""
    position = {name: index for index, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for flat, tensor in tensors.items():
        name, _, key = flat.rpartition(".")
        if name not in position:
            raise ValueError(f"optimiser state of unknown parameter {name!r}")
        state.setdefault(position[name], {})[key] = tensor.clone()
    return state


def _check_count(optimizer: Optimizer, names: Sequence[str]) -> None:
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if count != len(names) or len(set(names)) != len(names):
        raise ValueError(f"{len(set(names))} different names for {count} parameters")


def _checked(name: str, entry: Mapping[str, object]) -> dict[str, Tensor]:
    tensors = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
    if len(tensors) != len(entry):
        raise ValueError(f"optimiser state of {name} holds {sorted(entry)}, not only tensors")
    return tensors
