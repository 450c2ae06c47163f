"""The files from which sentence-transformers builds an encoder: modules, pooling, whitening, normalization, prompts.

They are written without sentence-transformers, which need not be installed, and with the keys of its older versions
if the newest still reads them: older versions refuse unknown keys.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dec2vec.config.model import EncodeOptions, PoolingName
from dec2vec.decoder.dense_head import Dense
from dec2vec.decoder.layers import decoder_blocks, index_in_transformers
from dec2vec.decoder.pooling import resolve_layer
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import PUBLISHED
from dec2vec.prompts.tokenizer import eos_id
from dec2vec.vectors.whitening import Whitening
from train.export.tokenizer import side_prompts

_MODES: dict[PoolingName, str] = {
    "last": "lasttoken",
    "mean": "mean_tokens",
    "weighted_mean": "weightedmean_tokens",
    "max": "max_tokens",
}
_ALL_MODES = (
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
)
POOLING_FOLDER = "1_Pooling"


def check_exportable(encoder: Encoder) -> None:
    """UserError for options that sentence-transformers has no module for."""
    if encoder.config.pooling_name not in _MODES:
        raise UserError(
            f"pooling {encoder.config.pooling} is not supported by sentence-transformers; train with model.pooling "
            f"{', '.join(_MODES)}, or use adapter/ with dec2vec"
        )
    if encoder.config.bidirectional:
        raise UserError(
            "model.bidirectional: sentence-transformers would use causal attention; add export.model false, and use "
            "adapter/ or model/ with dec2vec"
        )
    if encoder.published is not None and encoder.published.chat is not None and encoder.config.prompt == PUBLISHED:
        raise UserError(
            "model.prompt published: the base puts texts into its chat template, which the exported folder can't; use "
            "model.prompt bare, or export.model false"
        )
    library_layer(encoder)
    side_prompts(encoder)


def library_layer(encoder: Encoder) -> int | None:
    """The index of the pooled state in `output_hidden_states` of transformers; None for the last hidden state.

    UserError if transformers does not return that state: the embeddings in Mamba and RWKV.
    """
    layer = resolve_layer(encoder.config.pooled_layer, encoder.layer_count)
    backbone = encoder.embedder.backbone
    blocks = decoder_blocks(backbone, encoder.layer_count)
    if layer == encoder.layer_count or blocks is None:
        return None if layer == encoder.layer_count else layer
    index = index_in_transformers(backbone, blocks, layer)
    if index is None:
        raise UserError(
            f"model.layer {layer}: transformers does not return this hidden state of the decoder, so it is not "
            "exported; pool another layer, or add export.model false and use adapter/ with dec2vec"
        )
    return index


def save_modules(encoder: Encoder, folder: Path, whitening: Whitening | None, *, merged: bool) -> None:
    """Write everything but the weights and the tokenizer. `merged` says that the folder has all weights."""
    head = published_layers(encoder)
    kinds = ["Transformer", "Pooling", *(type(layer).__name__ for layer in head)]
    kinds += [*(["Dense"] if whitening is not None else []), "Normalize"]
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    for module in modules:
        (folder / str(module["path"])).mkdir(exist_ok=True)
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", _transformer(encoder, merged=merged))
    write_json(folder / POOLING_FOLDER / "config.json", _pooling(encoder))
    write_json(folder / "config_sentence_transformers.json", _prompts(encoder))
    write_json(folder / f"{len(kinds) - 1}_Normalize" / "config.json", {})
    for at, layer in enumerate(head, start=2):
        _save_layer(layer, folder / kinds_folder(at, layer))
    if whitening is not None:
        save_whitening(whitening, folder / whitening_folder(encoder))


def module_weights(encoder: Encoder, whitening: Whitening | None) -> dict[str, dict[str, Tensor]]:
    """What the files of the modules after the pooling hold, by their paths in the folder."""
    found = {
        f"{kinds_folder(at, layer)}/model.safetensors": layer.library_tensors
        for at, layer in enumerate(published_layers(encoder), start=2)
        if isinstance(layer, Dense)
    }
    if whitening is not None:
        found[f"{whitening_folder(encoder)}/model.safetensors"] = dense_weights(whitening)
    return found


def published_layers(encoder: Encoder) -> list[nn.Module]:
    """The layers of a published embedder that come after the pooling; empty if the encoder does not use them."""
    head = encoder.embedder.head
    return [] if head is None or not encoder.embedder.view.dense else list(head.layers)


def whitening_folder(encoder: Encoder) -> str:
    """The folder of the whitening, which comes after the layers of a published embedder."""
    return f"{2 + len(published_layers(encoder))}_Dense"


def kinds_folder(at: int, layer: nn.Module) -> str:
    """The folder of a layer that is module number `at`."""
    return f"{at}_{type(layer).__name__}"


def _save_layer(layer: nn.Module, folder: Path) -> None:
    config = layer.library_config if isinstance(layer, Dense) else {}
    write_json(folder / "config.json", config)
    if isinstance(layer, Dense):
        save_file(layer.library_tensors, folder / "model.safetensors", {"format": "pt"})


def write_json(path: Path, content: object) -> None:
    """Write indented JSON in UTF-8."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _transformer(encoder: Encoder, *, merged: bool) -> dict[str, object]:
    """An inner layer is taken from the hidden states of the whole model, which needs version 5.4 or later."""
    options = {"max_seq_length": encoder.max_length, "do_lower_case": False, **_dtype(encoder, merged=merged)}
    layer = library_layer(encoder)
    if layer is None:
        return options
    output = {"method": "forward", "method_output_name": ["hidden_states", layer]}
    return {**options, "modality_config": {"text": output}, "module_output_name": "token_embeddings"}


