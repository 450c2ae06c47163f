"""Compare the present tree with an earlier commit: the same commands in both, on this machine, figure by figure.

    scripts/checks/golden                             everything, about ten minutes the first time
    scripts/checks/golden --only steps,vectors,help   what to run after each small change

A change that moves or renames code must not change what the code computes. This program checks out the earlier commit
into a temporary folder and runs both trees with the same inputs, threads and precision (autocast off). It compares
the quickstart's table and report, the losses, gradients and weights of ten optimizer steps (LoRA, full tuning, several
losses, two ranks with DDP and with FSDP2), the vectors of exported folders, and the options of every verb. It also
hands runs and exports of the earlier commit to the present tree, which has to load, resume, evaluate and export them.
Values must be equal bit for bit. Each comparison is one line, `ok` or `DIFFERENT`, and the exit code is 1 if anything
differs. Results of the earlier commit are kept in `--keep` and are computed only once on a machine.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from golden_runs import helps, old_runs, quickstart, steps, vectors
from golden_runs.cases import Case, Side, write_inputs
from golden_runs.trees import Failed, Tree, git, worktree

ROOT = Path(__file__).resolve().parents[3]
OLD = "a1237ce"
PARTS: dict[str, Callable[[], list[Case]]] = {
    "help": helps.cases,
    "steps": steps.cases,
    "vectors": vectors.cases,
    "old-runs": old_runs.cases,
    "quickstart": quickstart.cases,
}
_COMPARING = {"renames.py", "reports.py", "helps.py", "__main__.py"}
"""Files that have no part in what a tree computes; results are kept when these change."""


def main(argv: Sequence[str]) -> int:
    """Run every case in both trees; 1 if anything differs."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, _stop)
    revision = git(ROOT, "rev-parse", "--verify", f"{options.old}^{{commit}}").decode().strip()
    folder = options.keep.resolve() / f"{revision[:12]}-{_setting()[:8]}"
    with _locked(folder):
        write_inputs(ROOT, revision, folder / "inputs")
        return 1 if _compare(options.only, folder, revision) else 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/checks/golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", default=OLD, metavar="REV", help=f"the earlier commit (default: {OLD})")
    chosen = f"parts among {', '.join(PARTS)}, or single cases such as steps/full"
    parser.add_argument("--only", default=",".join(PARTS), type=_cases, metavar="PART,...", help=chosen)
    keep = ROOT / "runs" / "golden"
    parser.add_argument("--keep", default=keep, type=Path, metavar="DIR", help="where results go (runs/golden)")
    return parser.parse_args(argv)


def _cases(text: str) -> list[Case]:
    """The cases of the parts in `text`, and those that it names one by one."""
    cases = [case for part in PARTS.values() for case in part()]
    wanted = text.split(",")
    for name in wanted:
        if not any(name in (case.name, case.name.partition("/")[0]) for case in cases):
            known = ", ".join(case.name for case in cases)
            raise argparse.ArgumentTypeError(f"nothing is called {name}; choose among {', '.join(PARTS)}, {known}")
    return [case for case in cases if case.name in wanted or case.name.partition("/")[0] in wanted]


def _compare(cases: Sequence[Case], folder: Path, revision: str) -> int:
    """Print a line for each comparison; how many differ."""
    old, new = folder / "old", folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    is_kept = all(case.is_kept(old) for case in cases)
    began, differ, count = time.monotonic(), 0, 0
    with contextlib.nullcontext(Tree(ROOT)) if is_kept else worktree(ROOT, revision) as old_tree:
        for case in cases:
            facts = case.facts(Side(old_tree, old, old, folder / "inputs"))
            for finding in case.findings(facts, Side(Tree(ROOT), new, old, folder / "inputs")):
                sys.stdout.write(f"{finding}\n")
                sys.stdout.flush()
                count += 1
                differ += bool(finding.difference)
    seconds = time.monotonic() - began
    sys.stdout.write(f"{count} comparisons with {revision[:12]}, {differ} differ; {seconds:.0f} s\n")
    return differ


def _setting() -> str:
    """sha256 of the cases and of the libraries: results that were kept under another one are not comparable."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name not in _COMPARING:
            found.update(path.read_bytes())
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "accelerate", "numpy")]
    found.update(" ".join([sys.version, *libraries]).encode())
    return found.hexdigest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two comparisons in one folder would take each other's results away."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another comparison runs in {folder}; wait for it, or choose another --keep") from None
        yield


def _stop(number: int, frame: object) -> NoReturn:
    """Leave through `finally`, so that the temporary tree and running commands go too."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as error:
        sys.exit(f"the old tree fails: {error}")
