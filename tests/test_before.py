"""Before, not after: what the evaluation, the export or the push would refuse is refused before the first step.

And what only the end can show, a report that fails, costs a line and no model.
"""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import eval.report.write
import eval.run
import train.build
import train.loop.fit
from dec2vec.config.load import load, load_arguments
from dec2vec.errors import UserError
from dec2vec.files.tables import read_table
from eval.config import EvalConfig
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, write_jsonl
from tests.hub_server import Hub
from tests.report_data import full_report
from tests.test_hub import hub  # noqa: F401  # a fixture
from tests.tiny_run import STEPS, steps_of, write_run
from tests.tiny_run import train as train_run
from train.__main__ import _eval_command, _eval_config, _read_evaluation
from train.checkpointing.run_folder import RunFolder
from train.config import EvalSection, ExportConfig, TrainConfig
from train.data.dataset import load_data
from train.distributed.single import Single
from train.export.push import check_rights
from train.options.data import SourceConfig
from train.preflight import check_disk, check_folder

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


# what is read for the evaluation


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a dev file, a test file and training pairs of other texts."""
    write_run(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", graded_pairs(12, seed=5))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def read(*sources: SourceConfig, whiten: bool = False, **evaluation: Any) -> Any:
    config = TrainConfig(
        data=sources or (SourceConfig(path="pairs.jsonl"),),
        eval=EvalSection(**{"dev": "dev.jsonl", "tests": ("test.jsonl",), **evaluation}),
        export=ExportConfig(whiten=whiten),
    )
    return _read_evaluation(config, load_data(config.data))


def test_a_dev_file_that_is_trained_on_is_said_to_be_that(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A beginner's first try: one file for everything."""
    graded = SourceConfig(path="dev.jsonl", kind="graded")
    for tests in (("test.jsonl",), ()):
        caplog.clear()
        assert [task.name for task in read(graded, tests=tests).tasks] == ["dev"]
        assert "eval.dev dev: 16 of its 16 pairs consist of texts that are trained on" in caplog.text


def test_a_dev_file_of_its_own_gets_no_such_line(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jsonl(place / "other.jsonl", [{"anchor": f"x{n}", "positive": f"y{n}"} for n in range(4)])
    rows = read_table("dev.jsonl").rows
    seen = [{"anchor": rows[0]["sentence1"], "positive": rows[1]["sentence2"]}]  # one text of a pair is no pair
    write_jsonl(place / "half.jsonl", [*seen, {"anchor": "x", "positive": "y"}])
    with caplog.at_level(logging.WARNING):
        read(SourceConfig(path="other.jsonl"))
        read(SourceConfig(path="half.jsonl"))
    assert caplog.text == ""


def test_no_dev_no_reading(place: Path) -> None:
    assert read(dev=None, tests=()) is None


def test_whitening_without_text_of_its_own_is_refused(place: Path) -> None:
    graded = SourceConfig(path="dev.jsonl", kind="graded")
    with pytest.raises(UserError, match=r"export.whiten: 0 of the training texts .* export\.whiten false"):
        read(graded, whiten=True)
    assert read(whiten=True) is not None


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ({"tests": ("dev.jsonl",)}, "selection on test data is leakage"),
        ({"tests": ("gone.jsonl",)}, "gone.jsonl does not exist"),
        ({"tests": ("test.jsonl", "more/test.jsonl")}, "another file has the name test"),
        ({"tests": ("equal.jsonl",)}, "every score is 1"),
        ({"tests": ("pairs.jsonl",)}, "no column 'sentence1'"),
    ],
)
def test_what_the_report_would_refuse(place: Path, evaluation: dict[str, Any], said: str) -> None:
    (place / "more").mkdir()
    write_jsonl(place / "more" / "test.jsonl", graded_pairs(12, seed=6))
    write_jsonl(place / "equal.jsonl", [{**row, "score": 1} for row in graded_pairs(4, seed=7)])
    with pytest.raises(UserError, match=said):
        read(**evaluation)


# the run folder and its disk


