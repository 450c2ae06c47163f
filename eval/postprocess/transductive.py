"""Whitening fitted on the very sentences it is judged on, as BERT-whitening's `target` rows were (Su et al. 2021).

No label is used, and yet it is another task: a labelled extra that never wins a choice.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Moments, fit_whitening


def whitened_by_itself(vectors: Float32[np.ndarray, "texts dim"], k: int) -> Float32[np.ndarray, "texts directions"]:
    """At most k directions, shrunk where the texts are few; nan where nothing can be fitted."""
    moments = Moments(vectors.shape[1])
    try:
        moments.update(vectors)
        return fit_whitening(moments, k).apply(vectors)
    except UserError:
        return np.full((len(vectors), k), np.nan, dtype=np.float32)
