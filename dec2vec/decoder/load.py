"""Load a decoder without its LM head. What can't be used as a decoder is refused with one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not re-exported for mypy
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

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.bidirectional import full_attention, set_attention, turned_by
from dec2vec.decoder.checkpoint_files import FIX, WITHOUT_ADAPTER, check_not_adapter, note_llm2vec
from dec2vec.decoder.devices import allow_cudnn_attention, resolve_device
from dec2vec.decoder.library_calls import one_line, quiet
from dec2vec.decoder.quantized import (
    check_package,
    dequantized,
    mark_as_quantized,
    quantization_of,
    scaled_floats,
    with_floats_asked_for,
    without_quantization,
)
from dec2vec.decoder.scaled_weights import Lazy, is_scale
from dec2vec.decoder.vision import attends_to_all, family_of, input_arguments, other_tower
from dec2vec.decoder.weights_fit import check_weights_fit
from dec2vec.errors import UserError
from dec2vec.files.atomic import refuse_pickle
from dec2vec.hub import check_path_exists

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_architecture(config: ModelConfig) -> PretrainedConfig:
    """The decoder's own configuration. UserError for anything that can be refused before weights are loaded."""
    _check_kernels(config, resolve_device(config.device))
    hub_config = _saved_architecture(config)
    note_llm2vec(config)
    if config.depth is not None:
        cut(hub_config.get_text_config(), config.depth, config.name_or_path)
    if config.bidirectional and family_of(hub_config) is not None:
        raise UserError(
            f"model.bidirectional is not supported for {hub_config.model_type}, which reads images too; remove it"
        )
    set_attention(hub_config.get_text_config(), config)
    return hub_config


def untuned_reading(config: ModelConfig) -> ModelConfig:
    """`config.untuned`; but what was tuned with bidirectional attention before is read so as untuned decoder too."""
    if config.adapter is not None:
        return config.untuned
    turned = config.bidirectional and turned_by(_saved_architecture(config).get_text_config()) is not None
    return replace(config.untuned, bidirectional=turned)


