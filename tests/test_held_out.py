"""Held-out pairs: nothing of them is trained on, and the search among them is measured as plain loops measure it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import cos_sim

from dec2vec.config.model import AS_CONFIGURED, EncodeOptions
from dec2vec.config.tasks import DevTaskConfig
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.files.dev_record import DevRecord, write_record
from dec2vec.files.held_out import SHARED, HeldOut, sample
from dec2vec.prompts.prompt import NORMALIZERS
from eval.config import EvalConfig
from eval.dev.held_out import contrastive_loss, read, retrieval_task
from eval.dev.tasks import DevTask, load_dev_tasks
from eval.inputs import measure_overlap, read_inputs
from eval.leakage.trained_on import run_sources
from eval.tasks.task import TaskVectors
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl
from tests.training_setup import data_of
from train.data.dataset import TrainingData
from train.data.held_out import _reading, split_off, texts_left_out
from train.data.siblings import find_siblings
from train.data.table import SourceTable
from train.options.data import SourceConfig

Row = tuple[str, ...]
PAIRS: list[Row] = [(f"question {number}", f"answer {number}", f"wrong {number}") for number in range(60)]


def split(rows: list[Row], count: int, documents: int = 30, normalization: str = "none") -> tuple[list[Row], HeldOut]:
    """The rows that are trained on, and what is held out."""
    data, held = split_off(*_arguments(rows, count, documents, NORMALIZERS[normalization]))  # type: ignore[index]
    return [tuple(row) for row in data.tables[0].texts], held


def _arguments(
    rows: list[Row], count: int, documents: int, normalize: Callable[[str], str]
) -> tuple[TrainingData, int, int, Callable[[str], str], str]:
    return data_of(SourceTable("pairs", rows)), count, documents, normalize, "eval.dev.0"


def test_no_text_of_a_held_out_pair_is_trained_on() -> None:
    """Planted: each pair once more with another positive, once with another anchor, and in capitals."""
    rows = PAIRS + [(anchor, f"other {positive}") for anchor, positive, _ in PAIRS[:20]]
    rows += [(f"other {anchor}", positive) for anchor, positive, _ in PAIRS[:20]]
    kept, held = split(rows, 9)
    assert len(held.queries) == 9 and {query.removeprefix("other ") for query in held.queries} <= {r[0] for r in PAIRS}
    texts = {text for row in kept for text in row[:2]}
    relevant = {held.documents[number] for found in held.relevant for number in found}
    assert texts.isdisjoint(held.queries) and texts.isdisjoint(relevant)
    left = [row for row in rows if row not in kept]
    assert all({row[0], row[1]} & {*held.queries, *relevant} for row in left)  # and no other row leaves
    for query, numbers in zip(held.queries, held.relevant, strict=True):
        assert {held.documents[number] for number in numbers} == {row[1] for row in rows if row[0] == query}


def test_texts_are_compared_as_the_model_reads_them() -> None:
    rows = [*PAIRS, *((anchor.upper(), f"new {positive}") for anchor, positive, _ in PAIRS)]
    kept, held = split(rows, 5, normalization="lower")
    assert {row[0].lower() for row in kept}.isdisjoint(query.lower() for query in held.queries)
    kept, held = split(rows, 5)  # the control: without normalisation capitals are other texts
    assert not {row[0].lower() for row in kept}.isdisjoint(query.lower() for query in held.queries)


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    _, held = split(PAIRS, 9)
    _, other = split(PAIRS[::-1], 9)
    assert set(held.queries) == set(other.queries) and set(held.documents) == set(other.documents)
    _, fewer = split(PAIRS, 4)
    assert set(fewer.queries) < set(held.queries)


def test_distractors_are_positives_that_are_trained_on() -> None:
    kept, held = split(PAIRS, 9, documents=30)
    relevant = {number for found in held.relevant for number in found}
    others = [text for number, text in enumerate(held.documents) if number not in relevant]
    assert (len(held.documents), len(others), len(set(others))) == (30, 21, 21)
    assert set(others) <= {row[1] for row in kept}


def test_rows_of_one_document_share_its_positive() -> None:
    """Sentences of a document with the rest of it: each text holds the anchors of the others."""
    words = [[f"w{number}-{place}" for place in range(4)] for number in range(30)]
    rows = [(of[place], " ".join(of[:place] + of[place + 1 :])) for of in words for place in range(4)]
    table = SourceTable("pairs", rows, ids=[f"d{number // 4}" for number in range(120)])
    data, held = split_off(data_of(table), 9, 30, str, "eval.dev.0")
    documents = {query.split("-")[0] for query in held.queries}
    assert len(documents) == 9 and len(data.tables[0]) == 120 - 9 * 4  # a query of each, and all its rows leave

    def shows(texts: Sequence[str]) -> int:
        return sum(query in text for query in held.queries for text in texts)

    relevant = {number for found in held.relevant for number in found}
    wrong = [text for number, text in enumerate(held.documents) if number not in relevant]
    assert shows([text for row in data.tables[0].texts for text in row]) == shows(wrong) == 0
    data, held = split_off(data_of(replace(table, ids=())), 9, 30, str, "eval.dev.0")  # the control
    assert shows([text for row in data.tables[0].texts for text in row]) > 9


def test_held_out_texts_are_no_hard_negatives() -> None:
    rows = [(f"q{number}", f"a{number}", f"n{number}", f"A{(number + 1) % 60}", "x") for number in range(60)]
    table = SourceTable("pairs", rows, document_scores=[(float(number), 1.0, 2.0, 3.0) for number in range(60)])
    data, held = split_off(data_of(table), 9, 9, str.lower, "eval.dev.0")
    kept = data.tables[0]
    shown = {text.lower() for row in kept.texts for text in row}
    assert shown.isdisjoint(text.lower() for text in [*held.queries, *held.documents])
    without = [row for row, texts in enumerate(kept.texts) if len(texts) == 4]
    assert without and f"{len(without)} hard negatives that are held-out texts were removed" in data.held_out
    for row, texts in enumerate(kept.texts):
        number = int(texts[0][1:])
        assert kept.document_scores[row] == ((number, 1, 3) if row in without else (number, 1, 2, 3))
        assert tuple(texts) == ((*rows[number][:3], "x") if row in without else rows[number])


def test_answers_of_rows_that_left_training_stay_known() -> None:
    """Each document has two queries; where one is held out, the other may still meet its answer elsewhere."""
    pairs = [(f"q{number}", f"a{number // 2}") for number in range(60)]
    more = [(f"q{number}", f"b{number}") for number in range(60)]
    whole = data_of(SourceTable("pairs", pairs + more))
    data, _ = split_off(whole, 5, 9, str, "eval.dev.0")
    before, after = find_siblings(whole, str), find_siblings(data, str)
    assert {key: keys.tolist() for key, keys in before.answers.items()} == {
        key: keys.tolist() for key, keys in after.answers.items()
    }
    assert len(find_siblings(replace(data, left_out=()), str).answers) < len(before.answers)


def test_texts_that_the_model_reads_alike_are_one() -> None:
    rows = [*PAIRS, *((anchor.upper(), positive.upper(), wrong) for anchor, positive, wrong in PAIRS)]
    _, held = split(rows, 10, documents=25, normalization="lower")
    assert (len(held.queries), len(held.documents)) == (10, 25)
    assert [len(found) for found in held.relevant] == [1] * 10
    assert len({text.lower() for text in held.documents}) == 25
    _, held = split(rows, 10, documents=25)
    assert (len(held.queries), len(held.documents)) == (10, 25)


def test_other_rows_with_a_held_out_text_are_counted() -> None:
    texts = SourceTable("texts", [(text,) for row in PAIRS for text in row[:2]])
    data, _ = split_off(data_of(SourceTable("pairs", PAIRS), texts), 9, 9, str, "eval.dev.0")
    assert len(data.tables[1]) == 120
    assert data.held_out.endswith("; 18 rows of data.1 (texts) have a held-out text and are trained on")


def held_out_run(folder: Path, data: TrainingData, path: str) -> str:
    """A run folder with what training writes down of the rows that it held out."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"data: [{{path: {path}}}]")
    (folder / "config.json").write_text("{}")
    write_record(DevRecord.of_texts([], texts_left_out(data)), folder)
    return str(folder)


