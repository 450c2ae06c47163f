"""Decoder blocks with LoRA in few passes over the activations.

A block is x + attention(norm(x)), then x + mlp(norm(x)), as in Llama, Mistral, Qwen2 and Qwen3. What comes before and
after attention is in `train.kernels.block_autograd`. The modules, their parameters and the files that are saved of them
stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dec2vec.decoder.bidirectional import is_bidirectional
from dec2vec.decoder.last_token_block import PositionedBlock, can_skip_tokens, forward_at, positions_in
from train.kernels.block_autograd import FusedMLP, FusedQKV, Heads
from train.kernels.lora_linear import product_dtype
from train.kernels.lora_stack import Layer, LoraStack, adapters
from train.kernels.short_attention import BlockAttention

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True, eq=False)
class Products:
    """A block's linear layers by name, and the dtype that their products are computed in."""

    layers: Mapping[str, Layer]
    dtype: torch.dtype

    def named(self, names: Sequence[str]) -> list[Layer]:
        return [self.layers[name] for name in names]


class _StackCache:
    """Stacks of layers; each is made again when a weight that it was made from has changed."""

    def __init__(self) -> None:
        self._stacks: dict[tuple[str, ...], tuple[tuple[object, ...], LoraStack]] = {}

    def __bool__(self) -> bool:
        return bool(self._stacks)

    def stack(self, names: tuple[str, ...], products: Products, norm: Tensor | None) -> LoraStack:
        """The layers of these names, with the weights that they have now."""
        layers = products.named(names)
        parts = [part for layer in layers for part in layer.tensors] + ([] if norm is None else [norm])
        source = products.dtype, *(number for part in parts for number in (part.data_ptr(), part._version))
        if names not in self._stacks or self._stacks[names][0] != source:
            scale = None if norm is None else norm.detach()
            self._stacks[names] = source, LoraStack.from_layers(layers, scale, products.dtype)
        return self._stacks[names][1]


