"""Under DeepSpeed ZeRO-2 and ZeRO-3 a step gives what one process gives, and checkpoints go from engine to engine."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import itertools
import os
import sys
import unittest.mock
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
from train.adapters.lora import trainable_parameters
from train.checkpointing.optimizer_state import optimizer_tensors
from train.config import LoraConfig, OptimConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.distributed.deepspeed import OLDEST, DeepSpeedAdamW, check_installed, launched_stage
from train.distributed.engine import choose_engine, make_accelerator, wrap
from train.distributed.zero2 import PartitionedAdamW, Zero2
from train.distributed.zero3 import STAGE, Zero3, divide
from train.losses.compute import compute_loss
from train.losses.objective import Temperature
from train.optim import Learner, make_optimizer
from train.step import StepResult, train_step

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install 'dec2vec[deepspeed]'"
)
ZERO2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
ZERO3 = {**ZERO2, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false"}
_AT_ONCE = ("param_persistence_threshold", "prefetch_bucket_size", "max_reuse_distance", "max_live_parameters")
SHORT_LIVED = {"stage": 3, **{f"stage3_{name}": 0 for name in _AT_ONCE}}
"""Each weight is given up after each use, as large ones are."""
OPTIM = OptimConfig(lr=1e-3, warmup=0.0, max_grad_norm=0.05)
"""The clipping binds in every step."""
CONFIG = TrainConfig(loss=LOSS, optim=OPTIM)
CASES = {
    "some graphs kept": Case(),
    "none kept": Case(graph_tokens=0),
    "all kept": Case(graph_tokens=10**6),
    "early exit": Case(model={"layer": -2}),
    "full": Case(lora={"method": "full"}),
    "DoRA": Case(lora={"dora": True}),
    "checkpointed": Case(lora={"gradient_checkpointing": True}),
    "bfloat16 base": Case(model={"dtype": "bfloat16"}, lora={"fused": False}),
}
FLOAT32 = [name for name in CASES if name != "bfloat16 base"]
RELEASED = ["some graphs kept", "all kept", "early exit", "checkpointed"]
NEAR = 1e-5
"""Relative difference allowed for losses."""


@dataclass(frozen=True)
class Outcome:
    """Three steps on one rank, of which the loss of the second was not finite."""

    results: list[StepResult]
    moments: list[dict[str, Tensor]]
    weights: list[dict[str, Tensor]]
    reductions: list[int]
    """Sums over ranks of as many numbers as are trained, in each step."""
    held: list[int]
    """Numbers of the model that this rank holds between steps, beside its part."""
    in_passes: list[float]
    """The most after any backward pass, as a share of all."""


def start_deepspeed(environment: dict[str, str]) -> None:
    """As torchrun would; without the shared-memory kernels that DeepSpeed compiles on CPUs, which takes minutes."""
    os.environ.update(environment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def not_finite(*arguments: Any, **options: Any) -> Any:
    return dataclasses.replace(compute_loss(*arguments, **options), loss=torch.tensor(float("inf")))


def three_steps(folder: Path, case: Case) -> Outcome:
    engine = choose_engine(accelerator := make_accelerator(TrainConfig(model=ModelConfig(device="cpu"))))
    lora = engine.adapters(LoraConfig(**{"rank": 4, "alpha": 8.0, **case.lora}))
    encoder = tiny_encoder(folder, lora=lora, device="cpu", **case.model)
    encoder.embedder.train()
    size = sum(value.numel() for value in encoder.embedder.parameters())
    numbers = sum(value.numel() for value in trainable_parameters(encoder.embedder).values())
    model, temperature = wrap(encoder.embedder, accelerator), Temperature(LOSS.temperature, learned=True)
    assert model.passes_are_collective == (engine is Zero3)
    optimizer = make_optimizer(model, temperature, OPTIM)
    assert isinstance(optimizer, DeepSpeedAdamW) == issubclass(engine, (Zero2, Zero3))
    parameters = {**trainable_parameters(encoder.embedder), "log_temperature": temperature.log_value}
    learner, found = Learner(model, temperature, optimizer, total_steps=3), Outcome([], [], [], [], [], [])
    weights = list(encoder.embedder.parameters())
    for step, rows in enumerate(BATCHES):
        rank, world = accelerator.process_index, accelerator.num_processes
        batch = prepare(pairs(), np.array(rows), encoder, BatchOptions(120, rank=rank, world=world))
        loss = unittest.mock.patch("train.step.compute_loss", not_finite if step == 1 else compute_loss)
        held: list[int] = []

        def backward(*arguments: Any, call: Any = torch.autograd.backward, held: list[int] = held) -> None:
            call(*arguments)
            held.append(sum(value.numel() for value in weights))

        with loss, counted_sums() as summed, unittest.mock.patch.object(torch.autograd, "backward", backward):
            found.results.append(train_step(learner, batch, step, CONFIG, graph_tokens=case.graph_tokens))
        found.reductions.append(sum(size >= numbers for size in summed))
        found.held.append(sum(value.numel() for value in weights))
        found.in_passes.append(max(held) / size)
        found.moments.append({k: v.clone() for k, v in optimizer_tensors(optimizer, list(parameters)).items()})
        found.weights.append({name: model.whole(value).detach().clone() for name, value in parameters.items()})
    return found


@contextlib.contextmanager
def counted_sums() -> Iterator[list[int]]:
    """How many numbers each sum over ranks is of."""
    sizes: list[int] = []

    def counting(call: Any, of: str) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            place = {"tensor": 0, "input": 1}[of]
            sizes.append((options[of] if of in options else arguments[place]).numel())
            return call(*arguments, **options)

        return counted

    with contextlib.ExitStack() as patches:
        patches.enter_context(unittest.mock.patch.object(dist, "all_reduce", counting(dist.all_reduce, "tensor")))
        if "deepspeed" in sys.modules:
            comm = sys.modules["deepspeed.comm"]
            scatter = counting(comm.reduce_scatter_fn, "input")
            patches.enter_context(unittest.mock.patch.object(comm, "reduce_scatter_fn", scatter))
        yield sizes


def all_cases(folder: Path, names: list[str], environment: dict[str, str], stage: dict[str, Any]) -> dict[str, Outcome]:
    """In one process group, since starting one costs more than the steps."""
    outcomes = {}
    with unittest.mock.patch("train.distributed.zero3.STAGE", stage):
        for name in names:
            AcceleratorState._reset_state()
            if environment:
                start_deepspeed(environment)
            outcomes[name] = three_steps(folder, CASES[name])
    return outcomes


def left_to_itself(folder: Path, environment: dict[str, str]) -> None:
    """Were DeepSpeed not told that several passes make one step."""
    start_deepspeed(environment)
    with contextlib.ExitStack() as patches:
        for name in ("zero2.PartitionedAdamW", "zero3.ShardedAdamW"):
            path = f"train.distributed.{name}.one_reduction"
            patches.enter_context(unittest.mock.patch(path, lambda _: contextlib.nullcontext()))
        three_steps(folder, CASES["none kept"])


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    tiny_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def plain(decoder: Path) -> dict[str, Outcome]:
    """Of one process; of DDP in 16 bits, where other chunks round far apart."""
    ddp, _ = run_ranks(2, all_cases, decoder, ["bfloat16 base"], {}, STAGE)
    return run_alone(all_cases, decoder, FLOAT32, {}, STAGE) | ddp


@needs_deepspeed
@pytest.mark.parametrize(
    ("environment", "stage", "names"),
    [
        pytest.param(ZERO2, STAGE, list(CASES), id="ZeRO-2"),
        pytest.param(ZERO3, STAGE, FLOAT32, id="ZeRO-3"),
        pytest.param(ZERO3, SHORT_LIVED, RELEASED, id="ZeRO-3, given up at once"),
    ],
)
def test_divided_steps_equal_one_process(
    decoder: Path, plain: dict[str, Outcome], environment: dict[str, str], stage: dict[str, Any], names: list[str]
) -> None:
    """Losses, norms, clipped gradients (in the moments) and weights; a step that is not finite changes nothing."""
    main, other = run_ranks(2, all_cases, decoder, names, environment, stage)
    for name in names:
        found, expected = main[name], plain[name]
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
        assert (found.held[::2] == [0, 0]) == (stage is SHORT_LIVED), name  # a skipped step leaves some to the next
        # of checkpointed blocks the first, whose input has no gradient, stays to the step's end
        assert (max(found.in_passes) < (0.35 if name == "checkpointed" else 0.05)) == (stage is SHORT_LIVED), name


@needs_deepspeed
def test_in_16_bits_sharded_gradients_are_as_near_to_the_truth_as_under_ddp(
    decoder: Path, plain: dict[str, Outcome]
) -> None:
    """The hooks of ZeRO-3 sum gradients in another order, which shows in 16 bits."""
    name = "bfloat16 base"
    found, _ = run_ranks(2, all_cases, decoder, [name], ZERO3, STAGE)
    truth = run_alone(float32_steps, decoder, CASES[name]).moments[0]
    assert found[name].results[0].loss == plain[name].results[0].loss
    apart, usual = (distance(outcome[name].moments[0], truth) for outcome in (found, plain))
    assert 1e-3 < apart < 1.5 * usual


def float32_steps(folder: Path, case: Case) -> Outcome:
    """In float32, with the base's weights as 16 bits hold them."""

    plainly = tiny_encoder

    def rounded(*arguments: Any, **options: Any) -> Any:
        encoder = plainly(*arguments, **{**options, "dtype": "float32"})
        for parameter in encoder.embedder.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16().float()
        return encoder

    with unittest.mock.patch("tests.test_deepspeed.tiny_encoder", rounded):
        return three_steps(folder, case)


