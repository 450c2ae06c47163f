"""README.md of an exported folder: where the model comes from, its results, and how to load it.

It contains no local paths, and nothing that depends on the machine or the time: equal exports have equal cards.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import get_prompt
from train.config import SourceConfig, TrainConfig
from train.data.dataset import content_hash, load_data
from train.data.table import SourceTable
from train.export.card_scores import AVERAGE, Score, exported, scores_table
from train.export.card_snippets import (
    ExportedModel,
    dec2vec_snippet,
    sentence_transformers_snippet,
    transformers_snippet,
)


@dataclass(frozen=True)
class DataFact:
    """A source of training pairs. `pairs` and `sha256` are None if it is no longer available."""

    name: str
    is_hub_id: bool
    pairs: int | None = None
    sha256: str | None = None
    selection: str = ""
    """Which of its rows, and how often: `only source=mrpc, weight 44`."""


@dataclass(frozen=True)
class Card:
    """What a card says. `repo_id` is None for a folder on disk; `layer` is an index, None for the last hidden state."""

    config: TrainConfig
    name: str
    repo_id: str | None
    dimension: int
    merged: bool
    whitened: bool
    layer: int | None
    data: tuple[DataFact, ...] = ()
    scores: tuple[Score, ...] = ()
    origin: str = ""
    """For a merged model, which runs were merged and how."""

    @property
    def base(self) -> str:
        """The name of the base, without the path of a local folder."""
        name = self.config.model.name_or_path
        return name if is_hub_id(name) else Path(name).name


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILES = frozenset({".jsonl", ".csv", ".tsv", ".parquet", ".json", ".txt"})
_READING = ("dtype", "pooling", "layer", "prompt", "task", "tokenization", "text_normalization", "max_length")


def is_hub_id(name: str) -> bool:
    """Whether a name is a Hub id and not a file or folder."""
    path = Path(name)
    return not path.exists() and path.suffix not in _FILES and _HUB_ID.fullmatch(name) is not None


def describe_data(config: TrainConfig) -> tuple[DataFact, ...]:
    """Counts and hashes of the sources that are local files. The Hub is not asked again.

    If all are local files they are loaded together, as for training: a label with a single text in all of them is left
    out, one with a single text in a single file is not.
    """
    if not any(is_hub_id(source.path) for source in config.data):
        together = _load(config, config.data)
        if together is not None:
            return tuple(map(_fact, config.data, together))
    return tuple(_describe(config, source) for source in config.data)


def _describe(config: TrainConfig, source: SourceConfig) -> DataFact:
    if is_hub_id(source.path):
        return DataFact(source.path, is_hub_id=True, selection=_selection(source))
    tables = _load(config, [source])
    return _fact(source, None if tables is None else tables[0])


def _load(config: TrainConfig, sources: Sequence[SourceConfig]) -> tuple[SourceTable, ...] | None:
    try:
        mixed = config.batch.sources == "mixed"
        return load_data(sources, normalization=config.model.text_normalization, mixed=mixed).tables
    except UserError:
        return None


def _fact(source: SourceConfig, table: SourceTable | None) -> DataFact:
    name, selection = Path(source.path).name, _selection(source)
    if table is None:
        return DataFact(name, is_hub_id=False, selection=selection)
    return DataFact(name, is_hub_id=False, pairs=len(table), sha256=content_hash([table]), selection=selection)


def _selection(source: SourceConfig) -> str:
    parts = ["only " + " or ".join(source.only)] if source.only else []
    parts += [f"first {source.limit:,}"] if source.limit is not None else []
    parts += [f"weight {source.weight:g}"] if source.weight is not None else []
    return ", ".join(parts)


def build_card(card: Card) -> str:
    """The whole README.md."""
    front = yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True, width=110)
    sections = [
        f"---\n{front}---\n\n# {card.name}",
        _summary(card),
        _results(card),
        _loading(card),
        _data(card),
        _recipe(card),
        _limits(card),
        _licence(card),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(card: Card) -> dict[str, object]:
    """The metadata for the Hub. A local base or data file has no id there and is left out."""
    config = card.config
    front: dict[str, object] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    if is_hub_id(config.model.name_or_path):
        front["base_model"] = config.model.name_or_path
        front["base_model_relation"] = "finetune" if card.merged else "adapter"
    front["language"] = [config.export.language]
    front["license"] = config.export.license
    if config.export.license == "other":
        front["license_name"] = "see-licence-section"
    front["tags"] = [
        "sentence-transformers",
        "sentence-similarity",
        "feature-extraction",
        "dec2vec",
        *_method_tags(card),
    ]
    datasets = list(dict.fromkeys(fact.name for fact in card.data if fact.is_hub_id))
    if datasets:
        front["datasets"] = datasets
    results = _model_index(card)
    if results:
        front["metrics"] = ["spearmanr"]
        front["model-index"] = [{"name": card.name, "results": results}]
    return front


def _method_tags(card: Card) -> list[str]:
    return ["peft", "lora"] if card.config.lora.method == "lora" else []


def _model_index(card: Card) -> list[dict[str, object]]:
    """The results in the form that MTEB uses for a similarity task."""
    return [
        {
            "task": {"type": "STS"},
            "dataset": {"name": score.task, "type": score.task, "config": "default", "split": "test"},
            "metrics": [
                {"type": kind, "name": "Spearman of cosines x 100", "value": round(100 * score.value, 2)}
                for kind in ("cosine_spearman", "main_score")
            ],
        }
        for score in exported(card.scores, whitened=card.whitened)
        if score.value is not None and score.task not in (AVERAGE, score.chosen_on)
    ]


def _summary(card: Card) -> str:
    model = card.config.model
    pinned = f" (revision `{model.revision}`)" if model.revision else ""
    local = "" if is_hub_id(model.name_or_path) else ", a local folder when this was trained"
    is_lora = card.config.lora.method == "lora"
    storage = "merged into the weights" if card.merged else "stored separately (PEFT)"
    form = f" The adapter is {storage}." if is_lora else ""
    return (
        f"Text embeddings of {card.dimension} dimensions from the decoder `{card.base}`{pinned}{local}. It was "
        f"tuned with {'LoRA' if is_lora else 'full fine-tuning'} on sentence pairs (InfoNCE, in-batch negatives) by "
        f"dec2vec.{form} Compare vectors by cosine."
    )


def _results(card: Card) -> str:
    if not card.scores:
        return ""
    return (
        "## Results\n\nSpearman x 100 of cosines and human scores over the pairs of all subsets, with 95 % bootstrap "
        "intervals in brackets. Untuned rows are the same decoder before training. The layer and the whitening "
        "dimension of every row were chosen on the dev task only.\n\n" + scores_table(card.scores)
    )


def _loading(card: Card) -> str:
    model = ExportedModel(
        where=card.repo_id or "path/to/this/folder",
        base=card.base,
        revision=card.config.model.revision,
        model=card.config.model,
        merged=card.merged,
        whitened=card.whitened,
        layer=card.layer,
        is_on_hub=card.repo_id is not None,
    )
    needs_base = "" if card.merged else f" The base model `{card.base}` is loaded too, and must be available."
    return (
        "## Loading\n\nThree ways to compute the same vectors. The tokenizer of this folder appends the end of the "
        f"prompt; its beginning is stored in the prompts `query` and `document`.{needs_base}\n\n"
        f"sentence-transformers:\n\n```python\n{sentence_transformers_snippet(model)}```\n\n"
        f"dec2vec:\n\n```python\n{dec2vec_snippet(model)}```\n\n"
        f"transformers{'' if card.merged else ' and PEFT'}:\n\n```python\n{transformers_snippet(model)}```"
    )


def _data(card: Card) -> str:
    if not card.data:
        return ""
    lines = ["## Training data", "", "| source | pairs | sha256 of the texts |", "|---|---:|---|"]
    for fact in card.data:
        pairs = "not counted" if fact.pairs is None else f"{fact.pairs:,}"
        name = f"{fact.name}: {fact.selection}" if fact.selection else fact.name
        lines.append(f"| {name} | {pairs} | {'–' if fact.sha256 is None else f'`{fact.sha256}`'} |")
    return "\n".join(lines)


def _recipe(card: Card) -> str:
    """The options that determine the result, as in the configuration."""
    config = dataclasses.asdict(card.config)
    chosen = {
        "model": {key: config["model"][key] for key in _READING},
        "lora": _tuned_weights(config["lora"]),
        **{section: config[section] for section in ("loss", "optim")},
        "batch": {key: config["batch"][key] for key in ("size", "sources")},
        "seed": config["seed"],
    }
    origin = f"{card.origin}\n\n" if card.origin else ""
    return f"## Recipe\n\n{origin}```yaml\n{yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True, width=110)}```"


def _tuned_weights(lora: dict[str, Any]) -> dict[str, Any]:
    """The `lora` section as plain YAML, or only the method for full tuning."""
    if lora["method"] == "full":
        return {"method": "full"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in lora.items()}


def _limits(card: Card) -> str:
    model = card.config.model
    prefix = get_prompt(model.prompt, model.task).prefix
    limits = [
        f"Texts are cut after {model.max_length} tokens, prompt included.",
        f"Trained and evaluated on language `{card.config.export.language}`; other languages were not tested.",
        "The vectors reflect the biases of the base model and of the training pairs.",
    ]
    if prefix:
        limits.append("Queries and documents have different prompts if the prompts `query` and `document` differ.")
    if model.dtype != "float32" or model.autocast != "off":
        limits.append(
            "dec2vec may compute matrix products in bfloat16 (`autocast`); vectors then differ in the third digit."
        )
    if model.revision and not card.merged:
        limits.append(
            f"The base was pinned at revision `{model.revision}`; sentence-transformers loads an adapter's base at its "
            "newest revision. Use the merged form if that matters."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _licence(card: Card) -> str:
    return (
        f"## Licence\n\n`{card.config.export.license}`. Weights derived from `{card.base}` remain subject to "
        "that model's terms, and the terms of the training data apply as well; check both before use."
    )
