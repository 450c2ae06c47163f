"""Several positives of a query: none of them is ever its negative, whichever rows of them are in the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.naive_info_nce import Texts, naive_loss
from tests.peer_files import jsonl
from tests.test_loss import EVERYTHING, rows_of, vectors_of
from tests.training_setup import data_of, tiny_encoder
from train.config import LossConfig, SourceConfig
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData, load_data
from train.data.siblings import find_siblings
from train.data.table import SourceTable
from train.losses.infonce.infonce import infonce
from train.losses.inputs import PairInputs
from train.losses.objective import Temperature

DATA = [
    ("q1", "p1", "n1"),
    ("q1", "p2", "n1"),
    ("q1", "p3"),
    ("q2", "p2", "n2"),
    ("q3", "p4", "p3"),
    ("q4", "p4"),
    ("q4", "p5", "p1"),
    ("q5", "p6", "p6b"),
]
"""p2 answers q1 and q2, p4 answers q3 and q4, and answers to q1 are hard negatives of q3 and q4."""


def found(rows: list[int], config: LossConfig, *, knows: bool, tiles: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of some rows and its gradient, and the loss by its definition."""
    batch = [DATA[row] for row in rows]
    negatives = tuple(text for row in batch for text in row[2:])
    texts = Texts(tuple(row[0] for row in batch), tuple(row[1] for row in batch), negatives)
    inputs, vectors = rows_of(texts), vectors_of(texts, 3)
    siblings = find_siblings(data_of(SourceTable("pairs", DATA)), str)
    if knows:
        keys = inputs.anchor_keys, inputs.document_keys[: len(batch)]
        inputs = replace(inputs, known=siblings.known(*keys))
    temperature = Temperature(config.temperature, learned=False)
    known = frozenset((row[0], row[1]) for row in DATA)
    leaf = vectors.clone().requires_grad_()
    log_temperature = temperature.log_value.detach()
    expected = naive_loss(leaf, replace(texts, known=known), config, log_temperature.to(leaf.dtype))
    (gradient,) = torch.autograd.grad(expected, leaf)
    result = infonce(vectors, inputs, config, temperature, tiles=tiles)
    return torch.stack([result.loss, expected.detach()]), torch.stack([result.embedding_gradient, gradient])


@pytest.mark.parametrize("rows", [range(8), [0, 3, 4, 6, 7], [1, 4], [2, 3, 5, 7]])
@pytest.mark.parametrize("config", [LossConfig(temperature=0.1), EVERYTHING], ids=["plain", "everything"])
def test_against_a_float64_loop(rows: list[int], config: LossConfig) -> None:
    for tiles in (True, False):
        loss, gradient = found(list(rows), config, knows=True, tiles=tiles)
        torch.testing.assert_close(loss[0], loss[1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradient[0], gradient[1], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("config", [LossConfig(temperature=0.1), EVERYTHING], ids=["plain", "everything"])
def test_the_batch_alone_does_not_show_them(config: LossConfig) -> None:
    """The control: p2 and p3 are right answers to q1, but only the row of p1 is in the batch."""
    loss, _ = found([0, 3, 4, 6, 7], config, knows=False)
    assert abs(loss[0] - loss[1]) > 1e-3


def test_data_without_siblings_are_as_before() -> None:
    data = data_of(
        SourceTable("pairs", [(f"a{i}", f"p{i}", "n") for i in range(5)]), SourceTable("texts", [("a0",)] * 2)
    )
    siblings = find_siblings(data, str)
    inputs = rows_of(Texts(("a0", "a1"), ("p0", "p1")))
    assert (siblings.answers, siblings.askers) == ({}, {})
    assert siblings.known(inputs.anchor_keys, inputs.document_keys) is None
    assert find_siblings(TrainingData((), (), ()), str).answers == {}


def test_a_batch_of_multi_positive_rows(tmp_path: Path) -> None:
    """From FlagEmbedding rows to the masks: texts are compared as the decoder reads them, here in lower case."""
    rows = [
        {"query": "Q1", "pos": ["p one", "P TWO"], "neg": ["n"]},
        {"query": "q2", "pos": ["p two"], "neg": ["p ONE"]},
    ]
    data = load_data([SourceConfig(str(jsonl(tmp_path / "t.jsonl", rows)))])
    encoder = tiny_encoder(tmp_path / "tiny", text_normalization="lower")
    siblings = find_siblings(data, str.lower)
    parts = prepare(data, np.array([0, 2]), encoder, BatchOptions(256, siblings=siblings)).loss_inputs
    assert isinstance(parts, PairInputs) and parts.known is not None
    answers = [set(row) - {-2} for row in parts.known.answers.tolist()]
    assert answers[0] == set(parts.document_keys.tolist()[:2]) and answers[1] == set()
    assert parts.document_keys[3] == parts.document_keys[0]  # "p ONE" of q2 is "p one" of q1
    assert parts.to(torch.device("cpu")).known is not None
    without = prepare(data, np.array([0, 2]), encoder, BatchOptions(256)).loss_inputs
    assert isinstance(without, PairInputs) and without.known is None
