"""Tiny random vision-language decoders of every family that reads images, with their own processors, built in code.

The vision tower has as many blocks as the language model, so that a mix-up of the two would show.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    LlavaConfig,
    PaliGemmaConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SiglipImageProcessorPil,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
)

from tests.helpers import tiny_tokenizer

VISION_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "llava", "paligemma", "gemma3")
WITHOUT_BOS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3")
LAYERS, WIDTH, SIDE = 3, 32, 16
_QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_TILE_TOKENS = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_SPECIAL = (
    "<bos>",
    *_QWEN_TOKENS,
    "<image>",
    *_TILE_TOKENS,
    *(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)),
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<|im_start|>",
    "<|im_end|>",
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vision_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer of the tests with the special tokens of all families; BOS where the family has it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer.__class__.from_str(
            tiny_tokenizer().backend_tokenizer.to_str()
        ),
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens=_named_tokens(family),
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    marker = {"gemma3": "<start_of_image>", **dict.fromkeys(VISION_FAMILIES[:3], "".join(_QWEN_MARKUP))}
    tokenizer.chat_template = CHAT.replace("IMAGE", marker.get(family, "<image>"))
    if family not in WITHOUT_BOS:
        tokenizer.bos_token = "<bos>"
        bos = ("<bos>", tokenizer.convert_tokens_to_ids("<bos>"))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    return tokenizer


_QWEN_MARKUP = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")


def _named_tokens(family: str) -> dict[str, str]:
    if family != "gemma3":
        return {}
    return {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def vision_config(family: str) -> Any:
    """Three blocks of width 32 in the tower and in the language model, and square images of 16 pixels."""
    id_of = vision_tokenizer(family).convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": len(vision_tokenizer(family)),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 4,
    }
    if family.startswith("qwen"):
        tokens = {
            "image_token_id": id_of("<|image_pad|>"),
            "video_token_id": id_of("<|video_pad|>"),
            "vision_start_token_id": id_of("<|vision_start|>"),
            "vision_end_token_id": id_of("<|vision_end|>"),
        }
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        text["rope_parameters"] = rope
        shared = {"depth": LAYERS, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    match family:
        case "qwen2_vl":
            del text["head_dim"]
            return Qwen2VLConfig(
                text_config=text, vision_config={**shared, "embed_dim": WIDTH, "hidden_size": WIDTH}, **tokens
            )
        case "qwen2_5_vl":
            del text["head_dim"]
            vision = {**shared, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 48}
            vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
            return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
        case "qwen3_vl":
            vision = {**shared, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 48}
            vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
            text["rope_parameters"] = {**rope, "mrope_interleaved": True}
            return Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)
        case "smolvlm" | "idefics3":
            kind = SmolVLMConfig if family == "smolvlm" else Idefics3Config
            llama = {**text, "model_type": "llama"}
            return kind(text_config=llama, vision_config=tower, scale_factor=2, image_token_id=id_of("<image>"))
        case "llava":
            return LlavaConfig(
                text_config={**text, "model_type": "llama"},
                vision_config={**tower, "model_type": "clip_vision_model", "projection_dim": WIDTH},
                image_token_index=id_of("<image>"),
                vision_feature_layer=-2,
            )
        case "paligemma":
            return PaliGemmaConfig(
                text_config={**text, "model_type": "gemma"},
                vision_config={**tower, "model_type": "siglip_vision_model", "vision_use_head": False},
                image_token_index=id_of("<image>"),
                projection_dim=WIDTH,
                hidden_size=WIDTH,
            )
        case _:
            layers = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
            return Gemma3Config(
                text_config={**text, **layers, "query_pre_attn_scalar": 16},
                vision_config={**tower, "model_type": "siglip_vision_model", "vision_use_head": False},
                mm_tokens_per_image=4,
                image_token_index=id_of("<image_soft_token>"),
                boi_token_index=id_of("<start_of_image>"),
                eoi_token_index=id_of("<end_of_image>"),
            )


def image_processor(family: str) -> Any:
    """The family's own image processor of transformers, on Pillow, for tiny images."""
    square = {"height": SIDE, "width": SIDE}
    match family:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
            return Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
        case "smolvlm" | "idefics3":
            kind = SmolVLMImageProcessorPil if family == "smolvlm" else Idefics3ImageProcessorPil
            return kind(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
        case "llava":
            return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
        case "paligemma":
            return SiglipImageProcessorPil(size=square, image_seq_length=16)
        case _:
            return Gemma3ImageProcessorPil(size=square, image_seq_length=4)


PROCESSOR_OPTIONS: dict[str, dict[str, Any]] = {
    "smolvlm": {"image_seq_len": 4},
    "idefics3": {"image_seq_len": 4},
    "llava": {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    "gemma3": {"image_seq_length": 4},
}
"""What else `processor_config.json` holds for a family."""


def tiny_vision_folder(path: Path, family: str) -> Path:
    """Write a random vision-language decoder with its tokenizer and its image processor."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in _files(family).items():
        (path / name).write_bytes(content)
    return path


@cache
def _files(family: str) -> dict[str, bytes]:
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(vision_config(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                parameter.normal_(std=0.2)
    torch.random.set_rng_state(generator)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        vision_tokenizer(family).save_pretrained(folder)
        image_processor(family).save_pretrained(folder)
        options = {"processor_class": "Qwen2VLProcessor", **PROCESSOR_OPTIONS.get(family, {})}
        (Path(folder) / "processor_config.json").write_text(json.dumps(options))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def picture(seed: int, width: int = 20, height: int = 20) -> Image.Image:
    """A picture of random coloured squares."""
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)
