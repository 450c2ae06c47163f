"""Decoders that read images too: what each family needs so that a vector depends on its own input only.

Ids of a token that stands for a part of image k are -1 - k. So equal inputs have equal ids, and ids show which images a
chunk needs, and where. Rows are padded on the right as those of texts, and three rules replace the plain causal pass:

positions  M-RoPE counts rows and columns of an image. transformers derives them from the kinds of the tokens.
blocks     The tokens of an image attend to each other in both directions (Gemma 3), all others backwards only.
whole      An input is a prefix, in which every token attends to every other one (PaliGemma), texts without an image
           included. Padding after it must not be part of the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from dec2vec.errors import UserError


@dataclass(frozen=True)
class Family:
    """How a vision-language decoder of transformers reads its inputs."""

    processor: str
    """The class of transformers that knows how an image is written as tokens."""
    rule: Literal["causal", "positions", "blocks", "whole"] = "causal"


_QWEN2, _TILES = Family("Qwen2VLProcessor", "positions"), Family("Idefics3Processor")
FAMILIES: dict[str, Family] = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": Family("Qwen2_5_VLProcessor", "positions"),
    "qwen3_vl": Family("Qwen3VLProcessor", "positions"),
    "smolvlm": _TILES,  # whose own class needs num2words and a video part, and writes images in the same way
    "idefics3": _TILES,
    "llava": Family("LlavaProcessor"),
    "paligemma": Family("PaliGemmaProcessor", "whole"),
    "gemma3": Family("Gemma3Processor", "blocks"),
}
"""By `model_type`. For each of them a test compares the vectors with those of plain transformers."""
_TOWERS = {"llava": ("clip_vision_model", "siglip_vision_model")}
"""The vision towers whose images a family writes as its processor here does. Pixtral is a llava with another one."""
_KINDS = {"positions": "mm_token_type_ids", "blocks": "token_type_ids", "whole": "token_type_ids"}
"""The argument by which transformers learns the kinds of tokens."""


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image as the decoder takes it. The tensors are those of its processor for this image alone."""

    tensors: Mapping[str, Tensor]
    written: str
    """What stands for it in the text: the image token many times, with what the family writes around its parts."""
    patches: int
    """How many tokens the vision tower computes."""
    where: str = ""
    """The input that it came with first, for errors."""

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def family_of(config: PretrainedConfig) -> Family | None:
    """The family of a decoder that reads images; None for a decoder of texts, and for families that are not listed."""
    return None if other_tower(config) else FAMILIES.get(config.model_type)


def other_tower(config: PretrainedConfig) -> str | None:
    """The vision tower of a decoder if its family is listed with other ones only; None if nothing is wrong."""
    tower = getattr(vars(config).get("vision_config"), "model_type", None)
    return tower if tower not in _TOWERS.get(config.model_type, (tower,)) else None


def attends_to_all(backbone: nn.Module) -> bool:
    """Whether every token of an input attends to every other one, by the decoder's own design."""
    family = _family(backbone)
    return family is not None and family.rule == "whole"


def input_arguments(
    backbone: nn.Module,
    input_ids: Int[Tensor, "batch time"],
    lengths: Int[Tensor, batch],
    images: Sequence[ReadImage] | None = None,
) -> dict[str, Any]:
    """Arguments of a forward pass beside the ids, and the ids themselves where images are among them.

    Empty for decoders of texts, and for texts alone in a family whose texts are read as any decoder's.
    """
    family = _family(backbone)
    if family is None:
        return {}
    is_image = input_ids < 0
    has_images = bool(images) and bool(is_image.any())
    found: dict[str, Any] = {}
    if has_images:
        config: Any = _model(backbone).config
        found["input_ids"] = input_ids.masked_fill(is_image, config.image_token_id)
        found |= _joined(images or (), input_ids)
    if family.rule == "whole":
        found[_KINDS["whole"]] = (torch.arange(input_ids.shape[1], device=input_ids.device) >= lengths[:, None]).long()
    elif has_images and family.rule in _KINDS:
        found[_KINDS[family.rule]] = is_image.long()
    return found


def images_in(ids: Sequence[int]) -> list[int]:
    """The numbers of the images in a row, in their order."""
    return list(dict.fromkeys(-1 - id for id in ids if id < 0))


def patches_in(images: Sequence[ReadImage], rows: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens the vision tower computes for each row."""
    return [sum(images[number].patches for number in images_in(row)) for row in rows]


def _joined(images: Sequence[ReadImage], input_ids: Int[Tensor, "batch time"]) -> dict[str, Tensor]:
    """The tensors of the images of all rows one after another, which is the order of their tokens."""
    needed = [images[number] for row in input_ids.tolist() for number in images_in(row)]
    joined: dict[str, Tensor] = {}
    for name in needed[0].tensors:
        parts = [image.tensors[name] for image in needed]
        along = _axis_of_tiles(name, parts[0])
        try:
            joined[name] = torch.cat(parts, dim=along).to(input_ids.device)
        except RuntimeError:
            sizes = " and ".join(sorted({str(tuple(part.shape)) for part in parts}))
            raise UserError(
                f"images are of different sizes after preprocessing ({sizes}), which this decoder can't read together; "
                "set do_resize in its preprocessor_config.json"
            ) from None
    return joined


def _axis_of_tiles(name: str, tensor: Tensor) -> int:
    """Idefics3 and SmolVLM take (row, tile, ...), and as tiles of one row we need no empty ones as padding."""
    return 1 if (name, tensor.ndim) in (("pixel_values", 5), ("pixel_attention_mask", 4)) else 0


def _family(backbone: nn.Module) -> Family | None:
    config = backbone.config
    return family_of(config) if isinstance(config, PretrainedConfig) else None


def _model(backbone: nn.Module) -> PreTrainedModel:
    return next(module for module in backbone.modules() if isinstance(module, PreTrainedModel))
