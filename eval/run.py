"""From configuration to report: read everything, encode, choose, measure, add baselines, summarise.

report = evaluate(config)                                     # loads what the configuration names
report = evaluate(config, base=untuned, tuned={"run": tuned}) # encoders in memory
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dec2vec.errors import UserError
from eval.baselines.encoder import outside_truncation
from eval.baselines.evaluate import Baselines
from eval.cache.encoders import Encoders, cache_folder
from eval.cache.room import folder_size
from eval.cache.vector_cache import VectorCache
from eval.config import EvalConfig
from eval.inputs import Inputs, check_runs, measure_overlap, read_inputs
from eval.leakage.overlap import Seen, clean_rows
from eval.mteb_tasks.rows import mteb_tables
from eval.postprocess.moments import Material
from eval.report.notes import data_notes, edge_notes, seed_notes, shown_dev, start_notes, unknown_training
from eval.report.provenance import describe
from eval.report.report import Report
from eval.report.truncation import truncation_notes
from eval.results.comparison import similarity_results
from eval.results.diagnostics import find_reference, histograms
from eval.results.findings import Findings
from eval.results.headline import Headline
from eval.results.judged import judge_tuned, judge_untuned
from eval.results.results import TaskTable
from eval.selection import dev_curves
from eval.selection.ahead import Ahead
from eval.selection.asked import with_base
from eval.selection.judge import EvaluationOptions
from eval.systems.recipes import Recipe, read_recipe
from eval.systems.system import System, TextEncoder, run_name
from eval.tasks.columns import column_notes

NO_OUTSIDE = (
    "Note: no outside row was measured, because baselines is an empty list; tfidf, char-ngrams and others put the best "
    "of them into each headline."
)


def evaluate(
    config: EvalConfig,
    *,
    base: TextEncoder | None = None,
    tuned: Mapping[str, TextEncoder] | None = None,
    training_texts: Mapping[str, Sequence[str]] | None = None,
    chosen_by: tuple[str, str] = ("", ""),
    progress: bool = True,
) -> Report:
    """Judge the untuned decoder and the tuned ones; nothing is written (see `eval.report.write`) but kept vectors.

    `training_texts` by name stand in for the files of `config.fit`. `chosen_by` are the kind of task and the metric
    that chose the checkpoint: tests of this kind come first, with this metric as their main one if they have it.
    """
    started = time.monotonic()
    check_runs(config.tuned)
    config = config if base is not None else with_base(config)
    kind, metric = chosen_by
    inputs = read_inputs(config, training_texts)
    inputs = replace(inputs, further=[task.led_by(metric) if task.kind == kind else task for task in inputs.further])
    config = replace(config, systems=inputs.systems)
    tasks = [*inputs.similarity, *inputs.further]
    baselines = Baselines.from_config(config, tasks, inputs.sources, inputs.evaluated)
    seen = measure_overlap(inputs)
    options = _options(config, inputs, seen, progress)
    findings = Findings(inputs.dev, inputs.tests, inputs.further)
    folder = cache_folder(config) if base is None or (tuned is None and config.tuned) else None
    kept = VectorCache(folder) if folder is not None else contextlib.nullcontext()
    with contextlib.closing(options.ahead), kept as cache:
        encoders = Encoders(config, base, tuned, cache)
        references = judge_tuned(encoders, options, findings)
        judge_untuned(encoders, options, findings, references)
        _refuse_nothing(config, findings)
        mteb = mteb_tables(config, encoders, findings.choices, references, findings.truncation, progress)
    baselines.measure(findings)
    findings.truncation.extend(outside_truncation(baselines.baselines, findings.tasks))
    size = 0 if folder is None else folder_size(folder)
    outcome = Outcome(inputs, seen, findings, encoders, references, mteb, baselines.notes, size)
    return replace(_report(config, outcome, time.monotonic() - started), leading=kind)


def _options(config: EvalConfig, inputs: Inputs, seen: Seen, progress: bool) -> EvaluationOptions:
    """How every encoder is read and every figure resampled."""
    sample, systems = inputs.fit, config.systems
    material = Material(
        text=[] if sample is None else sample.sentences,
        sha256="" if sample is None else sample.sha256,
        posts=systems.post,
        dimensions=systems.dimensions,
        batch_tokens=config.batch_tokens,
        progress=False,  # one bar for everything
    )
    clean, ahead = clean_rows(seen.clean, inputs.further), Ahead(show=progress)
    return EvaluationOptions(material, config.bootstrap, config.seed, systems.transductive, clean, ahead)


def _refuse_nothing(config: EvalConfig, findings: Findings) -> None:
    """Raises UserError where nothing was measured, or where two systems have one name."""
    if findings.tasks and not any(findings.rows.values()):
        raise UserError(
            f"systems.post {list(config.systems.post)}: none of them can be applied to these vectors; add raw"
        )
    names = [choice.system.name for choice in findings.choices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two systems have the name {twice}: rename a run folder, or give each prompt and pooling once")


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that an evaluation read and measured."""

    inputs: Inputs
    seen: Seen
    findings: Findings
    encoders: Encoders
    references: Sequence[System]
    mteb: Sequence[TaskTable]
    notes: Sequence[str]
    bytes_on_disk: int
    """Of the vectors that are kept for the next evaluation."""


