"""Decoders whose files hold quantized weights. They are loaded as floats of the dtype that is asked for.

Scaled weights (FP8, INT8, MXFP4) are read here, with torch alone. transformers would leave weights without scales in
the dtype of the files, take wrong blocks where their size does not divide the matrix, and quantize everything again
when it saves the model. For other kinds transformers needs the package of the kind; then each quantized layer is
replaced by a plain one with the matrix that it multiplies by. So what is trained and exported knows no quantization.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.checkpoint_files import checkpoint_tensors
from dec2vec.decoder.scaled_weights import Block, Lazy, floats_of
from dec2vec.errors import UserError

_MARK = "dec2vec_quantized_in_files"
ROWS = 1024
"""Rows of the unit matrix that a quantized layer is given at once."""
_SCALED = frozenset({"fp8", "mxfp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt", "quark"})
_OF_BITSANDBYTES = ("Params4bit", "Int8Params")
_PACKAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "bitsandbytes": (("bitsandbytes", "bitsandbytes"),),
    "gptq": (("optimum", "optimum"), ("gptqmodel", "gptqmodel")),
    "awq": (("gptqmodel", "gptqmodel"),),
    "compressed-tensors": (("compressed_tensors", "compressed-tensors"),),
    "quanto": (("optimum.quanto", "optimum-quanto"),),
    "torchao": (("torchao", "torchao"),),
    "hqq": (("hqq", "hqq"),),
    "auto-round": (("auto_round", "auto-round"),),
    "aqlm": (("aqlm", "aqlm[gpu,cpu]"),),
    "vptq": (("vptq", "vptq"),),
    "spqr": (("spqr_quant", "spqr_quant[gpu]"),),
    "eetq": (("kernels", "kernels"),),
    "higgs": (("flute", "flute-kernel"), ("fast_hadamard_transform", "fast_hadamard_transform")),
    "quark": (("quark", "amd-quark"),),
    "fp_quant": (("fp_quant", "fp_quant"),),
    "nvfp4": (("kernels", "kernels"),),
    "metal": (("kernels", "kernels"),),
    "sinq": (("sinq", "sinq"),),
    "fouroversix": (("fouroversix", "fouroversix"),),
    "bitnet": (),
}
"""By kind, the modules that transformers imports for it, and the packages that have them."""


def quantization_of(architecture: PretrainedConfig) -> dict[str, Any] | None:
    """What config.json says of the quantization; None if the weights are plain."""
    for config in (architecture, architecture.get_text_config()):
        found = vars(config).get("quantization_config")
        if found is not None:
            return dict(found if isinstance(found, Mapping) else found.to_dict())
    return None


def kind_of(quantization: Mapping[str, Any]) -> str:
    """Its name, such as fp8 or gptq."""
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        return "bitsandbytes"
    return str(quantization.get("quant_method") or "an unknown kind")


def stored_tensors(config: ModelConfig, architecture: PretrainedConfig) -> Mapping[str, Lazy]:
    """The tensors of the checkpoint: weights with scales as floats, others as they are in the files."""
    floats = scaled_floats(config, quantization_of(architecture) or {})
    return lazy_tensors(checkpoint_tensors(config)) if floats is None else floats


def scaled_floats(config: ModelConfig, quantization: Mapping[str, Any]) -> dict[str, Lazy] | None:
    """The tensors of the checkpoint as floats; None if torch alone can't read them.

    They keep their files open until the last of them is gone.
    """
    if quantization and kind_of(quantization) not in _SCALED:
        return None
    if quantization.get("transform_config"):  # weights are rotated, and activations with them
        return None
    return floats_of(lazy_tensors(checkpoint_tensors(config)), _blocks(quantization), promised=bool(quantization))


def lazy_tensors(files: Mapping[str, Path]) -> dict[str, Lazy]:
    """The tensors of safetensors files, by name."""
    opened: dict[Path, Any] = {path: safe_open(path, framework="pt") for path in set(files.values())}
    return {name: opened[path].get_slice(name) for name, path in files.items()}


def _blocks(quantization: Mapping[str, Any]) -> list[Block]:
    """The sizes of blocks that config.json names, for whatever layers."""
    groups = (quantization.get("config_groups") or {}).values()
    weights = [options for group in groups if (options := group.get("weights"))]
    sizes = [quantization.get("weight_block_size"), *(options.get("block_structure") for options in weights)]
    sizes += [(1, options["group_size"]) for options in weights if (options.get("group_size") or 0) > 0]
    return [(int(size[0]), int(size[1])) for size in sizes if size]


def with_floats_asked_for(architecture: PretrainedConfig) -> PretrainedConfig:
    """A copy of the configuration by which transformers makes floats of packed compressed-tensors while it loads."""
    asked = copy.deepcopy(architecture)
    for config in (asked, asked.get_text_config()):
        found = vars(config).get("quantization_config")
        if isinstance(found, dict) and kind_of(found) == "compressed-tensors":
            found["dequantize"] = True
    return asked


def mark_as_quantized(model: PreTrainedModel) -> None:
    """Note that other libraries would not read the model's files as floats."""
    vars(model)[_MARK] = True


