"""Invariants 5 and 8: a run killed at any instant and resumed, or repeated from its config.yaml, is the same run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import dec2vec.files.atomic
import train.checkpointing.checkpoint
import train.loop.fit
import train.state
from tests.processes import exit_code_alone, run_alone, run_ranks
from tests.tiny_run import (
    MIXTURE,
    STEPS,
    STEPS_PER_EPOCH,
    TWO_SOURCES,
    fingerprint,
    metrics_of,
    sha256,
    steps_of,
    write_run,
)
from tests.tiny_run import train as train_run
from train.config import BatchConfig
from train.options.data import SourceConfig

REPOSITORY = Path(__file__).resolve().parent.parent
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """The undisturbed run, and that it holds what these tests are about."""
    output = config.parent / "whole"
    run_alone(in_folder, config, output)
    assert steps_of(output) == list(range(1, STEPS + 1))
    assert STEPS > 2 * STEPS_PER_EPOCH
    scores = {line["step"]: line["dev_spearman"] for line in metrics_of(output) if "dev_spearman" in line}
    assert list(scores) == [4, 8, 10]
    state = json.loads((output / "checkpoints" / f"step-{STEPS:06d}" / "state.json").read_text())
    assert state["best_step"] == max(scores, key=lambda step: scores[step]) != STEPS
    return output


def in_folder(config: Path, output: Path, *overrides: str) -> None:
    """The configuration's paths are relative."""
    os.chdir(config.parent)
    train_run(config, output, *overrides)


def same(output: Path, whole: Path) -> None:
    assert metrics_of(output) == metrics_of(whole)
    assert fingerprint(output) == fingerprint(whole)


def same_but_for_checkpoints(output: Path, whole: Path) -> None:
    """A run stopped by a signal has one checkpoint more; the last one must be the same."""
    assert metrics_of(output) == metrics_of(whole)
    found, expected = (
        {
            name: value
            for name, value in fingerprint(folder).items()
            if name != "names" and ("checkpoints" not in name or f"step-{STEPS:06d}" in name)
        }
        for folder in (output, whole)
    )
    assert len(found) >= 5
    assert found == expected


def test_a_finished_run_has_nothing_left_to_do(config: Path, whole: Path, tmp_path: Path) -> None:
    run_alone(in_folder, config, tmp_path)
    before = sha256(tmp_path / "metrics.jsonl")
    assert run_alone(counted_steps, config, tmp_path) == 0
    assert sha256(tmp_path / "metrics.jsonl") == before
    same(tmp_path, whole)


def test_resume_fresh_starts_anew(config: Path, whole: Path, tmp_path: Path) -> None:
    run_alone(in_folder, config, tmp_path, "--optim.lr", "1e-3")
    assert run_alone(counted_steps, config, tmp_path, "--checkpoint.resume", "fresh") == STEPS
    same(tmp_path, whole)


def counted_steps(config: Path, output: Path, *overrides: str) -> int:
    """How many steps the command takes."""
    steps = []
    step = train.loop.fit.train_step
    train.loop.fit.train_step = lambda *arguments, **options: steps.append(0) or step(*arguments, **options)
    in_folder(config, output, *overrides)
    return len(steps)


# a signal: the step under way is finished and saved


def signalled(config: Path, output: Path, number: signal.Signals, at: int, rank: int = 0) -> None:
    """The signal comes while step `at` (from 0) is computed, on one rank."""
    step = train.loop.fit.train_step

    def with_signal(*arguments: Any, **options: Any) -> Any:
        if arguments[2] == at and os.environ.get("RANK", "0") == str(rank):
            os.kill(os.getpid(), number)
        return step(*arguments, **options)

    train.loop.fit.train_step = with_signal
    with pytest.raises(KeyboardInterrupt):
        in_folder(config, output)


@pytest.mark.parametrize(
    ("number", "at"),
    [
        (signal.SIGINT, 0),
        (signal.SIGTERM, 4),
        pytest.param(signal.SIGINT, 4, marks=pytest.mark.slow),
        (signal.SIGTERM, STEPS - 1),
    ],
)
def test_signal(config: Path, whole: Path, tmp_path: Path, number: signal.Signals, at: int) -> None:
    run_alone(signalled, config, tmp_path, number, at)
    assert steps_of(tmp_path) == list(range(1, at + 2))
    assert (tmp_path / "checkpoints" / f"step-{at + 1:06d}").is_dir()
    assert not (tmp_path / "adapter").exists()
    assert run_alone(counted_steps, config, tmp_path) == STEPS - at - 1
    same_but_for_checkpoints(tmp_path, whole)


