"""Which weights are trained: LoRA adapters through PEFT, or all of them."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig as PeftLora
from peft import get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.gradient_reach import modules_without_gradient, weights_without_gradient
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.lora_files import put_on
from dec2vec.decoder.pooling import layers_of
from dec2vec.decoder.vision import family_of
from dec2vec.errors import UserError
from train.config import LoraConfig
from train.distributed.interface import Engine
from train.kernels.decoder_block import use_fast_blocks
from train.kernels.frozen_linear import use_frozen_linears
from train.kernels.lora_linear import use_fast_linears

_log = logging.getLogger(__name__)


def make_trainable(embedder: Embedder, config: LoraConfig, adapter: Path | None = None) -> None:
    """Put adapters into the decoder's layers up to the pooled one (the loss does not reach those above it).

    They are new, or those in the folder `adapter`, with which training goes on.
    """
    backbone: Any = embedder.backbone
    _check_reads_texts_only(backbone)
    _check_rescaling(backbone)
    is_quantized = bool(backbone.config.get_text_config().to_dict().get("quantization_config"))
    if is_quantized and config.method == "full":
        raise UserError("lora.method full: 4-bit weights cannot be trained; use lora, or remove model.load_in_4bit")
    if config.gradient_checkpointing:
        _checkpoint_blocks(backbone)
    if config.method == "full":
        backbone.requires_grad_(True)
        _freeze_unreached(embedder)
        return
    backbone.requires_grad_(False)
    adapters = None if adapter is not None else _peft_config(config, embedder)
    if is_quantized:
        backbone = prepare_model_for_kbit_training(
            backbone,
            use_gradient_checkpointing=config.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},  # PEFT's default is the other
        )
    if adapter is None:
        embedder.backbone = _with_new(backbone, adapters, config)
    else:
        embedder.backbone = put_on(backbone, adapter, trainable=True, dropout=config.dropout)
    if config.modules_to_save:
        _freeze_namesakes(embedder.backbone, config.modules_to_save)
    if config.modules_to_save or adapter is not None:
        _freeze_unreached(embedder)
    if config.fused:
        use_frozen_linears(embedder.backbone)
        use_fast_linears(embedder.backbone)
        blocks = decoder_blocks(embedder.backbone, embedder.layer_count)
        if blocks is not None:
            use_fast_blocks(embedder.backbone, blocks)


def _with_new(backbone: nn.Module, adapters: PeftLora | None, config: LoraConfig) -> nn.Module:
    try:
        with quiet():
            adapted: nn.Module = get_peft_model(backbone, adapters)
            return adapted
    except (ValueError, TypeError) as error:
        raise UserError(f"lora{_why_refused(error, config.targets, backbone)}") from error


def _check_reads_texts_only(backbone: Any) -> None:
    """Refuse a vision-language decoder that transformers doesn't list as one of texts too, as it does with Gemma 3."""
    family = backbone.config.model_type
    if family_of(backbone.config) is not None and family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model: {family} reads images too, and training such decoders is not supported yet; use a decoder of "
            "texts, or encode with it as it is"
        )


def _check_rescaling(backbone: Any) -> None:
    """Refuse an RWKV whose blocks are scaled down outside of training: adapters and saved weights would not follow."""
    decoder = backbone.config.get_text_config()
    if decoder.model_type == "rwkv" and decoder.rescale_every > 0:
        raise UserError(
            f"model: this RWKV divides its weights by powers of 2 outside of training (rescale_every "
            f"{decoder.rescale_every}), which adapters do not follow; set rescale_every to 0 in its config.json"
        )


def _checkpoint_blocks(backbone: Any) -> None:
    try:
        with quiet():
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:  # a family in which transformers has none
        family = backbone.config.get_text_config().model_type
        raise UserError(f"lora.gradient_checkpointing: not supported for {family}; remove it") from error


