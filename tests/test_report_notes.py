"""Choices at the edge of their grid, names of seeds, and recipes that differ: pure functions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dec2vec.decoder.pooling import View
from dec2vec.vectors.whitening import Moments, Spectrum
from eval.config import PostName
from eval.metrics.grid_edge import edge
from eval.postprocess.fitting import Fitting
from eval.postprocess.text_statistics import Fitted
from eval.selection.choose import Choice, Contender, dimension_edge
from eval.systems.recipes import read_recipe, unlike
from eval.systems.seeds import by_recipe, find_seeds, mean_and_sd
from eval.systems.subject import Subject
from eval.systems.system import Post, System


def test_edges() -> None:
    assert edge("C", 10.0, [0.1, 1.0, 10.0]) == "C = 10 is the largest that was tried"
    assert edge("C", 0.1, [0.1, 1.0, 10.0]) == "C = 0.1 is the smallest that was tried"
    assert edge("C", 1.0, [0.1, 1.0, 10.0]) is edge("C", 1.0, [1.0]) is None
    assert edge("k", 1, [1, 3], low=1) is edge("k", 20, [1, 20], high=20) is None
    assert dimension_edge(32, [256, 64, 32], 256) == "k = 32 is the smallest that was tried (systems.dimensions)"
    assert dimension_edge(256, [256, 64], 256) is None, "there is no larger one"
    assert dimension_edge(128, [128, 64], 256) is not None


def test_the_edge_of_a_choice_is_that_of_its_own_layer() -> None:
    post = next(c for c in _fitting(6).candidates(View("mean", 1), 6) if c.label == "whiten-4").affine()
    grid = [Contender(_system("whiten", layer, k), k, 0.1) for layer, k in GRID]
    choice = Choice(_system("whiten", 1, 4), 4, 0.5, "dev", post, tuple(grid))
    assert choice.edge == "k = 4 is the smallest that was tried (systems.dimensions)"
    wider = (*grid, Contender(_system("whiten", 1, 3), 3, 0.1))
    assert replace(choice, dev_curve=wider).edge is None
    assert replace(choice, system=_system("abtt", 1, 4)).edge is None


def _system(family: PostName, layer: int, k: int) -> System:
    return System("bare", View("mean", layer), None, Post(family, f"{family}-{k}", k))


GRID = [(1, 6), (1, 4), (2, 2)]


def _moments(width: int) -> Moments:
    moments = Moments(width)
    moments.update(np.random.default_rng(0).standard_normal((200, width)))
    return moments


def _fitting(width: int) -> Fitting:
    found = {View("mean", 1): Fitted(_moments(width))}
    return Fitting("bare", None, ("whiten", "pca", "standardise", "shrunk_whiten"), (6, 4, 3), found, None)


def test_one_eigendecomposition_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of tasks ask, in whatever order; the scatter matrix is given up for it."""
    count: list[int] = []
    plain = Spectrum.from_moments

    def counted(moments: Moments) -> Spectrum:
        count.append(1)
        return plain(moments)

    monkeypatch.setattr(Spectrum, "from_moments", counted)
    fitting, fresh = _fitting(6), Fitted(_moments(6))
    first, second = (fitting.candidates(View("mean", 1), 6) for _ in range(2))
    assert count == [1] and [c.label for c in first] == [c.label for c in second]
    assert first[0].basis is second[0].basis
    covariance = _moments(6).covariance
    np.testing.assert_allclose(fresh.deviations, np.sqrt(np.diag(covariance)))
    np.testing.assert_allclose(fresh.spectrum.variances, np.linalg.eigvalsh(covariance)[::-1])
    np.testing.assert_allclose(fresh.mean, _moments(6).mean)


def test_seeds_by_name() -> None:
    posts = {k: Post("whiten", f"whiten-{k}", k) for k in (64, 32)}
    runs = [("a-seed1", None), ("a-seed1", posts[64]), ("a_seed_2", None), ("a-seed2", posts[32]), ("b-seed1", None)]
    runs += [("c", None), ("c2", None), (None, None)]
    subjects = [Subject.from_system(System("a-seed1", View("mean", 1), run, post)) for run, post in runs]
    first, second = find_seeds(subjects)
    assert (first.label, first.members) == ("tuned/a", (subjects[0], subjects[2]))
    assert (second.label, second.members) == ("tuned/a+whiten", (subjects[1], subjects[3]))
    guests = [replace(subject, transductive=True) for subject in second.members]
    assert find_seeds([*subjects, *guests]) == [first, second]
    mean = second.mean
    assert mean.name == "mean of tuned/a+whiten (n = 2)" and mean.of == (subjects[1].name, subjects[3].name)
    assert (mean.kind, second.sd.kind, mean.run, mean.post, mean.is_tuned) == ("mean", "sd", "a", "whiten", False)
    assert by_recipe(["x-seed1", "y", "x-seed2"], str) == {"x": ["x-seed1", "x-seed2"], "y": ["y"]}
    figures = np.random.default_rng(0).random((4, 3))
    mean, sd = mean_and_sd(figures)
    np.testing.assert_allclose(mean, figures.mean(axis=0))
    np.testing.assert_allclose(sd, np.std(figures, axis=0, ddof=1))


def test_recipes_are_told_apart_by_more_than_the_seed(tmp_path: Path) -> None:
    text = "model: {name_or_path: m, device: cpu}\noptim: {lr: %s}\ndata: [{path: p, only: [a=b]}]\nseed: %d\n"
    for name, rate, seed in (("r-seed1", 0.1, 1), ("r-seed2", 0.1, 2), ("r-seed3", 0.2, 3)):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(text % (rate, seed))
    one, two, three = (read_recipe(str(tmp_path / f"r-seed{seed}")) for seed in (1, 2, 3))
    later = {
        "model.max_pixels": 64_000_000,
        "data.0.min_grade": 1,
        "data.0.bad_rows": 0.01,
    }  # which that version lacked
    named = {"model.name_or_path": "m", "optim.lr": 0.1, "data.0.path": "p", "data.0.only": ["a=b"]}
    assert one == two == named | later
    assert read_recipe(str(tmp_path / "r-seed1" / "adapter")) == one
    assert read_recipe(str(tmp_path)) is None
    assert unlike("r", {"r-seed1": one, "r-seed2": two}) is None
    line = unlike("r", {"r-seed1": one, "r-seed3": three})
    assert line == "Warning: r: the runs differ in other settings than the seed: optim.lr is r-seed1 0.1, r-seed3 0.2."
