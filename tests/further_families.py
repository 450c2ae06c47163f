"""Tiny decoders of families beyond those that every test of the decoder runs: state spaces, hybrids, no sdpa."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

_STATES = {"state_size": 4, "expand": 2, "conv_kernel": 2}
_GROUPED = {"intermediate_size": 32, "num_key_value_heads": 2}
FURTHER: dict[str, dict[str, Any]] = {
    "mamba": _STATES,
    "mamba2": {**_STATES, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "falcon_mamba": _STATES,
    "rwkv": {"attention_hidden_size": 16, "intermediate_size": 32, "rescale_every": 2},
    "jamba": {
        **_GROUPED,
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "recurrent_gemma": {**_GROUPED, "lru_width": 16, "attention_window_size": 64},
    "xlstm": {"num_heads": 2, "embedding_dim": 16, "num_blocks": 3, "chunk_size": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 64},
    "gpt_oss": {**_GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 64},
    "bloom": {"n_head": 4, "n_layer": 3},
    "mpt": {"d_model": 16, "n_heads": 4, "n_layers": 3, "max_seq_len": 256, "expansion_ratio": 2},
    "gptj": {"n_embd": 16, "n_head": 4, "n_layer": 3, "n_positions": 256, "rotary_dim": 4},
}
"""The options of each that differ from those all tiny decoders have."""


def further_config(family: str, shared: Mapping[str, Any]) -> Any:
    """The configuration of a tiny decoder of a family in `FURTHER`; options that the family lacks are left out."""
    own = AutoConfig.for_model(family)
    known = {name: value for name, value in shared.items() if hasattr(own, name)}
    return AutoConfig.for_model(family, **{**known, **FURTHER[family]})
