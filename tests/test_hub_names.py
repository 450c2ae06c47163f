"""A path of no folder is refused without asking the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from dec2vec import hub
from dec2vec.config.model import ModelConfig
from dec2vec.decoder import load, model_folders
from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists
from eval.baselines import make_baseline


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["./x", "../x", "/nowhere/x", "~/x", ".", "runs/a/adapter"])
def test_paths(here: Path, name: str) -> None:
    if name == ".":
        check_path_exists(name)
        return
    with pytest.raises(UserError, match="no such folder; check the path"):
        check_path_exists(name)


def test_the_hub_is_not_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr(hub, "hf_hub_download", ask)
    config = ModelConfig(name_or_path="runs/nosuch")
    for read in (model_folders.find, load.load_architecture, hub.pinned_revision):
        with pytest.raises(UserError, match=r"model runs/nosuch: there is no such folder in runs/; check the path"):
            read(config)
    with pytest.raises(UserError, match="baseline runs/nosuch: there is no such folder in runs/"):
        make_baseline("runs/nosuch", ModelConfig())


def test_hub_ids_and_folders_pass(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpt2", "owner/name", "runs/mine", ""):
        check_path_exists(name)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    check_path_exists("runs/downloaded")
