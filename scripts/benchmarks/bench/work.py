"""What both sides of a bench are given, and what they must be able to do."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import nn

from bench.texts import COLUMNS

TEMPERATURE = 0.05
LEARNING_RATE = 1e-4
RANK, ALPHA = 16, 32


@dataclass(frozen=True)
class Work:
    """The same for both sides. `rows` names a file of anchors, positives and perhaps negatives, a row a line."""

    model: str
    rows: str
    prompt: str
    batch: int
    precision: str
    threads: int
    base: str = "float32"
    """The dtype of the decoder's own weights."""
    options: tuple[str, ...] = ()
    """Of the side: NAME=VALUE of a training option for ours, the loss for the peer."""

    def read(self, number: int) -> list[dict[str, str]]:
        """The rows of batch `number`."""
        lines = Path(self.rows).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[number * self.batch : (number + 1) * self.batch]]

    @property
    def batches(self) -> int:
        """Full batches in the file."""
        return len(Path(self.rows).read_text(encoding="utf-8").splitlines()) // self.batch

    def columns(self, number: int) -> list[list[str]]:
        """Anchors, positives and perhaps negatives of batch `number`."""
        rows = self.read(number)
        return [[row[name] for row in rows] for name in COLUMNS if name in rows[0]]

    @staticmethod
    def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
        """The file that `rows` names."""
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def dumps(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> Work:
        """The work that `dumps` wrote."""
        fields = json.loads(text)
        return Work(**{**fields, "options": tuple(fields["options"])})


@runtime_checkable
class Side(Protocol):
    """A product at work. While `keeps`, a step leaves its gradients for `gradients`."""

    keeps: bool

    def step(self, number: int) -> None:
        """All of an optimiser step on batch `number`, from texts to changed weights."""

    def token_ids(self, number: int) -> list[list[int]]:
        """What the decoder reads of batch `number`: all anchors, then all positives, then all negatives."""

    def gradients(self) -> dict[str, NDArray[Any]]:
        """Of the last step that was asked to keep them, by the adapters' common names."""

    def backbone(self) -> nn.Module:
        """The module that token ids go into."""


class PositionCounter:
    """Token positions that went through the decoder, in all passes and in those that were differentiated."""

    def __init__(self, backbone: nn.Module) -> None:
        self.forward = 0
        self.differentiated = 0
        embeddings = backbone.get_input_embeddings()  # type: ignore[operator]  # a decoder's own method
        embeddings.register_forward_pre_hook(self._count)

    def _count(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        ids = args[0]
        self.forward += ids.numel()
        self.differentiated += ids.numel() * torch.is_grad_enabled()