def is_quantized_in_files(model: nn.Module) -> bool:
    """Whether the weights, which are floats in memory, are quantized in the files that they were read from."""
    return bool(vars(model).get(_MARK))


def without_quantization(architecture: PretrainedConfig) -> PretrainedConfig:
    """A copy of the configuration for plain weights."""
    plain = copy.deepcopy(architecture)
    for config in (plain, plain.get_text_config()):
        vars(config).pop("quantization_config", None)
    return plain


def check_package(name: str, quantization: Mapping[str, Any]) -> None:
    """UserError for weights that no package of this machine can read."""
    kind = kind_of(quantization)
    if kind not in _PACKAGES:
        raise UserError(
            f"model {name}: its weights are quantized ({kind}) in a way that can't be read; use the model's "
            "unquantized weights"
        )
    missing = [package for module, package in _PACKAGES[kind] if not _has(module)]
    if missing:
        raise UserError(
            f"model {name}: its weights are quantized ({kind}), and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed; pip install {' '.join(missing)}, or use the "
            "model's unquantized weights"
        )


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@torch.no_grad()
def dequantized(model: PreTrainedModel, config: ModelConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model with a plain layer for each quantized one. UserError if quantized weights remain."""
    with torch.device("meta"):
        plain = AutoModel.from_config(
            without_quantization(model.config), dtype=dtype, trust_remote_code=config.trust_remote_code
        )
    for path, module in plain.named_modules():
        layer = model.get_submodule(path)
        if isinstance(module, nn.Linear) and not _is_plain(layer):
            model.set_submodule(path, _plain_layer(layer, module, dtype))
    _check_places(model, plain, config.name_or_path)
    _forget_quantization(model)
    return model.to(dtype)


def _is_plain(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return type(layer) is nn.Linear and type(weight) is nn.Parameter and weight.dtype.itemsize > 1


def _plain_layer(layer: nn.Module, like: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """A linear layer with the matrix and the bias of a quantized one."""
    bias = layer.bias if isinstance(layer.bias, Tensor) else None
    plain = nn.Linear(like.in_features, like.out_features, bias=bias is not None, device="meta")
    with _without_bias(bias):
        plain.weight = nn.Parameter(_matrix(layer, like, dtype))
    if bias is not None:
        plain.bias = nn.Parameter(bias.to(dtype))
    return plain


@contextlib.contextmanager
def _without_bias(bias: Tensor | None) -> Iterator[None]:
    """Make the bias zero for a time. Taken from the products in half precision, it would leave rounding errors."""
    if bias is None:
        yield
        return
    kept = bias.clone()
    bias.zero_()
    try:
        yield
    finally:
        bias.copy_(kept)


def _matrix(layer: nn.Module, like: nn.Linear, dtype: torch.dtype) -> Tensor:
    """The matrix that a quantized layer without bias multiplies by: what it makes of unit vectors, or as its package
    has it."""
    if (
        type(getattr(layer, "weight", None)).__name__ in _OF_BITSANDBYTES
    ):  # whose kernels round to bfloat16 or to 8 bits
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        found: Tensor = dequantize_bnb_weight(layer.get_parameter("weight"), getattr(layer, "state", None))
        return found.to(dtype)
    device = next(iter([*layer.parameters(), *layer.buffers()])).device
    weight = torch.empty(like.out_features, like.in_features, dtype=dtype, device=device)
    for start in range(0, like.in_features, ROWS):
        unit = torch.eye(like.in_features, dtype=dtype, device=device)[start : start + ROWS]
        weight[:, start : start + ROWS] = _product(layer, unit).to(dtype).T
    return weight


def _product(layer: nn.Module, states: Tensor) -> Tensor:
    """What a layer makes of states, in float16 if its kernel knows no other dtype."""
    try:
        product: Tensor = layer(states)
    except (RuntimeError, TypeError, ValueError):
        product = layer(states.half())
    return product


def _check_places(model: PreTrainedModel, plain: PreTrainedModel, name: str) -> None:
    shapes = [
        {key: value.shape for key, value in each.state_dict().items() if value.is_floating_point()}
        for each in (model, plain)
    ]
    if shapes[0] != shapes[1]:
        odd = min(key for key in {*shapes[0], *shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
        raise UserError(f"model {name}: {odd} can't be turned into a plain weight; use the model's unquantized weights")


def _forget_quantization(model: PreTrainedModel) -> None:
    """Leave no trace by which transformers, PEFT or accelerate would take the model for a quantized one."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    model.config = without_quantization(model.config)
    for attribute in ("_weight_conversions", "is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
        vars(model).pop(attribute, None)
    for module in model.modules():
        vars(getattr(module, "config", model)).pop("_is_quantized", None)
