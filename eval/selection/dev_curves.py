"""What every candidate scored on the similarity dev file, kept to be drawn by layer and by k."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from eval.config import PostName
from eval.selection.choose import Choice, Contender

RAW: PostName = "raw"


@dataclass(frozen=True)
class CurvePoint:
    """One candidate of the untuned decoder. `post` is raw or a post-processing in one strength."""

    prompt: str
    pooling: str
    layer: int
    post: str
    k: int | None
    """Dimensions that are kept, where the post-processing comes in several k."""
    dev_score: float
    family: PostName
    """The post-processing without its strength."""


def points(choices: Iterable[Choice]) -> list[CurvePoint]:
    """Every contender of the untuned choices."""
    return [_point(found) for choice in choices if not choice.system.is_tuned for found in choice.dev_curve]


def _point(found: Contender) -> CurvePoint:
    system, view, post = found.system, found.system.view, found.system.post
    pooling = f"{view.pooling}+norm" if view.norm else str(view.pooling)
    label, k = ("raw", None) if post is None else (post.label, post.k)
    return CurvePoint(system.prompt, pooling, int(view.layer), label, k, found.dev_score, system.family)


Curve = list[tuple[int, float]]
"""(layer or k, dev score), in order."""


def by_layer(points: Sequence[CurvePoint], *, raw: bool) -> dict[str, Curve]:
    """Of each prompt the best pooling (and post-processing, unless `raw`) at every layer; best prompt first."""
    chosen = [point for point in points if not raw or point.family == RAW]
    prompts = dict.fromkeys(point.prompt for point in chosen)
    curves = {p: _best((point.layer, point.dev_score) for point in chosen if point.prompt == p) for p in prompts}
    return _best_first(curves)


def by_dimension(points: Sequence[CurvePoint]) -> dict[str, Curve]:
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


def has_posts(points: Sequence[CurvePoint]) -> bool:
    """Whether anything but raw vectors was tried."""
    return any(point.family != RAW for point in points)


def best_raw(points: Sequence[CurvePoint]) -> CurvePoint | None:
    """The best candidate without post-processing."""
    return max((point for point in points if point.family == RAW), key=_score, default=None)


def _score(point: CurvePoint) -> float:
    return point.dev_score if math.isfinite(point.dev_score) else -math.inf


def _best(pairs: Iterable[tuple[int, float]]) -> Curve:
    top: dict[int, float] = {}
    for x, score in pairs:
        if math.isfinite(score):
            top[x] = max(score, top.get(x, -math.inf))
    return sorted(top.items())


def _best_first(curves: dict[str, Curve]) -> dict[str, Curve]:
    drawn = {name: curve for name, curve in curves.items() if curve}
    return dict(sorted(drawn.items(), key=lambda item: -max(score for _, score in item[1])))
