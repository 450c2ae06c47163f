"""Progress: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import io

import pytest

from train.tracking.progress import BarProgress, LineProgress, NullProgress, Rate, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_file_is_plain_lines() -> None:
    stream = io.StringIO()
    with make_progress(1003, done=3, stream=stream) as progress:
        assert isinstance(progress, LineProgress)
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


def test_progress_in_a_terminal_is_a_bar() -> None:
    stream = Terminal()
    with make_progress(10, done=4, stream=stream) as progress:
        assert isinstance(progress, BarProgress)
        for _ in range(6):
            progress.advance(0.25, 64)
        progress.note("saved")
    assert "10/10" in stream.getvalue()
    assert "loss 0.2500" in stream.getvalue()
    assert "pairs/s" in stream.getvalue()
    assert "saved\n" in stream.getvalue()


def test_progress_only_in_the_main_process() -> None:
    stream = io.StringIO()
    progress = make_progress(10, is_main=False, stream=stream)
    assert isinstance(progress, NullProgress)
    with progress:
        progress.advance(0.5, 64)
        progress.note("saved")
    assert stream.getvalue() == ""


def test_rate_forgets_a_slow_start() -> None:
    times = iter([0.0, 100.0, *(100.0 + 0.5 * step for step in range(1, 500))])
    rate = Rate(clock=lambda: next(times))
    rate.add(64)
    assert rate.steps == pytest.approx(0.01)
    for _ in range(499):
        rate.add(64)
    assert rate.steps == pytest.approx(2.0, rel=0.01)
    assert rate.pairs == pytest.approx(128.0, rel=0.01)
