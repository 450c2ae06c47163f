"""What a run is: a changed option or file is refused on resume with its name, and a moved one is the same run."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dec2vec.decoder.model_digest
from dec2vec import ModelConfig
from dec2vec.config.load import dump, load
from dec2vec.decoder.model_digest import model_digest
from dec2vec.errors import UserError
from tests.tiny_run import write_run
from train.build import _identity
from train.checkpointing.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from train.checkpointing.identity import Identity
from train.config import EvalSection, OptimConfig, TrainConfig
from train.data.dataset import load_data
from train.options.data import SourceConfig
from train.options.losses import LossConfig
from train.sweep.grid import hash_inputs, inputs_of

TAUGHT = LossConfig(kind="distil_vectors", teacher="/a/teacher")
CONFIG = TrainConfig(
    model=ModelConfig(name_or_path="/a/decoder"),
    data=(SourceConfig(path="/a/pairs.jsonl"), SourceConfig(path="/a/more.jsonl", losses=(TAUGHT,))),
    eval=EvalSection(dev="/a/dev.jsonl"),
)
INPUTS = {
    "data.0.path": "1",
    "data.1.path": "2",
    "data.1.losses.0.teacher": "3",
    "model.name_or_path": "4",
    "eval.dev": "5",
}
RUN = Identity("hash", CONFIG, INPUTS)


def saved(folder: Path, run: Identity = RUN) -> Path:
    checkpoint = save_checkpoint(folder / "checkpoints", 4, {"a": torch.zeros(2)}, {}, {"step": 4}, run)
    (folder / "config.yaml").write_text(dump(run.config), encoding="utf-8")
    return checkpoint


def resumed(folder: Path, run: Identity) -> int | None:
    found = latest_checkpoint(folder / "checkpoints", run)
    return None if found is None else found.step


def as_earlier_version(checkpoint: Path) -> None:
    """Its manifest as it was before content was recorded."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    kept = {key: manifest[key] for key in ("format", "step", "config_hash", "files")}
    (checkpoint / "manifest.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("option", INPUTS)
def test_changed_content_is_refused_with_its_name(tmp_path: Path, option: str) -> None:
    checkpoint = saved(tmp_path)
    assert resumed(tmp_path, RUN) == 4
    changed = replace(RUN, inputs={**INPUTS, option: "other"})
    for read in (lambda: resumed(tmp_path, changed), lambda: load_checkpoint(checkpoint, changed)):
        with pytest.raises(UserError, match=rf"^{option} /a/.*: its content has changed.*step-000004.*restore it"):
            read()


def test_a_moved_project_is_the_same_run(tmp_path: Path) -> None:
    saved(tmp_path)
    text = dump(CONFIG).replace("/a/", "/b/")
    (tmp_path / "moved.yaml").write_text(text, encoding="utf-8")

    moved = replace(RUN, config_hash="another", config=load(TrainConfig, tmp_path / "moved.yaml", []))
    assert moved.config != CONFIG and resumed(tmp_path, moved) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 7}, "seed was 0, and is now 7"),
        ({"optim": OptimConfig(lr=1e-3)}, "optim.lr was 0.0005, and is now 0.001"),
        ({"eval": EvalSection(dev="/a/new.jsonl")}, "eval.dev was /a/dev.jsonl, and is now /a/new.jsonl"),
        ({"eval": EvalSection()}, "eval.dev was /a/dev.jsonl, and is now null"),
        ({"data": CONFIG.data[:1]}, "data.1.path was /a/more.jsonl, and is now absent"),
    ],
)
@pytest.mark.parametrize("version", ["present", "earlier"])
def test_another_option_is_named(tmp_path: Path, change: dict[str, Any], said: str, version: str) -> None:
    checkpoint = saved(tmp_path)
    if version == "earlier":
        as_earlier_version(checkpoint)
    config = replace(CONFIG, **change)
    gone = "eval.dev" if "eval" in change else "data.1." if "data" in change else "nothing"
    inputs = {name: sha256 for name, sha256 in INPUTS.items() if not name.startswith(gone)}
    with pytest.raises(UserError, match=rf"step-000004 belongs to another configuration: {said}; start from"):
        resumed(tmp_path, Identity("another", config, inputs))


