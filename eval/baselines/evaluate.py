"""Baselines besides the decoder, measured on the same tasks: each fitted on what a task gives, or on training text.

The best of them on the test stands in the headline, beside the tuned encoder and the untuned decoder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from dec2vec.errors import UserError
from eval.baselines import DEFAULT, DEFAULT_SEARCH, PACKAGES, make_baseline
from eval.baselines.baseline import Baseline, PairBaseline, SearchBaseline
from eval.baselines.effort import baseline_effort, named_notes
from eval.baselines.encoder import OutsideEncoder
from eval.baselines.evidence import find_evidence, served
from eval.baselines.fit_text import MOST, fit_groups, training_text
from eval.config import EvalConfig
from eval.results.effort import sample_texts
from eval.results.findings import Findings
from eval.selection.judge import Measured
from eval.systems.subject import Subject
from eval.tasks.isotropy import IsotropyTask
from eval.tasks.retrieval import RetrievalTask
from eval.tasks.sts import StsTask
from eval.tasks.task import DescribedTexts, Task

logger = logging.getLogger(__name__)


def usual_names(tasks: Sequence[Task[Any]]) -> tuple[str, ...]:
    """The baselines of an evaluation that names none; none where nothing but isotropy is measured."""
    if any(isinstance(task, RetrievalTask) for task in tasks):
        return DEFAULT_SEARCH
    return DEFAULT if any(not isinstance(task, IsotropyTask) for task in tasks) else ()


def not_installed(names: Sequence[str]) -> dict[str, str]:
    """By baseline a line that says how to get the packages that it needs; those that can be computed are left out."""
    absent = [name for name in names if any(find_spec(package) is None for package in PACKAGES.get(name, ()))]
    return {name: f"{name}: not computed; pip install 'dec2vec[eval]'" for name in absent}


@dataclass(frozen=True, eq=False)
class Baselines:
    """Those that compare texts directly serve tasks on pairs alone, those that rank documents retrieval alone."""

    baselines: Sequence[Baseline]
    training: DescribedTexts
    """For tasks that give no text of their own."""
    resamples: int
    seed: int
    is_asked: bool = True
    """The configuration names them: what cannot be measured is refused."""
    notes: list[str] = field(default_factory=list)
    """What is not computed and why, and what each was fitted on."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """By name what a reader must know of it (`baseline_notes`)."""
    remedy: str = "give training text as fit"
    """What to do for tasks that have no text to fit a baseline on."""

    @classmethod
    def from_config(
        cls,
        config: EvalConfig,
        tasks: Sequence[Task[Any]],
        sources: Mapping[str, Sequence[str]],
        evaluated: Sequence[str],
    ) -> Baselines:
        """The training-side text is all text of `sources` that is not among the evaluated texts.

        A baseline whose package is not installed is left out, with a line in the log. Raises UserError for an unknown
        name, for an encoder that cannot be loaded, and where there is no text at all to fit a baseline on. Where the
        configuration names none, the usual ones are measured as far as they can be, on a sample of much text.
        """
        is_asked = config.baselines is not None
        names = usual_names(tasks) if config.baselines is None else config.baselines
        absent = not_installed(names)
        for line in absent.values():
            logger.warning("%s", line)
        baselines = [make_baseline(name, config.model) for name in names if name not in absent]
        _refuse_equal_names([baseline.name for baseline in baselines])
        comments = named_notes(config.baseline_notes, baselines)
        needed = sources if baselines and any(task.own_text is None for task in tasks) else {}
        text = training_text(needed, evaluated, None if is_asked else MOST, config.seed)
        found = cls([], text, config.bootstrap, config.seed, is_asked, list(absent.values()), comments)
        if any(needed.values()) and not text.texts:
            found = replace(found, remedy="all training-side texts are evaluated texts too; give others as fit")
        kept = [baseline for baseline in baselines if found._prepare(baseline, found._tasks(tasks))]
        return replace(found, baselines=kept)

    def measure(self, findings: Findings) -> None:
        """On every task that it serves."""
        texts = sample_texts(findings.tasks)
        for baseline in self.baselines:
            for tasks, fitted_on in self._fitted(baseline, self._tasks(findings.tasks)):
                subject = Subject.from_baseline(baseline.name, fitted_on)
                for task in tasks:
                    self._measure(baseline, subject, task, findings)
                if subject.name not in findings.efforts:
                    findings.efforts[subject.name] = baseline_effort(baseline, texts, self.comments)
                if fitted_on is not None and any(isinstance(task, StsTask) for task in tasks):
                    self.notes.append(f"{baseline.name}: fitted on {fitted_on}.")

    def _measure(self, baseline: Baseline, subject: Subject, task: Task[Any], findings: Findings) -> None:
        found = find_evidence(baseline, task)
        if found.is_projected:
            self._say(f"{baseline.name}: on {task.name} its vectors were projected at random to fit into memory")
        findings.add(task.name, [Measured(subject, task.figures(found.evidence, self.resamples, self.seed))])

    def _tasks(self, tasks: Sequence[Task[Any]]) -> list[Task[Any]]:
        """Those that are measured. Isotropy is no quality that vectors of words could have more or less of."""
        return [task for task in tasks if self.is_asked or not isinstance(task, IsotropyTask)]

    def _prepare(self, baseline: Baseline, tasks: Sequence[Task[Any]]) -> bool:
        """Whether it can be measured. What was asked for in vain is refused before any encoder is evaluated."""
        if isinstance(baseline, OutsideEncoder):
            baseline.load()
        wanted = served(baseline, tasks)
        if not wanted:
            kind = "searches" if isinstance(baseline, SearchBaseline) else "pairs of texts"
            self._say(f"{baseline.name}: not computed, because it serves {kind} alone")
        if not (wanted and _learns(baseline)):
            return bool(wanted)
        fitted = {task.name for group in fit_groups(wanted, self.training) for task in group.tasks}
        without_text = [task.name for task in wanted if task.name not in fitted]
        if without_text and not fitted and self.is_asked:
            raise UserError(f"baselines: {baseline.name} has no text to be fitted on; {self.remedy}")
        if without_text:
            self._say(f"{baseline.name}: not computed for {', '.join(without_text)}; {self.remedy}")
        return bool(fitted)

    def _fitted(
        self, baseline: Baseline, tasks: Sequence[Task[Any]]
    ) -> Iterator[tuple[Sequence[Task[Any]], str | None]]:
        """Groups of tasks, the baseline fitted for each in turn, with what it was fitted on."""
        wanted = served(baseline, tasks)
        if not _learns(baseline):
            yield wanted, None
            return
        for group in fit_groups(wanted, self.training):
            try:
                details = _fit(baseline, group.text)
            except UserError as error:
                names = ", ".join(task.name for task in group.tasks)
                self._say(f"{baseline.name}: not computed for {names}: {error}")
                continue
            yield group.tasks, f"{group.text.described}{details}"

    def _say(self, line: str) -> None:
        logger.warning("%s", line)
        self.notes.append(line)


def _learns(baseline: Baseline) -> bool:
    return not isinstance(baseline, PairBaseline) and (isinstance(baseline, SearchBaseline) or baseline.learns)


def _fit(baseline: Baseline, text: DescribedTexts) -> str:
    """What a row says of the fit besides its text."""
    assert not isinstance(baseline, PairBaseline)
    baseline.fit(text.texts)
    return f", with {baseline.described}" if isinstance(baseline, SearchBaseline) else ""


def _refuse_equal_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"baselines: two have the name {twice}; give each once, or rename a folder")
