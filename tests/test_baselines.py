"""Outside baselines against the formulas and the libraries, in English and Chinese."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from eval.baselines import BASELINES, make_baseline
from eval.baselines import cosines as cosines_file
from eval.baselines.baseline import PairBaseline, VectorBaseline
from eval.baselines.character_ngrams import CharacterVectors
from eval.baselines.cosines import cosines, dense
from eval.baselines.encoder import OutsideEncoder
from eval.baselines.word_vectors import WordVectors
from eval.baselines.words import words
from eval.systems.subject import Subject
from tests.eval_data import sentences
from tests.helpers import tiny_model_folder, tiny_tokenizer

TRAIN = ["a man plays the guitar", "a woman plays the piano", "the dog runs", "一个男人在弹吉他", "一只狗在跑"] * 3
PAIRS = [
    ("a man plays the piano", "a man plays the guitar", "the dog runs"),
    ("一个男人在弹吉他。", "男人弹吉他", "一只狗在跑"),
]
WHOLE = "the same words", "the same words", 1.0


def fitted(name: str) -> VectorBaseline | PairBaseline:
    weighted = name == "word2vec-sif"
    small = weighted or name == "word2vec"
    baseline = WordVectors(weighted, dimension=8, epochs=30) if small else make_baseline(name, ModelConfig())
    if isinstance(baseline, VectorBaseline):
        baseline.fit(TRAIN)
    assert isinstance(baseline, (VectorBaseline, PairBaseline))
    return baseline


def similarity(baseline: VectorBaseline | PairBaseline, left: list[str], right: list[str]) -> np.ndarray:
    if isinstance(baseline, PairBaseline):
        return baseline.similarities(left, right)
    return cosines(baseline.encode(left), baseline.encode(right))


def test_words_of_both_scripts() -> None:
    assert words("It's 3 o'CLOCK, isn't_it?") == ["it", "s", "3", "o", "clock", "isn", "t_it"]
    assert words("iPhone 手机的App，好用！") == ["iphone", "手", "机", "的", "app", "好", "用"]
    assert words("カタカナ Straße") == ["カ", "タ", "カ", "ナ", "straße"]
    assert words("?!") == []


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "bm25"])
def test_every_baseline_ranks_symmetrically_and_survives_the_blank(name: str) -> None:
    baseline = fitted(name)
    assert Subject.from_baseline(baseline.name).name == f"baseline/{name}"
    text, near, far = (list(column) for column in zip(*PAIRS, strict=True))
    assert (similarity(baseline, text, near) > similarity(baseline, text, far)).all()
    np.testing.assert_allclose(similarity(baseline, text, near), similarity(baseline, near, text), atol=1e-6)
    np.testing.assert_allclose(similarity(baseline, text, text), 1, atol=1e-6)
    assert similarity(baseline, ["", "the dog"], ["", ""]).tolist() == [0, 0]
    assert similarity(baseline, ["?!", "zzz qqq"], ["the dog", "一"]).tolist() == [0, 0]
    assert similarity(baseline, [], []).shape == (0,)


def test_tfidf_by_its_formula() -> None:
    baseline = make_baseline("tfidf", ModelConfig())
    assert isinstance(baseline, VectorBaseline)
    baseline.fit(["aa bb", "aa cc cc", "aa"])
    inverse = {"aa": 1.0, "bb": math.log(4 / 2) + 1, "cc": math.log(4 / 2) + 1}
    vector = {"aa": 2.0, "bb": inverse["bb"]}
    other = {"aa": 1.0, "cc": inverse["cc"]}
    expected = vector["aa"] * other["aa"] / math.hypot(*vector.values()) / math.hypot(*other.values())
    found = cosines(baseline.encode(["aa aa bb unknown"]), baseline.encode(["cc aa"]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_character_ngrams_are_scikit_learns_own() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    baseline = CharacterVectors()
    baseline.fit(TRAIN)
    first = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4)).fit(TRAIN)
    grams = [gram for gram in first.get_feature_names_out() if gram != " "]
    plain = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, vocabulary=grams).fit(TRAIN)
    texts = ["A man  RUNS\tquickly", "一个男人 在跑 跑", "", "the the dog"]
    np.testing.assert_allclose(baseline.encode(texts).toarray(), plain.transform(texts).toarray(), atol=1e-6)
    few = CharacterVectors(features=5)
    few.fit(TRAIN)
    assert few.encode(texts).shape == (4, 5)


def test_overlaps_by_loops() -> None:
    left, right = sentences(np.random.default_rng(0), 20), sentences(np.random.default_rng(1), 20)
    left = [f"{text} {text[:2]} w1 w1" for text in left]
    for name in ("jaccard", "dice"):
        expected = []
        for a, b in zip(left, right, strict=True):
            one, other = a.split(), b.split()
            shared = set(one) & set(other)
            bag = sum(min(Counter(one)[word], Counter(other)[word]) for word in shared)
            expected.append(len(shared) / len({*one, *other}) if name == "jaccard" else 2 * bag / len(one + other))
        np.testing.assert_allclose(similarity(fitted(name), left, right), expected)


def test_generation_scores_are_the_libraries_means_of_both_directions() -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    left, right = "The quick, brown fox jumps.", "the slow (brown) fox jumps over U.S. dogs; it's 3.5 m"
    scorer = RougeScorer(["rougeL"])
    expected = {
        "bleu": lambda a, b: sacrebleu.sentence_bleu(a, [b], lowercase=True).score / 100,
        "chrf": lambda a, b: sacrebleu.sentence_chrf(a, [b]).score / 100,
        "rouge-l": lambda a, b: scorer.score(b, a)["rougeL"].fmeasure,
    }
    for name, score in expected.items():
        found = similarity(fitted(name), [left], [right])[0]
        assert found == pytest.approx((score(left, right) + score(right, left)) / 2)
    assert expected["bleu"](left, right) != pytest.approx(expected["bleu"](right, left))  # hence the mean


def test_dense_vectors_keep_every_cosine(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    baseline = fitted("char-ngrams")
    assert isinstance(baseline, VectorBaseline)
    left, right = baseline.encode(TRAIN[:4]), baseline.encode(TRAIN[1:5])
    queries, documents = dense(left, right)
    assert queries.dtype == documents.dtype == np.float32
    assert queries.shape[1] == documents.shape[1] <= left.shape[1]
    np.testing.assert_allclose(cosines(queries, documents), cosines(left, right), atol=1e-6)
    monkeypatch.setattr(cosines_file, "DENSE_BYTES", 100)
    monkeypatch.setattr(cosines_file, "PROJECTED", 120)
    queries, documents = dense(left, right)
    assert queries.shape[1] == 120
    assert "sparse vectors are projected to 120 dimensions" in caplog.text
    np.testing.assert_allclose(cosines(queries, documents), cosines(left, right), atol=0.4)


def test_word_vectors_are_means_of_words_and_repeatable() -> None:
    one, other = fitted("word2vec"), fitted("word2vec")
    assert isinstance(one, WordVectors) and isinstance(other, WordVectors)
    text = ["the dog plays", "dog", "the", "plays", "unknownword"]
    vectors = one.encode(text)
    np.testing.assert_array_equal(vectors, other.encode(text))
    np.testing.assert_allclose(vectors[0], vectors[1:4].mean(axis=0), atol=1e-6)
    assert not vectors[4].any()
    counts = Counter(word for sentence in TRAIN for word in words(sentence))
    share = np.array([counts[word] / sum(counts.values()) for word in ("dog", "the", "plays")])
    weighted = fitted("word2vec-sif")
    assert isinstance(weighted, WordVectors)
    averages = vectors[1:4] * (1e-3 / (1e-3 + share))[:, None]
    means = np.stack([_weighted_mean(words(sentence), one, counts) for sentence in TRAIN])
    common = np.linalg.svd(means)[2][0]
    expected = averages - np.outer(averages @ common, common)
    np.testing.assert_allclose(weighted.encode(text)[1:4], expected, rtol=1e-3, atol=1e-8)


def _weighted_mean(sentence: list[str], plain: WordVectors, counts: Counter[str]) -> np.ndarray:
    weights = [1e-3 / (1e-3 + counts[word] / sum(counts.values())) for word in sentence]
    return np.mean(np.array(weights)[:, None] * plain.encode(sentence), axis=0)


def test_an_encoder_folder_through_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW

    SentenceTransformer(modules=[BoW(vocab=["man", "dog", "guitar"])], device="cpu").save(str(tmp_path / "bow"))
    baseline = make_baseline(str(tmp_path / "bow"), ModelConfig())
    assert isinstance(baseline, OutsideEncoder)
    assert baseline.name == "bow"
    np.testing.assert_array_equal(baseline.encode(["man dog", "guitar"]), [[1, 1, 0], [0, 0, 1]])


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"baseline 'tf-idf' is neither the folder .* tfidf"):
        make_baseline("tf-idf", ModelConfig())
    with pytest.raises(UserError, match="tfidf has no vocabulary; fit it on text"):
        BASELINES["tfidf"]().encode(["a"])  # type: ignore[union-attr]
    with pytest.raises(UserError, match="word2vec: no word occurs 2 times in the 2 texts of its fit"):
        WordVectors().fit(["a b", "c d"])
    with pytest.raises(UserError, match="tfidf cannot be fitted on 1 texts: empty vocabulary"):
        BASELINES["tfidf"]().fit(["?!"])  # type: ignore[union-attr]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded as an encoder"):
        make_baseline(str(tmp_path), ModelConfig()).encode(["a"])  # type: ignore[union-attr]


def test_sif_of_the_input_embeddings(tmp_path: Path) -> None:
    """Against the formula, with frequencies and common component of the training-side text alone."""
    config = ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "model")), max_length=64)
    texts, others = (
        ["the cat sat", "a man is riding a horse", "the mat", "step by step"],
        ["the horse sat", "", "a cat"],
    )
    baseline = make_baseline("sif", config)
    assert isinstance(baseline, VectorBaseline)
    with pytest.raises(UserError, match="no frequencies"):
        baseline.encode(others)
    baseline.fit(texts)
    tokenizer = tiny_tokenizer()
    table = AutoModel.from_pretrained(tmp_path / "model").get_input_embeddings().weight.detach().double().numpy()

    def ids(some: list[str]) -> list[list[int]]:
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in some]

    counts = np.bincount(np.concatenate(ids(texts)), minlength=len(table))
    weights = 1e-3 / (1e-3 + counts / counts.sum())

    def mean(rows: list[list[int]]) -> np.ndarray:
        return np.array([np.mean([weights[t] * table[t] for t in row] or [0 * table[0]], axis=0) for row in rows])

    common = np.linalg.svd(mean(ids(texts)))[2][0]
    expected = mean(ids(others)) - np.outer(mean(ids(others)) @ common, common)
    np.testing.assert_allclose(baseline.encode(others), expected, atol=1e-6)
    plain = make_baseline("input-embeddings", config)
    assert isinstance(plain, VectorBaseline) and plain.name == "input-embeddings"
    plain.fit(texts)
    expected = np.array([np.mean([table[t] for t in row] or [0 * table[0]], axis=0) for row in ids(others)])
    np.testing.assert_allclose(plain.encode(others), expected, atol=1e-6)