@pytest.mark.parametrize(
    ("ranks", "rank"), [*(pytest.param(2, rank, marks=pytest.mark.slow) for rank in (0, 1)), (3, 1)]
)
def test_signal_to_one_of_several_ranks(config: Path, tmp_path: Path, ranks: int, rank: int) -> None:
    """All ranks stop at the same step, and resumed ranks equal undisturbed ones bit for bit.

    From three ranks on that needs DDP's buckets to be the same: a sum's order depends on the place in them.
    """
    run_ranks(ranks, in_folder, config, tmp_path / "whole")
    run_ranks(ranks, signalled, config, tmp_path / "stopped", signal.SIGTERM, 4, rank)
    assert steps_of(tmp_path / "stopped") == [1, 2, 3, 4, 5]
    run_ranks(ranks, in_folder, config, tmp_path / "stopped")
    same_but_for_checkpoints(tmp_path / "stopped", tmp_path / "whole")


# an exception: between steps, and in the middle of a checkpoint


class Broken(Exception):
    """An unforeseen failure."""


def broken(config: Path, output: Path, module: Any, name: str, call: int) -> None:
    """`module.name` fails at its n-th call."""
    function: Callable[..., Any] = getattr(module, name)
    calls = []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == call:
            raise Broken
        return function(*arguments, **options)

    setattr(module, name, failing)
    with pytest.raises(Broken):
        in_folder(config, output)


@pytest.mark.parametrize(
    ("module", "name", "call", "kept"),
    [
        (train.loop.fit, "train_step", 1, None),
        (train.loop.fit, "train_step", 8, 6),
        (train.loop.fit, "save", 2, 3),  # the step is logged, its checkpoint is missing
        (train.state, "save_checkpoint", 1, None),
        (train.checkpointing.checkpoint, "_write_files", 2, 3),
        (dec2vec.files.atomic, "_replace_folder", 3, 4),
        (train.state, "prune", 3, 6),
    ],
)
def test_exception(
    config: Path, whole: Path, tmp_path: Path, module: Any, name: str, call: int, kept: int | None
) -> None:
    run_alone(broken, config, tmp_path, module, name, call)
    steps = sorted(path.name for path in (tmp_path / "checkpoints").glob("*"))
    assert steps[-1:] == ([] if kept is None else [f"step-{kept:06d}"])
    run_alone(in_folder, config, tmp_path)
    same(tmp_path, whole)


# SIGKILL: before any change that the run makes in the file system


def is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in CHANGES


def count_changes(config: Path, output: Path) -> int:
    changes = []
    sys.addaudithook(lambda event, arguments: changes.append(0) if is_change(event, arguments) else None)
    in_folder(config, output)
    return len(changes)


