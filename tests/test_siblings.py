"""Several positives of a query: none of them is ever its negative, whichever rows of them are in the batch."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.naive_info_nce import Texts, naive_loss
from tests.peer_files import jsonl
from tests.test_loss import EVERYTHING, rows_of, vectors_of
from tests.training_setup import data_of, tiny_encoder
from train.data.batch import BatchOptions, prepare
from train.data.dataset import TrainingData, load_data
from train.data.siblings import find_siblings
from train.data.table import SourceTable
from train.loop.batches import tell_of_siblings
from train.losses.infonce.false_negatives import PairKeys, as_documents, false_negatives, with_rules
from train.losses.infonce.infonce import infonce
from train.losses.inputs import NEVER, PairInputs
from train.losses.objective import Temperature
from train.options.data import SourceConfig
from train.options.losses import LossConfig
from train.state import TrainState

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
        inputs = replace(inputs, known=siblings.known(inputs, inputs))
    temperature = Temperature(config.temperature, learned=False)
    known = frozenset((row[0], row[1]) for row in DATA)
    leaf = vectors.clone().requires_grad_()
    log_temperature = temperature.log_value.detach()
    expected = naive_loss(leaf, replace(texts, known=known), config, log_temperature.to(leaf.dtype))
    (gradient,) = torch.autograd.grad(expected, leaf)
    result = infonce(vectors, inputs, config, temperature, tiles=tiles)
    return torch.stack([result.loss, expected.detach()]), torch.stack([result.embedding_gradient, gradient])


@pytest.mark.parametrize("rows", [range(8), [0, 3, 4, 6, 7], [1, 4], [2, 3, 5, 7], [0, 1, 4, 6]])
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
    assert not siblings and siblings.known(inputs, inputs) is None
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


# few queries with many answers, as of classes and their texts


def of_classes(classes: int, texts: int) -> tuple[TrainingData, list[tuple[str, ...]]]:
    """Pairs of a class and a text of it; every fifth row has a text of its own class as a hard negative."""
    rows: list[tuple[str, ...]] = [(f"class {i % classes}", f"text {i}") for i in range(texts)]
    rows = [(*row, f"text {(7 * i) % texts}") if i % 5 == 0 else row for i, row in enumerate(rows)]
    return data_of(SourceTable("pairs", rows)), rows


@pytest.mark.parametrize("side", [0, 1], ids=["query", "answer"])
def test_the_rules_are_no_more_than_the_texts_of_the_batch(tmp_path: Path, side: int) -> None:
    """With 750 answers of a query, or 750 queries of an answer, the masks are those of all 3,000 pairs."""
    _, rows = of_classes(4, 3000)
    rows = [(row[side], row[1 - side], *row[2:]) for row in rows]
    data, right = data_of(SourceTable("pairs", rows)), {row[:2] for row in rows}
    siblings = find_siblings(data, str)
    chosen = np.random.default_rng(0).choice(3000, 48, replace=False)
    parts = prepare(data, chosen, tiny_encoder(tmp_path / "tiny"), BatchOptions(256, siblings=siblings)).loss_inputs
    assert isinstance(parts, PairInputs)
    batch = [rows[row] for row in chosen]
    documents = [*(row[1] for row in batch), *(text for row in batch for text in row[2:])]
    keys = PairKeys(parts.anchor_keys, parts.document_keys[:48], parts.document_ids[:48], parts.known)
    ignored = keys.against_documents(), keys.against_queries()
    assert max(map(len, ignored)) <= 4 + len({*documents, *(row[0] for row in batch)})
    candidates = as_documents(parts.document_keys, parts.document_anchors, parts.document_ids), keys.as_queries()
    masks = [false_negatives(one, with_rules(other, len(one))) for one, other in zip(ignored, candidates, strict=True)]
    known = (
        [[text in (row[0], row[1]) or (row[0], text) in right for text in documents] for row in batch],
        [[other[0] in (row[0], row[1]) or (other[0], row[1]) in right for other in batch] for row in batch],
    )
    for mask, expected in zip(masks, known, strict=True):
        np.testing.assert_array_equal(mask.numpy(), np.array(expected))


def test_the_texts_of_other_ranks_count(tmp_path: Path) -> None:
    data, _ = of_classes(4, 200)
    encoder, siblings, batch = tiny_encoder(tmp_path / "tiny"), find_siblings(data, str), np.arange(0, 200, 5)

    def known(rank: int, world: int) -> list[set[int]]:
        options = BatchOptions(256, siblings=siblings, rank=rank, world=world)
        parts = prepare(data, batch, encoder, options).loss_inputs
        assert isinstance(parts, PairInputs) and parts.known is not None
        return [set(row) - {NEVER} for row in parts.known.answers.tolist()]

    alone = known(0, 1)
    assert known(0, 2) + known(1, 2) == alone and any(alone)


def test_a_run_of_an_earlier_version_is_told_of_other_negatives(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only if the data have right answers in other rows."""
    siblings, none = (find_siblings(data_of(SourceTable("pairs", rows)), str) for rows in (DATA, DATA[-1:]))
    state, saved = TrainState(step=3), asdict(TrainState(step=3))
    state.take({name: value for name, value in saved.items() if name != "knows_siblings"})
    again = TrainState()
    again.take(asdict(state))
    tell_of_siblings(again, none, is_main=True)
    assert not caplog.messages
    tell_of_siblings(state, siblings, is_main=True)
    again.take(asdict(state))
    tell_of_siblings(again, siblings, is_main=True)
    (line,) = caplog.messages
    assert line.startswith("the first 3 steps were made by an earlier version") and again.step == 3
