"""MTEB dev tasks of our own: what limits keep, the score of it, and the texts that are foretold are those embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from dec2vec.config.load import validate
from dec2vec.config.tasks import DevTaskConfig
from dec2vec.errors import UserError
from eval.dev import tasks as dev_tasks
from eval.dev.tasks import DevTask, load_dev_tasks
from tests.fake_encoder import FakeEncoder
from tests.test_mteb import metadata

pytest.importorskip("mteb", reason="the mteb package is not installed")
COUNT = 40
WORDS = [f"w{n % 7} x{n % 11} y{n % 5} {n}" for n in range(COUNT)]
OTHERS = [f"w{n % 7} x{n % 13} z{n % 3} {n}" for n in range(COUNT)]
SCORES = [float((n * 37) % 50) for n in range(COUNT)]


class Reader(FakeEncoder):
    """Remembers the texts that it was given, by side."""

    def __init__(self) -> None:
        super().__init__(noise=(4.0, 0.5, 0.4))
        self.read: dict[str, set[str]] = {}

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        self.read.setdefault(options["side"], set()).update(texts)
        return super().encode(texts, **options)


def tiny(base: type, kind: str, score: str, dataset: Any) -> Any:
    def load_data(self: Any, **_: Any) -> None:
        self.dataset, self.data_loaded = dataset(), True

    return type(f"Tiny{kind}", (base,), {"metadata": metadata(kind, f"Tiny{kind}", score), "load_data": load_data})()


def sts() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS

    rows = {"sentence1": WORDS, "sentence2": OTHERS, "score": SCORES}
    return tiny(AbsTaskSTS, "STS", "cosine_spearman", lambda: DatasetDict(test=Dataset.from_dict(rows)))


def search() -> Any:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    def data() -> Any:
        queries = Dataset.from_dict({"id": [f"q{n}" for n in range(COUNT)], "text": WORDS})
        corpus = Dataset.from_dict({"id": [f"d{n}" for n in range(COUNT)], "text": OTHERS, "title": ["t"] * COUNT})
        relevant = {f"q{n}": {f"d{n}": 1, f"d{(n + 1) % COUNT}": 0} for n in range(COUNT)}
        return {
            "default": {"test": {"queries": queries, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None}}
        }

    return tiny(AbsTaskRetrieval, "Retrieval", "ndcg_at_10", data)


def classes() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification

    def data() -> Any:
        train = Dataset.from_dict({"text": [f"train {text}" for text in WORDS], "label": [n % 2 for n in range(COUNT)]})
        return DatasetDict(train=train, test=Dataset.from_dict({"text": WORDS, "label": [n % 2 for n in range(COUNT)]}))

    return tiny(AbsTaskClassification, "Classification", "accuracy", data)


def groups() -> Any:
    """Each row is a list of texts that are clustered, with a list of labels."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClusteringLegacy

    rows = {"sentences": [WORDS, OTHERS], "labels": [[n % 4 for n in range(COUNT)]] * 2}
    return tiny(AbsTaskClusteringLegacy, "Clustering", "v_measure", lambda: DatasetDict(test=Dataset.from_dict(rows)))


def load(task: Any, monkeypatch: pytest.MonkeyPatch, **bounds: int) -> DevTask:
    monkeypatch.setattr(dev_tasks, "find_task", lambda _: task)
    [found] = load_dev_tasks([validate(DevTaskConfig, {"mteb": "Tiny", **bounds})], None, 0.05)
    return found


def smallest(texts: Sequence[str], count: int) -> list[int]:
    """The numbers of the texts with the smallest hashes."""
    keys = [hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    return sorted(sorted(range(len(texts)), key=lambda at: int(keys[at], 16) >> 1)[:count])


def test_rows_are_chosen_by_a_hash_of_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, whole, task = Reader(), Reader(), sts()
    rows = smallest([f"{a}\0{b}" for a, b in zip(WORDS, OTHERS, strict=True)], 15)
    found = load(task, monkeypatch, limit=15).measure(reader)["main_score"]
    left, right = (FakeEncoder(noise=(4.0, 0.5, 0.4)).encode([side[row] for row in rows]) for side in (WORDS, OTHERS))
    assert found == pytest.approx(spearmanr((left * right).sum(axis=1), [SCORES[row] for row in rows]).statistic)
    assert reader.read == {"text": {side[row] for row in rows for side in (WORDS, OTHERS)}}
    # the task itself is as it was, and the control reads all of it
    assert load(task, monkeypatch).measure(whole)["main_score"] != found and len(whole.read["text"]) == 2 * COUNT


def test_a_search_keeps_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    task = load(search(), monkeypatch, limit=6, documents=20)
    found = task.measure(reader)["main_score"]
    kept = smallest(WORDS, 6)
    assert reader.read["query"] == {WORDS[row] for row in kept}
    assert len(reader.read["document"]) == 20 and {f"t {OTHERS[row]}" for row in kept} <= reader.read["document"]
    encoder, documents = FakeEncoder(noise=(4.0, 0.5, 0.4)), sorted(reader.read["document"])
    cosines = encoder.encode([WORDS[row] for row in kept]) @ encoder.encode(documents).T
    answers = [documents.index(f"t {OTHERS[row]}") for row in kept]
    ranks = [int((row > row[answer]).sum()) for row, answer in zip(cosines, answers, strict=True)]
    assert found == pytest.approx(np.mean([1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks]), abs=1e-4)
    assert task.texts is not None and set(task.texts.documents) == reader.read["document"]


@pytest.mark.parametrize(
    ("make", "bounds", "count"), [(sts, {}, 80), (classes, {"limit": 10}, 50), (groups, {"limit": 12}, 12)]
)
def test_what_is_foretold_is_embedded(
    make: Any, bounds: dict[str, int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a classifier all training texts at most, as mteb draws them."""
    reader = Reader()
    task = load(make(), monkeypatch, **bounds)
    assert np.isfinite(task.measure(reader)["main_score"])
    assert task.texts is not None and len(task.texts.queries) == count and not task.texts.documents
    assert reader.read["text"] <= set(task.texts.queries)
    assert {text for text in task.texts.queries if not text.startswith("train")} <= reader.read["text"]


def test_what_cannot_be_bounded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="MTEB task TinySTS searches no documents; remove documents, or use limit"):
        load(sts(), monkeypatch, documents=5)
    gone = tiny(type(sts()).__mro__[1], "STS", "cosine_spearman", lambda: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match="MTEB task TinySTS: its data could not be loaded: no network"):
        load(gone, monkeypatch)
    hashes = {load(sts(), monkeypatch, **bounds).content_hash for bounds in ({}, {"limit": 5}, {"limit": 6})}
    assert len(hashes) == 3
