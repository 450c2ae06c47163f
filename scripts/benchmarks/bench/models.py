"""Decoders of real shapes with random weights, and a tokenizer trained on generated text: no network, no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from bench.texts import lexicon, running_text

SHAPES: dict[str, dict[str, Any]] = {
    "llama-tiny": {"family": "llama", "hidden": 32, "inner": 64, "layers": 2, "heads": 2, "kv": 1, "vocabulary": 512},
    "llama-8m": {"family": "llama", "hidden": 256, "inner": 704, "layers": 8, "heads": 4, "kv": 2, "vocabulary": 8192},
    "llama-60m": {
        "family": "llama", "hidden": 512, "inner": 1376, "layers": 8, "heads": 8, "kv": 8, "vocabulary": 32_000,
    },
    "qwen3-600m-shape": {
        "family": "qwen3", "hidden": 1024, "inner": 3072, "layers": 28, "heads": 16, "kv": 8, "vocabulary": 151_936,
    },
}  # fmt: skip
"""llama-8m: the project's own decoder; llama-60m: GaLore's (Zhao et al. 2024); the last: Qwen3-Embedding-0.6B's."""
BPE_SIZE = 4096


def model_folder(name: str, target: Path) -> Path:
    """The folder of a path as it is; of a shape, `target` with random weights and a tokenizer in it."""
    if name not in SHAPES:
        if not (Path(name) / "config.json").is_file():
            raise SystemExit(f"--model {name}: no model folder; give one with config.json, or {', '.join(SHAPES)}")
        return Path(name).resolve()
    shape = SHAPES[name]
    tokenizer = make_tokenizer(min(BPE_SIZE, shape["vocabulary"]))
    torch.manual_seed(0)
    AutoModel.from_config(_config(shape)).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE that ends each text in EOS, as sentence-transformers needs it; padding on the right."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(running_text(lexicon(), size * 20), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def end_in(tokenizer: Any, ending: str) -> None:
    """Make a fast tokenizer write `ending`, a special token or nothing, behind every text, and nothing before it."""
    single = f"$A {ending}" if ending else "$A"
    specials = [(ending, tokenizer.convert_tokens_to_ids(ending))] if ending else []
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=specials)


def _config(shape: dict[str, Any]) -> LlamaConfig | Qwen3Config:
    common = {
        "vocab_size": shape["vocabulary"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv"],
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    if shape["family"] == "qwen3":
        return Qwen3Config(**common, head_dim=128, tie_word_embeddings=True)
    return LlamaConfig(**common)


def matrix_weights(backbone: nn.Module) -> int:
    """Weights of the linear layers, each of which costs two operations a token and pass; not the embeddings."""
    return sum(module.weight.numel() for module in backbone.modules() if isinstance(module, nn.Linear))


@torch.no_grad()
def fill_adapters(module: nn.Module) -> None:
    """The same numbers in the same adapters, whatever product made them; none zero, so that all gradients speak."""
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            generator = torch.Generator().manual_seed(int.from_bytes(adapter_key(name).encode(), "big") % 2**63)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * (0.02 if ".lora_B" in name else parameter.shape[1] ** -0.5))


def adapter_key(name: str) -> str:
    """An adapter's name without what a product puts before and after it: layers.0.self_attn.q_proj.lora_A."""
    start = min(name.index(stem) for stem in ("layers.", "h.") if stem in name)
    return name[start:].removesuffix(".default.weight")
