"""Tiny decoders of the families beyond those that every test of the decoder runs. A line in `FURTHER` adds one.

A family whose options have usual names needs none of its own: `further_config` fits `_SIZES` to what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig

_STATES = {"state_size": 4, "expand": 2, "conv_kernel": 2}
_LATENT = {"num_key_value_heads": 4}
_INDEXED = {**_LATENT, "index_n_heads": 2, "index_head_dim": 8}
FURTHER: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "apertus": {},
    "arcee": {},
    "aria_text": {},
    "axk1": _LATENT,
    "axk2": _INDEXED,
    "bailing_hybrid": {},
    "bamba": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {},
    "cohere": {},
    "cohere2": {},
    "cohere2_moe": {},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0, "clip_qkv": 8.0}}
    },
    "ctrl": {},
    "cwm": {},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_top_k": 2},
        "max_seq_len": 256,
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _INDEXED,
    "deepseek_v4": {"partial_rotary_factor": 0.5, "index_n_heads": 2, "index_head_dim": 8},
    "diffllama": {},
    "doge": {},
    "dots1": {},
    "dots3_note_text": _LATENT,
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "exaone_moe": {},
    "falcon_h1": {"mamba_d_ssm": 32},
    "falcon_mamba": _STATES,
    "flex_olmo": {},
    "flint": {},
    "gemma2": {"sliding_window": 64},
    "gemma3_text": {},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 320,
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_text": {},
    "gemma4_unified_text": {},
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _INDEXED,
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global"], 3]]},
    "gpt_neox_japanese": {},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 64},
    "gptj": {},
    "granite": {},
    "granite_swa": {},
    "granitemoe": {},
    "granitemoe_swa": {},
    "granitemoehybrid": {},
    "granitemoeshared": {},
    "helium": {"head_dim": 4},
    "hrm_text": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "hy_v4": _INDEXED,
    "hyperclovax": {},
    "inkling2_text": {},
    "inkling_text": {},
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "jamba": {
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "jetmoe": {},
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4, "num_key_value_heads": 4},
    "kolibri1": {},
    "laguna": {},
    "lfm2": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm3": {},
    "llama4_text": {},
    "longcat_flash": {**_LATENT, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16, "zero_expert_num": 2},
    "mamba": _STATES,
    "mamba2": {**_STATES, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "mellum": {},
    "mimo_v2_flash": {},
    "minicpm3": _LATENT,
    "minimax": {},
    "minimax_m2": {},
    "minimax_m3_vl_text": {},
    "ministral": {},
    "ministral3": {},
    "mixtral": {},
    "modernbert-decoder": {},
    "mpt": {"max_seq_len": 256, "expansion_ratio": 2},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention"],
        "ssm_state_size": 4,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "chunk_size": 8,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmo_hybrid": {},
    "olmoe": {},
    "openai-gpt": {},
    "persimmon": {},
    "phi3": {},
    "phimoe": {},
    "qwen2_moe": {},
    "qwen3_5_moe_text": {},
    "qwen3_5_text": {},
    "qwen3_moe": {},
    "qwen3_next": {},
    "qwen4_exp_text": {},
    "recurrent_gemma": {"lru_width": 16, "attention_window_size": 64},
    "rwkv": {"rescale_every": 2},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {},
    "xglm": {},
    "xlstm": {"embedding_dim": 16, "num_blocks": 3, "chunk_size": 8},
    "youtu": _LATENT,
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "attention_hidden_size": 32,
        "n_mamba_heads": 2,
    },
    "zamba2": {
        "attention_hidden_size": 32,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "n_mamba_heads": 4,
        "chunk_size": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16, "sliding_window": None},
}
"""The options of each that differ from `_SIZES`."""

WITHOUT_EMBEDDINGS = ("mamba", "mamba2", "falcon_mamba", "rwkv")
"""Families in which `output_hidden_states` begins with the output of the first block."""

_SIZES: dict[int | float, str] = {
    16: "hidden_size n_embd d_model word_embed_proj_dim rnn_hidden_size attention_hidden_size moe_intermediate_size "
    "shared_expert_intermediate_size sliding_window",
    32: "intermediate_size n_inner d_ff ffn_dim decoder_ffn_dim encoder_ffn_dim dff",
    3: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts state_size rotary_dim "
    "mamba_d_state mamba_n_heads linear_num_value_heads linear_key_head_dim linear_value_head_dim",
    8: "head_dim q_lora_rank kv_lora_rank v_head_dim qk_nope_head_dim qk_rope_head_dim mamba_d_head",
    2: "num_key_value_heads num_experts_per_tok top_k moe_topk mamba_expand linear_num_key_heads",
    1: "n_group topk_group n_shared_experts first_k_dense_replace mamba_n_groups",
    256: "max_position_embeddings n_positions n_ctx",
    0.0: "dropout attention_dropout activation_dropout hidden_dropout residual_dropout resid_dropout resid_pdrop "
    "embd_pdrop attn_pdrop emb_pdrop embd_dropout attn_dropout layerdrop "
    "hidden_dropout_prob attention_probs_dropout_prob",
}
"""By value, the names under which families know the sizes of their parts."""


def further_config(family: str, shared: Mapping[str, Any]) -> Any:
    """The configuration of a tiny decoder of a family in `FURTHER`; options that the family lacks are left out."""
    own = AutoConfig.for_model(family).get_text_config()
    sizes = {name: value for value, names in _SIZES.items() for name in names.split()}
    fitted = {name: value for name, value in {**sizes, **shared}.items() if _has(own, name)}
    return type(own)(**{**fitted, **FURTHER[family]})


def _has(config: Any, name: str) -> bool:
    """Whether it has an option of this name that is a single value."""
    options = config.to_dict()
    key = config.attribute_map.get(name, name)
    if isinstance(options.get(key), list | dict) or isinstance(getattr(type(config), name, None), property):
        return False
    return key in options or hasattr(config, name)
