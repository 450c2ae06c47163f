"""Calls of the libraries that load models: without their reports, and with their errors in one line."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from dec2vec.errors import UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence reports, progress bars and warnings of the libraries that load models.

    dec2vec checks what matters in them and reports it in one line. The warnings are meant for the libraries' authors:
    names that transformers has changed, and GPT-2's transposed weights.
    """
    sentence_transformers = logging.getLogger("sentence_transformers")
    levels = transformers_logging.get_verbosity(), sentence_transformers.level
    has_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    sentence_transformers.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", ".*fan_in_fan_out is set to False but.*", UserWarning)
            yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        sentence_transformers.setLevel(levels[1])
        if has_bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def one_line(name: str, what: str, fix: str) -> Iterator[None]:
    """Turn the errors of transformers for a bad folder, id, revision or file into one line."""
    try:
        yield
    except (
        OSError,
        ValueError,
        ImportError,
        KeyError,
        TypeError,
        RuntimeError,
        AttributeError,
        SafetensorError,
    ) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[0][:200].rstrip(".:")
        needed = _what_is_missing(error)
        if Path(name).is_dir() or needed is not None:
            raise UserError(f"{what} {name} can't be loaded ({reason}); {needed or fix}") from error
        raise UserError(
            f"{what} {name}: there is no such folder, and the Hub could not be used ({reason}); check the name"
        ) from error


def _what_is_missing(error: Exception) -> str | None:
    """What to do for a package or a device that the model needs and this machine lacks; None for any other error."""
    message = str(error)
    if re.search(r"requires? .*\b(GPU|CUDA|XPU)\b|No GPU", message) and "pip install" not in message:
        return "use a machine with such a device, or the model without quantization"
    if isinstance(error, ImportError):
        named = re.search(r"pip install (?:-U |--upgrade )?([\w.,\[\]-]+)", message)
        package = named.group(1) if named else error.name
        return "install the package that it names" if package is None else f"pip install {package.rstrip('.,')}"
    return None
