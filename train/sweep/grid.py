"""A grid as typed -> the training runs that it describes."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dec2vec.config.load import config_hash, load
from dec2vec.config.overrides import options, unknown_option
from dec2vec.config.tasks import task_paths
from dec2vec.errors import UserError
from dec2vec.files.atomic import sha256_file
from train.config import RESUMABLE_CHANGES, TrainConfig

NOT_TRAINED = ("eval.", "checkpoint.", "tracking.", "export.", "output_dir")
"""Options that don't change what is trained, or that change how it is evaluated."""
LONGEST_NAME = 120
Tokens = tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """An option and its values, each as it would be typed."""

    option: str
    values: tuple[Tokens, ...]


@dataclass(frozen=True)
class Planned:
    """One training run: `name` is its folder in that of the sweep, `options` are the options of its command line.

    `inputs` are the names of its data and dev files.
    """

    name: str
    recipe: str
    seed: int
    options: Tokens
    config_hash: str
    inputs: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """`optim.lr=1e-4,3e-4`; a list in brackets is one value; quotes as in YAML. Raises UserError."""
    option, sign, values = text.partition("=")
    option = option.strip().removeprefix("--").replace("-", "_")
    if not (option and sign and values.strip()):
        raise UserError(f"--grid {text!r}: write option=value,value, such as optim.lr=1e-4,3e-4")
    if re.sub(r"\.\d+(?=\.|$)", ".N", option) not in options(TrainConfig):
        raise UserError(f"--grid {option}: {unknown_option(option, TrainConfig)}")
    if option.startswith(NOT_TRAINED):
        raise UserError(
            f"--grid {option}: runs with different values cannot be compared on dev; set it once, outside the grid"
        )
    try:
        node = yaml.compose(f"[{values}]", Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise UserError(f"--grid {option}: values {values!r} cannot be parsed; put texts in quotes") from None
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    return Axis(option, tuple(_tokens(option, item) for item in items))


def _tokens(option: str, node: yaml.Node) -> Tokens:
    if isinstance(node, yaml.ScalarNode):
        return (node.value,)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return tuple(item.value for item in node.value)
    raise UserError(f"--grid {option}: a value is not a text, number or list; put texts with braces in quotes")


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Each option once."""
    axes = [parse_axis(text) for text in texts]
    twice = next((name for name, count in Counter(axis.option for axis in axes).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"--grid {twice} is given twice; list all values in one")
    return axes


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """`1,2,3` or `1 2 3`."""
    words = [word for text in texts for word in text.replace(",", " ").split()]
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--seeds {' '.join(texts)}: must be whole numbers such as 1,2,3")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {' '.join(texts)}: a seed is given twice")
    return seeds


def plan(config_path: Path, grid: Sequence[str], seed_words: Sequence[str], training: Sequence[str]) -> list[Planned]:
    """Every run, recipe by recipe. Raises UserError for a configuration that is not valid."""
    axes, seeds = parse_axes(grid), parse_seeds(seed_words)
    _check_training_options(axes, seeds, training)
    labels = _labels(axes)
    seeds_or_own: Sequence[int | None] = seeds or [None]
    runs: list[Planned] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        recipe = _folder_name([f"{label}-{' '.join(tokens)}" for label, tokens in zip(labels, values, strict=True)])
        chosen = [part for axis, tokens in zip(axes, values, strict=True) for part in (f"--{axis.option}", *tokens)]
        for seed in seeds_or_own:
            seeded = [] if seed is None else ["--seed", str(seed)]
            name = recipe if seed is None else f"{recipe}-seed{seed}"
            typed = (*training, *chosen, *seeded)
            config = load(TrainConfig, config_path, typed)
            hashed = config_hash(config, exclude=RESUMABLE_CHANGES)
            runs.append(Planned(name, recipe, config.seed, typed, hashed, inputs_of(config)))
    _refuse_equal(runs)
    return runs


def _check_training_options(axes: Sequence[Axis], seeds: Sequence[int], training: Sequence[str]) -> None:
    swept = {axis.option for axis in axes} | ({"seed"} if seeds else set())
    if seeds and any(axis.option == "seed" for axis in axes):
        raise UserError("--grid seed: use --seeds instead")
    if not swept:
        raise UserError("sweep: nothing to sweep over; add --grid optim.lr=1e-4,3e-4 or --seeds 1,2,3")
    fixed = {token[2:].partition("=")[0].replace("-", "_") for token in training if token.startswith("--")}
    for option in sorted(fixed & swept):
        raise UserError(f"--{option} is part of the grid; remove it")
    if "output_dir" in fixed:
        raise UserError("--output_dir: every run has its own folder in --output; remove it")


def _labels(axes: Sequence[Axis]) -> list[str]:
    """The last part of each option's name, or the whole name if two options have the same last part."""
    ends = Counter(axis.option.rpartition(".")[2] for axis in axes)
    return [
        axis.option if ends[axis.option.rpartition(".")[2]] > 1 else axis.option.rpartition(".")[2] for axis in axes
    ]


def _folder_name(parts: Sequence[str]) -> str:
    """A readable name. Characters that a file name can't have are replaced, and a hash keeps the names distinct."""
    label = "_".join(parts) or "base"
    name = re.sub(r"[^\w.+-]+", "-", label)
    if name == label and len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"


def _refuse_equal(runs: Sequence[Planned]) -> None:
    seen: dict[str, Planned] = {}
    for run in runs:
        other = seen.setdefault(run.config_hash, run)
        if other is not run:
            raise UserError(f"--grid: {other.name} and {run.name} are the same run; remove one value")


def inputs_of(config: TrainConfig) -> tuple[str, ...]:
    """Data, dev, decoder and teachers, as named in the configuration."""
    losses = [config.loss, *(loss for source in config.data for loss in source.losses)]
    dev = [path for task in config.eval.dev_tasks for _, path in task_paths(task)]
    further = [*dev, config.model.name_or_path, *(loss.teacher for loss in losses)]
    return tuple(dict.fromkeys([*(source.path for source in config.data), *filter(None, further)]))


def hash_inputs(names: Iterable[str]) -> dict[str, str]:
    """sha256 of those that are local files or folders. Data sets on the Hub are skipped."""
    hashes = {}
    for name in dict.fromkeys(names):
        path = next((path for path in (Path(name), Path(name.partition("@")[0])) if name and path.exists()), None)
        if path is not None:
            hashes[name] = _hash(path)
    return hashes


def _hash(path: Path) -> str:
    if path.is_file():
        return sha256_file(path)
    if any((path / name).is_file() for name in ("config.json", "modules.json", "config.yaml")):
        from dec2vec.decoder.model_digest import model_digest

        return str(model_digest(str(path)))
    files = sorted(path for path in path.rglob("*") if path.is_file())
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
