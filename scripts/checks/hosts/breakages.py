"""What may happen to a run on two hosts, and what is seen of it: the experiments of scripts/checks/check_two_hosts.py.

Each is one run into a folder of its own, disturbed while a step is under way. The disturbed rank is the last one, on
the second host, and never the main process.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hosts.launch import Launch
from hosts.network import Host
from hosts.recipe import run_recipe
from train.tracking.metrics_file import read_metrics, step_of

PATIENCE = 500.0
SLACK = 15.0
"""Seconds beyond the timeout for processes to notice and end on a loaded machine."""
EXPECTED_CODES = {75, -signal.SIGKILL, -signal.SIGTERM}
SLOW_SECONDS = 10.0
SHORT_PATIENCE = 20
"""Seconds that torchrun waits for the other host in `away`; 600 is its own."""
ANEW = "processes were started again"


@dataclass(frozen=True)
class Plan:
    """Where and how all runs are made."""

    hosts: tuple[Host, ...]
    processes: int
    """On each host."""
    folder: Path
    arguments: tuple[str, ...]
    steps: int
    timeout: float
    """distributed.timeout, seconds."""
    blink: float
    """Seconds that a cable is cut for without anything being lost."""
    engine: str = "ddp"

    @property
    def options(self) -> list[str]:
        """Of `python -m dec2vec train`: a checkpoint every few steps, and nothing after training."""
        fixed = {"optim.steps": self.steps, "distributed.timeout": self.timeout, "export.model": "false"}
        every = {"checkpoint.every": max(1, self.steps // 8), "eval.after_training": "false"}
        return [*self.arguments, *(part for key, value in (fixed | every).items() for part in (f"--{key}", str(value)))]

    def launch(self, name: str) -> Launch:
        """The run into a folder of its own."""
        return Launch(self.hosts, self.processes, self.folder / name, self.options, engine=self.engine)

    @property
    def victim(self) -> int:
        """A rank that is not the main process."""
        return len(self.hosts) * self.processes - 1


@dataclass(frozen=True)
class Seen:
    """What a run did after it was disturbed; seconds count from there."""

    name: str
    step: int
    """Finished steps at the disturbance."""
    ended: float | None
    """Seconds until the last of the other processes had ended; None if none was to end."""
    resumed: float
    """Seconds until a further step was logged."""
    codes: tuple[int, ...]
    """Exit codes that torchrun noted, the killed process' included. Of one that it stopped while it was ending (the
    other host's torchrun had begun anew) it notes none."""
    lines: tuple[str, ...]
    """What the processes that noticed said, each after its host's name."""
    agents: int
    """How often a torchrun itself gave up and was started again."""
    sha256: str
    note: str = ""


def kill(plan: Plan, draw: random.Random) -> Seen:
    """SIGKILL: the connection closes, so the others know at once."""
    return _lose(plan, "kill", draw)


def hang(plan: Plan, draw: random.Random) -> Seen:
    """SIGSTOP and never on: only the timeout tells."""
    return _lose(plan, "hang", draw)


def cut(plan: Plan, draw: random.Random) -> Seen:
    """The cable is cut until the timeout has passed on both hosts, then mended."""
    return _lose(plan, "cut", draw)


def blink(plan: Plan, draw: random.Random) -> Seen:
    """The cable is cut for a shorter time: nobody may end."""
    with plan.launch("blink") as run:
        step = _some_way_in(plan, run, draw)
        there, began = run.workers(), time.monotonic()
        plan.hosts[1].link("down")
        run.until(lambda: time.monotonic() >= began + plan.blink, PATIENCE)
        plan.hosts[1].link("up")
        before = run.steps()
        resumed = run.until(lambda: run.steps() > before or run.done(), PATIENCE)
        same = run.workers() == there or run.done()
        run.finish(PATIENCE)
        note = f"{plan.blink:g} s without a cable" + ("" if same else f"; {ANEW}")
        return _seen(plan, run, "blink", step, None, resumed - began, note)


def slow(plan: Plan, draw: random.Random) -> Seen:
    """A rank stopped half of the time for a while: the metrics should name it."""
    with plan.launch("slow") as run:
        step = _some_way_in(plan, run, draw)
        victim, began = run.workers()[plan.victim], time.monotonic()
        while time.monotonic() < began + SLOW_SECONDS and not run.done():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                os.kill(victim, number)
                time.sleep(0.25)
        last = run.steps()
        resumed = time.monotonic()
        run.finish(PATIENCE)
        return _seen(plan, run, "slow", step, None, resumed - began, named_slowest(run.folder, step, last))


def recipe(plan: Plan, draw: random.Random) -> Seen:
    """Undisturbed by `scripts/two-hosts` as it stands, between hosts with names."""
    began = time.monotonic()
    sha256, lines = run_recipe(plan.hosts, plan.folder, plan.processes, plan.engine, plan.options, PATIENCE)
    seconds = time.monotonic() - began
    return Seen("recipe", 0, None, seconds, (), lines, 0, sha256, f"{seconds:.0f} s from start to end")


