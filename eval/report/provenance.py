"""What a reader needs to get the same figures again: versions, configuration, data and choices."""

from __future__ import annotations

import hashlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dec2vec.config.load import config_hash
from eval.config import EvalConfig
from eval.leakage.training_text import FitText
from eval.report.origins import origins
from eval.results.tuned_runs import describe_tuned
from eval.selection.choose import Choice
from eval.systems.recipes import Recipe
from eval.tasks.sts import GradedPairs, StsTask
from eval.tasks.task import Task

CORE = ("dec2vec", "torch", "transformers", "peft", "numpy", "scipy", "safetensors", "tokenizers")
OUTSIDE = ("scikit-learn", "ir-measures", "bm25s", "PyStemmer", "sacrebleu", "rouge-score", "gensim")
"""Of the metrics and baselines: another version of the stemmer has changed published figures of BM25."""
PACKAGES = (*CORE, *OUTSIDE)


def command() -> str:
    """As typed, without the folders of the interpreter and of the script."""
    words = sys.orig_argv
    if len(words) > 1 and Path(words[1]).name == "dec2vec":  # the console script, which an interpreter runs
        words = words[1:]
    return shlex.join([Path(word).name if index < 2 else word for index, word in enumerate(words)])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe(
    config: EvalConfig,
    similarity: Sequence[StsTask],
    further: Sequence[Task[Any]],
    fit: FitText | None,
    choices: Sequence[Choice],
    recipes: Mapping[str, Recipe],
) -> dict[str, object]:
    """Everything here is plain JSON. Of `similarity` a dev file comes first; `further` are the other tasks."""
    chosen = "no similarity dev file"
    if config.dev:
        chosen = f"layer and strength of every similarity row, and its untuned rival, on {similarity[0].name} only"
    return {
        "command": command(),
        "versions": versions(),
        "config_sha256": config_hash(config),
        "model": {"name_or_path": config.model.name_or_path, "revision": config.model.revision},
        "data": {task.name: _pairs(task.test_pairs) for task in similarity},
        "tasks": {task.name: _texts(task) for task in further},
        "columns": {task.name: [asdict(read) for read in task.columns] for task in [*similarity, *further]},
        "whitening_fit": None if fit is None else _fit(config, fit),
        "protocol": {
            "metric": "Spearman of cosines; spearman_all is over the concatenated sub-sets",
            "interval": "95 %, by bootstrap; docs/coverage.md says how for each figure",
            "resamples": config.bootstrap,
            "seed": config.seed,
            "chosen": f"the tuned run as it is exported; {chosen}; the outside row by its test figure",
        },
        "choices": [_choice(choice) for choice in choices],
        "recipes": {run: dict(recipe) for run, recipe in recipes.items()},
        "tuned": describe_tuned(config.tuned, [*similarity, *further]),
        "origins": origins(config, similarity, further),
    }


def _pairs(pairs: GradedPairs) -> dict[str, object]:
    return {"pairs": len(pairs), "subsets": len(pairs.subset_names), "sha256": pairs.content_hash}


def _texts(task: Task[Any]) -> dict[str, object]:
    """How many distinct texts, and a hash of them in order."""
    found: dict[str, object] = {}
    for split, texts in (("test", task.test), ("dev", task.dev)):
        if texts is not None:
            digest = hashlib.sha256("\0".join(texts.both).encode("utf-8", "surrogatepass"))
            found[split] = {"texts": len(texts.both), "sha256_of_texts": digest.hexdigest()}
    return found


def _fit(config: EvalConfig, fit: FitText) -> dict[str, object]:
    return {
        "files": list(config.fit),
        "sentences": len(fit.sentences),
        "left_out_as_evaluation_texts": fit.dropped,
        "sha256": fit.sha256,
    }


def _choice(choice: Choice) -> dict[str, object]:
    system, post = choice.system, choice.post
    return {
        "system": system.name,
        "prompt": system.prompt,
        "pooling": system.view.pooling,
        "layer": system.view.layer,
        "post": None if system.post is None else system.post.label,
        "k": choice.k,
        "fit": None if post is None else dict(post.provenance),
    }