@pytest.mark.parametrize("name", ["checkpoints", "report", "tokens", "negatives", "metrics.jsonl", "data.json"])
def test_something_else_where_the_run_will_write(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    config = TrainConfig()
    check_folder(config, Single, folder)
    if "." in name:
        (folder.path / name).mkdir()
    else:
        (folder.path / name).write_text("x")
    with pytest.raises(UserError, match=rf"{name} is a (file|folder), but the run writes a (folder|file) there"):
        check_folder(config, Single, folder)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_disk_without_room_for_a_checkpoint(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training_setup import tiny_encoder
    from train.config import LoraConfig

    lora = LoraConfig(method=method, rank=4) if method == "lora" else LoraConfig(method="full")
    encoder = tiny_encoder(tmp_path / "decoder", lora=lora)
    config, folder = TrainConfig(lora=lora), RunFolder(tmp_path)
    values = [value.numel() for value in encoder.embedder.parameters()]
    trained = [value.numel() for value in encoder.embedder.parameters() if value.requires_grad]
    needed = 12 * sum(trained) + (4 * sum(values) if method == "full" else 0)
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if fits:
            check_disk(config, encoder, folder)
        else:
            with pytest.raises(UserError, match=r"output_dir .*: its disk has .* MiB left, but a checkpoint"):
                check_disk(config, encoder, folder)


# the push


@pytest.mark.parametrize(
    ("token", "repository", "said"),
    [
        ("token-of-alice", "alice/m", None),
        ("token-of-alice", "Alice/new", None),
        ("token-of-bob", "alice/m", "no permission to write there; the token belongs to bob"),
        ("token-of-nobody", "alice/m", r"the Hub refuses the token \(401\)"),
    ],
)
def test_rights_are_asked_before_training(
    hub: Hub,  # noqa: F811
    token: str,
    repository: str,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    if said is None:
        check_rights(repository, private=False)
    else:
        with pytest.raises(UserError, match=said):
            check_rights(repository, private=False)
    assert hub.repositories == {}, "nothing is created before there is something to push"


def test_rights_on_what_exists(hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    from tests.hub_server import Repository

    monkeypatch.setenv("HF_TOKEN", "token-of-alice")
    hub.repositories["alice/m"] = Repository("alice", private=False)
    check_rights("alice/m", private=False)
    with pytest.raises(UserError, match="alice/m exists and is public"):
        check_rights("alice/m", private=True)
    hub.status_of_everything = 503
    check_rights("alice/m", private=False)
    assert "whether export.push will succeed is not known: alice/m: the Hub is not ready" in caplog.text


@pytest.mark.parametrize(
    ("caller", "said"),
    [
        ({"name": "alice", "auth": {"accessToken": {"role": "read"}}}, "the Hub token can only read"),
        ({"name": "alice", "auth": {"accessToken": {"role": "write"}}}, None),
        ({"name": "bob", "orgs": [{"name": "alice"}], "auth": {"accessToken": {"role": "write"}}}, None),
        ({"name": "bob", "orgs": [], "auth": {"accessToken": {"role": "fineGrained"}}}, None),
        ({"name": "bob", "orgs": [{"name": "team"}]}, "belongs to bob, who can write to bob, team"),
    ],
)
def test_what_the_hub_says_of_a_token(caller: dict[str, Any], said: str | None) -> None:
    from train.export.push import _check_owner

    if said is None:
        _check_owner(caller, "alice/m")
        return
    with pytest.raises(UserError, match=said):
        _check_owner(caller, "alice/m")


# the report


def test_the_command_of_the_report_is_the_evaluation(place: Path) -> None:
    path = write_run(place, eval=EvalSection(dev="dev.jsonl", tests=("test.jsonl", "a b.jsonl"), whitening_sentences=9))
    config = _eval_config(load(TrainConfig, path, ["--seed", "4", "--output_dir", str(place / "a run")]))
    words = shlex.split(_eval_command(config))
    assert words[:2] == ["dec2vec", "eval"]
    assert load_arguments(EvalConfig, words[2:], prog="dec2vec eval") == config


def test_a_report_that_fails_costs_a_line_and_no_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_run(place, eval=EvalSection(dev="dev.jsonl", tests=("test.jsonl",), every=4))

    def fails(*_: object, **options: object) -> None:
        raise RuntimeError("out of memory\nsecond line\n")  # as CUDA says it

    monkeypatch.setattr(eval.run, "evaluate", fails)
    with pytest.raises(UserError) as said:
        train_run(config, place / "out")
    line = str(said.value)
    assert (
        "there is no report: out of memory; once" in line
        and "\n" not in line
        and "dec2vec eval --model.name_or_path" in line
    )
    assert (place / "out" / "model" / "modules.json").is_file() and (place / "out" / "adapter").is_dir()
    assert "adapter" in capsys.readouterr().out

    steps: list[object] = []
    step = train.loop.fit.train_step
    monkeypatch.setattr(train.loop.fit, "train_step", lambda *given, **more: steps.append(0) or step(*given, **more))
    report = place / "out" / "report" / "report.json"
    monkeypatch.setattr(eval.run, "evaluate", lambda *_, **__: full_report())
    monkeypatch.setattr(eval.report.write, "draw", lambda report: {})  # it takes seconds
    monkeypatch.setattr(eval.report.write, "to_html", lambda report, pictures: "<html>")
    train_run(config, place / "out")
    assert steps == [] and steps_of(place / "out") == list(range(1, STEPS + 1))
    assert report.is_file()
