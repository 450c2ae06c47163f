"""The run folder: one run at a time, one line when it can't be used."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dec2vec.files.atomic
from dec2vec.errors import UserError
from train.checkpointing.checkpoint import latest_checkpoint, save_checkpoint
from train.checkpointing.identity import Identity
from train.checkpointing.run_folder import RunFolder

HOLDER = """
import sys, time
from train.checkpointing.run_folder import RunFolder
folder = RunFolder.claim(sys.argv[1])
print("claimed", flush=True)
time.sleep(60)
"""


def test_claim_creates_the_folder_and_names_its_files(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "runs" / "one") as folder:
        folder.write_config("seed: 0\n")
        assert (tmp_path / "runs" / "one" / "config.yaml").read_text() == "seed: 0\n"
        places = [folder.metrics, folder.checkpoints, folder.adapter, folder.model, folder.report]
    assert [path.name for path in places] == ["metrics.jsonl", "checkpoints", "adapter", "model", "report"]


def test_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        with pytest.raises(UserError, match=rf"{tmp_path}.*in use.*process {holder.pid}\).*output_dir"):
            RunFolder.claim(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with RunFolder.claim(tmp_path):  # the lock died with its owner
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_second_claim_in_one_process_is_refused_until_release(tmp_path: Path) -> None:
    first = RunFolder.claim(tmp_path)
    with pytest.raises(UserError, match="in use"):
        RunFolder.claim(tmp_path)
    first.release()
    RunFolder.claim(tmp_path).release()


def test_other_processes_need_no_lock(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path), RunFolder(tmp_path) as other:
        assert other.metrics == tmp_path / "metrics.jsonl"


@pytest.mark.parametrize("place", ["/proc/1/dec2vec-run", "/sys/dec2vec-run"])
def test_folder_that_cannot_be_made(place: str) -> None:
    with pytest.raises(UserError, match=f"cannot use output_dir {place}.*another output_dir"):
        RunFolder.claim(place)


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(UserError, match="not writable"):
            RunFolder.claim(tmp_path)


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for place in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(UserError, match="a file is in the way"):
            RunFolder.claim(place)


def test_config_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.claim(tmp_path) as folder:
        folder.write_config("seed: 0\n")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(dec2vec.files.atomic.os, "fsync", full)
            with pytest.raises(UserError, match=r"config\.yaml: the disk is full"):
                folder.write_config("seed: 1\n")
        assert folder.config.read_text() == "seed: 0\n"


def test_start_anew_forgets_the_earlier_run(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path) as folder:
        save_checkpoint(folder.checkpoints, 5, {"a": torch.zeros(1)}, {}, {}, Identity("h"))
        folder.metrics.write_text('{"step": 1}\n')
        (tmp_path / "wandb_id").write_text("abc\n")
        folder.write_config("seed: 0\n")
        folder.adapter.mkdir()
        (folder.adapter / "dec2vec.json").write_text("{}")
        folder.model.mkdir()
        (folder.model / "mine.txt").write_text("not an export of ours")
        folder.start_anew()
        assert latest_checkpoint(folder.checkpoints, Identity("h")) is None
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoints", "config.yaml", "model"]
        folder.start_anew()


def test_file_system_without_locks_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    RunFolder.claim(tmp_path).release()
    assert "can't be locked" in caplog.text


def test_claim_removes_what_a_killed_run_was_writing(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".adapter.{dead.pid}.tmp").mkdir()
    (tmp_path / f".adapter.{dead.pid}.tmp" / "adapter_config.json").write_text("{}")
    (tmp_path / f".model.{dead.pid}.old").mkdir()
    (tmp_path / f".config.yaml.{dead.pid}.tmp").write_text("seed")
    kept = [".hidden", f".model.{os.getppid()}.tmp", "config.yaml", "notes.1.tmp"]
    for name in kept:
        (tmp_path / name).write_text("")
    with RunFolder.claim(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", *kept])
