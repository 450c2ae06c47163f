"""Invariant 4: W ranks give the loss, the gradients and the adapter of one process on the concatenated batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import train.losses.infonce.candidates
import train.losses.infonce.infonce
from tests.processes import run_alone, run_ranks
from tests.test_prefix_gradient import PROMPT
from tests.training_setup import distance, tiny_encoder, tiny_table
from train.adapters.capabilities import why_not_shared
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig, OptimConfig, TrainConfig
from train.data.batch import BatchOptions, prepare
from train.data.prompted_input import text_keys
from train.data.sampler import batch_indices, shard, steps_per_epoch
from train.distributed.collectives import gather_rows, sum_over_ranks
from train.distributed.ddp import Ddp
from train.distributed.engine import make_accelerator, wrap
from train.distributed.interface import Engine
from train.distributed.single import PlainAdamW, Single
from train.losses.infonce.infonce import infonce
from train.losses.inputs import NO_ANCHOR, NO_ID, PairInputs
from train.losses.objective import Objective, Temperature
from train.optim import Learner, make_optimizer
from train.options.losses import LossConfig
from train.step import train_step

REPOSITORY = Path(__file__).resolve().parent.parent


def gathered(counts: tuple[int, ...]) -> tuple[Tensor, Tensor, slice]:
    rank = dist.get_rank()
    local = 100.0 * rank + torch.arange(2.0 * counts[rank], dtype=torch.float64).reshape(-1, 2)
    rows, mine = gather_rows(local)
    keys, _ = gather_rows(local[:, 0].long())
    assert torch.equal(keys, rows[:, 0].long())
    return local, rows, mine


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (2, 0, 5), (0, 0)])
def test_gather_rows_of_ragged_and_empty_shares(counts: tuple[int, ...]) -> None:
    results = run_ranks(len(counts), gathered, counts)
    whole = torch.cat([local for local, _, _ in results])
    assert len(whole) == sum(counts)
    for local, rows, mine in results:
        assert torch.equal(rows, whole)
        assert torch.equal(rows[mine], local)


def test_collectives_are_the_identity_in_one_process() -> None:
    rows = torch.randn(3, 2)
    found, mine = gather_rows(rows)
    assert torch.equal(found, rows) and mine == slice(0, 3)
    assert sum_over_ranks(torch.tensor(5)).item() == 5


@dataclass(frozen=True)
class Share:
    """One rank's texts. Every text has a vector of its own, and a last vector is read by nobody."""

    anchors: tuple[str, ...] = ()
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()

    @property
    def rows(self) -> PairInputs:
        pairs, documents = len(self.anchors), self.positives + self.negatives
        return PairInputs(
            anchors=torch.arange(pairs),
            documents=pairs + torch.arange(len(documents)),
            anchor_keys=text_keys(self.anchors),
            document_keys=text_keys(documents),
            document_anchors=torch.cat(
                [text_keys(self.anchors), torch.full((len(self.negatives),), NO_ANCHOR, dtype=torch.long)]
            ),
            document_ids=torch.full((len(documents),), NO_ID, dtype=torch.long),
        )

    @property
    def parts(self) -> tuple[int, int, int]:
        return len(self.anchors), len(self.positives), len(self.negatives)

    def vectors(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(sum(self.parts) + 1, 6, generator=generator, dtype=torch.float64)


FULL = Share(("a", "b", "c"), ("A", "B", "C"), ("x", "y"))
BARE = Share(("d", "a"), ("D", "B"))
"""No hard negative; an anchor and a positive that another rank has too."""
LONE = Share(("e",), ("E",), ("y", "z", "w"))
EMPTY = Share()
SHARES = {
    "uneven": (FULL, BARE),
    "one empty": (EMPTY, FULL),
    "three": (FULL, BARE, LONE),
    "three, one empty": (LONE, EMPTY, BARE),
}


def whole(shares: tuple[Share, ...]) -> Share:
    return Share(
        *(sum((getattr(share, side) for share in shares), ()) for side in ("anchors", "positives", "negatives"))
    )


def joined(per_rank: list[Tensor], shares: tuple[Share, ...]) -> Tensor:
    """Rows of the ranks in the order of the concatenated batch: all anchors, all positives, all negatives."""
    split = [rows[:-1].split(share.parts) for rows, share in zip(per_rank, shares, strict=True)]
    return torch.cat([parts[side] for side in range(3) for parts in split])


def objective_of(share: Share, vectors: Tensor, config: LossConfig, tiles: bool) -> Objective:
    temperature = Temperature(config.temperature, learned=True).double()
    return infonce(vectors, share.rows, config, temperature, tiles=tiles)


def objective_of_rank(shares: tuple[Share, ...], config: LossConfig, tiles: bool) -> Objective:
    rank = dist.get_rank()
    return objective_of(shares[rank], shares[rank].vectors(rank), config, tiles)


TERMS = LossConfig(
    temperature=0.2, symmetric=True, margin=0.1, query_negatives=True, document_negatives=True, hardness=2.0
)


@pytest.mark.parametrize(
    ("config", "tiles"),
    [(LossConfig(temperature=0.2), True), (LossConfig(temperature=0.2, symmetric=True), False), (TERMS, True)],
    ids=["one direction", "both, plain", "all terms"],
)
@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_contrast_equals_one_process(shares: tuple[Share, ...], config: LossConfig, tiles: bool) -> None:
    found = run_ranks(len(shares), objective_of_rank, shares, config, tiles)
    vectors = joined([share.vectors(rank) for rank, share in enumerate(shares)], shares)
    expected = objective_of(whole(shares), vectors, config, tiles)
    gradient = joined([result.embedding_gradient for result in found], shares)
    torch.testing.assert_close(gradient, expected.embedding_gradient, rtol=1e-10, atol=1e-14)
    assert gradient.abs().max() > 1e-3
    for result in found:
        torch.testing.assert_close(result.loss, expected.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            result.log_temperature_gradient, expected.log_temperature_gradient, rtol=1e-10, atol=1e-14
        )
        assert not result.embedding_gradient[-1].any()


PAIRS, BATCH = 16, 7
LOSS = LossConfig(temperature=0.05, learn_temperature=True, symmetric=True)
OPTIM = OptimConfig(lr=1e-3, warmup=0.0, max_grad_norm=1.0)
CONFIG = TrainConfig(loss=LOSS, optim=OPTIM)


@dataclass(frozen=True)
class Outcome:
    """What three steps on one rank saw and left."""

    losses: list[float]
    norms: list[float]
    gradients: list[dict[str, Tensor]]
    before: dict[str, Tensor]
    weights: dict[str, Tensor]
    reductions: list[int]
    chunks: list[int]
    passes: list[int]
    """Forward passes of each step."""
    shares: list[bool]
    """Whether the rank ran a prompt once in each step."""


@dataclass(frozen=True)
class Case:
    """How the three steps are run; the last two are the negative controls."""

    graph_tokens: int = 0
    whole_on: int | None = None
    """A rank that takes its texts in one chunk, as one with short texts does."""
    gather: bool = True
    """False leaves out the negatives of the other ranks."""
    wrapped: bool = True
    odd_rank: int | None = None
    prompt: str | None = None
    share: bool = False
    """Whether the prompt is run once on each rank."""
    reduced: bool = True
    """False leaves out the reduction after a shared prompt."""


def three_steps(folder: Path, case: Case) -> Outcome:
    encoder = tiny_encoder(folder, lora=LoraConfig(rank=4, alpha=8.0), device="cpu", prompt=case.prompt, max_length=100)
    encoder.embedder.train()
    accelerator = make_accelerator(TrainConfig(model=encoder.config))
    model = wrap(encoder.embedder, accelerator) if case.wrapped else Single(encoder.embedder)
    reductions: list[int] = []
    if isinstance(model, Ddp):
        # unannotated: DDP compares the annotations with the classes themselves
        model.wrapped.register_comm_hook(None, lambda group, bucket: _counted(reductions, bucket))
    temperature = Temperature(LOSS.temperature, learned=True)
    optimizer = make_optimizer(model, temperature, OPTIM)
    assert isinstance(optimizer, PlainAdamW)
    parameters = {**trainable_parameters(encoder.embedder), "log_temperature": temperature.log_value}
    gradients: list[dict[str, Tensor]] = []
    optimizer.adamw.register_step_pre_hook(
        lambda *_: gradients.append({name: parameter.grad.clone() for name, parameter in parameters.items()})
    )
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    learner = Learner(model, temperature, optimizer, total_steps=3)
    assert not case.share or why_not_shared(model) is None
    if not case.reduced:
        Ddp.back_propagate_beginning = Engine.back_propagate_beginning  # in this forked process alone
        Ddp.begin_backward = Engine.begin_backward
    table = tiny_table(PAIRS)
    rank, world = accelerator.process_index, accelerator.num_processes
    if not case.gather:
        for place in (train.losses.infonce.infonce, train.losses.infonce.candidates):
            place.world_size = lambda: 1  # in this forked process alone
    results, chunks, passes, shares = [], [], [], []
    encoder.embedder.register_forward_pre_hook(lambda *_: passes.append(len(results)))
    for step in range(3):
        rows = shard(batch_indices(PAIRS, BATCH, 0, step), rank, world)
        chunk_tokens = 10_000 if rank == case.whole_on else 40
        options = BatchOptions(chunk_tokens, share_prefix=case.share)
        batch = prepare(table, (rows + (rank == case.odd_rank)) % PAIRS, encoder, options)
        chunks.append(len(batch.chunks))
        shares.append(batch.prefix is not None)
        results.append(train_step(learner, batch, step, CONFIG, graph_tokens=case.graph_tokens))
    assert all(result.applied for result in results)
    return Outcome(
        [result.loss for result in results],
        [result.grad_norm for result in results],
        gradients,
        before,
        {name: parameter.detach().clone() for name, parameter in parameters.items()},
        reductions,
        chunks,
        [passes.count(step) for step in range(3)],
        shares,
    )


def _counted(reductions, bucket):  # type: ignore[no-untyped-def]
    reductions.append(bucket.index())
    return allreduce_hook(dist.group.WORLD, bucket)


def updates(outcome: Outcome) -> dict[str, Tensor]:
    return {name: outcome.weights[name] - outcome.before[name] for name in outcome.weights}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    tiny_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def alone(decoder: Path) -> Outcome:
    assert steps_per_epoch(PAIRS, BATCH) == 3
    assert len(batch_indices(PAIRS, BATCH, 0, 2)) == 2  # uneven, and an empty share on three ranks
    outcome = run_alone(three_steps, decoder, Case())
    assert outcome.reductions == []
    return outcome


@pytest.mark.parametrize(
    ("world", "graph_tokens"),
    [(2, 0), (3, 100), (2, 10_000)]
    + [pytest.param(*further, marks=pytest.mark.slow) for further in [(3, 0), (2, 100), (3, 10_000)]],
)
def test_three_steps_equal_one_process(decoder: Path, alone: Outcome, world: int, graph_tokens: int) -> None:
    ranks = run_ranks(world, three_steps, decoder, Case(graph_tokens))
    for outcome in ranks:
        assert outcome.losses == pytest.approx(alone.losses, rel=1e-5)
        assert outcome.norms == pytest.approx(alone.norms, rel=1e-5)
        for found, expected in zip(outcome.gradients, alone.gradients, strict=True):
            assert distance(found, expected) < 1e-5
        assert distance(outcome.weights, alone.weights) < 1e-5
        assert distance(updates(outcome), updates(alone)) < 1e-3  # AdamW divides by the gradient's own size
        assert all(torch.equal(outcome.weights[name], ranks[0].weights[name]) for name in alone.weights)
        assert outcome.reductions == [0, 0, 0]  # one bucket, once a step
        if graph_tokens != 100:
            assert outcome.passes == [count * (1 if graph_tokens else 2) for count in outcome.chunks]
    assert max(max(outcome.chunks) for outcome in ranks) > 3


def test_ranks_of_one_chunk_and_of_several_meet_in_the_same_order(decoder: Path, alone: Outcome) -> None:
    """DDP's own meeting in the second step came before the gather on one and after it on the other: both hung."""
    ranks = run_ranks(2, three_steps, decoder, Case(graph_tokens=10_000, whole_on=0))
    assert ranks[0].chunks == [1, 1, 1] and min(ranks[1].chunks[:2]) > 1
    for outcome in ranks:
        assert outcome.losses == pytest.approx(alone.losses, rel=1e-5)
        assert distance(outcome.weights, alone.weights) < 1e-5
        assert outcome.reductions == [0, 0, 0]


def test_other_data_on_one_rank_differs(decoder: Path, alone: Outcome) -> None:
    ranks = run_ranks(2, three_steps, decoder, Case(odd_rank=1))
    assert abs(ranks[0].losses[0] / alone.losses[0] - 1) > 1e-3
    assert distance(ranks[0].gradients[0], alone.gradients[0]) > 1e-2
    assert distance(updates(ranks[0]), updates(alone)) > 1e-2
    assert all(torch.equal(ranks[0].weights[name], ranks[1].weights[name]) for name in alone.weights)


def test_without_gathering_steps_differ(decoder: Path, alone: Outcome) -> None:
    ranks = run_ranks(2, three_steps, decoder, Case(gather=False))
    assert abs(ranks[0].losses[0] / alone.losses[0] - 1) > 1e-3
    assert distance(updates(ranks[0]), updates(alone)) > 1e-2
    assert all(torch.equal(ranks[0].weights[name], ranks[1].weights[name]) for name in alone.weights)


def test_without_the_wrapper_ranks_drift_apart(decoder: Path, alone: Outcome) -> None:
    ranks = run_ranks(2, three_steps, decoder, Case(wrapped=False))
    assert not all(torch.equal(ranks[0].weights[name], ranks[1].weights[name]) for name in alone.weights)


@pytest.mark.parametrize(("world", "graph_tokens"), [(2, 100), pytest.param(3, 0, marks=pytest.mark.slow)])
def test_a_shared_prompt_equals_one_process_that_runs_it_with_every_text(
    decoder: Path, world: int, graph_tokens: int
) -> None:
    """In the last step of three ranks, some have nothing to share, and reduce with their last chunk."""
    expected = run_alone(three_steps, decoder, Case(prompt=PROMPT))
    ranks = run_ranks(world, three_steps, decoder, Case(graph_tokens, prompt=PROMPT, share=True))
    assert all(outcome.shares[:2] == [True, True] for outcome in ranks)
    assert {outcome.shares[2] for outcome in ranks} == ({True} if world == 2 else {True, False})
    for outcome in ranks:
        assert outcome.losses == pytest.approx(expected.losses, rel=1e-5)
        for found, alone in zip(outcome.gradients, expected.gradients, strict=True):
            assert distance(found, alone) < 1e-5
        assert distance(outcome.weights, expected.weights) < 1e-5
        assert all(torch.equal(outcome.weights[name], ranks[0].weights[name]) for name in expected.weights)
        assert outcome.reductions == [0, 0, 0]
    wrong = run_ranks(world, three_steps, decoder, Case(prompt=PROMPT, share=True, reduced=False))
    assert distance(wrong[0].gradients[0], expected.gradients[0]) > 1e-2
