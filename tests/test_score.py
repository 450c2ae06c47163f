"""`dec2vec score`: cosines, the threshold that dev chooses or the user gives, usable yes or no."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dec2vec import cli
from dec2vec.config.model import ModelConfig
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl

PAIRS: list[dict[str, object]] = [
    {"id": 7, "generated": "a b c", "reference": "a b c"},
    {"id": 8, "generated": "a b c", "reference": "x y z"},
    {"id": 9, "generated": " ", "reference": "x y z"},
]
DEV: list[dict[str, object]] = [
    {"generated": f"a{n} b{n}", "reference": f"a{n} b{n}" if n % 2 else f"c{n} d{n}", "label": n % 2} for n in range(12)
]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[ModelConfig]:
    """What was loaded."""
    seen: list[ModelConfig] = []

    def load(config: ModelConfig, changes: object) -> FakeEncoder:
        seen.append(config)
        return FakeEncoder(noise=(0.0, 0.0, 0.0))

    from dec2vec.encoder import Encoder

    monkeypatch.setattr(Encoder, "load", load)
    return seen


@pytest.fixture
def options(tmp_path: Path) -> dict[str, str]:
    return {
        "--model": "m",
        "--input": str(write_jsonl(tmp_path / "in.jsonl", PAIRS)),
        "--output": str(tmp_path / "out.jsonl"),
        "--dev": str(write_jsonl(tmp_path / "dev.jsonl", DEV)),
    }


def score(options: dict[str, str | None]) -> int:
    return cli.main(
        ["score", *(word for name, value in options.items() if value is not None for word in (name, value))]
    )


def result(options: dict[str, str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(options["--output"]).read_text(encoding="utf-8").splitlines()]


def test_a_threshold_chosen_on_dev(
    options: dict[str, str], loaded: list[ModelConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score({**options, "--device": "cpu"}) == 0
    assert loaded == [ModelConfig(name_or_path="m", device="cpu")]
    rows = result(options)
    assert [list(row) for row in rows] == [["id", "generated", "reference", "cosine", "threshold", "usable"]] * 3
    assert [(row["id"], row["usable"]) for row in rows] == [(7, "yes"), (8, "no"), (9, "no")]
    one, other = FakeEncoder(noise=(0.0, 0.0, 0.0)).encode(["a b c", "x y z"])
    assert rows[0]["cosine"] == pytest.approx(1)
    assert rows[1]["cosine"] == pytest.approx(float(one @ other), abs=1e-6)
    assert rows[2]["cosine"] is None
    encoder = FakeEncoder(noise=(0.0, 0.0, 0.0))
    highest = max(float(np.dot(*encoder.encode([f"a{n} b{n}", f"c{n} d{n}"]))) for n in range(0, 12, 2))
    assert [row["threshold"] for row in rows] == pytest.approx([(1 + highest) / 2] * 3, abs=1e-6)
    said = capsys.readouterr().err
    assert "3 pairs, 1 with a blank text, 1 usable with a cosine" in said
    assert "selected for accuracy on dev: accuracy 1.000, f1 1.000, precision 1.000, recall 1.000" in said


def test_a_given_threshold_columns_and_csv(options: dict[str, str], loaded: list[ModelConfig], tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('ours,theirs,note\na b,a b,"x, y"\na b,c d,\n', encoding="utf-8")
    output = tmp_path / "out.csv"
    more = {"--input": str(source), "--output": str(output), "--column1": "ours", "--column2": "theirs"}
    assert score({**options, **more, "--dev": None, "--threshold": "0.9999"}) == 0
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["note"], row["threshold"], row["usable"]) for row in rows] == [
        ("x, y", "0.9999", "yes"),
        ("", "0.9999", "no"),
    ]


def test_refused_before_the_model_is_loaded(
    options: dict[str, str], loaded: list[ModelConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    taken = str(write_jsonl(tmp_path / "taken.jsonl", [{**PAIRS[0], "usable": "maybe"}]))
    unlabelled = str(write_jsonl(tmp_path / "unlabelled.jsonl", PAIRS[:1]))
    cases: dict[str, dict[str, str | None]] = {
        "give either --dev labelled.jsonl, on which the threshold is selected, or --threshold 0.7": {"--dev": None},
        "on which the threshold is selected, or --threshold": {"--threshold": "0.5"},
        "remove them, or remove --threshold": {"--dev": None, "--threshold": "0.5", "--precision": "0.9"},
        "criterion precision: set precision": {"--criterion": "precision"},
        "precision 0.9 is for criterion precision, not accuracy": {"--precision": "0.9"},
        "threshold: '1.5' must be less than or equal to 1": {"--dev": None, "--threshold": "1.5"},
        "out.npy: unknown format .npy; use .jsonl or .csv": {"--output": str(tmp_path / "out.npy")},
        "is an input file; use another file": {"--output": options["--input"]},
        "does not exist; create it first": {"--output": str(tmp_path / "none" / "out.jsonl")},
        "has a column 'usable', which the output adds; rename the column": {"--input": taken},
        "no column 'said'; the columns are: id, generated, reference; name those of the two texts with --column1": {
            "--column1": "said"
        },
        "unlabelled.jsonl: no column 'label'": {"--dev": unlabelled},
        "xyzzy": {"--prompt": "xyzzy"},
    }
    for message, change in cases.items():
        assert score({**options, **change}) == 2
        said = capsys.readouterr().err
        assert said.startswith("dec2vec: error: ") and said.count("\n") == 1 and message in said
    assert loaded == [] and not Path(options["--output"]).exists()


def test_a_precision_that_no_threshold_has(
    options: dict[str, str], loaded: list[ModelConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    contrary = [{**row, "label": 1 - int(str(row["label"]))} for row in DEV]
    dev = str(write_jsonl(tmp_path / "contrary.jsonl", contrary))
    wanted = {"--dev": dev, "--criterion": "precision"}
    assert score({**options, **wanted, "--precision": "0.9"}) == 2
    assert "contrary: no threshold reaches precision 0.9; the highest is 0.500" in capsys.readouterr().err
    assert not Path(options["--output"]).exists()
    assert score({**options, **wanted, "--precision": "0.5"}) == 0


def test_a_failed_write_leaves_the_old_file(
    options: dict[str, str],
    loaded: list[ModelConfig],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from eval.score import scored_pairs as module

    Path(options["--output"]).write_text("old")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "atomic_write_bytes", full)
    assert score({**options}) == 2
    assert "out.jsonl cannot be written: the disk is full; free some space" in capsys.readouterr().err
    assert Path(options["--output"]).read_text() == "old"
