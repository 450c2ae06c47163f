"""Tiny published embedders, laid out as sentence-transformers writes them, without that library."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.helpers import tiny_model_folder

ENDING = "<pad>"
"""Appended by the tokenizer; it is not its EOS."""
PROMPTS = {"query": "Find the answer: ", "document": "Text: "}
WIDTH = 16


@dataclass(frozen=True)
class Layer:
    """A Dense module with random weights."""

    out: int = 8
    activation: str | None = "torch.nn.modules.activation.Tanh"
    bias: bool = True
    residual: bool = False


@dataclass(frozen=True)
class Folder:
    """What is written. `between` puts a Normalize between the Dense layers."""

    pooling: str = "lasttoken"
    ending: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default: str | None = None
    include_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    between: bool = False
    normalize: bool = True
    max_length: int | None = 40
    lower_case: bool = False
    transformer: str = ""
    truncate: int | None = None
    truncation_side: str = "right"
    similarity: str = "cosine"
    family: str = "llama"


def write_published(path: Path, folder: Folder) -> Path:
    """Write the folder and return it."""
    decoder = tiny_model_folder(path / folder.transformer, folder.family)
    if folder.ending:
        _append(decoder / "tokenizer.json", ENDING)
    edit_json(decoder / "tokenizer_config.json", truncation_side=folder.truncation_side)
    modules = [("Transformer", folder.transformer)]
    _json(decoder / "sentence_bert_config.json", _transformer(folder))
    modules.append(("Pooling", "1_Pooling"))
    modes = {f"pooling_mode_{folder.pooling}": True, "include_prompt": folder.include_prompt}
    _json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, **modes})
    width = WIDTH
    for number, layer in enumerate(folder.layers):
        if number and folder.between:
            modules.append(("Normalize", f"{len(modules)}_Normalize"))
            _json(path / modules[-1][1] / "config.json", {})
        modules.append(("Dense", f"{len(modules)}_Dense"))
        _dense(path / modules[-1][1], layer, width)
        width = layer.out
    if folder.normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
        _json(path / modules[-1][1] / "config.json", {})
    kinds = [
        {"idx": at, "name": str(at), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, where) in enumerate(modules)
    ]
    _json(path / "modules.json", kinds)
    truncation = {} if folder.truncate is None else {"truncate_dim": folder.truncate}
    settings = {
        "prompts": folder.prompts,
        "default_prompt_name": folder.default,
        "similarity_fn_name": folder.similarity,
    }
    _json(path / "config_sentence_transformers.json", settings | truncation)
    return path


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    _json(path, {**json.loads(path.read_text()), **changes})


def _transformer(folder: Folder) -> dict[str, object]:
    length = {} if folder.max_length is None else {"max_seq_length": folder.max_length}
    return {**length, "do_lower_case": folder.lower_case}


def _dense(path: Path, layer: Layer, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    weights = {"linear.weight": torch.randn(layer.out, width, generator=generator)}
    if layer.bias:
        weights["linear.bias"] = torch.randn(layer.out, generator=generator)
    if layer.residual and layer.out != width:
        weights["residual.weight"] = torch.randn(layer.out, width, generator=generator)
    config: dict[str, object] = {"in_features": width, "out_features": layer.out, "bias": layer.bias}
    if layer.activation is not None:
        config["activation_function"] = layer.activation
    if layer.residual:
        config["use_residual"] = True
    _json(path / "config.json", config)
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def _append(tokenizer: Path, token: str) -> None:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    end = {"SpecialToken": {"id": token, "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, end, other, end],
        "special_tokens": {token: {"id": token, "ids": [1], "tokens": [token]}},
    }
    edit_json(tokenizer, post_processor=processor)


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
