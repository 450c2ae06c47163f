"""Overlap: planted copies are found, others are not; the fast search equals a comparison of all with all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from eval.config import EvalConfig, PairsConfig, SystemsConfig, TopicsConfig
from eval.leakage.near import IDEOGRAPHS, LETTERS, THRESHOLD, NearIndex, jaccard, shingles
from eval.leakage.normal_form import normalized
from eval.leakage.overlap import EvaluationSet, Overlap, dev_source, dev_splits, evaluation_sets, measure
from eval.leakage.trained_on import trained_on
from eval.leakage.training_text import (
    TextSource,
    held_out_texts,
    merged_by_file,
    read_training_texts,
    with_fit_text,
)
from eval.report.notes import shown_dev, unknown_training
from eval.report.report import headline
from eval.run import evaluate
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import load_retrieval
from eval.tasks.sts import StsTask, load_task
from eval.tasks.task import TaskVectors
from eval.tasks.topic_files import load_topics
from tests.eval_data import write_pairs, write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
STS = ("sts12", "sts13", "sts14", "sts15", "sts16")
LONG = "the quick brown fox jumps over the lazy dog near the old stone bridge at dawn"


def words(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in generator.integers(0, 5000, count))


def task_of(folder: Path, rows: list[tuple[str, str, float]]) -> StsTask:
    path = folder / "test.jsonl"
    lines = [json.dumps({"sentence1": left, "sentence2": right, "score": score}) for left, right, score in rows]
    path.write_text("\n".join(lines) + "\n")
    return load_task(path)


def test_planted_copies_of_each_degree(tmp_path: Path) -> None:
    rows = [(LONG, "Something else entirely is here.", 0), ("Dogs run!", "Birds fly high above.", 5), ("!?", "Hm.", 2)]
    sets = [EvaluationSet.from_pairs(task_of(tmp_path, rows).test_pairs)]
    planted = {
        "exact": (["Dogs run!"], (1, 1, 1, 0, 2)),
        "normalised": (["dogs -- RUN"], (0, 1, 1, 0, 2)),
        "near": ([f"{LONG} today"], (0, 0, 1, 0, 2)),
        "both": (["dogs run", "birds fly high above"], (0, 2, 2, 1, 2)),
        "word changed": ([LONG.replace("stone", "wooden").replace("dog", "cat")], (0, 0, 0, 0, 3)),
        "words alone in common": (["dawn at bridge stone old the near"], (0, 0, 0, 0, 3)),
        "no words at all": (["...", ""], (0, 0, 0, 0, 3)),
        "marks": (["!?"], (1, 1, 1, 0, 2)),
    }
    for name, (texts, expected) in planted.items():
        (found,) = measure({name: texts}, sets).counts
        counts = (found.exact, found.normalized, found.near, found.pairs_with_both, found.pairs_clean)
        assert counts == expected, name
    together = measure({name: texts for name, (texts, _) in planted.items()}, sets)
    np.testing.assert_array_equal(together.clean["test"], [False, False, False])
    assert measure({}, sets).counts == []
    assert measure({}, sets).clean["test"].all()


def test_texts_without_spaces_are_compared_by_character() -> None:
    text = "新冠肺炎疫情期间小区居民出入需要什么证明"
    assert len(shingles(text)) == len(text) - (IDEOGRAPHS - 1)
    assert {len(shingle) for shingle in shingles("ກຂຄງຈສຊຍດ ນບປ")} == {LETTERS}
    assert NearIndex([text]).found([text + "呢"]) == {text}
    assert NearIndex([text]).found(["花呗分期付款可以提前还款吗我想知道手续费"]) == set()
    assert shingles(normalized("我用 Python 写 code")) == shingles("我 用 python 写 code")
    assert normalized("你好，世界！") == normalized("你好世界") == "你好世界"
    assert normalized("我用 Python，写 code") == "我用 python 写 code" and normalized("a，b") == "a b"


def test_labelled_texts_count_each_item() -> None:
    found = measure({"train": ["a b c d"]}, [EvaluationSet.from_texts("topics", ["a b c d", "e f", "A b c d!", "e f"])])
    (counts,) = found.counts
    assert (counts.texts, counts.exact, counts.normalized, counts.pairs, counts.pairs_clean) == (3, 1, 2, 4, 2)
    np.testing.assert_array_equal(found.clean["topics"], [False, True, False, True])


def test_fast_search_equals_all_against_all() -> None:
    """Around the threshold too: texts with one to four words changed at random places."""
    generator = np.random.default_rng(0)
    index = [words(generator, int(count)) for count in generator.integers(1, 30, 150)]
    asked = [words(generator, 12) for _ in range(50)]
    for text in index:
        changed = text.split()
        for place in generator.integers(0, len(changed), generator.integers(0, 3)):
            changed[place] = "new"
        asked.append(" ".join([*changed, *["more"] * int(generator.integers(0, 3))]))
    cut = {text: shingles(text) for text in {*index, *asked}}
    expected = {text for text in index if any(jaccard(cut[text], cut[other]) >= THRESHOLD for other in asked)}
    assert 30 < len(expected) < 140
    assert len(expected - set(asked)) > 20
    assert NearIndex(index).found(asked) == expected


def test_many_texts_take_seconds() -> None:
    generator = np.random.default_rng(1)
    index = NearIndex([words(generator, 9) for _ in range(500)])
    texts = [words(generator, 9) for _ in range(5_000)]
    started = time.process_time()
    assert index.found(texts) == set()
    assert time.process_time() - started < 2


def test_scores_on_the_clean_remainder(tmp_path: Path) -> None:
    """Equal to scipy on the pairs left by hand; the full figures do not change."""
    dev, first = write_similarity(tmp_path / "dev.jsonl", 60, 1), write_similarity(tmp_path / "one.jsonl", 80, 2)
    second = write_similarity(tmp_path / "two.jsonl", 50, 3)
    pairs = [json.loads(line) for line in first.read_text().splitlines()]
    copied = {row["sentence2"].upper() for row in pairs[:30]}
    config = EvalConfig(
        dev=str(dev),
        tests=(str(first), str(second)),
        systems=SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",)),
        bootstrap=100,
    )
    tuned = FakeEncoder(noise=(0.1, 0.1, 0.1))
    report = evaluate(
        config,
        base=FakeEncoder(),
        tuned={"mine": tuned},
        training_texts={"pairs": [*copied, "new text here"]},
        progress=False,
    )
    seen = {text.lower() for text in copied}
    left = [i for i, row in enumerate(pairs) if not {row["sentence1"], row["sentence2"]} & seen]
    assert 40 <= len(left) <= 50
    task = load_task(first)
    pairs, vectors = task.test_pairs, tuned.encode(task.test.queries, normalize=False)
    cosines = pairs.cosines(TaskVectors.from_queries(vectors))[left]
    row = report.result("tuned/mine", "one", clean=True)
    assert row.value == pytest.approx(spearmanr(cosines, pairs.gold[left]).statistic)
    assert row.n == len(left)
    whole = report.result("tuned/mine", "two", clean=True)
    assert (whole.n, whole.value) == (50, report.result("tuned/mine", "two").value)
    assert report.result("tuned/mine", "average", clean=True).value == pytest.approx((row.value + whole.value) / 2)
    found = report.comparison
    assert found is not None and found.tuned is not None and found.untuned is not None
    gap = report.result(f"{found.tuned.name} minus {found.untuned.name}", "average", clean=True)
    pair = found.tuned, found.untuned
    mine, other = (report.result(party.name, "average", clean=True).value for party in pair)
    assert gap.value == pytest.approx(mine - other)
    counts = {row.evaluation: row for row in report.overlap if row.training != "dev (choices)"}
    assert counts["one"].pairs_clean == len(left) and counts["two"].pairs_clean == 50


def test_nothing_left_is_no_figure(tmp_path: Path) -> None:
    dev, test = write_similarity(tmp_path / "dev.jsonl", 40, 1), write_similarity(tmp_path / "one.jsonl", 30, 2)
    systems = SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",))
    config = EvalConfig(dev=str(dev), tests=(str(test),), systems=systems, bootstrap=100)
    texts = {"train": load_task(test).test.queries}
    report = evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, training_texts=texts, progress=False)
    row = report.result("tuned/a", "average", clean=True)
    assert row.n == 0 and np.isnan(row.value) and row.low is not None and np.isnan(row.low)


def test_without_training_text_nothing_is_measured(tmp_path: Path) -> None:
    dev, test = write_similarity(tmp_path / "dev.jsonl", 40, 1), write_similarity(tmp_path / "one.jsonl", 30, 2)
    systems = SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",))
    config = EvalConfig(dev=str(dev), tests=(str(test),), systems=systems, bootstrap=100)
    report = evaluate(config, base=FakeEncoder(), tuned={"a": FakeEncoder()}, progress=False)
    assert [row.training for row in report.overlap] == ["dev (choices)"]
    assert not any(line.startswith("Overlap") for line in headline(report))
    fitted = write_pairs(tmp_path / "fit.jsonl", 10, 5)
    again = evaluate(
        EvalConfig(dev=str(dev), tests=(str(test),), fit=(str(fitted),), systems=systems, bootstrap=100),
        base=FakeEncoder(),
        tuned={"a": FakeEncoder()},
        progress=False,
    )
    assert again.overlap and any(row.clean for row in again.results)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_sentences_of_mrpc_are_found_in_sts12() -> None:
    """1,325 sentences of MRPC train, 1,323 of them to the letter; two are one sentence in two spellings."""
    task = load_task(SHARED / "sts_en" / "sts12.test.jsonl")
    texts = read_training_texts(TextSource(str(SHARED / "pairs" / "mrpc.train.jsonl")))
    counts = measure({"mrpc": texts}, [EvaluationSet.from_pairs(task.test_pairs)]).counts
    assert [(row.exact, row.normalized) for row in counts] == [(1323, 1326)]
    assert len({*map(normalized, texts)} & {*map(normalized, task.test.queries)}) == 1325


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_known_contamination_is_found() -> None:
    """MRPC train stands in STS12: 1,325 sentences, of which 1,323 to the letter; STS-B train is drawn from STS12 to 16.

    Two of the 1,325 are one sentence in two spellings within STS12: 1,326 of its texts.
    """
    tasks = {name: load_task(SHARED / "sts_en" / f"{name}.test.jsonl") for name in STS}
    sets = [EvaluationSet.from_pairs(task.test_pairs) for task in tasks.values()]
    files = {"mrpc": SHARED / "pairs" / "mrpc.train.jsonl", "stsb": SHARED / "sts_en" / "stsb.train.jsonl"}
    sources = {name: read_training_texts(TextSource(str(path))) for name, path in files.items()}
    counts = {(row.training, row.evaluation): row for row in measure(sources, sets).counts}
    found = {key: (row.exact, row.normalized) for key, row in counts.items()}
    assert found["mrpc", "sts12.test"] == (1323, 1326)
    assert len({*map(normalized, sources["mrpc"])} & {*map(normalized, tasks["sts12"].test.queries)}) == 1325
    assert all(counts["mrpc", f"{name}.test"].near == 0 for name in STS[1:])
    expected = {"sts12": (1009, 1908), "sts13": (1148, 1148), "sts14": (3354, 3355), "sts15": (2158, 2159)}
    assert {name: found["stsb", f"{name}.test"] for name in STS} == {**expected, "sts16": (394, 394)}


def test_pairs_that_choices_are_made_on_are_counted_and_left_out_of_the_clean_score(tmp_path: Path) -> None:
    file = write_similarity(tmp_path / "all.jsonl", 40, 5)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    dev = write_jsonl(tmp_path / "dev.jsonl", rows[:20])
    test = write_jsonl(tmp_path / "test.jsonl", rows[15:])
    chosen_on, tests = load_task(dev), [load_task(test)]
    seen = measure({}, evaluation_sets(tests), dev_source(chosen_on, tests))
    [count] = seen.counts
    assert (count.training, count.evaluation, count.pairs_with_both) == ("dev (choices)", "test", 5)
    np.testing.assert_array_equal(np.flatnonzero(~seen.clean["test"]), range(5))
    assert dev_source(None, []) == []


def test_one_index_serves_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are those of an index for each source and set alone; near-duplicates across sets do not mix."""
    names = ("dev", "one", "two")
    similar = [write_similarity(tmp_path / f"{name}.jsonl", 30, seed) for seed, name in enumerate(names)]
    dev, *tests = map(load_task, similar)
    long = [f"{LONG} {number}" for number in range(10)]
    learnt = [{"text": text, "label": f"class {n % 2}"} for n, text in enumerate([*long, tests[0].test.queries[0]])]
    longer = [{**row, "text": f"{row['text']} again"} for row in learnt[:3]]
    files = {
        "train": str(write_jsonl(tmp_path / "train.jsonl", learnt)),
        "test": str(write_jsonl(tmp_path / "topics.jsonl", [*topic_rows("test"), *longer])),
    }
    topics = TopicsConfig(**files, method="knn", name="topics")
    config = EvalConfig(
        dev=str(similar[0]),
        tests=(str(similar[1]), str(similar[2])),
        topics=(topics,),
        systems=SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",)),
        bootstrap=100,
    )
    shown = {
        "a": [*dev.test.queries[:7], *tests[0].test.queries[5:9], f"{LONG} today"],
        "b": tests[1].test.queries[::2],
    }
    built: list[NearIndex] = []

    class Counted(NearIndex):
        def __init__(self, keys: Iterable[str]) -> None:
            super().__init__(keys)
            built.append(self)

    monkeypatch.setattr("eval.leakage.overlap.NearIndex", Counted)
    report = evaluate(config, base=FakeEncoder(), tuned={}, training_texts=shown, progress=False)
    assert len(built) == 1
    task = load_topics(topics)
    sets = evaluation_sets([dev, *tests], [task])
    pairs = [(name, texts, item) for name, texts in shown.items() for item in sets]
    pairs += [("dev (choices)", dev.test.queries, item) for item in sets if item.name in ("one", "two")]
    pairs += [("topics train", [str(row["text"]) for row in learnt], item) for item in sets if item.name == "topics"]
    apart = [row for name, texts, item in pairs for row in measure({name: texts}, [item]).counts]
    assert report.overlap == apart and len(built) == 1 + len(apart)
    assert {row.training for row in apart if row.near > row.normalized} == {"a", "topics train"}
    assert measure({}, sets).counts == [] and len(built) == 1 + len(apart)


