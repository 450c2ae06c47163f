"""`eval.dev` takes tasks of any kind: what chooses, what is logged, what bounds them, and where collections lie."""

from __future__ import annotations

import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train.loop.fit
from dec2vec.config.load import dump, load, validate
from dec2vec.config.tasks import ClusteringConfig, DevTaskConfig, GapConfig, PairsConfig, RetrievalConfig, TopicsConfig
from dec2vec.errors import UserError
from dec2vec.files.held_out import HeldOut
from eval.config import EvalConfig
from eval.dev.tasks import check_shared, load_dev_tasks
from eval.report.report import headline
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import load_retrieval
from eval.tasks.sts import load_task
from tests.fake_encoder import FakeEncoder
from tests.helpers import graded_pairs, write_jsonl
from tests.processes import exit_code_alone, run_alone, run_ranks
from tests.report_data import full_report
from tests.tiny_run import fingerprint, metrics_of, write_run
from tests.tiny_run import train as train_run
from tests.training_setup import tiny_encoder
from train.__main__ import _eval_command, _eval_config
from train.config import EvalSection, LoraConfig, TrainConfig
from train.judge import Judge, said_beforehand, score_name, shared
from train.sweep.grid import inputs_of
from train.sweep.run_all import _best_dev
from train.sweep.wandb_sweep import wandb_sweep

HELD = HeldOut(["q one", "q two"], ["d one", "d two", "other"], [[0], [1]], [(None, None)] * 2, [(None, None)] * 3)


