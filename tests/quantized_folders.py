"""Folders with quantized weights, and plain ones that hold what those stand for, both made by plain loops."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Quantized = tuple[dict[str, Tensor], Tensor]
"""The tensors of a weight in the files, by their ending, and the floats that they stand for."""
LARGEST = 448.0
"""Of float8 e4m3."""


def in_blocks(
    weight: Tensor, height: int, width: int, ending: str = "_scale_inv", *, powers: bool = False
) -> Quantized:
    """FP8 with a scale for each block of at most `height` rows and `width` columns."""
    rows, columns = weight.shape
    stored, meant = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn), torch.zeros(rows, columns)
    scales = torch.zeros(-(-rows // height), -(-columns // width))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)
            scale = weight[place].abs().max() / LARGEST
            scales[i, j] = scale.log2().ceil().exp2() if powers else scale
            stored[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
            meant[place] = stored[place].float() * scales[i, j]
    kept = (scales.log2() + 127).to(torch.uint8) if powers else scales
    return {"": stored, ending: kept}, meant


def by_row(weight: Tensor) -> Quantized:
    """FP8 with a scale for each row, as FBGEMM and compressed-tensors have them."""
    return in_blocks(weight, 1, weight.shape[1], "_scale")


def as_one(weight: Tensor) -> Quantized:
    """FP8 with a single scale without dimensions."""
    tensors, meant = in_blocks(weight, *weight.shape)
    return {**tensors, "_scale_inv": tensors["_scale_inv"].reshape(())}, meant


def in_groups_of_integers(weight: Tensor, width: int = 5) -> Quantized:
    """INT8 with a scale and a zero for each row and `width` columns, as compressed-tensors has them."""
    rows, columns = weight.shape
    stored, meant = torch.zeros(rows, columns, dtype=torch.int8), torch.zeros(rows, columns)
    scales, zeros = torch.zeros(rows, -(-columns // width)), torch.zeros(rows, -(-columns // width), dtype=torch.int8)
    for row in range(rows):
        for j in range(scales.shape[1]):
            part = weight[row, j * width : (j + 1) * width]
            low, high = min(0.0, float(part.min())), max(0.0, float(part.max()))
            scale = (high - low) / 255
            zero = round(-128 - low / scale)
            values = (part / scale + zero).round().clamp(-128, 127)
            scales[row, j], zeros[row, j] = scale, zero
            stored[row, j * width : (j + 1) * width] = values.to(torch.int8)
            meant[row, j * width : (j + 1) * width] = (values - zero) * scales[row, j]
    return {"": stored, "_scale": scales, "_zero_point": zeros}, meant


def quantize_folder(
    plain: Path,
    folder: Path,
    quantize: Callable[[Tensor], Quantized],
    quantization: Mapping[str, Any] | None,
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
) -> Path:
    """Write the weights of `plain` quantized to `folder`, and what they stand for back to `plain`.

    Only matrices of layers are quantized; the embeddings and norms are in `dtype`.
    """
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    stored: dict[str, Tensor] = {}
    meant: dict[str, Tensor] = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        if name.endswith("proj.weight"):
            tensors, meant[name] = quantize(tensor.float())
            stored |= {f"{name}{ending}": value for ending, value in tensors.items()}
            stored[f"{name.removesuffix('weight')}input_scale"] = torch.ones(1)
        else:
            stored[name] = meant[name] = tensor.to(dtype)
    save_file({name: tensor.float() for name, tensor in meant.items()}, plain / "model.safetensors", {"format": "pt"})
    _save(stored, folder, shards)
    config = json.loads((folder / "config.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps({**config, "dtype": str(dtype).removeprefix("torch.")}))
    return folder


def _save(tensors: dict[str, Tensor], folder: Path, shards: int) -> None:
    """In one file, or in several with an index: a weight and its scales may be in different ones."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    (folder / "model.safetensors").unlink()
    index: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
        save_file(part, folder / name, {"format": "pt"})
        index |= dict.fromkeys(part, name)
    content = {"metadata": {"total_size": 0}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
