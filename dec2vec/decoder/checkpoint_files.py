"""The files of a checkpoint, in a folder or on the Hub: which tensors are where, and whether it is an adapter."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path

from safetensors import safe_open
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.bidirectional import LLM2VEC
from dec2vec.decoder.library_calls import one_line, quiet
from dec2vec.errors import UserError

_log = logging.getLogger(__name__)
FIX = "copy its files again, or name another"
_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
LLM2VEC_SETTINGS = "llm2vec_config.json"
WITHOUT_ADAPTER = {"subfolder": ".no-adapter"}
"""Where transformers is told to look for an adapter, so that it does not put one on top of the weights."""


def checkpoint_tensors(config: ModelConfig) -> dict[str, Path]:
    """The names of all tensors in the safetensors checkpoint of a folder or Hub id, each with its file."""
    with quiet(), one_line(config.name_or_path, "model", FIX):
        index = checkpoint_file(config, SAFE_WEIGHTS_INDEX_NAME)
        if index is not None:
            shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            paths = {shard: checkpoint_file(config, shard) for shard in set(shards.values())}
            return {name: path for name, shard in shards.items() if (path := paths[shard]) is not None}
        weights = checkpoint_file(config, SAFE_WEIGHTS_NAME)
        if weights is None:
            raise OSError(f"no {SAFE_WEIGHTS_NAME}")
        with safe_open(weights, framework="pt") as file:
            return dict.fromkeys(file.keys(), weights)


def checkpoint_file(config: ModelConfig, name: str) -> Path | None:
    path = cached_file(config.name_or_path, name, revision=config.revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def check_not_adapter(config: ModelConfig) -> None:
    """Raise UserError for an adapter without weights; with weights beside it, log that the weights alone are read.

    Such a folder is what is left where an adapter was merged and saved into its own folder (PEFT's issue 1381).
    """
    with quiet(), one_line(config.name_or_path, "model", FIX):
        adapter = checkpoint_file(config, ADAPTER_CONFIG_NAME)
        if adapter is None:
            return
        has_weights = any(checkpoint_file(config, name) is not None for name in _WEIGHTS)
        is_turned = not has_weights and _is_of_llm2vec(config)
    if is_turned:
        raise UserError(
            f"model {config.name_or_path}: it is an adapter of LLM2Vec{_of_base(adapter)} and not a model; merge it "
            "into its base (a supervised one into the base with the mntp adapter), and name that folder with "
            "model.bidirectional true"
        )
    if not has_weights:
        raise UserError(
            f"model {config.name_or_path}: it is a PEFT adapter{_of_base(adapter)} and not a model, and without "
            "dec2vec.json nothing says how it pools; merge it into its base (PEFT: merge_and_unload, save_pretrained), "
            "and name that folder, or export the run again"
        )
    _warn_once(config.name_or_path)


def note_llm2vec(config: ModelConfig) -> None:
    """Log how LLM2Vec reads a folder that it has written; of its settings dec2vec takes the attention alone."""
    if not (config.bidirectional or Path(config.name_or_path).is_dir()):
        return
    with quiet(), one_line(config.name_or_path, "model", FIX):
        settings = checkpoint_file(config, LLM2VEC_SETTINGS)
    if settings is not None:
        _warn_of_settings(config.name_or_path, " ".join(settings.read_text(encoding="utf-8").split()))


def _is_of_llm2vec(config: ModelConfig) -> bool:
    """Whether LLM2Vec has written its settings, or the name of one of its classes, beside the adapter."""
    saved = checkpoint_file(config, CONFIG_NAME)
    names = [] if saved is None else json.loads(saved.read_text(encoding="utf-8")).get("architectures") or []
    return any(map(LLM2VEC.match, names)) or checkpoint_file(config, LLM2VEC_SETTINGS) is not None


@cache
def _warn_of_settings(name: str, settings: str) -> None:
    _log.warning(
        "model %s: LLM2Vec reads it by %s, without EOS; dec2vec reads it by its own prompt, pooling and EOS, so "
        "the vectors differ",
        name,
        settings,
    )


@cache
def _warn_once(name: str) -> None:
    _log.warning(
        "model %s: the weights are read alone, without the adapter beside them (%s), which is taken to be merged into "
        "them already",
        name,
        ADAPTER_CONFIG_NAME,
    )


def _of_base(adapter: Path) -> str:
    try:
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        return ""
    return f" of {base}" if base else ""
