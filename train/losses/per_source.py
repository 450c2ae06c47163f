"""Which losses each source is trained with, and the teachers that these ask."""

from __future__ import annotations

from dec2vec.errors import UserError
from train.config import Kind, LossConfig, SourceConfig, TrainConfig
from train.losses.checks import check_loss
from train.losses.inputs import GradedInputs, LabelledInputs, LossInputs, PairInputs, TeacherInputs
from train.losses.objective import Temperature

ROWS: dict[Kind, type[LossInputs]] = {
    "pairs": PairInputs,
    "texts": PairInputs,
    "graded": GradedInputs,
    "labelled": LabelledInputs,
}
"""What a batch of a source gives a loss to compare."""


def losses_of(source: SourceConfig, config: TrainConfig) -> tuple[LossConfig, ...]:
    """The source's own losses, or the run's."""
    return source.losses or (config.loss,)


def check_losses(config: TrainConfig) -> None:
    """UserError where a loss can't compare what a source gives, or has options that it or nobody reads."""
    for number, source in enumerate(config.data):
        for loss in losses_of(source, config):
            rows = TeacherInputs if loss.kind.startswith("distil") else ROWS[source.kind]
            check_loss(loss, rows, f"data.{number} (kind {source.kind})")
    if config.data and all(source.losses for source in config.data):
        _refuse_unused(config.loss)
    starts = sorted({loss.temperature for loss in _used(config) if loss.learn_temperature})
    if len(starts) > 1:
        raise UserError(
            f"loss.temperature: losses that learn it share one, which can't start at {' and '.join(map(str, starts))}; "
            "give them the same temperature"
        )


def _refuse_unused(loss: LossConfig) -> None:
    default = LossConfig()
    changed = [f"loss.{name}" for name, value in vars(loss).items() if value != vars(default)[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: every source has losses of its own, so no batch has the run's; give the options to "
            "those (data.N.losses), or leave them out"
        )


def run_temperature(config: TrainConfig) -> Temperature:
    """The one temperature that a run learns: all losses that learn it start alike (`check_losses`)."""
    losses = _used(config)
    learned = next((loss for loss in losses if loss.learn_temperature), None)
    return Temperature((learned or losses[0]).temperature, learned=learned is not None)


def _used(config: TrainConfig) -> list[LossConfig]:
    """The losses of all sources; the run's own is none where every source has others."""
    return [loss for source in config.data for loss in losses_of(source, config)] or [config.loss]