@needs_deepspeed
@pytest.mark.parametrize(("environment", "said"), [(ZERO2, "has already been reduced"), (ZERO3, "NoneType")])
def test_left_to_itself_deepspeed_breaks_at_the_second_pass(
    decoder: Path, environment: dict[str, str], said: str
) -> None:
    """The negative control."""
    with pytest.raises(AssertionError, match=said):
        run_ranks(2, left_to_itself, decoder, environment)


def one_rank_fails(folder: Path, environment: dict[str, str]) -> None:
    start_deepspeed(environment)
    passes = itertools.count()

    def failing(*arguments: Any, call: Any = torch.autograd.backward) -> None:
        if dist.get_rank() == 1 and next(passes) == 1:
            raise torch.OutOfMemoryError("no memory on this rank")
        call(*arguments)

    with unittest.mock.patch.object(torch.autograd, "backward", failing):
        three_steps(folder, CASES["none kept"])


@needs_deepspeed
@pytest.mark.parametrize("environment", [pytest.param(ZERO2, id="ZeRO-2"), pytest.param(ZERO3, id="ZeRO-3")])
def test_an_error_on_one_rank_is_said_at_once(decoder: Path, environment: dict[str, str]) -> None:
    """DeepSpeed sums the gradients also when a step is left by an error, for which the other ranks never come."""
    with pytest.raises(AssertionError, match="no memory on this rank"):
        run_ranks(2, one_rank_fails, decoder, environment, limit=60.0)


