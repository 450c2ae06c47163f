"""From configuration to report: tuned encoders first, then the untuned one through every prompt.

report = evaluate(config)                                     # loads what the configuration names
report = evaluate(config, base=untuned, tuned={"run": tuned}) # encoders in memory
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from eval.baselines.evaluate import Outside
from eval.cache.encoders import Encoders, cache_folder
from eval.cache.vector_cache import CachedEncoder, VectorCache
from eval.config import EvalConfig
from eval.inputs import Inputs, measure_overlap, read_inputs
from eval.leakage.overlap import Seen, clean_rows
from eval.mteb_tasks.rows import mteb_tables
from eval.postprocess.fitting import Fitting
from eval.report.notes import notes, shown_dev, unknown_training
from eval.report.provenance import describe
from eval.report.report import Report
from eval.results.clean import clean_results
from eval.results.diagnostics import find_reference, histograms
from eval.results.results import Comparison, Judged, Result, summarize
from eval.results.similarities import similarities, similarity_results
from eval.results.task_results import Findings, TaskTable
from eval.selection import dev_curves as sweep
from eval.selection import judge as lab
from eval.selection.choose import Choice, Material, choose, fit, fixed
from eval.systems.recipes import read_recipe
from eval.systems.system import System, TextEncoder, candidate_views, own_view, run_name, usable_prompts, usable_views


@dataclass(frozen=True, eq=False)
class Setting:
    """What every system meets: what was read, material for choices, the texts of the tests side by side."""

    config: EvalConfig
    inputs: Inputs
    seen: Seen
    material: Material
    test_texts: list[str]
    rows: list[np.ndarray]
    """Of each test: where its texts are in `test_texts`."""
    judged: list[Judged] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    @cached_property
    def bench(self) -> lab.EvaluationOptions:
        """How further tasks are read and resampled, and which of their items no training-side text touches."""
        config, clean = self.config, clean_rows(self.seen.clean, self.inputs.further)
        return lab.EvaluationOptions(config.batch_tokens, config.bootstrap, config.seed, self.material.progress, clean)


def evaluate(
    config: EvalConfig,
    *,
    base: TextEncoder | None = None,
    tuned: Mapping[str, TextEncoder] | None = None,
    training_texts: Mapping[str, Sequence[str]] | None = None,
    progress: bool = True,
) -> Report:
    """Judge the untuned decoder and the tuned ones; nothing is written (see `eval.report.write`) but kept vectors.

    `training_texts` by name stand in for the files of `config.fit`.
    """
    started = time.monotonic()
    inputs = read_inputs(config, training_texts)
    outside = Outside.of(config, inputs.sources, inputs.similarity, inputs.further)
    setting = _setting(config, inputs, measure_overlap(inputs), progress)
    folder = cache_folder(config) if base is None or (tuned is None and config.tuned) else None
    with VectorCache(folder) if folder is not None else contextlib.nullcontext() as cache:
        encoders = Encoders(config, base, tuned, cache)
        references = _judge_all(setting, encoders)
        mteb = mteb_tables(config, encoders, setting.judged)
    outside.judge(setting.findings, inputs.further)
    results, comparison = _similarity_results(setting)
    results += outside.similarity(inputs.dev, inputs.tests)
    return _report(setting, encoders, references, results, comparison, mteb, started)


def _setting(config: EvalConfig, inputs: Inputs, seen: Seen, progress: bool) -> Setting:
    sample, tests = inputs.fit, inputs.tests
    material = Material(
        dev=inputs.dev,
        fit=[] if sample is None else sample.sentences,
        fit_hash="" if sample is None else sample.sha256,
        posts=config.systems.post,
        dimensions=config.systems.dimensions,
        transductive=config.systems.transductive,
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    place = {text: index for index, text in enumerate(dict.fromkeys(text for task in tests for text in task.texts))}
    rows = [np.array([place[text] for text in task.texts], dtype=np.int64) for task in tests]
    return Setting(config, inputs, seen, material, list(place), rows)


def _report(
    setting: Setting,
    encoders: Encoders,
    references: Sequence[System],
    results: Sequence[Result],
    comparison: Comparison | None,
    mteb: Sequence[TaskTable],
    started: float,
) -> Report:
    """All that was found, with what a reader must know of it. `started` is by `time.monotonic`."""
    config, inputs, judged, findings = setting.config, setting.inputs, setting.judged, setting.findings
    tuned = None if comparison is None else comparison.tuned
    reference = find_reference(judged, references, tuned) if judged else None
    recipes = {run_name(run): recipe for run in config.tuned if (recipe := read_recipe(run)) is not None}
    seconds = time.monotonic() - started
    return Report(
        provenance=describe(
            config, inputs.similarity, inputs.further, inputs.fit, judged, seconds, encoders.passes, recipes
        ),
        results=results,
        overlap=setting.seen.counts,
        comparison=comparison,
        reference=None if reference is None else reference[1].system.name,
        dev="" if inputs.dev is None else inputs.dev.name,
        tests=[task.name for task in inputs.tests],
        sweep=sweep.points(item.choice for item in judged),
        histograms=histograms(inputs.tests, reference),
        tasks=[*findings.tables(), *mteb],
        scatter=findings.scatter(),
        confusions=findings.confusions(),
        curves=findings.curves(),
        mistakes=findings.mistakes(),
        costs=encoders.costs,
        notes=[
            *notes(judged, comparison, [run_name(run) for run in config.tuned], recipes),
            *unknown_training(inputs.trained.unknown),
            *shown_dev(setting.seen.counts, list(inputs.trained.texts)),
            *encoders.warnings,
        ],
        has_unknown_training=bool(inputs.trained.unknown) or not (inputs.trained.texts or inputs.sources),
    )


def _similarity_results(setting: Setting) -> tuple[list[Result], Comparison | None]:
    """Every system on every test, and what the headline rests on; nothing without similarity tasks."""
    judged, tests, dev, bench = setting.judged, setting.inputs.tests, setting.inputs.dev, setting.bench
    if dev is None:
        return [], None
    options = {"resamples": bench.resamples, "seed": bench.seed}
    results, comparison = summarize(judged, dev, tests, progress=bench.progress, **options)
    if comparison is not None:
        results += clean_results(judged, tests, setting.seen.clean, comparison, dev.name, **options)
    if comparison is not None:
        results += similarity_results(judged, tests, comparison, **options)
    return results, comparison


def _judge_all(setting: Setting, encoders: Encoders) -> list[System]:
    """Every encoder in turn; what the untuned one must be read like, to stand for the tuned ones without adapter."""
    references: list[System] = []
    for name, encoder in encoders.each_tuned():
        _judge_tuned(setting, name, encoder)
        references.append(System(encoder.config.prompt, own_view(encoder)))
    _judge_untuned(setting, encoders.untuned(), references)
    if not setting.judged and not any(setting.findings.rows.values()):
        raise UserError(
            f"systems.post {list(setting.config.systems.post)}: none of them can be applied to these vectors; add raw"
        )
    _refuse_doubles(setting.judged)
    return references


def _judge_tuned(setting: Setting, name: str, encoder: TextEncoder) -> None:
    """As it was trained to be read; only the strength of its post-processings is chosen."""
    own = System(encoder.config.prompt, own_view(encoder), name)
    fitting = fit(encoder, own.prompt, [own.view], setting.material, run=name)
    choices: list[Choice] = []
    if setting.material.dev is not None:
        choices = choose(encoder, own.prompt, [own.view], setting.material, run=name, fitting=fitting)
        if "raw" not in setting.material.posts:
            choices.insert(0, fixed(encoder, own, setting.material))
    setting.judged.extend(_on_tests(setting, encoder, own.prompt, choices))
    _on_further(setting, encoder, fitting, [own], choices)


def _judge_untuned(setting: Setting, encoder: TextEncoder, references: Sequence[System]) -> None:
    """Every prompt with every pooling, and each tuned encoder's own reading without the adapter."""
    config = setting.config.systems
    behind = encoder.behind if isinstance(encoder, CachedEncoder) else encoder  # trials are not counted as passes
    prompts = usable_prompts(behind, (*config.prompts, *(system.prompt for system in references)))
    views = usable_views(behind, candidate_views(config, encoder.layer_count), prompts[0])
    for prompt in tqdm(prompts, desc="untuned prompts", delay=3.0, disable=not setting.material.progress, leave=False):
        own = [system.view for system in references if system.prompt == prompt]
        wider = list(dict.fromkeys([*views, *own]))  # a further task may choose the tuned reading without its adapter
        fitting = fit(encoder, prompt, wider, setting.material)
        choices = _untuned_choices(setting, encoder, fitting, views, references)
        setting.judged.extend(_on_tests(setting, encoder, prompt, choices))
        _on_further(setting, encoder, fitting, [System(prompt, view) for view in wider], choices)


