"""Bad inputs through the real command: one line that names the culprit and the fix, exit code 2, nothing damaged.

Every case aims at a folder that holds an earlier finished run, with `--checkpoint.resume fresh`: the most that a
mistake could destroy.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

import train.checkpointing.checkpoint
from dec2vec.cli import main
from tests.bad_input_cases import CASES
from tests.bad_input_place import STEPS, Place, halve, shelved
from tests.helpers import (
    graded_pairs,
    word_pairs,
    write_jsonl,
)


@pytest.fixture(autouse=True)
def no_network_and_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good inputs, models and a finished run."""
    shelf = tmp_path_factory.mktemp("shelf")
    write_jsonl(shelf / "pairs.jsonl", word_pairs(12))
    write_jsonl(shelf / "dev.jsonl", graded_pairs(8))
    write_jsonl(shelf / "test.jsonl", graded_pairs(8, seed=2))
    model = {"name_or_path": str(shelved(shelf, "llama")), "max_length": 64, "device": "cpu"}
    training = {
        "model": model,
        "lora": {"rank": 2, "dropout": 0.1},
        "data": [{"path": str(shelf / "pairs.jsonl")}],
        "optim": {"steps": STEPS},
        "batch": {"size": 4},
        "checkpoint": {"every": 2, "resume": "fresh"},
        "eval": {"dev": str(shelf / "dev.jsonl"), "every": 2, "after_training": False},
    }
    evaluation = {
        "model": model,
        "dev": str(shelf / "dev.jsonl"),
        "tests": [str(shelf / "test.jsonl")],
        "systems": {"post": ["raw"]},
    }
    (shelf / "train.yaml").write_text(json.dumps(training))
    (shelf / "eval.yaml").write_text(json.dumps(evaluation))
    assert main(["train", str(shelf / "train.yaml"), "--output_dir", str(shelf / "run")]) == 0
    return shelf


@pytest.fixture
def place(tmp_path: Path, shelf: Path) -> Iterator[Place]:
    place = Place(tmp_path, shelf)
    shutil.copytree(shelf / "run", place.run)
    yield place
    for lock in place.locks:
        lock.close()


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    build, words = CASES[name]
    argv = build(place)
    before = place.snapshot()
    capsys.readouterr()
    assert main(argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("dec2vec: error: ") and line.count("\n") == 1 and line.endswith("\n"), line
    assert [word for word in words if word not in line] == [], line
    assert_intact(before, place.snapshot())


def assert_intact(before: dict[Path, bytes], after: dict[Path, bytes]) -> None:
    """What was there is there, byte for byte, and no half-written file lies about."""
    assert [str(path) for path, content in before.items() if after.get(path) != content] == []
    assert [str(path) for path in after if "tmp" in path.name] == []


def test_torn_checkpoint_is_passed_over(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Not an error: the run goes on from the checkpoint before it, to the same adapter."""
    adapter = place.run / "adapter" / "adapter_model.safetensors"
    expected = adapter.read_bytes()
    adapter.unlink()
    halve(place.checkpoint() / "adapter.safetensors")
    with caplog.at_level(logging.WARNING):
        assert main(place.resume()) == 0
    assert "step-000004 is damaged (adapter.safetensors has" in caplog.text
    assert adapter.read_bytes() == expected


def test_tokenizer_without_pad_is_good_enough(place: Place) -> None:
    assert main(place.model("no_pad", "--optim.steps", "1")) == 0


def test_one_target_by_name_alone(place: Place) -> None:
    assert main(place.train("--optim.steps", "1", "--lora.targets", "q_proj")) == 0
    written = json.loads((place.run / "adapter" / "adapter_config.json").read_text())
    assert written["target_modules"] == ["q_proj"]


@pytest.mark.slow
def test_report_of_mapped_columns_and_little_room(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """What only the evaluation after training meets must not end a run: other columns, prompts that are too long."""
    rows = [{"query": row["anchor"], "answer": row["positive"]} for row in word_pairs(12)]
    pairs = str(write_jsonl(place.path / "mapped.jsonl", rows))
    mapped = ["--data.0.path", pairs, "--data.0.anchor", "query", "--data.0.positive", "answer"]
    evaluated = ["--eval.tests", str(place.shelf / "test.jsonl"), "--eval.after_training", "--model.max_length", "40"]
    assert main(place.train("--optim.steps", "1", *mapped, *evaluated)) == 0
    assert "knowledge_enhancement is skipped: max_length 40" in caplog.text
    report = json.loads((place.run / "report" / "report.json").read_text())
    assert [source["training"] for source in report["overlap"]] == [pairs, pairs, "dev (choices)"]
    systems = {result["system"] for result in report["results"]}
    assert "tuned/run" in systems and not any("knowledge_enhancement" in system for system in systems)


def test_nothing_to_fit_the_whitening_on(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before the first step; without whitening the same command trains."""
    texts = [text for row in word_pairs(12) for text in row.values()]
    rows = [{"sentence1": text, "sentence2": texts[n - 1], "score": n} for n, text in enumerate(texts)]
    dev = ["--eval.dev", str(write_jsonl(place.path / "same.jsonl", rows))]
    before = place.snapshot()
    assert main(place.train(*dev, "--export.whiten")) == 2
    assert_intact(before, place.snapshot())
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dec2vec: error: export.whiten") and "use export.whiten false" in last
    assert main(place.train(*dev, "--export.whiten", "false")) == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_during_a_checkpoint(
    number: int, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends in one line; its earlier checkpoint is whole, and with space again it goes on to the same end."""
    expected = place.checkpoint().joinpath("adapter.safetensors").read_bytes()
    shutil.rmtree(place.checkpoint())
    before = place.snapshot()

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(number, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(train.checkpointing.checkpoint, "save_file", full)
        assert main(place.resume()) == 2
    *progress, last = capsys.readouterr().err.splitlines()
    assert last.startswith("dec2vec: error: cannot write checkpoint") and "the disk is full; free some space" in last
    assert not any("Traceback" in line for line in progress)
    logs = (place.run / "metrics.jsonl", place.run / "config.yaml")
    assert_intact({path: data for path, data in before.items() if path not in logs}, place.snapshot())
    assert main(place.resume()) == 0
    assert place.checkpoint().joinpath("adapter.safetensors").read_bytes() == expected


REAL = ("encoder-only model", "weights cut short", "unknown LoRA target", "checkpoint of another configuration")


@pytest.mark.slow
def test_nothing_else_is_said_outside_of_pytest(place: Place) -> None:
    """In a process of its own, where the libraries' loggers and warnings reach stderr: a line for each, no more."""
    spoilt = [CASES[name][0](place) for name in REAL]
    code = (
        "import json, sys; from dec2vec.cli import main; sys.exit([main(a) for a in json.loads(sys.argv[1])] != [2]*4)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spoilt)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("dec2vec: error: ")] == []
    assert len(lines) == len(REAL)
