"""A chunk's texts end to end instead of in padded rows, for the CUDA kernel that attends within rows of any lengths.

Products, norms and MLPs then run at real tokens alone. The kernel is torch's `varlen_attn` (16 bits, no dropout);
decoders of transformers hand it the rows' edges as they would to flash-attn. `train.adapters.capabilities` says where
it may be used.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor, nn
from transformers import AttentionInterface

from dec2vec.decoder.pooling import real_tokens

NAME = "dec2vec_unpadded"
EDGES = "cu_seq_lens_q"
"""The argument of a block that says that its rows are laid end to end."""
Kernel = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """Where the real tokens of a padded chunk stand, in the order of its rows."""

    rows: Int64[Tensor, " token"]
    places: Int64[Tensor, " token"]
    edges: Int32[Tensor, " edge"]
    """Row i has the tokens from `edges[i]` to `edges[i + 1]`."""
    time: int

    @classmethod
    def of(cls, lengths: Int[Tensor, batch], time: int) -> PackedSequences:
        """Of rows padded to `time`. The host waits for the device: it must know how many tokens there are."""
        rows, places = real_tokens(lengths, time).nonzero(as_tuple=True)
        return cls(rows, places, F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), time)

    @property
    def ends(self) -> Int64[Tensor, " batch"]:
        """Where each row's last token stands."""
        return self.edges[1:].long() - 1

    def ids(self, padded: Int[Tensor, "batch time"]) -> Int[Tensor, "1 token"]:
        """The real tokens' ids."""
        return padded[self.rows, self.places][None]

    @property
    def arguments(self) -> dict[str, Any]:
        """What a decoder is told beside the ids."""
        lengths = {"max_length_q": self.time, "max_length_k": self.time}
        return {"position_ids": self.places[None], EDGES: self.edges, "cu_seq_lens_k": self.edges, **lengths}

    def padded(self, states: Float[Tensor, "1 token dim"]) -> Float[Tensor, "batch time dim"]:
        """In rows again, zero behind their ends."""
        empty = states.new_zeros(len(self.edges) - 1, self.time, states.shape[-1])
        return empty.index_put((self.rows, self.places), states[0])


def find_kernel() -> Kernel | None:
    """torch's kernel, where this torch has it with the arguments that are needed (2.11 has, 2.10 has not)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys() else None


@contextlib.contextmanager
def attending_within_rows(backbone: nn.Module) -> Iterator[None]:
    """Within, the decoder's attention is `attend`, and no mask is made for it."""
    config: Any = backbone.config
    text = config.get_text_config()
    own = text._attn_implementation
    AttentionInterface.register(NAME, attend)
    text._attn_implementation = NAME
    try:
        yield
    finally:
        text._attn_implementation = own


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 head token dim"],
    key: Float[Tensor, "1 keyhead token dim"],
    value: Float[Tensor, "1 keyhead token dim"],
    mask: None,
    scaling: float | None = None,
    **told: Any,
) -> tuple[Float[Tensor, "1 token head dim"], None]:
    """Causal attention within each row, as transformers calls an attention function."""
    kernel = find_kernel()
    assert kernel is not None
    device, group = query.device.type, query.shape[1] // key.shape[1]
    # rotary positions may come in float32 under autocast, which knows ordinary attention but not this
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    parts = [part[0].transpose(0, 1).to(dtype) for part in (query, key, value)]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if group > 1 and "enable_gqa" in inspect.signature(kernel).parameters:
        options["enable_gqa"] = True
    elif group > 1:
        parts[1:] = [part.repeat_interleave(group, dim=1) for part in parts[1:]]
    edges, longest = told[EDGES], told["max_length_q"]
    found: Tensor = kernel(*parts, edges, edges, longest, longest, **options)
    return found[None], None
