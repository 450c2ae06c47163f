"""Vectors of length 1: an index of dot products then ranks by cosine."""

from __future__ import annotations

import numpy as np

from dec2vec.checks.finding import Finding
from dec2vec.checks.subject import PROBES, Subject

UNIT_LENGTH = "unit length"


def check_unit_length(subject: Subject) -> Finding:
    """A fail where our own file promises it, a warning for other models."""
    for route, embed in subject.routes.items():
        lengths = np.linalg.norm(embed(PROBES), axis=1)
        if float(np.abs(lengths - 1).max()) > subject.tolerance:
            what = f"{route}: vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}"
            fix = "add the Normalize module to modules.json (or export again); else compare by cosine only"
            return Finding(UNIT_LENGTH, "fail" if subject.is_marked else "warn", what, fix)
    return Finding(UNIT_LENGTH, "pass", "every vector has length 1")
