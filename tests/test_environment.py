"""The environment of a command: launchers that left half their variables, locales, homes, and what libraries print."""

from __future__ import annotations

import ast
import importlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers.integrations.integration_utils as integration

import dec2vec.errors
import train.distributed.engine
from dec2vec.config.load import load, validate
from dec2vec.corpus.encode import EncodeArgs
from dec2vec.errors import UserError, run
from dec2vec.runtime import importing
from eval.config import EvalConfig
from train.config import TrainConfig
from train.distributed.launcher import check_launcher, note_launcher_options

REPOSITORY = Path(__file__).resolve().parent.parent
VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2 is set .* MASTER_ADDR is not; .*unset OMPI_COMM"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE=4 is set in the environment"),
        ({"MV2_COMM_WORLD_SIZE": "2"}, "MV2_COMM_WORLD_SIZE=2 is set"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 is set .*start the processes with torchrun or accelerate"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0 is set .* MASTER_ADDR is not"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment is not a number"),
        ({"RANK": "x"}, "RANK=x in the environment is not a number"),
        ({"RANK": "1"}, r"RANK=1 is set in the environment of 1 process\(es\)"),
    ],
)
def test_half_a_launcher_is_refused(variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        check_launcher()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"PMI_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "MASTER_ADDR": "n07"},
    ],
)
def test_a_whole_launcher_is_not(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_launcher()


def test_options_of_accelerate_that_are_not_used_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {}
    make = train.distributed.engine.Accelerator
    monkeypatch.setattr(
        train.distributed.engine, "Accelerator", lambda **options: given.update(options) or make(cpu=True)
    )
    with caplog.at_level(logging.INFO):
        train.distributed.engine.make_accelerator(TrainConfig())
        assert caplog.text == ""
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        note_launcher_options()
    assert (given["mixed_precision"], given["dynamo_backend"]) == ("no", "no")
    assert "mixed_precision fp16 of the launcher is not used" in caplog.text
    assert "dynamo_backend inductor of the launcher is not used" in caplog.text


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = "--output_dir ~/runs --data.0.path ~/a.jsonl --eval.tests ~/t.csv"
    config = load(TrainConfig, None, words.split())
    assert config.output_dir == f"{tmp_path}/runs" and config.data[0].path == f"{tmp_path}/a.jsonl"
    assert config.eval.tests == (f"{tmp_path}/t.csv",)
    tasks = {"tuned": ["~"], "retrieval": [{"path": "~/beir"}], "systems": {"prompts": ["~/{text}"]}}
    evaluation = validate(EvalConfig, tasks)
    assert evaluation.tuned == (str(tmp_path),) and evaluation.retrieval[0].path == f"{tmp_path}/beir"
    assert evaluation.systems.prompts == ("~/{text}",), "a prompt is no path"
    typed = ["--model", "~/m", "--input", "~/t.txt", "--output", "~nobody-of-that-name/v.npy"]
    encode = load(EncodeArgs, None, typed)
    assert (encode.model, encode.input) == (f"{tmp_path}/m", tmp_path / "t.txt")
    assert str(encode.output) == "~nobody-of-that-name/v.npy"


def test_names_beyond_the_locale_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0, where a word of the command line has surrogates."""
    called: list[object] = []
    assert run(called.append, ["Zoé"]) == 0 and len(called) == 1
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert run(called.append, ["--output_dir", "Zo\udcc3\udca9"]) == 2 and len(called) == 1
    said = capsys.readouterr().err
    assert said == "dec2vec: error: 'Zo\\xe9' cannot be written in this environment's ascii; set PYTHONUTF8=1\n"
    with pytest.raises(UserError, match=r"output_dir: .*PYTHONUTF8=1"):
        validate(TrainConfig, {"output_dir": "Zoé"})
    assert validate(TrainConfig, {"model": {"prompt": "été {text}"}}).model.prompt == "été {text}"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    assert validate(TrainConfig, {"output_dir": "Zoé"}).output_dir == "Zoé"


def test_a_removed_working_folder_is_no_matter_of_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(dec2vec.errors.Path, "cwd", gone)
    assert run(lambda argv: None, ["x"]) == 0


def test_what_a_library_prints_when_imported_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    importlib.reload(integration)
    assert "WANDB offline" in capsys.readouterr().out, "the line is gone from transformers, and `importing` can go too"
    with importing():
        importlib.reload(integration)
    assert capsys.readouterr().out == ""


def test_sentence_transformers_is_only_imported_that_way() -> None:
    """Its import is what brings transformers' Trainer in."""
    files = [path for part in ("dec2vec", "train", "eval") for path in (REPOSITORY / part).rglob("*.py")]
    found = 0
    for path in files:
        text = path.read_text(encoding="utf-8")
        if "sentence_transformers" not in text:
            continue
        tree = ast.parse(text)
        quiet = {id(node) for block in ast.walk(tree) if is_importing(block) for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "sentence_transformers":
                found += 1
                assert id(node) in quiet, f"{path} line {node.lineno}"
    assert found >= 5


def is_importing(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and ast.unparse(node.items[0].context_expr) == "importing()"
