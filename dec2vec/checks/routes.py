"""Whatever the other checks do not name: sentence-transformers and dec2vec give the same vectors."""

from __future__ import annotations

import numpy as np

from dec2vec.checks.finding import Finding
from dec2vec.checks.subject import PROBES, Subject
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.averaging import unit_rows

SAME_VECTORS = "same vectors"
_EXPORT_AGAIN = "export again (`dec2vec export`): a file of the folder was changed, or the versions do not fit"
SIDES: tuple[Side, Side] = ("query", "document")


def check_routes(subject: Subject) -> Finding:
    """On both sides, and on a text that is cut."""
    if len(subject.routes) < 2:
        return Finding(SAME_VECTORS, "skip", "only one way of loading it")
    texts = [*PROBES, "word after word " * 600]
    largest = 0.0
    for side in SIDES:
        ours, theirs = subject.embed_ours(texts, side), subject.embed_library(texts, side)
        if ours.shape != theirs.shape:
            what = f"{ours.shape[1]} dimensions by dec2vec, {theirs.shape[1]} by sentence-transformers"
            return Finding(SAME_VECTORS, "fail", what, _EXPORT_AGAIN)
        difference = float(np.abs(unit_rows(ours) - unit_rows(theirs)).max())
        if not difference <= subject.tolerance:
            what = f"{side}: dec2vec's and sentence-transformers' vectors differ by {difference:.2g}"
            return Finding(SAME_VECTORS, "fail", what, _EXPORT_AGAIN)
        largest = max(largest, difference)
    return Finding(SAME_VECTORS, "pass", f"dec2vec and sentence-transformers agree to {largest:.1g}")
