"""Signals become a flag; a second Ctrl-C aborts; the old handlers come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from train.checkpointing.interrupts import Interrupts

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_only_sets_the_flag(number: signal.Signals) -> None:
    before = handlers()
    with Interrupts() as interrupts:
        assert not interrupts
        os.kill(os.getpid(), number)
        assert interrupts
        assert interrupts.received is number
    assert handlers() == before


def test_second_sigint_aborts_and_handlers_come_back() -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), Interrupts(grace=0.0):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert handlers() == before


def test_one_key_press_delivered_twice_counts_once() -> None:
    with Interrupts(grace=60.0) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.received is signal.SIGINT


def test_sigint_after_sigterm_aborts_and_sigterm_never_does() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts(grace=0.0) as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received is signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)


def test_nested_use_restores_the_outer_one() -> None:
    with Interrupts() as outer:
        with Interrupts() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner
        assert not outer
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = handlers()
    seen: list[bool] = []

    def work() -> None:
        with Interrupts() as interrupts:
            seen.append(bool(interrupts) or handlers() != before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


WORKER = """
import sys, time
from train.checkpointing.interrupts import Interrupts
with Interrupts(grace=0.2) as interrupts:
    print("ready", flush=True)
    while not interrupts:
        time.sleep(0.01)
    print("saving", flush=True)
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_finishes_its_work_after_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, "0"], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.send_signal(number)
        assert worker.stdout.read() == "saving\nsaved\n"
    assert worker.returncode == 0


def test_a_second_sigint_stops_a_process_at_once() -> None:
    command = [sys.executable, "-c", WORKER, "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        worker.send_signal(signal.SIGINT)
        assert worker.stdout.readline() == "saving\n"
        time.sleep(0.3)
        worker.send_signal(signal.SIGINT)
        out, err = worker.communicate(timeout=10)
    assert out == ""
    assert "KeyboardInterrupt" in err
