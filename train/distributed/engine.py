"""Choose the engine that Accelerate was launched with: one process, DDP, FSDP2, ZeRO-2 or ZeRO-3.

No training configuration names it. Accelerate reads the engine from `accelerate launch --config_file ...` (see
configs/accelerate/) or, under torchrun, from the environment. Settings that dec2vec can't run are refused in one line.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType

from dec2vec.decoder.embedder import Embedder
from dec2vec.errors import UserError
from train.config import TrainConfig
from train.distributed.ddp import Ddp
from train.distributed.deepspeed import check_installed, launched_stage, silence
from train.distributed.fsdp2 import Fsdp2
from train.distributed.interface import Engine
from train.distributed.launcher import note_launcher_options
from train.distributed.single import Single
from train.distributed.zero2 import Zero2
from train.distributed.zero3 import Zero3

_DDP = {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Let Accelerate decide on processes and devices; precision and kernels are ours, as in an evaluation."""
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        if config.model.autocast == "float16":
            raise UserError("model.autocast float16: DeepSpeed has no loss scale here; use FSDP2 or DDP")
        check_installed()
        silence()
    note_launcher_options()
    timeout = InitProcessGroupKwargs(timeout=timedelta(seconds=config.distributed.timeout))
    on_cpu = config.model.device == "cpu"
    return Accelerator(cpu=on_cpu, mixed_precision="no", dynamo_backend="no", kwargs_handlers=[timeout])


def choose_engine(accelerator: Accelerator) -> type[Engine]:
    """The engine that the launcher named; UserError for one that dec2vec does not run."""
    if _flag("ACCELERATE_USE_DEEPSPEED"):
        stage = launched_stage()
        _check_group("use_deepspeed", accelerator)
        return Zero3 if stage == 3 else Zero2
    if _flag("ACCELERATE_USE_FSDP"):
        _check_fsdp(accelerator)
        return Fsdp2
    kind = accelerator.distributed_type
    if kind == DistributedType.NO:
        return Single
    if kind in _DDP:
        return Ddp
    raise UserError(f"distributed_type {kind.value} is not supported; use one process, DDP, FSDP2, ZeRO-2 or ZeRO-3")


def wrap(embedder: Embedder, accelerator: Accelerator) -> Engine:
    """The embedder in the engine that the launcher named."""
    return choose_engine(accelerator)(embedder, accelerator)


def wrap_alone(embedder: Embedder) -> Engine:
    """The embedder on this process alone, whatever the launcher named."""
    return Single(embedder)


def _check_fsdp(accelerator: Accelerator) -> None:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("fsdp_version 1: not supported; set fsdp_version: 2 in fsdp_config")
    if _flag("FSDP_OFFLOAD_PARAMS"):
        raise UserError("fsdp_offload_params: not supported; set it to false (or use more processes)")
    if _flag("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise UserError("fsdp_cpu_ram_efficient_loading: not supported; set it to false (each process reads the files)")
    if _flag("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError("fsdp_activation_checkpointing: set it to false, and use lora.gradient_checkpointing true")
    _check_group("use_fsdp", accelerator)


def _check_group(option: str, accelerator: Accelerator) -> None:
    if not torch.distributed.is_initialized():
        raise UserError(f"{option}: sharding needs a process group; start with accelerate launch or torchrun")
    if accelerator.device.type == "cpu" and torch.accelerator.is_available():
        raise UserError(f"model.device cpu: {option} uses all visible GPUs; hide them with CUDA_VISIBLE_DEVICES=''")


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in {"true", "1", "yes"}
