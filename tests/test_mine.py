"""`dec2vec mine` end to end on a tiny decoder: against brute force over all texts, and through the trainer's reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import numpy as np
import pytest

from dec2vec import Encoder, ModelConfig
from dec2vec.cli import main
from dec2vec.config.encoder_args import EncoderArgs
from dec2vec.corpus.faiss_index import index_array, search_array
from dec2vec.errors import UserError
from dec2vec.prompts.cut_texts import CutTexts
from tests.helpers import tiny_model_folder, write_jsonl
from train.data.dataset import load_data
from train.mining import encoders
from train.mining.cross_encoder import rescore
from train.mining.encoders import Vectors, embed_all
from train.mining.output import _advice
from train.mining.pairs import Material, read_material, same
from train.mining.search import Judges, mine
from train.mining.selection import ABSENT, Rules, Selection
from train.options.data import SourceConfig

ROWS: list[dict[str, object]] = [
    {"anchor": "red dog runs", "positive": "a dog", "source": "x"},
    {"anchor": "red dog runs", "positive": "Red  dog runs fast"},
    {"anchor": "blue cat", "positive": "small blue cat", "negative": "old bird sings"},
    {"anchor": "old bird", "positive": "old bird sings"},
    {"anchor": "A DOG", "positive": "young dog eats"},
    {"anchor": "green horse", "positive": "large horse sleeps"},
    {"anchor": "woman", "positive": "young woman sings"},
    {"anchor": "man eats", "positive": "old man eats"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    tiny_model_folder(folder / "decoder")
    write_jsonl(folder / "pairs.jsonl", ROWS)
    return folder


def run(place: Path, *options: str) -> list[dict[str, Any]]:
    """The rows that the verb writes."""
    model = ["--model", str(place / "decoder"), "--device", "cpu", "--max_length", "64"]
    assert main(["mine", str(place / "pairs.jsonl"), *model, "--output", str(place / "mined.jsonl"), *options]) == 0
    return [json.loads(line) for line in (place / "mined.jsonl").read_text(encoding="utf-8").splitlines()]


def brute_force(place: Path, count: int, ratio: float) -> list[list[str]]:
    """Every corpus text against every rule, in numpy."""
    encoder = Encoder.load(ModelConfig(name_or_path=str(place / "decoder"), device="cpu", max_length=64))
    corpus = [str(row["positive"]) for row in ROWS]
    expected = []
    for row in ROWS:
        anchor = encoder.encode([str(row["anchor"])], progress=False)[0].astype(float)
        cosines = encoder.encode(corpus, side="document", progress=False).astype(float) @ anchor
        bound = cosines[corpus.index(str(row["positive"]))]
        bound -= (1 - ratio) * abs(bound)
        partners = {same(str(row["anchor"])), same(str(row.get("negative", "")))}
        for other in ROWS:
            pair = same(str(other["anchor"])), same(str(other["positive"]))
            if same(str(row["anchor"])) in pair:
                partners.update(pair)
        free = [i for i in np.argsort(-cosines) if same(corpus[i]) not in partners and cosines[i] <= bound]
        expected.append([corpus[i] for i in free[:count]])
    return expected


def test_the_verb_against_brute_force_and_the_trainer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(place, "--negatives", "2", "--ratio", "0.99")
    expected = brute_force(place, 2, 0.99)
    mined = [
        [text for key, text in row.items() if key.startswith("negative_") and key != "negative_scores"] for row in found
    ]
    mined[2] = mined[2][1:]  # its given negative comes first
    assert found[2]["negative_1"] == "old bird sings" and found[2]["negative_scores"][0] is None
    assert mined == expected and any(mined)
    assert found[0]["source"] == "x"
    for row in found:
        scores = [score for score in row["negative_scores"] if score is not None]
        assert scores == sorted(scores, reverse=True)
        assert all(score <= row["positive_score"] for score in scores)
    (table,) = load_data([SourceConfig(path=str(place / "mined.jsonl"))]).tables
    assert [list(texts[2:]) for texts in table.texts][3:] == mined[3:]
    report = json.loads((place / "mined.report.json").read_text(encoding="utf-8"))
    assert sum(report["rows_with_negatives"].values()) == len(ROWS)
    assert report["rows_with_negatives"]["2"] == sum(len(texts) == 2 for texts in mined)
    assert "## Examples" in (place / "mined.report.md").read_text(encoding="utf-8")


def test_mistakes_are_one_line_and_leave_the_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = place / "kept.jsonl"
    output.write_text("old", encoding="utf-8")
    (place / "one.txt").write_text("a dog\nA  dog\n", encoding="utf-8")
    model = ["--model", str(place / "decoder"), "--device", "cpu", "--max_length", "64"]
    base = ["mine", str(place / "pairs.jsonl"), *model, "--output", str(output)]
    for options, words in (
        (["--min_rank", "9", "--max_rank", "3"], "--min_rank 9 is larger than --max_rank 3"),
        (["--max_rank", "2", "--negatives", "3"], "raise --max_rank"),
        (["--corpus", str(place / "one.txt")], "1 different text"),
        (["--only", "source=y"], "no row has source=y; change `only`"),
        (["--output", str(place / "pairs.jsonl")], "is an input"),
        (["--output", "x.csv"], "use .jsonl"),
        (["--max_score", "-1"], "; try a larger --max_score"),
        (["--margin", "2.1"], "; try --margin 0 or a larger --max_rank"),
        (["--rescore", str(place / "decoder")], "is no cross-encoder: its config names"),
    ):
        assert main([*base, *options]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert output.read_text(encoding="utf-8") == "old"
    assert not list(place.glob("kept.report.*"))


def test_where_all_scores_are_alike_the_message_says_so() -> None:
    report = {"refused": {"ratio": 1.0, "margin": 0.5}, "candidate_scores": [0.981, 0.999], "options": {"ratio": 0.95}}
    assert _advice(report) == "the scores of the candidates are all alike, from 0.981 to 0.999; try --ratio 1"
    report["candidate_scores"] = [0.1, 0.999]
    assert _advice(report) == "the scores of the candidates are from 0.100 to 0.999; try --ratio 1"


def plain_vectors(seed: int = 0, count: int = 300, dimension: int = 12) -> tuple[Material, Vectors]:
    """Random directions: text i of the corpus is the positive of anchor i."""
    generator = np.random.default_rng(seed)
    corpus = [f"text {i}" for i in range(count)]
    anchors = [f"anchor {i}" for i in range(count)]
    places = dict(zip(corpus, generator.normal(size=(count, dimension)), strict=True))
    places |= {f"anchor {i}": places[f"text {i}"] + 0.2 * generator.normal(size=dimension) for i in range(count)}

    def embed(texts: list[str], *, document: bool, task: str | None = None) -> Any:
        wide = np.array([places[text] for text in texts], dtype=np.float32)
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)

    material = Material("m", anchors, corpus, [()] * count, [{}] * count, corpus, [{i} for i in range(count)])
    return material, embed_all(embed, anchors, corpus, corpus)


@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("hnsw", 0.95), ("ivf", 0.7)])
def test_every_index_finds_the_negatives_of_the_exact_one(kind: Any, least: float) -> None:
    material, vectors = plain_vectors()
    selection = Selection(count=3, max_rank=20, rules=Rules(ratio=0.95))
    exact, _, certain = mine(material, vectors, Judges(), selection)
    found, tally, recall = mine(material, vectors, Judges(), selection, index_kind=kind)
    assert tally.candidates > 0 and certain == 1.0 and least <= recall <= 1
    pairs = [
        ({negative.position for negative in one.negatives}, {negative.position for negative in other.negatives})
        for one, other in zip(exact, found, strict=True)
    ]
    assert sum(len(one & other) for one, other in pairs) >= least * sum(len(one) for one, _ in pairs)


def test_a_teacher_that_disagrees_refuses() -> None:
    material, vectors = plain_vectors()
    selection = Selection(count=3, max_rank=20, rules=Rules(ratio=0.95))
    alone, _, _ = mine(material, vectors, Judges(), selection)
    agreeing, _, _ = mine(material, vectors, Judges(teacher=vectors), selection)
    assert agreeing == alone
    reversed_teacher = Vectors(
        -vectors.anchors, vectors.documents, vectors.anchor_of, vectors.positive_of, vectors.corpus_size
    )
    refused, tally, _ = mine(material, vectors, Judges(teacher=reversed_teacher), selection)
    assert not any(row.negatives for row in refused)
    assert tally.refused["teacher"] == tally.candidates


def test_a_cross_encoder_replaces_the_cosines() -> None:
    """Scored by the number in the text: the positive of anchor i is i, and the largest below it are taken."""
    material, vectors = plain_vectors(count=60)

    def score(pairs: list[tuple[str, str]]) -> Any:
        return np.array([float(text.split()[1]) for _, text in pairs])

    selection = Selection(count=2, max_rank=59, rules=Rules(margin=1.0, ratio=1.0))
    mined, _, _ = mine(material, vectors, Judges(cross_encoder=score), selection)
    for row, found in enumerate(mined):
        assert [n.position for n in found.negatives] == [i for i in (row - 1, row - 2) if i >= 0]
        assert found.positive_score == row
    scores, best = rescore(score, ["a"], ["text 4"], material.corpus, np.array([[7, ABSENT]]))
    assert scores[0, 0] == 7 and np.isnan(scores[0, 1]) and best[0] == 4


def test_the_index_gives_cosines() -> None:
    _, vectors = plain_vectors(count=50)
    scores, positions = search_array(index_array(vectors.corpus, "flat"), vectors.anchors[:5], 3)
    np.testing.assert_allclose(
        scores, np.take_along_axis(vectors.anchors[:5] @ vectors.corpus.T, positions, axis=1), atol=1e-6
    )


def test_the_corpus_of_a_file_and_what_it_excludes(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", ROWS)
    (tmp_path / "corpus.txt").write_text("A dog\na  DOG\n\nsomething else\nred dog RUNS\n", encoding="utf-8")
    material = read_material(str(tmp_path / "pairs.jsonl"), corpus=tmp_path / "corpus.txt")
    assert material.corpus == ["A dog", "something else", "red dog RUNS"]
    assert [sorted(places) for places in material.excluded[:3]] == [[0, 2], [0, 2], []]
    assert sorted(material.excluded[4]) == [0, 2]  # anchor "A DOG" is the positive of "red dog runs"


@pytest.mark.parametrize("options", [{"only": ("source=x",)}, {"limit": 1}])
def test_rows_that_are_left_out_still_say_what_belongs_together(tmp_path: Path, options: dict[str, Any]) -> None:
    """Row 0 alone is mined for: row 1 has its anchor, and with it another text that is no negative."""
    write_jsonl(tmp_path / "pairs.jsonl", [*ROWS, {"note": "no pair"}, {"anchor": "x", "positive": None}])
    (tmp_path / "corpus.txt").write_text("small blue cat\nred dog runs FAST\na dog\n", encoding="utf-8")
    material = read_material(str(tmp_path / "pairs.jsonl"), **options)
    assert (material.anchors, material.positives) == (["red dog runs"], ["a dog"])
    assert material.other_columns == [{"source": "x"}]
    assert material.corpus == [str(row["positive"]) for row in ROWS]
    assert [sorted(places) for places in material.excluded] == [[0, 1]]
    given = read_material(str(tmp_path / "pairs.jsonl"), corpus=tmp_path / "corpus.txt", **options)
    assert [sorted(places) for places in given.excluded] == [[1, 2]]


def test_limit_counts_the_rows_of_the_file_in_named_columns(tmp_path: Path) -> None:
    """As training reads them, to which the same options are given."""
    rows: list[dict[str, object]] = [{"title": f"t{i}", "body": [f"b{i}", f"c{i}"]} for i in range(3)]
    path = str(write_jsonl(tmp_path / "own.jsonl", rows))
    material = read_material(path, "title", "body", limit=2)
    found = list(zip(material.anchors, material.positives, strict=True))
    data = load_data([SourceConfig(path, anchor="title", positive="body", limit=2)])
    assert found == list(data.tables[0].texts) and len(found) == 4
    assert len(material.corpus) == 6


def test_what_is_said_of_a_file_names_what_mine_has(tmp_path: Path) -> None:
    """Options of training are called by their name here, or said to be options of training."""
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"title": "t", "body": "b"}])
    with pytest.raises(UserError, match=r"name the columns with --anchor and --positive(?!.*data\.N)"):
        read_material(str(odd))
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", ["d1", "d2"]), ("queries", ["q1", "q2"])):
        write_jsonl(beir / f"{name}.jsonl", [{"_id": text, "text": f"text {text}"} for text in texts])
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"the splits with judgements are: test \(write PATH@SPLIT\)$"):
        read_material(str(beir))
    assert read_material(f"{beir}@test").positives == ["text d1", "text d2"]
    faulty = [{"query": f"q{i}", "pos": ["p"] if i else [], "neg": []} for i in range(3)]
    with pytest.raises(UserError, match=r"data\.N\.bad_rows 0\.01 allows; .* \(an option of training, not of mine\)$"):
        read_material(str(write_jsonl(tmp_path / "faulty.jsonl", faulty)))


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_sentence_transformers_model_is_one_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """By what was downloaded of it: without a network nothing else is known of the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    theirs = encoders.SentenceTransformerEncoder(None, CutTexts())
    ours = encoders.OurEncoder(mock.create_autospec(Encoder, instance=True), EncoderArgs(), CutTexts())
    monkeypatch.setattr(encoders.SentenceTransformerEncoder, "load", lambda name, args: theirs)
    monkeypatch.setattr(encoders.OurEncoder, "load", lambda name, args: ours)
    contents = {"encoder": ["modules.json"], "export": ["modules.json", "dec2vec.json"], "decoder": []}
    args = EncoderArgs()
    found = {}
    for kind, files in contents.items():
        cached = tmp_path / "hub" / f"models--some--{kind}"
        snapshot = cached / "snapshots" / ("0" * 40)
        for file in ["config.json", *files]:
            snapshot.mkdir(parents=True, exist_ok=True)
            (snapshot / file).write_text("{}", encoding="utf-8")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40, encoding="utf-8")
        found[kind] = encoders.load_embed(f"some/{kind}" if place == "hub" else str(snapshot), args)
    assert found == {"encoder": theirs, "export": ours, "decoder": ours}
    with pytest.raises(UserError, match="--prompt: some/encoder is a sentence-transformers model with its own prompts"):
        encoders.load_embed("some/encoder", EncoderArgs(prompt="bare"))
    with pytest.raises(UserError, match=r"model \./gone: no such folder"):
        encoders.load_embed("./gone", args)