class FastBlock(PositionedBlock):
    """Mixed into a decoder's block: the fused forward pass wherever it is the same function, else the block's own."""

    memory: _StackCache

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The block's own output, up to rounding."""
        products, positions = None if args else self._products(hidden_states), positions_in(self)
        if products is None:
            output: Tensor
            if positions is None:
                output = super().forward(hidden_states, *args, **kwargs)
            else:
                output = forward_at(self, positions, hidden_states, **kwargs)
            return output
        with torch.autocast(hidden_states.device.type, enabled=False):  # `products` has its dtype
            states = hidden_states.float()  # of a bfloat16 base; what the blocks add up stays in float32
            attention = BlockAttention.from_module(self._part("self_attn"), states, products.dtype, kwargs)
            if positions is None or attention.packed:
                return self._forward(positions, products, states, attention, **kwargs)
            return self._forward_at(positions, products, states, attention, **kwargs)

    def _forward(
        self,
        positions: Tensor | None,
        products: Products,
        hidden_states: Tensor,
        attention: BlockAttention,
        **kwargs: Any,
    ) -> Tensor:
        """The output at every token, or (text, 1, dim) at some positions of texts without padding."""
        names, angles = ("q_proj", "k_proj", "v_proj"), kwargs["position_embeddings"]
        heads = self._project(products, names, hidden_states, angles, short=attention.short)
        attended = attention.of_all(heads, hidden_states.shape[1], kwargs["attention_mask"])
        if positions is not None:
            hidden_states, attended = (states[0, positions][:, None] for states in (hidden_states, attended))
        return self._finish(products, hidden_states, attended)

    def _forward_at(
        self, positions: Tensor, products: Products, hidden_states: Tensor, attention: BlockAttention, **kwargs: Any
    ) -> Tensor:
        """(batch, 1, dim): the output at one position of each row."""
        rows, angles = torch.arange(len(positions), device=positions.device), kwargs["position_embeddings"]
        kept = hidden_states[rows, positions][:, None]
        kept_angles = [angle.expand(len(positions), -1, -1)[rows, positions][:, None] for angle in angles]
        query, _, _ = self._project(products, ("q_proj",), kept, kept_angles, short=attention.short)
        _, key, value = self._project(products, ("k_proj", "v_proj"), hidden_states, angles, short=attention.short)
        attended = attention.at((query, key, value), positions, hidden_states.shape[1])
        return self._finish(products, kept, attended)

    def _part(self, name: str) -> Any:
        return self.get_submodule(name)

    def _products(self, hidden_states: Tensor) -> Products | None:
        """None if one of the layers, or the activations, are not as the fused pass needs them."""
        dtype = product_dtype(hidden_states)
        if dtype is None or hidden_states.shape[1] > _window(self._part("self_attn").config):
            return None
        norms = (part for name, part in self.named_parameters() if "norm" in name)
        if any(norm.requires_grad or norm.dtype not in (torch.float32, dtype) for norm in norms):
            return None
        layers = {
            name: Layer.from_module(part)
            for half in ("self_attn", "mlp")
            for name, part in self._part(half).named_children()
            if name.endswith("_proj")
        }
        usable = {name: layer for name, layer in layers.items() if layer is not None}
        fits = all(layer.weight.dtype in (torch.float32, dtype) for layer in usable.values())
        return Products(usable, dtype) if fits and len(usable) == len(layers) else None

    def _project(
        self,
        products: Products,
        names: tuple[str, ...],
        x: Tensor,
        angles: Sequence[Tensor],
        *,
        short: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values from the layers in `names`; the others have no heads."""
        attention, norm = self._part("self_attn"), self._part("input_layernorm")
        dim = attention.head_dim
        counts = [
            len(products.layers[name].weight) // dim if name in names else 0 for name in ("q_proj", "k_proj", "v_proj")
        ]
        scales, epsilon = None, 0.0
        if dict(attention.named_children()).keys() >= _HEAD_NORMS:
            norms = attention.q_norm.weight.expand(counts[0], -1), attention.k_norm.weight.expand(counts[1], -1)
            scales, epsilon = torch.cat(norms).detach().float(), attention.q_norm.variance_epsilon
        group = attention.num_key_value_groups
        heads = Heads(counts[0], counts[1], counts[2], dim, group, short, scales, epsilon)
        cosine, sine = (angle[:, :, None, None].float() for angle in angles)
        stack, trained = self.memory.stack(names, products, norm.weight), adapters(products.named(names))
        parts: tuple[Tensor, Tensor, Tensor] = FusedQKV.apply(  # type: ignore[no-untyped-call]
            x, cosine, sine[..., : dim // 2], stack, heads, norm.variance_epsilon, *trained
        )
        return parts

    def _finish(self, products: Products, x: Tensor, attended: Tensor) -> Tensor:
        norm = self._part("post_attention_layernorm")
        out, gates, down = ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)
        stacks = [
            self.memory.stack(names, products, norm.weight if names == gates else None) for names in (out, gates, down)
        ]
        trained = adapters(products.named(out + gates + down))
        inputs = x, attended, *stacks, norm.variance_epsilon, *trained
        result: Tensor = FusedMLP.apply(*inputs)  # type: ignore[no-untyped-call]
        return result


def use_fast_blocks(backbone: nn.Module, blocks: nn.ModuleList) -> None:
    """Give the fused forward pass to blocks of the families for which it is proved equal.

    It is causal and ignores the mask in short rows, so a decoder with attention in both directions keeps its own.
    """
    if is_bidirectional(backbone):
        return
    for block in blocks:
        if can_skip_tokens(backbone, block) and _is_plain(block):
            block.__class__ = type(f"Fast{type(block).__name__}", (FastBlock, type(block)), {})
            vars(block)["memory"] = _StackCache()


def _window(config: Any) -> float:
    """How many tokens back attention reaches; with a window no beginning is shared between rows (`can_share`)."""
    text = config.to_dict()
    slides = text.get("sliding_window") is not None and text.get("use_sliding_window", True)
    return float(text["sliding_window"]) if slides else math.inf


def _is_plain(block: nn.Module) -> bool:
    """Whether the block has the parts that the fused pass computes, and no others."""
    attention, mlp = block.get_submodule("self_attn"), block.get_submodule("mlp")
    parts = {name for name, _ in attention.named_children()}
    config: Any = attention.config
    return (
        parts in (_ATTENTION, _ATTENTION | _HEAD_NORMS)
        and {name for name, _ in mlp.named_children()} == _MLP
        and config.hidden_act == "silu"
        and config._attn_implementation == "sdpa"
        and not config.attention_dropout
    )
