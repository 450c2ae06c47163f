"""Two views of one text come from dropout alone (Gao et al. 2021): without any, there is nothing to learn."""

from __future__ import annotations

from torch import nn

from dec2vec.errors import UserError


def refuse_equal_views(number: int, model: nn.Module) -> None:
    """UserError where a source of texts is embedded twice by a model that drops nothing."""
    if not any(map(_drops, model.modules())):
        raise UserError(
            f"data.{number}.kind texts: the model has no dropout, so both views of a text are equal; "
            "add --lora.dropout 0.1"
        )


def _drops(module: nn.Module) -> bool:
    """Modules of torch and PEFT, and attention layers that hold their rate as a number."""
    if isinstance(module, nn.Dropout):
        return module.p > 0
    return any(isinstance(value, float) and value > 0 for name, value in vars(module).items() if "dropout" in name)
