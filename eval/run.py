"""From configuration to report: tuned encoders first, then the untuned one through every prompt.

report = evaluate(config)                                     # loads what the configuration names
report = evaluate(config, base=untuned, tuned={"run": tuned}) # encoders in memory
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dec2vec.ensembles import check_prompt
from dec2vec.errors import UserError
from dec2vec.model_config import ModelConfig
from dec2vec.pooling import View
from eval import overlap, sweep, training_text
from eval.choose import Choice, Material, choose, fixed
from eval.clean import clean_results
from eval.config import EvalConfig
from eval.postprocess import FITTED
from eval.provenance import describe
from eval.report import DISSIMILAR, SIMILAR, Histogram, Report
from eval.results import Judged, summarize
from eval.systems import System, TextEncoder, candidate_views, own_view, run_name
from eval.tasks.sts import StsTask, load_task
from eval.training_text import FitText, sample_fit_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Setting:
    """What every system meets: material for choices, and the tests with their texts side by side."""

    config: EvalConfig
    material: Material
    tests: list[StsTask]
    test_texts: list[str]
    rows: list[np.ndarray]
    """Of each test: where its texts are in `test_texts`."""


def evaluate(
    config: EvalConfig,
    *,
    base: TextEncoder | None = None,
    tuned: Mapping[str, TextEncoder] | None = None,
    training_texts: Mapping[str, Sequence[str]] | None = None,
    progress: bool = True,
) -> Report:
    """Judge the untuned decoder and the tuned ones; nothing is written (see `eval.write`).

    `training_texts` by name stand in for the files of `config.fit`.
    """
    started = time.monotonic()
    for prompt in config.systems.prompts:
        check_prompt(prompt)
    dev, tests = load_tasks(config)
    sources = training_texts or {
        path: training_text.read_training_texts(training_text.TextSource(path)) for path in config.fit
    }
    fit = _fit_text(config, sources, [dev, *tests])
    material = Material(
        dev=dev,
        fit=[] if fit is None else fit.sentences,
        fit_hash="" if fit is None else fit.sha256,
        posts=config.systems.post,
        dimensions=config.systems.dimensions,
        transductive=config.systems.transductive,
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    setting = _setting(config, material, tests)
    judged: list[Judged] = []
    references: list[System] = []
    for name, encoder in _tuned_encoders(config, tuned):
        judged += _judge_tuned(setting, name, encoder)
        references.append(System(encoder.config.prompt, own_view(encoder)))
    judged += _judge_untuned(setting, _base_encoder(config) if base is None else base, references)
    if not judged:
        raise UserError(f"systems.post {list(config.systems.post)}: none can be made of these vectors; add raw")
    _refuse_doubles(judged)
    results, comparison = summarize(judged, dev, tests, resamples=config.bootstrap, seed=config.seed, progress=progress)
    for run in config.tuned:
        sources = {**training_text.run_sources(run), **sources}
    seen = overlap.measure(sources, [overlap.EvaluationSet.of_pairs(task) for task in (dev, *tests)])
    if comparison is not None and sources:
        results += clean_results(
            judged, tests, seen.clean, comparison, dev.name, resamples=config.bootstrap, seed=config.seed
        )
    reference = _reference(judged, references, comparison.tuned if comparison is not None else None)
    return Report(
        provenance=describe(config, [dev, *tests], fit, judged, time.monotonic() - started),
        results=results,
        overlap=seen.counts,
        comparison=comparison,
        reference=None if reference is None else reference[1].system.name,
        dev=dev.name,
        tests=[task.name for task in tests],
        sweep=sweep.points(item.choice for item in judged),
        histograms=_histograms(tests, reference),
    )


def load_tasks(config: EvalConfig) -> tuple[StsTask, list[StsTask]]:
    """Dev and tests, read before any model; a dev that is also a test would be leakage."""
    if not config.dev:
        raise UserError("config error: dev: name the similarity file on which layer and k are chosen (--dev FILE)")
    if not config.tests:
        raise UserError("config error: tests: name at least one similarity file to report on (--tests FILE ...)")
    dev, tests = load_task(config.dev), [load_task(path) for path in config.tests]
    for index, task in enumerate(tests):
        if task.content_hash == dev.content_hash:
            raise UserError(f"{config.tests[index]} holds the pairs of {config.dev}: choices on a test set are leakage")
        if task.name in {other.name for other in (dev, *tests[:index])} | {"average"}:
            raise UserError(f"{config.tests[index]}: another file is called {task.name} too; rename one of them")
    return dev, tests


def _fit_text(config: EvalConfig, sources: Mapping[str, Sequence[str]], tasks: Sequence[StsTask]) -> FitText | None:
    fitted = [post for post in config.systems.post if post in FITTED]
    if not fitted:
        return None
    if not sources:
        raise UserError(
            f"config error: fit: {fitted[0]} needs training-side text (--fit FILE), or --systems.post without it"
        )
    fit = sample_fit_text(sources, tasks, config.fit_sentences, config.seed)
    if len(fit.sentences) < 2:
        raise UserError(
            f"fit: {len(fit.sentences)} sentences are left to fit {fitted[0]} on; name more training-side text"
        )
    return fit


def _setting(config: EvalConfig, material: Material, tests: list[StsTask]) -> Setting:
    place = {text: index for index, text in enumerate(dict.fromkeys(text for task in tests for text in task.texts))}
    rows = [np.array([place[text] for text in task.texts], dtype=np.int64) for task in tests]
    return Setting(config, material, tests, list(place), rows)


def _tuned_encoders(config: EvalConfig, given: Mapping[str, TextEncoder] | None) -> Iterator[tuple[str, TextEncoder]]:
    """One in memory at a time, when they come from disk."""
    if given is not None:
        yield from given.items()
        return
    from dec2vec.encoder import Encoder

    for path in config.tuned:
        encoder = Encoder.load(replace(config.model, name_or_path=path, revision=None))
        _warn_unlike(path, encoder.config, config.model)
        yield run_name(path), encoder


def _warn_unlike(path: str, tuned: ModelConfig, untuned: ModelConfig) -> None:
    """A tuned run is read as it was trained; what the untuned rows should then share is named."""
    for option in ("max_length", "text_normalization", "dtype"):
        mine, other = vars(tuned)[option], vars(untuned)[option]
        if mine != other:
            logger.warning("%s: %s %s, the untuned rows %s; use --model.%s %s", path, option, mine, other, option, mine)


def _base_encoder(config: EvalConfig) -> TextEncoder:
    from dec2vec.encoder import Encoder

    return Encoder.load(config.model)


def _judge_tuned(setting: Setting, name: str, encoder: TextEncoder) -> list[Judged]:
    """As it was trained to be read; only the strength of its post-processings is chosen."""
    own = System(encoder.config.prompt, own_view(encoder), name)
    choices = choose(encoder, own.prompt, [own.view], setting.material, run=name)
    if "raw" not in setting.material.posts:
        choices.insert(0, fixed(encoder, own, setting.material))
    return _on_tests(setting, encoder, own.prompt, choices)


def _judge_untuned(setting: Setting, encoder: TextEncoder, references: Sequence[System]) -> list[Judged]:
    """Every prompt with every pooling, and each tuned encoder's own reading without the adapter."""
    config = setting.config.systems
    prompts = _usable_prompts(encoder, (*config.prompts, *(system.prompt for system in references)))
    views = _usable(encoder, candidate_views(config, encoder.layer_count), prompts[0])
    judged: list[Judged] = []
    for prompt in tqdm(prompts, desc="untuned prompts", delay=3.0, disable=not setting.material.progress, leave=False):
        choices = choose(encoder, prompt, views, setting.material)
        known = {choice.system for choice in choices}
        for system in dict.fromkeys(references):
            if system.prompt == prompt and system not in known:
                choices.append(fixed(encoder, system, setting.material))
        judged += _on_tests(setting, encoder, prompt, choices)
    return judged


