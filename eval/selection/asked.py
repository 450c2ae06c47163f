"""What a configuration asks for in words, and what stands in it by default.

By default an evaluation tries hundreds of readings of the untuned decoder, among which dev data choose. Where there are
no dev data, a default is no wish: the model's own reading takes its place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dec2vec.config.load import validate
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.start import with_adapter_reading
from dec2vec.errors import UserError
from eval.config import EvalConfig, PostName, SystemsConfig
from eval.postprocess.families import FITTED
from eval.systems.recipes import run_config

DEFAULTS = SystemsConfig()


def names_readings(systems: SystemsConfig) -> bool:
    """Whether a prompt, pooling or layer is asked for."""
    wanted = (systems.prompts, systems.poolings, systems.layers)
    return wanted != (DEFAULTS.prompts, DEFAULTS.poolings, DEFAULTS.layers)


def asked(systems: SystemsConfig, model: ModelConfig) -> SystemsConfig:
    """The candidates that are asked for; a default gives way to how `model` reads texts, raw."""
    return replace(
        systems,
        prompts=(model.prompt_name,) if systems.prompts == DEFAULTS.prompts else systems.prompts,
        poolings=(model.pooling_name,) if systems.poolings == DEFAULTS.poolings else systems.poolings,
        layers=systems.layers or (model.pooled_layer,),
        post=("raw",) if systems.post == DEFAULTS.post else systems.post,
    )


def fittable(
    systems: SystemsConfig, sources: Collection[str], has_corpus: Sequence[bool] = (), *, can_choose: bool = True
) -> tuple[SystemsConfig, list[str]]:
    """Without training-side text what is fitted on it is left out, with a line; UserError where it was asked for.

    `has_corpus` says of each task whether it has a corpus of its own, which takes the place of training text.
    `can_choose`: some task has dev data. Where none has, a default is no wish: nothing could choose its strength.
    """
    fitted: list[PostName] = [post for post in systems.post if post in FITTED]
    is_asked = systems.post != DEFAULTS.post
    if not fitted or sources or (has_corpus and all(has_corpus) and (can_choose or is_asked)):
        return systems, []
    if is_asked:
        raise UserError(
            f"config error: fit: {fitted[0]} needs a file of training text; give one, or remove it from systems.post"
        )
    if any(has_corpus) and can_choose:
        return systems, [f"Note: {fitted[0]} is fitted on a corpus alone: there is no training text (option fit)."]
    line = f"Note: no row with {fitted[0]}: there is no training text to fit it on (option fit)."
    if any(has_corpus):
        line = (
            f"Note: no row with {fitted[0]}: no dev data select its strength; systems.post {fitted[0]} raw adds a "
            "row for each, fitted on the corpus."
        )
    return replace(systems, post=tuple(post for post in systems.post if post not in FITTED)), [line]


def without_fitted(systems: SystemsConfig) -> tuple[SystemsConfig, list[str]]:
    """Where every training text is also evaluated, there is nothing to fit on: a line says what is left out."""
    fitted: list[PostName] = [post for post in systems.post if post in FITTED]
    if not fitted:
        return systems, []
    line = (
        f"Warning: there are no rows with {', '.join(fitted)}, because nearly every training text is also a text of "
        "dev or of a test."
    )
    return replace(systems, post=tuple(post for post in systems.post if post not in FITTED)), [line]


def with_base(config: EvalConfig) -> EvalConfig:
    """Where no untuned decoder is named, the one that the first tuned run was made from, as its folder says."""
    if config.model.adapter is not None:
        return replace(config, model=with_adapter_reading(config.model))
    if config.model.name_or_path or not config.tuned:
        return config
    from dec2vec.decoder.load import untuned_reading

    tree = (run_config(config.tuned[0]) or {}).get("model")
    if not isinstance(tree, dict) or not tree.get("name_or_path"):
        raise UserError(
            f"config error: model.name_or_path: name the untuned decoder; {config.tuned[0]} has no config.yaml that "
            "says which one it was made from"
        )
    model = untuned_reading(validate(ModelConfig, tree))
    if config.model != ModelConfig():
        name, revision, adapter = model.name_or_path, model.revision, model.adapter
        model = replace(config.model, name_or_path=name, revision=revision, adapter=adapter)
    return replace(config, model=model)
