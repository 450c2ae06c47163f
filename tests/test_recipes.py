"""Every configuration that ships is one that our programs take; those not run here say so in their first line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from dec2vec.config.load import load
from eval.config import EvalConfig
from eval.tasks.topic_files import label_texts
from train.config import TrainConfig
from train.losses.checks import check_losses
from train.resolve import resolve

CONFIGS = Path(__file__).parent.parent / "configs"
TRAIN = sorted((CONFIGS / "train").glob("*.yaml"))
EVAL = sorted((CONFIGS / "eval").glob("*.yaml"))


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.stem)
def test_training_recipes(path: Path) -> None:
    config = load(TrainConfig, path, [], prog="dec2vec train")
    check_losses(config)
    assert config.data and config.output_dir.startswith("runs/")
    first = path.read_text(encoding="utf-8").splitlines()[0]
    needs_hub = not config.model.name_or_path.startswith(("..", "models/")) and path.stem != "quickstart"
    assert first.startswith("# ") and ("not run here" in first) == needs_hub
    if not config.model.load_in_4bit:  # which wants CUDA
        resolve(replace(config, model=replace(config.model, name_or_path="nowhere", device="cpu")))


def test_the_options_of_quickstart() -> None:
    """The script's command is one that `dec2vec train` takes."""
    script = (CONFIGS.parent / "scripts/quickstart").read_text(encoding="utf-8")
    _, verb, path, *options, rest = shlex.split(script.splitlines()[-1].removeprefix("exec "))
    assert (verb, rest) == ("train", "$@")
    assert load(TrainConfig, CONFIGS.parent / path, options, prog="dec2vec train").checkpoint.resume == "fresh"


@pytest.mark.parametrize("path", EVAL, ids=lambda path: path.stem)
def test_evaluations(path: Path) -> None:
    config = load(EvalConfig, path, [], prog="dec2vec eval")
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert config.output_dir == f"runs/eval-{path.stem}"


def test_definitions_of_classes() -> None:
    """The classes that the configuration keeps, each with a text of its own in both forms."""
    config = load(EvalConfig, CONFIGS / "eval" / "chinese-more.yaml", [], prog="dec2vec eval")
    defined = [topic for topic in config.topics if topic.labels]
    assert {topic.form for topic in defined} == {"definition", "examples"}
    for topic in defined:
        assert len(label_texts(topic.classes, topic.form, CONFIGS.parent / topic.labels)) == 6
