"""Under every engine a step gives what one process gives, and shards come back whole."""

from __future__ import annotations

import importlib
import os
import unittest.mock
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
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
from tests.tiny_run import train, write_run
from tests.training_setup import data_of, distance, tiny_encoder
from train.adapters.capabilities import why_not_shared
from train.adapters.lora import trainable_parameters
from train.config import BatchConfig, CheckpointConfig, EvalSection, ExportConfig, LoraConfig, OptimConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.table import SourceTable
from train.distributed.engine import choose_engine, make_accelerator, wrap
from train.distributed.fsdp2 import Fsdp2
from train.distributed.interface import Engine
from train.distributed.single import PlainAdamW
from train.losses.objective import Temperature
from train.optim import Learner, make_optimizer
from train.options.losses import LossConfig
from train.step import train_step

REPOSITORY = Path(__file__).resolve().parent.parent
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
ONCE = {**FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "false"}
LOSS = LossConfig(temperature=0.05, learn_temperature=True, symmetric=True)
OPTIM = OptimConfig(lr=1e-3, warmup=0.0)
CONFIG = TrainConfig(loss=LOSS, optim=OPTIM)
BATCHES = [range(7), range(7, 14), range(14, 16)]
"""The last one leaves one rank of three without a row."""


def pairs() -> Any:
    """Long texts in the first half of each batch, where alone hard negatives are: ranks differ in chunks and parts."""
    rows = []
    for number in range(16):
        words = "a man rides a brown horse " * (4 if number % 7 < 4 else 1)
        row = (f"{number} {words}", f"{words}in {number}")
        rows.append((*row, f"nobody {number}") if number % 7 < 3 else row)
    return data_of(SourceTable("pairs", rows))


@dataclass(frozen=True)
class Case:
    """What is trained, and how it is embedded."""

    model: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    graph_tokens: int = 150
    environment: dict[str, str] = field(default_factory=lambda: FSDP2)


CASES = {
    "some graphs kept": Case(),
    "none kept": Case(graph_tokens=0),
    "all kept": Case(graph_tokens=10**6),
    "gathered once": Case(environment=ONCE),
    "early exit": Case(model={"layer": -2}),
    "two layers, mean": Case(model={"layer": -2, "pooling": "first_last"}),
    "checkpointed": Case(lora={"gradient_checkpointing": True}),
    "full": Case(lora={"method": "full"}),
    "DoRA": Case(lora={"dora": True}),
    "embeddings whole": Case(lora={"modules_to_save": ("embed_tokens",)}),
    "bfloat16 base": Case(model={"dtype": "bfloat16"}, lora={"fused": False}),
}
FURTHER = ["none kept", "all kept", "two layers, mean", "DoRA"]
FLOAT32 = [name for name in CASES if name not in {"bfloat16 base", *FURTHER}]


