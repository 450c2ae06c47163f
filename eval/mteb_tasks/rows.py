"""MTEB tasks beside the others: the tuned encoders as they are, the untuned one in the reading that dev chose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dec2vec.errors import UserError
from eval.cache.encoders import Encoders
from eval.config import EvalConfig
from eval.mteb_tasks.encoder import MtebEncoder
from eval.mteb_tasks.run import run_mteb
from eval.results.results import Judged
from eval.results.task_results import TaskRow, TaskTable
from eval.selection.choose import best
from eval.systems.system import TextEncoder


def mteb_tables(config: EvalConfig, encoders: Encoders, judged: Sequence[Judged]) -> list[TaskTable]:
    """A table a task with mteb's main score; mteb gives no interval. Its own results go to output_dir/mteb."""
    rows: dict[str, list[TaskRow]] = {name: [] for name in config.mteb}
    for system, encoder in _systems(config, encoders, judged) if config.mteb else ():
        model = MtebEncoder(system, encoder=encoder, batch_tokens=config.batch_tokens)
        folder = Path(config.output_dir) / "mteb" / system.replace("/", "_")
        for name, score in run_mteb(model, config.mteb, folder).items():
            rows.setdefault(name, []).append(TaskRow(system, "main_score", score, None, None, 0))
    note = "Scored by mteb itself, without an interval."
    return [TaskTable(f"mteb/{name}", "main_score", found, note) for name, found in rows.items()]


def _systems(config: EvalConfig, encoders: Encoders, judged: Sequence[Judged]) -> Iterator[tuple[str, TextEncoder]]:
    for name, encoder in encoders.each_tuned():
        yield f"tuned/{name}", encoder
    raw = [item.choice for item in judged if not item.system.is_tuned and item.system.post is None]
    readable = [choice for choice in raw if not choice.system.view.norm]
    if not readable:
        raise UserError("mteb: the untuned encoder needs raw vectors; add raw to systems.post")
    system = best(readable).system
    model = replace(config.model, prompt=system.prompt, pooling=system.view.pooling, layer=system.view.layer)
    yield system.name, encoders.untuned(model)
