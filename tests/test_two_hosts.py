"""Two hosts, as network namespaces with a cable between them: torchrun meets across it, and what breaks is survived."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.test_whole_run_on_ranks import NO_DROPOUT
from tests.tiny_run import write_run
from train.config import EvalSection

if TYPE_CHECKING:
    from scripts.checks.hosts.breakages import Seen

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "scripts/checks")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_two_hosts_train_as_one_process_and_survive_a_kill(tmp_path: Path, engine: str) -> None:
    """The script runs in a namespace of its own, from which nothing reaches this machine's network.

    `scripts/two-hosts` itself makes the same adapter there.
    """
    config = write_run(tmp_path, lora=NO_DROPOUT, eval=EvalSection(after_training=False))
    script = [sys.executable, str(REPOSITORY / "scripts/checks/check_two_hosts.py"), str(config), "--steps", "30"]
    command = [*script, "--engine", engine, "--experiments", "kill", "recipe", "--folder", "hosts"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "hosts" / "results.json").read_text())
    calm, (killed, recipe) = results["undisturbed"], results["experiments"]
    assert recipe["sha256"] == calm["sha256"] and recipe["lines"] == []
    assert calm["ranks"] == 2 and calm["losses"] < 1e-5 and calm["adapter"] < 1e-4
    assert killed["sha256"] == calm["sha256"] and -9 in killed["codes"]
    (line,) = killed["lines"]
    assert line.startswith("a: dec2vec: error: rank 0 of 2, after step") and "lost a process on 10.77.0.2" in line


def killed() -> Seen:
    from hosts.breakages import Seen

    line = "a: dec2vec: error: rank 0 of 2, after step 7: lost a process"
    return Seen("kill", 7, 0.5, 20.0, (75, -9), (line,), 0, "good")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"sha256": "bad"}, "the adapter is not the undisturbed run's"),
        ({"ended": 31.0}, "lived longer than 30 s"),
        ({"codes": (1, -9)}, "a process ended with 1"),
        ({"lines": ()}, "nobody said a word"),
        ({"lines": ("a: x", "a: y")}, "host a said 2 lines"),
        ({"name": "away"}, None),
        ({"name": "recipe", "codes": (), "sha256": "bad"}, "the adapter is not the undisturbed run's"),
        ({"name": "blink", "ended": None}, "where none had to"),
        ({"name": "blink", "codes": (), "note": "5 s; processes were started again"}, "where none had to"),
        ({"name": "slow", "ended": None, "codes": (), "note": "slowest rank 0 in 9 of 9"}, "another rank was named"),
    ],
)
def test_each_fault_is_found(changes: dict[str, object], fault: str | None) -> None:
    """What `check_two_hosts.py` would pass wrongly otherwise."""
    from hosts.breakages import Plan, faults

    plan = Plan((), 1, Path(), (), steps=40, timeout=15.0, blink=5.0)
    plan = dataclasses.replace(plan, hosts=(object(), object()))  # type: ignore[arg-type]
    found = faults(plan, dataclasses.replace(killed(), **changes), "good")  # type: ignore[arg-type]
    assert found == [] if fault is None else fault in "; ".join(found)


def test_the_slow_rank_is_taken_from_the_disturbed_steps(tmp_path: Path) -> None:
    from hosts.breakages import named_slowest

    pace = [(1, 0, 1.0, 1.0), (2, 1, 3.0, 2.0), (3, 1, 2.0, 1.5), (4, 0, 9.0, 1.0)]
    keys = ("step", "slowest_rank", "rank_seconds_max", "rank_seconds_median")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in pace]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert named_slowest(tmp_path, 1, 3) == "slowest rank 1 in 2 of 2 steps, 0.75 s behind the median"
