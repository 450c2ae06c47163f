"""Checkpoints: exact, atomic, checked; and what happens to each kind of damage."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dec2vec.files.atomic
import train.checkpointing.checkpoint
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, refuse_pickle
from tests.helpers import same_bits
from train.checkpointing.checkpoint import (
    discard_checkpoints,
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from train.checkpointing.identity import Identity
from train.config import TrainConfig

RUN = Identity("a" * 64)
FIXED_TENSORS = {
    "lora_A": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "lora_B": torch.tensor([1e-45, -0.0, float("inf")]),
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
}
FIXED_OPTIMIZER = {"lora_A.step": torch.tensor(7.0), "lora_A.exp_avg": torch.ones(2, 3).T}
STATE: dict[str, object] = {"step": 7, "best": 0.1 + 0.2, "bad_steps": 0, "losses": [1.0, 2.5]}


def save(root: Path, step: int, run: Identity = RUN) -> Path:
    return save_checkpoint(root, step, FIXED_TENSORS, FIXED_OPTIMIZER, STATE, run)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_round_trip_is_exact(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoints", 200)
    assert folder.name == "step-000200"
    assert names(folder) == ["adapter.safetensors", "manifest.json", "optimizer.safetensors", "state.json"]
    found = latest_checkpoint(tmp_path / "checkpoints", RUN)
    assert found is not None
    assert (found.path, found.step, found.state) == (folder, 200, STATE)
    assert same_bits(found.tensors, FIXED_TENSORS)
    assert same_bits(found.optimizer, FIXED_OPTIMIZER)


def test_nothing_there(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "checkpoints", RUN) is None


def test_newest_by_number_not_by_name(tmp_path: Path) -> None:
    for step in (9, 999_999, 1_000_001):
        save(tmp_path, step)
    found = latest_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.step == 1_000_001


DAMAGES = {
    "cut short": lambda folder: os.truncate(folder / "adapter.safetensors", 40),
    "bit flipped": lambda folder: flip_last_byte(folder / "optimizer.safetensors"),
    "state changed": lambda folder: flip_last_byte(folder / "state.json"),
    "file lost": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "manifest lost": lambda folder: (folder / "manifest.json").unlink(),
    "manifest cut": lambda folder: os.truncate(folder / "manifest.json", 10),
    "manifest not an object": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest empty object": lambda folder: (folder / "manifest.json").write_text("{}"),
    "renamed to a later step": lambda folder: folder.rename(folder.with_name("step-000300")),
    "all empty": lambda folder: [os.truncate(path, 0) for path in folder.iterdir()],
}


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_is_passed_over_with_a_warning(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 100)
    DAMAGES[damage](save(tmp_path, 200))
    with caplog.at_level(logging.WARNING):
        found = latest_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.step == 100
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text


@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_any_flipped_byte_is_noticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("flip")
    folder = save(root, 1)
    path = folder / data.draw(st.sampled_from(["adapter.safetensors", "optimizer.safetensors", "state.json"]))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    try:
        assert latest_checkpoint(root, RUN) is None
    except UserError as refused:
        assert "pickle" in str(refused)
    shutil.rmtree(root)


def test_only_damaged_ones_starts_anew_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.truncate(save(tmp_path, 100) / "state.json", 0)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path, RUN) is None
    assert "starting from the first step" in caplog.text


def test_other_configuration_is_refused_with_the_fix(tmp_path: Path) -> None:
    save(tmp_path, 100, Identity("b" * 64, TrainConfig(seed=1)))
    with pytest.raises(UserError, match=r"step-000100.*checkpoint\.resume fresh.*output_dir"):
        latest_checkpoint(tmp_path, RUN)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    manifest = save(tmp_path, 100) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        latest_checkpoint(tmp_path, RUN)


@pytest.mark.parametrize("name", ["adapter.bin", "adapter.pt", "optimizer.pt", "adapter.safetensors"])
def test_pickle_is_refused(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 100)
    (folder / name).with_suffix(".safetensors").unlink()
    torch.save({"weight": torch.zeros(2)}, folder / name)
    with pytest.raises(UserError, match=rf"{name}.*is a pickle.*safetensors"):
        latest_checkpoint(tmp_path, RUN)


def test_old_style_pickle_is_recognised_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="is a pickle"):
        refuse_pickle(path)


def test_named_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path, 100)
    assert load_checkpoint(folder, RUN).step == 100
    os.truncate(folder / "state.json", 0)
    with pytest.raises(UserError, match=r"step-000100 is damaged"):
        load_checkpoint(folder, RUN)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_while_flushing(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 100)

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(dec2vec.files.atomic.os, "fsync", full)
        with pytest.raises(UserError, match=r"step-000200.*disk is full.*earlier checkpoints are intact"):
            save(tmp_path, 200)
    assert names(tmp_path) == ["step-000100"]
    assert latest_checkpoint(tmp_path, RUN) is not None


def test_file_size_limit_hit_inside_safetensors(tmp_path: Path) -> None:
    """A real failed write: safetensors' own error carries no errno."""
    code = f"""
import resource, sys, torch
from pathlib import Path
from dec2vec.errors import UserError
from train.checkpointing.checkpoint import save_checkpoint
from train.checkpointing.identity import Identity
root = Path({str(tmp_path)!r})
save_checkpoint(root, 1, {{"a": torch.zeros(4)}}, {{}}, {{}}, Identity("h"))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(root, 2, {{"a": torch.zeros(100_000)}}, {{}}, {{}}, Identity("h"))
except UserError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "cannot write checkpoint" in done.stderr, done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert names(tmp_path) == ["step-000001"]


def test_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UserError, match="not writable"):
            save(tmp_path / "checkpoints", 100)


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(UserError, match="file is in the way"):
        save(tmp_path / "checkpoints", 100)
    with pytest.raises(UserError, match="file is in the way"):
        save(tmp_path / "checkpoints" / "below", 100)


def test_state_that_is_no_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 1, {}, {}, {"bad": object()}, RUN)
    assert names(tmp_path) == []


def test_stale_temporaries_go_and_same_step_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-000050").mkdir()
    (tmp_path / ".tmp-step-000050" / "adapter.safetensors").write_text("half")
    os.truncate(save(tmp_path, 100) / "state.json", 0)
    save(tmp_path, 100)
    assert names(tmp_path) == ["step-000100"]
    assert latest_checkpoint(tmp_path, RUN) is not None


def test_saving_an_earlier_step_removes_the_refused_later_one(tmp_path: Path) -> None:
    save(tmp_path, 100)
    os.truncate(save(tmp_path, 200) / "state.json", 0)
    save(tmp_path, 150)
    prune(tmp_path, keep=1, protect=None)
    assert names(tmp_path) == ["step-000150"]


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    folders = [save(tmp_path, step) for step in (100, 200, 300, 400)]
    prune(tmp_path, keep=2, protect=folders[0])
    assert names(tmp_path) == ["step-000100", "step-000300", "step-000400"]
    prune(tmp_path, keep=1, protect=folders[3])
    assert names(tmp_path) == ["step-000400"]
    discard_checkpoints(tmp_path)
    assert names(tmp_path) == []
    discard_checkpoints(tmp_path / "absent")


KILLED_WRITER = """
import itertools, sys, torch
from pathlib import Path
from train.checkpointing.checkpoint import prune, save_checkpoint
from train.checkpointing.identity import Identity
root = Path(sys.argv[1])
for step in itertools.count(1):
    tensors = {"a": torch.full((50_000,), float(step))}
    save_checkpoint(root, step, tensors, tensors, {"step": step}, Identity("h"))
    prune(root, 2, None)
    print(step, flush=True)
"""


def test_killed_at_any_instant_leaves_a_whole_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGKILL while saving in a tight loop: every named checkpoint is whole and at most one save is lost."""
    writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen = [int(writer.stdout.readline()) for _ in range(3)]
    writer.send_signal(signal.SIGKILL)
    seen += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    with caplog.at_level(logging.WARNING):
        found = latest_checkpoint(tmp_path, Identity("h"))
    assert found is not None
    assert found.step in (seen[-1], seen[-1] + 1)
    assert not caplog.records
    assert found.tensors["a"].eq(found.step).all()


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    atomic_write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(
            dec2vec.files.atomic.os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        with pytest.raises(OSError, match="full"):
            atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["config.yaml"]
    atomic_write_text(path, "nëw")
    assert path.read_bytes() == "nëw".encode()


def test_step_zero_is_a_checkpoint_too(tmp_path: Path) -> None:
    train.checkpointing.checkpoint.save_checkpoint(tmp_path, 0, {}, {}, {}, RUN)
    found = latest_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.tensors == {}
