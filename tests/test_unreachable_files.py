"""A file that is not on this machine, and that the Hub can't be asked for, is not taken for one that does not exist."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.decoder import repository_files
from dec2vec.decoder.library_files import find_published
from tests.helpers import tiny_model_folder
from tests.published_folders import PROMPTS, Folder, Layer, write_published

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "alice/model"
CONFIG = ModelConfig(name_or_path=NAME, device="cpu", autocast="off", max_length=40)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a downloaded repository without network."""
    repository = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository_files.warn_once.cache_clear()
    return repository / "snapshots" / COMMIT


def published(place: Path, *without: str) -> None:
    """All files of an embedder but a few."""
    write_published(place, Folder("mean_tokens", prompts=PROMPTS, layers=(Layer(),)))
    for file in without:
        (place / file).unlink()


def plain(place: Path) -> Path:
    place.parent.mkdir(parents=True)
    return tiny_model_folder(place)


def test_a_plain_decoder_is_read_with_a_warning(cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain(cached)
    found = Encoder.load(CONFIG).encode(["a b"], progress=False)
    Encoder.load(CONFIG)
    said = [line for line in caplog.messages if "modules.json" in line]
    assert len(said) == 1
    assert said[0].startswith(f"model {NAME}: modules.json is not on this machine, and the Hub can't be asked for it")
    assert "until then it is read as a plain decoder" in said[0]
    shutil.copytree(cached, cached.parent / "copy")
    expected = Encoder.load(ModelConfig(str(cached.parent / "copy"), device="cpu", autocast="off", max_length=40))
    np.testing.assert_array_equal(found, expected.encode(["a b"], progress=False))


@pytest.mark.parametrize("by", ["answer", "list"])
def test_nothing_is_said_where_the_absence_is_known(cached: Path, by: str, caplog: pytest.LogCaptureFixture) -> None:
    plain(cached)
    known = cached.parents[1] / (f".no_exist/{COMMIT}/modules.json" if by == "answer" else f"trees/{COMMIT}.json")
    known.parent.mkdir(parents=True)
    files = {path.name: {"size": 1, "blob_id": "0" * 40} for path in cached.iterdir()}
    known.write_text(json.dumps({"format_version": 1, "files": files} if by == "list" else ""))
    assert find_published(CONFIG) is None
    assert not caplog.messages


def test_a_complete_embedder_is_read_without_a_word(cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    published(cached)
    model = find_published(CONFIG)
    assert model is not None and (model.reading.prompts, len(model.reading.steps)) == (PROMPTS, 1)
    assert not caplog.messages


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json", "2_Dense/config.json"])
def test_an_embedder_of_which_a_part_was_downloaded_is_refused(cached: Path, file: str) -> None:
    published(cached, file)
    with pytest.raises(UserError, match=rf"model {NAME}: {file} is not on this machine, .*; download the whole model"):
        find_published(CONFIG)


def test_settings_that_may_be_absent_are_missed_with_a_warning(cached: Path, caplog: pytest.LogCaptureFixture) -> None:
    published(cached, "config_sentence_transformers.json", "sentence_bert_config.json")
    model = find_published(CONFIG)
    assert model is not None and not model.reading.prompts
    said = [line for line in caplog.messages if line.endswith("until then it is taken to be absent")]
    assert [line.split()[2] for line in said] == ["config_sentence_transformers.json", "sentence_bert_config.json"]


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no connection"), PermissionError("no connection")])
def test_a_hub_without_an_answer(
    cached: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain decoder on this machine is read; nothing is assumed of one that is still to be downloaded."""

    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(repository_files, "hf_hub_download", fail)
    monkeypatch.setattr("dec2vec.decoder.library_files.find", lambda config: None)
    with pytest.raises(UserError, match=r"modules.json is not on this machine, and .* for it \(no connection\)"):
        find_published(CONFIG)
    plain(cached)
    with caplog.at_level(logging.WARNING):
        assert find_published(CONFIG) is None
    assert "until then it is read as a plain decoder" in caplog.text
