"""A text that several ranks hold is taught once, as in one process: losses of a teacher, from the data on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from dec2vec.batching import Chunk
from dec2vec.config.model import ModelConfig
from dec2vec.encoder import Encoder
from tests.helpers import tiny_model_folder
from tests.loss_references import CASES
from tests.processes import run_ranks
from tests.training_setup import data_of
from train.data.batch import Asked, BatchOptions, LocalBatch, prepare
from train.data.prompted_input import text_keys
from train.data.table import SourceTable
from train.losses.compute import compute_loss
from train.losses.inputs import PairInputs
from train.losses.objective import Temperature
from train.options.losses import LossConfig

ROWS = [("a dog", "a cat"), ("red", "blue"), ("a dog", "a bird"), ("a cat", "a dog"), ("green", "blue")]
"""Two ranks share the text `a dog` as an anchor, and `blue` as a positive; `a dog` and `a cat` stand on both sides."""
INFO_NCE = LossConfig(temperature=0.2)


def random_vector(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(int(text_keys([name])[0]) % 2**31)
    return torch.randn(6, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class RandomTeacher:
    """A vector of its own for each text."""

    def keys_of(self, asked: Sequence[Asked]) -> Int[Tensor, " text"]:
        return text_keys([text for text, _ in asked])

    def of(self, asked: Sequence[Asked]) -> Float[Tensor, "text teacher_dim"]:
        return torch.stack([random_vector(f"teacher {text}") for text, _ in asked])


@dataclass(frozen=True)
class Found:
    loss: Tensor
    temperature_slope: Tensor
    gradients: dict[str, Tensor]
    """By the ids that the student reads."""


def found_of(batch: LocalBatch) -> Found:
    """Each text's vector is a function of its ids."""
    ids = {int(row): str(one) for chunk in batch.chunks for row, one in zip(chunk.rows, ids_of(chunk), strict=True)}
    x = torch.stack([random_vector(ids[row]) for row in range(len(ids))])
    temperature = Temperature(0.3, learned=True).double()
    result = compute_loss(x, batch.loss_inputs, batch.losses, temperature, batch.teachers)
    gradients = {ids[row]: gradient for row, gradient in enumerate(result.embedding_gradient)}
    return Found(result.loss, result.log_temperature_gradient, gradients)


def ids_of(chunk: Chunk) -> list[list[int]]:
    return [row[:length] for row, length in zip(chunk.input_ids.tolist(), chunk.lengths.tolist(), strict=True)]


def batch_of(encoder: Encoder, losses: tuple[LossConfig, ...], rank: int, world: int) -> LocalBatch:
    data = data_of(SourceTable("pairs", ROWS), query_prompt="Query: {text}")
    teachers = {"t": RandomTeacher()}
    return prepare(
        data, np.arange(len(ROWS)), encoder, BatchOptions(64, rank=rank, world=world, losses=losses, teachers=teachers)
    )


def of_rank(encoder: Encoder, losses: list[tuple[LossConfig, ...]]) -> list[Found]:
    return [found_of(batch_of(encoder, own, dist.get_rank(), dist.get_world_size())) for own in losses]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tiny_model_folder(tmp_path_factory.mktemp("tiny"), "llama")
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=64, autocast="off"))


@pytest.mark.parametrize("world", [2, 3])
def test_a_text_on_two_ranks_counts_once(encoder: Encoder, world: int) -> None:
    distances = [CASES[name].config for name in ("kl", "margin", "mse", "correlation")]
    losses = [*((loss,) for loss in distances), (INFO_NCE, distances[0])]
    ranks = run_ranks(world, of_rank, encoder, losses)
    for number, own in enumerate(losses):
        whole = batch_of(encoder, own, 0, 1)
        expected, parts = found_of(whole), [rank[number] for rank in ranks]
        for part in parts:
            torch.testing.assert_close(part.loss, expected.loss, rtol=1e-10, atol=0)
            torch.testing.assert_close(part.temperature_slope, expected.temperature_slope, rtol=1e-9, atol=1e-12)
        for ids, gradient in expected.gradients.items():
            total = sum(part.gradients[ids] for part in parts if ids in part.gradients)
            torch.testing.assert_close(total, gradient, rtol=1e-9, atol=1e-12)
        assert isinstance(whole.loss_inputs, PairInputs) == (own[0] is INFO_NCE)


def test_each_reading_is_taught_once(encoder: Encoder) -> None:
    """Texts of both sides have two readings under two prompts; a text taught twice would have another loss."""
    (loss,) = losses = (CASES["kl"].config,)
    batch = batch_of(encoder, losses, 0, 1)
    taught = batch.teachers["t"]
    assert len(taught.texts) == len({(text, side) for row in ROWS for side, text in enumerate(row)}) == 8
    assert len(taught.keys.unique()) == 8
    twice = replace(taught, **{name: torch.cat([rows, rows[:1]]) for name, rows in vars(taught).items()})
    apart = replace(twice, keys=torch.arange(9))
    x, temperature = torch.stack([random_vector(str(row)) for row in range(8)]), Temperature(0.3, learned=True).double()
    values = [
        compute_loss(x, batch.loss_inputs, losses, temperature, {"t": rows}).loss for rows in (taught, twice, apart)
    ]
    assert values[0] == values[1] and abs(float(values[2] - values[0])) > 1e-3 and loss.teacher == "t"