def check_adapter_options(config: LoraConfig) -> None:
    """Refuse options of adapters, which full tuning would silently ignore."""
    if config.method != "full":
        return
    default = LoraConfig()
    for option in ("dropout", "targets", "layers", "modules_to_save", "rslora", "dora", "init"):
        if vars(config)[option] != vars(default)[option]:
            raise UserError(
                f"lora.{option}: lora.method full trains every weight and has no adapters; remove the option"
            )


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters by name, in the module's order."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def load_trainable(model: Engine, tensors: dict[str, Tensor]) -> None:
    """Overwrite the trained parameters by whole tensors; the names must be the same."""
    parameters = trainable_parameters(model.embedder)
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())[0]
        raise UserError(
            f"checkpoint: {odd} exists either only in the checkpoint or only in the model; use checkpoint.resume "
            "fresh or another output_dir"
        )
    for name, parameter in parameters.items():
        model.overwrite(parameter, tensors[name])


def _peft_config(config: LoraConfig, embedder: Embedder) -> PeftLora:
    top = _top_layer(embedder)
    if top == 0:
        raise UserError(
            "model.layer 0: LoRA cannot train the input embeddings; add lora.method full, or use a layer above 0"
        )
    return PeftLora(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_targets(config.targets, embedder.backbone),
        modules_to_save=_known_modules("modules_to_save", config.modules_to_save, embedder.backbone)
        if config.modules_to_save
        else None,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=True if config.init == "default" else config.init,
        exclude_modules=_left_out(config, top, embedder),
        task_type="FEATURE_EXTRACTION",
    )


def _targets(wanted: str | tuple[str, ...], backbone: nn.Module) -> str | list[str]:
    """Module names, checked one by one: PEFT silently ignores names in a list that the decoder doesn't have.

    A single name (`--lora.targets q_proj`) is a list of one; PEFT would read it as a pattern of whole paths.
    """
    if wanted == "all-linear":
        return wanted
    return _known_modules("targets", [wanted] if isinstance(wanted, str) else list(wanted), backbone)


def _known_modules(option: str, names: Sequence[str], backbone: nn.Module) -> list[str]:
    paths = [path for path, _ in backbone.named_modules() if path]
    for name in names or [""]:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise UserError(f"lora.{option} {name!r}: the decoder has no such module; {_suggestion(name, backbone)}")
    return list(names)


def _why_refused(error: Exception, targets: str | tuple[str, ...], backbone: nn.Module) -> str:
    """PEFT's error without the printed module, which fills most of it."""
    message = " ".join(str(error).split())
    kind = re.match(r"Target module (\w+)\(", message)
    if kind is None:
        return f": {message[:300]}"
    wanted = [targets] if isinstance(targets, str) else targets
    named = {path.rpartition(".")[2] for path, module in backbone.named_modules() if type(module).__name__ == kind[1]}
    names = [name for name in wanted if name.rpartition(".")[2] in named] or wanted
    return f".targets {', '.join(names)}: no adapter fits a {kind[1]}; {_suggestion('', backbone)}"


def _suggestion(name: str, backbone: nn.Module) -> str:
    """A suggestion for a wrong name, from the modules that have a matrix."""
    matrices = (path.split(".") for path, value in backbone.named_parameters() if value.ndim == 2)
    names = sorted({parts[-2] for parts in matrices if parts[-1] == "weight" and len(parts) > 1})
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"use all-linear or some of {', '.join(names)}"


_NOT_EVERYWHERE = {
    **dict.fromkeys(("mamba", "falcon_mamba"), ("out_proj", "conv1d", "dt_proj")),
    **dict.fromkeys(("mamba2", "falcon_h1", "nemotron_h"), ("out_proj", "conv1d")),
}
"""By family, modules whose weights are read without calling the module on CUDA: an adapter that was trained on a CPU
would not take part there. PEFT refuses all but `dt_proj`."""


def _left_out(config: LoraConfig, top: int, embedder: Embedder) -> str | None:
    """A pattern of the modules that get no adapter; None if all targets get one."""
    backbone: Any = embedder.backbone
    skipped = _NOT_EVERYWHERE.get(backbone.config.get_text_config().model_type, ())
    patterns = [_other_layers(config.layers, top, embedder)]
    if config.targets == "all-linear" and skipped:
        _log.info("lora.targets all-linear: %s get no adapters, which this decoder would not use", ", ".join(skipped))
        patterns.append(rf"(.*\.)?({'|'.join(skipped)})")
    known = "|".join(f"({pattern})" for pattern in patterns if pattern is not None)
    unreached = _unreached_targets(config.targets, known, embedder)
    return "|".join(filter(None, (known, unreached))) or None