def _saved_architecture(config: ModelConfig) -> PretrainedConfig:
    """As the files of the decoder have it."""
    _check_name(config.name_or_path)
    check_not_adapter(config)
    check_folder(Path(config.name_or_path))
    with quiet(), one_line(config.name_or_path, "model", FIX):
        hub_config: PretrainedConfig = AutoConfig.from_pretrained(
            config.name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    tower = other_tower(hub_config)
    if tower is not None:
        raise UserError(
            f"model {config.name_or_path}: a {hub_config.model_type} with the vision tower {tower} is not supported; "
            "use one with CLIP or SigLIP, or a model of another family"
        )
    is_decoder = hub_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or family_of(hub_config) is not None
    if hub_config.is_encoder_decoder or not (is_decoder or config.trust_remote_code):
        raise UserError(
            f"model {config.name_or_path}: {hub_config.model_type} is not a decoder-only language model; use a decoder "
            "such as Llama or Qwen"
        )
    return hub_config


def load_backbone(config: ModelConfig, hub_config: PretrainedConfig) -> PreTrainedModel:
    """The decoder in evaluation mode on its device. Weights are read from safetensors only, all of them."""
    device = resolve_device(config.device)
    allow_cudnn_attention(allowed=config.attention == "cudnn")
    with quiet(), one_line(config.name_or_path, "model", FIX):
        model, info = _load_weights(config, hub_config)
    check_weights_fit(config, hub_config.get_text_config(), info["missing_keys"], info["unexpected_keys"])
    backbone: PreTrainedModel = model if config.load_in_4bit else model.to(device)
    backbone.eval()
    _check_attention(backbone, config)
    return backbone


def _load_weights(config: ModelConfig, architecture: PretrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and transformers' report of missing and unexpected weights.

    Files with scales are quantized even if config.json has lost its entry of that.
    """
    quantization = quantization_of(architecture)
    if quantization is None:
        model, info = _by_transformers(config, architecture)
        if not any(map(is_scale, info["unexpected_keys"])):
            return model, info
    floats = scaled_floats(config, quantization or {})
    if floats is not None:
        model, info = _from_floats(config, without_quantization(architecture), floats)
    else:
        check_package(config.name_or_path, quantization or {})
        model, info = _by_transformers(config, with_floats_asked_for(architecture))
        model = model if config.load_in_4bit else dequantized(model, config, DTYPES[config.dtype])
    mark_as_quantized(model)
    return model, info


def _by_transformers(config: ModelConfig, architecture: PretrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    found: tuple[PreTrainedModel, dict[str, Any]] = AutoModel.from_pretrained(
        config.name_or_path,
        config=architecture,
        revision=config.revision,
        use_safetensors=True,
        adapter_kwargs=WITHOUT_ADAPTER,
        trust_remote_code=config.trust_remote_code,
        **_loading(config),
    )
    return found


def _from_floats(
    config: ModelConfig, architecture: PretrainedConfig, floats: dict[str, Lazy]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The same with these tensors instead of those of the files."""
    with torch.device("meta"):
        kind = type(AutoModel.from_config(architecture, trust_remote_code=config.trust_remote_code))
    model, info = kind.from_pretrained(None, config=architecture, state_dict=floats, **_loading(config))
    model.name_or_path = model.config.name_or_path = config.name_or_path
    return model, info


def _loading(config: ModelConfig) -> dict[str, Any]:
    return {
        "dtype": DTYPES[config.dtype],
        "attn_implementation": None if config.attention in ("sdpa", "cudnn") else config.attention,
        "output_loading_info": True,
        "quantization_config": _four_bit() if config.load_in_4bit else None,
    }


def load_tokenizer(config: ModelConfig, *, lower_case: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of the decoder; with `lower_case` it converts all that it reads, prompts included."""
    with quiet(), one_line(config.name_or_path, "tokenizer", "put its tokenizer.json into the folder of the weights"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            config.name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer of {config.name_or_path}: there is no tokenizer.json; convert it to a fast tokenizer first"
        )
    if lower_case:
        _convert_to_lower_case(tokenizer)
    return tokenizer


def _convert_to_lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """As sentence-transformers does for do_lower_case. The conversion is saved with the tokenizer."""
    rust: Any = tokenizer.backend_tokenizer
    content = json.loads(rust.to_str())
    found = content["normalizer"]
    members = [] if found is None else found["normalizers"] if found["type"] == "Sequence" else [found]
    if not any(member["type"] == "Lowercase" for member in members):
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *members]}
        rust.normalizer = type(rust).from_str(json.dumps(content)).normalizer


def _check_name(name: str) -> None:
    """Raise UserError unless this is a folder, or may be a Hub id."""
    path = Path(name)
    if not name:
        raise UserError("model.name_or_path is empty; give a Hub id or a local folder")
    if path.is_file():
        raise UserError(f"model {name} is a file; give the folder with config.json and model.safetensors")
    if path.is_dir():
        return
    check_path_exists(name)
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"model {name}: no such folder; give a local folder or a Hub id (owner/name)") from None


def check_folder(path: Path) -> None:
    """Raise UserError for a folder without a configuration, or with pickles only, and for a run that has not ended."""
    if not path.is_dir():
        return
    if not (path / "config.json").is_file():
        if (path / "config.yaml").is_file() and (path / "metrics.jsonl").is_file():
            raise UserError(f"{path}: this run has not finished training; repeat its command, which continues it")
        raise UserError(f"model {path}: no config.json in the folder; give a Hugging Face model folder")
    pickles = sorted(path.glob("pytorch_model*.bin"))
    if pickles and not any(path.glob("*.safetensors")):
        refuse_pickle(pickles[0])


def _check_kernels(config: ModelConfig, device: torch.device) -> None:
    if config.load_in_4bit and device.type != "cuda":
        raise UserError("model.load_in_4bit: 4-bit weights need CUDA; remove it, or use model.dtype bfloat16")
    if config.attention == "flash_attention_2" and device.type != "cuda":
        raise UserError("model.attention flash_attention_2: needs CUDA and flash-attn; use model.attention sdpa")


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
    lengths = torch.tensor([2, 2], device=backbone.device)
    mask = full_attention(backbone, lengths, 2) | input_arguments(backbone, ids, lengths)
    first = backbone(input_ids=ids, use_cache=False, **mask).last_hidden_state[:, 0].float()
    if not first.isfinite().all():
        raise UserError(
            f"model {config.name_or_path}: its hidden states are nan or inf in {config.dtype}; copy its files again "
            "(dec2vec check finds damaged ones), or use a wider model.dtype"
        )
    sees = not torch.allclose(first[0], first[1], atol=0.0 if config.bidirectional else 1e-3)
    if config.bidirectional and not sees:
        raise UserError(
            f"model.bidirectional: {config.name_or_path} ignores the attention mask and stays causal; remove the option"
        )
    if sees and not config.bidirectional and not attends_to_all(backbone):
        raise UserError(
            f"model {config.name_or_path}: its attention is not causal (an encoder?); use a decoder-only model"
        )


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
