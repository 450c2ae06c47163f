"""Each outside baseline against its own reference implementation, with the settings that its users know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec.config.model import ModelConfig
from eval.baselines import make_baseline
from eval.baselines.baseline import PairBaseline, VectorBaseline
from eval.baselines.encoder import OutsideEncoder
from eval.baselines.evidence import task_vectors
from eval.baselines.sif import common_component, without_component
from eval.baselines.word_vectors import WordVectors
from eval.baselines.words import index_words, words
from eval.config import GapConfig, TopicsConfig
from eval.tasks.gap import load_gap
from eval.tasks.topic_files import load_topics
from tests.helpers import write_jsonl

ENGLISH = [
    "The wing's boundary-layer is thin at Mach 3.5, isn't it?",
    "A boundary layer, by definition, has no slip at the wall.",
    "I wrote 2 e-mails to X; the wall of the tunnel is cold.",
    "Shock waves: a survey (1958). the shock-wave is thin",
    "the THE the",
]
OTHERS = ["Is the boundary layer thin?", "no known words whatsoever", "a 3 X", ""]
CHINESE = ["今天天气很好，我们去公园。", "天气不好！不去公园了", "手机App很好用？"]


def vectors_of(name: str, texts: Sequence[str]) -> VectorBaseline:
    baseline = make_baseline(name, ModelConfig())
    assert isinstance(baseline, VectorBaseline)
    baseline.fit(texts)
    return baseline


def pairs_of(name: str) -> PairBaseline:
    baseline = make_baseline(name, ModelConfig())
    assert isinstance(baseline, PairBaseline)
    return baseline


@pytest.mark.parametrize(("name", "reference"), [("tfidf", "TfidfVectorizer"), ("bag-of-words", "CountVectorizer")])
def test_words_are_counted_as_by_scikit_learns_defaults(name: str, reference: str) -> None:
    from sklearn.feature_extraction import text

    vectorizer: Any = getattr(text, reference)().fit(ENGLISH)
    for texts in (ENGLISH, OTHERS):
        found = vectors_of(name, ENGLISH).encode(texts)
        expected = vectorizer.transform(texts).toarray()
        np.testing.assert_allclose(np.asarray(found.todense()), expected, atol=1e-6)  # type: ignore[union-attr]


def test_words_of_scripts_that_the_default_pattern_breaks() -> None:
    import re

    hindi, tamil, thai = "हिन्दी की किताब", "தமிழ் மொழி", "ภาษาไทย"
    assert words(hindi) == hindi.split() and words(tamil) == tamil.split()
    assert re.findall(r"(?u)\b\w\w+\b", hindi) != hindi.split()  # what scikit-learn would count
    assert words(thai) == list("ภาษาไทย")
    public = ["ప్రధానమంత్రిని కలుసుకున్నారు", "आधुनिक मानक हिन्दी", "They met the Prime Minister"]  # scikit-learn issue 30935
    assert [word for text in public for word in index_words(text)] == " ".join(public).lower().split()
    assert words("ที่ดี") == ["ที่", "ดี"]  # a mark stays with its letter
    assert words("မြန်မာ") == ["မြ", "န်", "မာ"]
    assert words("ខ្មែរ") == ["ខ្", "មែ", "រ"]
    assert words("cafe\u0301") == words("café")
    assert words("한국어 책") == ["한국어", "책"]
    assert index_words("a 手 X 3 ab") == ["手", "ab"]


def test_bleu_is_sacrebleus_sentence_bleu_in_lower_case_and_its_tokenizer_for_chinese() -> None:
    import sacrebleu

    for texts, options in ((ENGLISH, {}), (CHINESE, {"tokenize": "zh"})):
        left, right = texts[:-1], texts[1:]
        for a, b, found in zip(left, right, pairs_of("bleu").similarities(left, right), strict=True):
            both = [sacrebleu.sentence_bleu(x, [y], lowercase=True, **options).score for x, y in ((a, b), (b, a))]
            assert found == pytest.approx(sum(both) / 200), (a, b)


def test_chrf_and_rouge_are_the_libraries_own() -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    left, right = ENGLISH[:-1], ENGLISH[1:]
    chrf, rouge = (pairs_of(name).similarities(left, right) for name in ("chrf", "rouge-l"))
    for a, b, one, other in zip(left, right, chrf, rouge, strict=True):
        both = [sacrebleu.sentence_chrf(x, [y]).score for x, y in ((a, b), (b, a))]
        assert one == pytest.approx(sum(both) / 200)
        assert other == pytest.approx(scorer.score(a, b)["rougeL"].fmeasure)


def test_the_common_component_is_removed_as_in_the_code_of_the_paper() -> None:
    """`remove_pc` of Arora et al.: TruncatedSVD(1, n_iter=7) of uncentred vectors, then X - X pc' pc."""
    from sklearn.decomposition import TruncatedSVD

    vectors = (np.random.default_rng(0).standard_normal((60, 8)) + 1).astype(np.float32)
    wide = vectors.astype(np.float64)
    component = TruncatedSVD(n_components=1, n_iter=7, random_state=0).fit(wide).components_
    expected = wide - wide @ component.T @ component
    np.testing.assert_allclose(without_component(vectors, common_component(vectors)), expected, atol=1e-4)
    centred = wide - wide.mean(axis=0)
    assert np.abs(np.linalg.svd(centred)[2][0] - component).max() > 0.1  # not what centring would remove