def _report(config: EvalConfig, outcome: Outcome, seconds: float) -> Report:
    """All that was found, with what a reader must know of it."""
    inputs, seen, findings, encoders = outcome.inputs, outcome.seen, outcome.findings, outcome.encoders
    results, comparison = similarity_results(findings, seen.clean, resamples=config.bootstrap, seed=config.seed)
    tuned = None if comparison is None or comparison.tuned is None else comparison.tuned.name
    reference = find_reference(findings.choices, outcome.references, tuned)
    recipes = {run_name(run): recipe for run in config.tuned if (recipe := read_recipe(run)) is not None}
    left_out = [] if findings.shortlist is None else findings.shortlist.left_out_choices
    return Report(
        provenance={
            **describe(config, inputs.similarity, inputs.further, inputs.fit, findings.choices, recipes),
            "seconds": round(seconds, 1),
            "texts_through_the_decoder": encoders.passes,
            "vectors_on_disk_bytes": outcome.bytes_on_disk,
        },
        results=results,
        overlap=seen.counts,
        comparison=comparison,
        reference=None if reference is None else reference[0].name,
        dev="" if inputs.dev is None else inputs.dev.name,
        tests=[task.name for task in inputs.tests],
        dev_curves=dev_curves.points([*findings.choices, *left_out]),
        histograms=[] if reference is None else histograms(inputs.tests, *map(findings.on_tests, reference)),
        tasks=[*findings.tables(), *outcome.mteb],
        scatter=findings.scatter(),
        confusions=findings.confusions(),
        curves=findings.curves(),
        mistakes=findings.mistakes(),
        costs=encoders.costs,
        efforts=findings.efforts,
        notes=_notes(config, outcome, comparison, recipes),
        truncation=findings.truncation,
        has_unknown_training=bool(inputs.trained.unknown) or not (inputs.trained.texts or inputs.sources),
    )


def _notes(
    config: EvalConfig, outcome: Outcome, comparison: Headline | None, recipes: Mapping[str, Recipe]
) -> list[str]:
    """What a reader of the headline must know."""
    trained = outcome.inputs.trained
    return [
        *start_notes(config.model),
        *data_notes(outcome.inputs.further),
        *edge_notes(outcome.findings.choices, comparison),
        *seed_notes([run_name(run) for run in config.tuned], recipes),
        *unknown_training(trained.unknown),
        *column_notes([read for task in outcome.findings.tasks for read in task.columns]),
        *shown_dev(outcome.seen.counts, list(trained.texts)),
        *truncation_notes(outcome.findings.truncation),
        *outcome.encoders.warnings,
        *outcome.inputs.notes,
        *([] if outcome.findings.shortlist is None else outcome.findings.shortlist.notes),
        *outcome.notes,
        *([NO_OUTSIDE] if config.baselines == () else []),
    ]


def report_folder(config: EvalConfig) -> Path:
    """Where the report of this configuration goes."""
    return Path(config.output_dir) / "report"
