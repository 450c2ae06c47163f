"""`scripts/checks/cuda`: what is missing is installed, and a part that fails or takes too long stops no other."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[1] / "scripts/checks/check_cuda.py"
SLEEPS = "import subprocess, sys, time; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
CHILD = "import os, pathlib, time; pathlib.Path({path!r}).write_text(str(os.getpid())); time.sleep(60)"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_cuda", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_cuda", module)
    spec.loader.exec_module(module)
    return module


def test_what_takes_too_long_is_told_and_ends_with_its_processes(
    tmp_path: Path, checks: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child = SLEEPS.format(child=CHILD.format(path=str(tmp_path / "pid")))
    commands = {"slow": child, "quick": "print('{\"torch\": 1}')"}
    parts = [checks.Part(name, [sys.executable, "-c", code], 3.0) for name, code in commands.items()]
    monkeypatch.setattr(checks, "parts", lambda model, *, tiny: iter(parts))
    monkeypatch.setattr(checks, "make_model", lambda folder, *, tiny: folder)
    monkeypatch.setattr(sys, "argv", ["check_cuda", "--out", str(tmp_path / "out")])
    assert checks.main() == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results == {"slow": {"cut_off": "not finished after 3 s"}, "quick": {"torch": 1}}
    assert "no time for 1 of 2 parts: slow" in capsys.readouterr().out
    assert (tmp_path / "out/slow.log").read_text() == "begun\n"
    assert not runs(int((tmp_path / "pid").read_text()))


def runs(pid: int) -> bool:
    """Whether the process, which was sent a signal, is still there a moment later; a zombie is not."""
    for _ in range(20):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def test_what_fails_fails_the_whole_but_stops_nothing(
    tmp_path: Path, checks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {"wrong": "raise SystemExit('no such device')", "quick": "print('{}')"}
    parts = [checks.Part(name, [sys.executable, "-c", code], 20.0) for name, code in commands.items()]
    monkeypatch.setattr(checks, "parts", lambda model, *, tiny: iter(parts))
    monkeypatch.setattr(checks, "make_model", lambda folder, *, tiny: folder)
    monkeypatch.setattr(sys, "argv", ["check_cuda", "--tiny", "--out", str(tmp_path)])
    assert checks.main() == 1
    assert json.loads((tmp_path / "results.json").read_text()) == {"wrong": {"failed": "no such device"}, "quick": {}}
    assert checks.run(parts[1], tmp_path, left=5.0) == {"left_out": "no time left"}


def wheel(folder: Path, name: str, version: str) -> None:
    """A package of one module that has its version."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_what_is_missing_or_older_is_taken_from_the_folder(tmp_path: Path, checks: ModuleType) -> None:
    for name, version in (
        ("dec2vec_missing", "1.0"),
        ("pytest", "0.1"),
        ("jaxtyping", "999.0"),
        ("pydantic_core", "1.0"),
    ):
        wheel(tmp_path, name, version)
    found = [path.name.split("-")[0] for path in checks.missing_wheels(tmp_path)]
    assert found == ["dec2vec_missing", "jaxtyping"]


@pytest.mark.slow
def test_wheels_are_installed_without_network_for_the_parts(
    tmp_path: Path, checks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:9")
    wheel(tmp_path, "dec2vec_missing", "1.0")
    code = [sys.executable, "-c", "import dec2vec_missing; print(dec2vec_missing.VERSION)"]
    assert subprocess.run(code, capture_output=True, check=False).returncode != 0
    checks.install(checks.missing_wheels(tmp_path), tmp_path / "site")
    assert subprocess.run(code, capture_output=True, text=True, check=True).stdout == "1.0\n"
