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

from tqdm import tqdm

from dec2vec.errors import UserError
from eval.baselines.encoder import outside_truncation
from eval.baselines.evaluate import Baselines
from eval.cache.encoders import Encoders, cache_folder
from eval.cache.vector_cache import CachedEncoder, VectorCache
from eval.config import EvalConfig
from eval.inputs import Inputs, check_runs, measure_overlap, read_inputs
from eval.leakage.overlap import Seen, clean_rows
from eval.mteb_tasks.rows import mteb_tables
from eval.postprocess.moments import Material
from eval.report.notes import data_notes, edge_notes, seed_notes, shown_dev, unknown_training
from eval.report.provenance import describe
from eval.report.report import Report
from eval.report.truncation import truncation_notes
from eval.results.comparison import similarity_results
from eval.results.diagnostics import find_reference, histograms
from eval.results.findings import Findings
from eval.results.headline import Headline
from eval.results.results import TaskTable
from eval.results.truncation import measure_truncation
from eval.selection import dev_curves
from eval.selection.asked import asked, with_base
from eval.selection.candidates import Candidates
from eval.selection.given import Given, Undecided, as_exported
from eval.selection.judge import EvaluationOptions, Reader, judge, judge_similarity
from eval.systems.recipes import Recipe, read_recipe
from eval.systems.system import System, TextEncoder, own_view, run_name, untuned_view
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
    progress: bool = True,
) -> Report:
    """Judge the untuned decoder and the tuned ones; nothing is written (see `eval.report.write`) but kept vectors.

    `training_texts` by name stand in for the files of `config.fit`.
    """
    started = time.monotonic()
    check_runs(config.tuned)
    config = config if base is not None else with_base(config)
    inputs = read_inputs(config, training_texts)
    config = replace(config, systems=inputs.systems)
    tasks = [*inputs.similarity, *inputs.further]
    baselines = Baselines.from_config(config, tasks, inputs.sources, inputs.evaluated)
    seen = measure_overlap(inputs)
    options = _options(config, inputs, seen, progress)
    findings = Findings(inputs.dev, inputs.tests, inputs.further)
    folder = cache_folder(config) if base is None or (tuned is None and config.tuned) else None
    with VectorCache(folder) if folder is not None else contextlib.nullcontext() as cache:
        encoders = Encoders(config, base, tuned, cache)
        references = _judge_tuned(encoders, options, findings)
        _judge_untuned(encoders, options, findings, references)
        _refuse_nothing(config, findings)
        mteb = mteb_tables(config, encoders, findings.choices, references, findings.truncation)
    baselines.measure(findings)
    findings.truncation.extend(outside_truncation(baselines.baselines, findings.tasks))
    outcome = Outcome(inputs, seen, findings, encoders, references, mteb, baselines.notes)
    return _report(config, outcome, time.monotonic() - started)


