"""Spearman correlation of cosines with gold scores, in the three published aggregations over sub-sets.

'all' is one correlation over the concatenated sub-sets (SimCSE's SentEval, PromptEOL and its successors);
'mean' and 'wmean' average the sub-sets' correlations, plainly or by pairs (BERT-whitening): not comparable.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.stats import rankdata

Aggregation = Literal["all", "mean", "wmean"]
AGGREGATIONS: tuple[Aggregation, ...] = ("all", "mean", "wmean")


def cosine_pairs(
    left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]
) -> Float64[np.ndarray, " pairs"]:
    """Cosine of each row with its partner, in float64. A zero vector has no direction: its cosine is 0.

    inf or nan in a vector gives nan, so that it cannot pass for a judgement. Rounded to 12 decimals: equal texts have
    the cosine 1 in every pair, and rounding noise must not rank such pairs.
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        products = np.einsum("nd,nd->n", left, right)
        cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.asarray(np.clip(cosines, -1.0, 1.0).round(12))


def spearman(scores: Float[np.ndarray, " pairs"], gold: Float[np.ndarray, " pairs"]) -> float:
    """Pearson correlation of mid-ranks. Constant scores rank nothing and get 0; a nan gives nan."""
    if np.isnan(scores).any():
        return float("nan")
    x, y = rankdata(scores), rankdata(gold)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def spearman_over_subsets(
    scores: Float[np.ndarray, " pairs"],
    gold: Float[np.ndarray, " pairs"],
    subsets: Int[np.ndarray, " pairs"],
    aggregation: Aggregation,
) -> float:
    """`subsets` numbers each pair's sub-set from 0 on."""
    if aggregation == "all":
        return spearman(scores, gold)
    members = [subsets == code for code in np.unique(subsets)]
    values = [spearman(scores[member], gold[member]) for member in members]
    weights = [member.sum() for member in members] if aggregation == "wmean" else None
    return float(np.average(values, weights=weights))