def collection(folder: Path, queries: int = 6, documents: int = 20, parts: tuple[str, ...] = ("test",)) -> Path:
    """A BEIR folder; document n answers query n."""
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "title": "", "text": f"cat {n}"} for n in range(documents)])
    found = [(part, f"{part}{n}") for part in parts for n in range(queries)]
    write_jsonl(folder / "queries.jsonl", [{"_id": name, "text": f"mat {name}"} for _, name in found])
    for part in parts:
        rows = [f"{name}\td{n}\t1" for n, (own, name) in enumerate(found) if own == part]
        (folder / "qrels" / f"{part}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


@pytest.fixture
def tasks(tmp_path: Path) -> list[DevTaskConfig]:
    labelled = [{"text": f"{label} {n} cat", "label": label} for label in ("red", "blue") for n in range(12)]
    pairs = [{"sentence1": f"cat {n}", "sentence2": f"{n} mat", "label": n % 2} for n in range(20)]
    files = {"sts": graded_pairs(16), "pairs": pairs, "topics": labelled}
    paths = {name: str(write_jsonl(tmp_path / f"{name}.jsonl", rows)) for name, rows in files.items()}
    return [
        DevTaskConfig(held_out=2),
        DevTaskConfig(similarity=paths["sts"]),
        DevTaskConfig(pairs=PairsConfig(dev=paths["pairs"])),
        DevTaskConfig(topics=TopicsConfig(dev=paths["topics"], name="colours")),
        DevTaskConfig(clustering=ClusteringConfig(test=paths["topics"])),
        DevTaskConfig(retrieval=RetrievalConfig(path=str(collection(tmp_path / "search")))),
    ]


def test_every_kind_is_measured_and_the_mean_chooses(tasks: list[DevTaskConfig]) -> None:
    judge = Judge.of(load_dev_tasks(tasks, HELD, 0.05), None)
    verdict = judge(FakeEncoder())  # type: ignore[arg-type]
    mains = [verdict.metrics[f"dev/{task.name}/{task.metric}"] for task in judge.tasks]
    names = ["held-out", "sts", "pairs", "colours", "topics/clusters", "search"]
    assert [task.name for task in judge.tasks] == names and len({*mains}) > 3
    assert verdict.score == verdict.metrics["dev_score"] == pytest.approx(np.mean(mains))
    assert {"dev/held-out/loss", "dev/search/recall@100", "dev/pairs/auc", "dev/pairs/accuracy"} <= {*verdict.metrics}
    assert f"dev mean of 6 tasks {100 * verdict.score:.2f} (held-out nDCG@10" in verdict.shown


@pytest.mark.parametrize(
    ("metric", "chosen"),
    [("search/MRR@10", "dev/search/MRR@10"), ("auc", "dev/pairs/auc"), ("sts/spearman_all", "dev/sts/spearman_all")],
)
def test_a_named_metric_chooses(tasks: list[DevTaskConfig], metric: str, chosen: str) -> None:
    verdict = Judge.of(load_dev_tasks(tasks, HELD, 0.05), metric)(FakeEncoder())  # type: ignore[arg-type]
    assert verdict.score == verdict.metrics[chosen] == verdict.metrics["dev_score"]


def test_metrics_that_cannot_choose_are_refused(tasks: list[DevTaskConfig]) -> None:
    loaded = load_dev_tasks(tasks, HELD, 0.05)
    with pytest.raises(UserError, match=r"eval.metric nDCG@10 is a metric of several tasks.*search/nDCG@10"):
        Judge.of(loaded, "nDCG@10")
    with pytest.raises(UserError, match=r"eval\.metric held-out/loss is shown and never chooses"):
        Judge.of(loaded, "held-out/loss")


def test_one_similarity_file_is_judged_and_logged_as_ever(tasks: list[DevTaskConfig]) -> None:
    path = tasks[1].similarity
    assert path is not None
    judge = Judge.of(load_dev_tasks(EvalSection(dev=path).dev_tasks, None, 0.05), None)
    verdict = judge(FakeEncoder())  # type: ignore[arg-type]
    assert list(verdict.metrics) == ["dev_spearman"] and verdict.shown == f"dev Spearman {100 * verdict.score:.2f}"
    assert judge.contents(EvalSection(dev=path)) == {"eval.dev": judge.tasks[0].content_hash}
    assert [score_name(EvalSection(dev=dev)) for dev in (path, tuple(tasks))] == ["dev_spearman", "dev_score"]


def test_limits_keep_the_answers(tmp_path: Path, tasks: list[DevTaskConfig]) -> None:
    """Of the documents those that answer the kept queries stay; the others are drawn by a hash."""
    search = replace(tasks[5], limit=3, documents=7)
    [task] = load_dev_tasks([search], None, 0.05)
    judged = task.task.dev_queries  # type: ignore[union-attr]
    corpus = task.task.documents  # type: ignore[union-attr]
    assert (len(judged.ids), len(corpus)) == (3, 7)
    assert all(document in corpus for found in judged.qrels.values() for document in found)
    [tight] = load_dev_tasks([replace(search, documents=1)], None, 0.05)
    assert len(tight.task.documents) == 3  # type: ignore[union-attr]
    for number, size in ((1, 5), (2, 6), (3, 4), (4, 7)):
        [limited] = load_dev_tasks([replace(tasks[number], limit=size)], None, 0.05)
        assert len(limited.items) == size and limited.measure(FakeEncoder())  # type: ignore[arg-type]
    for number, option in ((0, "limit"), (1, "documents")):
        with pytest.raises(UserError, match=rf"eval.dev.0.{option} is not used by"):
            load_dev_tasks([replace(tasks[number], **{option: 3})], HELD, 0.05)


def test_dev_queries_are_judged_and_never_the_tests(tmp_path: Path) -> None:
    folder = collection(tmp_path / "both", parts=("test", "dev"))
    [task] = load_dev_tasks([DevTaskConfig(retrieval=RetrievalConfig(path=str(folder)))], None, 0.05)
    assert task.items == [(f"mat dev{n}",) for n in range(6)]
    check_shared([task], [load_retrieval(folder)], ())
    only = collection(tmp_path / "only")
    [task] = load_dev_tasks([DevTaskConfig(retrieval=RetrievalConfig(path=str(only)))], None, 0.05)
    with pytest.raises(UserError, match="only has data of the test only"):
        check_shared([task], [load_retrieval(only)], ())


def test_pairs_that_are_dev_and_test_are_refused(tasks: list[DevTaskConfig]) -> None:
    section = tasks[2].pairs
    assert section is not None
    [task] = load_dev_tasks([tasks[2]], None, 0.05)
    test = load_pairs(replace(section, test=section.dev, dev="", metric="ap"))
    with pytest.raises(UserError, match="selection on test data is leakage"):
        check_shared([task], [test], ())
    [part] = load_dev_tasks([replace(tasks[2], limit=6)], None, 0.05)  # a part of the test is test data as well
    with pytest.raises(UserError, match="selection on test data is leakage"):
        check_shared([part], [test], ())
    as_gap = DevTaskConfig(gap=GapConfig(test=section.dev))  # the same file in another task
    [gap] = load_dev_tasks([as_gap], None, 0.05)
    with pytest.raises(UserError, match="selection on test data is leakage"):
        check_shared([gap], [test], ())
    with pytest.raises(UserError, match="pairs: test: must be given"):
        load_pairs(replace(section))


def test_files_of_one_benchmark_may_overlap(tmp_path: Path) -> None:
    """As STS-B dev and STS15 do, of which no two are refused; the run tells how many pairs they share."""
    rows = graded_pairs(20)
    dev, test = (write_jsonl(tmp_path / f"{name}.jsonl", part) for name, part in (("d", rows[:12]), ("t", rows[8:])))
    [task] = load_dev_tasks([DevTaskConfig(similarity=str(dev))], None, 0.05)
    assert check_shared([task], [load_task(str(test))], ()) == [
        "eval.dev d: some of its 12 pairs are in tests too: 4 in t"
    ]
    [task] = load_dev_tasks([DevTaskConfig(similarity=str(write_jsonl(tmp_path / "most.jsonl", rows[5:])))], None, 0.05)
    with pytest.raises(UserError, match="most has data of the test t"):
        check_shared([task], [load_task(str(test))], ())


@pytest.mark.parametrize(
    ("dev", "problem"),
    [
        ([{}], "eval.dev.0 has no section"),
        ([{"mteb": "STSBenchmark", "held_out": 5}], "eval.dev.0 has mteb and held_out"),
    ],
)
def test_an_entry_is_one_task(dev: list[dict[str, Any]], problem: str) -> None:
    config = validate(TrainConfig, {"eval": {"dev": dev}})
    with pytest.raises(UserError, match=problem):
        load_dev_tasks(config.eval.dev_tasks, None, 0.05)


def test_the_share_of_dev_is_foretold_from_tokens(tmp_path: Path, tasks: list[DevTaskConfig]) -> None:
    """A step counts three forward passes over its tokens."""
    encoder = tiny_encoder(tmp_path / "decoder", device="cpu")
    judge = Judge.of(load_dev_tasks(tasks[4:], None, 0.05), None)
    texts = [encoder.tokenize([text]) for task in judge.tasks for text in task.texts.both]
    tokens = sum(len(ids) for [ids] in texts)
    line = said_beforehand(judge, encoder, step_tokens=tokens, every=3, world=1)
    assert f"{len(texts):,} texts, {tokens:,} tokens, about 10 % of the time" in line and "limit" not in line
    line = said_beforehand(judge, encoder, step_tokens=tokens // 2, every=1, world=2)  # half of the texts for each
    assert "about 25 % of the time; less with a larger eval.every (now 1) or with limit and documents" in line


def test_tests_are_the_sections_of_an_evaluation(tmp_path: Path, tasks: list[DevTaskConfig]) -> None:
    """What the report after training reads is what the command names that writes it again."""
    search = str(collection(tmp_path / "other"))
    tests = [
        {"retrieval": {"path": search}},
        {"mteb": "STSBenchmark"},
        "a.jsonl",
        {"pairs": {"test": "p", "metric": "ap"}},
    ]
    config = validate(TrainConfig, {"eval": {"dev": [{"similarity": "d.jsonl"}], "tests": tests}})
    found = _eval_config(config)
    assert (found.dev, found.tests, found.mteb) == ("d.jsonl", ("a.jsonl",), ("STSBenchmark",))
    assert found.retrieval == (RetrievalConfig(path=search),) and found.pairs == (PairsConfig(test="p", metric="ap"),)
    words = shlex.split(_eval_command(found))
    assert words[:2] == ["dec2vec", "eval"] and load(EvalConfig, None, words[2:]) == found


def test_the_tests_of_the_kind_that_chose_come_first() -> None:
    report = full_report()
    [table] = [replace(table, kind="topics") for table in report.tasks]
    report = replace(report, tasks=[table])
    usual, led = headline(report), headline(replace(report, leading=table.kind))
    assert report.comparison is not None
    assert not any(line.startswith(f"{table.name}: ") for line in usual)
    assert led[0].startswith(f"{table.name}: {table.metric}") and led[1:] == usual


def test_a_sweep_compares_what_chooses(tmp_path: Path, tasks: list[DevTaskConfig]) -> None:
    lines = [{"step": step, "loss": 1.0} for step in (1, 2)] + [
        {"step": step, "dev_score": score, "dev/search/nDCG@10": 1 - score} for step, score in ((2, 0.25), (4, 0.5))
    ]
    assert _best_dev(write_jsonl(tmp_path / "metrics.jsonl", lines)) == (4, 0.5)
    entries = [{"retrieval": {"path": str(collection(tmp_path / "more"))}}, {"held_out": 5}]
    run = tmp_path / "run.yaml"
    run.write_text(dump(validate(TrainConfig, {"eval": {"dev": entries}})), encoding="utf-8")
    assert wandb_sweep(run, tmp_path, ["optim.lr=1e-3,1e-4"], [], [])["metric"]["name"] == "dev_score"
    assert str(tmp_path / "more") in inputs_of(load(TrainConfig, run, []))


# NanoBEIR


def nano_rows() -> dict[str, list[dict[str, str]]]:
    return {
        "corpus": [{"_id": f"d{n}", "text": f"cat {n}"} for n in range(5)],
        "queries": [{"_id": f"q{n}", "text": f"mat {n}"} for n in range(3)],
        "qrels": [{"query-id": f"q{n}", "corpus-id": f"d{n}"} for n in range(3)],
    }


def test_nanobeir_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the Hub, saved part by part, with splits, as one dictionary, and cloned: the same collection."""
    import datasets

    rows = nano_rows()
    parts = {part: datasets.Dataset.from_list(found) for part, found in rows.items()}
    other = datasets.Dataset.from_list([{"_id": "x", "text": "x", "query-id": "x", "corpus-id": "x"}])
    for part, found in parts.items():
        found.save_to_disk(str(tmp_path / "saved" / part))
        datasets.DatasetDict({"NanoA": found, "NanoB": other}).save_to_disk(str(tmp_path / "splits" / part))
        (tmp_path / "cloned" / part).mkdir(parents=True)
        found.to_parquet(str(tmp_path / "cloned" / part / "NanoA-00000-of-00001.parquet"))
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "whole"))

    def load_dataset(name: str, subset: str, *, split: str, streaming: bool) -> datasets.Dataset:
        assert (name, split) == ("someone/nano", "NanoA")
        return parts[subset]

    def splits(name: str, subset: str) -> list[str]:
        if subset != "qrels":
            raise ValueError(f"BuilderConfig {subset!r} not found")
        return ["NanoA", "NanoB"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", splits)
    places = ["someone/nano@NanoA", *(str(tmp_path / name) for name in ("saved", "splits@NanoA", "cloned", "whole"))]
    loaded = [load_retrieval(place) for place in places]
    assert [task.name for task in loaded] == ["NanoA", "saved", "NanoA", "NanoA", "whole"]
    for task in loaded:
        assert task.documents == {row["_id"]: row["text"] for row in rows["corpus"]}
        assert task.test_queries.qrels == {f"q{n}": {f"d{n}": 1} for n in range(3)}
    for place in ("someone/nano", str(tmp_path / "splits")):
        with pytest.raises(UserError, match=r"each split is a collection; name one as .*NanoA, NanoB"):
            load_retrieval(place)
    with pytest.raises(UserError, match="no split 'NanoC'"):
        load_retrieval("someone/nano@NanoC")


# several processes


def measured(folder: Path, path: str, share: bool) -> tuple[dict[str, float], int]:
    """The metrics, and how many chunks this process embedded."""
    import torch.distributed as dist

    encoder = tiny_encoder(folder, lora=LoraConfig(rank=4, alpha=8.0), device="cpu")
    chunks: list[int] = []
    encoder.embedder.register_forward_hook(lambda *_: chunks.append(1))
    judge = Judge.of(load_dev_tasks([DevTaskConfig(similarity=path)], None, 0.05), None)
    ranks = (dist.get_rank(), dist.get_world_size()) if share else (0, 1)
    with shared(encoder, *ranks):
        verdict = judge(encoder)
    assert encoder.sharing is None
    return dict(verdict.metrics), len(chunks)


def test_two_processes_share_the_texts_and_equal_one(tmp_path: Path) -> None:
    texts = [{**row, "sentence1": f"{row['sentence1']} {'mat ' * n}"} for n, row in enumerate(graded_pairs(24))]
    path = str(write_jsonl(tmp_path / "dev.jsonl", texts))
    tiny_encoder(tmp_path / "decoder", device="cpu")
    alone, all_chunks = run_alone(measured, tmp_path / "decoder", path, False)
    two = run_ranks(2, measured, tmp_path / "decoder", path, True)
    assert [metrics for metrics, _ in two] == [alone, alone]
    assert all_chunks > 2 and max(count for _, count in two) == -(-all_chunks // 2)


# a run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("early")
    dev = (DevTaskConfig(held_out=6, documents=14), "dev.jsonl")
    evaluation = EvalSection(dev=dev, metric="held-out/nDCG@10", every=1, patience=1, after_training=False)
    return write_run(folder, eval=evaluation)


def in_folder(config: Path, output: Path, *overrides: str) -> None:
    os.chdir(config.parent)
    train_run(config, output, *overrides)


def killed_at(config: Path, output: Path, at: int, *overrides: str) -> None:
    """SIGKILL before step `at` (from 0)."""
    step = train.loop.fit.train_step

    def killing(*arguments: Any, **options: Any) -> Any:
        if arguments[2] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments, **options)

    train.loop.fit.train_step = killing
    in_folder(config, output, *overrides)


@pytest.mark.slow
def test_a_run_stops_early_and_killed_and_resumed_it_is_the_same(config: Path, tmp_path: Path) -> None:
    steps = ("--optim.steps", "40", "--optim.lr", "3e-2")
    run_alone(in_folder, config, tmp_path / "whole", *steps)
    lines = [line for line in metrics_of(tmp_path / "whole") if "dev_score" in line]
    scores = [line["dev_score"] for line in lines]
    assert scores == [line["dev/held-out/nDCG@10"] for line in lines]
    best = int(np.argmax(scores))
    assert len(scores) == best + 2 and 3 < lines[-1]["step"] < 40  # one evaluation without a new best score
    assert exit_code_alone(killed_at, config, tmp_path / "killed", lines[-1]["step"] - 1, *steps) == -signal.SIGKILL
    run_alone(in_folder, config, tmp_path / "killed", *steps)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")