def test_nothing_is_fitted_on_dev_texts(tmp_path: Path) -> None:
    """Those of further tasks included; what a classifier learns from is training-side text."""
    test = write_jsonl(tmp_path / "t.jsonl", [{"sentence1": "a", "sentence2": "b", "label": n % 2} for n in range(4)])
    dev = write_jsonl(tmp_path / "d.jsonl", [{"sentence1": "c", "sentence2": "d", "label": n % 2} for n in range(4)])
    topics = {name: write_jsonl(tmp_path / f"{name}.jsonl", topic_rows(name)) for name in ("train", "test", "held")}
    files = {"train": str(topics["train"]), "test": str(topics["test"]), "dev": str(topics["held"])}
    tasks = [load_pairs(PairsConfig(test=str(test), dev=str(dev))), load_topics(TopicsConfig(**files, method="knn"))]
    held = set(held_out_texts(tasks))
    assert {"a", "b", "c", "d", "test 0", "held 3"} <= held and not any(text.startswith("train") for text in held)


def topic_rows(name: str) -> list[dict[str, object]]:
    return [{"text": f"{name} {number}", "label": f"class {number % 2}"} for number in range(6)]


def test_a_run_whose_training_text_is_unknown_is_named(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "config.yaml").write_text("data: [{path: nowhere.jsonl}]")
    (tmp_path / "config.yaml").write_text("data: [{path: not-mine.jsonl}]")
    found = trained_on(str(tmp_path / "bare"), str(tmp_path / "gone"))
    assert found.texts == {} and list(found.unknown) == [str(tmp_path / "bare"), str(tmp_path / "gone")]
    why = list(found.unknown.values())
    assert "no config.yaml" in why[0] and "nowhere" in why[1]
    [first, _] = unknown_training(found.unknown)
    assert first.startswith("Warning: the training data of ") and "is not measured" in first