def _options(config: EvalConfig, inputs: Inputs, seen: Seen, progress: bool) -> EvaluationOptions:
    """How every encoder is read and every figure resampled."""
    sample, systems = inputs.fit, config.systems
    material = Material(
        text=[] if sample is None else sample.sentences,
        sha256="" if sample is None else sample.sha256,
        posts=systems.post,
        dimensions=systems.dimensions,
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    clean = clean_rows(seen.clean, inputs.further)
    return EvaluationOptions(material, config.bootstrap, config.seed, systems.transductive, clean)


def _judge_tuned(encoders: Encoders, options: EvaluationOptions, findings: Findings) -> list[System]:
    """Each tuned encoder as it was trained to read texts: only the strength of its post-processings is chosen.

    Returns the same ways to read the untuned decoder, which stands for the tuned one without its adapter.
    """
    references: list[System] = []
    for run, encoder in encoders.each_tuned():
        own = System(encoder.config.prompt_name, own_view(encoder), run)
        posts = asked(encoders.config.systems, encoder.config).post
        undecided = Undecided((own.view,), posts, is_only_reading=True)
        reader = Reader.from_encoder(
            encoder,
            own.prompt,
            [own.view],
            options,
            run=run,
            given=as_exported(own, encoder.whitening),
            undecided=undecided,
        )
        _judge_all_tasks(reader, findings)
        references.append(System(own.prompt, untuned_view(encoder)))
    return references


def _judge_untuned(
    encoders: Encoders, options: EvaluationOptions, findings: Findings, references: Sequence[System]
) -> None:
    """Every prompt with every pooling, and what the tuned encoders read like, without their adapters."""
    encoder = encoders.untuned()
    behind = encoder.behind if isinstance(encoder, CachedEncoder) else encoder  # trials are not counted as passes
    candidates = Candidates.from_config(
        encoders.config.systems,
        behind,
        references,
        can_choose=findings.can_choose,
        is_undecided=findings.is_undecided,
    )
    is_quiet = not options.material.progress
    for prompt in tqdm(candidates.prompts, desc="untuned prompts", delay=3.0, disable=is_quiet, leave=False):
        given = [Given(system) for system in candidates.given if system.prompt == prompt]
        reader = Reader.from_encoder(
            encoder, prompt, candidates.views, options, given=given, undecided=candidates.of(prompt)
        )
        _judge_all_tasks(reader, findings)


def _judge_all_tasks(reader: Reader, findings: Findings) -> None:
    """Similarity first, as its dev file chooses for the tasks without dev data as well."""
    fitting = reader.fitting
    findings.truncation.extend(measure_truncation(reader.encoder, fitting.prompt, fitting.run, findings.tasks))
    measured = judge_similarity(reader, findings.dev, findings.tests)
    for task, rows in measured.items():
        findings.add(task, rows)
    on_dev = [] if findings.dev is None else measured[findings.dev.name]
    choices = [row.choice for row in on_dev if row.choice is not None]
    for further in findings.further:
        findings.add_further(further, judge(reader, further, choices))


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


def _report(config: EvalConfig, outcome: Outcome, seconds: float) -> Report:
    """All that was found, with what a reader must know of it."""
    inputs, seen, findings, encoders = outcome.inputs, outcome.seen, outcome.findings, outcome.encoders
    results, comparison = similarity_results(findings, seen.clean, resamples=config.bootstrap, seed=config.seed)
    tuned = None if comparison is None or comparison.tuned is None else comparison.tuned.name
    reference = find_reference(findings.choices, outcome.references, tuned)
    recipes = {run_name(run): recipe for run in config.tuned if (recipe := read_recipe(run)) is not None}
    return Report(
        provenance={
            **describe(config, inputs.similarity, inputs.further, inputs.fit, findings.choices, recipes),
            "seconds": round(seconds, 1),
            "texts_through_the_decoder": encoders.passes,
        },
        results=results,
        overlap=seen.counts,
        comparison=comparison,
        reference=None if reference is None else reference[0].name,
        dev="" if inputs.dev is None else inputs.dev.name,
        tests=[task.name for task in inputs.tests],
        dev_curves=dev_curves.points(findings.choices),
        histograms=[] if reference is None else histograms(inputs.tests, *map(findings.on_tests, reference)),
        tasks=[*findings.tables(), *outcome.mteb],
        scatter=findings.scatter(),
        confusions=findings.confusions(),
        curves=findings.curves(),
        mistakes=findings.mistakes(),
        costs=encoders.costs,
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
        *data_notes(outcome.inputs.further),
        *edge_notes(outcome.findings.choices, comparison),
        *seed_notes([run_name(run) for run in config.tuned], recipes),
        *unknown_training(trained.unknown),
        *column_notes([read for task in outcome.findings.tasks for read in task.columns]),
        *shown_dev(outcome.seen.counts, list(trained.texts)),
        *truncation_notes(outcome.findings.truncation),
        *outcome.encoders.warnings,
        *outcome.inputs.notes,
        *outcome.notes,
        *([NO_OUTSIDE] if config.baselines == () else []),
    ]


def report_folder(config: EvalConfig) -> Path:
    """Where the report of this configuration goes."""
    return Path(config.output_dir) / "report"