@dataclass(frozen=True)
class Outcome:
    """Three steps on one rank."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]
    calls: list[Counter[str]]
    """Collectives over shards, and passes of the model, of each step."""


def three_steps(folder: Path, case: Case) -> Outcome:
    engine = choose_engine(accelerator := make_accelerator(TrainConfig(model=ModelConfig(device="cpu"))))
    rank, world = accelerator.process_index, accelerator.num_processes
    lora = engine.adapters(LoraConfig(**{"rank": 4, "alpha": 8.0, **case.lora}))
    encoder = tiny_encoder(folder, lora=lora, device="cpu", **case.model)
    encoder.embedder.train()
    model = wrap(encoder.embedder, accelerator)
    assert model.passes_are_collective == (engine is Fsdp2)
    temperature = Temperature(LOSS.temperature, learned=True)
    optimizer = make_optimizer(model, temperature, OPTIM)
    assert isinstance(optimizer, PlainAdamW)
    parameters = {**trainable_parameters(encoder.embedder), "log_temperature": temperature.log_value}
    gradients: list[dict[str, Tensor]] = []
    optimizer.adamw.register_step_pre_hook(
        lambda *_: gradients.append({name: model.whole(value.grad).clone() for name, value in parameters.items()})
    )
    learner, data = Learner(model, temperature, optimizer, total_steps=3), pairs()
    results, calls = [], []
    for step, rows in enumerate(BATCHES):
        batch = prepare(data, np.array(rows), encoder, BatchOptions(120, rank=rank, world=world))
        with Counted(model) as count:
            results.append(train_step(learner, batch, step, CONFIG, graph_tokens=case.graph_tokens))
        calls.append(count)
    assert all(result.applied for result in results)
    return Outcome(
        [result.loss for result in results],
        [result.grad_norm for result in results],
        gradients,
        {name: model.whole(value.detach()).clone() for name, value in parameters.items()},
        calls,
    )


class Counted:
    """Count gathers and reductions of shards, and passes of the model."""

    def __init__(self, model: Engine) -> None:
        self.count: Counter[str] = Counter()
        self._model = model
        self._patches = [
            unittest.mock.patch.object(place, name, self._counting(name, call))
            for place, name, call in (
                (dist, "all_gather_single", dist.all_gather_single),
                (dist, "reduce_scatter_single", dist.reduce_scatter_single),
                (torch.autograd, "backward", torch.autograd.backward),
            )
        ]

    def _counting(self, name: str, call: Any) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            self.count[name] += 1
            return call(*arguments, **options)

        return counting

    def __enter__(self) -> Counter[str]:
        for patch in self._patches:
            patch.start()
        self._hook = self._model.embedder.register_forward_pre_hook(lambda *_: self.count.update(["forward"]))
        return self.count

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        for patch in self._patches:
            patch.stop()


def all_cases(folder: Path, names: list[str], sharded: bool) -> dict[str, Outcome]:
    """In one process group, since starting one costs more than the steps."""
    outcomes = {}
    for name in names:
        AcceleratorState._reset_state()
        os.environ.update(CASES[name].environment if sharded else {})
        outcomes[name] = three_steps(folder, CASES[name])
    return outcomes


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    tiny_encoder(folder)
    return folder


@pytest.mark.parametrize(
    ("world", "names"),
    [
        (2, FLOAT32),
        (3, ["some graphs kept"]),
        pytest.param(2, FURTHER, marks=pytest.mark.slow),
        pytest.param(3, ["early exit"], marks=pytest.mark.slow),
    ],
)
def test_sharded_steps_equal_one_process(decoder: Path, world: int, names: list[str]) -> None:
    alone = run_alone(all_cases, decoder, names, False)
    ranks = run_ranks(world, all_cases, decoder, names, True)
    for name in names:
        for outcome in (rank[name] for rank in ranks):
            expected = alone[name]
            assert outcome.losses == pytest.approx(expected.losses, rel=1e-5), name
            assert outcome.norms == pytest.approx(expected.norms, rel=1e-4), name
            for step, (found, theirs) in enumerate(zip(outcome.gradients, expected.gradients, strict=True)):
                assert distance(found, theirs) < (1e-3 if step else 1e-5), name  # AdamW enlarges rounding
            assert distance(outcome.weights, expected.weights) < 1e-4, name
            assert all(torch.equal(outcome.weights[key], ranks[0][name].weights[key]) for key in expected.weights)
            assert outcome.calls == ranks[0][name].calls, "every rank makes the same passes"
        check_calls(name, ranks[0][name])


def test_on_a_bfloat16_base_sharded_steps_equal_those_of_ddp(decoder: Path) -> None:
    """One process has other chunks, which in 16 bits round apart; DDP has the same ones."""
    shards, whole_on_each = (run_ranks(2, all_cases, decoder, ["bfloat16 base"], sharded) for sharded in (True, False))
    for found, expected in zip(shards, whole_on_each, strict=True):
        for name, tolerance in (("losses", 1e-6), ("norms", 1e-5)):
            theirs = vars(expected["bfloat16 base"])[name]
            assert vars(found["bfloat16 base"])[name] == pytest.approx(theirs, rel=tolerance)
        assert distance(found["bfloat16 base"].weights, expected["bfloat16 base"].weights) < 1e-5


def check_calls(name: str, outcome: Outcome) -> None:
    """One reduction a step and unit; a unit (blocks that run, and the rest) is gathered once a pass at most."""
    units = 3 if name in {"early exit", "two layers, mean"} else 4
    trained = units if name in {"full", "embeddings whole"} else units - 1
    for calls in outcome.calls:
        assert calls["reduce_scatter_single"] == trained, name
        most = units * (1 if name == "gathered once" else calls["forward"] + calls["backward"])
        assert 0 < calls["all_gather_single"] <= most, name
    assert any(calls["forward"] > 2 for calls in outcome.calls), "several chunks"


def whole_run(config: Path, output: Path, *overrides: str) -> None:
    os.environ.update(FSDP2)
    train(config, output, *overrides)


@pytest.fixture
def engines_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY / "scripts/checks")
    return importlib.import_module("check_engines")


def there_and_back(folder: Path, on_ranks: Callable[..., None], script: Any) -> Path:
    """A run of one process and one of two, each gone on from by the other; the configuration, for further runs."""
    config = write_run(
        folder,
        lora=LoraConfig(rank=4, alpha=8.0),
        optim=OptimConfig(steps=5, lr=1e-2),
        batch=BatchConfig(size=5, chunk_tokens=64, graph_tokens=128),
        checkpoint=CheckpointConfig(every=1, keep=5),
        eval=EvalSection(dev="dev.jsonl", every=2, after_training=False),
        export=ExportConfig(model=False),
    )
    one, two, gone_on, back = (folder / name for name in ("one", "two", "gone on", "back"))
    run_alone(train, config, one)
    run_ranks(2, on_ranks, config, two)
    assert script.compare(two, one).worst < 1e-3
    script.begin_from(one, gone_on)
    run_ranks(2, on_ranks, config, gone_on)
    assert script.compare(gone_on, one).worst < 1e-3
    script.begin_from(two, back)
    run_alone(train, config, back)
    assert script.compare(back, one).worst < 1e-3
    adapters = [script.load_file(run / "adapter" / "adapter_model.safetensors") for run in (one, two)]
    assert distance(adapters[1], adapters[0]) < 1e-3
    return config


@pytest.mark.slow
def test_a_whole_sharded_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines_script: Any) -> None:
    """From the command to dev scores, checkpoints and the adapter; then on from what one process wrote, and back."""
    monkeypatch.chdir(tmp_path)
    there_and_back(tmp_path, whole_run, engines_script)


def test_the_comparison_finds_another_run(tmp_path: Path, engines_script: Any) -> None:
    left, right = {"a": torch.ones(3)}, {"a": torch.tensor([1.0, 1.0, 1.1])}
    assert engines_script._distance(left, left) == 0.0
    assert engines_script._distance(right, left) == pytest.approx(0.1 / 3**0.5)
    assert engines_script.Differences(0.0, float("nan"), 0.0, 0.0).worst == float("inf")


REFUSED = {
    "DeepSpeed alone": ({"ACCELERATE_USE_DEEPSPEED": "true"}, "use_deepspeed: sharding needs a process group"),
    "version 1": ({**FSDP2, "FSDP_VERSION": "1"}, "set fsdp_version: 2 in fsdp_config"),
    "offload": ({**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params: not supported"),
    "loading": ({**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "set it to false"),
    "checkpointing": ({**FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "lora.gradient_checkpointing true"),
    "no group": (FSDP2, "start with accelerate launch or torchrun"),
}


def refusals() -> list[str]:
    accelerator = make_accelerator(TrainConfig(model=ModelConfig(device="cpu")))
    found = []
    for environment, _ in REFUSED.values():
        with unittest.mock.patch.dict(os.environ, environment), pytest.raises(UserError) as caught:
            choose_engine(accelerator)
        found.append(str(caught.value))
    return found


def test_what_can_not_be_right_is_refused_in_one_line() -> None:
    for message, (_, expected) in zip(run_alone(refusals), REFUSED.values(), strict=True):
        assert expected in message and "\n" not in message


def falls_back(folder: Path) -> list[str]:
    lines: list[str] = []
    os.environ.update(FSDP2)
    accelerator = make_accelerator(TrainConfig(model=ModelConfig(device="cpu")))
    with unittest.mock.patch("train.distributed.sharded._log.info", lambda line, *values: lines.append(line % values)):
        lora = Fsdp2.adapters(LoraConfig(rank=4, alpha=8.0))
    encoder = tiny_encoder(folder, lora=lora, device="cpu")
    texts, prompt = ["a", "a man rides a horse " * 9], "What somebody does: {text}"
    before = encoder.encode(texts, prompt=prompt)
    model = wrap(encoder.embedder, accelerator)
    assert isinstance(model, Fsdp2) and not lora.fused
    with unittest.mock.patch.object(encoder.embedder, "read_prefix", wraps=encoder.embedder.read_prefix) as read:
        np.testing.assert_allclose(encoder.encode(texts, prompt=prompt), before, atol=1e-6)
    read.assert_called_once()
    return [*lines, why_not_shared(model) or ""]


def test_fast_ways_fall_back_with_a_line_and_encoding_stays_the_same(decoder: Path) -> None:
    """Encoding shares the prompt's beginning between texts, whose reading must gather weights too."""
    first, _ = run_ranks(2, falls_back, decoder)
    assert "lora.fused is disabled" in first[0] and "sharded" in first[1]
