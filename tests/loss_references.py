"""Every loss by its definition, in Python loops over float64 scalars; torch only differentiates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.losses.inputs import GradedInputs, LabelledInputs, LossInputs, TeacherInputs
from train.options.losses import LossConfig

LEARNED = 0.3
"""Temperature of the cases."""


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def log_sum_exp(terms: Iterable[Tensor]) -> Tensor:
    return sum((term.exp() for term in terms), torch.zeros((), dtype=torch.float64)).log()


def ranking(values: list[Tensor], scores: list[float]) -> Tensor:
    pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores)) if scores[i] > scores[j]]
    return log_sum_exp([torch.zeros((), dtype=torch.float64), *(values[j] - values[i] for i, j in pairs)])


def cosent(x: Tensor, rows: GradedInputs, tau: Tensor) -> Tensor:
    values = [cos(x[i], x[j]) / tau for i, j in zip(rows.first, rows.second, strict=True)]
    return ranking(values, rows.scores.tolist())


def angle_similarity(first: Tensor, second: Tensor) -> Tensor:
    """The quotient of two complex vectors over that of their lengths; real and imaginary parts summed."""
    if len(first) % 2:
        first, second = (torch.cat([side, side.new_zeros(1)]) for side in (first, second))
    z, w = (torch.complex(*side.chunk(2)) for side in (first, second))
    quotient = (z * w.conj()) / w.abs().square().sum() / (z.abs().square().sum().sqrt() / w.abs().square().sum().sqrt())
    return (quotient.real.sum() + quotient.imag.sum()).abs()


def angle(x: Tensor, rows: GradedInputs, tau: float) -> Tensor:
    values = [angle_similarity(x[i], x[j]) / tau for i, j in zip(rows.first, rows.second, strict=True)]
    return ranking(values, rows.scores.tolist())


def in_batch(x: Tensor, rows: GradedInputs, tau: Tensor) -> Tensor:
    """A text's candidates: its partner, and every other text that isn't its copy, a positive or a positive's."""
    scores, count = rows.scores.tolist(), len(rows.scores)
    places, keys = (
        [*rows.first.tolist(), *rows.second.tolist()],
        [*rows.first_keys.tolist(), *rows.second_keys.tolist()],
    )
    best = max(scores)
    positive = [i for i in range(2 * count) if scores[i % count] == best and min(scores) < best]
    links = {(keys[i], keys[(i + count) % (2 * count)]) for i in positive}
    total = torch.zeros((), dtype=torch.float64)
    for i in positive:
        partner = (i + count) % (2 * count)
        near = {keys[i]} | {b for a, b in links if a == keys[i]}
        near |= {b for a, b in links if a in near - {keys[i]}}
        others = [j for j in range(2 * count) if j == partner or keys[j] not in near]
        values = [cos(x[places[i]], x[places[j]]) / tau for j in others]
        total = total - cos(x[places[i]], x[places[partner]]) / tau + log_sum_exp(values)
    return total / (2 * count)


def supcon(x: Tensor, rows: LabelledInputs, tau: Tensor) -> Tensor:
    labels, texts = rows.labels.tolist(), rows.texts.tolist()
    terms = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        same = [j for j in others if labels[j] == label]
        if same:
            whole = log_sum_exp(cos(x[texts[i]], x[texts[j]]) / tau for j in others)
            terms.append(-sum(cos(x[texts[i]], x[texts[j]]) / tau - whole for j in same) / len(same))
    return sum(terms) / len(terms) if terms else 0 * (x.sum() + tau)


def _rows_of_cosines(x: Tensor, rows: TeacherInputs) -> list[tuple[list[Tensor], list[Tensor]]]:
    texts, count = rows.texts.tolist(), len(rows.texts)
    return [
        (
            [cos(x[texts[i]], x[texts[j]]) for j in range(count) if j != i],
            [cos(rows.vectors[i], rows.vectors[j]) for j in range(count) if j != i],
        )
        for i in range(count)
    ]


