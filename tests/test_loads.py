"""`scripts/check_loads.py`: another library in a fresh process gives our vectors; what differs, fails or is absent is
said. Plain sentence-transformers and PEFT are in tests/test_export.py."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from dec2vec.config import dump
from tests.export_cases import BASE, PEFT_WARNING, tuned_encoder
from train.config import TrainConfig
from train.export import save_adapter

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
ZEROS = "queries = documents = np.zeros((6, 16))"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("check_loads")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    encoder = tuned_encoder(tmp_path / "base", prompt="instruct")
    save_adapter(encoder, tmp_path / "run" / "adapter")
    config = TrainConfig(model=dataclasses.replace(BASE, name_or_path=str(tmp_path / "base"), prompt="instruct"))
    (tmp_path / "run" / "config.yaml").write_text(dump(config), encoding="utf-8")
    return tmp_path / "run"


def test_mteb_gets_our_vectors_and_what_goes_wrong_is_said(loads: ModuleType, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mteb", reason="the mteb package is not installed")
    (mteb,) = [loader for loader in loads.LOADERS if loader.name == "mteb"]
    loaders = [
        mteb,
        loads.Loader("zeros", "merged", "numpy", "numpy", ZEROS),
        loads.Loader("zeros", "merged", "numpy", "numpy", ZEROS, False),
        loads.Loader("wrong", "merged", "numpy", "numpy", "raise ValueError('no such key')"),
        loads.Loader("nowhere", "merged", "no_such_module.at_all", "no-such-package", ""),
    ]
    results = loads.check(run, tmp_path / "stage", loaders)
    found = {result.loader.name: result for result in results}
    assert found["mteb"].difference is not None and found["mteb"].difference <= 1e-5
    assert [result.is_well for result in results] == [True, False, True, False, True]
    lines = loads.table(results).splitlines()
    assert "ValueError: no such key" in lines[4] and "absent: not run" in lines[5]
    assert lines[3].startswith("zeros, as it comes")
