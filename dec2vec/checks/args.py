"""Options of `dec2vec check`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class CheckArgs:
    """Say what is wrong with a model as an embedder, and the fix; exit code 2 if anything fails."""

    model: str
    """Run folder, model folder or Hub id."""
    json: Path | None = None
    """Also write the findings to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is CUDA where there is one."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    trust_remote_code: bool = False
    """Run code that a Hub repository brings."""