def kl(x: Tensor, rows: TeacherInputs, tau: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for student, teacher in _rows_of_cosines(x, rows):
        log_q = [value / tau - log_sum_exp(value / tau for value in student) for value in student]
        log_p = [value / 0.1 - log_sum_exp(value / 0.1 for value in teacher) for value in teacher]
        total = total + sum(p.exp() * (p - q) for p, q in zip(log_p, log_q, strict=True))
    return total / len(rows.texts)


def margin(x: Tensor, rows: TeacherInputs, tau: Tensor) -> Tensor:
    terms = [
        ((s[j] - s[k]) - (t[j] - t[k])) ** 2
        for s, t in _rows_of_cosines(x, rows)
        for j in range(len(s))
        for k in range(len(s))
        if j != k
    ]
    return sum(terms) / len(terms)


def mse(x: Tensor, rows: TeacherInputs, tau: Tensor) -> Tensor:
    terms = [(a - b) ** 2 for s, t in _rows_of_cosines(x, rows) for a, b in zip(s, t, strict=True)]
    return sum(terms) / len(terms)


def correlation(x: Tensor, rows: TeacherInputs, tau: Tensor) -> Tensor:
    pairs = [torch.stack([torch.stack(s), torch.stack(t)]) for s, t in _rows_of_cosines(x, rows)]
    return sum(1 - torch.corrcoef(pair)[0, 1] for pair in pairs) / len(pairs)


def embed_distill(x: Tensor, rows: TeacherInputs, matrix: Tensor | None, distance: str) -> Tensor:
    terms = []
    for place, wanted in zip(rows.texts.tolist(), rows.vectors, strict=True):
        unit = x[place] / x[place].norm()
        image = [] if matrix is None else [sum(w * v for w, v in zip(row, unit, strict=True)) for row in matrix]
        found = unit if matrix is None else torch.stack(image)
        target = wanted / wanted.norm()
        squares = [(a - b) ** 2 for a, b in zip(found, target, strict=True)]
        terms.append(1 - cos(found, target) if distance == "cosine" else sum(squares) / len(squares))
    return sum(terms) / len(terms)


def graded_rows(pairs: int) -> GradedInputs:
    """Ties, and texts in two pairs: one with two positives (of which the first stands in another pair, too)."""
    first, second = torch.arange(pairs) % 4, pairs + torch.arange(pairs)
    second[-1] = 0
    second[2:3] = second[1:2].clone()
    return GradedInputs(
        first, second, torch.tensor([float(i * 7 % 4) for i in range(pairs)]), 10**9 + first, 10**9 + second
    )


def labelled_rows(texts: int) -> LabelledInputs:
    """Large keys, and a label that one text alone has."""
    labels = [2**62 + i % 3 for i in range(texts)]
    return LabelledInputs(torch.arange(texts), torch.tensor([*labels[:-1], 5]))


def teacher_rows(texts: int, seed: int = 3) -> TeacherInputs:
    generator = torch.Generator().manual_seed(seed)
    places = torch.arange(texts)
    return TeacherInputs(places, torch.randn(texts, 9, generator=generator, dtype=torch.float64), 2**62 - places)


@dataclass(frozen=True)
class Case:
    """A loss, rows for it, and its definition (embeddings, rows, temperature) -> scalar."""

    config: LossConfig
    rows: Callable[[int], LossInputs]
    reference: Callable[..., Tensor]


def _config(kind: str, **options: object) -> LossConfig:
    return LossConfig(kind=kind, learn_temperature=True, **options)


def _angle_sum(x: Tensor, rows: GradedInputs, tau: Tensor) -> Tensor:
    return 0.5 * cosent(x, rows, tau) + 2 * in_batch(x, rows, tau) + 3 * angle(x, rows, 1.0)


CASES = {
    "cosent": Case(_config("cosent"), graded_rows, cosent),
    "angle": Case(_config("angle", angle_weights=(0.5, 2.0, 3.0)), graded_rows, _angle_sum),
    "supcon": Case(_config("supcon"), labelled_rows, supcon),
    "kl": Case(_config("distil_scores", teacher="t", teacher_temperature=0.1), teacher_rows, kl),
    "margin": Case(_config("distil_scores", teacher="t", distance="margin"), teacher_rows, margin),
    "mse": Case(_config("distil_vectors", teacher="t"), teacher_rows, mse),
    "correlation": Case(_config("distil_vectors", teacher="t", distance="correlation"), teacher_rows, correlation),
}


def vectors(count: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator, dtype=torch.float64)