def test_options_that_decide_nothing_may_change(tmp_path: Path) -> None:
    saved(tmp_path)
    free = replace(CONFIG, output_dir="elsewhere", eval=replace(CONFIG.eval, tests=("t.jsonl",), every=7))
    assert resumed(tmp_path, replace(RUN, config=free)) == 4


def test_an_option_of_a_later_version_has_its_default_in_earlier_checkpoints(tmp_path: Path) -> None:
    path = saved(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["config"]["lora"]["fused"], manifest["config"]["optim"]
    manifest["config"]["lora"]["fast"] = True  # a former name
    path.write_text(json.dumps(manifest))
    assert resumed(tmp_path, RUN) == 4


def test_a_run_of_an_earlier_version_resumes_and_says_what_it_did_not_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_earlier_version(saved(tmp_path))
    assert resumed(tmp_path, RUN) == 4
    assert "did not record the content of data.1.losses.0.teacher and model.name_or_path and eval.dev" in caplog.text
    caplog.clear()
    saved(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert resumed(tmp_path, RUN) == 4
    assert caplog.text == ""


def test_other_data_of_an_earlier_version_is_said_to_be_that(tmp_path: Path) -> None:
    as_earlier_version(saved(tmp_path))
    with pytest.raises(UserError, match="step-000004 was trained on other data; restore them"):
        resumed(tmp_path, replace(RUN, config_hash="another"))


def identity_of(folder: Path) -> Identity:
    """That of a run in `folder`, whose files it names by absolute paths."""
    teacher = LossConfig(kind="distil_vectors", teacher=str(folder / "decoder"))
    data = (SourceConfig(path=str(folder / "pairs.jsonl")), SourceConfig(path=str(folder / "pairs.jsonl"), limit=5))
    config = TrainConfig(
        model=ModelConfig(name_or_path=str(folder / "decoder")), data=(data[0], replace(data[1], losses=(teacher,)))
    )
    return _identity(config, load_data(config.data), {"eval.dev": "as the caller says"})


def test_the_inputs_of_a_run_are_hashed_by_content(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, moved = identity_of(tmp_path / "a"), identity_of(tmp_path / "b")
    assert set(first.inputs) == set(INPUTS) and first.inputs == moved.inputs
    assert first.inputs["data.0.path"] != first.inputs["data.1.path"]
    assert first.inputs["model.name_or_path"] == first.inputs["data.1.losses.0.teacher"]
    lines = (tmp_path / "b" / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "pairs.jsonl").write_text("".join([*lines[:-1], lines[0]]))
    changed = identity_of(tmp_path / "b").inputs
    assert {name for name in INPUTS if changed[name] != first.inputs[name]} == {"data.0.path"}, "data.1 is 5 rows"


@pytest.mark.parametrize("whole", [1 << 26, 1000], ids=["read whole", "sampled"])
def test_the_digest_of_a_model(tmp_path: Path, whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dec2vec.decoder.model_digest, "WHOLE", whole)
    monkeypatch.setattr(dec2vec.decoder.model_digest, "BLOCK", 64)
    monkeypatch.setattr(dec2vec.decoder.model_digest, "BLOCKS", 4)
    folder = write_run(tmp_path / "a").parent / "decoder"
    weights = folder / "model.safetensors"
    first, content = model_digest(str(folder)), weights.read_bytes()
    (folder / "README.md").write_text("no part of the model")
    assert model_digest(str(folder)) == first is not None
    assert model_digest(str(shutil.copytree(folder, tmp_path / "copy"))) == first
    for place in (0, len(content) - 1):
        weights.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert model_digest(str(folder)) != first
    weights.write_bytes(content + b"\0")
    assert model_digest(str(folder)) != first
    assert model_digest("owner/name") is None


def test_a_sweep_hashes_teachers_and_the_decoder_too(tmp_path: Path) -> None:
    write_run(tmp_path)
    config = replace(CONFIG, model=ModelConfig(name_or_path=str(tmp_path / "decoder")))
    assert set(inputs_of(config)) == {
        "/a/pairs.jsonl",
        "/a/more.jsonl",
        "/a/dev.jsonl",
        "/a/teacher",
        str(tmp_path / "decoder"),
    }
    assert hash_inputs(inputs_of(config)) == {str(tmp_path / "decoder"): model_digest(str(tmp_path / "decoder"))}
