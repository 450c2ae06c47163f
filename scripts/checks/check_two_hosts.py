"""Train on two hosts (network namespaces with a cable between them), and break what may break.

    python scripts/checks/check_two_hosts.py configs/train/quickstart.yaml --batch.size 16 --optim.lr 2e-4

First the run is made undisturbed, and by one process alone: losses and adapter must be the same up to rounding. Then
each experiment is one run of `torchrun -m dec2vec train` over both hosts, disturbed at a random step:
    kill   a rank of the second host is killed (SIGKILL)
    hang   it is stopped (SIGSTOP), so that no connection closes
    cut    the cable is cut for longer than distributed.timeout, then reconnected
    blink  the cable is cut for a shorter time
    slow   the rank is stopped half of the time for ten seconds
    away   the cable is cut for longer than torchrun waits for a host; both are then started again by hand
    recipe nothing breaks: the run by scripts/two-hosts as it stands, between hosts that know each other by name
After `kill`, `hang`, `cut` and `away` all other processes must end in time, with one line on each host that noticed,
and the restart must lead to the undisturbed run's adapter, bit for bit; the others must end nobody. What is no option
of this script is handed on to training; a small --optim.lr keeps rounding from growing. Exit code 0 when all is as it
must be, 77 where namespaces are not allowed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hosts.breakages import EXPERIMENTS, Plan, Seen, faults
from hosts.equality import undisturbed
from hosts.network import Host, run_inside, two_hosts

HEAD = "| what | after step | others ended, s | exit codes | next step, s | adapter | |\n|---|" + "---|" * 6


def main(argv: Sequence[str]) -> int:
    """Run undisturbed and alone, then each experiment; prints the table and writes results.json."""
    options, overrides = _parser().parse_known_args(argv)
    run_inside()
    with two_hosts() as hosts:
        plan = _plan(options, overrides, hosts)
        calm = undisturbed(plan)
        _say(
            f"{calm.ranks} ranks on {len(hosts)} hosts, {plan.steps} steps, {calm.seconds:.1f} s; differences from one "
            f"process: losses {calm.losses:.1e}, adapter {calm.adapter:.1e}\nundisturbed: adapter {calm.sha256}\n"
        )
        draw, seen, wrong = random.Random(options.seed), list[Seen](), calm.faults
        _say(HEAD)
        for name in options.experiments:
            seen.append(EXPERIMENTS[name](plan, draw))
            _say(_row(seen[-1], calm.sha256))
            wrong += [f"{name}: {fault}" for fault in faults(plan, seen[-1], calm.sha256)]
    for one in seen:
        _say("\n".join([f"\n{one.name}: adapter {one.sha256}", *(f"  {line}" for line in one.lines)]))
    _say("\n".join(["", *(wrong or ["all is as it must be"])]))
    results = {"undisturbed": asdict(calm), "experiments": [asdict(one) for one in seen], "wrong": wrong}
    (plan.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a training run")
    parser.add_argument("--processes", type=int, default=1, help="on each host")
    parser.add_argument("--engine", choices=["ddp", "fsdp2"], default="ddp")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--timeout", type=float, default=15.0, help="distributed.timeout, seconds")
    parser.add_argument("--blink", type=float, help="seconds of that experiment's cut; a third of the timeout")
    parser.add_argument("--experiments", nargs="*", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/check_two_hosts"), help="where the runs go")
    return parser


def _plan(options: argparse.Namespace, overrides: Sequence[str], hosts: tuple[Host, Host]) -> Plan:
    """Dropout is off, since each process draws masks of its own."""
    return Plan(
        hosts=hosts,
        processes=options.processes,
        folder=options.folder,
        arguments=(options.config, "--lora.dropout", "0", *overrides),
        steps=options.steps,
        timeout=options.timeout,
        blink=options.timeout / 3 if options.blink is None else options.blink,
        engine=options.engine,
    )


def _row(seen: Seen, expected: str) -> str:
    ended = "none" if seen.ended is None else f"{seen.ended:.1f}"
    notes = [seen.note] if seen.note else []
    notes += [f"torchrun started again {seen.agents} times"] if seen.agents else []
    codes = ", ".join(map(str, seen.codes))
    adapter = "equal" if seen.sha256 == expected else "DIFFERENT"
    return f"| {seen.name} | {seen.step} | {ended} | {codes} | {seen.resumed:.1f} | {adapter} | {'; '.join(notes)} |"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
