"""Weights of 8 or 4 bits with scales, as the floats that they stand for. This needs torch alone, on any machine.

Beside `weight` in float8 or int8 a file holds `weight_scale_inv` (Qwen, DeepSeek), `weight_scale` (FBGEMM,
compressed-tensors) or `scale`: one number for all, for each row, or for each block of rows and columns. The blocks at
the right and lower edge are smaller where their size does not divide that of the matrix. A scale of one byte is the
exponent of a power of two. In MXFP4 (gpt-oss) `*_blocks` holds two numbers of 4 bits in a byte, and `*_scales` an
exponent for every 32 numbers.

Tensors are read one at a time, when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dec2vec.errors import UserError

Block = tuple[int, int]
USUAL_BLOCK: Block = (128, 128)
_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
_EXPONENTS = frozenset({"U8", "F8_E8M0"})
_SCALES = ("_scale_inv", "_scale")
_OF_ACTIVATIONS = ("input_scale", "activation_scale", "output_scale", "input_scale_ub", "input_zero_point")
_OF_CACHE = ("k_scale", "v_scale", "q_scale")
"""Scales of what is computed, with which kernels in 8 bits would run; there are none here."""
_FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_ZERO_EXPONENT = 127.0


@runtime_checkable
class Lazy(Protocol):
    """A tensor that is read when it is sliced, as those of `safe_open(...).get_slice(name)` are."""

    def get_dtype(self) -> str: ...

    def get_shape(self) -> list[int]: ...

    def __getitem__(self, index: Any, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Scaled:
    """A weight with its scales, and perhaps the numbers that stand for zero."""

    values: Lazy
    scales: Lazy
    zeros: Lazy | None
    block: Block

    def get_dtype(self) -> str:
        """That of what is read."""
        return "F32"

    def get_shape(self) -> list[int]:
        """That of what is read."""
        return float_shape(self.values, self.scales)

    def __getitem__(self, index: Any, /) -> Tensor:
        values = self.values[...]
        values = unpack_float4(values) if _is_float4(self.values, self.scales) else values.to(torch.float32)
        if self.zeros is not None:
            by_block(values, self.zeros[...].to(torch.float32), self.block, Tensor.sub_)
        by_block(values, _numbers(self.scales[...]), self.block, Tensor.mul_)
        return values[index]


@dataclass(frozen=True, eq=False)
class Blocks4:
    """Experts in MXFP4, of which transformers keeps the transpose."""

    blocks: Lazy
    scales: Lazy

    def get_dtype(self) -> str:
        """That of what is read."""
        return "F32"

    def get_shape(self) -> list[int]:
        """That of what is read."""
        *experts, rows, groups, size = self.blocks.get_shape()
        return [*experts, groups * size * 2, rows]

    def __getitem__(self, index: Any, /) -> Tensor:
        values, scales = unpack_float4(self.blocks[...]), _numbers(self.scales[...])
        return (values * scales[..., None]).flatten(-2).transpose(-1, -2).contiguous()[index]


def float_shape(values: Lazy, scales: Lazy) -> list[int]:
    """The shape of the weight that these values hold."""
    *rows, columns = values.get_shape()
    return [*rows, columns * 2 if _is_float4(values, scales) else columns]


def _is_float4(values: Lazy, scales: Lazy) -> bool:
    """Whether a byte holds two numbers, as in the experts of DeepSeek-V4."""
    return values.get_dtype() == "I8" and scales.get_dtype() in _EXPONENTS


def unpack_float4(packed: Tensor) -> Tensor:
    """Numbers of 4 bits (E2M1), two in each byte, the lower half first."""
    table = torch.tensor(_FLOAT4)
    both = packed.contiguous().view(torch.uint8)
    halves = torch.stack([table[(both & 15).long()], table[(both >> 4).long()]], dim=-1)
    return halves.flatten(-2)


def by_block(values: Tensor, grid: Tensor, block: Block, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change `values` in place by the number that the grid has for their block. Leading dimensions are of matrices."""
    if grid.numel() == 1:
        change(values, grid.reshape(()))
        return
    grid = grid.reshape(*grid.shape, *[1] * (values.ndim - grid.ndim))  # a number for each row, or each matrix
    columns, (height, width) = values.shape[-1], block
    of_rows = grid.repeat_interleave(height, -2)[..., : values.shape[-2], :]
    whole = columns // width
    inner = values[..., : whole * width]
    change(inner.view(*inner.shape[:-1], whole, width), of_rows[..., :whole, None])
    if columns % width:
        change(values[..., whole * width :], of_rows[..., whole:])


