"""One training run as a separate process, whose output is written to a log."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dec2vec.errors import INTERRUPTED
from train.checkpointing.interrupts import Interrupts

POLL_SECONDS = 0.5
_ERROR = "dec2vec: error: "


@dataclass(frozen=True)
class Ended:
    """How a run ended. `error` is one line, "" for success."""

    code: int
    error: str = ""
    stop: bool = False
    """Whether the sweep received a signal to stop; the run may have finished nevertheless."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal to the sweep or to the run stopped it before its end."""
        return self.code == INTERRUPTED or (self.stop and self.code != 0)


def run_training(arguments: Sequence[str], log: Path) -> Ended:
    """Run `python -P -m dec2vec train ...` and append its output to `log`.

    A signal is passed on once: the run saves and stops. The process has its own session, since Ctrl-C would otherwise
    reach it from the terminal too. With -P no file of the working folder takes the place of a module.
    """
    start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output, Interrupts() as interrupts:
        command = [sys.executable, "-P", "-m", "dec2vec", "train", *arguments]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            _wait(process, interrupts)
        finally:
            if process.poll() is None:  # a second Ctrl-C: run folders survive a kill
                process.kill()
                process.wait()
        stopped = bool(interrupts)
    code = process.returncode
    return Ended(code, "" if code == 0 else _last_error(log, start, code), stopped)


def _wait(process: subprocess.Popen[bytes], interrupts: Interrupts) -> None:
    told = False
    while True:
        try:
            process.wait(timeout=POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            if interrupts and not told:
                process.send_signal(signal.SIGTERM)
                told = True


def _last_error(log: Path, start: int, code: int) -> str:
    """The error line of dec2vec in the log after `start`, or else the last line (of a traceback)."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    ours = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return (ours or lines or [f"exit code {code}"])[-1]
