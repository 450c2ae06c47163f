"""Every configuration that ships is one that our programs take; those not run here say so in their first line."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, LlamaConfig, PretrainedConfig, Qwen3Config

from dec2vec.batching import Chunk
from dec2vec.config.load import load
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.pooling import View
from eval.config import EvalConfig
from eval.dev.tasks import check_shared, load_dev_tasks
from eval.tasks.sts import load_task
from eval.tasks.topic_files import label_texts
from train.adapters.lora import make_trainable
from train.config import LoraConfig, TrainConfig
from train.distributed.single import Single
from train.gradcache.graph_budget import PASS_MEMORY
from train.gradcache.memory import affordable_chunk, graph_bytes
from train.losses.checks import check_losses
from train.resolve import resolve

CONFIGS = Path(__file__).parent.parent / "configs"
TRAIN = sorted((CONFIGS / "train").glob("*.yaml"))
EVAL = sorted((CONFIGS / "eval").glob("*.yaml"))
SHARED = CONFIGS.parent.parent / "shared/data"


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


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_no_recipe_is_refused_for_its_dev_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """STS-B dev shares pairs with the STS tests of four years."""
    monkeypatch.chdir(CONFIGS.parent)
    compared = 0
    for path in TRAIN:
        config = load(TrainConfig, path, [], prog="dec2vec train").eval
        dev = [task for task in config.dev_tasks if task.similarity and Path(task.similarity).is_file()]
        files = [task.similarity for task in config.test_tasks if task.similarity]
        tests = [load_task(file) for file in files if Path(file).is_file()]
        check_shared(load_dev_tasks(dev, None, 0.05), tests, ())
        compared += bool(dev and tests)
    assert compared >= 3


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


@dataclass(frozen=True)
class Shape:
    """A decoder that a recipe names."""

    architecture: PretrainedConfig
    layers: int
    weights: float
    """Bytes of its weights as the recipe loads them."""


def llama(
    hidden: int, inner: int, heads: int, keys: int, kind: type[PretrainedConfig] = LlamaConfig
) -> PretrainedConfig:
    return kind(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        head_dim=128 if kind is Qwen3Config else hidden // heads,
    )


SHAPES = {
    "Qwen/Qwen3-0.6B": Shape(llama(1024, 3072, 16, 8, Qwen3Config), 28, 2 * 0.6e9),
    "meta-llama/Llama-3.2-1B": Shape(llama(2048, 8192, 32, 8), 16, 0.6 * 1.24e9 + 2 * 0.26e9),
}
WIDTH = 32


def graph_of_a_layer(shape: Shape, lora: LoraConfig) -> float:
    """Bytes that a token's graph takes in a layer, as on CUDA: autocast, and PEFT's own products.

    Of two decoders and two lengths: the ends of a decoder do not count, nor what a pass takes once.
    """
    sizes: list[int] = []
    for layers in (1, 2):
        shape.architecture.num_hidden_layers = layers
        backbone = AutoModel.from_config(shape.architecture, dtype=torch.bfloat16)
        embedder = Embedder(backbone, View("last", -1), layers, autocast=torch.bfloat16)
        make_trainable(embedder, replace(lora, fused=False))
        embedder.narrow = False
        for rows in (2, 4):
            ids = torch.ones(rows, WIDTH, dtype=torch.long)
            chunk = Chunk(torch.arange(rows), ids, torch.full((rows,), WIDTH))
            sizes.append(graph_bytes(Single(embedder), chunk))
    return ((sizes[3] - sizes[2]) - (sizes[1] - sizes[0])) / (2 * WIDTH)


@pytest.mark.parametrize(
    ("name", "dearer"),
    [("nli-qwen3-0.6b", 1), pytest.param("nli-llama-3.2-1b-qlora", 2, marks=pytest.mark.slow)],
)
def test_the_memory_that_a_recipe_names(name: str, dearer: int) -> None:
    """Weights, adapters with their moments, and a chunk fit on the named card; the chunk takes several texts.

    In 4 bits, what lies between the layers is float32, which takes at most twice as much.
    """
    path = CONFIGS / "train" / f"{name}.yaml"
    config = load(TrainConfig, path, [], prog="dec2vec train")
    card = 1e9 * float(re.findall(r"a (\d+) GB GPU", path.read_text(encoding="utf-8"))[0])
    shape = SHAPES[config.model.name_or_path]
    token = dearer * shape.layers * graph_of_a_layer(shape, config.lora)
    free = 0.95 * card - shape.weights
    chunk = affordable_chunk(int(token), int(free))
    assert config.batch.chunk_tokens == "auto"
    assert shape.weights + PASS_MEMORY * chunk * token < 0.9 * card
    assert chunk > 4 * (config.model.max_length or 512)
    if name == "nli-qwen3-0.6b":  # 73,480 bytes were counted by reading the kernels; and what the recipe had before
        assert token / shape.layers == pytest.approx(73_480, rel=0.1)
        assert 32_768 * token > 2.5 * card