def block_size(shape: Sequence[int], grid: Sequence[int], known: Sequence[Block]) -> Block | None:
    """The rows and columns of the blocks that a grid of scales divides a matrix into; None if no size fits."""
    rows, columns = shape[-2:]
    down, across = [*grid, *[1] * (len(shape) - len(grid))][-2:]
    for height, width in known:
        if -(-rows // height) == down and -(-columns // width) == across:
            return height, width
    if down and across and rows % down == 0 and columns % across == 0:
        return rows // down, columns // across
    return None


def floats_of(tensors: Mapping[str, Lazy], blocks: Sequence[Block], *, promised: bool) -> dict[str, Lazy] | None:
    """The tensors of a checkpoint, those with scales as floats; None if some are packed in ways not read here.

    `blocks` are the sizes that config.json names. Scales of activations are left out, as nothing runs in 8 bits.
    UserError for a weight in 8 bits without its scale where others have theirs, or where config.json `promises` scales.
    """
    used: set[str] = set()
    floats: dict[str, Lazy] = {}
    for name, tensor in tensors.items():
        found = _with_scales(name, tensor, tensors, blocks or (USUAL_BLOCK,))
        if found is not None:
            key, floats[key], companions = found
            used |= {name, *companions}
    rest = {name: tensor for name, tensor in tensors.items() if name not in used and not _is_of_kernels(name)}
    if any(_is_packed(name, tensor) for name, tensor in rest.items()):
        return None
    _check_scales(rest, promised=promised or bool(floats))
    return {**rest, **floats}


def is_scale(name: str) -> bool:
    """Whether a tensor is named like the scales of a weight."""
    return name.endswith(("weight_scale", "_scale_inv", "_scales"))


def _with_scales(
    name: str, tensor: Lazy, tensors: Mapping[str, Lazy], blocks: Sequence[Block]
) -> tuple[str, Lazy, list[str]] | None:
    """The name and the floats of a weight, and the names of what they were made of beside it; None without scales."""
    stem = name.removesuffix("_blocks")
    if stem != name and f"{stem}_scales" in tensors:
        return stem, Blocks4(tensor, tensors[f"{stem}_scales"]), [f"{stem}_scales"]
    if tensor.get_dtype() not in {*_FLOAT8, "I8"} or len(tensor.get_shape()) < 2:
        return None
    module = name.removesuffix("weight")
    candidates = [f"{name}{suffix}" for suffix in _SCALES]
    candidates += [f"{module}scale", f"{module}qscale_weight"] if module != name else []
    scales = next((candidate for candidate in candidates if candidate in tensors), None)
    if scales is None:
        return None
    shape, grid, zeros = float_shape(tensor, tensors[scales]), tensors[scales].get_shape(), f"{name}_zero_point"
    block = block_size(shape, grid, blocks)
    if block is None:
        raise UserError(
            f"{name}: its {'x'.join(map(str, grid))} scales fit no blocks of a matrix of {'x'.join(map(str, shape))}; "
            "correct weight_block_size in config.json, or copy the files again"
        )
    return name, Scaled(tensor, tensors[scales], tensors.get(zeros), block), [scales, zeros]


def _is_of_kernels(name: str) -> bool:
    return name.rpartition(".")[2] in {*_OF_ACTIVATIONS, *_OF_CACHE}


def _is_packed(name: str, tensor: Lazy) -> bool:
    """Whether a tensor holds numbers of fewer than 8 bits, or only those that are not zero."""
    if name.endswith(("_packed", "qweight", "bitmask", "_blocks")):
        return True
    return name.endswith("weight") and tensor.get_dtype() in {"U8", "I8", "I16", "I32", "I64"}


def _check_scales(rest: Mapping[str, Lazy], *, promised: bool) -> None:
    bare = [name for name, tensor in rest.items() if tensor.get_dtype() in _FLOAT8]
    if promised and bare:
        raise UserError(
            f"{bare[0]} is in 8 bits without a scale, but the weights of this model have scales; copy its files again"
        )


def _numbers(scales: Tensor) -> Tensor:
    """Scales in float32; a byte is an exponent."""
    if scales.dtype == torch.uint8:
        return (scales.to(torch.float32) - _ZERO_EXPONENT).exp2()
    return scales.to(torch.float32)
