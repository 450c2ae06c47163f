"""What a published embedder computes from the pooled vector: layers of sentence-transformers' Dense and Normalize.

The weights are buffers: training leaves them as they are, and a gradient passes through them. The exception is a
projection that is trained with the decoder (`train_weight`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dec2vec.errors import UserError

HEAD_FILE = "head.safetensors"
"""Its weights, in a folder that dec2vec has written."""


@dataclass(frozen=True)
class Step:
    """One layer. `activation` is the name of a module of torch.nn; `residual` adds the layer's input to its output."""

    kind: Literal["dense", "normalize"]
    activation: str = "Identity"
    residual: bool = False


class Dense(nn.Module):
    """Linear layer, activation, and perhaps a residual connection (with a projection if the widths differ)."""

    def __init__(self, step: Step, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.step = step
        self.activation = activation_module(step.activation)
        for name in ("weight", "bias", "projection"):
            self.register_buffer(name, tensors[name].float() if name in tensors else None)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (n, in) as (n, out)."""
        out: Tensor = self.activation(nn.functional.linear(x, self._tensor("weight"), self._bias))
        if not self.step.residual:
            return out
        return out + (x if self.projection is None else nn.functional.linear(x, self._tensor("projection")))

    @property
    def _bias(self) -> Tensor | None:
        return self._tensor("bias") if isinstance(self.bias, Tensor) else None

    def _tensor(self, name: str) -> Tensor:
        tensor = getattr(self, name)
        assert isinstance(tensor, Tensor)
        return tensor

    @property
    def library_tensors(self) -> dict[str, Tensor]:
        """The weights as sentence-transformers names them."""
        return {_LIBRARY_NAMES[name]: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}

    @property
    def library_config(self) -> dict[str, Any]:
        """The `config.json` of its folder."""
        rows, columns = self._tensor("weight").shape
        kind = type(self.activation)
        return {
            "in_features": columns,
            "out_features": rows,
            "bias": self.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__qualname__}",
            **({"use_residual": True} if self.step.residual else {}),
        }


class Normalize(nn.Module):
    """Scale vectors to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x, p=2, dim=-1)


class DenseHead(nn.Module):
    """The layers in their order. `tensors` are named by the number of the layer: `0.weight`, `0.bias`."""

    def __init__(self, steps: Sequence[Step], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.layers = nn.ModuleList()
        for number, step in enumerate(steps):
            own = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{number}.")}
            self.layers.append(Normalize() if step.kind == "normalize" else Dense(step, own))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled vectors (n, in) as vectors (n, out), in float32."""
        vectors = pooled.float()
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors

    def train_weight(self, number: int) -> None:
        """Make the matrix of layer `number` a parameter, so that it is trained."""
        layer = self.layers[number]
        assert isinstance(layer, Dense)
        weight = layer.get_buffer("weight")
        del layer.weight
        layer.weight = nn.Parameter(weight)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What `__init__` takes."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.layers.state_dict().items()}


_LIBRARY_NAMES = {"weight": "linear.weight", "bias": "linear.bias", "projection": "residual.weight"}


def dense_step(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> tuple[Step, dict[str, Tensor]]:
    """The layer that a `Dense` module of sentence-transformers is. UserError for what this version does not know."""
    for option in ("module_input_name", "module_output_name"):
        if config.get(option) not in (None, "sentence_embedding"):
            raise UserError(f"{where}: {option} {config[option]!r} is not read; only Dense layers after pooling are")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    step = Step("dense", name.rpartition(".")[2], bool(config.get("use_residual", False)))
    if not name.startswith("torch.nn.") or not is_activation(step.activation):
        raise UserError(
            f"{where}: activation_function {name} is not read; only modules of torch.nn without weights and chance are"
        )
    ours = {library: name for name, library in _LIBRARY_NAMES.items()}
    unknown = sorted(set(tensors) - set(ours))
    if unknown or "linear.weight" not in tensors:
        raise UserError(f"{where}: {unknown[0] if unknown else 'linear.weight is missing'}: not the weights of a Dense")
    return step, {ours[name]: tensor for name, tensor in tensors.items()}


_BY_CHANCE = (nn.modules.dropout._DropoutNd, nn.RReLU)
"""They compute something else, at random, in a model that is trained."""


def is_activation(name: str) -> bool:
    """Whether torch.nn has an activation of this name without arguments, weights and chance."""
    kind = getattr(nn, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        return False
    try:
        activation = kind()
        return not activation.state_dict() and not isinstance(activation, _BY_CHANCE)
    except TypeError:
        return False


def activation_module(name: str) -> nn.Module:
    """A module of torch.nn by its name."""
    module: nn.Module = getattr(nn, name)()
    return module


def first_dimensions(count: int, width: int) -> Tensor:
    """The weight of a layer that keeps the first `count` of `width` dimensions."""
    return torch.eye(count, width)
