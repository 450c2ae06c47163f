"""The helper that forks ranks: results in order, failures with their traceback, and a time limit."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.processes import exit_code_alone, run_alone, run_ranks


def rank_and_sum(base: int) -> tuple[int, int, torch.Tensor]:
    value = torch.tensor([dist.get_rank() + base])
    dist.all_reduce(value)
    return dist.get_rank(), dist.get_world_size(), value


def one_fails() -> None:
    if dist.get_rank() == 1:
        raise ValueError("no such luck")
    dist.barrier()


def one_dies() -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def test_ranks_form_a_group() -> None:
    for rank, result in enumerate(run_ranks(3, rank_and_sum, 10)):
        assert result[:2] == (rank, 3)
        assert result[2].tolist() == [33]
    assert not dist.is_initialized()
    assert "RANK" not in os.environ


def test_a_failing_rank_ends_all_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"rank 1 failed:(.|\n)*ValueError: no such luck"):
        run_ranks(2, one_fails)
    with pytest.raises(AssertionError, match=r"rank 1 died|rank 0 failed"):
        run_ranks(2, one_dies)
    assert time.monotonic() - started < 30


def test_time_limit() -> None:
    with pytest.raises(AssertionError, match=r"took longer than 0 s"):
        run_alone(time.sleep, 60, limit=0.3)


def test_exit_codes() -> None:
    assert exit_code_alone(os.getpid) == 0
    assert exit_code_alone(os.kill, 0, 0) == 0
    assert exit_code_alone(signal.raise_signal, signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        exit_code_alone(divmod, 1, 0)
