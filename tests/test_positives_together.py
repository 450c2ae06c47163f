"""All positives of a query taken together: against loops over sets of texts in float64, on one process and on two."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.processes import run_ranks
from train.data.prompted_input import text_keys
from train.losses.compute import one_loss
from train.losses.infonce import tiled
from train.losses.infonce.infonce import infonce
from train.losses.inputs import NO_ANCHOR, NO_ID, KnownAnswers, PairInputs, Readings
from train.losses.objective import Objective, Temperature
from train.options.losses import LossConfig

Row = tuple[str, str, tuple[str, ...]]
ROWS: list[Row] = [
    ("q1", "p1", ("n1", "n2")),
    ("q1", "p2", ("n1", "n2")),
    ("q1", "p3", ("n1", "n2")),
    ("q2", "p2", ("n3", "p6")),
    ("q3", "p4", ("p1",)),
    ("q3", "p4", ("n3",)),
    ("q4", "p5", ("q4", "n1")),
    ("q4", "p4", ()),
]
"""Queries with one to three positives, a row that comes twice, an answer of two queries, an answer to one query among
the negatives of another, a query among its own negatives, and the same hard negatives in each row of a query."""
KNOWN = {("q2", "p6")}
"""Answers in rows of the data that are not in the batch."""
IDS = {"p3": 7, "n3": 8, "p6": 7, "p5": 8}
"""p6 is a copy of p3, though it is written otherwise; n3 has an id too, but a hard negative's is not read."""
CONFIGS = {
    "mean": LossConfig(positives="mean", temperature=0.3),
    "sum": LossConfig(positives="sum", temperature=0.3),
    "mean with everything": LossConfig(
        positives="mean",
        temperature=0.3,
        symmetric=True,
        margin=-0.3,
        query_negatives=True,
        document_negatives=True,
        hardness=2.0,
    ),
    "sum with everything": LossConfig(positives="sum", temperature=0.3, symmetric=True, margin=-0.3, hardness=2.0),
}
NAMES = sorted({text for a, p, n in ROWS for text in (a, p, *n)})


def vectors(dim: int = 6) -> Tensor:
    """A vector for each text as a query, and one as a document."""
    return torch.randn(2 * len(NAMES), dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def inputs(rows: list[Row], *, ids: bool = False, known: bool = False) -> PairInputs:
    asked, answered = [row[0] for row in rows], [row[1] for row in rows]
    documents = [*answered, *(text for row in rows for text in row[2])]
    numbers = [IDS.get(text, NO_ID) if ids else NO_ID for text in answered]
    others = torch.full((len(documents) - len(rows),), NO_ANCHOR)
    found = PairInputs(
        anchors=torch.tensor([NAMES.index(text) for text in asked], dtype=torch.long),
        documents=torch.tensor([len(NAMES) + NAMES.index(text) for text in documents], dtype=torch.long),
        anchor_keys=text_keys(asked),
        document_keys=text_keys(documents),
        document_anchors=torch.cat([text_keys(asked), others]),
        document_ids=torch.cat([torch.tensor(numbers, dtype=torch.long), others]),
        readings=Readings(
            text_keys([f"query {text}" for text in asked]), text_keys([f"document {text}" for text in documents])
        ),
    )
    if not known:
        return found
    answers = [[p for a, p in KNOWN if a == name] or ["-"] for name in asked]
    askers = [[a for a, p in KNOWN if p == name] or ["-"] for name in answered]
    tables = (text_keys([key for row in table for key in row]).view(-1, 1) for table in (answers, askers))
    return replace(found, known=KnownAnswers(*tables))


class Loop:
    """The definition: sets of texts, one query at a time."""

    def __init__(self, x: Tensor, config: LossConfig, tau: Tensor, *, ids: bool = False, known: bool = False) -> None:
        self.x, self.config, self.tau = x, config, tau
        self.pairs = {(a, p) for a, p, _ in ROWS}
        self.documents = {text for _, p, n in ROWS for text in (p, *n)}
        self.right = self.pairs | (KNOWN if known else set())
        copies = {p: {o for _, o, _ in ROWS if ids and p in IDS and IDS.get(o) == IDS[p]} for _, p, _ in ROWS}
        self.right |= {(a, o) for a, p in self.pairs for o in copies[p]}

    def cosine(self, one: tuple[str, int], other: tuple[str, int]) -> Tensor:
        a, b = (self.x[NAMES.index(text) + side * len(NAMES)] for text, side in (one, other))
        return (a @ b) / (a.norm() * b.norm())

    def of(self, positives: list[Tensor], negatives: list[Tensor], highest: float) -> Tensor:
        if self.config.margin is not None:
            negatives = [c for c in negatives if float(c.detach()) <= highest - self.config.margin]
        rest = [c / self.tau + self.config.hardness * c.detach() for c in negatives]
        whole = torch.stack([*(c / self.tau for c in positives), *rest]).exp().sum()
        return -(torch.stack([c / self.tau for c in positives]).exp().sum() / whole).log()

    def side(self, lefts: set[str], side: int, negatives: dict[str, list[Tensor]], extra: object) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for left in sorted(lefts):
            rights = sorted(p if side == 0 else a for a, p in self.pairs if left == (a if side == 0 else p))
            found = [self.cosine((left, side), (right, 1 - side)) for right in rights]
            if self.config.positives == "sum":
                highest = max(float(c.detach()) for c in found)
                total = total + self.of(found, negatives[left], highest)
                continue
            for right, cosine in zip(rights, found, strict=True):
                more = extra(left, right) if callable(extra) else []
                total = total + self.of([cosine], [*negatives[left], *more], float(cosine.detach())) / len(found)
        return total / len(lefts)

    def loss(self) -> Tensor:
        queries, answers = {a for a, _ in self.pairs}, {p for _, p in self.pairs}

        def is_wrong(query: str, document: str) -> bool:
            return query != document and (query, document) not in self.right

        def more(query: str, positive: str) -> list[Tensor]:
            found = []
            if self.config.query_negatives:
                others = [o for o in sorted(queries) if o != query and is_wrong(o, positive)]
                found += [self.cosine((query, 0), (other, 0)) for other in others]
            if self.config.document_negatives:
                others = [o for o in sorted(answers) if is_wrong(query, o)]
                found += [self.cosine((positive, 1), (other, 1)) for other in others]
            return found

        wrong = {q: [self.cosine((q, 0), (d, 1)) for d in sorted(self.documents) if is_wrong(q, d)] for q in queries}
        forward = self.side(queries, 0, wrong, more)
        if not self.config.symmetric:
            return forward
        askers = {p: [self.cosine((p, 1), (q, 0)) for q in sorted(queries) if is_wrong(q, p)] for p in answers}
        return (forward + self.side(answers, 1, askers, None)) / 2


def expected(config: LossConfig, **options: bool) -> Objective:
    leaf = vectors().requires_grad_()
    log_tau = Temperature(config.temperature, learned=True).log_value.detach().double().requires_grad_()
    loss = Loop(leaf, config, log_tau.exp(), **options).loss()
    return Objective(loss.detach(), *torch.autograd.grad(loss, [leaf, log_tau]))


def found(rows: PairInputs, config: LossConfig, sizes: tiled.Sizes | None = None, *, plain: bool = False) -> Objective:
    temperature = Temperature(config.temperature, learned=True).double()
    choose = (lambda _: sizes) if sizes else tiled.choose_sizes
    with patch.object(tiled, "choose_sizes", choose):
        return infonce(vectors(), rows, config, temperature, tiles=not plain)


def difference(one: Objective, other: Objective) -> float:
    pairs = [(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True) if torch.is_tensor(b)]
    return max(float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-2)) for a, b in pairs)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("options", [{}, {"ids": True}, {"known": True}, {"ids": True, "known": True}], ids=str)
