"""Which of a step's embedded texts play which part in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

NO_ANCHOR = -1
NO_ID = -1


@dataclass(frozen=True)
class PairRows:
    """Which of the unique embedded texts are anchors and documents, and the keys that tell equal texts.

    Documents are the positives in the order of the anchors, then the hard negatives. Keys are 63-bit hashes of the
    texts (not of their ids, which differ between query and document), equal on every rank; `document_anchors` is the
    key of a positive's anchor, -1 for a negative; `document_ids` is the key of the document's id in the data, -1 where
    it has none.
    """

    anchors: Int[Tensor, query]
    documents: Int[Tensor, doc]
    anchor_keys: Int[Tensor, query]
    document_keys: Int[Tensor, doc]
    document_anchors: Int[Tensor, doc]
    document_ids: Int[Tensor, doc]

    def to(self, device: torch.device) -> PairRows:
        """The same rows with their tensors on `device`."""
        return PairRows(*(tensor.to(device) for tensor in vars(self).values()))
