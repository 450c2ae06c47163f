"""The report after training shows the metric that chose the checkpoint first, as its test's main figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from dec2vec.config.load import validate
from dec2vec.config.tasks import PairsConfig, TopicsConfig
from dec2vec.files.dev_record import DevRecord, merged, read_record, write_record
from dec2vec.identity import Identity
from eval.config import EvalConfig
from eval.dev.tasks import DevTask
from eval.report.overview import overview_rows
from eval.report.report import Report, headline
from eval.report.report_json import to_json
from eval.report.sections import sections
from eval.run import evaluate
from eval.tasks.pairs import load_pairs
from eval.tasks.task import TaskVectors
from eval.tasks.topic_files import load_topics
from tests.export_cases import PEFT_WARNING
from tests.fake_encoder import FakeEncoder
from tests.helpers import graded_pairs, write_jsonl
from tests.test_dev_tasks import nano_rows
from tests.tiny_run import train, write_run
from train.config import EvalSection, OptimConfig
from train.export.card_index import model_index
from train.export.card_report import read_report
from train.export.card_results import results_section
from train.export.card_scores import Exported, by_metric, own_scores
from train.export.export import ExportArgs, export_command
from train.judge import Judge

QUERIES, DOCUMENTS = 40, 60


def searches(folder: Path) -> Path:
    """Each query shares some words with its document; dev queries come first."""
    folder.mkdir()
    words = [f"w{n % 17} x{n % 23} y{n % 29}" for n in range(DOCUMENTS)]
    write_jsonl(folder / "corpus.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(words)])
    for split, start in (("", 0), ("dev_", 15)):
        named = [(f"{split}q{n}", n + start) for n in range(QUERIES)]
        rows = [{"id": name, "text": f"{words[n]} {split or 'test'} {n}"} for name, n in named]
        write_jsonl(folder / f"{split}queries.jsonl", rows)
        judged = [{"query_id": name, "doc_id": f"d{n}", "score": 1} for name, n in named]
        write_jsonl(folder / f"{split}qrels.jsonl", judged)
    return folder


def reciprocal_ranks(encoder: FakeEncoder, folder: Path) -> float:
    """Mean over the test queries of 1 / rank of the document, 0 below rank 10: one query at a time."""
    texts = {name: read(folder / f"{name}.jsonl") for name in ("queries", "corpus")}
    vectors = {name: encoder.encode(list(of.values())).astype(np.float64) for name, of in texts.items()}
    found = []
    for row, query in enumerate(vectors["queries"]):
        cosines = vectors["corpus"] @ query
        rank = 1 + int((cosines > cosines[row]).sum())
        found.append(1 / rank if rank <= 10 else 0.0)
    return float(np.mean(found))


def read(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["text"] for row in rows}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Report, FakeEncoder, Path]]:
    folder = tmp_path_factory.mktemp("led")
    search, sts = searches(folder / "search"), write_jsonl(folder / "sts.jsonl", graded_pairs(30))
    options = {"tests": [str(sts)], "retrieval": [{"path": str(search)}], "bootstrap": 100, "output_dir": str(folder)}
    options |= {"systems": {"poolings": ["mean"], "prompts": ["bare"], "post": ["raw"]}, "cache": ""}

    def measure(chosen_by: tuple[str, str]) -> tuple[Report, FakeEncoder, Path]:
        tuned, config = FakeEncoder(noise=(4.0, 0.5, 0.4)), validate(EvalConfig, options)
        base = FakeEncoder(noise=(3.0, 0.9, 2.0))
        report = evaluate(config, base=base, tuned={"run": tuned}, chosen_by=chosen_by, progress=False)
        return report, tuned, search

    return measure


def test_headline_table_and_card_lead_with_the_metric_that_chose(
    measured: Callable[..., tuple[Report, FakeEncoder, Path]], tmp_path: Path
) -> None:
    report, tuned, search = measured(("retrieval", "MRR@10"))
    usual, _, _ = measured(("", ""))
    mrr = reciprocal_ranks(tuned, search)
    [table], [plain] = report.tasks, usual.tasks
    assert (table.metric, plain.metric) == ("MRR@10", "nDCG@10")
    assert table.headline is not None and plain.headline is not None
    ours = table.headline.tuned
    assert ours is not None and ours.value == pytest.approx(mrr) and ours.low is not None and ours.low < mrr
    assert headline(report)[0].startswith(f"search: MRR@10 x 100: {100 * mrr:.2f} tuned (tuned/run; ")
    assert overview_rows(report)[0][:3] == ["search", "MRR@10", f"{100 * mrr:.2f}"]
    titles = [section.title for section in sections(report)]
    assert titles.index("Task: search") < titles.index("Systems and tests")
    # the other metrics stay in the table, with the figures that they have when they lead
    kept = {(row.system, row.metric): row.value for row in table.rows if "minus" not in row.system}
    assert kept == {(row.system, row.metric): row.value for row in plain.rows if "minus" not in row.system}
    # what dev chose for the untuned rows, it chose by the same metric
    devs = {row.dev_metric for row in table.rows if row.dev is not None}
    assert devs == {"MRR@10"} and table.headline.untuned is not None and table.headline.outside is not None
    # the control: without a metric that chose, similarity leads and nDCG@10 is the figure
    assert headline(usual)[0].startswith("Spearman") and overview_rows(usual)[-1][1] == "nDCG@10"
    card = card_of(report, tmp_path)
    assert card.index("| search | MRR@10 | 40 | " + f"{100 * mrr:.2f} (") < card.index("Similarity: Spearman")
    assert f"| {100 * table.headline.outside.value:.2f} (" in card
    assert [item["task"] for item in json.loads(to_json(report))["headlines"]] == ["search", "average"]


def card_of(report: Report, folder: Path) -> str:
    """The results of a card whose weights the report has measured."""
    facts = {**report.provenance, "tuned": {"run": {"weights": "w", "whitening": None}}}
    path = folder / "report.json"
    path.write_text(to_json(replace(report, provenance=facts)), encoding="utf-8")
    found = read_report(path)
    assert found is not None
    own = own_scores(found, Exported("run", Identity("w", None)))
    results: list[Mapping[str, Any]] = model_index("run", found.tests, own.tests)[0]["results"]
    assert {result["metrics"][0]["type"] for result in results} == {"cosine_spearman", "mrr_at_10"}
    return results_section(found, own, "")


def test_other_kinds_lead_as_far_as_they_can(tmp_path: Path) -> None:
    """Macro-F1 of topics is sklearn's; without dev pairs there is no threshold, and accuracy can't lead."""
    rows = [{"text": f"{label} {n} cat", "label": label} for label in ("red", "blue", "sea") for n in range(9)]
    path = str(write_jsonl(tmp_path / "topics.jsonl", rows))
    topics = load_topics(TopicsConfig(test=path))
    vectors = TaskVectors.from_queries(FakeEncoder(noise=(4.0, 0.5, 9.0)).encode(topics.test.queries))
    evidence = topics.evidence(None, vectors)
    first = topics.led_by("macro_f1").figures(evidence, 20, 0)[0]
    assert first.metric == "macro_f1" and topics.figures(evidence, 20, 0)[0].metric == "accuracy"
    assert first.value == pytest.approx(f1_score(evidence.gold, evidence.predicted, average="macro"))
    assert topics.led_by("MRR@10") is topics
    pairs = [{"sentence1": f"cat {n}", "sentence2": f"{n} mat", "label": n % 2} for n in range(20)]
    task = load_pairs(PairsConfig(test=str(write_jsonl(tmp_path / "pairs.jsonl", pairs)), metric="ap"))
    assert (task.led_by("auc").metric, task.led_by("accuracy").metric) == ("auc", "ap")


def test_the_judge_knows_its_metric() -> None:
    """A named one, that which all tasks share, or none."""
    tasks = [dev_task("a", ("nDCG@10", "MRR@10")), dev_task("b", ("nDCG@10",))]
    assert [Judge.of(tasks, name).metric for name in ("a/MRR@10", "MRR@10", None)] == ["MRR@10", "MRR@10", "nDCG@10"]
    assert Judge.of([*tasks, dev_task("c", ("ap",))], None).metric == ""


def dev_task(name: str, metrics: tuple[str, ...]) -> DevTask:
    return DevTask(name, metrics[0], metrics, "0" * 64, lambda _: {}, None)


@pytest.mark.slow
@pytest.mark.filterwarnings(PEFT_WARNING)
def test_the_card_names_what_chose_now_and_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric of one task of two, whose collection has another name than its folder; then both, by their mean."""
    import datasets

    for part, rows in nano_rows().items():
        (tmp_path / "cloned" / part).mkdir(parents=True)
        file = tmp_path / "cloned" / part / "NanoA-00000-of-00001.parquet"
        datasets.Dataset.from_list(rows).to_parquet(str(file))
    pairs = [{"sentence1": f"cat {n}", "sentence2": f"{n} mat", "label": n % 2} for n in range(20)]
    path = str(write_jsonl(tmp_path / "yes_no.jsonl", pairs))
    dev = [{"pairs": {"dev": path, "metric": "ap"}}, {"retrieval": {"path": str(tmp_path / "cloned")}}]
    test = write_jsonl(tmp_path / "test.jsonl", graded_pairs(30, seed=5)).name
    section = validate(EvalSection, {"dev": dev, "metric": "MRR@10", "tests": [test], "every": 1})
    config = write_run(tmp_path, eval=section, optim=OptimConfig(steps=1))
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "out")
    later = export_command(ExportArgs(run=tmp_path / "out", to=tmp_path / "later"))
    card = (tmp_path / "out" / "model" / "README.md").read_text(encoding="utf-8")
    assert "The checkpoint of this model was chosen on `NanoA` by MRR@10." in card
    assert (later / "README.md").read_text(encoding="utf-8") == card
    judge = Judge.of([dev_task("a", ("ap",)), dev_task("b", ("nDCG@10",))], "mean")
    mean = DevRecord(tuple(judge.choosers))
    assert (mean.names, by_metric(mean)) == (("a", "b"), " by the mean of ap and nDCG@10")
    write_record(mean, later)
    runs = [known for folder in (tmp_path / "out", later) if (known := read_record(folder)) is not None]
    assert merged(runs).names == ("NanoA", "a", "b")
