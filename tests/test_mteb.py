"""Two tiny tasks of our own, run offline by mteb on a fake encoder; its scores against scipy's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from dec2vec.errors import UserError
from eval.metrics.correlation import cosine_pairs
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.run import run_mteb
from tests.fake_encoder import FakeEncoder

mteb = pytest.importorskip("mteb", reason="the mteb package is not installed")

LEFT = ["a man plays", "the dog runs", "rain falls", "she sings a song"]
RIGHT = ["a man sings", "the cat sleeps", "rain falls hard", "he counts money"]
SCORES = [3.0, 1.0, 5.0, 0.0]


class Sides(FakeEncoder):
    """Remembers which side it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def encode(self, texts: Any, **options: Any) -> Any:
        self.asked.append((options["side"], len(texts)))
        return super().encode(texts, **options)


def metadata(kind: str, name: str, main_score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        type=kind,
        main_score=main_score,
        description="made up",
        dataset={"path": "none/none", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        category="t2t",
    )


def sts_task() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    class TinySts(AbsTaskSTS):
        metadata = metadata("STS", "TinySts", "cosine_spearman")

        def load_data(self, **kwargs: Any) -> None:
            rows = {"sentence1": LEFT, "sentence2": RIGHT, "score": SCORES}
            self.dataset = DatasetDict(test=Dataset.from_dict(rows))
            self.data_loaded = True

    return TinySts()


def retrieval_task() -> Any:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    class TinyRetrieval(AbsTaskRetrieval):
        metadata = metadata("Retrieval", "TinyRetrieval", "ndcg_at_10")

        def load_data(self, **kwargs: Any) -> None:
            part = {
                "queries": Dataset.from_dict({"id": ["q0", "q1"], "text": LEFT[:2]}),
                "corpus": Dataset.from_dict({"id": ["d0", "d1", "d2", "d3"], "text": RIGHT, "title": [""] * 4}),
                "relevant_docs": {"q0": {"d0": 1}, "q1": {"d3": 1}},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": part}}
            self.data_loaded = True

    return TinyRetrieval()


def test_the_protocol_is_mtebs() -> None:
    from mteb.models.models_protocols import EncoderProtocol

    encoder = MtebEncoder("dec2vec/toy", encoder=FakeEncoder())
    assert isinstance(encoder, EncoderProtocol)
    assert encoder.mteb_model_meta.name == "dec2vec/toy"
    vectors = FakeEncoder().encode(LEFT)
    np.testing.assert_allclose(encoder.similarity(vectors, vectors).numpy(), vectors @ vectors.T, atol=1e-5)


def test_prompt_types_are_sides() -> None:
    from mteb.types import PromptType

    sides = Sides()
    encoder = MtebEncoder("dec2vec/toy", encoder=sides)
    task = SimpleNamespace(name="Toy")
    for kind in (PromptType.query, PromptType.document, None):
        encoder.encode(
            [{"text": LEFT[:3]}, {"text": LEFT[3:]}], task_metadata=task, hf_split="", hf_subset="", prompt_type=kind
        )
    assert (encoder.cuts["Toy"].texts, encoder.cuts["Toy"].cut) == (4, 0)
    assert sides.asked == [("query", 4), ("document", 4), ("text", 4)]


def test_an_sts_task_of_our_own(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    scores = run_mteb(MtebEncoder("dec2vec/toy", encoder=encoder), [sts_task()], tmp_path / "out")
    cosines = cosine_pairs(encoder.encode(LEFT), encoder.encode(RIGHT))
    assert scores == {"TinySts": pytest.approx(spearmanr(cosines, SCORES).statistic)}
    written = json.loads((tmp_path / "out" / "TinySts.json").read_text())
    assert written["task_name"] == "TinySts"
    assert written["scores"]["test"][0]["main_score"] == pytest.approx(scores["TinySts"])


def test_a_retrieval_task_asks_for_both_sides(tmp_path: Path) -> None:
    sides = Sides()
    scores = run_mteb(MtebEncoder("dec2vec/toy", encoder=sides), [retrieval_task()], tmp_path)
    assert sorted(sides.asked) == [("document", 4), ("query", 2)]
    cosines = FakeEncoder().encode(LEFT[:2]) @ FakeEncoder().encode(RIGHT).T
    ranks = [int((row > row[wanted]).sum()) for row, wanted in zip(cosines, (0, 3), strict=True)]
    assert scores["TinyRetrieval"] == pytest.approx(np.mean([1 / np.log2(rank + 2) for rank in ranks]), abs=1e-4)


def test_unknown_names_are_refused_before_anything_runs(tmp_path: Path) -> None:
    encoder = MtebEncoder("dec2vec/toy", encoder=Sides())
    with pytest.raises(UserError, match=r"MTEB task 'STS-12': .*not found"):
        run_mteb(encoder, [sts_task(), "STS-12"], tmp_path)
    assert not list(tmp_path.iterdir())
