"""Isotropy of a system's vectors on a file of texts or of pairs: a description, not a judgement.

More isotropic is not always better (whitened vectors are perfectly so), which is why nothing should be chosen by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dec2vec.errors import UserError
from dec2vec.files.tables import Table, read_table, read_texts
from eval.metrics import isotropy
from eval.metrics.resampling import multiplicities, resampled_means
from eval.tasks.columns import ColumnsRead, columns_read
from eval.tasks.figure import Figure, too_few
from eval.tasks.pair_files import finite_number
from eval.tasks.task import Evidence, Task, TaskVectors, Texts

Spectral = Callable[[Float64[np.ndarray, "resamples directions"]], Float64[np.ndarray, " resamples"]]
LIMIT = 4000
"""Texts compared with each other, a seeded sample of more: every pair of them is met in every resample."""
CLOSE = 4.0
"""Graded pairs with a score above this mean the same: of 0 to 5, as in Wang & Isola's and SimCSE's plots."""
BIASED = ("IsoScore", "effective rank", "first component")
"""Lower for a sample than for all texts, by more than their spread, unless texts far outnumber dimensions."""
FEWEST_TEXTS = 100
"""Texts below which no interval is shown."""
METRICS = ("IsoScore", "mean cosine", "effective rank", "first component", "uniformity")


@dataclass(frozen=True, eq=False)
class IsotropyEvidence(Evidence):
    """Vectors of all texts, in the order of the task's texts."""

    vectors: Float32[np.ndarray, "texts dim"]


@dataclass(frozen=True, eq=False)
class IsotropyTask(Task[IsotropyEvidence]):
    """Distinct texts, and the indices of the pairs among them that mean the same (none for a file of texts)."""

    kind: ClassVar[str] = "isotropy"
    is_judged: ClassVar[bool] = False
    texts: list[str]
    left: Int64[np.ndarray, " pairs"]
    right: Int64[np.ndarray, " pairs"]
    limit: int = LIMIT
    read: ColumnsRead | None = None

    @property
    def columns(self) -> list[ColumnsRead]:
        """Of the one file."""
        return [] if self.read is None else [self.read]

    @property
    def dev(self) -> Texts | None:
        """Nothing is chosen by isotropy."""
        return None

    @property
    def test(self) -> Texts:
        """All texts, on the query side."""
        return Texts(self.texts, [])

    def dev_score(self, vectors: TaskVectors) -> float:
        """There is no dev: raises UserError."""
        raise UserError(f"{self.name}: isotropy cannot be used for the selection; use a task with labels")

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> IsotropyEvidence:
        return IsotropyEvidence(test.queries)

    def figures(self, evidence: IsotropyEvidence, resamples: int, seed: int) -> list[Figure]:
        """Texts are resampled, for alignment pairs. Spectra are resampled along the sample's principal directions."""
        vectors = evidence.vectors
        if not np.isfinite(vectors).all():
            nothing = np.full(resamples, np.nan)
            return [Figure(metric, float("nan"), nothing, len(self.texts)) for metric in self._metrics()]
        draws = self.seed_of(seed)
        figures = _space(self._sample(vectors, seed), resamples, draws)
        if len(self.left):
            distances = isotropy.squared_distances(vectors[self.left], vectors[self.right])
            drawn = resampled_means(distances[:, None], resamples, draws)[:, 0]
            alignment = Figure("alignment", float(distances.mean()), drawn, len(distances))
            figures.append(alignment.without_interval(too_few(len(distances), "pairs")))
        return figures

    def _metrics(self) -> tuple[str, ...]:
        return (*METRICS, "alignment") if len(self.left) else METRICS

    def _sample(self, vectors: Float32[np.ndarray, "texts dim"], seed: int) -> Float32[np.ndarray, "sample dim"]:
        """The same texts for every system."""
        if len(vectors) <= self.limit:
            return vectors
        rows = np.random.default_rng((seed, len(vectors))).choice(len(vectors), self.limit, replace=False)
        return vectors[np.sort(rows)]


def load_isotropy(path: str | Path, close: float = CLOSE) -> IsotropyTask:
    """A .txt or a table with text; anchor and positive; sentence1 and sentence2 with score or label.

    Pairs mean the same if they are anchor and positive, have a score above `close`, or, in a file without scores, label
    1. UserError for a `close` that nothing is compared with.
    """
    if Path(path).suffix == ".txt":
        _refuse_close(str(path), close)
        return _task(Path(path).stem, read_texts(Path(path)), [])
    table = read_table(path)
    name = Path(table.name).stem
    if "text" in table.columns:
        _refuse_close(table.name, close)
        return replace(_task(name, table.texts("text"), []), read=columns_read(table, ["text"]))
    first, second = _pair_columns(table)
    table.require([first, second])
    left, right = table.texts(first), table.texts(second)
    means_the_same, read = _equivalence(table, (first, second), close)
    same = [pair for pair, flag in zip(zip(left, right, strict=True), means_the_same, strict=True) if flag]
    return replace(_task(name, left + right, same), read=read)


