"""Small similarity files with a real signal (pairs that share more words have higher scores), and choices on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from eval.postprocess.fitting import Fitting
from eval.postprocess.moments import Material
from eval.report.report import Report
from eval.selection.choose import Choice, choose_by_pooling
from eval.systems.system import TextEncoder
from eval.tasks.sts import StsTask
from eval.tasks.task import BothSides

WORDS = [f"w{index}" for index in range(60)]


def sentences(generator: np.random.Generator, count: int) -> list[str]:
    return [" ".join(generator.choice(WORDS, 5, replace=False)) for _ in range(count)]


def write_similarity(path: Path, pairs: int, seed: int) -> Path:
    """`shared` of a first text's five words come back in the second; the score is their number."""
    generator = np.random.default_rng(seed)
    lines = []
    for index, first in enumerate(sentences(generator, pairs)):
        shared = int(generator.integers(0, 6))
        second = [*first.split()[:shared], *generator.choice(WORDS, 5 - shared, replace=False)]
        row = {"sentence1": first, "sentence2": " ".join(second), "score": shared, "subset": "xyz"[index % 3]}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def choose_on(
    encoder: TextEncoder,
    dev: StsTask,
    views: Sequence[View],
    material: Material,
    *,
    run: str | None = None,
    transductive: bool = False,
) -> list[Choice]:
    """What an evaluation chooses for one prompt on a similarity dev file."""
    fitting = Fitting.from_encoder(encoder, "bare", views, material, run=run)
    vectors = BothSides(encoder.encode_views(dev.test.queries, views, EncodeOptions("bare")))
    return choose_by_pooling(dev, vectors, fitting, views, transductive=transductive)


def write_pairs(path: Path, rows: int, seed: int) -> Path:
    texts = sentences(np.random.default_rng(seed), 2 * rows)
    lines = [json.dumps({"anchor": a, "positive": b}) for a, b in zip(texts[::2], texts[1::2], strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def passes(report: Report) -> dict[str, int]:
    """How many texts of each prompt went through the untuned decoder."""
    found = report.provenance["texts_through_the_decoder"]
    assert isinstance(found, dict)
    return dict(found.get("untuned", {}))
