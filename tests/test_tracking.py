"""Tracking: what reaches W&B and TensorBoard is what metrics.jsonl holds, and no secret reaches any file."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import create_autospec, patch

import pytest
import wandb
from google.protobuf.message import Message
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from wandb.proto import wandb_internal_pb2

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from train.config import TrackingConfig, TrainConfig
from train.finish import run_inputs
from train.options.data import SourceConfig
from train.tracking.make_tracker import make_tracker
from train.tracking.metrics_file import MetricsFile, read_metrics
from train.tracking.private_paths import PrivatePaths
from train.tracking.tracker import NullTracker, Tracker
from train.tracking.wandb_tracker import WandbTracker

FAKE_KEY = "f4ke5ecret0123456789abcdef0123456789abcd"
FAKE_TOKEN = "hf_f4keTokenOfNobody"
RESOLVED: dict[str, object] = {
    "optim": {"lr": 5e-4, "steps": 8},
    "data": [{"path": "pairs.jsonl"}],
    "seed": 3,
}
COLUMNS = ["system", "average"]
ROWS = [["untuned/bare/mean@-1", 33.6], ["tuned", 49.6], ["none", None]]


def metrics_of(step: int) -> dict[str, float]:
    return {"loss": 1.0 / step, "lr": 5e-4 * step, "grad_norm": math.sqrt(step), "tiny": 5e-324}


def wandb_records(path: Path) -> Iterator[Message]:
    """The .wandb file: a 7-byte header, then records in 32 KiB blocks (crc32, length, type, data)."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, body = 7, b""
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        body += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(body)
            yield record
            body = b""