def _dtype(encoder: Encoder, *, merged: bool) -> dict[str, object]:
    """The dtype of the weights; transformers 5 would load an adapter's base as it was saved, often in float16."""
    dtype = encoder.config.dtype
    return {} if merged and dtype == "float32" else {"model_args": {"dtype": dtype}}


def _pooling(encoder: Encoder) -> dict[str, object]:
    chosen = _MODES[encoder.config.pooling_name]
    modes = {f"pooling_mode_{mode}": mode == chosen for mode in _ALL_MODES}
    view = replace(encoder.embedder.view, dense=False)
    width = encoder.encode_views(["a"], [view], EncodeOptions(progress=False))[view].shape[1]
    return {"word_embedding_dimension": width, **modes, "include_prompt": True}


def _prompts(encoder: Encoder) -> dict[str, object]:
    reading = encoder.published
    if reading is not None and encoder.config.prompt == PUBLISHED:
        return {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": "", **reading.prompts},
            "default_prompt_name": reading.default_prompt,
            "similarity_fn_name": reading.similarity or "cosine",
        }
    prompts = {side: prompt.prefix for side, prompt in side_prompts(encoder).items()}
    return {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": "query" if prompts["query"] else None,
        "similarity_fn_name": "cosine",
    }


def save_whitening(whitening: Whitening, folder: Path) -> None:
    """Write `(x - mean) @ kernel` as an affine layer without activation."""
    rows, columns = whitening.kernel.shape
    save_file(dense_weights(whitening), folder / "model.safetensors", {"format": "pt"})
    config = {"in_features": rows, "out_features": columns, "bias": True}
    write_json(folder / "config.json", {**config, "activation_function": "torch.nn.modules.linear.Identity"})


def dense_weights(whitening: Whitening) -> dict[str, torch.Tensor]:
    """The whitening as the weights of a linear layer."""
    return {
        "linear.weight": torch.from_numpy(np.ascontiguousarray(whitening.kernel.T, dtype=np.float32)),
        "linear.bias": torch.from_numpy((-whitening.mean @ whitening.kernel).astype(np.float32)),
    }


_PLAIN = ("rope_theta", "partial_rotary_factor")


def spell_for_all(encoder: Encoder, path: Path) -> None:
    """Add the keys of transformers 4 to a config.json written by a newer version."""
    content = json.loads(path.read_text(encoding="utf-8"))
    changes = older_rotary_keys(content.get("rope_parameters"))
    if encoder.tokenizer.eos_token is not None:
        changes["eos_token_id"] = eos_id(encoder.tokenizer)
    write_json(path, {**content, **changes})


def older_rotary_keys(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """`rope_parameters` with the keys of transformers 4. Empty without them, or if each kind of layer has its own."""
    if not parameters or "rope_theta" not in parameters:
        return {}
    keys: dict[str, Any] = {name: parameters[name] for name in _PLAIN if name in parameters}
    if parameters.get("rope_type", "default") != "default":
        keys["rope_scaling"] = {name: value for name, value in parameters.items() if name not in keys}
    return keys
