"""The engine that Accelerate was launched with: one process, DDP, FSDP2, ZeRO-2 or ZeRO-3.

No training configuration names it. Accelerate reads the engine from `accelerate launch --config_file ...` (see
configs/accelerate/) or, under torchrun, from the environment. Where weights are sharded, what relies on whole ones
falls back to the plain way with a line in the log; what can't be right is refused in one line.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.errors import UserError
from train.config import LoraConfig, TrainConfig
from train.distributed.ddp import Model, learn_order
from train.distributed.deepspeed import DeepSpeedAdamW, asked_stage, check_installed, silence
from train.distributed.sharded import ShardedByModules, ShardedByUnits
from train.distributed.zero2 import PartitionedAdamW
from train.distributed.zero3 import ShardedAdamW, divide

Engine = Literal["one", "ddp", "fsdp2", "zero2", "zero3"]
SHARDS: Mapping[Engine, str] = {"fsdp2": "FSDP2", "zero3": "ZeRO-3"}
"""Engines under which no process holds all weights, as messages name them."""
_log = logging.getLogger(__name__)
_DDP = {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate decides processes and devices; precision stays ours, so that evaluation computes the same."""
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        check_installed()
        silence()
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked != "no":
        _say("mixed_precision %s of the launcher is not used: model.dtype and model.autocast decide", asked)
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=config.distributed.timeout))
    return Accelerator(cpu=config.model.device == "cpu", mixed_precision="no", kwargs_handlers=[timeout])


def engine_of(accelerator: Accelerator) -> Engine:
    """What the launcher asked for; UserError for what dec2vec does not run under."""
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        stage = asked_stage()
        _check_group("use_deepspeed", accelerator)
        return stage
    if _flag("ACCELERATE_USE_FSDP"):
        _check_fsdp(accelerator)
        return "fsdp2"
    kind = accelerator.distributed_type
    if kind == DistributedType.NO:
        return "one"
    if kind in _DDP:
        return "ddp"
    raise UserError(f"distributed_type {kind.value}: dec2vec runs on one process, under DDP, FSDP2, ZeRO-2 and ZeRO-3")


def adapters_under(engine: Engine, config: LoraConfig) -> LoraConfig:
    """The adapters as this engine can run them: merged weights would be as large on each process as unsharded ones."""
    if engine not in SHARDS or not config.fused or config.method == "full":
        return config
    _say("lora.fused is off: the weights are sharded, and it needs a whole copy of them")
    return dataclasses.replace(config, fused=False)


def loading_place(engine: Engine, config: ModelConfig) -> ModelConfig:
    """Where weights are read to before they are sharded: the CPU, so that no device must hold them all."""
    needs_device = config.load_in_4bit or config.attention == "flash_attention_2"
    return config if engine not in SHARDS or needs_device else dataclasses.replace(config, device="cpu")


def wrap(embedder: Embedder, accelerator: Accelerator) -> Model:
    """The module whose backward sums over ranks; the embedder itself in a single process and under ZeRO-2."""
    engine = engine_of(accelerator)
    if engine == "zero2":
        return embedder  # its optimiser sums over ranks
    if engine == "fsdp2":
        return _shard(embedder, accelerator)
    if engine == "zero3":
        divide(embedder, accelerator.device)
        return ShardedByModules(embedder)
    model: Embedder | DistributedDataParallel = accelerator.prepare_model(embedder)
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False  # the same on every rank; as an argument it is deprecated since torch 2.13
        learn_order(model, embedder)
    return model


def optimizer_under(engine: Engine, embedder: Embedder, optimizer: AdamW, limit: float) -> AdamW | DeepSpeedAdamW:
    """The optimiser of `embedder` as this engine runs it; `limit` is what gradients are clipped to."""
    if engine == "zero2":
        return PartitionedAdamW(embedder, optimizer, limit)
    if engine == "zero3":
        return ShardedAdamW(embedder, optimizer, limit)
    return optimizer


def _shard(embedder: Embedder, accelerator: Accelerator) -> ShardedByUnits:
    """FSDP2 as Accelerate's plugin describes it; a unit is a decoder block unless the plugin names others."""
    from accelerate.utils import fsdp2_prepare_model
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = _plugin(accelerator)
    blocks = decoder_blocks(embedder.backbone, embedder.layer_count)
    if plugin.auto_wrap_policy is transformer_auto_wrap_policy and not plugin.transformer_cls_names_to_wrap:
        names = set() if blocks is None else {type(block).__name__ for block in blocks}
        plugin.transformer_cls_names_to_wrap = sorted(names)
    try:
        fsdp2_prepare_model(accelerator, embedder)
    except ValueError as error:
        raise UserError(f"FSDP2: {str(error).splitlines()[0]}") from error
    return ShardedByUnits(embedder, gathered_once=plugin.reshard_after_forward is False)


def _plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin:
    """Accelerate's own; on CPUs, where it reads the settings and then leaves them aside, made again from them."""
    if "fsdp_plugin" not in vars(accelerator.state):
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    plugin: FullyShardedDataParallelPlugin = accelerator.state.fsdp_plugin
    return plugin


def _check_fsdp(accelerator: Accelerator) -> None:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("fsdp_version 1: has no shards of single parameters; put fsdp_version: 2 into fsdp_config")
    if _flag("FSDP_OFFLOAD_PARAMS"):
        raise UserError("fsdp_offload_params: not supported; set it to false (or use more processes)")
    if _flag("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise UserError("fsdp_cpu_ram_efficient_loading: not supported; set it to false (each process reads the files)")
    if _flag("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError("fsdp_activation_checkpointing: set it to false, and use --lora.gradient_checkpointing true")
    _check_group("use_fsdp", accelerator)


def _check_group(option: str, accelerator: Accelerator) -> None:
    if not torch.distributed.is_initialized():
        raise UserError(f"{option}: shards need a process group; start with accelerate launch or torchrun")
    if accelerator.device.type == "cpu" and torch.cuda.is_available():
        raise UserError(f"model.device cpu: {option} takes the GPUs that it sees; hide them: CUDA_VISIBLE_DEVICES=''")


def _say(line: str, *values: object) -> None:
    """In the log of the first process."""
    if os.environ.get("RANK", "0") == "0":
        _log.info(line, *values)


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in {"true", "1", "yes"}
