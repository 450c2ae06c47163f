"""BM25 against bm25s used directly, its formula, and texts in other languages."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from eval.baselines import make_baseline
from eval.baselines.baseline import SearchBaseline
from eval.baselines.bm25 import Bm25, language_of
from eval.baselines.words import index_words
from tests.lexical_collection import collection, ndcg_at_10

ARTICLES = {
    "English": "All human beings are born free and equal in dignity and rights, and endowed with reason.",
    "German": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.",
    "Dutch": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn met rede begaafd.",
    "French": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "Spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y dotados como están de razón.",
    "Portuguese": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos, dotados de razão.",
    "Italian": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
    "Russian": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом.",
    "Swedish": "Alla människor är födda fria och lika i värde och rättigheter. De har utrustats med förnuft.",
    "Danish": "Alle mennesker er født frie og lige i værdighed og rettigheder. De er af naturen udstyret med fornuft.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.",
}
UNKNOWN = {
    "Polish": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "Finnish": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan. Heille on annettu järki "
    "omatunto, heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "labels": "wing flow plate shock layer heat",
}


def scores_of(baseline: SearchBaseline, documents: list[str], queries: list[str]) -> np.ndarray:
    baseline.fit(documents)
    ranking = baseline.rank(queries, len(documents))
    scores = np.zeros((len(queries), len(documents)))
    for row, (positions, values) in enumerate(zip(ranking.positions, ranking.scores, strict=True)):
        found = positions >= 0
        scores[row, positions[found]] = values[found]
    return scores


def test_equals_bm25s_with_english_stop_words_and_stems() -> None:
    import bm25s
    from Stemmer import Stemmer

    documents, queries, _ = collection()
    options = {"stopwords": "en", "stemmer": Stemmer("english"), "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, **options), show_progress=False)
    found = index.retrieve(bm25s.tokenize(queries, **options), k=len(documents), show_progress=False)
    expected = np.zeros((len(queries), len(documents)))
    for row, (positions, values) in enumerate(zip(found.documents, found.scores, strict=True)):
        expected[row, positions] = values
    baseline = make_baseline("bm25", ModelConfig())
    assert isinstance(baseline, SearchBaseline)
    scores = scores_of(baseline, documents, queries)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert ndcg_at_10(scores) == pytest.approx(ndcg_at_10(expected))
    assert baseline.described == "English stop words and stems"


def test_by_lucenes_formula() -> None:
    documents = ["alpha beta beta", "alpha gamma", "delta delta delta alpha beta"]
    found = scores_of(Bm25(), documents, ["beta delta unknown"])[0]
    lengths = [len(document.split()) for document in documents]
    for document, length, score in zip(documents, lengths, found, strict=True):
        expected = 0.0
        for term in ("beta", "delta"):
            frequency = sum(term in other.split() for other in documents)
            inverse = math.log(1 + (3 - frequency + 0.5) / (frequency + 0.5))
            count = Counter(document.split())[term]
            expected += inverse * count / (count + 1.5 * (0.25 + 0.75 * length / np.mean(lengths)))
        assert score == pytest.approx(expected, rel=1e-5)


def test_what_shares_nothing_is_not_found_and_equal_documents_keep_their_order() -> None:
    baseline = Bm25()
    baseline.fit(["flow", "heat", "flow", "", "wing"])
    ranking = baseline.rank(["flow", "the", "", "unheard"], 5)
    assert ranking.positions.tolist() == [[0, 2, -1, -1, -1], *[[-1] * 5] * 3]
    assert baseline.rank(["flow"], 1).positions.tolist() == [[0]]
    with pytest.raises(UserError, match="bm25: none of the 2 documents has a word"):
        Bm25().fit(["", "?!"])
    with pytest.raises(UserError, match="bm25 has no index"):
        Bm25().rank(["a"], 1)


@pytest.mark.parametrize("language", ARTICLES)
def test_the_language_of_the_documents_is_told_by_their_stop_words(language: str) -> None:
    assert language_of([index_words(ARTICLES[language])]) == language


@pytest.mark.parametrize("language", UNKNOWN)
def test_in_other_languages_words_stay_as_they_are(language: str) -> None:
    baseline = Bm25()
    baseline.fit([UNKNOWN[language]])
    assert baseline.described == "no stop words or stems"
    assert baseline._terms(index_words(UNKNOWN[language])) == index_words(UNKNOWN[language])


def test_a_word_of_half_the_documents_still_counts() -> None:
    """Input of issue 39 of rank_bm25, whose score of the first document is 0."""
    documents = [
        "This text contains keyword1 and Keyword2",
        "That is a text that contains keyword1 and term1",
        "Page contains no keywords but contains term1 and term2",
        "This text contains no keywords",
    ]
    found = scores_of(Bm25(), documents, ["This is a question about keyword1 & term1"])[0]
    assert found[1] > found[0] > 0 and found[2] > 0 and found[3] == 0


def test_stems_meet_and_chinese_is_found_by_its_characters() -> None:
    german = Bm25()
    german.fit([ARTICLES["German"], "Der Mensch ist frei", "Das Haus ist alt und das Dach ist neu"])
    assert german.rank(["die Menschen"], 3).positions[0].tolist()[:2] != [2, -1]
    assert set(german.rank(["die Menschen"], 3).positions[0].tolist()) == {0, 1, -1}
    chinese = Bm25()
    chinese.fit(["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"])
    assert chinese.rank(["故乡"], 2).positions.tolist() == [[3, -1]]
