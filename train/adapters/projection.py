"""The trained projection of the student's vectors into a teacher's space: a linear map without a bias.

Without a bias only the direction of a vector decides on the direction of its image, so that a Dense layer behind the
pooling, which sees vectors of any length, gives the vectors that were trained.

A projection that is dropped belongs to the loss: a parameter of the learner, beside the temperature. One that is kept
is the last layer of the embedder's head, with which the engine trains, shards and saves it like any other weight.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dec2vec.decoder.dense_head import DenseHead, Step
from dec2vec.decoder.embedder import Embedder
from dec2vec.errors import UserError

PEAK_LR = 1e-2
"""Peak learning rate of a projection. It starts at random, unlike the decoder, whose rate would be too low for it."""


def initial_projection(student: int, teacher: int, seed: int) -> Float[Tensor, "teacher_dim dim"]:
    """Orthogonal, so that at the start cosines are kept as far as the dimensions allow; the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return nn.init.orthogonal_(torch.empty(teacher, student), generator=generator)


class Projection(nn.Module):
    """The matrix of a projection that the exported model is without. Its learning rate is its own."""

    def __init__(self, weight: Float[Tensor, "teacher_dim dim"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def train_kept(embedder: Embedder, published: int, dimension: int) -> bool:
    """Train on the projection of an earlier run, if it leads to as many dimensions; return whether there is one.

    The first `published` Dense layers are those of a published base and stay as they are.
    """
    head = embedder.head
    if head is None or not embedder.view.dense or len(head.steps) <= published:
        return False
    number = len(head.steps) - 1
    if head.tensors[f"{number}.weight"].shape[0] != dimension:
        return False
    head.train_weight(number)
    return True


def add_projection(embedder: Embedder, weight: Float[Tensor, "teacher_dim dim"], lr: float) -> None:
    """Put a trained Dense layer behind the pooling, or behind the fixed Dense layers that are in use there.

    It is trained at the decoder's rate `lr`. As only the direction of its vectors counts, a matrix that starts small
    turns as fast in these steps as one of length 1 would with `PEAK_LR`.

    UserError for Dense layers of a published embedder that the run's pooling or layer leaves out.
    """
    head = embedder.head
    if head is not None and not embedder.view.dense:
        raise UserError(
            "loss.projection keep: the Dense layers of the base belong to another pooling or layer; use its own "
            "(remove model.pooling and model.layer), or loss.projection drop"
        )
    steps, tensors = ((), {}) if head is None else (head.steps, head.tensors)
    device = next(embedder.parameters()).device
    number = len(steps)
    small = weight * min(1.0, lr / PEAK_LR)
    grown = DenseHead((*steps, Step("dense")), {**tensors, f"{number}.weight": small}).to(device)
    grown.train_weight(number)
    embedder.put_head(grown)
