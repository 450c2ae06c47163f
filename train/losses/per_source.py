"""Which losses each source is trained with, and the temperature and projection that they share."""

from __future__ import annotations

from train.config import TrainConfig
from train.losses.objective import Temperature
from train.options.data import SourceConfig
from train.options.losses import LossConfig


def losses_of(source: SourceConfig, config: TrainConfig) -> tuple[LossConfig, ...]:
    """The source's own losses, or the run's."""
    return source.losses or (config.loss,)


def used_losses(config: TrainConfig) -> list[LossConfig]:
    """The losses of all sources, without the run's own if every source has others."""
    return [loss for source in config.data for loss in losses_of(source, config)] or [config.loss]


def projected_loss(config: TrainConfig) -> LossConfig | None:
    """A loss of the run that compares with the vectors of its teacher; all such losses share teacher and projection."""
    return next((loss for loss in used_losses(config) if loss.kind == "embed_distill"), None)


def run_temperature(config: TrainConfig) -> Temperature:
    """The one temperature that a run learns; `check_losses` has seen that all losses start from the same value."""
    losses = used_losses(config)
    learned = next((loss for loss in losses if loss.learn_temperature), None)
    return Temperature((learned or losses[0]).temperature, learned=learned is not None)