def test_a_dev_file_that_tuning_has_shown_is_warned_of() -> None:
    counts = {"a dev": (5, "dev"), "b dev": (6, "dev"), "a": (9, "test")}
    rows = [Overlap("mine.jsonl", name, 100, 0, 0, near, 50, 0, 40, part) for name, (near, part) in counts.items()]
    [line] = shown_dev(rows, ["mine.jsonl"])
    assert line.startswith("Warning: 6 of the 100 texts of b dev occur in mine.jsonl")
    assert shown_dev(rows, []) == []


def test_two_spellings_of_a_file_are_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    monkeypatch.chdir(tmp_path)
    whole = str(tmp_path / "a.jsonl")
    found = merged_by_file({whole: ["one", "two"], "gone": ["x"], "a.jsonl": ["two", "three"]})
    assert found == {whole: ["one", "two", "three"], "gone": ["x"]}


def test_what_only_the_whitening_reads_of_a_file_counts_as_no_training(tmp_path: Path) -> None:
    """A run left out the rows of its dev set (`data.N.only`), and `fit` names the same file as a whole."""
    rows: list[dict[str, object]] = [
        {"sentence1": f"left {n} of {kind}", "sentence2": f"right {n} of {kind}", "label": n % 2, "category": kind}
        for kind in ("flu", "cough")
        for n in range(8)
    ]
    path = str(write_jsonl(tmp_path / "pairs.jsonl", rows))
    (tmp_path / "run").mkdir()
    source = {"path": path, "kind": "graded", "score": "label", "only": ["category=flu"]}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({"data": [source]}))
    test = str(write_jsonl(tmp_path / "test.jsonl", rows[:8]))
    dev = load_pairs(PairsConfig(test=test, dev=path, dev_only=("category=cough",)))
    trained = trained_on(str(tmp_path / "run")).texts
    shown = with_fit_text(trained, {path: read_training_texts(TextSource(path))})
    assert {name: len(texts) for name, texts in shown.items()} == {path: 16, f"{path} (fit)": 16}
    seen = measure(shown, evaluation_sets([], [dev]))
    counts = {(row.training, row.part): row.normalized for row in seen.counts}
    assert counts[path, "dev"] == 0 and counts[f"{path} (fit)", "dev"] == 16 and counts[path, "test"] == 16
    assert shown_dev(seen.counts, list(trained)) == []
    everything = measure(merged_by_file({path: [*shown[path], *shown[f"{path} (fit)"]]}), evaluation_sets([], [dev]))
    assert shown_dev(everything.counts, list(trained)) != []


