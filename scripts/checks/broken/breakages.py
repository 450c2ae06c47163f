"""What goes wrong with an exported folder, each as a change of its files and the check that must find it.

`scripts/checks/check_broken.py` shows them on a run; tests/test_check.py does on tiny decoders of several kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]
Form = Literal["adapter", "merged"]
WEIGHTS: dict[Form, str] = {"adapter": "adapter_model.safetensors", "merged": "model.safetensors"}


@dataclass(frozen=True)
class Breakage:
    """`check` is the one that must fail, and `says` stands in its sentence."""

    name: str
    form: Form
    spoil: Change
    check: str
    says: str
    applies: Callable[[Path], bool] = lambda folder: True
    """Whether the folder has what is to be broken."""
    may_be_harmless: bool = False
    """Whether there are decoders whose vectors it does not move."""


def edit(path: Path, **changes: object) -> None:
    """Replace keys of a JSON file."""
    path.write_text(json.dumps({**_json(path), **changes}), encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def no_eos(folder: Path) -> None:
    """As transformers 5 does to many tokenizers, which ignore `add_eos_token`; a prompt's end goes with it."""
    edit(folder / "tokenizer.json", post_processor=None)


def eos_twice(folder: Path) -> None:
    """As when a tokenizer that appends it gets texts that end in it."""
    content = _json(folder / "tokenizer.json")
    entry = content["post_processor"]["special_tokens"]["<tail>"]
    entry["ids"], entry["tokens"] = entry["ids"] * 2, entry["tokens"] * 2
    edit(folder / "tokenizer.json", post_processor=content["post_processor"])


def padded_left(folder: Path) -> None:
    """Moves the positions of decoders that count them from the row's beginning (GPT-2)."""
    edit(folder / "tokenizer_config.json", padding_side="left")


def zero_adapter(folder: Path) -> None:
    """A freshly made adapter, saved in place of the tuned one."""
    spoil(WEIGHTS["adapter"], lambda name, tensor: tensor * 0 if "lora_B" in name else tensor)(folder)


def base_weights(folder: Path) -> None:
    """The base, saved in place of what was merged."""
    file = folder / WEIGHTS["merged"]
    base = load_file(Path(_json(folder / "dec2vec.json")["model"]["name_or_path"]) / WEIGHTS["merged"])
    plain = {name.removeprefix("model."): tensor for name, tensor in base.items()}
    weights = {name: plain[name.removeprefix("model.")].to(old.dtype) for name, old in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def prompts(**changed: str) -> Change:
    """Other prompts in the folder."""

    def change(folder: Path) -> None:
        path = folder / "config_sentence_transformers.json"
        edit(path, prompts={**_json(path)["prompts"], **changed})

    return change


def doubled_prompt(folder: Path) -> None:
    """As when it is written into the texts, too."""
    prompts(query=_query_prompt(folder) * 2)(folder)


def no_default_prompt(folder: Path) -> None:
    """Plain `encode` then uses none."""
    edit(folder / "config_sentence_transformers.json", default_prompt_name=None)


def lower_cased(folder: Path) -> None:
    """Another normalizer than in training."""
    edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"})


def cut_after(tokens: int) -> Change:
    """Another length than in training."""

    def change(folder: Path) -> None:
        edit(folder / "sentence_bert_config.json", max_seq_length=tokens)
        edit(folder / "tokenizer_config.json", model_max_length=tokens)

    return change


def cut_beyond_positions(folder: Path) -> None:
    """As when no length is written down."""
    cut_after(4 * int(_json(folder / "config.json")["max_position_embeddings"]))(folder)


def cut_left(folder: Path) -> None:
    """Keeps the end of a long text."""
    edit(folder / "tokenizer_config.json", truncation_side="left")


def pooled(mode: str) -> Change:
    """Another pooling than in training."""
    return lambda folder: edit(
        folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=False, **{f"pooling_mode_{mode}": True}
    )


def without_prompt(folder: Path) -> None:
    """A mean over the text's tokens alone."""
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)


def no_normalize(folder: Path) -> None:
    """The last module is lost."""
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]), encoding="utf-8")