def test_word2vec_is_gensims() -> None:
    from gensim.models import Word2Vec

    texts = [text.lower() for text in ENGLISH] * 3
    baseline = WordVectors(dimension=8, epochs=3)
    baseline.fit(texts)
    sentences = [words(text) for text in texts if len(words(text)) > 1]
    options = {"vector_size": 8, "window": 5, "min_count": 2, "sg": 1, "seed": 0, "workers": 1, "epochs": 3}
    model = Word2Vec(sentences, **options)
    expected = np.mean([model.wv[word] for word in ("boundary", "layer", "boundary")], axis=0)
    np.testing.assert_allclose(baseline.encode(["Boundary layer BOUNDARY"])[0], expected, atol=1e-6)


class Prompted:
    """Stands for a sentence-transformers model that has prompts for queries and documents."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def get_embedding_dimension(self) -> int:
        return 4

    def _note(self, side: str, texts: Sequence[str]) -> np.ndarray:
        self.seen += [(side, text) for text in texts]
        return np.ones((len(texts), 4), dtype=np.float32)

    def encode(self, texts: Sequence[str], **_: object) -> np.ndarray:
        return self._note("plain", texts)

    def encode_query(self, texts: Sequence[str], **_: object) -> np.ndarray:
        return self._note("query", texts)

    def encode_document(self, texts: Sequence[str], **_: object) -> np.ndarray:
        return self._note("document", texts)


def test_only_a_search_is_encoded_with_query_and_document_prompts(tmp_path: Path) -> None:
    baseline, model = OutsideEncoder(str(tmp_path)), Prompted()
    baseline._model = model
    topics: list[dict[str, object]] = [{"text": f"t {index}", "label": f"{index % 2}"} for index in range(4)]
    task_vectors(baseline, load_topics(TopicsConfig(test=str(write_jsonl(tmp_path / "topics.jsonl", topics)))))
    assert {side for side, _ in model.seen} == {"plain"}
    model.seen.clear()
    rows: list[dict[str, object]] = [
        {"sentence1": f"q {index}", "sentence2": f"d {index}", "label": index % 2} for index in range(4)
    ]
    task_vectors(baseline, load_gap(GapConfig(test=str(write_jsonl(tmp_path / "gap.jsonl", rows)))))
    assert {(side, text[0]) for side, text in model.seen} == {("query", "q"), ("document", "d")}


def test_an_encoder_gives_the_vectors_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    model = SentenceTransformer(modules=[BoW(vocab=["query", "man", "dog", "guitar"])], device="cpu")
    model.prompts = {"query": "query ", "document": ""}
    model.save(str(tmp_path / "bow"))
    baseline, texts = OutsideEncoder(str(tmp_path / "bow")), ["man dog", "guitar"]
    reference = SentenceTransformer(str(tmp_path / "bow"), device="cpu")
    np.testing.assert_array_equal(baseline.encode(texts), reference.encode(texts))
    np.testing.assert_array_equal(baseline.encode(texts, "query"), reference.encode_query(texts))
    assert not np.array_equal(baseline.encode(texts), baseline.encode(texts, "query"))