def _unreached_targets(targets: str | tuple[str, ...], known: str, embedder: Embedder) -> str | None:
    """A pattern of those targets, without the ones left out already, that no gradient reaches; None if all are reached.

    UserError if none of them is.
    """
    wanted = {
        path: module
        for path, module in embedder.backbone.named_modules()
        if _is_target(path, module, targets) and not re.fullmatch(known, path)
    }
    unreached = modules_without_gradient(embedder, wanted)
    if not unreached:
        return None
    named = ", ".join(sorted({_short(path) for path in unreached}))
    if len(unreached) == len(wanted):
        raise UserError(
            f"lora.targets {named}: this decoder computes nothing with a gradient by them, so an adapter would have no "
            f"effect; {_suggestion('', embedder.backbone)}"
        )
    _log.info("lora.targets: %s get no adapters (%d modules), as they would not be trained", named, len(unreached))
    return "|".join(map(re.escape, unreached))


_ADAPTED = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d)
"""What PEFT has adapters for; it refuses other targets itself."""


def _is_target(path: str, module: nn.Module, targets: str | tuple[str, ...]) -> bool:
    if targets == "all-linear" or not isinstance(module, _ADAPTED):
        return targets == "all-linear" and isinstance(module, nn.Linear | Conv1D)
    names = [targets] if isinstance(targets, str) else targets
    return any(path == name or path.endswith(f".{name}") for name in names)


def _short(path: str) -> str:
    """The last part of a path that is no number."""
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), path)


def _other_layers(wanted: Sequence[int], top: int, embedder: Embedder) -> str | None:
    """A pattern of the modules in blocks that get no adapter; None if all blocks get adapters.

    Without `wanted` the blocks from `top` on get none, as the loss does not reach them.
    """
    beyond = next((layer for layer in wanted if layer >= top), None)
    if beyond is not None:
        raise UserError(f"lora.layers {beyond}: layer {top} is pooled, so only blocks 0 to {top - 1} can be trained")
    kept = set(wanted) or set(range(top))
    others = [str(layer) for layer in range(embedder.layer_count) if layer not in kept]
    return rf"(.*\.)?{_name_of_blocks(embedder)}\.({'|'.join(others)})\..*" if others else None


def _name_of_blocks(embedder: Embedder) -> str:
    """Where the decoder keeps its blocks (`layers` in most families, `h` in GPT-2), as a pattern."""
    blocks = decoder_blocks(embedder.backbone, embedder.layer_count)
    names = [re.escape(name) for name, module in embedder.backbone.named_modules() if module is blocks]
    return names[0] if names else "(layers|h)"


def _top_layer(embedder: Embedder) -> int:
    """The highest hidden state that the loss reaches (first_last reads two)."""
    return max(layers_of(embedder.view, embedder.layer_count))


def _freeze_namesakes(backbone: nn.Module, names: Sequence[str]) -> None:
    """Train only the modules that are named. PEFT compares the ends of names: `norm` would be `input_layernorm` too."""
    for path, parameter in backbone.named_parameters():
        module, _, saved = path.partition(".modules_to_save.")
        if saved and not any(f".{module}".endswith(f".{name}") for name in names):
            parameter.requires_grad_(False)


def _freeze_unreached(embedder: Embedder) -> None:
    """Freeze what the loss does not reach, so that it is not saved as if it were trained and DDP does not wait for it.

    With an inner layer these are the blocks above it, the final norm, and further modules in some families.
    """
    parameters = dict(embedder.named_parameters())
    unreached = weights_without_gradient(embedder)
    for name in unreached:
        parameters[name].requires_grad_(False)
    if not trainable_parameters(embedder.backbone):
        raise UserError(f"model.layer: layer {_top_layer(embedder)} depends on no weight; use a layer above it")
    saved = sorted({name.rpartition(".modules_to_save.")[0] for name in unreached if ".modules_to_save." in name})
    if saved:
        _log.info(
            "lora.modules_to_save: %s stay as they are, as no gradient reaches them", ", ".join(map(_short, saved))
        )
