"""Every encoder through every task: the tuned runs as they read, then each prompt of the untuned decoder.

What is found goes into `Findings`; meanwhile one bar shows what is left of the whole evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.cache.encoders import Encoders
from eval.cache.room import Stored, check_room
from eval.cache.vector_cache import CachedEncoder
from eval.config import SystemsConfig
from eval.results.effort import efforts, sample_texts
from eval.results.findings import Findings
from eval.results.truncation import measure_truncation
from eval.selection.asked import asked
from eval.selection.candidates import Candidates
from eval.selection.given import Given, Undecided, as_exported
from eval.selection.judge import EvaluationOptions, Measured, Reader, judge, judge_similarity
from eval.selection.shortlist import first_pass, kept_systems, make_shortlist
from eval.systems.system import System, TextEncoder, candidate_layers, own_view, start_of, untuned_view


def judge_tuned(encoders: Encoders, options: EvaluationOptions, findings: Findings) -> list[System]:
    """Each tuned encoder as it was trained to read texts: only the strength of its post-processings is chosen.

    Returns the same ways to read the untuned decoder, which stands for the tuned one without its adapter.
    """
    references: list[System] = []
    names = list(encoders.tuned_names)
    for run, encoder in encoders.each_tuned():
        own = System(encoder.config.prompt_name, own_view(encoder), run)
        options.ahead.watch(encoder)
        if not references:  # the other runs are taken to read like the first one
            _plan_untuned(encoders.config.systems, options, findings)
            options.ahead.plan([(name, own.prompt) for name in names], _all_texts(options, findings))
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
        options.ahead.done((run, own.prompt), (run, references[0].prompt if references else own.prompt))
        view = untuned_view(encoder, encoders.untuned)
        references.append(System(own.prompt, view, start=start_of(encoders.config.model)))
    return references


def judge_untuned(
    encoders: Encoders, options: EvaluationOptions, findings: Findings, references: Sequence[System]
) -> None:
    """Every prompt with every pooling, and what the tuned encoders read like, without their adapters."""
    encoder, systems = encoders.untuned(), encoders.config.systems
    candidates = _candidates(encoder, systems, findings, references)
    options.ahead.watch(encoder)
    if not references:
        _plan_untuned(systems, options, findings)
    if isinstance(encoder, CachedEncoder):
        check_room(encoder.folder, _stored(candidates, systems, options, findings), _width(encoder))
    kept = set(candidates.prompts)
    if systems.shortlist.prompts is not None:
        kept = _first_pass(encoder, systems, candidates, options, findings)
        narrowed = kept_systems(
            systems, [prompt for prompt in candidates.prompts if prompt in kept], encoder.layer_count
        )
        options.ahead.done(*((None, prompt) for prompt in candidates.prompts))
        candidates = _candidates(encoder, narrowed, findings, references)
        options.ahead.plan([(None, prompt) for prompt in candidates.prompts], _all_texts(options, findings))
    for prompt in candidates.prompts:
        given = [Given(system) for system in candidates.given if system.prompt == prompt]
        views = candidates.views if prompt in kept else []
        reader = Reader.from_encoder(encoder, prompt, views, options, given=given, undecided=candidates.of(prompt))
        _judge_all_tasks(reader, findings)
        options.ahead.done((None, prompt))


def _stored(
    candidates: Candidates, systems: SystemsConfig, options: EvaluationOptions, findings: Findings
) -> list[Stored]:
    """What is certain to be kept: all views of dev texts, and of test texts one view of each pooling."""
    views, prompts = len(candidates.views), len(candidates.prompts)
    kept = min(systems.shortlist.prompts or prompts, prompts)
    similar = [] if findings.dev is None else findings.dev.test.queries
    others = [task.dev.both for task in findings.further if task.dev is not None]
    dev = len({*similar, *(text for texts in others for text in texts)})
    tests = len({text for task in findings.tasks for text in task.test.both} - {*similar})
    poolings = len({view.pooling for view in candidates.views})
    has_moments = bool(options.material.text)
    first = [Stored(prompts - kept, len({*similar}), views, has_moments)]
    return [*first, Stored(kept, dev, views, has_moments), Stored(kept, tests, poolings)]


def _width(encoder: CachedEncoder) -> int:
    return int(encoder.encode(["a"], normalize=False, progress=False).shape[1])


def _plan_untuned(systems: SystemsConfig, options: EvaluationOptions, findings: Findings) -> None:
    """Before it is known which prompts go on, each of them is as likely to."""
    units, count = [(None, prompt) for prompt in systems.prompts], systems.shortlist.prompts
    if count is not None and count < len(units) and findings.dev is not None:
        options.ahead.plan(units, [options.material.text, findings.dev.test.queries])
    options.ahead.plan(units, _all_texts(options, findings), 1.0 if count is None else min(1.0, count / len(units)))


def _all_texts(options: EvaluationOptions, findings: Findings) -> list[Sequence[str]]:
    """What is read with every prompt, as it is read: the texts of all similarity tests together."""
    together = [text for task in findings.tests for text in task.test.queries]
    splits = [split for task in findings.further for split in (task.dev, task.test) if split is not None]
    dev = [] if findings.dev is None else findings.dev.test.queries
    sides = [side for split in splits for side in (split.queries, split.documents)]
    return [options.material.text, dev, together, *sides]


def _candidates(
    encoder: TextEncoder, systems: SystemsConfig, findings: Findings, references: Sequence[System]
) -> Candidates:
    behind = encoder.behind if isinstance(encoder, CachedEncoder) else encoder  # trials are not counted as passes
    return Candidates.from_config(
        systems, behind, references, can_choose=findings.can_choose, is_undecided=findings.is_undecided
    )


def _first_pass(
    encoder: TextEncoder,
    systems: SystemsConfig,
    candidates: Candidates,
    options: EvaluationOptions,
    findings: Findings,
) -> set[str]:
    """The prompts that are kept; all of them, without a pass, where there are no more than that."""
    count, prompts = systems.shortlist.prompts, candidates.prompts
    assert count is not None and findings.dev is not None
    if len(prompts) <= count:
        return set(prompts)
    tried = first_pass(encoder, findings.dev, prompts, candidates.views, options)
    kept = kept_systems(systems, prompts, encoder.layer_count).layers
    layers = [len(candidate_layers(of_pass, encoder.layer_count)) for of_pass in (systems.layers, kept)]
    findings.shortlist = make_shortlist(tried, count, findings.dev.name, *layers)
    return set(findings.shortlist.kept)


def _judge_all_tasks(reader: Reader, findings: Findings) -> None:
    """Similarity first, as its dev file chooses for the tasks without dev data as well."""
    fitting = reader.fitting
    findings.truncation.extend(measure_truncation(reader.encoder, fitting.prompt, fitting.run, findings.tasks))
    measured = judge_similarity(reader, findings.dev, findings.tests)
    for task, rows in measured.items():
        findings.add(task, rows)
    on_dev = [] if findings.dev is None else measured[findings.dev.name]
    choices = [row.choice for row in on_dev if row.choice is not None]
    rows = [row for of_task in measured.values() for row in of_task]
    for further in findings.further:
        found = judge(reader, further, choices)
        findings.add_further(further, found)
        rows += found
    _measure_efforts(reader, rows, findings)


def _measure_efforts(reader: Reader, rows: Sequence[Measured], findings: Findings) -> None:
    """What the rows of one prompt cost, by the encoder itself."""
    encoder = reader.encoder.behind if isinstance(reader.encoder, CachedEncoder) else reader.encoder
    texts, size = sample_texts(findings.tasks), reader.options.material.batch_tokens
    findings.efforts.update(efforts(encoder, reader.fitting.prompt, rows, texts, size))
