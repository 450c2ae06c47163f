"""The ranking loss of graded pairs: the pair with the higher score shall have the higher value (CoSENT, Su 2022).

log(1 + sum over pairs i, j with score_i > score_j of exp(value_j - value_i)), values being already divided by the
temperature. Pure: no state, no process group.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ranking_loss(values: Float[Tensor, pair], scores: Float[Tensor, pair]) -> Float[Tensor, ""]:
    """Zero where all scores are equal. Sorted by score, it takes n log n time and no n x n matrix.

    Pair j's terms are exp(value_j) times the sum of exp(-value_i) over the pairs from the first with a higher score.
    """
    scores, order = scores.sort()
    values = values[order]
    higher = torch.searchsorted(scores, scores, right=True)
    has_higher = higher < len(scores)
    from_here = torch.logcumsumexp(-values.flip(0), dim=0).flip(0)
    terms = values[has_higher] + from_here[higher[has_higher]]
    return torch.cat([values.new_zeros(1), terms]).logsumexp(0)
