"""A model that reads anchor and document together, which scores candidates, or the documents that are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from dec2vec.config.encoder_args import ModelArgs
from dec2vec.errors import UserError
from dec2vec.runtime import importing
from train.mining.selection import ABSENT

PairScores = Callable[[list[tuple[str, str]]], Float64[np.ndarray, " pairs"]]
BATCH = 64


def load_cross_encoder(
    name: str, args: ModelArgs, option: str = "cross_encoder", *, logits: bool = False
) -> PairScores:
    """A function that scores pairs, higher for closer texts. Raises UserError for a model with several outputs.

    `logits` are the model's numbers before its activation, which is often a sigmoid.
    """
    with importing():
        from sentence_transformers import CrossEncoder

    device = None if args.device == "auto" else args.device
    try:
        _check_scores(name, option)
        model: Any = CrossEncoder(name, device=device, trust_remote_code=args.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"--{option} {name} can't be loaded: {str(error).splitlines()[0]}") from None
    if model.num_labels != 1:
        raise UserError(f"--{option} {name} gives {model.num_labels} numbers per pair; use a model that gives one")

    activation = torch.nn.Identity() if logits else None

    def score(pairs: list[tuple[str, str]]) -> Float64[np.ndarray, " pairs"]:
        found = model.predict(pairs, batch_size=BATCH, show_progress_bar=False, activation_fn=activation)
        return np.asarray(found, dtype=np.float64)

    return score


def _check_scores(name: str, option: str) -> None:
    """UserError for a model without a head for scores, in place of which the library would put an untrained one."""
    from sentence_transformers.util import load_file_path
    from transformers import PretrainedConfig

    own = load_file_path(name, "config_sentence_transformers.json")
    if own is not None and json.loads(Path(own).read_text(encoding="utf-8")).get("model_type") == "CrossEncoder":
        return
    config, _ = PretrainedConfig.get_config_dict(name)
    architecture = next(iter(config.get("architectures") or ()), "no architecture")
    if not architecture.endswith("ForSequenceClassification"):
        raise UserError(
            f"--{option} {name} is no cross-encoder: its config names {architecture}, which gives no score to a pair; "
            "use a CrossEncoder of sentence-transformers or a sequence classifier with one label"
        )


def rescore(
    score: PairScores,
    anchors: Sequence[str],
    positives: Sequence[str],
    corpus: Sequence[str],
    positions: Int64[np.ndarray, "rows window"],
) -> tuple[Float64[np.ndarray, "rows window"], Float64[np.ndarray, " rows"]]:
    """Scores of the candidates (nan where there is none) and of the positives."""
    rows, columns = np.nonzero(positions != ABSENT)
    candidates = positions[rows, columns].tolist()
    pairs = [(anchors[row], corpus[position]) for row, position in zip(rows.tolist(), candidates, strict=True)]
    scored = score([*zip(anchors, positives, strict=True), *pairs])
    scores = np.full(positions.shape, np.nan, dtype=np.float64)
    scores[rows, columns] = scored[len(anchors) :]
    return scores, scored[: len(anchors)]


def score_documents(score: PairScores, anchors: Sequence[str], documents: Sequence[Sequence[str]]) -> list[list[float]]:
    """The scores of each anchor's documents, each different pair scored once."""
    rows = list(zip(anchors, documents, strict=True))
    pairs = list(dict.fromkeys((anchor, text) for anchor, texts in rows for text in texts))
    scores = dict(zip(pairs, score(pairs).tolist(), strict=True))
    return [[scores[anchor, text] for text in texts] for anchor, texts in rows]
