"""Compare the weights of a checkpoint with the places that its configuration and its tokenizer have for them.

transformers fills what is missing with random numbers, and leaves out what has no place. With the configuration of
another model (a Qwen read as a Llama without biases, fewer blocks than the files hold) vectors look plausible and are
wrong, so both are refused. A token beyond the embeddings (a tokenizer got new tokens, and the embeddings were not made
longer) would end in an IndexError, on CUDA in a failed assertion of a kernel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError

HEADS = frozenset({"head", "embed_out", "lm_loss", "pred_layer", "cls", "score", "classifier", "qa_outputs"})
"""First or second part of the names of heads, as is whatever ends in `_head`. A decoder without its head has no place
for them, nor for `mtp`, the layers of some families that predict further tokens."""
_OLD_BUFFERS = re.compile(
    r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask)$"
    r"|(^|\.)rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)(position_ids|embed_positions\.weights)$"
)
"""Masks and angles that earlier versions of transformers saved, and newer ones compute."""
SHOWN = 3
SHOWN_CHARACTERS = 40


def check_weights_fit(
    config: ModelConfig, decoder: PretrainedConfig, missing: Collection[str], unexpected: Collection[str]
) -> None:
    """Raise UserError for weights that are missing, and for those that neither the decoder nor its head has."""
    homeless = [name for name in unexpected if not _is_expected(name, config, decoder)]
    if homeless:
        raise UserError(
            f"model {config.name_or_path}: config.json has no place for {len(homeless)} weights of its files "
            f"({_some(homeless)}){_also(missing)}; {_fix(homeless, decoder)}"
        )
    if missing:
        raise UserError(
            f"model {config.name_or_path}: {len(missing)} weights are missing from its files ({_some(missing)}); use a "
            f"complete checkpoint, with its own config.json (this one is of a {decoder.model_type})"
        )


def _is_expected(name: str, config: ModelConfig, decoder: PretrainedConfig) -> bool:
    """Whether a weight that was not loaded may be left out: a head, an old buffer, or a block that is cut off."""
    if any(map(_is_head, name.split(".")[:2])) or _OLD_BUFFERS.search(name):
        return True
    options: Any = decoder
    block, count = _block(name), int(options.num_hidden_layers)
    if block is None or block < count:
        return False
    further = decoder.to_dict().get("num_nextn_predict_layers") or 0  # blocks that predict the tokens after the next
    return config.depth is not None or block < count + further


def _is_head(part: str) -> bool:
    return part in HEADS or part.endswith("_head") or part.startswith("mtp")


def _block(name: str) -> int | None:
    """The number of the block that a weight belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + " ..." * (len(names) > SHOWN)


def _also(missing: Collection[str]) -> str:
    return f", and {len(missing)} weights are missing ({_some(missing)})" if missing else ""


def _fix(homeless: list[str], decoder: PretrainedConfig) -> str:
    """The likely cause, and what to do about it."""
    options: Any = decoder
    blocks = [_block(name) for name in homeless]
    if all(block is not None and block >= options.num_hidden_layers for block in blocks):
        return f"correct num_hidden_layers (now {options.num_hidden_layers}) in config.json"
    if all(name.endswith(".bias") for name in homeless):
        return f"set attention_bias (or mlp_bias) in config.json, or correct its model_type (now {decoder.model_type})"
    return f"use the config.json that belongs to these weights (model_type is now {decoder.model_type})"


def tokens_without_row(tokenizer: PreTrainedTokenizerBase, embeddings: Any) -> dict[int, str]:
    """The tokens, by id, for which the input embeddings have no row; empty for nearly all models."""
    rows = int(embeddings.weight.shape[0])
    return {id: token for token, id in tokenizer.get_vocab().items() if id >= rows}


def check_rows(name: str, ids: Sequence[Sequence[int]], texts: Sequence[str], without_row: Mapping[int, str]) -> None:
    """Raise UserError for the first text of the model `name` that has a token without a row."""
    if not without_row:
        return
    for row, text in zip(ids, texts, strict=True):
        for id in row:
            if id in without_row:
                shown = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "\u2026"
                raise UserError(
                    f"model {name}: token {without_row[id]!r} (id {id}) of the text {shown!r} has no row in the "
                    "embeddings; remove it from the text, or resize_token_embeddings of the model and save it"
                )
