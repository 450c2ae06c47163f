"""`check_loads.py`: another library in a fresh process gives our vectors; what differs, fails or is absent is
said. Plain sentence-transformers and PEFT are in tests/test_export.py."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.export_cases import PEFT_WARNING, finished_run

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
ZEROS = "queries = documents = np.zeros((6, 16))"
STRIPPED = """
queries, documents = np.load(os.path.join(os.path.dirname(job["output"]), "0.npy"))
queries[1] = 1.0
"""
"""What the first loader gives, but for one text: so did sentence-transformers before 5.4, which stripped texts."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts/checks")
    return importlib.import_module("check_loads")


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Of another family where the test says so."""
    return finished_run(tmp_path, request.param if hasattr(request, "param") else "llama")


@pytest.mark.slow
def test_mteb_gets_our_vectors_and_what_goes_wrong_is_said(loads: ModuleType, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mteb", reason="the mteb package is not installed")
    (mteb,) = [loader for loader in loads.LOADERS if loader.name == "mteb"]
    loaders = [
        mteb,
        loads.Loader("zeros", "merged", "numpy", "numpy", ZEROS),
        loads.Loader("stripped", "merged", "numpy", "numpy", STRIPPED),
        loads.Loader("zeros", "merged", "numpy", "numpy", ZEROS, False),
        loads.Loader("wrong", "merged", "numpy", "numpy", "raise ValueError('no such key')"),
        loads.Loader("nowhere", "merged", "no_such_module.at_all", "no-such-package", ""),
    ]
    results = loads.check(run, tmp_path / "stage", loaders)
    found = {result.loader.name: result for result in results}
    assert found["mteb"].difference is not None and found["mteb"].difference <= 1e-5
    assert [result.is_well for result in results] == [True, False, False, True, False, True]
    assert found["stripped"].worst.startswith("query '', the others ")
    assert float(found["stripped"].worst.split()[-1]) <= 1e-5
    lines = loads.table(results).splitlines()
    assert "ValueError: no such key" in lines[5] and "not run: absent" in lines[6]
    assert lines[4].startswith("zeros, as it comes")


OTHER = "DEC2VEC_OTHER_PYTHON"


@pytest.mark.skipif(OTHER not in os.environ, reason=f"{OTHER} names no interpreter (one with transformers 4, say)")
@pytest.mark.parametrize("run", ["llama", "gpt2"], indirect=True)
def test_another_environment_gets_our_vectors(loads: ModuleType, run: Path, tmp_path: Path) -> None:
    """GPT-2 adds an embedding for the token types that tokenizers of transformers 4 return unless told not to."""
    results = loads.check(run, tmp_path / "stage", loads.LOADERS, os.environ[OTHER])
    assert [result for result in results if not result.is_well] == [], loads.table(results)
    assert sum(result.difference is not None for result in results) >= 4, loads.table(results)
