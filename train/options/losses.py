"""The options of a loss."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT

Weight = Annotated[float, Ge(0.0)]

LossKind = Literal[
    "infonce", "cosent", "angle", "supcon", "distil_scores", "distil_vectors", "embed_distill", "distil_reranker"
]
Distance = Literal["kl", "margin", "mse", "correlation", "cosine"]
Positives = Literal["each", "mean", "sum"]
ScoreScale = Literal["logit", "probability"]


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """The loss over the global batch."""

    kind: LossKind = "infonce"
    """infonce for pairs; cosent or angle for scored pairs; supcon for labelled texts; distil_scores, distil_vectors or
    embed_distill (regression on the teacher's vectors) for any texts with a teacher; distil_reranker for pairs with a
    reranker's scores in their rows."""
    weight: Annotated[float, Gt(0.0)] = 1.0
    """Weight of this loss in the sum of losses."""
    matryoshka: tuple[Annotated[int, Ge(1)], ...] = ()
    """Numbers of leading dimensions that are also trained as embeddings, such as [64, 128]. The full vector is always
    included."""
    matryoshka_weights: tuple[Annotated[float, Gt(0.0)], ...] = ()
    """Weight of the loss for each entry of matryoshka. Empty means 1 for all. The full vector has weight 1 unless it is
    listed."""
    angle_weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1.0)
    """Weights of AnglE's cosine, in-batch and angle losses. 0 disables a loss."""
    distance: Distance | None = None
    """Distance between the scores of student and teacher. distil_scores and distil_reranker: kl (default) or margin;
    distil_vectors: mse (default) or correlation. embed_distill: cosine (default) or mse between their vectors."""
    teacher: str | None = None
    """Folder of a sentence-transformers model or of a dec2vec encoder to distil from. Its vectors are cached on
    disk."""
    projection: Literal["drop", "keep", "none"] = "drop"
    """embed_distill: trained linear map to the teacher's dimensions. drop uses it in this loss alone; keep makes it a
    Dense layer of the model, on whose output all losses act; none compares vectors of equal length."""
    teacher_temperature: Annotated[float, Gt(0.0)] = 0.05
    """Temperature of the teacher's cosines in kl. It is never learned."""
    score_scale: ScoreScale = "logit"
    """distil_reranker: what the scores in the rows are. probability: values from 0 to 1, read as log(p / (1 - p))."""
    score_temperature: Annotated[float, Gt(0.0)] = 1.0
    """distil_reranker: the scores of the rows are divided by this value in kl."""
    temperature: Annotated[float, Gt(0.0)] = 0.05
    """Cosines are divided by this value. It is the initial value if learn_temperature is true."""
    learn_temperature: bool = False
    """Train log(temperature) together with the model."""
    positives: Positives = "each"
    """Several positives of a query: each is a pair of its own; mean and sum take those of a query into one batch and
    average their losses, or sum their probabilities inside the logarithm; a query with more rows than half a batch is
    divided."""
    symmetric: bool = False
    """Also contrast each positive with all anchors, and average both directions."""
    margin: Annotated[float, Ge(-2.0), Le(2.0)] | None = None
    """Ignore negatives with a cosine above that of the positive minus this value (Qwen3-Embedding: -0.1). None ignores
    none."""
    query_negatives: bool = False
    """Also use the other anchors as negatives of an anchor (query-to-query term of GTE and Qwen3-Embedding)."""
    document_negatives: bool = False
    """Also use the other positives as negatives of a positive (document-to-document term of GTE and
    Qwen3-Embedding)."""
    hardness: Annotated[float, Ge(0.0), Le(100.0)] = 0.0
    """Weight each negative by e^(hardness * cosine), without gradient through the weight (Lan et al. 2025). 0 weights
    all equally."""