def whole_run(environment: dict[str, str], config: Path, output: Path, *overrides: str) -> None:
    start_deepspeed(environment)
    train(config, output, *overrides)


@needs_deepspeed
@pytest.mark.parametrize("environment", [pytest.param(ZERO2, id="ZeRO-2"), pytest.param(ZERO3, id="ZeRO-3")])
def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """From the command to dev scores, checkpoints and the adapter; then on from what one process wrote, and back."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts/checks")
    script = importlib.import_module("check_engines")
    monkeypatch.chdir(tmp_path)
    config = there_and_back(tmp_path, partial(whole_run, environment), script)
    bests = tmp_path / "bests"  # the main process alone scores, and a best between checkpoints is saved by all
    run_ranks(2, whole_run, environment, config, bests, "--checkpoint.every", "4", "--eval.every", "1")
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
    assert f'"deepspeed>={OLDEST}"' in project


REFUSED = {
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": ("1", r"zero_stage 1: not supported; use 2 or 3, or .*ddp\.yaml"),
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("zero.json", "use zero_stage: 2 under deepspeed_config"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("cpu", "offload_optimizer_device: not supported"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("nvme", "offload_param_device: not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_goes_beyond_is_refused_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched_stage() == 2
    monkeypatch.setenv(name, REFUSED[name][0])
    with pytest.raises(UserError, match=REFUSED[name][1]) as caught:
        launched_stage()
    assert "\n" not in str(caught.value)


def test_dividing_weights_while_they_are_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(UserError, match="zero3_init_flag: not supported; set it to false"):
        launched_stage()
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_INIT", "false")
    assert launched_stage() == 3


def test_weights_in_16_bits_are_refused() -> None:
    layer = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    with pytest.raises(UserError, match=r"model\.dtype bfloat16: .* use float32"):
        PartitionedAdamW(layer, torch.optim.AdamW(layer.parameters()), 1.0)
    with pytest.raises(UserError, match=r"model\.dtype bfloat16: .* use float32"):
        divide(layer, torch.device("cpu"))