def test_what_is_held_out_is_no_training_text(tmp_path: Path) -> None:
    """Neither for the whitening nor for the overlap of a later evaluation, although the run's file has it."""
    path = str(write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": a, "positive": p} for a, p, _ in PAIRS]))
    rows = SourceTable("pairs", [row[:2] for row in PAIRS])
    data, held = split_off(data_of(rows, path=path), 9, 9, str, "eval.dev.0")
    run = held_out_run(tmp_path / "run", data, path)
    known = run_sources(run)[path]
    assert set(known) == {text for row in data.tables[0].texts for text in row} and len(known) == 102
    asked = [{"sentence1": query, "sentence2": "a text of no file", "score": n} for n, query in enumerate(held.queries)]
    asked.append({"sentence1": data.tables[0].texts[0][0], "sentence2": "another", "score": 9})
    test = str(write_jsonl(tmp_path / "test.jsonl", asked))
    config = EvalConfig(tests=(test,), tuned=(run,), fit=(path,), cache="")
    inputs = read_inputs(config)
    assert len(inputs.trained.texts[path]) == len(inputs.sources[path]) == 102
    [overlap] = measure_overlap(inputs).counts
    assert (overlap.pairs, overlap.exact, overlap.pairs_clean) == (10, 1, 9)
    # another run that was trained on all of the file, and a run without a record: nothing is held out
    other = held_out_run(tmp_path / "other", replace(data, left_out=()), path)
    for runs in ((run, other), (other,)):
        inputs = read_inputs(replace(config, tuned=runs))
        assert len(inputs.trained.texts[path]) == len(inputs.sources[path]) == 120
        assert measure_overlap(inputs).counts[0].pairs_clean == 0


def test_a_run_that_went_on_knows_what_each_round_held_out(tmp_path: Path) -> None:
    """What was held out of the second round was trained on in the first, or may have been."""
    path = str(write_jsonl(tmp_path / "pairs.jsonl", [{"anchor": a, "positive": p} for a, p, _ in PAIRS]))
    data, _ = split_off(data_of(SourceTable("pairs", [row[:2] for row in PAIRS]), path=path), 9, 9, str, "eval.dev.0")
    whole = held_out_run(tmp_path / "whole", replace(data, left_out=()), path)
    same = held_out_run(tmp_path / "same", data, path)
    (tmp_path / "adapter").mkdir()
    second = Path(held_out_run(tmp_path / "second", data, path))
    for earlier, count in ((whole, 120), (same, 102), (str(tmp_path / "adapter"), 120)):
        (second / "config.yaml").write_text(f"data: [{{path: {path}}}]\nmodel: {{adapter: {earlier}}}")
        assert len(run_sources(str(second))[path]) == count


def test_a_text_that_many_rows_share_is_not_held_out() -> None:
    """Class names as positives: to hold one out would take its class out of training."""
    classes = [(f"utterance {number}", f"class {number % 2}") for number in range(40)]
    data, held = split_off(*_arguments([*classes, *PAIRS], 20, 50, str))
    assert {query.split()[0] for query in held.queries} == {"question"} and held.passed_over > 0
    assert f"more than {SHARED} rows share a text" in data.held_out
    with pytest.raises(UserError, match=r"held_out 5: there are only 0 queries .*\(40 others have a text that more"):
        split(classes, 5)


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(UserError, match=r"held_out 31: 31 of 60 pairs would leave training .*; use about 6, or give"):
        split(PAIRS, 31)
    with pytest.raises(UserError, match=r"there are only 60 queries that can be held out; use about 6, or give"):
        split(PAIRS, 500)
    split(PAIRS, 6)
    with pytest.raises(UserError, match="only pairs can be held out"):
        split_off(data_of(SourceTable("texts", [("a",), ("b",)])), 2, 9, str, "eval.dev.0")


def random_vectors(held: HeldOut, seed: int = 0) -> TaskVectors:
    generator = np.random.default_rng(seed)
    sides = generator.normal(size=(2, 40, 6)).astype(np.float32)
    return TaskVectors(sides[0, : len(held.queries)], sides[1, : len(held.documents)])


def test_metrics_are_those_of_sentence_transformers() -> None:
    rows = [*PAIRS, *((anchor, f"second {positive}") for anchor, positive, _ in PAIRS)]
    _, held = split(rows, 9, documents=35)
    vectors = random_vectors(held)
    found = retrieval_task(held).dev_scores(vectors)
    known = dict(zip([*held.queries, *held.documents], [*vectors.queries, *vectors.documents], strict=True))
    model = SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    model.encode = lambda texts, **_: np.stack([known[text] for text in texts])  # type: ignore[method-assign]
    model.encode_query = model.encode_document = model.encode  # type: ignore[method-assign]
    theirs = InformationRetrievalEvaluator(
        dict(zip(held.queries, held.queries, strict=True)),
        dict(zip(held.documents, held.documents, strict=True)),
        {query: {held.documents[n] for n in of} for query, of in zip(held.queries, held.relevant, strict=True)},
        precision_recall_at_k=[10, 100],
        score_functions={"cosine": cos_sim},
        show_progress_bar=False,
    ).compute_metrices(model)["cosine"]
    assert found["nDCG@10"] == pytest.approx(theirs["ndcg@k"][10]) and 0 < found["nDCG@10"] < 1
    assert found["MRR@10"] == pytest.approx(theirs["mrr@k"][10])
    assert [found["recall@10"], found["recall@100"]] == pytest.approx([theirs["recall@k"][k] for k in (10, 100)])


def test_the_loss_is_that_of_a_plain_loop() -> None:
    rows = [*PAIRS, *((anchor, f"second {positive}") for anchor, positive, _ in PAIRS)]
    _, held = split(rows, 9, documents=35)
    vectors = random_vectors(held, seed=1)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (vectors.queries, vectors.documents)]
    losses, naive = [], []
    for query, own in zip(unit[0], held.relevant, strict=True):
        scores = [float(np.dot(query.astype(float), document.astype(float))) / 0.5 for document in unit[1]]
        for positive in own:
            others = [score for number, score in enumerate(scores) if number not in own]
            losses.append(math.log(sum(map(math.exp, [scores[positive], *others]))) - scores[positive])
            naive.append(math.log(sum(map(math.exp, scores))) - scores[positive])  # siblings as negatives
    found = contrastive_loss(vectors, held.relevant, 0.5)
    assert found == pytest.approx(np.mean(losses), rel=1e-5) and found != pytest.approx(np.mean(naive), rel=1e-3)


