"""`dec2vec.train` and `dec2vec.evaluate`: the commands, called from Python, any number of times in one process."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, PartialState
from api_reference import PLACE, reference

import dec2vec
from dec2vec import TrainingRun, UserError
from dec2vec.api import _configuration, _rows_named, _with_data
from dec2vec.config.load import load
from dec2vec.config.tasks import DevTaskConfig, RetrievalConfig
from dec2vec.files.cells import is_absent
from dec2vec.files.kept_rows import keep_rows, kept_in
from dec2vec.files.tables import read_table
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, word_pairs, write_jsonl
from tests.tiny_run import fingerprint, metrics_of, train, write_run
from train.config import TrainConfig
from train.state import Listeners, _why_not_called

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
ROWS_CHANGED = (
    r"^data\.0\.path: the rows have changed since checkpoint stopped/checkpoints/step-000002 was written; give them "
    r"another output_dir, or start from the beginning with \{\"checkpoint\": \{\"resume\": \"fresh\"\}\}$"
)
FEW = {"optim.steps": 3, "eval.every": 2, "checkpoint.every": 2, "export.model": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a short run, which the command has made in `command`."""
    folder = tmp_path_factory.mktemp("api")
    path = write_run(folder)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for option, value in FEW.items():
        section, _, name = option.partition(".")
        tree[section][name] = value
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with contextlib.chdir(folder):
        train(path, folder / "command")
    return folder


