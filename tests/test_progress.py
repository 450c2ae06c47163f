"""Progress: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr
from types import ModuleType

import pytest
from tqdm import tqdm

import train.tracking.progress
from dec2vec.runtime import bar_options
from train.tracking.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_file_is_plain_lines() -> None:
    with redirect_stderr(io.StringIO()) as stream, Progress(1003, done=3) as progress:
        for _ in range(1000):
            progress.advance(0.5, 64)
        progress.note("saved")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("step 4/1003  loss 0.5000")
    assert lines[1].startswith("step 1003/1003")
    assert lines[1].endswith("0:00 left")
    assert lines[2] == "saved"
    assert "\r" not in stream.getvalue()


def test_log_lines_come_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.tracking.progress, "LINE_SECONDS", 0.0)
    with redirect_stderr(io.StringIO()) as stream, Progress(4) as progress:
        for step in range(4):
            progress.advance(float(step), 8)
    starts = [line.split("  ")[:2] for line in stream.getvalue().splitlines()]
    assert starts == [[f"step {step + 1}/4", f"loss {step}.0000"] for step in range(4)]


def test_progress_in_a_terminal_is_a_bar() -> None:
    with redirect_stderr(Terminal()) as stream, Progress(10, done=4) as progress:
        for _ in range(6):
            progress.advance(0.25, 64)
        progress.note("saved")
    assert "10/10" in stream.getvalue()
    assert "loss 0.2500" in stream.getvalue()
    assert "pairs/s" in stream.getvalue()
    assert "saved\n" in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_progress_only_in_the_main_process(kind: type[io.StringIO]) -> None:
    with redirect_stderr(kind()) as stream, Progress(10, is_main=False, dev_every=1) as progress:
        progress.advance(0.5, 64)
        with progress.evaluating():
            pass
        progress.note(f"saved{progress.dev_to_come}")
    assert stream.getvalue() == ""


def test_speed_is_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a second of 64 pairs each, by a clock of our own."""
    with redirect_stderr(io.StringIO()) as stream, Progress(100) as progress:
        bar = progress._bar
        monkeypatch.setattr(bar, "_time", lambda: bar.start_t + 0.5 * bar.n)
        for _ in range(100):
            progress.advance(0.5, 64)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6  # the first step, four intervals of ten seconds, the last step
    assert all("  128 pairs/s  " in line for line in lines)
    assert lines[1].startswith("step 20/100") and lines[1].endswith("00:40 left")


def test_what_takes_long_is_lines_in_a_log_file_and_a_bar_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(stream: io.StringIO) -> str:
        with redirect_stderr(stream):
            for _ in tqdm(range(3), desc="encode", **{**bar_options(), "delay": 1e-9, "mininterval": 0, "miniters": 1}):
                pass
        return stream.getvalue()

    lines = shown(io.StringIO())
    assert "encode: 2 of 3, 00:00 left\n" in lines and "\r" not in lines
    assert "encode: " in shown(Terminal()) and "\r" in shown(Terminal())
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert "\r" in shown(io.StringIO()), "a notebook shows the bar, though it is no terminal"
    assert bar_options(shown=False)["disable"]


def test_the_time_left_includes_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a second and evaluations of ten, of which the steps' speed knows nothing, by a clock of our own."""
    clock = [0.0]
    with redirect_stderr(io.StringIO()) as stream, Progress(50, dev_every=20) as progress:
        monkeypatch.setattr(progress._bar, "_time", lambda: clock[0])
        progress._bar.start_t = progress._bar.last_print_t = 0.0
        for step in range(1, 51):
            clock[0] += 1.0
            progress.advance(0.5, 64)
            if step % 20 == 0 or step == 50:
                with progress.evaluating():
                    clock[0] += 10.0
                progress.note(f"step {step}: 10 s{progress.dev_to_come}")
    lines = stream.getvalue().splitlines()
    steps = [line for line in lines if "pairs/s" in line]
    assert all("  64 pairs/s  " in line for line in steps)
    assert next(line for line in steps if line.startswith("step 10/50")).endswith("00:40 left")  # dev is not known yet
    assert next(line for line in steps if line.startswith("step 30/50")).endswith("00:40 left, of which dev 00:20")
    notes = [line for line in lines if " 10 s" in line]
    assert [note.partition(", and the last step ends at ")[0] for note in notes] == [
        "step 20: 10 s; 2 more",
        "step 40: 10 s; 1 more",
        "step 50: 10 s",
    ]
    assert notes[0].split("ends at ")[1].count(":") == 1
