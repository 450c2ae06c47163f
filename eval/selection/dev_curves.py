"""What every reading scored on dev: the ground that layers and k were chosen on, kept to be drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.postprocess.families import SIZED
from eval.selection.choose import Choice, Contender

RAW = "raw"
"""`SweepPoint.post` of vectors as they are."""


@dataclass(frozen=True)
class SweepPoint:
    """One reading of the untuned decoder. `post` is "raw" or a post-processing; `k` its dimensions, if it cuts any."""

    prompt: str
    pooling: str
    layer: int
    post: str
    k: int | None
    dev_score: float

    @property
    def family(self) -> str:
        """`whiten-64` is one of `whiten`."""
        return self.post.partition("-")[0]


def points(choices: Iterable[Choice]) -> list[SweepPoint]:
    """Every contender of the untuned choices."""
    return [_point(found) for choice in choices if not choice.system.is_tuned for found in choice.sweep]


def _point(found: Contender) -> SweepPoint:
    system, view = found.system, found.system.view
    post = system.post or RAW
    k = found.k if post.partition("-")[0] in SIZED else None
    pooling = f"{view.pooling}+norm" if view.norm else str(view.pooling)
    return SweepPoint(system.prompt, pooling, int(view.layer), post, k, found.dev_score)


Curve = list[tuple[int, float]]
"""(layer or k, dev score), in order."""


def by_layer(points: Sequence[SweepPoint], *, raw: bool) -> dict[str, Curve]:
    """Of each prompt the best pooling (and post-processing, unless `raw`) at every layer; best prompt first."""
    chosen = [point for point in points if not raw or point.post == RAW]
    prompts = dict.fromkeys(point.prompt for point in chosen)
    curves = {p: _best((point.layer, point.dev_score) for point in chosen if point.prompt == p) for p in prompts}
    return _best_first(curves)


def by_dimension(points: Sequence[SweepPoint]) -> dict[str, Curve]:
    """Of each post-processing that cuts: its score by k, with prompt, pooling and layer of its best point."""
    curves: dict[str, Curve] = {}
    for family in dict.fromkeys(point.family for point in points if point.k is not None):
        members = [point for point in points if point.family == family and point.k is not None]
        top = max(members, key=_score)
        same = [p for p in members if (p.prompt, p.pooling, p.layer) == (top.prompt, top.pooling, top.layer)]
        curves[f"{family}: {top.prompt}, {top.pooling}, layer {top.layer}"] = _best(
            (point.k, point.dev_score) for point in same if point.k is not None
        )
    return _best_first(curves)


def has_posts(points: Sequence[SweepPoint]) -> bool:
    """Whether anything but raw vectors was tried."""
    return any(point.post != RAW for point in points)


def best_raw(points: Sequence[SweepPoint]) -> SweepPoint | None:
    """The best reading without post-processing."""
    return max((point for point in points if point.post == RAW), key=_score, default=None)


def _score(point: SweepPoint) -> float:
    return point.dev_score if math.isfinite(point.dev_score) else -math.inf


def _best(pairs: Iterable[tuple[int, float]]) -> Curve:
    top: dict[int, float] = {}
    for place, score in pairs:
        if math.isfinite(score):
            top[place] = max(score, top.get(place, -math.inf))
    return sorted(top.items())


def _best_first(curves: dict[str, Curve]) -> dict[str, Curve]:
    drawn = {name: curve for name, curve in curves.items() if curve}
    return dict(sorted(drawn.items(), key=lambda item: -max(score for _, score in item[1])))
