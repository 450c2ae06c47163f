"""Load a decoder without its LM head. What can't be used as a decoder is refused with one line."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not re-exported for mypy
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.bidirectional import full_attention, set_attention
from dec2vec.errors import UserError
from dec2vec.files.atomic import refuse_pickle
from dec2vec.hub import check_path_exists

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if it is available."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: this machine has no usable CUDA device; use --device cpu (or --model.device cpu)")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def use_autocast(setting: str, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16: 4x faster on CPUs that support it, 2-4x slower on others."""
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def load_architecture(config: ModelConfig) -> PretrainedConfig:
    """The decoder's own configuration. UserError for anything that can be refused before weights are loaded."""
    _check_kernels(config, resolve_device(config.device))
    _check_name(config.name_or_path)
    with quiet(), _one_line(config.name_or_path, "model", "copy its files again, or name another"):
        hub_config: PretrainedConfig = AutoConfig.from_pretrained(
            config.name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    is_causal_lm = hub_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if hub_config.is_encoder_decoder or not (is_causal_lm or config.trust_remote_code):
        raise UserError(
            f"model {config.name_or_path}: {hub_config.model_type} is not a decoder-only language model; use a decoder "
            "such as Llama or Qwen"
        )
    if config.depth is not None:
        cut(hub_config.get_text_config(), config.depth, config.name_or_path)
    set_attention(hub_config.get_text_config(), config)
    return hub_config


def position_limit(decoder: PretrainedConfig) -> int | None:
    """The number of learned positions, beyond which GPT-2 and OPT fail inside a kernel; None if nothing limits it."""
    name = decoder.attribute_map.get("max_position_embeddings", "max_position_embeddings")  # n_positions in GPT-2
    limit = decoder.to_dict().get(name)
    return limit if isinstance(limit, int) else None


def load_backbone(config: ModelConfig, hub_config: PretrainedConfig) -> PreTrainedModel:
    """The decoder in evaluation mode on its device. Weights are read from safetensors only, and none may be missing."""
    device = resolve_device(config.device)
    with quiet(), _one_line(config.name_or_path, "model", "copy its files again, or name another"):
        model, info = AutoModel.from_pretrained(
            config.name_or_path,
            config=hub_config,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=DTYPES[config.dtype],
            attn_implementation=config.attention,
            use_safetensors=True,
            output_loading_info=True,
            quantization_config=_four_bit() if config.load_in_4bit else None,
        )
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(
            f"model {config.name_or_path}: weights are missing from its files ({some} ...); use a complete checkpoint"
        )
    backbone: PreTrainedModel = model if config.load_in_4bit else model.to(device)
    backbone.eval()
    _check_attention(backbone, config)
    return backbone


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the decoder."""
    with quiet(), _one_line(config.name_or_path, "tokenizer", "put its tokenizer.json into the folder of the weights"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            config.name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer of {config.name_or_path}: there is no tokenizer.json; convert it to a fast tokenizer first"
        )
    return tokenizer


def checkpoint_tensors(config: ModelConfig) -> dict[str, Path]:
    """The names of all tensors in the safetensors checkpoint of a folder or Hub id, each with its file."""
    with quiet(), _one_line(config.name_or_path, "model", "copy its files again, or name another"):
        index = _checkpoint_file(config, SAFE_WEIGHTS_INDEX_NAME)
        if index is not None:
            shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            paths = {shard: _checkpoint_file(config, shard) for shard in set(shards.values())}
            return {name: path for name, shard in shards.items() if (path := paths[shard]) is not None}
        weights = _checkpoint_file(config, SAFE_WEIGHTS_NAME)
        if weights is None:
            raise OSError(f"no {SAFE_WEIGHTS_NAME}")
        with safe_open(weights, framework="pt") as file:
            return dict.fromkeys(file.keys(), weights)


def _checkpoint_file(config: ModelConfig, name: str) -> Path | None:
    path = cached_file(config.name_or_path, name, revision=config.revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def _check_name(name: str) -> None:
    """Raise UserError unless this is a folder with a model in safetensors, or may be a Hub id."""
    path = Path(name)
    if not name:
        raise UserError("model.name_or_path is empty; give a Hub id or a local folder")
    if path.is_file():
        raise UserError(f"model {name} is a file; give the folder with config.json and model.safetensors")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model {name}: no config.json in the folder; give a Hugging Face model folder")
        pickles = sorted(path.glob("pytorch_model*.bin"))
        if pickles and not any(path.glob("*.safetensors")):
            refuse_pickle(pickles[0])
        return
    check_path_exists(name)
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"model {name}: no such folder; give a local folder or a Hub id (owner/name)") from None


def _check_kernels(config: ModelConfig, device: torch.device) -> None:
    if config.load_in_4bit and device.type != "cuda":
        raise UserError("model.load_in_4bit: 4-bit weights need CUDA; remove it, or use --model.dtype bfloat16")
    if config.attention == "flash_attention_2" and device.type != "cuda":
        raise UserError("model.attention flash_attention_2: needs CUDA and flash-attn; use --model.attention sdpa")


def _four_bit() -> BitsAndBytesConfig:
    """NF4 stored in a floating dtype, which FSDP2 can divide into shards."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_quant_storage=torch.bfloat16,
    )