def test_loss_and_gradients_against_a_loop_over_sets(name: str, options: dict[str, bool]) -> None:
    rows, wanted = inputs(ROWS, **options), expected(CONFIGS[name], **options)
    assert difference(found(rows, CONFIGS[name], plain=True), wanted) < 1e-7
    for sizes in (None, tiled.Sizes(3, 2), tiled.Sizes(1, 5)):
        assert difference(found(rows, CONFIGS[name], sizes), wanted) < 1e-7


@pytest.mark.parametrize("name", CONFIGS)
def test_siblings_as_negatives_differ(name: str) -> None:
    """The control: without the rules that keep a query's answers apart, and with each row for itself."""
    wanted, rows, config = expected(CONFIGS[name]), inputs(ROWS), CONFIGS[name]
    strangers = replace(rows, anchor_keys=torch.arange(len(ROWS)) + 10)
    assert difference(found(strangers, config), wanted) > 1e-2
    if config.positives == "sum" or not (config.query_negatives or config.document_negatives):
        assert difference(found(rows, replace(config, positives="each")), wanted) > 1e-2
        other = replace(config, positives="mean" if config.positives == "sum" else "sum")
        assert difference(found(rows, other), wanted) > 1e-2


def test_a_low_temperature_overflows_nothing() -> None:
    """Below 1/40 the highest logit is subtracted on the way."""
    for positives in ("mean", "sum"):
        config = LossConfig(positives=positives, temperature=0.01)
        assert difference(found(inputs(ROWS), config, tiled.Sizes(2, 3)), expected(config)) < 1e-7
        single = infonce(vectors().float(), inputs(ROWS), config, Temperature(0.01, learned=True))
        assert difference(single, expected(config)) < 1e-4


def test_one_positive_a_query_is_the_usual_loss() -> None:
    rows = inputs([ROWS[0], ROWS[3]])
    each = found(rows, LossConfig(temperature=0.3))
    for positives in ("mean", "sum"):
        assert difference(found(rows, LossConfig(positives=positives, temperature=0.3)), each) < 1e-10


def of_rank(counts: tuple[int, ...]) -> dict[str, Objective]:
    """The rows of a query are divided between the ranks."""
    edges = [sum(counts[:place]) for place in range(len(counts) + 1)]
    start, stop = list(pairwise(edges))[dist.get_rank()]
    return {
        name: one_loss(
            vectors(),
            inputs(ROWS[start:stop], ids=True, known=True),
            replace(config, learn_temperature=True),
            Temperature(config.temperature, learned=True).double(),
        )
        for name, config in CONFIGS.items()
    }


@pytest.mark.parametrize("counts", [(2, 6), (1, 0, 7)])
def test_ranks_equal_one_process(counts: tuple[int, ...]) -> None:
    ranks = run_ranks(len(counts), of_rank, counts)
    for name, config in CONFIGS.items():
        wanted = expected(config, ids=True, known=True)
        for rank in ranks:
            total = torch.stack([other[name].embedding_gradient for other in ranks]).sum(0)
            assert difference(replace(rank[name], embedding_gradient=total), wanted) < 1e-7
