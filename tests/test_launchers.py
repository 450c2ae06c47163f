"""What the shipped launcher files and scripts hand to Accelerate is the engine meant."""

from __future__ import annotations

import os
import subprocess
import unittest.mock
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from tests.processes import free_port
from tests.test_engines import FSDP2, ONCE, REPOSITORY
from train.distributed.deepspeed import launched_stage

CONFIGS = REPOSITORY / "configs" / "accelerate"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_launcher_reads_the_shipped_configs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate's own parser and launcher take each, and what they put into the environment is the engine meant."""
    port = str(free_port())
    arguments = ["--config_file", str(path), "--main_process_port", port, "-m", "dec2vec", "train", "run.yaml"]
    options, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert options.num_machines == (2 if path.stem.endswith("-nodes") else 1)
    if path.stem.startswith("one"):
        assert not options.multi_gpu and not options.use_fsdp
        return
    partitioned, sharded = (path.stem.startswith(engine) for engine in ("deepspeed", "fsdp2"))
    options.deepspeed_fields_from_accelerate_config = ""  # set by what starts the processes
    command, environment = prepare_deepspeed_cmd_env(options) if partitioned else (None, prepare_multi_gpu_env(options))
    assert options.nproc_per_node == "8" and command is None, "torchrun's launcher, on each node"
    assert options.use_fsdp == sharded and options.use_deepspeed == partitioned
    assert options.multi_gpu == (not sharded and not partitioned)
    if partitioned:
        with unittest.mock.patch.dict(os.environ, environment):
            assert launched_stage() == options.zero_stage
    if sharded:
        assert {name: environment[name] for name in FSDP2} == (ONCE if "once" in path.stem else FSDP2)
    if options.num_machines > 1:
        assert options.rdzv_endpoint == f"localhost:{port}" and options.node_rank == 0
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and ("Run " in first or "not run" in first)


def test_slurm_script_starts_all_nodes_by_one_line(tmp_path: Path) -> None:
    """With stand-ins for what SLURM and Accelerate install."""
    stand_ins = {"scontrol": "printf 'n07\\nn08\\n'", "srun": 'shift; exec "$@"', "accelerate": 'printf "%s\\n" "$@"'}
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[07-08]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(REPOSITORY / "scripts" / "slurm-train"), "run.yaml", "--optim.lr", "1e-4"]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert started[0] == "launch" and started[-6:] == ["-m", "dec2vec", "train", "run.yaml", "--optim.lr", "1e-4"]
    options = dict(zip(started[1:-6:2], started[2:-6:2], strict=True))
    assert options["--num_processes"] == "8" and options["--main_process_ip"] == "n07"
    assert (REPOSITORY / options["--config_file"]).is_file()
