"""Load a decoder without its LM head, and refuse with one line what can't be used as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import PretrainedConfig as HubConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from dec2vec.errors import UserError
from dec2vec.model_config import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device cuda: this machine has no usable CUDA device; set --model.device cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def use_autocast(setting: str, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16. CPUs without bfloat16 instructions emulate them, 2-4x slower."""
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def load_backbone(config: ModelConfig) -> PreTrainedModel:
    """The decoder in evaluation mode on its device, weights from safetensors only, every weight found."""
    device = resolve_device(config.device)
    _check_kernels(config, device)
    hub_config = _hub_config(config)
    with _quiet(), _one_line(config.name_or_path, "model"):
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
        raise UserError(f"model {config.name_or_path}: its files lack weights ({some} ...); use a whole checkpoint")
    backbone: PreTrainedModel = model if config.load_in_4bit else model.to(device)
    backbone.eval()
    _check_causal(backbone, config.name_or_path)
    return backbone


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the decoder."""
    with _quiet(), _one_line(config.name_or_path, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            config.name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer of {config.name_or_path}: no tokenizer.json; convert it to a fast tokenizer first")
    return tokenizer


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Any id will do, since no real token sees a pad; id 0 where the tokenizer has none."""
    return 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _hub_config(config: ModelConfig) -> HubConfig:
    if not config.name_or_path:
        raise UserError("model.name_or_path is empty; give a Hub id or a local folder")
    path = Path(config.name_or_path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"model {config.name_or_path}: no config.json in the folder; give a Hugging Face model folder")
    with _quiet(), _one_line(config.name_or_path, "model"):
        hub_config: HubConfig = AutoConfig.from_pretrained(
            config.name_or_path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    known = hub_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if hub_config.is_encoder_decoder or not (known or config.trust_remote_code):
        raise UserError(f"model {config.name_or_path}: {hub_config.model_type} is no decoder-only language model")
    return hub_config


def _check_kernels(config: ModelConfig, device: torch.device) -> None:
    if config.load_in_4bit and device.type != "cuda":
        raise UserError("model.load_in_4bit: 4-bit weights need CUDA; leave it out, or use --model.dtype bfloat16")
    if config.attention == "flash_attention_2" and device.type != "cuda":
        raise UserError("model.attention flash_attention_2: needs CUDA and flash-attn; use --model.attention sdpa")


def _four_bit() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


@torch.no_grad()
def _check_causal(backbone: PreTrainedModel, name: str) -> None:
    """The first token must not see the second: right padding without a mask is right for causal models only."""
    ids = torch.tensor([[2, 3], [2, 4]], device=backbone.device)
    first = backbone(input_ids=ids, use_cache=False).last_hidden_state[:, 0].float()
    if not torch.allclose(first[0], first[1], atol=1e-3):
        raise UserError(f"model {name}: its attention is not causal (an encoder?); use a decoder-only model")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No load reports and progress bars of transformers: what matters is checked and said in one line."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _one_line(name: str, what: str) -> Iterator[None]:
    """transformers reports a bad folder, id, revision or file as one of these, over many lines."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(f"{what} {name}: can't be loaded; {lines[0][:300]}") from error
