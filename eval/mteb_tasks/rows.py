"""MTEB tasks: the tuned encoders as they are, the untuned one with the prompt, pooling and layer that dev chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.prompts.cut_texts import CutTexts
from eval.cache.encoders import Encoders
from eval.config import EvalConfig
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.run import find_tasks, run_mteb
from eval.results.results import Result, TaskTable
from eval.results.truncation import Truncation, reader_name
from eval.selection.choose import Choice, best
from eval.systems.subject import Subject
from eval.systems.system import System, TextEncoder, own_view, start_of


def mteb_tables(
    config: EvalConfig,
    encoders: Encoders,
    choices: Sequence[Choice],
    references: Sequence[System],
    truncation: list[Truncation],
) -> list[TaskTable]:
    """A table a task with mteb's main score; mteb gives no interval. Its own results go to output_dir/mteb.

    Without dev data the untuned encoder is read as the tuned ones are (`references`), or as it is configured. How many
    texts each encoder cut is added to `truncation`.
    """
    rows: dict[str, list[Result]] = {name: [] for name in config.mteb}
    for system, encoder in _systems(config, encoders, choices, references) if config.mteb else ():
        subject = Subject.from_system(system)
        model = MtebEncoder(subject.name, encoder=encoder, batch_tokens=config.batch_tokens)
        folder = Path(config.output_dir) / "mteb" / subject.name.replace("/", "_")
        for name, score in run_mteb(model, config.mteb, folder).items():
            row = Result(subject, f"mteb/{name}", "main_score", score, None, None, 0)
            rows.setdefault(name, []).append(row)
            if name in model.cuts:
                truncation.append(_truncation(row.task, system, encoder, model.cuts[name]))
    note = "Scored by the mteb package, without intervals."
    kinds = {task.metadata.name: f"mteb/{task.metadata.type}" for task in find_tasks(config.mteb)}
    return [TaskTable(f"mteb/{name}", "main_score", found, note, kind=kinds[name]) for name, found in rows.items()]


def _truncation(task: str, system: System, encoder: TextEncoder, cuts: CutTexts) -> Truncation:
    reader, limit = reader_name(system.prompt, system.run, system.start), encoder.config.token_limit
    return Truncation(task, "texts", reader, system.run, system.prompt, limit, cuts.texts, cuts.cut)


def _systems(
    config: EvalConfig, encoders: Encoders, choices: Sequence[Choice], references: Sequence[System]
) -> Iterator[tuple[System, TextEncoder]]:
    for name, encoder in encoders.each_tuned():
        yield System(encoder.config.prompt_name, own_view(encoder), name), encoder
    for system in _untuned(config, encoders, choices, references):
        model = replace(config.model, prompt=system.prompt, pooling=system.view.pooling, layer=system.view.layer)
        yield system, encoders.untuned(model)


def _untuned(
    config: EvalConfig, encoders: Encoders, choices: Sequence[Choice], references: Sequence[System]
) -> list[System]:
    """The reading that the similarity dev file chose, or those that are given."""
    if not config.dev:
        untuned = encoders.untuned()
        return list(dict.fromkeys(references)) or [
            System(untuned.config.prompt_name, own_view(untuned), start=start_of(config.model))
        ]
    raw = [choice for choice in choices if not choice.system.is_tuned and choice.system.post is None]
    usable = [choice for choice in raw if not choice.system.view.norm]
    if not usable:
        raise UserError("mteb: the untuned encoder needs raw vectors; add raw to systems.post")
    return [best(usable).system]
