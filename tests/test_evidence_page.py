"""docs/evidence.md names tests that exist, and every metric that a report or a run writes."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from eval.tasks import clustering, isotropy, retrieval, sts
from train.judge import DEV_METRIC
from train.tracking.step_metrics import StepTotals, step_metrics

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "evidence.md").read_text(encoding="utf-8")


def named_tests(page: str) -> list[tuple[str, str]]:
    """Files of tests, and the test in them if one is named."""
    return re.findall(r"`(test_\w+)(?:::(test_\w+))?`", page)


def missing(page: str) -> list[tuple[str, str]]:
    """Those of `named_tests` that do not exist."""
    defined = {path.stem: path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py")}
    return [
        (file, test)
        for file, test in named_tests(page)
        if file not in defined or (test and not re.search(rf"^def {test}\b", defined[file], re.MULTILINE))
    ]


def test_every_named_test_exists() -> None:
    assert len(named_tests(PAGE)) > 80 and missing(PAGE) == []
    assert missing("`test_evidence_page::test_nothing` `test_no_file`") == [
        ("test_evidence_page", "test_nothing"),
        ("test_no_file", ""),
    ]


def test_every_row_of_a_table_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| figure ")]
    unproved = [row for row in rows if not named_tests(row)]
    assert [row.split(" | ")[0] for row in unproved] == ['| "without them" (n)']  # it has the test of the row before


def test_every_metric_has_a_row() -> None:
    of_a_step = step_metrics(
        StepTotals(1.0, 1.0, 1.0, [1.0, 2.0]),
        loss=0.0,
        lr=0.0,
        temperature=1.0,
        grad_norm=0.0,
        seconds=1.0,
        device=torch.device("cpu"),
        skipped_steps=0,
    )
    page = PAGE.replace("recall@10, @100", "recall@10, recall@100").replace("rank_seconds_*", " ".join(of_a_step))
    metrics = {*of_a_step, DEV_METRIC, sts.METRIC, clustering.METRIC, *retrieval.METRICS, *isotropy.METRICS}
    metrics |= {"alignment", "accuracy", "macro-F1", "F1", "precision", "recall", "AP", "AUC", "gap", "relevant"}
    assert [metric for metric in sorted(metrics) if metric not in page] == []
