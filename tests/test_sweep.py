"""`dec2vec sweep`: the plan, the order of events with stand-in runs, signals, W&B's own command, and one real sweep."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

import train.sweep.run_all
from dec2vec.cli import main
from dec2vec.config.load import dump, load, load_arguments
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING
from tests.tiny_run import metrics_of, steps_of, write_run
from train.__main__ import main as train_main
from train.config import EvalSection, TrainConfig
from train.sweep.grid import parse_axis, plan
from train.sweep.process import Ended, run_training
from train.sweep.sweep import parse

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
GRID = ("optim.lr=1e-4,3e-4", "loss.temperature=0.03,0.05")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """With a test file, so that a winner gets a report."""
    path = tmp_path / "run.yaml"
    path.write_text(dump(TrainConfig(eval=EvalSection(dev="dev.jsonl", tests=("test.jsonl",)))), encoding="utf-8")
    return path


class Trainings:
    """Stands in for the training processes: a dev score from the learning rate and the seed."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.behave: Callable[[TrainConfig], Ended] = lambda config: Ended(0, "")

    def __call__(self, arguments: Sequence[str], log: Path) -> Ended:
        self.calls.append(list(arguments))
        config = load_arguments(TrainConfig, arguments, prog="x")
        folder = Path(config.output_dir)
        (folder / "adapter").mkdir(parents=True, exist_ok=True)
        ended = self.behave(config)
        if ended.code == 0:
            (folder / "adapter" / "dec2vec.json").write_text("{}", encoding="utf-8")
            score = config.optim.lr * 1000 + config.seed / 100
            lines = [{"step": 4, "dev_spearman": score}, {"step": 5, "loss": 1.0}, {"step": 8, "dev_spearman": score}]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        return ended

    def reports(self) -> list[str]:
        """Folders of the runs that were asked for their report."""
        wanted = [call for call in self.calls if call[call.index("--eval.after_training") + 1] == "true"]
        return [Path(call[-1]).name for call in wanted]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    stand_in = Trainings()
    monkeypatch.setattr(train.sweep.run_all, "run_training", stand_in)
    return stand_in


def sweep(config: Path, *options: str) -> int:
    return main(["sweep", str(config), "--output", str(config.parent / "out"), *options])


def state(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config.parent / "out" / "sweep.json").read_text(encoding="utf-8"))
    return found


def test_axes() -> None:
    assert parse_axis("optim.lr=1e-4, 3e-4").values == (("1e-4",), ("3e-4",))
    assert parse_axis("lora.targets=[q_proj, v_proj],all-linear").values == (("q_proj", "v_proj"), ("all-linear",))
    assert parse_axis('model.prompt=bare,"Say: {text}"').values == (("bare",), ("Say: {text}",))
    assert parse_axis("model.layer=none,-2").values == (("none",), ("-2",))
    for text, words in (
        ("optim.lr", "write option=value,value"),
        ("optim.lrr=1", "did you mean optim.lr"),
        ("eval.dev=a,b", "cannot be compared on dev"),
        ("model.prompt=Say {text}", "in quotes"),
        ("model.prompt={text}", "in quotes"),
    ):
        with pytest.raises(UserError, match=words):
            parse_axis(text)


