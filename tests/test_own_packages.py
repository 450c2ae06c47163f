"""A working folder or another distribution with train.py, eval.py or train/ does not stand in for ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dec2vec import own_packages
from dec2vec.cli import main
from dec2vec.errors import UserError
from dec2vec.own_packages import leave_working_folder, use_own_packages
from tests.processes import free_port
from tests.tiny_run import write_run
from train.tracking.metrics_file import read_metrics

REPOSITORY = Path(__file__).resolve().parents[1]
FOREIGN = "import sys\nsys.exit('a file of the user ran: ' + __file__)\n"
OWN = ("train.py", "eval.py", "train/__init__.py", "train/__main__.py")
IMPORTED = ("difflib.py", "yaml.py", "torch.py", "datasets/__init__.py")
"""Names of modules that dec2vec imports itself."""


def shadowed(folder: Path, *others: str) -> Path:
    """A folder with files of the user."""
    for name in (*OWN, *others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(FOREIGN)
    return folder


def python(*words: str, folder: Path, path: str = str(REPOSITORY)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["dec2vec", "dec2vec.cli"])
@pytest.mark.parametrize("verb", ["train", "eval"])
def test_files_of_the_working_folder_do_not_run(tmp_path: Path, module: str, verb: str) -> None:
    folder = shadowed(tmp_path, *(IMPORTED if module == "dec2vec" else ()))
    done = python("-m", module, verb, "--help", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: dec2vec {verb}")


def test_without_this_they_would_run(tmp_path: Path) -> None:
    done = python("-m", "train", "--help", folder=shadowed(tmp_path))
    assert done.returncode == 1 and "a file of the user ran" in done.stderr


@pytest.mark.parametrize("verb", ["train", "eval", "mine", "compare"])
def test_another_distribution_that_comes_first(tmp_path: Path, verb: str) -> None:
    """It is found first on the import path, and ours are used all the same."""
    for name in ("train", "eval"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text(FOREIGN)
        (tmp_path / "site" / name / "__main__.py").write_text(FOREIGN)
    path = f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}"
    done = python("-P", "-m", "dec2vec", verb, "--help", folder=tmp_path, path=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: dec2vec {verb}")
    plain = python("-P", "-c", "import train", folder=tmp_path, path=path)
    assert "a file of the user ran" in plain.stderr
    library = python("-P", "-c", "import dec2vec, train", folder=tmp_path, path=path)
    assert "a file of the user ran" in library.stderr, "dec2vec as a library leaves other packages alone"


def installed(site: Path) -> Path:
    """Our three packages in another folder, of which one file is to be replaced."""
    for package in ("dec2vec", "train", "eval"):
        (site / package).mkdir(parents=True)
        for source in (path for path in (REPOSITORY / package).iterdir() if path.name != "__pycache__"):
            (site / package / source.name).symlink_to(source)
    return site


@pytest.mark.parametrize("file", ["train/__init__.py", "train/__main__.py", "eval/__init__.py"])
@pytest.mark.parametrize("content", [FOREIGN, "", None])
def test_a_package_installed_over_ours_is_refused(tmp_path: Path, file: str, content: str | None) -> None:
    """In one line that names the file, and without running it."""
    site = installed(tmp_path / "site")
    (site / file).unlink()
    if content is not None:
        (site / file).write_text(content)
    done = python("-P", "-m", "dec2vec", "train", "--help", folder=tmp_path, path=str(site))
    wanted = (
        f"dec2vec: error: {site / file} is not part of dec2vec: another distribution installs {file.split('/')[0]} "
        "too; install dec2vec again, in an environment of its own\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)
    usable = python("-P", "-m", "dec2vec", "encode", "--help", folder=tmp_path, path=str(site))
    assert usable.returncode == 0, "the core needs neither"


def test_a_module_that_is_already_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("")
    foreign = ModuleType("train")
    foreign.__file__ = str(tmp_path / "train.py")
    monkeypatch.setitem(sys.modules, "train", foreign)
    assert main(["train", "x.yaml"]) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith(f"dec2vec: error: {tmp_path}/train.py is already imported as train")
        and "\n" not in message[:-1]
    )
    monkeypatch.setitem(sys.modules, "train", ModuleType("train"))
    with pytest.raises(UserError, match="train is already imported as train"):
        use_own_packages()


def test_only_the_working_folder_leaves_the_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    others = ["/usr/lib", str(tmp_path)]
    for first, left in ((str(tmp_path), others), ("", others), ("/opt", ["/opt", *others])):
        monkeypatch.setattr(sys, "path", [first, *others])
        leave_working_folder()
        assert sys.path == left
    monkeypatch.setattr(own_packages, "HOME", tmp_path)  # a checkout that is not installed
    monkeypatch.setattr(sys, "path", ["", *others])
    leave_working_folder()
    assert sys.path == ["", *others]


def test_no_documented_line_starts_a_module_by_a_common_name() -> None:
    folders = ("configs", "scripts", "docs/guides")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.suffix != ".pyc"]
    files = [path for path in (*files, REPOSITORY / "docs" / "engines.md", REPOSITORY / "README.md") if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    assert sum("-m dec2vec train" in text for text in texts.values()) > 10
    assert not [path for path, text in texts.items() if re.search(r"-m (train|eval)\b", text)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_under_a_launcher(tmp_path: Path, launcher: str) -> None:
    """The documented lines, in a folder of the user's own files; both processes train to the end."""
    config = write_run(shadowed(tmp_path, *IMPORTED))
    if launcher == "torchrun":
        words = ["-m", "torch.distributed.run", "--standalone"]
    else:
        shipped = REPOSITORY / "configs" / "accelerate" / "ddp.yaml"
        words = ["-m", "accelerate.commands.launch", "--config_file", str(shipped)]
        words += ["--main_process_port", str(free_port())]
    count = "--nproc_per_node" if launcher == "torchrun" else "--num_processes"
    arguments = [config.name, "--optim.steps", "3"]
    done = python("-P", *words, count, "2", "-m", "dec2vec", "train", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes" in done.stdout + done.stderr
    assert [line["step"] for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in line] == [1, 2, 3]
    old = python("-P", *words, count, "2", "-m", "train", *arguments, folder=tmp_path)
    assert old.returncode != 0 and "a file of the user ran" in old.stderr
