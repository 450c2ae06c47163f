"""README.md of an exported folder: where the model comes from, its results, and how to load it.

It is made of two sources alone: the rows of the run's report that are of the exported weights, and the resolved
configuration. It contains no local paths, and nothing that depends on the machine or the time: equal exports have equal
cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import yaml

from dec2vec.prompts.prompt import Side
from train.config import TrainConfig
from train.export.card_base import Base, describe_base
from train.export.card_data import DataFact, data_section
from train.export.card_index import metric_types, model_index
from train.export.card_losses import method, tuned_with
from train.export.card_recipe import recipe_section
from train.export.card_report import CardReport
from train.export.card_results import results_section
from train.export.card_scores import Exported, OwnScores, own_scores
from train.export.card_snippets import (
    ExportedModel,
    dec2vec_snippet,
    sentence_transformers_snippet,
    transformers_snippet,
)
from train.export.card_terms import licence


@dataclass(frozen=True)
class Card:
    """What a card says. `repo_id` is None for a folder on disk; `layer` is an index, None for the last hidden state."""

    config: TrainConfig
    name: str
    repo_id: str | None
    dimension: int
    merged: bool
    layer: int | None
    exported: Exported
    data: tuple[DataFact, ...] = ()
    """One for each source of the configuration."""
    report: CardReport | None = None
    origin: str = ""
    """For a merged model, which runs were merged and how."""
    prefixes: Mapping[Side, str] = field(default_factory=lambda: {"query": "", "document": ""})
    """The beginning of the prompt, by side."""
    whitening_folder: str = "2_Dense"
    has_dense_base: bool = False
    """The base is a published embedder with Dense layers, which plain transformers does not have."""

    @property
    def whitened(self) -> bool:
        return self.exported.whitening is not None

    @cached_property
    def base(self) -> Base:
        """The decoder, without the path of a local folder."""
        return describe_base(self.config.model)

    @cached_property
    def scores(self) -> OwnScores:
        """The figures of the report that are of this model."""
        return own_scores(self.report, self.exported)


def build_card(card: Card) -> str:
    """The whole README.md."""
    front = yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True, width=110)
    sections = [
        f"---\n{front}---\n\n# {card.name}",
        _summary(card),
        _results(card),
        _loading(card),
        data_section(card.config, card.data),
        recipe_section(card.config, card.data, card.origin),
        _limits(card),
        _licence(card),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(card: Card) -> dict[str, object]:
    """The metadata for the Hub. A local base or data file has no id there and is left out."""
    export = card.config.export
    front: dict[str, object] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    if card.base.hub_id is not None:
        front["base_model"] = card.base.hub_id
        front["base_model_relation"] = "finetune" if card.merged else "adapter"
    if export.language is not None:
        front["language"] = [export.language]
    front |= licence(export.license)
    front["tags"] = ["sentence-transformers", "sentence-similarity", "feature-extraction", "dec2vec", *_tags(card)]
    datasets = list(dict.fromkeys(fact.name for fact in card.data if fact.is_hub_id))
    if datasets:
        front["datasets"] = datasets
    index = model_index(card.name, () if card.report is None else card.report.tests, card.scores.tests)
    if index:
        front["metrics"] = metric_types(index)
        front["model-index"] = index
    return front


def _tags(card: Card) -> list[str]:
    return [*(["peft", "lora"] if card.config.lora.method == "lora" else []), *(["merge"] if card.origin else [])]


def _summary(card: Card) -> str:
    config = card.config
    objectives = tuned_with(config, [fact.with_negatives for fact in card.data]) if card.data else ""
    what = f": {objectives}" if objectives else ""
    if card.origin:
        how = f"It is a merge of models that dec2vec tuned{what}."
    else:
        how = f"It was tuned by dec2vec with {method(config)}{what}."
    storage = "merged into the weights" if card.merged else "stored separately (PEFT)"
    form = f" The adapter is {storage}." if config.lora.method == "lora" else ""
    return (
        f"Text embeddings of {card.dimension} dimensions from the decoder {card.base.words}. {how}{form} Compare "
        "vectors by cosine."
    )


def _results(card: Card) -> str:
    choice = ""
    if card.exported.dev:
        on = " and ".join(f"`{name}`" for name in card.exported.dev)
        also = ", and its number of dimensions," if card.whitened else ""
        what = "checkpoints of the merged models were" if card.origin else f"checkpoint of this model{also} was"
        choice = f" The {what} chosen on {on}{card.exported.by}."
    return results_section(card.report, card.scores, choice)


def _loading(card: Card) -> str:
    model = ExportedModel(
        where=card.repo_id or "path/to/this/folder",
        base=card.base.name,
        revision=card.config.model.revision,
        model=card.config.model,
        merged=card.merged,
        whitened=card.whitening_folder if card.whitened else None,
        prefixes=card.prefixes,
        layer=card.layer,
        is_on_hub=card.repo_id is not None,
    )
    needs_base = "" if card.merged else f" The base model `{card.base.name}` is loaded too, and must be available."
    by_hand = f"\n\ntransformers{'' if card.merged else ' and PEFT'}:\n\n```python\n{transformers_snippet(model)}```"
    return (
        f"## Loading\n\n{'Two' if card.has_dense_base else 'Three'} ways to compute the same vectors. "
        "The tokenizer of this folder appends the end of the "
        f"prompt; its beginning is stored in the prompts `query` and `document`.{needs_base}\n\n"
        f"sentence-transformers:\n\n```python\n{sentence_transformers_snippet(model)}```\n\n"
        f"dec2vec:\n\n```python\n{dec2vec_snippet(model)}```{'' if card.has_dense_base else by_hand}"
    )


def _limits(card: Card) -> str:
    model, language = card.config.model, card.config.export.language
    limits = [f"Texts are cut after {model.max_length} tokens, prompt included."]
    if language not in (None, "multilingual"):
        limits.append(f"Trained and evaluated on language `{language}`; other languages were not tested.")
    limits.append("The vectors reflect the biases of the base model and of the training data.")
    if any(card.prefixes.values()):
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
        f"## Licence\n\n`{card.config.export.license}`. Weights derived from `{card.base.name}` remain subject to "
        "that model's terms, and the terms of the training data apply as well; check both before use."
    )