def _usable_prompts(encoder: TextEncoder, prompts: Sequence[str]) -> list[str]:
    """Without those that leave no room for a text, or that end in an EOS which the tokenizer lacks."""
    usable: list[str] = []
    for prompt in dict.fromkeys(prompts):
        try:
            encoder.encode(["a"], prompt=prompt, progress=False)
            usable.append(prompt)
        except UserError as error:
            logger.warning("%s is left out: %s", prompt, error)
    if not usable:
        raise UserError("systems.prompts: none of them can be used with this model; name others, such as prompteol")
    return usable


def _usable(encoder: TextEncoder, views: Sequence[View], prompt: str) -> list[View]:
    """Without those the model can't give: first_last where layers differ in width (OPT-350M)."""
    usable: list[View] = []
    for view in views:
        try:
            if view.pooling == "first_last":
                encoder.encode_views(["a"], [view], prompt=prompt, progress=False)
            usable.append(view)
        except UserError as error:
            logger.warning("%s is left out: %s", view, error)
    return usable


def _on_tests(setting: Setting, encoder: TextEncoder, prompt: str, choices: Sequence[Choice]) -> list[Judged]:
    """One forward pass a text over all tests together, for the chosen views alone."""
    views = list(dict.fromkeys(choice.system.view for choice in choices))
    if not views:
        return []
    material = setting.material
    raw = encoder.encode_views(
        setting.test_texts,
        views,
        prompt=prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )
    judged = []
    for choice in choices:
        vectors = raw[choice.system.view]
        pairs = zip(setting.tests, setting.rows, strict=True)
        cosines = {task.name: choice.cosines_on(task, vectors[rows]) for task, rows in pairs}
        judged.append(Judged(choice, {material.dev.name: choice.cosines, **cosines}))
    return judged


