"""Tiny random decoders of every family, built in code: two layers, width 16, a byte-level tokenizer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import (
    AutoModel,
    FalconConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tests.further_families import further_config

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt", "gpt2")
FURTHER = ("mistral", "qwen2", "phi", "gpt_neox", "opt")
"""Beside one of each kind: rotary positions, norms of queries and keys, scaled embeddings, learned positions."""
FEW_FAMILIES = [pytest.param(name, marks=pytest.mark.slow) if name in FURTHER else name for name in FAMILIES]
"""The others are slow: for steps of training, that take seconds a family."""
LAYERS = 3
_CORPUS = [
    'This sentence : "the cat sat on the mat." means in one word:"',
    "After thinking step by step , this sentence",
    "Instruct: Retrieve semantically similar text.\nQuery: a man is riding a horse",
]


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, so that boundaries between prompt and text can merge; EOS and pad."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=320,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def tiny_config(family: str) -> Any:
    """Configuration of a tiny decoder; grouped queries where the family has them."""
    shared = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 16,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    rotary = {**shared, "intermediate_size": 32}
    grouped = {**rotary, "num_key_value_heads": 2}
    opt = {**shared, "word_embed_proj_dim": 16, "ffn_dim": 32, "dropout": 0.0}
    builders: dict[str, Any] = {
        "llama": lambda: LlamaConfig(**grouped),
        "mistral": lambda: MistralConfig(**grouped, sliding_window=None),
        "qwen2": lambda: Qwen2Config(**grouped),
        "qwen3": lambda: Qwen3Config(**grouped, head_dim=8),
        "gemma": lambda: GemmaConfig(**grouped, head_dim=8),
        "phi": lambda: PhiConfig(**rotary),
        "gpt_neox": lambda: GPTNeoXConfig(**rotary),
        "opt": lambda: OPTConfig(**opt),
        "opt_350m": lambda: OPTConfig(**{**opt, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
        "falcon": lambda: FalconConfig(**rotary),
        "gpt2": lambda: GPT2Config(
            vocab_size=shared["vocab_size"],
            n_embd=16,
            n_layer=LAYERS,
            n_head=4,
            n_positions=256,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
    }
    return builders[family]() if family in builders else further_config(family, shared)


def tiny_model_folder(path: Path, family: str = "llama", *, seed: int = 0) -> Path:
    """Write a random decoder with weights large enough that texts get visibly different vectors."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in _tiny_model_files(family, seed).items():
        (path / name).write_bytes(content)
    return path


@cache
def _tiny_model_files(family: str, seed: int) -> dict[str, bytes]:
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModel.from_config(tiny_config(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(std=0.25)
    torch.random.set_rng_state(generator)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "young",
    "dog",
    "cat",
    "bird",
    "horse",
    "man",
    "woman",
    "child",
    "runs",
    "sleeps",
    "eats",
    "sings",
]


def word_pairs(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Different short pairs; every third has a hard negative."""
    generator = torch.Generator().manual_seed(seed)

    def words(length: int) -> str:
        return " ".join(WORDS[int(i)] for i in torch.randint(len(WORDS), (length,), generator=generator))

    rows: list[dict[str, object]] = []
    for number in range(count):
        row: dict[str, object] = {
            "anchor": f"{words(3 + number % 5)} {number}",
            "positive": f"{words(4)} {number}",
        }
        if number % 3 == 0:
            row["negative"] = f"{words(5)} {number}"
        rows.append(row)
    return rows


def graded_pairs(count: int, seed: int = 1) -> list[dict[str, object]]:
    """Similarity rows with scores 0 to 5."""
    pairs = word_pairs(count, seed)
    return [
        {"sentence1": row["anchor"], "sentence2": row["positive"], "score": (number * 7 % 11) / 2.2}
        for number, row in enumerate(pairs)
    ]


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype
        and left[key].shape == right[key].shape
        and left[key].contiguous().view(-1).view(torch.uint8).equal(right[key].contiguous().view(-1).view(torch.uint8))
        for key in left
    )