def _untuned_choices(
    setting: Setting, encoder: TextEncoder, fitting: Fitting, views: Sequence[View], references: Sequence[System]
) -> list[Choice]:
    """None without a similarity dev file: the other tasks choose their readings themselves."""
    if setting.material.dev is None:
        return []
    choices = choose(encoder, fitting.prompt, views, setting.material, fitting=fitting)
    known = {choice.system for choice in choices}
    for system in dict.fromkeys(references):
        if system.prompt == fitting.prompt and system not in known:
            choices.append(fixed(encoder, system, setting.material))
    return choices


def _on_further(
    setting: Setting, encoder: TextEncoder, fitting: Fitting, systems: Sequence[System], choices: Sequence[Choice]
) -> None:
    """The same readings on the tasks beside similarity."""
    for task in setting.inputs.further:
        views = [system.view for system in systems]
        setting.findings.add(task, lab.judge(task, encoder, fitting, views, choices, setting.bench))


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
        found = {
            task.name: similarities(task, choice.vectors_of(vectors[rows]), choice.ranges)
            for task, rows in zip(setting.inputs.tests, setting.rows, strict=True)
        }
        cosines = {name: scores["cosine"] for name, scores in found.items()}
        judged.append(Judged(choice, {material.task.name: choice.cosines, **cosines}, found))
    return judged


def _refuse_doubles(judged: Sequence[Judged]) -> None:
    names = [item.system.name for item in judged]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two systems have the name {twice}: rename a run folder, or give each prompt and pooling once")


def report_folder(config: EvalConfig) -> Path:
    """Where the report of this configuration goes."""
    return Path(config.output_dir) / "report"
