"""Losses that can't be are refused before a step; a run with nested dimensions goes through."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from dec2vec.errors import UserError
from tests.loss_references import CASES, Case
from tests.tiny_run import metrics_of, train, write_run
from train.config import OptimConfig, TrainConfig
from train.losses.checks import COMMON, ONLY_FOR, ROWS_OF, check_loss, check_losses, check_rows
from train.losses.inputs import GradedInputs, LabelledInputs, PairInputs, TeacherInputs
from train.losses.per_source import run_temperature
from train.options.data import SourceConfig
from train.options.losses import LossConfig


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_loss_takes_its_own_rows_only(case: Case) -> None:
    config = case.config if case.config.distance in (None, "kl") else replace(case.config, learn_temperature=False)
    if config.kind == "distil_vectors":
        config = replace(config, learn_temperature=False)
    check_loss(config, ROWS_OF[config.kind], "data.0")
    for other in {PairInputs, GradedInputs, LabelledInputs, TeacherInputs} - {ROWS_OF[config.kind]}:
        with pytest.raises(UserError, match=rf"loss.kind {config.kind} needs .* but data.0 has .*; use \w+"):
            check_loss(config, other, "data.0")


def test_the_message_names_what_fits() -> None:
    expected = "loss.kind cosent needs pairs with a score, but a.jsonl has pairs of anchor and positive; use infonce"
    with pytest.raises(UserError, match=expected):
        check_rows("cosent", PairInputs, "a.jsonl")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossConfig(angle_weights=(1, 0, 0)), "loss.angle_weights is not used by loss.kind infonce"),
        (LossConfig(distance="kl"), r"only by distil_scores, distil_vectors, embed_distill, distil_reranker\)"),
        (LossConfig(kind="supcon", symmetric=True), "loss.symmetric is not used by loss.kind supcon"),
        (LossConfig(kind="cosent", hardness=1.0), "loss.hardness is not used by loss.kind cosent"),
        (LossConfig(kind="distil_scores", teacher="t", distance="mse"), "use kl or margin"),
        (LossConfig(kind="distil_vectors"), "give the folder of a teacher"),
        (LossConfig(kind="distil_vectors", teacher="t", learn_temperature=True), "distance mse has no temperature"),
        (LossConfig(kind="angle", angle_weights=(0, 0, 0)), "set at least one above 0"),
        (LossConfig(kind="distil_reranker", distance="mse"), "use kl or margin"),
        (LossConfig(positives="sum", query_negatives=True), "belong to a query and one positive; use loss.positives"),
        (LossConfig(matryoshka=(8, 8)), "a number of dimensions is repeated"),
        (LossConfig(matryoshka=(8, 4), matryoshka_weights=(1.0,)), "1 weights for 2 numbers of dimensions"),
    ],
)
def test_options_that_would_be_ignored_are_refused(config: LossConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_loss(config, ROWS_OF[config.kind], "data.0")


def test_every_option_is_read_by_all_losses_or_refused_by_some() -> None:
    """A new one has to be declared; each of the others is refused with the losses that have no use for it."""
    assert sorted([*COMMON, *ONLY_FOR]) == sorted(field.name for field in fields(LossConfig))
    values = {"distance": "kl", "teacher": "t", "margin": 0.1, "hardness": 1.0, "angle_weights": (1.0, 0.0, 1.0)}
    values |= {"positives": "mean", "score_scale": "probability", "projection": "keep"}
    for name, kinds in ONLY_FOR.items():
        default = vars(LossConfig())[name]
        value = values.get(name, (not default) if isinstance(default, bool) else 0.5)
        for kind in set(ROWS_OF) - set(kinds):
            with pytest.raises(UserError, match=rf"^loss.{name} is not used by loss.kind {kind}"):
                check_loss(LossConfig(kind=kind, **{name: value}), ROWS_OF[kind], "data.0")


def sources_of(*losses: tuple[LossConfig, ...]) -> tuple[SourceConfig, ...]:
    return tuple(SourceConfig(kind="graded", losses=own) for own in losses)


def test_one_learned_temperature_starts_as_the_losses_in_use_say() -> None:
    """Not as the run's loss, where every source has its own losses, and not as the first of several that differ."""
    learning, fixed = LossConfig(kind="cosent", temperature=0.2, learn_temperature=True), LossConfig(kind="angle")
    unused = LossConfig(temperature=0.7, learn_temperature=True)
    found = run_temperature(TrainConfig(loss=unused, data=sources_of((fixed,), (fixed, learning), (learning,))))
    assert float(found().detach()) == pytest.approx(0.2) and found.log_value.requires_grad
    assert not run_temperature(TrainConfig(loss=unused, data=sources_of((fixed,)))).log_value.requires_grad
    check_losses(TrainConfig(data=sources_of((fixed,), (fixed, learning), (learning,))))
    other = replace(learning, temperature=0.1)
    for data in (sources_of((learning,), (other,)), sources_of((other, learning))):
        with pytest.raises(
            UserError, match=r"share one value, which cannot start at 0.1 and 0.2; set the same temperature"
        ):
            check_losses(TrainConfig(data=data))
    run = replace(other, kind="infonce")
    with pytest.raises(UserError, match=r"cannot start at 0.1 and 0.2"):
        check_losses(TrainConfig(loss=run, data=(SourceConfig(), *sources_of((learning,)))))


def test_a_loss_that_no_source_uses_is_refused() -> None:
    loss = LossConfig(temperature=0.1, matryoshka=(4,))
    own = (LossConfig(kind="cosent"),)
    with pytest.raises(UserError, match=r"^loss.matryoshka, loss.temperature: every source has its own losses"):
        check_losses(TrainConfig(loss=loss, data=sources_of(own, own)))
    check_losses(TrainConfig(loss=loss, data=(*sources_of(own), SourceConfig())))
    check_losses(TrainConfig(data=sources_of(own, own)))
    check_losses(TrainConfig(loss=loss))  # `check_config` refuses a run without data


def test_a_run_with_nested_dimensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dec2vec train` with loss.matryoshka: each size adds its own loss, from the options alone."""
    loss, optim = LossConfig(learn_temperature=True), OptimConfig(steps=2, lr=1e-2)
    config = write_run(tmp_path, loss=loss, optim=optim)
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "plain")
    train(config, tmp_path / "nested", "--loss.matryoshka", "4", "8", "--loss.matryoshka_weights", "0.5", "1")
    plain, nested = (metrics_of(tmp_path / name) for name in ("plain", "nested"))
    first, then = nested[0]["loss"], plain[0]["loss"]
    assert 1.5 * then < first < 6.0 * then  # 1 + 1 + 0.5 losses of the same kind
    assert (tmp_path / "nested" / "model" / "modules.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--loss.matryoshka", "4", "64"), "loss.matryoshka 64: the vectors have 16 dimensions; list 16 or fewer"),
        (("--loss.kind", "cosent"), "loss.kind cosent needs pairs with a score, but data.0 .* has pairs of anchor"),
    ],
)
def test_a_run_that_can_not_be_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "out", *options)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