def test_the_plan_is_every_combination(config: Path) -> None:
    runs = plan(config, GRID, ("1,2,3",), ["--optim.steps", "7"])
    found = set()
    for run in runs:
        resolved = load(TrainConfig, config, run.options)
        found.add((resolved.optim.lr, resolved.loss.temperature, resolved.seed))
        assert resolved.optim.steps == 7
    assert found == {(lr, t, seed) for lr in (1e-4, 3e-4) for t in (0.03, 0.05) for seed in (1, 2, 3)}
    assert len({run.name for run in runs}) == len(runs) == 12
    assert runs[0].name == "lr-1e-4_temperature-0.03-seed1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to sweep over"),
        (["--grid", "optim.lr=1e-4,0.0001"], "are the same run"),
        (["--grid", "optim.lr=1", "--grid", "optim.lr=2"], "given twice"),
        (["--grid", "optim.lr=1,2", "--optim.lr", "3"], "--optim.lr is part of the grid"),
        (["--grid", "optim.lr=1,-2"], "optim.lr: '-2' must be"),
        (["--seeds", "1,x"], "must be whole numbers"),
        (["--seeds", "1,2", "--output_dir", "x"], "its own folder"),
        (["--seeds", "1,2", "--eval.dev", "none"], "selected on dev"),
        (["--seeds", "1,2", "--optim.lrr", "1"], "did you mean optim.lr"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    config: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert sweep(config, *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert trainings.calls == [] and not (config.parent / "out").exists()


def test_the_winner_is_chosen_on_dev_and_alone_reported(
    config: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(config, "--grid", "optim.lr=1e-4,3e-4", "--seeds", "1,2") == 0
    found = state(config)
    assert found["winner"] == "lr-3e-4"
    assert trainings.reports() == ["lr-3e-4-seed1", "lr-3e-4-seed2"]
    assert [run["best_step"] for run in found["runs"]] == [4] * 4
    scores = [0.31, 0.32]
    row = f"| lr-3e-4 | {100 * statistics.mean(scores):.2f} | {100 * statistics.stdev(scores):.2f} | 2 of 2 |"
    assert row in capsys.readouterr().out
    assert row in (config.parent / "out" / "sweep.md").read_text(encoding="utf-8")
    done = len(trainings.calls)
    assert sweep(config, "--grid", "optim.lr=1e-4,3e-4", "--seeds", "1,2") == 0
    assert len(trainings.calls) == done  # nothing is trained or reported twice
    assert sweep(config, "--grid", "optim.lr=9e-4", "--seeds", "1,2") == 0
    assert state(config)["winner"] == "lr-9e-4" and len(state(config)["runs"]) == 6


def test_a_failing_run_is_recorded_and_the_sweep_goes_on(
    config: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings.behave = lambda config: Ended(2, "batch.size is too large") if config.optim.lr == 3e-4 else Ended(0, "")
    assert sweep(config, "--grid", "optim.lr=3e-4,1e-4") == 2
    assert "1 of 2 runs failed, the first (lr-3e-4) with: batch.size is too large" in capsys.readouterr().err
    assert [run["status"] for run in state(config)["runs"]] == ["failed", "done"]
    assert trainings.reports() == []  # another recipe may yet win
    assert "batch.size is too large" in (config.parent / "out" / "sweep.md").read_text(encoding="utf-8")
    trainings.behave = lambda config: Ended(0, "")
    assert sweep(config, "--grid", "optim.lr=3e-4,1e-4") == 0
    assert len(trainings.calls) == 4 and trainings.reports() == ["lr-3e-4"]


def test_runs_outside_the_grid_are_kept_and_not_compared(config: Path, trainings: Trainings) -> None:
    """A failed run and a better score of a grid that is no longer asked for."""
    trainings.behave = lambda config: Ended(2, "too large") if config.optim.lr == 9e-4 else Ended(0, "")
    assert sweep(config, "--grid", "optim.lr=9e-4,3e-4") == 2
    assert sweep(config, "--grid", "optim.lr=1e-4,2e-4") == 0
    assert state(config)["winner"] == "lr-2e-4" and trainings.reports() == ["lr-2e-4"]
    statuses = {run["name"]: run["status"] for run in state(config)["runs"]}
    assert statuses == {"lr-1e-4": "done", "lr-2e-4": "done", "lr-9e-4": "failed", "lr-3e-4": "done"}
    compared, others = (config.parent / "out" / "sweep.md").read_text(encoding="utf-8").split("## Runs of other")
    assert "lr-3e-4" not in compared and "lr-3e-4" in others and "lr-9e-4" in others
    done = len(trainings.calls)
    assert sweep(config, "--grid", "optim.lr=1e-4,2e-4,3e-4") == 0  # named again: compared, and only reported on
    assert state(config)["winner"] == "lr-3e-4" and trainings.reports()[1:] == ["lr-3e-4"]
    assert len(trainings.calls) == done + 1


def test_an_interrupted_sweep_goes_on(config: Path, trainings: Trainings) -> None:
    trainings.behave = lambda config: Ended(130, "interrupted") if config.seed == 2 else Ended(0, "")
    assert sweep(config, "--seeds", "1,2,3") == 130
    assert [run["status"] for run in state(config)["runs"]] == ["done", "interrupted", "waiting"]
    assert state(config)["winner"] is None
    trainings.behave = lambda config: Ended(0, "")
    assert sweep(config, "--seeds", "1,2,3") == 0
    assert [Path(call[-1]).name for call in trainings.calls[2:4]] == ["base-seed2", "base-seed3"]


def test_a_folder_of_other_options_is_refused(
    config: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(config, "--seeds", "1") == 0
    assert sweep(config, "--seeds", "1", "--optim.lr", "0.1") == 2
    assert "was trained with other options; use another --output" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["pairs.jsonl", "dev.jsonl"])
def test_scores_of_other_files_stay_out_of_the_table(
    config: Path,
    trainings: Trainings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changed: str,
) -> None:
    monkeypatch.chdir(config.parent)
    for name in ("pairs.jsonl", "dev.jsonl"):
        Path(name).write_text("as it was", encoding="utf-8")
    trainings.behave = lambda config: Ended(2, "line 5 is blank") if config.seed == 2 else Ended(0, "")
    assert sweep(config, "--seeds", "1,2", "--data.0.path", "pairs.jsonl") == 2
    Path(changed).write_text("mended", encoding="utf-8")
    capsys.readouterr()
    done = len(trainings.calls)
    assert sweep(config, "--seeds", "1,2", "--data.0.path", "pairs.jsonl") == 2
    error = capsys.readouterr().err
    assert f"{changed} has changed since " in error and "base-seed1 read it; restore it, or" in error
    assert len(trainings.calls) == done
    trainings.behave = lambda config: Ended(0, "")
    Path(changed).write_text("as it was", encoding="utf-8")
    assert sweep(config, "--seeds", "1,2", "--data.0.path", "pairs.jsonl") == 0
    Path(changed).write_text("later", encoding="utf-8")
    assert sweep(config, "--seeds", "3", "--data.0.path", "pairs.jsonl") == 0, "what is not compared may be of others"


def test_a_failed_run_may_have_its_data_mended(
    config: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    Path("pairs.jsonl").write_text("bad", encoding="utf-8")
    trainings.behave = lambda config: Ended(2, "line 5 is blank")
    assert sweep(config, "--seeds", "1", "--data.0.path", "pairs.jsonl") == 2
    trainings.behave = lambda config: Ended(0, "")
    Path("pairs.jsonl").write_text("mended", encoding="utf-8")
    assert sweep(config, "--seeds", "1", "--data.0.path", "pairs.jsonl") == 0
    Path("pairs.jsonl").write_text("again", encoding="utf-8")
    assert sweep(config, "--seeds", "1", "--data.0.path", "pairs.jsonl") == 2


def _program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_a_process_ends_with_its_error_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "x.log"
    log.write_text("dec2vec: error: an old one\n", encoding="utf-8")
    for body, expected in (
        ("echo 'dec2vec: error: too large' >&2; exit 2", Ended(2, "too large")),
        ("echo 'ValueError: x' >&2; exit 1", Ended(1, "ValueError: x")),
        ("exit 3", Ended(3, "exit code 3")),
        ('echo "$@"', Ended(0, "")),
    ):
        monkeypatch.setattr(sys, "executable", _program(tmp_path / "python", body))
        assert run_training(["a b", "--c"], log) == expected
    assert log.read_text(encoding="utf-8").endswith("-m dec2vec train a b --c\n")


def test_a_train_py_of_the_user_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("print('the user\\'s own')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_training(["--help"], tmp_path / "x.log") == Ended(0, "")
    assert "usage: dec2vec train" in (tmp_path / "x.log").read_text(encoding="utf-8")


def test_a_signal_is_passed_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"trap 'echo saved >> {tmp_path}/traps; exit 130' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    monkeypatch.setattr(sys, "executable", _program(tmp_path / "python", body))

    def interrupt() -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ended = run_training([], tmp_path / "x.log")
    thread.join()
    assert ended.interrupted and (tmp_path / "traps").read_text(encoding="utf-8") == "saved\n"


def test_wandb_builds_a_command_that_we_understand(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own functions fill in the command; a stand-in `python` shows what arrives."""
    file = tmp_path / "wandb.yaml"
    options = ["--grid", "loss.symmetric=true,false", "--grid", "model.layer=none,-2", "--optim.steps", "5"]
    assert sweep(config, "--grid", GRID[0], *options, "--seeds", "1,2", "--wandb-sweep", str(file)) == 0
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert written["parameters"]["optim.lr"] == {"values": [1e-4, 3e-4]}
    assert written["method"] == "grid" and written["metric"]["name"] == "dev_spearman"
    picked = {name: {"value": values["values"][-1]} for name, values in written["parameters"].items()}
    variables = {**create_sweep_command_args({"args": picked}), "env": ["/usr/bin/env"]}
    command: list[str] = []
    for part in create_sweep_command(list(written["command"])):
        is_macro = part.startswith("${") and part.endswith("}")
        command += variables[part[2:-1]] if is_macro else [part]
    _program(tmp_path / "python", """for word in "$@"; do printf '%s\\n' "$word"; done""")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "ab12"}
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:4] == ["-P", "-m", "dec2vec", "train"]
    resolved = load_arguments(TrainConfig, words[4:], prog="x")
    assert (resolved.optim.lr, resolved.loss.symmetric, resolved.model.layer, resolved.seed) == (3e-4, False, -2, 2)
    assert (resolved.optim.steps, resolved.tracking.backend, resolved.eval.after_training) == (5, "wandb", False)
    assert resolved.output_dir == str(config.parent / "out" / "ab12")


def test_wandb_refuses_lists(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(config, "--grid", "lora.targets=[q_proj,v_proj]", "--wandb_sweep", "x.yaml") == 2
    assert "W&B cannot pass lists" in capsys.readouterr().err


def test_options_of_both_kinds_are_told_apart() -> None:
    args, training = parse(["c.yaml", "--grid", "a=1", "--optim.lr", "1", "--output", "o", "--seeds", "1", "--x"])
    assert (args.config, args.output, args.grid, args.seeds) == (Path("c.yaml"), Path("o"), ("a=1",), ("1",))
    assert training == ["--optim.lr", "1", "--x"]


def test_a_real_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recipes trained in this process; the winner's score is the best of its own metrics."""
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)

    def in_process(arguments: Sequence[str], log: Path) -> Ended:
        train_main(arguments)
        return Ended(0, "")

    monkeypatch.setattr(train.sweep.run_all, "run_training", in_process)
    assert main(["sweep", "run.yaml", "--grid", "optim.lr=1e-5,1e-2", "--output", "out", "--optim.steps", "4"]) == 0
    for run in state(config)["runs"]:
        folder = tmp_path / "out" / run["name"]
        scores = {line["step"]: line["dev_spearman"] for line in metrics_of(folder) if "dev_spearman" in line}
        assert run["dev"] == max(scores.values()) == scores[run["best_step"]]
        assert steps_of(folder) == [1, 2, 3, 4] and (folder / "adapter").is_dir()
    best = max(state(config)["runs"], key=lambda run: run["dev"])
    assert state(config)["winner"] == best["recipe"]
