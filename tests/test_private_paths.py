"""What is sent to W&B names no folder of this machine; what lies in the run folder keeps its paths."""

from __future__ import annotations

import html
import json
from pathlib import Path
from unittest.mock import create_autospec, patch

import pytest
import wandb

from train.config import TrackingConfig
from train.tracking.make_tracker import make_tracker
from train.tracking.private_paths import PrivatePaths
from train.tracking.wandb_tracker import WandbTracker

USER = "Ann & Bo"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, in which `work` is where the command runs."""
    folder = tmp_path / "home" / USER
    (folder / "work/runs/x/report").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder / "work")
    return folder


def resolved(home: Path) -> dict[str, object]:
    """A resolved configuration, whose paths are absolute."""
    return {
        "model": {"name_or_path": str(home / "models/tiny"), "revision": None},
        "data": [{"path": str(home / "pairs.jsonl"), "only": ("lang=en",)}, {"path": "someone/pairs"}],
        "eval": {"dev": "/disk9/sets/dev.jsonl"},
        "seed": 3,
    }


def test_a_path_becomes_a_name_or_is_relative_to_the_run(home: Path) -> None:
    paths = PrivatePaths(home / "work/runs/x", resolved(home), ["dec2vec", f"{home}/secret/run.yaml"])
    cases = {
        "/disk9/sets/dev.jsonl line 3": "dev.jsonl line 3",
        f"{home}/models/tiny and {home}/models/tiny/config.json": "tiny and tiny/config.json",
        f"{home}/work/runs/x/report/a.json, {home}/work/runs/x": "report/a.json, .",
        f"{home}/work/b.txt": "b.txt",
        f"{home}/secret/run.yaml {home}/other.txt": "run.yaml ~/other.txt",
        f"file://{home}/other.txt --to={home}/b PATH=/bin:{home}/bin": "file://~/other.txt --to=~/b PATH=/bin:~/bin",
        f"https://h.co{home}/x ..{home}/x /disk8{home}": f"https://h.co{home}/x ..{home}/x /disk8{home}",
        json.dumps(f"here:\n{home}/x\t{home}/y"): json.dumps("here:\n~/x\t~/y"),
        f"{home}er/a someone/pairs /disk9/sets": f"{home}er/a someone/pairs /disk9/sets",
    }
    assert {text: paths.hidden(text) for text in cases} == cases
    for quoted in (json.dumps, html.escape, lambda text: html.escape(json.dumps(text))):
        assert paths.hidden(quoted(str(home / "pairs.jsonl"))) == quoted("pairs.jsonl")


def test_files_go_without_paths_and_stay_as_they_are(home: Path) -> None:
    run_dir = home / "work/runs/x"
    tree = {"files": ["/disk9/sets/dev.jsonl", str(home / "pairs.jsonl")], "n": 3}
    written = {"report.json": json.dumps(tree), "report.html": html.escape(json.dumps(tree)), "p.png": str(home)}
    for name, text in written.items():
        (run_dir / "report" / name).write_text(text, encoding="utf-8")
    run = create_autospec(wandb.Run, instance=True)
    run.offline, run.id = False, "abc123"
    tracker = WandbTracker(run, upload=True, paths=PrivatePaths(run_dir, resolved(home)))
    tracker.artifact("report", "report", run_dir / "report", {"base": str(home / "models/tiny")})
    (sent,) = [call.args[0] for call in run.log_artifact.call_args_list]
    found = {name: Path(entry.local_path or "").read_text("utf-8") for name, entry in sent.manifest.entries.items()}
    assert json.loads(found["report.json"]) == {"files": ["dev.jsonl", "pairs.jsonl"], "n": 3}
    assert html.unescape(found["report.html"]) == found["report.json"]
    assert found["p.png"] == str(home), "a picture is sent byte by byte"
    assert sent.metadata == {"base": "tiny"}
    assert {name: (run_dir / "report" / name).read_text(encoding="utf-8") for name in written} == written


def test_configuration_and_tables_have_none(home: Path) -> None:
    run = create_autospec(wandb.Run, instance=True)
    run.step, run.url = 0, None
    with patch.object(wandb, "init", return_value=run) as init:
        tracker = make_tracker(TrackingConfig(backend="wandb"), home / "work/runs/x", resolved(home), is_main=True)
    sent = init.call_args.kwargs
    assert USER not in json.dumps(sent["config"]) and USER in json.dumps(resolved(home))
    assert sent["config"]["data"] == [{"path": "pairs.jsonl", "only": ["lang=en"]}, {"path": "someone/pairs"}]
    tracker.table("comparison", ["system", "average"], [[f"baseline/{home}/enc", 1.0]])
    (table,) = run.log.call_args.args[0].values()
    assert table.data == [["baseline/~/enc", 1.0]]
