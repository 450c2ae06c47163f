"""A whole run on W ranks, from the command to the exported adapter, equals that of one process."""

from __future__ import annotations

import gc
import subprocess
import sys
import unittest.mock
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dec2vec.errors import UserError
from tests.processes import run_alone, run_ranks
from tests.tiny_run import STEPS, TWO_SOURCES, metrics_of, steps_of, train, write_run
from tests.training_setup import distance
from train.config import BatchConfig, LoraConfig

REPOSITORY = Path(__file__).resolve().parent.parent


NO_DROPOUT = LoraConfig(rank=4, alpha=8.0)


def adapter_of(output: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(output / "adapter" / "adapter_model.safetensors")


def same_run(two: Path, one: Path) -> None:
    assert steps_of(two) == list(range(1, STEPS + 1))
    for found, expected in zip(metrics_of(two), metrics_of(one), strict=True):
        found.pop("padding_ratio", None)  # each rank pads its own share
        expected.pop("padding_ratio", None)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


SECTIONS: dict[str, dict[str, Any]] = {
    "mixed": {},
    "one source": {
        "data": TWO_SOURCES,
        "batch": BatchConfig(size=8, chunk_tokens=64, graph_tokens=128, sources="single"),
    },
}


@pytest.mark.parametrize(
    ("world", "batches"),
    [(2, "one source"), *(pytest.param(3, way, marks=pytest.mark.slow) for way in ("mixed", "one source"))],
)
def test_whole_run_equals_one_process(
    world: int, batches: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command's arguments to the exported adapter; only the main process logs."""
    monkeypatch.chdir(tmp_path)
    config = write_run(tmp_path, lora=NO_DROPOUT, **SECTIONS[batches])
    run_alone(train, config, tmp_path / "one")
    run_ranks(world, train, config, tmp_path / "many")
    same_run(tmp_path / "many", tmp_path / "one")
    assert distance(adapter_of(tmp_path / "many"), adapter_of(tmp_path / "one")) < 1e-3


def wrapped_models_when_the_group_ends(config: Path, output: Path) -> list[int]:
    counts = []
    destroy = dist.destroy_process_group

    def count_and_destroy(group: dist.ProcessGroup | None = None) -> None:
        counts.append(sum(type(thing) is DistributedDataParallel for thing in gc.get_objects()))
        destroy(group)

    with unittest.mock.patch("torch.distributed.destroy_process_group", count_and_destroy):
        train(config, output)
    return counts


def test_the_wrapped_model_goes_before_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a rank may hang at the end of its run: train.finish.leave."""
    monkeypatch.chdir(tmp_path)
    config = write_run(tmp_path, lora=NO_DROPOUT)
    assert run_ranks(2, wrapped_models_when_the_group_ends, config, tmp_path / "many") == [[0], [0]]


def on_a_disk_of_its_own(config: Path, shared: Path) -> str:
    """Rank 0 has the folder of an earlier run, rank 1 an empty one."""
    output = shared if dist.get_rank() == 0 else shared.with_name("elsewhere")
    with pytest.raises(UserError) as caught:
        train(config, output)
    return str(caught.value)


def test_ranks_that_see_different_checkpoints_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_run(tmp_path, lora=NO_DROPOUT)
    run_alone(train, config, tmp_path / "whole")
    for message in run_ranks(2, on_a_disk_of_its_own, config, tmp_path / "whole"):
        assert f"processes find different checkpoints (steps [{STEPS}, 0])" in message


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """The real launcher, through the script that shows the losses side by side."""
    config = write_run(tmp_path, lora=NO_DROPOUT)
    command = [sys.executable, str(REPOSITORY / "scripts/checks/check_ranks.py"), str(config), "--steps", str(STEPS)]
    options = ["--folder", "ranks", "--tolerance", "1e-5"]
    result = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 processes" in result.stdout
    same_run(tmp_path / "ranks" / "two", tmp_path / "ranks" / "one")
