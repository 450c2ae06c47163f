"""AnglE's in-batch loss of graded pairs (Li & Li 2024, eq. 3): a positive pair's texts find each other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed import gather_rows
from train.losses.against_all import against_all, mask_self
from train.objective import Objective, nothing
from train.rows import GradedRows
from train.temperature import Temperature


def in_batch(embeddings: Float[Tensor, "unique dim"], rows: GradedRows, temperature: Temperature) -> Objective:
    """Mean over all texts of the batch of -log softmax at their partner, 0 for texts of pairs that aren't positive.

    Positive are the pairs with the highest score of the global batch (label 1 of binary data, as published); none
    when all scores are equal, which tells nothing.
    """
    pairs = len(rows.scores)
    scores, mine = gather_rows(torch.cat([rows.scores, rows.scores]))
    if not len(scores):
        return nothing(embeddings)
    is_positive = (scores == scores.max()) & (scores.max() > scores.min())
    partner = torch.arange(2 * pairs, device=scores.device).roll(pairs)
    partners, _ = gather_rows(mine.start + partner)

    def row_losses(
        cosines: Float[Tensor, "row all"], places: Int[Tensor, row], tau: Float[Tensor, ""]
    ) -> Float[Tensor, row]:
        log_shares = mask_self(cosines / tau, places).log_softmax(1)
        found = log_shares.gather(1, partners[places][:, None])[:, 0]
        return torch.where(is_positive[places], -found, 0.0)

    return against_all(embeddings, torch.cat([rows.first, rows.second]), temperature, row_losses, len(scores))
