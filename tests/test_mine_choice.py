"""The choice of negatives against a loop over every candidate."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train.mining.selection import ABSENT, Candidates, Rules, choose, rank_window, refusals

SCORES = st.integers(-10, 10).map(lambda tenths: tenths / 10)


def naive(
    found: list[tuple[int, float]],
    excluded: set[int],
    positive: float,
    window: tuple[int, int],
    rules: Rules,
    count: int,
) -> list[int]:
    """Positions of the top choice, by walking the found list."""
    free = [(position, score) for position, score in found if position not in excluded]
    passed = []
    for position, score in free[window[0] - 1 : window[1]]:
        ok = score <= positive - rules.margin
        ok = ok and score <= positive - (1 - rules.ratio) * abs(positive)
        ok = ok and (rules.max_score is None or score <= rules.max_score)
        ok = ok and (rules.min_score is None or score >= rules.min_score)
        if ok:
            passed.append((position, score))
    return [position for position, _ in sorted(passed, key=lambda pair: -pair[1])[:count]]


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[tuple[int, float]], set[int], float]:
    positions = draw(st.permutations(range(12)))
    scores = sorted(draw(st.lists(SCORES, min_size=12, max_size=12)), reverse=True)
    return list(zip(positions, scores, strict=True)), draw(st.sets(st.integers(0, 11), max_size=4)), draw(SCORES)


@settings(max_examples=40, deadline=None)
@given(
    data=st.lists(rows(), min_size=1, max_size=4),
    first=st.integers(1, 4),
    width=st.integers(1, 9),
    rules=st.builds(
        Rules,
        margin=st.sampled_from([0.0, 0.1, 0.3]),
        ratio=st.sampled_from([0.5, 0.95, 1.0]),
        max_score=st.none() | SCORES,
        min_score=st.none() | SCORES,
    ),
    count=st.integers(1, 5),
)
def test_top_choice_equals_a_walk(
    data: list[tuple[list[tuple[int, float]], set[int], float]], first: int, width: int, rules: Rules, count: int
) -> None:
    positions = np.array([[position for position, _ in found] for found, _, _ in data], dtype=np.int64)
    scores = np.array([[score for _, score in found] for found, _, _ in data], dtype=np.float64)
    positives = np.array([positive for _, _, positive in data])
    last = first + width - 1
    window, passed_over = rank_window(positions, scores, [excluded for _, excluded, _ in data], first, last)
    refused = refusals(window.scores, positives, rules)
    allowed = ~np.any([*refused.values()], axis=0)
    chosen = choose(window, allowed, count)
    for row, (found, excluded, positive) in enumerate(data):
        expected = naive(found, excluded, positive, (first, last), rules, count)
        assert window.positions[row, chosen[row]].tolist() == expected
    assert 0 <= passed_over <= sum(len(excluded) for _, excluded, _ in data)


def test_excluded_texts_take_no_rank() -> None:
    positions = np.array([[7, 3, 5, 1, ABSENT]], dtype=np.int64)
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.0]], dtype=np.float64)
    window, passed_over = rank_window(positions, scores, [{7, 5}], 2, 4)
    assert window.positions.tolist() == [[1, ABSENT, ABSENT]]
    assert passed_over == 2


def test_the_relative_margin_lies_below_a_negative_positive() -> None:
    scores = np.array([[-0.2, -0.205, -0.22]])
    refused = refusals(scores, np.array([-0.2]), Rules(ratio=0.95))
    assert refused["ratio"].tolist() == [[True, True, False]]
    assert refusals(np.array([[np.nan]]), np.array([1.0]), Rules(min_score=0.0))["min_score"].all()


def test_a_draw_depends_on_seed_and_row_only() -> None:
    positions = np.tile(np.arange(20, dtype=np.int64), (6, 1))
    scores = np.tile(np.linspace(1, 0, 20), (6, 1))
    allowed = np.ones(positions.shape, dtype=bool)
    whole = choose(Candidates(positions, scores), allowed, 3, "random", seed=5)
    half = Candidates(positions[3:], scores[3:])
    parts = [
        *choose(Candidates(positions[:3], scores[:3]), allowed[:3], 3, "random", seed=5),
        *choose(half, allowed[3:], 3, "random", seed=5, first_row=3),
    ]
    assert [row.tolist() for row in whole] == [row.tolist() for row in parts]
    other = choose(Candidates(positions, scores), allowed, 3, "random", seed=6)
    assert [row.tolist() for row in whole] != [row.tolist() for row in other]
    assert len({tuple(row) for row in whole}) > 1