def test_each_text_is_read_in_the_prompt_of_its_source() -> None:
    asked: list[tuple[str | None, str | None, str, list[str]]] = []

    class Asked(FakeEncoder):
        def encode_views(
            self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
        ) -> dict[View, np.ndarray]:
            assert list(views) == [self.view]  # the layer stays the model's, whatever the prompt
            asked.append((options.prompt, options.task, options.side, list(texts)))
            return {self.view: np.array([[float(text[-1])] for text in texts], dtype=np.float32)}

    rows = [("q1", "d3"), ("q2", "d4"), *((f"question {number}", f"answer {number}") for number in range(7))]
    table = SourceTable("pairs", rows, instructions=[("Find it", ""), *[("", "")] * 8])
    data = replace(data_of(table), sources=(SourceConfig("p", query_prompt="Query: {task} {text}"),))
    places = {text: row for row, texts in enumerate(rows) for text in texts}
    readings = {text: _reading(data, 0, row, text[0] in "da") for text, row in places.items()}
    sides = ["q1", "q2"], ["d3", "d4"]
    held = HeldOut(*sides, [[0], [1]], *([readings[text] for text in side] for side in sides))
    vectors = read(held, Asked())
    assert (vectors.queries.ravel().tolist(), vectors.documents.ravel().tolist()) == ([1, 2], [3, 4])
    prompt = "Query: {task} {text}"
    assert asked == [
        (prompt, "Find it", "query", ["q1"]),
        (prompt, None, "query", ["q2"]),
        (None, None, "document", ["d3", "d4"]),
    ]


def test_a_sample_is_the_same_whatever_the_order() -> None:
    texts = [f"text {number}" for number in range(50)]
    chosen = {texts[row] for row in sample(texts, 7)}
    assert len(chosen) == 7 and chosen == {texts[::-1][row] for row in sample(texts[::-1], 7)}
    assert sample(texts, None).tolist() == sample(texts, 50).tolist() == list(range(50))


def test_the_task_as_the_trainer_sees_it() -> None:
    _, held = split(PAIRS, 9)
    [task] = load_dev_tasks([DevTaskConfig(held_out=9)], held, 0.05)
    assert isinstance(task, DevTask) and (task.name, task.metric) == ("held-out", "nDCG@10")
    assert task.metrics == ("nDCG@10", "MRR@10", "recall@10", "recall@100") and len(task.items) == 9