def test_what_a_task_chooses_on_is_counted_and_left_out_of_its_clean_figure(tmp_path: Path) -> None:
    """Of pairs both texts, of topics the texts alone, of a search the queries alone."""
    rows = [{"sentence1": f"left {n} here", "sentence2": f"right {n} there", "label": n % 2} for n in range(12)]
    files = {name: str(write_jsonl(tmp_path / f"{name}.jsonl", part)) for name, part in (("t", rows), ("d", rows[9:]))}
    labelled = {name: topic_rows("test")[skip:] for name, skip in (("test", 0), ("dev", 4))}
    topics = {name: str(write_jsonl(tmp_path / f"topics-{name}.jsonl", part)) for name, part in labelled.items()}
    folder = tmp_path / "search"
    folder.mkdir()
    write_jsonl(folder / "corpus.jsonl", [{"id": n, "text": f"document {n}"} for n in range(3)])
    write_jsonl(folder / "queries.jsonl", [{"id": n, "text": f"question {n}"} for n in range(3)])
    write_jsonl(folder / "dev_queries.jsonl", [{"id": n, "text": f"Question {n + 2}!"} for n in range(3)])
    for name in ("qrels", "dev_qrels"):
        write_jsonl(folder / f"{name}.jsonl", [{"query_id": n, "doc_id": n, "score": 1} for n in range(3)])
    tasks = [
        load_pairs(PairsConfig(test=files["t"], dev=files["d"])),
        load_topics(TopicsConfig(test=topics["test"], dev=topics["dev"])),
        load_retrieval(folder),
    ]
    seen = measure({}, evaluation_sets([], tasks), dev_splits(tasks))
    found = {row.training: (row.evaluation, row.texts, row.normalized, row.pairs_clean) for row in seen.counts}
    assert found == {
        "t dev (choices)": ("t", 24, 6, 9),
        "topics-test/word dev (choices)": ("topics-test/word", 6, 2, 4),
        "search dev (choices)": ("search", 3, 1, 2),
    }
    assert dev_splits([]) == []