def away(plan: Plan, draw: random.Random) -> Seen:
    """The cable is cut for longer than torchrun waits; when it has given up, both hosts are started again by hand."""
    run = plan.launch("away")
    run.by_hand, run.join_timeout = True, SHORT_PATIENCE
    with run:
        step = _some_way_in(plan, run, draw)
        others, began = set(run.workers().values()), time.monotonic()
        plan.hosts[1].link("down")
        ended = run.until(lambda: not others & set(run.workers().values()), PATIENCE)
        gone = run.until(lambda: run.agents[0].poll() is not None, PATIENCE)
        plan.hosts[1].link("up")
        rest = run.end_agents(SLACK)
        by_hand = time.monotonic()
        run.start()
        resumed = run.until(lambda: run.steps() > step or run.done(), PATIENCE)
        run.finish(PATIENCE)
        note = f"torchrun gave up on the first host after {gone - began:.0f} s; the other's {rest}; started by hand"
        return _seen(plan, run, "away", step, ended - began, resumed - by_hand, note)


EXPERIMENTS = {"kill": kill, "hang": hang, "cut": cut, "blink": blink, "slow": slow, "away": away, "recipe": recipe}
FATAL = ("kill", "hang", "cut", "away")


def faults(plan: Plan, seen: Seen, undisturbed: str) -> list[str]:
    """What was not as it must be."""
    found = []
    if seen.sha256 != undisturbed:
        found.append("the adapter is not the undisturbed run's")
    if seen.name in FATAL:
        if seen.ended is None or seen.ended > plan.timeout + SLACK:
            found.append(f"a process lived longer than {plan.timeout + SLACK:g} s")
        strange = sorted(set(seen.codes) - EXPECTED_CODES)
        found += [f"a process ended with {strange[0]}"] if strange else []
        if not seen.lines:
            found.append("nobody said a word")
        speakers = Counter(line.split(":")[0] for line in seen.lines)
        found += [f"host {host} said {count} lines" for host, count in speakers.items() if count > 1]
    elif seen.codes or ANEW in seen.note:
        found.append(f"processes ended {seen.codes} where none had to")
    if seen.name == "slow" and not seen.note.startswith(f"slowest rank {plan.victim} "):
        found.append("another rank was named the slowest")
    return found


def _lose(plan: Plan, name: str, draw: random.Random) -> Seen:
    with plan.launch(name) as run:
        step = _some_way_in(plan, run, draw)
        there, began = run.workers(), time.monotonic()
        others = {pid for rank, pid in there.items() if name == "cut" or rank != plan.victim}
        if name == "cut":
            plan.hosts[1].link("down")
        else:
            os.kill(there[plan.victim], signal.SIGKILL if name == "kill" else signal.SIGSTOP)
        ended = run.until(lambda: not others & set(run.workers().values()), PATIENCE)
        if name == "cut":
            plan.hosts[1].link("up")
        resumed = run.until(lambda: run.steps() > step or run.done(), PATIENCE)
        run.finish(PATIENCE)
        return _seen(plan, run, name, step, ended - began, resumed - began)


def _some_way_in(plan: Plan, run: Launch, draw: random.Random) -> int:
    """Wait for a step between a quarter and half of the run, and for a moment in the next one; the finished steps."""
    target = draw.randint(plan.steps // 4, plan.steps // 2)
    run.until(lambda: run.steps() >= target, PATIENCE)
    time.sleep(draw.uniform(0.0, 0.2))
    return run.steps()


def _seen(plan: Plan, run: Launch, name: str, step: int, ended: float | None, resumed: float, note: str = "") -> Seen:
    codes = tuple(code for host in plan.hosts for code in run.exit_codes(host))
    lines = tuple(f"{host.name}: {line}" for host in plan.hosts for line in run.said(host))
    return Seen(name, step, ended, resumed, codes, lines, run.starts, run.weights, note)


def named_slowest(folder: Path, first: int, last: int) -> str:
    """Whom the metrics of these steps name, and how much longer it took than the median rank."""
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "slowest_rank" in line]
    during = [line for line in lines if first < step_of(line) <= last]
    counts = Counter(int(line["slowest_rank"] or 0) for line in during).most_common()
    said = [f"slowest rank {rank} in {count} of {len(during)} steps" for rank, count in counts[:1]]
    return ", ".join([*said, f"{_excess(during):.2f} s behind the median"])


def _excess(lines: Sequence[dict[str, str | int | float | bool | None]]) -> float:
    seconds = [float(line["rank_seconds_max"] or 0) - float(line["rank_seconds_median"] or 0) for line in lines]
    return sum(seconds) / max(1, len(seconds))
