"""Supervised contrast of labelled texts (Khosla et al. 2020, eq. 2: L_out, the sum outside the logarithm)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows
from train.losses.all_pairs import all_pairs, mask_self
from train.losses.inputs import LabelledInputs
from train.losses.objective import Objective, Temperature


def supcon(embeddings: Float[Tensor, "unique dim"], rows: LabelledInputs, temperature: Temperature) -> Objective:
    """Mean over the texts that have another of their label in the global batch; zero when none has."""
    labels, _ = gather_rows(rows.labels)
    _, inverse, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    others = sizes[inverse] - 1

    def row_losses(
        cosines: Float[Tensor, "row all"], places: Int[Tensor, row], tau: Float[Tensor, ""]
    ) -> Float[Tensor, row]:
        log_shares = mask_self(cosines / tau, places).log_softmax(1)
        is_same = (labels[places][:, None] == labels[None, :]).scatter(1, places[:, None], False)
        total: Tensor = torch.where(is_same, log_shares, 0.0).sum(1)
        mean: Tensor = -total / others[places].clamp(min=1)
        return mean

    counted = int((others > 0).sum())  # host sync
    return all_pairs(embeddings, rows.texts, temperature, row_losses, counted)