def _refuse_doubles(judged: Sequence[Judged]) -> None:
    names = [item.system.name for item in judged]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two systems are called {twice}: rename a run folder, or name each prompt and pooling once")


def _reference(
    judged: Sequence[Judged], references: Sequence[System], tuned: str | None
) -> tuple[Judged, Judged] | None:
    """The raw tuned system of the headline's run, and the same reading of the untuned decoder."""
    runs = list(dict.fromkeys(item.system.run for item in judged if item.system.is_tuned))
    by_system = {item.system: item for item in judged}
    for run, reference in zip(runs, references, strict=True):
        names = {item.system.name for item in judged if item.system.run == run}
        if tuned in names:
            return by_system[replace(reference, run=run)], by_system[reference]
    return None


def _histograms(tests: Sequence[StsTask], reference: tuple[Judged, Judged] | None) -> list[Histogram]:
    """Before and after, unless no pair is similar or none is dissimilar."""
    panels = [_histogram(tests, item) for item in reversed(reference)] if reference is not None else []
    return panels if all(len(panel.similar) and len(panel.dissimilar) for panel in panels) else []


def _histogram(tests: Sequence[StsTask], item: Judged) -> Histogram:
    """Pairs of all tests whose gold score is in the top or bottom fifth of its test's range."""
    cosines = np.concatenate([item.cosines[task.name] for task in tests])
    shares = np.concatenate([(task.gold - task.gold.min()) / np.ptp(task.gold) for task in tests])
    moment = "after" if item.system.is_tuned else "before"
    finite = np.isfinite(cosines)
    similar, dissimilar = cosines[finite & (shares >= SIMILAR)], cosines[finite & (shares <= DISSIMILAR)]
    return Histogram(f"{moment} tuning: {item.system.name}", similar, dissimilar)


def report_folder(config: EvalConfig) -> Path:
    """Where the report of this configuration goes."""
    return Path(config.output_dir) / "report"
