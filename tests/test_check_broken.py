"""`check_broken.py`: what it says of a breakage that is found, one without effect, and one that is missed."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.export_cases import PEFT_WARNING, finished_run

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts/checks")
    monkeypatch.setattr("logging.disable", lambda level: None)
    return importlib.import_module("check_broken")


@pytest.mark.slow
def test_found_harmless_and_missed(
    broken: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last one is found by another check than the one it names, which must not do."""
    named = {breakage.name: breakage for breakage in broken.BREAKAGES}
    harmless, lost = named["padding on the left"], named["the prompt is lost"]
    missed = dataclasses.replace(lost, name="missed", check="pooling")
    monkeypatch.setattr(broken, "BREAKAGES", (named["EOS is no longer appended"], harmless, lost))
    run = finished_run(tmp_path)
    assert broken.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^\| EOS is no longer appended .* \d\.\de-01 \| last token \| ", said, re.MULTILINE)
    assert re.search(r"^\| padding on the left .*-0\d \|  \| no effect on this decoder", said, re.MULTILINE)
    assert "2 of 3 breakages found, 1 without effect" in said and "good exports pass every check" in said
    monkeypatch.setattr(broken, "BREAKAGES", (missed,))
    assert broken.main([str(run)]) == 1
    assert "missed: not named by `pooling`" in capsys.readouterr().out