def spoil(file: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Change:
    """Other numbers in a file of weights."""

    def spoilt(folder: Path) -> None:
        weights = {name: change(name, tensor) for name, tensor in load_file(folder / file).items()}
        save_file(weights, folder / file, {"format": "pt"})

    return spoilt


def _nan(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.arange(tensor.numel()).view(tensor.shape) == 3, torch.nan, tensor)


def _large(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 1e6 if "down_proj" in name else tensor


def overflowing(folder: Path) -> None:
    """States beyond float16, saved as float16."""
    spoil(WEIGHTS["merged"], _large)(folder)
    edit(folder / "sentence_bert_config.json", model_args={"dtype": "float16"})


def torn(folder: Path) -> None:
    """A copy that broke off."""
    path = folder / WEIGHTS["merged"]
    path.write_bytes(path.read_bytes()[:1000])


def more_tokens(folder: Path) -> None:
    """A token was added, and the embedding was not made longer."""
    content = _json(folder / "tokenizer.json")
    fresh = {**content["added_tokens"][0], "id": _size(folder), "content": "<new>", "special": False}
    edit(folder / "tokenizer.json", added_tokens=[*content["added_tokens"], fresh])


def swapped_tokens(folder: Path) -> None:
    """Ids of another vocabulary."""
    content = _json(folder / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    edit(folder / "tokenizer.json", model=content["model"])


def other_dense(folder: Path) -> None:
    """The whitening of another run."""
    spoil("2_Dense/model.safetensors", lambda name, tensor: tensor.flip(0).contiguous())(folder)


def no_modules(folder: Path) -> None:
    """PEFT's files alone."""
    for name in ("modules.json", "dec2vec.json"):
        (folder / name).unlink()


def _query_prompt(folder: Path) -> str:
    return str(_json(folder / "config_sentence_transformers.json")["prompts"]["query"])


def _has_prompt(folder: Path) -> bool:
    return bool(_query_prompt(folder))


def _pools_last(folder: Path) -> bool:
    return bool(_json(folder / "1_Pooling" / "config.json")["pooling_mode_lasttoken"])


def _pools_mean_with_prompt(folder: Path) -> bool:
    return bool(_json(folder / "1_Pooling" / "config.json")["pooling_mode_mean_tokens"]) and _has_prompt(folder)


def _has_whitening(folder: Path) -> bool:
    return (folder / "2_Dense").is_dir()


def _has_down_projection(folder: Path) -> bool:
    return any("down_proj" in name for name in load_file(folder / WEIGHTS["merged"]))


def _size(folder: Path) -> int:
    return len(_json(folder / "tokenizer.json")["model"]["vocab"])


BREAKAGES = (
    Breakage("EOS is no longer appended", "adapter", no_eos, "last token", "does not end texts in"),
    Breakage("EOS is appended twice", "adapter", eos_twice, "last token", "appears twice"),
    Breakage("padding on the left", "merged", padded_left, "padding", "changes by", may_be_harmless=True),
    Breakage("the adapter is zero", "adapter", zero_adapter, "adapter", "lora_B matrices are zero"),
    Breakage("merged weights are the base's", "merged", base_weights, "adapter", "weights equal those of"),
    Breakage("the prompt is lost", "adapter", prompts(query=""), "prompts", "prompt is missing", _has_prompt),
    Breakage(
        "documents get a prompt, too", "adapter", prompts(document="Query: "), "prompts", "the document prompt differs"
    ),
    Breakage("the prompt is written twice", "adapter", doubled_prompt, "prompts", "is written twice", _has_prompt),
    Breakage(
        "`encode` has no default prompt",
        "adapter",
        no_default_prompt,
        "prompts",
        "default_prompt_name is empty",
        _has_prompt,
    ),
    Breakage("texts are lower-cased", "adapter", lower_cased, "prompts", "different token ids", _has_prompt),
    Breakage("texts are cut after 8 tokens", "merged", cut_after(8), "truncation", "after 8 tokens, dec2vec after"),
    Breakage("texts are never cut", "merged", cut_beyond_positions, "truncation", "positions"),
    Breakage("the beginning is cut off", "adapter", cut_left, "truncation", "lose their beginning"),
    Breakage(
        "mean pooling instead of the last token",
        "adapter",
        pooled("mean_tokens"),
        "pooling",
        "uses mean pooling, but the model was trained",
        _pools_last,
    ),
    Breakage(
        "first token instead of the last",
        "adapter",
        pooled("cls_token"),
        "pooling",
        "uses cls pooling, but the model was trained",
        _pools_last,
    ),
    Breakage(
        "the mean excludes the prompt",
        "merged",
        without_prompt,
        "pooling",
        "excludes the tokens of the prompt",
        _pools_mean_with_prompt,
    ),
    Breakage("no normalisation", "adapter", no_normalize, "unit length", "vectors have lengths"),
    Breakage("nan in the adapter", "adapter", spoil(WEIGHTS["adapter"], _nan), "weights", "contains nan"),
    Breakage("nan in the model", "merged", spoil(WEIGHTS["merged"], _nan), "weights", "contains nan"),
    Breakage(
        "float16 overflows", "merged", overflowing, "overflow", "float16, whose maximum is 65504", _has_down_projection
    ),
    Breakage("the file of the weights is incomplete", "merged", torn, "weights", "can't be read"),
    Breakage("a token without a row", "adapter", more_tokens, "vocabulary", "'<new>' has id"),
    Breakage("two tokens have swapped ids", "adapter", swapped_tokens, "vocabulary", "2 tokens have different ids"),
    Breakage("another run's whitening", "merged", other_dense, "same vectors", "differ by", _has_whitening),
    Breakage("an adapter without pooling information", "adapter", no_modules, "loads", "nothing says how it pools"),
)
