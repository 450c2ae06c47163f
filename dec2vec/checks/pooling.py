"""Check that sentence-transformers pools the tokens that were pooled in training, and that unlike texts differ."""

from __future__ import annotations

from typing import Any

from dec2vec.checks.finding import Finding
from dec2vec.checks.loaded_model import PROBES, LoadedModel

NAME = "pooling"
ALIKE = 0.99
"""Cosine of different texts from which hardly anything tells them apart."""
MODES = {"last": "lasttoken", "mean": "mean", "weighted_mean": "weightedmean", "max": "max"}
_FILE = "1_Pooling/config.json"


def check_pooling(model: LoadedModel) -> Finding:
    """Compare the Pooling module with dec2vec.json. Pooling the first token of a decoder is always wrong."""
    if model.library is None:
        assert model.encoder is not None
        view = model.encoder.embedder.view
        note = "" if model.is_marked else " (nothing says how: dec2vec's defaults)"
        return Finding(NAME, "pass" if model.is_marked else "warn", f"{view}{note}", _unmarked(model))
    module = model.pooling
    if module is None:
        return Finding(
            NAME,
            "warn",
            "not checked, because the Pooling module is not from sentence-transformers",
            "check the code of the module",
        )
    return _marked(model, module) if model.is_marked else _foreign(module)


def _unmarked(model: LoadedModel) -> str:
    return "" if model.is_marked else "name a run, an export or a sentence-transformers folder, if it is tuned"


def _marked(model: LoadedModel, module: Any) -> Finding:
    assert model.encoder is not None
    wanted = MODES.get(model.encoder.config.pooling_name)
    if module.pooling_mode != wanted:
        what = f"sentence-transformers uses {module.pooling_mode} pooling, but the model was trained with {wanted}"
        return Finding(NAME, "fail", what, f"set the mode in {_FILE}, or export again")
    if not module.include_prompt and wanted != "lasttoken":
        what = (
            "sentence-transformers excludes the tokens of the prompt from pooling, but the model was trained with them"
        )
        return Finding(NAME, "fail", what, f"set include_prompt in {_FILE}, or export again")
    return Finding(NAME, "pass", f"{module.pooling_mode}, as trained")


def _foreign(module: Any) -> Finding:
    if module.pooling_mode == "cls":
        what = "the first token is pooled, which cannot attend to the text in a causal decoder"
        return Finding(NAME, "fail", what, f"pool the last token (pooling_mode_lasttoken in {_FILE})")
    return Finding(NAME, "pass", f"{module.pooling_mode}")


def check_spread(model: LoadedModel) -> Finding:
    """Check that different texts have different vectors."""
    name, least = "distinct texts", 1.0
    for route, embed in model.routes.items():
        vectors = embed(PROBES)
        cosines = (vectors @ vectors.T)[~_diagonal(len(vectors))] / _norm_products(vectors)[~_diagonal(len(vectors))]
        if cosines.min() > 1 - 1e-5:
            what = f"{route}: all texts get the same vector (smallest cosine {cosines.min():.6f})"
            return Finding(
                name,
                "fail",
                what,
                "the pooled token does not attend to the text; see the checks pooling and last token",
            )
        least = min(least, float(cosines.min()))
    what = f"the smallest cosine of {len(PROBES)} different texts is {least:.3f}"
    if least < ALIKE:
        return Finding(name, "pass", what)
    return Finding(name, "warn", f"{what}, so that they are hardly told apart", "train longer or on more varied data")


def _diagonal(size: int) -> Any:
    import numpy as np

    return np.eye(size, dtype=bool)


def _norm_products(vectors: Any) -> Any:
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1)
    return np.outer(norms, norms)
