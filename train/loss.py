"""InfoNCE (van den Oord et al. 2018) over in-batch and hard negatives. Pure: no state, no process group.

Row i of `queries` belongs to document `targets[i]`. The documents are every positive and hard negative of the global
batch, so negatives come from all processes; the queries are this process's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def info_nce(
    queries: Float[Tensor, "query dim"],
    documents: Float[Tensor, "doc dim"],
    targets: Int[Tensor, query],
    ignored: Bool[Tensor, "query doc"],
    temperature: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Sum over queries of -log softmax(cos / temperature) at the target; `ignored` documents are no negatives.

    The sum, not the mean: ranks hold unequal shares, and the caller divides by the global number of queries.
    """
    logits = F.normalize(queries, dim=1) @ F.normalize(documents, dim=1).T / temperature
    logits = logits.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(logits, targets, reduction="sum")


def false_negatives(
    anchor_keys: Int[Tensor, query],
    targets: Int[Tensor, query],
    document_keys: Int[Tensor, doc],
    document_anchor_keys: Int[Tensor, doc],
) -> Bool[Tensor, "query doc"]:
    """True where a document must not be a negative of a query: equal texts never push each other away.

    Keys are equal for equal texts. A document is ignored when its text equals the query's positive or the query
    itself, or when it is a positive of an equal query (`document_anchor_keys`: key of the anchor whose positive it
    is, -1 for hard negatives). The target itself is never ignored.
    """
    same_text = document_keys[targets][:, None] == document_keys[None, :]
    copy_of_query = anchor_keys[:, None] == document_keys[None, :]
    same_query = anchor_keys[:, None] == document_anchor_keys[None, :]
    ignored = same_text | copy_of_query | same_query
    ignored[torch.arange(len(targets), device=targets.device), targets] = False
    return ignored