def _task(name: str, texts: list[str], pairs: list[tuple[str, str]]) -> IsotropyTask:
    index = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    if len(index) < 3:
        raise UserError(f"{name} has {len(index)} different texts; isotropy needs at least three")
    left, right = (np.array([index[pair[side]] for pair in pairs], dtype=np.int64) for side in (0, 1))
    return IsotropyTask(name, "IsoScore", list(index), left, right)


def _pair_columns(table: Table) -> tuple[str, str]:
    for columns in (("anchor", "positive"), ("sentence1", "sentence2")):
        if set(columns) <= set(table.columns):
            return columns
    raise UserError(
        f"{table.name} needs the column text, anchor and positive, or sentence1 and sentence2; it has "
        f"{', '.join(table.columns)}"
    )


def _equivalence(table: Table, texts: tuple[str, str], close: float) -> tuple[list[bool], ColumnsRead]:
    """Which pairs mean the same, and by which column: a score if there is one, or else a label."""
    if "positive" in texts:
        _refuse_close(table.name, close)
        others = [column for column in ("score", "label") if column in table.columns]
        note = f"every pair of anchor and positive counts as equivalent; {' and '.join(others)} not used"
        return [True] * len(table), columns_read(table, texts, note if others else "")
    if "score" in table.columns:
        scores = [_score(table, row) for row in range(len(table))]
        flags, rule = [score is not None and score > close for score in scores], f"a score above {close:g}"
        ungraded = sum(score is None for score in scores)
        note = f"{ungraded:,} of {len(table):,} pairs have no score, so their alignment is not measured"
        read = columns_read(table, [*texts, "score"], note if ungraded else "")
    else:
        _refuse_close(table.name, close)
        table.require(["label"])
        flags, rule = [_is_labelled(table, row) for row in range(len(table))], "label 1"
        read = columns_read(table, [*texts, "label"])
    if not any(flags):
        advice = "set close according to the scores" if "score" in read.used else "give 1 to those that mean the same"
        raise UserError(f"{table.name}: no pair has {rule}; {advice}")
    return flags, read


def _refuse_close(name: str, close: float) -> None:
    if close != CLOSE:
        raise UserError(f"{name}: close {close:g} is compared with the column score, which is not used; remove close")


def _score(table: Table, row: int) -> float | None:
    value = table.rows[row].get("score")
    if value in (None, ""):
        return None
    score = finite_number(value)
    if score is None:
        raise UserError(f"{table.where(row)}: score {value!r} is not a finite number; correct it or leave it empty")
    return score


def _is_labelled(table: Table, row: int) -> bool:
    value = table.rows[row]["label"]
    number = finite_number(value)
    if number not in (0.0, 1.0):
        raise UserError(
            f"{table.where(row)}: label {value!r} is not 0 or 1; give 1 to pairs that mean the same, or a column score"
        )
    return number == 1.0


def _space(vectors: Float32[np.ndarray, "texts dim"], resamples: int, seed: int) -> list[Figure]:
    n = len(vectors)
    spectrum = isotropy.spectrum(vectors)
    rows = isotropy.compact(vectors)
    spectral: dict[str, Spectral] = {
        "IsoScore": partial(isotropy.isoscore, dimension=spectrum.dimension),
        "effective rank": isotropy.effective_rank,
        "first component": isotropy.first_share,
    }
    drawn: dict[str, list[Float64[np.ndarray, " chunk"]]] = {metric: [] for metric in METRICS}
    for counts in multiplicities(n, resamples, seed):
        variances = counts @ spectrum.squares / n
        drawn["mean cosine"].append(isotropy.mean_cosines(rows, counts))
        drawn["uniformity"].append(isotropy.uniformities(rows, counts))
        for metric, measure in spectral.items():
            drawn[metric].append(measure(variances))
    values = {
        "mean cosine": isotropy.mean_cosine(rows),
        "uniformity": isotropy.uniformity(rows),
        **{metric: float(measure(spectrum.variances)) for metric, measure in spectral.items()},
    }
    reasons = dict.fromkeys(BIASED, "biased by the number of texts") | {"": too_few(n, "texts", FEWEST_TEXTS)}
    return [
        Figure(metric, values[metric], np.concatenate(drawn[metric]), n).without_interval(
            reasons.get(metric) or reasons[""]
        )
        for metric in METRICS
    ]
