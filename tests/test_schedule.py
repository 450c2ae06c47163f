"""The schedule against transformers' own, and the properties every schedule must have."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from train.optim import Decay, lr_factor, warmup_steps

DECAYS: tuple[Decay, ...] = ("linear", "cosine", "constant")
totals = st.integers(min_value=1, max_value=400)
shares = st.floats(min_value=0.0, max_value=1.0)
decays = st.sampled_from(DECAYS)


def reference(decay: Decay, total: int, warming: int) -> list[float]:
    """transformers' factors at steps 0..total."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    make = get_cosine_schedule_with_warmup if decay == "cosine" else get_linear_schedule_with_warmup
    scheduler = make(optimizer, warming, total)
    return [float(scheduler.lr_lambdas[0](step)) for step in range(total + 1)]


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (10, 0.0), (10, 0.1), (130, 0.1), (97, 0.33), (8, 1.0)])
def test_agrees_with_transformers_up_to_one_warmup_step(decay: Decay, total: int, warmup: float) -> None:
    warming = warmup_steps(total, warmup)
    theirs = reference(decay, total, warming)
    for step in range(total):
        shifted = step + 1 if step < warming - 1 else step
        expected = 1.0 if step == warming - 1 else theirs[shifted]
        assert lr_factor(step, total, warmup, decay) == pytest.approx(expected, abs=1e-12)


@settings(derandomize=True, deadline=None)
@given(total=totals, warmup=shares, decay=decays)
def test_every_step_that_is_run_learns(total: int, warmup: float, decay: Decay) -> None:
    factors = [lr_factor(step, total, warmup, decay) for step in range(total)]
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert max(factors) == 1.0


@settings(derandomize=True, deadline=None)
@given(total=totals, warmup=shares, decay=decays)
def test_rises_to_the_peak_then_never_rises(total: int, warmup: float, decay: Decay) -> None:
    warming = warmup_steps(total, warmup)
    factors = [lr_factor(step, total, warmup, decay) for step in range(total)]
    assert all(a < b for a, b in itertools.pairwise(factors[:warming]))
    assert all(a >= b for a, b in itertools.pairwise(factors[warming:]))


@settings(derandomize=True, deadline=None)
@given(total=totals, warmup=st.floats(min_value=0.0, max_value=0.4), decay=st.sampled_from(["linear", "cosine"]))
def test_ends_at_zero(total: int, warmup: float, decay: Decay) -> None:
    assert lr_factor(total, total, warmup, decay) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("arguments", [(-1, 10, 0.1), (11, 10, 0.1), (0, 0, 0.1), (0, 10, 1.5), (0, 10, -0.1)])
def test_refuses_what_has_no_meaning(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError):
        lr_factor(*arguments, "cosine")
