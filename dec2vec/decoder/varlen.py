"""Pack the texts of a chunk end to end instead of padding them, for a CUDA kernel that attends within each text.

Matrix products, norms and MLPs then run at real tokens only. The kernel is torch's `varlen_attn` (16 bits, no dropout);
decoders of transformers pass it the edges of the texts as they do with flash-attn. `train.adapters.capabilities` says
for which models it may be used.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor, nn
from transformers import AttentionInterface

from dec2vec.decoder.pooling import real_tokens

NAME = "dec2vec_unpadded"
EDGES = "cu_seq_lens_q"
"""The argument of a block that gives the edges of packed rows."""
Kernel = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """The positions of the real tokens of a padded chunk, in the order of its rows."""

    rows: Int64[Tensor, " token"]
    positions: Int64[Tensor, " token"]
    edges: Int32[Tensor, " edge"]
    """Row i has the tokens from `edges[i]` to `edges[i + 1] - 1`."""
    time: int

    @classmethod
    def from_lengths(cls, lengths: Int[Tensor, batch], time: int) -> PackedSequences:
        """Pack rows padded to `time`. The host waits for the device, because it needs the number of tokens."""
        rows, positions = real_tokens(lengths, time).nonzero(as_tuple=True)
        return cls(rows, positions, F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), time)

    @property
    def ends(self) -> Int64[Tensor, " batch"]:
        """The position of each row's last token among the packed tokens."""
        return self.edges[1:].long() - 1

    def ids(self, padded: Int[Tensor, "batch time"]) -> Int[Tensor, "1 token"]:
        """The ids of the real tokens."""
        return padded[self.rows, self.positions][None]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a decoder besides the ids."""
        lengths = {"max_length_q": self.time, "max_length_k": self.time}
        return {"position_ids": self.positions[None], EDGES: self.edges, "cu_seq_lens_k": self.edges, **lengths}

    def padded(self, states: Float[Tensor, "1 token dim"]) -> Float[Tensor, "batch time dim"]:
        """The states in padded rows, with zeros as padding."""
        empty = states.new_zeros(len(self.edges) - 1, self.time, states.shape[-1])
        return empty.index_put((self.rows, self.positions), states[0])


@cache
def find_kernel() -> Kernel | None:
    """torch's kernel; None if this torch lacks it, or the arguments that are needed (2.11 has them, 2.10 does not)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys() else None


@cache
def _takes_groups(kernel: Kernel) -> bool:
    """Whether it computes grouped heads itself, as from torch 2.12 on."""
    return "enable_gqa" in inspect.signature(kernel).parameters


@contextlib.contextmanager
def attending_within_rows(backbone: nn.Module) -> Iterator[None]:
    """Let the decoder use `attend` as its attention, for which transformers makes no mask."""
    config: Any = backbone.config
    text = config.get_text_config()
    implementation = text._attn_implementation
    AttentionInterface.register(NAME, attend)
    text._attn_implementation = NAME
    try:
        yield
    finally:
        text._attn_implementation = implementation


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token dim"],
    key: Float[Tensor, "1 keyhead token dim"],
    value: Float[Tensor, "1 keyhead token dim"],
    mask: None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Float[Tensor, "1 token head dim"], None]:
    """Causal attention within each row, with the signature that transformers expects."""
    kernel = find_kernel()
    assert kernel is not None
    device, group = query.device.type, query.shape[1] // key.shape[1]
    # under autocast, rotary embeddings may be float32; autocast converts ordinary attention but not this kernel
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    parts = [part[0].transpose(0, 1).to(dtype) for part in (query, key, value)]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if group > 1 and _takes_groups(kernel):
        options["enable_gqa"] = True
    elif group > 1:
        parts[1:] = [part.repeat_interleave(group, dim=1) for part in parts[1:]]
    edges, longest = arguments[EDGES], arguments["max_length_q"]
    attended: Tensor = kernel(*parts, edges, edges, longest, longest, **options)
    return attended[None], None