def killed_before_change(config: Path, output: Path, number: int) -> None:
    """SIGKILL right before the n-th change; the function returns when the run makes fewer."""
    left = iter(range(number - 1, -1, -1))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if is_change(event, arguments) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    in_folder(config, output)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_killed_again_and_again(config: Path, whole: Path, tmp_path: Path, seed: int) -> None:
    changes = run_alone(count_changes, config, tmp_path / "counted")
    assert changes > 10 * STEPS
    draw, output = random.Random(seed), tmp_path / "killed"
    for _ in range(5):
        killed = exit_code_alone(killed_before_change, config, output, draw.randint(1, changes // 2))
        assert killed in (0, -signal.SIGKILL)
        _tear_metrics(output / "metrics.jsonl")
    run_alone(in_folder, config, output)
    same(output, whole)


def _tear_metrics(path: Path) -> None:
    """A power cut may leave half a line."""
    if path.exists():
        with path.open("ab") as file:
            file.write(b'{"step": 999, "lo')


def killed_at(config: Path, output: Path, event: str, part: str) -> None:
    """SIGKILL right before the first `event` on a path with `part`, a pattern, in it."""

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and fnmatch(str(arguments[0]), f"*{part}*"):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    in_folder(config, output)


@pytest.mark.parametrize(
    ("event", "part"),
    [
        pytest.param("os.mkdir", ".step-000006.", marks=pytest.mark.slow),
        ("open", "step-000006*/state.json"),
        pytest.param("open", "step-000006*/manifest.json", marks=pytest.mark.slow),
        ("os.rename", "checkpoints/.step-000006."),
        ("os.rename", "checkpoints/step-000003"),  # dropping an old one
        ("shutil.rmtree", "checkpoints/.tmp-step-000003"),
        ("open", ".config.yaml"),
        pytest.param("os.rename", ".config.yaml", marks=pytest.mark.slow),
        pytest.param("open", "adapter_config.json", marks=pytest.mark.slow),
        ("os.rename", ".adapter."),
        ("os.rename", ".model."),
    ],
)
def test_killed_inside_a_write(config: Path, whole: Path, tmp_path: Path, event: str, part: str) -> None:
    assert exit_code_alone(killed_at, config, tmp_path, event, part) == -signal.SIGKILL
    run_alone(in_folder, config, tmp_path)
    same(tmp_path, whole)


@pytest.mark.parametrize(
    ("data", "no_duplicates"),
    [pytest.param(TWO_SOURCES, True, marks=pytest.mark.slow), (MIXTURE, False)],
    ids=["pairs", "mixture of kinds"],
)
def test_killed_and_resumed_with_batches_of_one_source(
    tmp_path: Path, data: tuple[SourceConfig, ...], no_duplicates: bool
) -> None:
    batch = BatchConfig(size=8, chunk_tokens=64, graph_tokens=128, sources="single", no_duplicates=no_duplicates)
    config = write_run(tmp_path / "run", data=data, batch=batch)
    run_alone(in_folder, config, tmp_path / "whole")
    torn = "checkpoints/.step-000006."
    assert exit_code_alone(killed_at, config, tmp_path / "killed", "os.rename", torn) == -signal.SIGKILL
    assert len(steps_of(tmp_path / "killed")) == 6
    run_alone(in_folder, config, tmp_path / "killed")
    same(tmp_path / "killed", tmp_path / "whole")
    report = json.loads((tmp_path / "killed" / "data.json").read_text())
    assert [source["kind"] for source in report["sources"]] == [source.kind for source in data]


@pytest.mark.slow
def test_sigkill_at_random_moments(config: Path, tmp_path: Path) -> None:
    """Real processes, through the script that does it ten times."""
    command = [sys.executable, str(REPOSITORY / "scripts/checks/check_kills.py"), str(config), "--kills", "2"]
    result = subprocess.run(
        [*command, "--steps", "20", "--folder", str(tmp_path)],
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("SIGKILL") >= 2
    same_metrics = [metrics_of(tmp_path / name) for name in ("killed", "undisturbed")]
    assert same_metrics[0] == same_metrics[1]


# the same configuration gives the same run


def from_elsewhere(config: Path, output: Path, *overrides: str) -> None:
    os.chdir("/")
    train_run(config, output, *overrides)


def test_written_config_reproduces_the_run(whole: Path, tmp_path: Path) -> None:
    """From another working directory, though the configuration that was given had relative paths."""
    run_alone(from_elsewhere, whole / "config.yaml", tmp_path)
    same(tmp_path, whole)


# negative controls: what these tests compare does depend on seed, dropout and moments


@pytest.mark.parametrize("override", [("--seed", "1"), ("--lora.dropout", "0.11")])
def test_another_configuration_differs(config: Path, whole: Path, tmp_path: Path, override: tuple[str, str]) -> None:
    run_alone(in_folder, config, tmp_path, *override)
    name = "adapter/adapter_model.safetensors"
    assert sha256(tmp_path / name) != sha256(whole / name)
    assert steps_of(tmp_path) == steps_of(whole)


def without_moments(config: Path, output: Path) -> None:
    train.state.restore_optimizer = lambda *_: None
    in_folder(config, output)


def test_a_resumption_that_forgets_the_moments_differs(config: Path, whole: Path, tmp_path: Path) -> None:
    run_alone(signalled, config, tmp_path, signal.SIGTERM, 4)
    run_alone(without_moments, config, tmp_path)
    assert metrics_of(tmp_path)[:5] == metrics_of(whole)[:5]
    last = f"checkpoints/step-{STEPS:06d}/adapter.safetensors"
    assert sha256(tmp_path / last) != sha256(whole / last)
