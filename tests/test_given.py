"""The row of the exported model has the whitening of the run's folder, whatever a report fits under the same name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dec2vec.decoder.pooling import View
from dec2vec.vectors.whitening import Whitening
from eval.selection.choose import Choice
from eval.selection.given import as_exported, with_given
from eval.systems.system import Post, System
from eval.tasks.task import TaskVectors

VIEW = View("last", 2)
RAW = System("bare", VIEW, "a")
VECTORS = {VIEW: TaskVectors.from_queries(np.ones((3, 2), dtype=np.float32))}


def whitening(text: str) -> Whitening:
    return Whitening(np.zeros(2), np.eye(2), {"k": 2, "fit_sha256": text})


@pytest.mark.parametrize("text", ["that of the run", "that of the report"])
def test_the_exported_whitening_is_the_runs_own(text: str) -> None:
    mine = whitening("that of the run")
    system = replace(RAW, post=Post("whiten", "whiten-2", 2))
    fitted = Choice(system, 2, 0.5, chosen_on="dev", post=whitening(text), selection="dev")
    [raw, whitened] = with_given([Choice(RAW, 2, 0.4), fitted], as_exported(RAW, mine), VECTORS)
    assert raw.system == RAW and not raw.is_exported
    assert whitened.is_exported and whitened.post is not None
    assert whitened.post.provenance["fit_sha256"] == "that of the run"
    assert whitened.selection == ("dev" if text == "that of the run" else "fixed")
