"""Under DeepSpeed ZeRO-2 a step gives what one process gives, and checkpoints go from engine to engine."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import unittest.mock
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor

from dec2vec import ModelConfig
from dec2vec.errors import UserError
from tests.processes import run_alone, run_ranks
from tests.test_engines import BATCHES, LOSS, REPOSITORY, Case, pairs, there_and_back
from tests.tiny_run import train
from tests.training_setup import distance, tiny_encoder
from train.batch import prepare
from train.config import LoraConfig, OptimConfig, TrainConfig
from train.engine import adapters_under, engine_of, make_accelerator, optimizer_under, wrap
from train.engine_deepspeed import OLDEST, PartitionedAdamW, check_installed, check_settings, partitioned
from train.lora import trainable_parameters
from train.losses.dispatch import combined
from train.optimizer_state import optimizer_tensors
from train.step import Learner, StepResult, make_optimizer, train_step
from train.temperature import Temperature

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install 'dec2vec[deepspeed]'"
)
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
OPTIM = OptimConfig(lr=1e-3, warmup=0.0, max_grad_norm=0.05)
"""The clipping binds in every step."""
CASES = {
    "some graphs kept": Case(),
    "none kept": Case(graph_tokens=0),
    "early exit": Case(model={"layer": -2}),
    "full": Case(lora={"method": "full"}),
    "bfloat16 base": Case(model={"dtype": "bfloat16"}),
}
NEAR = 1e-5
"""Relative difference allowed for losses."""


@dataclass(frozen=True)
class Outcome:
    """Three steps on one rank, of which the loss of the second was not finite."""

    results: list[StepResult]
    moments: list[dict[str, Tensor]]
    weights: list[dict[str, Tensor]]
    reductions: list[int]
    """Calls of all_reduce over as many numbers as are trained, of each step."""


def start_deepspeed() -> None:
    """As torchrun would; without the shared-memory kernels that DeepSpeed compiles on CPUs, which takes minutes."""
    os.environ.update(ZERO2)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # which it calls
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def not_finite(*arguments: Any, **options: Any) -> Any:
    return dataclasses.replace(combined(*arguments, **options), loss=torch.tensor(float("inf")))


def three_steps(folder: Path, case: Case) -> Outcome:
    engine = engine_of(accelerator := make_accelerator(TrainConfig(model=ModelConfig(device="cpu"))))
    lora = adapters_under(engine, LoraConfig(**{"rank": 4, "alpha": 8.0, **case.lora}))
    encoder = tiny_encoder(folder, lora=lora, device="cpu", **case.model)
    encoder.embedder.train()
    model, temperature = wrap(encoder.embedder, accelerator), Temperature(LOSS.temperature, learned=True)
    whole = make_optimizer(encoder.embedder, temperature, OPTIM)
    optimizer = optimizer_under(engine, encoder.embedder, whole, OPTIM.max_grad_norm)
    assert isinstance(optimizer, PartitionedAdamW) == (engine == "zero2")
    parameters = {**trainable_parameters(encoder.embedder), "log_temperature": temperature.log_value}
    numbers = sum(value.numel() for name, value in parameters.items() if name != "log_temperature")
    learner, found = Learner(model, temperature, optimizer, total_steps=3), Outcome([], [], [], [])
    for step, rows in enumerate(BATCHES):
        rank, world = accelerator.process_index, accelerator.num_processes
        batch = prepare(pairs(), np.array(rows), encoder, 120, rank=rank, world=world)
        loss = unittest.mock.patch("train.step.combined", not_finite if step == 1 else combined)
        with loss, unittest.mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduce:
            found.results.append(train_step(learner, batch, step, LOSS, OPTIM, graph_tokens=case.graph_tokens, seed=0))
        reduced = [call.kwargs["tensor"] if call.kwargs else call.args[0] for call in reduce.call_args_list]
        found.reductions.append(sum(tensor.numel() >= numbers for tensor in reduced))
        found.moments.append({k: v.clone() for k, v in optimizer_tensors(optimizer, list(parameters)).items()})
        found.weights.append({name: value.detach().clone() for name, value in parameters.items()})
    return found


def all_cases(folder: Path, names: list[str], zero2: bool) -> dict[str, Outcome]:
    """In one process group, since starting one costs more than the steps. ZeRO-2 left to itself takes one chunk."""
    outcomes = {}
    for name in names:
        AcceleratorState._reset_state()
        if zero2:
            start_deepspeed()
        outcomes[name] = three_steps(folder, CASES[name])
    if zero2:
        by_itself = unittest.mock.patch("train.step.reduced_once", lambda _: contextlib.nullcontext())
        with by_itself, pytest.raises(AssertionError, match="has already been reduced"):
            three_steps(folder, CASES["none kept"])
    return outcomes


@needs_deepspeed
def test_partitioned_steps_equal_one_process(tmp_path: Path) -> None:
    """Losses, norms, clipped gradients (in the moments) and weights; a step that is not finite changes nothing."""
    float32 = [name for name in CASES if name != "bfloat16 base"]
    alone = run_alone(all_cases, tmp_path, float32, False)
    ddp, _ = run_ranks(2, all_cases, tmp_path, ["bfloat16 base"], False)  # in 16 bits other chunks round far apart
    main, other = run_ranks(2, all_cases, tmp_path, list(CASES), True)
    for name, expected in (alone | ddp).items():
        found = main[name]
        assert [result.applied for result in found.results] == [True, False, True], name
        for result, theirs in zip(found.results, expected.results, strict=True):
            assert result.loss == pytest.approx(theirs.loss, rel=NEAR), name
            assert result.grad_norm == pytest.approx(theirs.grad_norm, rel=10 * NEAR), name
            assert theirs.grad_norm > OPTIM.max_grad_norm
        for moments, theirs in zip(found.moments, expected.moments, strict=True):
            assert moments.keys() == theirs.keys(), name
            assert distance(moments, theirs) < 1e-2, name
        for step, weights in enumerate(found.weights):
            assert distance(weights, expected.weights[step]) < 10 * NEAR, name
            assert all(torch.equal(weights[key], other[name].weights[step][key]) for key in weights), name
        assert all(torch.equal(value, found.weights[1][key]) for key, value in found.weights[0].items()), name
        assert distance(found.weights[2], found.weights[1]) > 1e-4, name
        assert found.reductions == [1, 1, 1], name


def whole_run(config: Path, output: Path, *overrides: str) -> None:
    start_deepspeed()
    train(config, output, *overrides)


@needs_deepspeed
def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command to dev scores, checkpoints and the adapter; then on from what one process wrote, and back."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    script = importlib.import_module("check_engines")
    monkeypatch.chdir(tmp_path)
    config = there_and_back(tmp_path, whole_run, script)
    bests = tmp_path / "bests"  # the main process alone scores, and a best between checkpoints is saved by all
    run_ranks(2, whole_run, config, bests, "--checkpoint.every", "4", "--eval.every", "1")
    assert (bests / "adapter").is_dir()


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'dec2vec\[deepspeed\]'"):
        check_installed()


def test_an_older_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.18.9")
    with pytest.raises(UserError, match=r"needs deepspeed 0\.19\.8, not 0\.18\.9"):
        check_installed()
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert f'deepspeed = ["deepspeed>={OLDEST}"]' in project


REFUSED = {
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("3", "fsdp2.yaml keeps the weights in the same shards"),
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("zero.json", "put zero_stage: 2 under deepspeed_config"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("cpu", "offload_optimizer_device: not supported"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("nvme", "offload_param_device: not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_goes_beyond_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_settings()
    monkeypatch.setenv(name, REFUSED[name][0])
    with pytest.raises(UserError, match=REFUSED[name][1]) as caught:
        check_settings()
    assert "\n" not in str(caught.value)


def test_stages_that_divide_less_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    with pytest.raises(UserError, match=r"zero_stage 1: not supported; use 2, or configs/accelerate/ddp\.yaml"):
        check_settings()


def test_weights_in_16_bits_are_refused() -> None:
    layer = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    with pytest.raises(UserError, match=r"model\.dtype bfloat16: .* use float32"):
        partitioned(layer, list(layer.parameters()), torch.optim.AdamW(layer.parameters()), 1.0)
