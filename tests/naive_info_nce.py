"""InfoNCE as its definition reads: texts, one pair at a time, float64 scalars; autograd gives its gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from train.options.losses import LossConfig


@dataclass(frozen=True)
class Texts:
    """A global batch. Ids of the documents (positives, then negatives) in the data, None where there is none."""

    anchors: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    ids: tuple[int | None, ...] = ()
    known: frozenset[tuple[str, str]] = frozenset()
    """Queries and right answers in the data, also in rows outside the batch."""

    @property
    def documents(self) -> tuple[str, ...]:
        return self.positives + self.negatives

    def id_of(self, document: int) -> int | None:
        return self.ids[document] if self.ids else None


def naive_loss(vectors: Tensor, texts: Texts, config: LossConfig, log_temperature: Tensor) -> Tensor:
    """`vectors`: anchors, positives, negatives. The mean over all queries of all directions."""
    count = len(texts.anchors)
    units = [vector / vector.norm() for vector in vectors]
    anchors, documents = units[:count], units[count:]
    losses = []
    for i in range(count):
        positive = anchors[i] @ documents[i]
        cosines = [anchors[i] @ documents[j] for j in range(len(documents)) if not document_ignored(texts, i, j)]
        if config.query_negatives:
            cosines += [anchors[i] @ anchors[j] for j in range(count) if not query_ignored(texts, i, j)]
        if config.document_negatives:
            cosines += [documents[i] @ documents[j] for j in range(count) if not document_ignored(texts, i, j)]
        losses.append(one_loss(positive, cosines, config, log_temperature))
    for i in range(count if config.symmetric else 0):
        cosines = [documents[i] @ anchors[j] for j in range(count) if not query_ignored(texts, i, j)]
        losses.append(one_loss(documents[i] @ anchors[i], cosines, config, log_temperature))
    return torch.stack(losses).mean()


def one_loss(positive: Tensor, cosines: list[Tensor], config: LossConfig, log_temperature: Tensor) -> Tensor:
    if config.margin is not None:
        highest = float(positive.detach()) - config.margin
        cosines = [cosine for cosine in cosines if float(cosine.detach()) <= highest]
    temperature = log_temperature.exp()
    negatives = [cosine / temperature + config.hardness * cosine.detach() for cosine in cosines]
    return torch.logsumexp(torch.stack([positive / temperature, *negatives]), 0) - positive / temperature


def document_ignored(texts: Texts, i: int, j: int) -> bool:
    """Whether document j must not be a negative of pair i (its own positive never is one)."""
    text, known = texts.documents[j], texts.id_of(i)
    answers_the_same = j < len(texts.anchors) and texts.anchors[j] == texts.anchors[i]
    same_id = known is not None and texts.id_of(j) == known
    is_right = answers_the_same or same_id or (texts.anchors[i], text) in texts.known
    return i == j or text == texts.positives[i] or text == texts.anchors[i] or is_right


def query_ignored(texts: Texts, i: int, j: int) -> bool:
    """Whether anchor j must not be a negative of pair i."""
    text, known = texts.anchors[j], texts.id_of(i)
    same_answer = texts.positives[j] == texts.positives[i] or (known is not None and texts.id_of(j) == known)
    is_right = same_answer or (text, texts.positives[i]) in texts.known
    return i == j or text == texts.anchors[i] or text == texts.positives[i] or is_right
