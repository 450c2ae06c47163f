"""AnglE's in-batch loss of graded pairs (Li & Li 2024, eq. 3): a positive pair's texts find each other.

Graded data have a text in several pairs, so that not every other text of a batch is a negative: see `_Alike`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows
from train.losses.all_pairs import all_pairs, mask_self
from train.losses.cosent import cosent, ranked_pairs
from train.losses.inputs import GradedInputs
from train.losses.objective import Objective, Temperature, combine, nothing


def in_batch(embeddings: Float[Tensor, "unique dim"], rows: GradedInputs, temperature: Temperature) -> Objective:
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
    keys, _ = gather_rows(torch.cat([rows.first_keys, rows.second_keys]))
    alike = _Alike.of(keys, partners, is_positive)

    def row_losses(
        cosines: Float[Tensor, "row all"], places: Int[Tensor, row], tau: Float[Tensor, ""]
    ) -> Float[Tensor, row]:
        others = alike.to(places).scatter(1, partners[places][:, None], False)
        log_shares = mask_self(cosines / tau, places).masked_fill(others, -torch.inf).log_softmax(1)
        found = log_shares.gather(1, partners[places][:, None])[:, 0]
        return torch.where(is_positive[places], -found, 0.0)

    return all_pairs(embeddings, torch.cat([rows.first, rows.second]), temperature, row_losses, len(scores))


@dataclass(frozen=True)
class _Alike:
    """Which texts of a batch are as near to a text as its partner, so that none is its negative.

    They are its copies, its positives in other pairs, and texts that share a positive with it: the rules of InfoNCE
    (`train.losses.infonce.false_negatives`). A copy counts wherever it stands, also in a pair that is not positive.
    """

    texts: Int[Tensor, " all"]
    """For each position the number of its text; equal texts have the same number."""
    owners: Int[Tensor, " positive"]
    positives: Int[Tensor, " positive"]
    """Numbers of the texts of each positive pair, in both directions."""

    @classmethod
    def of(cls, keys: Int[Tensor, " all"], partners: Int[Tensor, " all"], is_positive: Bool[Tensor, " all"]) -> _Alike:
        """From each position's key, partner and kind of pair, in the global batch."""
        texts = torch.unique(keys, return_inverse=True)[1]
        return cls(texts, texts[is_positive], texts[partners[is_positive]])

    def to(self, places: Int[Tensor, " row"]) -> Bool[Tensor, "row all"]:
        """Whether each text is alike to those at `places`, including these themselves."""
        copies = torch.zeros(len(places), len(self.texts), device=places.device)
        copies.scatter_(1, self.texts[places][:, None], 1.0)
        positives = self._positives_of(copies)
        siblings = self._positives_of((positives > 0).float())
        return (copies + positives + siblings > 0)[:, self.texts]

    def _positives_of(self, found: Float[Tensor, "row text"]) -> Float[Tensor, "row text"]:
        """Above 0 at the positives of the texts where `found` is above 0."""
        return torch.zeros_like(found).index_add_(1, self.positives, found[:, self.owners])


def angle_optimized(
    embeddings: Float[Tensor, "unique dim"],
    rows: GradedInputs,
    temperature: Temperature,
    weights: tuple[float, float, float],
) -> Objective:
    """AnglE as published (eq. 9): the sum of the cosine, in-batch and angle losses with these weights.

    The cosine and in-batch losses use `temperature`, the angle loss 1 as in the paper. A weight of 0 leaves a loss
    out. The in-batch loss does not use texts known to be alike as negatives; neither does InfoNCE.
    """
    dtype = torch.promote_types(embeddings.dtype, torch.float32)
    unscaled = Temperature(1.0, learned=False).to(embeddings.device, dtype)
    losses: tuple[Callable[[], Objective], ...] = (
        lambda: cosent(embeddings, rows, temperature),
        lambda: in_batch(embeddings, rows, temperature),
        lambda: ranked_pairs(embeddings, rows, unscaled, angle, learned=False),
    )
    used = [(loss(), weight) for loss, weight in zip(losses, weights, strict=True) if weight]
    return combine([part for part, _ in used], [weight for _, weight in used])


def angle(first: Float[Tensor, "pair dim"], second: Float[Tensor, "pair dim"]) -> Float[Tensor, pair]:
    """AnglE's similarity (Li & Li 2024, eq. 5 to 7): |sum of real and imaginary parts| of first / second.

    The halves of a unit vector are the real and imaginary parts of d/2 complex numbers. Unlike the cosine, it still
    has a slope where two vectors all but agree. A vector of odd length gets a zero at its end.
    """
    padded = (F.pad(F.normalize(side, dim=1), (0, side.shape[1] % 2)) for side in (first, second))
    (a, b), (c, d) = (side.chunk(2, dim=1) for side in padded)
    return (a * c + b * d + b * c - a * d).sum(1).abs()
