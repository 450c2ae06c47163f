"""The `dec2vec` command: verbs, exit codes, one line for every mistake, and the encode verb."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from dec2vec import cli
from dec2vec.config.model import ModelConfig
from dec2vec.corpus import vector_files
from dec2vec.errors import UserError, run


class LengthEncoder:
    """A stand-in for Encoder: a text's vector holds its length and whether it is a document."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None,
        side: str,
        batch_tokens: int,
        normalize: bool,
        progress: bool,
        task: str | None,
    ) -> NDArray[np.float32]:
        rows = [[len(text), side == "document", normalize, prompt == "prompteol"] for text in texts]
        return np.array(rows, dtype=np.float32)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded."""
    names: list[str] = []

    def load(config: ModelConfig, changes: object) -> LengthEncoder:
        names.append(config.name_or_path)
        return LengthEncoder()

    from dec2vec.encoder import Encoder

    monkeypatch.setattr(Encoder, "load", load)
    return names


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("dec2vec: error: ") and output.err.count("\n") == 1
    return output.err


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> None:
        raise error

    assert run(lambda argv: None, []) == 0
    assert run(lambda argv: fail(UserError("a\nb")), []) == 2
    assert capsys.readouterr().err == "dec2vec: error: a b\n"
    assert run(lambda argv: fail(KeyboardInterrupt()), []) == 130
    with pytest.raises(ZeroDivisionError):
        run(lambda argv: fail(ZeroDivisionError()), [])


def test_a_bug_exits_with_1_and_a_traceback() -> None:
    code = "import sys; from dec2vec.errors import run; sys.exit(run(lambda argv: 1 / 0, []))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["-h"]):
        assert cli.main(argv) == 0
        page = capsys.readouterr().out
        assert all(f"\n  {verb} " in page for verb in cli._VERBS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("dec2vec 0.")


def test_every_verb_has_its_command() -> None:
    for name, verb in cli._VERBS.items():
        module = import_module(verb.module)
        if hasattr(module, "main"):
            continue
        options = inspect.signature(getattr(module, f"{name}_command"), eval_str=True).parameters["args"].annotation
        assert options is getattr(module, f"{name.capitalize()}Args")
        assert verb.positional in {"", *options.__dataclass_fields__}


@pytest.mark.parametrize("verb", ["", *cli._VERBS])
def test_help_is_quick(verb: str) -> None:
    """Half a second of processor time, the least of ten: a busy machine's shared caches can double a single one."""
    argv = [sys.executable, "-m", "dec2vec", *verb.split(), "--help"]
    seconds = []
    while len(seconds) < 10 and (not seconds or min(seconds) >= 0.5):
        before = os.times()
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: dec2vec {verb or 'VERB'}")
    assert min(seconds) < 0.5


def test_unknown_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown verb 'trian'; did you mean train?" in refused(capsys, "trian", "x.yaml")
    assert (
        "choose from train, eval, compare, encode, score, export, mine, merge, sweep, check, index, search"
        in refused(capsys, "xyzzy")
    )


def test_mistakes_in_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean model?" in refused(capsys, "encode", "--modle", "x")
    assert "input: must be given; output: must be given" in refused(capsys, "encode", "--model", "x")
    assert "run: must be given" in refused(capsys, "export", "--to", "x")
    assert "did you mean merge?" in refused(capsys, "export", "runs/x", "--mrge")
    assert "batch_tokens: '0' must be greater than or equal to 1" in refused(
        capsys, "encode", "--model", "m", "--input", "i", "--output", "o", "--batch-tokens", "0"
    )


def encode(folder: Path, output: str, *more: str, text: str = "one\n\nthree\n") -> int:
    (folder / "texts.txt").write_text(text, encoding="utf-8")
    source = ["--input", str(folder / "texts.txt"), "--output", str(folder / output)]
    return cli.main(["encode", "--model", "some/model", *source, *more])


def test_encode_to_npy(tmp_path: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(tmp_path, "v.npy") == 0
    assert loaded == ["some/model"]
    assert np.load(tmp_path / "v.npy").tolist() == [[3, 0, 1, 0], [0, 0, 1, 0], [5, 0, 1, 0]]
    assert "3 vectors of 4 dimensions" in capsys.readouterr().err
    options = ["--side", "document", "--no-normalize", "--prompt", "prompteol"]
    assert encode(tmp_path, "v.npy", *options) == 0
    assert np.load(tmp_path / "v.npy")[0].tolist() == [3, 1, 0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "v.npy"]


def test_encode_says_how_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dec2vec.encoder import Encoder

    seen: list[object] = []

    def load(config: ModelConfig, changes: dict[str, object]) -> LengthEncoder:
        seen.extend([config, changes])
        return LengthEncoder()

    monkeypatch.setattr(Encoder, "load", load)
    options = [
        "--revision",
        "v1",
        "--device",
        "cpu",
        "--trust_remote_code",
        "--max_length",
        "99",
        "--dtype",
        "bfloat16",
    ]
    assert encode(tmp_path, "v.npy", *options) == 0
    changes = {"max_length": 99, "dtype": "bfloat16"}
    assert seen == [
        ModelConfig(name_or_path="some/model", revision="v1", device="cpu", trust_remote_code=True),
        changes,
    ]
    seen.clear()
    assert encode(tmp_path, "v.npy") == 0
    assert seen == [ModelConfig(name_or_path="some/model"), {}]


def test_encode_to_parquet(tmp_path: Path, loaded: list[str]) -> None:
    assert encode(tmp_path, "v.parquet") == 0
    rows = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pylist()
    assert [row["text"] for row in rows] == ["one", "", "three"]
    assert rows[2]["embedding"] == [5, 0, 1, 0]


def test_encode_a_lone_surrogate(tmp_path: Path, loaded: list[str]) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a\\ud800"}\n', encoding="utf-8")
    for output in ("v.npy", "v.parquet"):
        argv = ["--model", "m", "--input", str(tmp_path / "t.jsonl"), "--output", str(tmp_path / output)]
        assert cli.main(["encode", *argv]) == 0


def test_encode_refuses_before_the_model_is_loaded(
    tmp_path: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    source = str(tmp_path / "t.jsonl")

    def words(output: str, *more: str, given: str = source) -> str:
        argv = ["--model", "m", "--input", given, "--output", str(tmp_path / output), *more]
        return refused(capsys, "encode", *argv)

    assert "v.csv: unknown format .csv; use .npy or .parquet" in words("v.csv")
    assert "unknown format without a suffix" in words("v")
    assert "is a folder" in words("folder.npy")
    assert "does not exist; create it first" in words("none/v.npy")
    assert "no column 'x'; the columns are: text" in words("v.npy", "--column", "x")
    assert "no.txt does not exist" in words("v.npy", given=str(tmp_path / "no.txt"))
    (tmp_path / "t.docx").write_text("hello", encoding="utf-8")
    assert "unknown format .docx" in words("v.npy", given=str(tmp_path / "t.docx"))
    assert "xyzzy" in words("v.npy", "--prompt", "xyzzy")
    assert "must be 'text', 'query' or 'document'" in words("v.npy", "--side", "both")
    assert loaded == []


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(tmp_path, "v.npy") == 0
    before = (tmp_path / "v.npy").read_bytes()

    def full(file: BinaryIO, vectors: object) -> None:
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vector_files, "write_npy", full)
    capsys.readouterr()
    assert encode(tmp_path, "v.npy", text="other\n") == 2
    assert (
        "v.npy cannot be written: the disk is full; free some space or choose another --output"
        in capsys.readouterr().err
    )
    assert (tmp_path / "v.npy").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.txt", "v.npy"]