def offline_files(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*/*.wandb"))


def history(path: Path) -> list[dict[str, object]]:
    rows = []
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            rows.append({key: json.loads(value) for key, value in items.items()})
    return rows


def numbers(row: dict[str, object]) -> dict[str, object]:
    """A history row as metrics.jsonl spells it."""
    own = {key: value for key, value in row.items() if not key.startswith("_") and not isinstance(value, dict)}
    return {"step": row["_step"], **{key: value for key, value in own.items() if "." not in key}}


def config_of(path: Path) -> dict[str, object]:
    run = next(record.run for record in wandb_records(path) if record.WhichOneof("record_type") == "run")
    return {item.key: json.loads(item.value_json) for item in run.config.update}


@pytest.fixture
def clean_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """No login, no settings of the machine; the library forgets this test's environment afterwards."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def run_steps(tracker: Tracker, metrics: MetricsFile, first: int, last: int) -> None:
    for step in range(first, last + 1):
        metrics.append(metrics_of(step), step)
        tracker.log(metrics_of(step), step)


def test_offline_wandb_holds_what_metrics_jsonl_holds(
    clean_wandb: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    clean_wandb.setenv("HF_TOKEN", FAKE_TOKEN)
    run_dir = tmp_path / "my run"
    (run_dir / "report").mkdir(parents=True)
    (run_dir / "report" / "report.md").write_text("# report\n")
    config = TrackingConfig(backend="wandb", project="unit", upload=True)
    with caplog.at_level(logging.INFO, logger="train.tracking.wandb_tracker"):
        tracker = make_tracker(config, run_dir, RESOLVED, is_main=True)
    assert isinstance(tracker, WandbTracker)
    (record,) = [record for record in caplog.records if record.name == "train.tracking.wandb_tracker"]
    assert record.levelname == "WARNING"
    assert "no W&B login found" in record.message
    assert "logging offline" in record.message
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        run_steps(tracker, metrics, 1, 8)
    tracker.table("comparison", COLUMNS, ROWS)
    tracker.artifact("report", "report", run_dir / "report")
    tracker.uses("data-1", "dataset", {"rows": 3})  # W&B has no inputs offline
    tracker.artifact("one", "report", run_dir / "report" / "report.md", {"dataset": {"rows": 3}})
    tracker.finish()
    (file,) = offline_files(run_dir)
    rows = history(file)
    assert [numbers(row) for row in rows if "loss" in row] == read_metrics(run_dir / "metrics.jsonl")
    assert {key: value for key, value in config_of(file).items() if key != "_wandb"} == RESOLVED
    run = next(record.run for record in wandb_records(file) if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("unit", "my run")
    assert run.run_id == (run_dir / "wandb_id").read_text().strip()
    table = json.loads(next((file.parent / "files").rglob("comparison*.table.json")).read_text())
    assert (table["columns"], table["data"]) == (COLUMNS, ROWS)
    kinds = [record.WhichOneof("record_type") for record in wandb_records(file)]
    assert kinds.count("artifact") + kinds.count("request") >= 2
    logged = [record.request.log_artifact.artifact for record in wandb_records(file) if record.HasField("request")]
    logged += [record.artifact for record in wandb_records(file) if record.HasField("artifact")]
    assert {"dataset": {"rows": 3}} in [json.loads(item.metadata) for item in logged if item.metadata]
    assert capfd.readouterr() == ("", "")


def test_lineage_of_an_online_run(tmp_path: Path) -> None:
    """Inputs are used, the adapter is logged; equal data is one artifact in all runs. The signatures are W&B's own."""
    (tmp_path / "pairs.jsonl").write_text("{}")
    config = TrainConfig(
        model=ModelConfig(name_or_path="someone/decoder-8m", revision="abc"),
        data=(SourceConfig(path=str(tmp_path / "pairs.jsonl")), SourceConfig(path="someone/pairs")),
    )
    inputs = run_inputs(config, 12, "f00d" * 16)
    assert str(tmp_path) not in json.dumps([item.facts for item in inputs])
    digests = []
    for _ in range(2):
        run = create_autospec(wandb.Run, instance=True)
        run.offline, run.id = False, "abc123"
        tracker = WandbTracker(run, upload=True, paths=PrivatePaths(tmp_path, {}))
        for item in inputs:
            tracker.uses(item.name, item.kind, item.facts)
        tracker.artifact("adapter", "model", tmp_path, {"best_step": 4})
        used = [call.args[0] for call in run.use_artifact.call_args_list]
        assert [(item.name, item.type) for item in used] == [
            ("data-f00df00df00d", "dataset"),
            ("base-someone-decoder-8m", "base-model"),
        ]
        assert used[0].metadata == {"sources": ["pairs.jsonl", "someone/pairs"], "rows": 12, "sha256": "f00d" * 16}
        (logged,) = [call.args[0] for call in run.log_artifact.call_args_list]
        assert (logged.name, logged.metadata) == ("adapter-abc123", {"best_step": 4})
        digests.append(used[0].digest)
    assert digests[0] == digests[1]
    WandbTracker(run, upload=False, paths=PrivatePaths(tmp_path, {})).uses("data", "dataset", {})
    assert run.use_artifact.call_count == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_tracking import RESOLVED, run_steps
from train.config import TrackingConfig
from train.tracking.metrics_file import MetricsFile
from train.tracking.make_tracker import make_tracker
run_dir = Path(sys.argv[1])
tracker = make_tracker(TrackingConfig(backend=sys.argv[2]), run_dir, RESOLVED, is_main=True)
run_steps(tracker, MetricsFile(run_dir / "metrics.jsonl"), 1, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_at_5_resumed_from_3_ended_at_7(run_dir: Path, backend: str) -> None:
    """The last process's tracker starts from the metrics of the checkpoint at 3."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(run_dir), backend], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with MetricsFile(run_dir / "metrics.jsonl") as metrics:
        metrics.truncate_after(3)
        config = TrackingConfig(backend=backend)  # type: ignore[arg-type]
        tracker = make_tracker(config, run_dir, RESOLVED, is_main=True)
        run_steps(tracker, metrics, 4, 7)
    tracker.table("comparison", COLUMNS, ROWS)
    tracker.finish()
    assert [line["step"] for line in read_metrics(run_dir / "metrics.jsonl")] == list(range(1, 8))


def test_killed_and_resumed_offline_run_is_one_whole_run(clean_wandb: pytest.MonkeyPatch, tmp_path: Path) -> None:
    killed_at_5_resumed_from_3_ended_at_7(tmp_path, "wandb")
    first, second = offline_files(tmp_path)
    rows = [numbers(row) for row in history(second) if "loss" in row]
    assert rows == read_metrics(tmp_path / "metrics.jsonl")
    run_id = (tmp_path / "wandb_id").read_text().strip()
    assert first.stem == second.stem == f"run-{run_id}"


def test_no_secret_reaches_the_run_folder(
    clean_wandb: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean_wandb.setenv("WANDB_API_KEY", FAKE_KEY)
    clean_wandb.setenv("HF_TOKEN", FAKE_TOKEN)
    clean_wandb.setenv("WANDB_MODE", "offline")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with caplog.at_level(logging.DEBUG):
        tracker = make_tracker(TrackingConfig(backend="wandb"), run_dir, RESOLVED, is_main=True)
        with MetricsFile(run_dir / "metrics.jsonl") as metrics:
            run_steps(tracker, metrics, 1, 3)
        tracker.finish()
    written = [path for path in run_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    for path in written:
        content = path.read_bytes()
        assert FAKE_KEY.encode() not in content, path
        assert FAKE_TOKEN.encode() not in content, path
    assert FAKE_KEY not in caplog.text
    assert "no W&B login" not in caplog.text


@pytest.mark.parametrize(
    ("project", "name", "started"),
    [
        ("unit", None, {"entity": None, "project": "unit", "name": "my run"}),
        ("team/unit", "mine", {"entity": "team", "project": "unit", "name": "mine"}),
    ],
)
def test_the_project_may_name_a_team_and_the_environment_the_run(
    clean_wandb: pytest.MonkeyPatch, tmp_path: Path, project: str, name: str | None, started: dict[str, str | None]
) -> None:
    if name is not None:
        clean_wandb.setenv("WANDB_NAME", name)
    run = create_autospec(wandb.Run, instance=True)
    run.step, run.url = 0, None
    (tmp_path / "my run").mkdir()
    with patch.object(wandb, "init", return_value=run) as init:
        make_tracker(TrackingConfig(backend="wandb", project=project), tmp_path / "my run", RESOLVED, is_main=True)
    assert {key: init.call_args.kwargs[key] for key in started} == started


def test_refused_key_is_one_line_without_the_key(clean_wandb: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean_wandb.setenv("WANDB_API_KEY", "tooshort-secret")
    with pytest.raises(UserError, match="W&B refused to start") as refused:
        make_tracker(TrackingConfig(backend="wandb"), tmp_path, RESOLVED, is_main=True)
    assert "tooshort-secret" not in str(refused.value)
    assert "WANDB_MODE=offline" in str(refused.value)


def test_online_asked_for_without_login_never_prompts(clean_wandb: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean_wandb.setenv("WANDB_MODE", "online")
    with pytest.raises(UserError, match="wandb login"):
        make_tracker(TrackingConfig(backend="wandb"), tmp_path, RESOLVED, is_main=True)


def test_disabled_by_the_environment(clean_wandb: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean_wandb.setenv("WANDB_MODE", "disabled")
    tracker = make_tracker(TrackingConfig(backend="wandb"), tmp_path, RESOLVED, is_main=True)
    tracker.log({"loss": 1.0}, 1)
    tracker.table("comparison", COLUMNS, ROWS)
    tracker.finish()
    assert offline_files(tmp_path) == []


@pytest.mark.parametrize("host", ["api.wandb.ai", "elsewhere.example"])
def test_netrc_counts_as_login_for_its_host_only(clean_wandb: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    from train.tracking.wandb_tracker import _wandb_mode

    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {FAKE_KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert _wandb_mode() == ("online" if host == "api.wandb.ai" else "offline")


@pytest.mark.slow
def test_tensorboard_holds_what_metrics_jsonl_holds(tmp_path: Path) -> None:
    killed_at_5_resumed_from_3_ended_at_7(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for name in ("loss", "lr", "grad_norm"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["step"], struct.unpack("f", struct.pack("f", line[name]))[0]) for line in lines]
        assert found == expected
    table = make_ndarray(events.Tensors("comparison/text_summary")[-1].tensor_proto).item().decode()
    assert "| tuned | 49.6 |" in table


@pytest.mark.parametrize(("backend", "is_main"), [("none", True), ("wandb", False), ("tensorboard", False)])
def test_nothing_is_tracked(tmp_path: Path, backend: str, is_main: bool) -> None:
    tracker = make_tracker(TrackingConfig(backend=backend), tmp_path, RESOLVED, is_main)  # type: ignore[arg-type]
    assert isinstance(tracker, NullTracker)
    tracker.log({"loss": 1.0}, 1)
    tracker.table("comparison", COLUMNS, ROWS)
    tracker.artifact("report", "report", tmp_path)
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        make_tracker(TrackingConfig(backend="tensorboard"), tmp_path, RESOLVED, is_main=True)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        make_tracker(TrackingConfig(backend="wandb"), tmp_path, RESOLVED, is_main=True)


def test_metrics_file_appends_flushes_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.append({"loss": 0.1, "bad": math.nan, "worse": math.inf, "kind": "eval"}, 1)
    assert path.read_text() == '{"step": 1, "loss": 0.1, "bad": null, "worse": null, "kind": "eval"}\n'
    metrics.sync()
    metrics.close()
    MetricsFile(tmp_path / "other.jsonl", is_main=False).append({"loss": 1.0}, 1)
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize("tail", [b"", b'{"step": 6, "lo', b'{"step": 7}', b"\x00\x00\n", b"[]\n", b"3\n"])
def test_metrics_file_is_cut_to_the_checkpoint(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for step in range(1, 6):
            metrics.append({"loss": 1 / step}, step)
        metrics.append({"dev": 0.5}, 3)
    straight = path.read_bytes()
    path.write_bytes(straight + tail)
    with MetricsFile(path) as metrics:
        metrics.truncate_after(3)
        assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 3]
        metrics.append({"loss": 1 / 4}, 4)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 3, 4]
    assert {line.name for line in tmp_path.iterdir()} == {"metrics.jsonl"}


def test_metrics_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        MetricsFile(tmp_path).append({"loss": 1.0}, 1)
    with pytest.raises(UserError, match="disk is full"):
        MetricsFile(Path("/dev/full")).append({"loss": 1.0}, 1)
    MetricsFile(tmp_path / "absent.jsonl").truncate_after(3)
