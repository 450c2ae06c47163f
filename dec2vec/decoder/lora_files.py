"""Put a LoRA adapter on a decoder, to be trained or only to be used; whichever library has written its files.

An adapter that was trained on a language model names its modules by their place in that (`model.layers.0 ...`), and
PEFT would leave them out here without an error. Every tensor of the file is therefore accounted for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.model_folders import ADAPTER_WEIGHTS
from dec2vec.errors import UserError

_PREFIX = "base_model.model."
_HEAD = "lm_head"
_MAGNITUDE = "lora_magnitude_vector"
_log = logging.getLogger(__name__)


def put_on(backbone: nn.Module, folder: Path, *, trainable: bool, dropout: float = 0.0) -> PeftModel:
    """The decoder with the adapter in `folder`. UserError if it does not fit."""
    try:
        tensors = _placed(load_file(folder / ADAPTER_WEIGHTS), backbone)
        with quiet():
            config: Any = PeftConfig.from_pretrained(str(folder))
            _fit(config, tensors, folder, backbone)
            config.lora_dropout, config.inference_mode = dropout, not trainable
            adapted: PeftModel = get_peft_model(backbone, config)
            set_peft_model_state_dict(adapted, dict(tensors))
    except SafetensorError as error:
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: damaged ({error}); copy it again") from error
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model.adapter {folder}: it does not fit the decoder; {reason}") from error
    _check_all(adapted, tensors, folder)
    return adapted if trainable else adapted.eval()


def _placed(tensors: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors by their names in this decoder, without those of a language model's head."""
    modules = {path for path, _ in backbone.named_modules()}
    inner = f"{getattr(backbone, 'base_model_prefix', '')}."
    found, left_out = dict[str, Tensor](), list[str]()
    for name, tensor in tensors.items():
        path = name.removeprefix(_PREFIX)
        if path.startswith(inner) and _module(path) not in modules and _module(path[len(inner) :]) in modules:
            path = path[len(inner) :]
        if path.startswith(f"{_HEAD}."):
            left_out.append(name)
        else:
            found[_PREFIX + path] = tensor
    if left_out:
        count = len(left_out)
        _log.warning("model.adapter: its %d tensors of %s are left out, as no vector depends on them", count, _HEAD)
    return found


def _module(path: str) -> str:
    """The module that a tensor of an adapter belongs to."""
    owner, is_lora, _ = path.partition(".lora_")
    return owner if is_lora else path.rpartition(".")[0].removesuffix(".base_layer")


def _fit(config: Any, tensors: Mapping[str, Tensor], folder: Path, backbone: nn.Module) -> None:
    """Change the settings to those of the same adapter on a decoder without a head.

    Where they choose modules by layers or patterns, which PEFT matches against the names in a language model, the
    modules are named one by one.
    """
    config.task_type, config.base_model_name_or_path = "FEATURE_EXTRACTION", None
    kept = [name for name in config.modules_to_save or () if name != _HEAD]
    config.modules_to_save = kept or None
    modules = {path for path, _ in backbone.named_modules()}
    owners = sorted({_module(name.removeprefix(_PREFIX)) for name in tensors if ".lora_" in name})
    missing = next((path for path in owners if path not in modules), None)
    if missing is not None or not owners:
        what = "it has no LoRA weights" if missing is None else f"the decoder has no module {missing}"
        raise UserError(f"model.adapter {folder}: {what}; use the decoder that it was trained on")
    is_chosen = config.layers_to_transform is not None or isinstance(config.target_modules, str)
    if is_chosen or config.exclude_modules is not None or config.target_modules is None:
        config.target_modules = owners
        config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    elif _HEAD in config.target_modules:
        config.target_modules = {name for name in config.target_modules if name != _HEAD}


def _check_all(adapted: PeftModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Every tensor of the file has its place, and every weight of the adapter its tensor."""
    with quiet():
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    odd = sorted(set(map(_spelt, expected)) ^ set(map(_spelt, tensors)))
    if odd:
        where = "only in its settings" if odd[0] in map(_spelt, expected) else "only in its weights"
        raise UserError(
            f"model.adapter {folder}: {odd[0].removeprefix(_PREFIX)} is {where} ({len(odd)} such tensors); use the "
            "decoder that it was trained on, or save it again with PEFT"
        )


def _spelt(name: str) -> str:
    """PEFT saves DoRA's magnitudes without the `.weight` that an exported model has."""
    return name.replace(f"{_MAGNITUDE}.weight", _MAGNITUDE)