@pytest.fixture
def tree(place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same run as plain data, in its folder."""
    monkeypatch.chdir(place)
    found: dict[str, Any] = yaml.safe_load(Path("run.yaml").read_text(encoding="utf-8"))
    return found


def state_of_process() -> list[object]:
    """What a run may change and a call has to leave alone."""
    root, ours = logging.getLogger(), logging.getLogger("train")
    return [
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),
        dict(os.environ),
        torch.backends.cuda.cudnn_sdp_enabled(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        list(warnings.filters),
        [root.level, list(root.handlers), ours.level, list(ours.handlers)],
        [torch.get_num_threads(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.get_default_dtype()],
        [dict(PartialState._shared_state), dict(AcceleratorState._shared_state)],
    ]


def weights(output: Path) -> dict[str, str]:
    """Hashes of everything but the names of files, of which kept rows are some."""
    return {name: value for name, value in fingerprint(output).items() if name != "names"}


def test_a_call_is_the_command_however_often(
    place: Path, tree: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command, before = place / "command", state_of_process()
    heard: list[tuple[int, Mapping[str, float]]] = []
    capsys.readouterr()

    def hear(step: int, figures: Mapping[str, float]) -> None:
        heard.append((step, figures))

    first = dec2vec.train({**tree, "output_dir": Path("first")}, on_step=hear, on_dev=hear, progress=False)
    assert state_of_process() == before
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "") and f"adapter  {Path('first/adapter')}\n" in first.summary
    assert fingerprint(first.path) == fingerprint(command) and metrics_of(first.path) == metrics_of(command)
    config = (first.path / "config.yaml").read_text(encoding="utf-8").replace(f"output_dir: {first.path}\n", "")
    assert config in (command / "config.yaml").read_text(encoding="utf-8")
    assert [{"step": step, **figures} for step, figures in heard] == first.metrics
    assert [step for step, figures in heard if "dev_spearman" in figures] == [2, 3]
    other = dec2vec.train(load(TrainConfig, place / "run.yaml", ["--seed", "1", "--output_dir", "other"]))
    assert weights(other.path) != weights(command) and state_of_process() == before
    texts = ["red green", "a small cat"]
    np.testing.assert_array_equal(first.vectors(texts), TrainingRun(command).encoder().encode(texts))
    assert first.report is None, "there are no tests"


@pytest.mark.parametrize("table", [datasets.Dataset.from_list, pytest.param(pandas.DataFrame, marks=pytest.mark.slow)])
def test_rows_in_memory_are_the_rows_of_a_file(place: Path, tree: dict[str, Any], table: Callable[..., object]) -> None:
    del tree["data"], tree["eval"]["dev"]
    tree["output_dir"] = f"from-{table.__name__}"
    Path("rows.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    run = dec2vec.train("rows.yaml", table(word_pairs(22)), dev=pandas.DataFrame(graded_pairs(16)), progress=False)
    assert weights(run.path) == weights(place / "command") and metrics_of(run.path) == metrics_of(place / "command")
    kept = sorted(path.name.rpartition("-")[0] for path in (run.path / "rows").iterdir())
    assert kept == ["in-memory-data", "in-memory-dev"]


def test_a_stopped_call_goes_on_and_other_rows_do_not(place: Path, tree: dict[str, Any]) -> None:
    rows, tree["output_dir"] = word_pairs(22), "stopped"
    sources = tree.pop("data")

    def stop(step: int, figures: Mapping[str, float]) -> None:
        if step == 3:
            raise ZeroDivisionError

    before = state_of_process()
    with pytest.raises(ZeroDivisionError):
        dec2vec.train(tree, rows, on_step=stop, progress=False)
    assert state_of_process() == before
    with pytest.raises(UserError, match=ROWS_CHANGED):
        dec2vec.train(tree, rows[::-1], progress=False)
    steps: list[int] = []
    run = dec2vec.train(tree, rows, on_step=lambda step, _: steps.append(step), progress=False)
    assert steps == [3] and weights(run.path) == weights(place / "command")
    tree["checkpoint"]["resume"], tree["optim"]["steps"] = "fresh", 1
    dec2vec.train({**tree, "data": [{}, *sources]}, rows[::-1], progress=False)
    assert len(list((run.path / "rows").iterdir())) == 1, "those of the former run are gone"


def test_a_mistake_names_the_row_and_leaves_no_file(place: Path, tree: dict[str, Any]) -> None:
    rows: list[dict[str, object]] = word_pairs(22)
    del tree["data"]
    for table, message in (
        ([*rows, {"anchor": " ", "positive": "p"}], r"data row 23: anchor is blank; fill it or remove the row"),
        ([*rows, {"anchor": b"raw", "positive": "p"}], r"data row 23: anchor is an object"),
        ([*rows, {1: "a", "1": "b"}], r"data row 23 has two columns of one name, such as 1 and '1'"),
        ([*rows, {"anchor": {(1, 2): "a"}}], r"data row 23 can't be written as JSON \(keys must be str"),
        ([*rows, "text"], r"data row 23 is the text 'text'; a row is a dict of columns"),
        ([], r"data is empty: it has no rows"),
        ({"train": rows}, r"data: a dict of train; give one of them, such as data\['train'\]"),
        ([rows, rows[:1], [{"a": "b"}]], r"data: 3 given, but 1 of the sources"),
    ):
        source = {"data": [{}]} if "given, but" in message else {}
        with pytest.raises(UserError, match=message):
            dec2vec.train({**tree, **source, "output_dir": "refused"}, table, progress=False)
        assert not Path("refused").exists()
    with pytest.raises(UserError, match=r"dev: config names eval\.dev dev\.jsonl too"):
        dec2vec.train(tree, rows, dev=rows)
    with pytest.raises(UserError, match=r"config error: optim\.lr: -1 must be greater than 0"):
        dec2vec.train({"optim": {"lr": -1}})
    with pytest.raises(UserError, match=r"data: an int; give a datasets\.Dataset, a pandas frame or a list of dicts"):
        keep_rows(7, Path("refused"), "data")
    with pytest.raises(UserError, match="config: a int; give a dictionary, the path of a YAML file or a TrainConfig"):
        _configuration(TrainConfig, 7)
    assert str(_why_not_called(3)).startswith("3 can't be called; give a function"), (
        "the type check is earlier in tests"
    )
    with pytest.raises(UserError, match="nowhere: no such run"):
        dec2vec.TrainingRun(Path("nowhere"))


class Recorder:
    """A listener without a name of its own."""

    def __call__(self, step: int) -> None: ...


async def awaited(step: int, figures: Mapping[str, float]) -> None: ...


def yielding(step: int, figures: Mapping[str, float]) -> Iterator[int]:
    yield step


@pytest.mark.parametrize(
    ("listener", "problem"),
    [
        (
            lambda step: None,
            r"on_dev: <lambda>\(step\) is called with two arguments, a step and its .* \(too many",
        ),
        (lambda step, figures, log: None, r"<lambda>\(step, figures, log\) is called .* \(missing .*'log'\)"),
        (lambda step, figures, *, log: None, r"\(missing .*'log'\); write it as f\(step, figures\)"),
        ([].append, r"on_dev: append\(object, /\) is called with two arguments"),
        (Recorder(), r"on_dev: Recorder\(step: .*\) .*is called with two arguments"),
        (awaited, "on_dev: awaited is async, and nothing would await it"),
        (yielding, "on_dev: yielding has a yield"),
    ],
)
def test_a_listener_that_would_fail_is_refused_before_the_run(
    tree: dict[str, Any], listener: Callable[..., object], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        dec2vec.train({**tree, "output_dir": "unheard"}, on_dev=listener)
    assert not Path("unheard").exists()


def test_listeners_that_take_a_step_and_figures_are_accepted() -> None:
    """Among them a function in C whose signature is not known, and one with further arguments of its own."""
    for listener in (print, dict, lambda *both: None, lambda step, figures, log=None: None, None):
        Listeners(listener)
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(dict)


def test_a_refused_call_leaves_the_rows_of_another_one(place: Path, tree: dict[str, Any]) -> None:
    """Both gave the same rows, which are one file; the first call may still be reading it."""
    first = keep_rows(word_pairs(22), Path("shared_rows/rows"), "data")
    with pytest.raises(UserError, match="refused"), _rows_named("shared_rows") as rows:
        assert Path(rows.source(word_pairs(22), "data", "data")) == first.resolve()
        raise UserError("refused")
    assert first.is_file()
    with pytest.raises(UserError, match="refused"), _rows_named("own_rows") as rows:
        rows.source(word_pairs(22), "data", "data")
        raise UserError("refused")
    assert not Path("own_rows").exists()


def test_dev_takes_tasks_as_the_configuration_does(tree: dict[str, Any]) -> None:
    config = _configuration(TrainConfig, {**tree, "eval": {}})
    tasks: list[dict[str, object]] = [{"held_out": 4}, {"retrieval": {"path": "collection"}}]
    with _rows_named("out") as rows:
        found = _with_data(config, None, tasks, rows)
    assert found.eval.dev == (DevTaskConfig(held_out=4), DevTaskConfig(retrieval=RetrievalConfig(path="collection")))
    with pytest.raises(UserError, match="held_out"), _rows_named("out") as rows:
        _with_data(config, None, [{"held_out": "many"}], rows)


@pytest.mark.slow
def test_an_evaluation_reads_the_kept_rows(place: Path, tree: dict[str, Any]) -> None:
    """Leaked rows that were given in Python are found by a later evaluation, and the report is that of the command."""
    leaked = [{"anchor": row["sentence1"], "positive": row["sentence2"]} for row in graded_pairs(30, seed=3)[:5]]
    del tree["data"]
    tree["optim"]["steps"] = 1
    run = dec2vec.train({**tree, "output_dir": "leaky"}, [word_pairs(22), leaked], progress=False)
    write_jsonl(place / "test.jsonl", graded_pairs(30, seed=3))
    systems = {"prompts": ["bare"], "poolings": ["last"], "layers": [-1], "post": ["raw"]}
    found = dec2vec.evaluate(
        {
            "tuned": [run.path],
            "tests": [place / "test.jsonl"],
            "systems": systems,
            "baselines": [],
            "bootstrap": 100,
            "output_dir": "out",
        },
        progress=False,
    )
    seen = {Path(row["training"]).name.rsplit("-", 1)[0]: [] for row in found.report["overlap"]}
    for row in found.report["overlap"]:
        seen[Path(row["training"]).name.rsplit("-", 1)[0]].append(row["exact"])
    assert seen == {"in-memory-data": [0, 10]}
    assert found.report == json.loads((found.path / "report.json").read_text(encoding="utf-8"))
    assert "tuned/leaky" in found.summary and found.path == Path("out/report")


def test_cells_of_every_kind_are_kept(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "anchor": ["a", "b", "c"],
            "negative": [["n", "m"], np.array(["o"]), np.nan],
            "count": pandas.array([1, None, 3], dtype="Int64"),
            "day": pandas.to_datetime(["2026-11-30", None, "2026-12-01"]),
        }
    )
    kept = keep_rows(frame, tmp_path, "data")
    rows = read_table(kept).rows
    assert [row["anchor"] for row in rows] == ["a", "b", "c"]
    assert [row["negative"] for row in rows[:2]] == [["n", "m"], ["o"]] and is_absent(rows[2]["negative"])
    assert [row["count"] for row in rows] == [1, None, 3] and rows[1]["day"] is None
    assert str(rows[0]["day"]).startswith("2026-11-30")
    assert keep_rows(frame.copy(), tmp_path, "data") == kept != keep_rows(frame[:2], tmp_path, "data")
    assert read_table(keep_rows([{"text": "half \ud800"}], tmp_path, "data")).rows == [{"text": "half \ud800"}]
    listed = keep_rows([("a", "p"), ["b", "q"]], tmp_path, "dev")
    assert listed.read_text(encoding="utf-8") == '["a", "p"]\n["b", "q"]\n'
    moved = tmp_path / "moved" / "rows"
    moved.mkdir(parents=True)
    (moved / kept.name).write_bytes(kept.read_bytes())
    assert kept_in(tmp_path / "moved", f"/gone/rows/{kept.name}") == str(moved / kept.name)
    assert kept_in(tmp_path / "moved", "/gone/pairs.jsonl") == "/gone/pairs.jsonl"


def test_the_reference_is_that_of_the_source() -> None:
    """If it is not: `python scripts/api_reference.py --write`."""
    assert PLACE.read_text(encoding="utf-8") == reference()
