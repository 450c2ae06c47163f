"""Every loss of W ranks is that of one process on the concatenated batch, also where a rank holds nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.loss_references import CASES, Case, vectors
from tests.processes import run_ranks
from train.losses.compute import one_loss
from train.losses.inputs import LossInputs
from train.losses.objective import Objective, Temperature

TEXTS = 7
SHARES = {2: (5, 2), 3: (3, 0, 4)}


def share_of(case: Case, counts: tuple[int, ...], rank: int) -> tuple[Tensor, LossInputs]:
    """Consecutive rows; a rank embeds all texts of its rows anew, and one that nobody reads."""
    rows, start = case.rows(TEXTS), sum(counts[:rank])
    kept: dict[str, Any] = {name: tensor[start : start + counts[rank]] for name, tensor in vars(rows).items()}
    return vectors(2 * TEXTS + 1, 6), type(rows)(**kept)


def objectives_of_rank(counts: tuple[int, ...]) -> dict[str, Objective]:
    rank = dist.get_rank()
    return {name: at_share(case, *share_of(case, counts, rank)) for name, case in CASES.items()}


def at_share(case: Case, x: Tensor, rows: LossInputs) -> Objective:
    return one_loss(x, rows, case.config, Temperature(0.3, learned=True).double())


@pytest.mark.parametrize("world", SHARES)
def test_ranks_equal_one_process(world: int) -> None:
    """All ranks have the same vectors here, so the gradient of the whole batch is the sum of what ranks ask."""
    ranks = run_ranks(world, objectives_of_rank, SHARES[world])
    for name, case in CASES.items():
        expected = at_share(case, *share_of(case, (TEXTS,), 0))
        found = [rank[name] for rank in ranks]
        total = torch.stack([part.embedding_gradient for part in found]).sum(0)
        torch.testing.assert_close(total, expected.embedding_gradient, rtol=1e-9, atol=1e-12)
        assert total.abs().max() > 1e-3 and not total[-1].any()
        for part in found:
            torch.testing.assert_close(part.loss, expected.loss, rtol=1e-10, atol=0)
            torch.testing.assert_close(
                part.log_temperature_gradient, expected.log_temperature_gradient, rtol=1e-9, atol=1e-12
            )
        alone = at_share(case, *share_of(case, SHARES[world], world - 1))
        assert abs(float(alone.loss - expected.loss)) > 1e-3, name  # a rank by itself has another loss