@torch.no_grad()
def _check_attention(backbone: PreTrainedModel, config: ModelConfig) -> None:
    """Check whether the first token sees the second: padding on the right without a mask needs causal attention."""
    ids = torch.tensor([[2, 3], [2, 4]], device=backbone.device)
    mask = full_attention(backbone, torch.tensor([2, 2], device=backbone.device), 2)
    first = backbone(input_ids=ids, use_cache=False, **mask).last_hidden_state[:, 0].float()
    sees = not torch.allclose(first[0], first[1], atol=0.0 if config.bidirectional else 1e-3)
    if config.bidirectional and not sees:
        raise UserError(
            f"model.bidirectional: {config.name_or_path} ignores the attention mask and stays causal; remove the option"
        )
    if sees and not config.bidirectional:
        raise UserError(
            f"model {config.name_or_path}: its attention is not causal (an encoder?); use a decoder-only model"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence reports, progress bars and warnings of the libraries that load models.

    dec2vec checks what matters in them and reports it in one line. The warnings are meant for the libraries' authors:
    names that transformers has changed, and GPT-2's transposed weights.
    """
    sentence_transformers = logging.getLogger("sentence_transformers")
    levels = transformers_logging.get_verbosity(), sentence_transformers.level
    has_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    sentence_transformers.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", ".*fan_in_fan_out is set to False but.*", UserWarning)
            yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        sentence_transformers.setLevel(levels[1])
        if has_bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _one_line(name: str, what: str, fix: str) -> Iterator[None]:
    """Turn the errors of transformers for a bad folder, id, revision or file into one line."""
    try:
        yield
    except (
        OSError,
        ValueError,
        ImportError,
        KeyError,
        TypeError,
        RuntimeError,
        AttributeError,
        SafetensorError,
    ) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[0][:200].rstrip(".:")
        needed = _what_is_missing(error)
        if Path(name).is_dir() or needed is not None:
            raise UserError(f"{what} {name}: can't be loaded ({reason}); {needed or fix}") from error
        raise UserError(
            f"{what} {name}: there is no such folder, and the Hub could not be used ({reason}); check the name"
        ) from error


def _what_is_missing(error: Exception) -> str | None:
    """What to do for a package or a device that the model needs and this machine lacks; None for any other error."""
    message = str(error)
    if re.search(r"requires? .*\b(GPU|CUDA|XPU)\b|No GPU", message) and "pip install" not in message:
        return "use a machine with such a device, or the model without quantization"
    if isinstance(error, ImportError):
        named = re.search(r"pip install (?:-U |--upgrade )?([\w.,\[\]-]+)", message)
        package = named.group(1) if named else error.name
        return "install the package that it names" if package is None else f"pip install {package.rstrip('.,')}"
    return None


_BY_BLOCK = ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers")
"""Entries of a configuration that may be lists with an item for each block."""


def cut(architecture: PretrainedConfig, depth: int, name: str) -> None:
    """Reduce the decoder's configuration to its first `depth` blocks. UserError if it has fewer."""
    decoder: Any = architecture
    count = int(decoder.num_hidden_layers)
    if depth > count:
        raise UserError(f"model.depth {depth}: {name} has {count} blocks; use at most that many")
    for entry in _BY_BLOCK:
        if isinstance(kinds := vars(decoder).get(entry), list):
            setattr(decoder, entry, kinds[:depth])
    decoder.num_hidden_layers = depth
