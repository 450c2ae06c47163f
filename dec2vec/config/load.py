"""One YAML file plus dotted overrides -> a frozen, validated dataclass.

    config = load(TrainConfig, Path("configs/train/english-8m.yaml"), ["--optim.lr", "1e-4"])

The overrides are written into the file's mapping before anything is checked, so that a value meets the same
types and ranges, and the same one-line errors, whichever way it came in. Nothing here may import torch:
`dec2vec train --help` has half a second.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dec2vec.config.help import help_text
from dec2vec.config.messages import explain, number_given_as_bool
from dec2vec.config.overrides import merge_overrides
from dec2vec.config.paths import expanded
from dec2vec.config.renames import former, is_run_config, translated
from dec2vec.config.yaml_file import read_mapping
from dec2vec.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
"""Every section refuses unknown keys, nan and infinity, and keeps the docstrings of its fields for `--help`."""


def load(cls: type[T], path: Path | None, overrides: Sequence[str], *, prog: str = "dec2vec COMMAND CONFIG.yaml") -> T:
    """The configuration in `path` (defaults if None) with the overrides applied; `--help` prints the options and exits.

    Raises UserError for anything that the user can fix.
    """
    wanted = [token for token in overrides if token not in ("--help", "-h")]
    if len(wanted) != len(overrides):
        sys.stdout.write(help_text(cls, _valid_or_none(cls, path, wanted), prog))
        raise SystemExit(0)
    raw = {} if path is None else read_config(path)
    return validate(cls, merge_overrides(cls, raw, wanted))


def read_config(path: Path) -> dict[str, object]:
    """The mapping in a YAML file. Former names of options are translated if a run wrote it into its folder."""
    raw = read_mapping(path)
    return translated(raw) if is_run_config(path) else raw


def load_arguments(cls: type[T], argv: Sequence[str], *, prog: str) -> T:
    """The configuration from `[CONFIG.yaml] [--section.key value ...]`, as typed after a verb."""
    has_path = bool(argv) and not argv[0].startswith("-")
    path = Path(argv[0]) if has_path else None
    return load(cls, path, argv[has_path:], prog=f"{prog} [CONFIG.yaml]")


def _valid_or_none(cls: type[T], path: Path | None, overrides: Sequence[str]) -> T | None:
    """Values for the help page, or None after a mistake, which must not hide the page that explains it."""
    try:
        return load(cls, path, overrides)
    except UserError:
        return None


def validate(cls: type[T], raw: dict[str, object]) -> T:
    """A plain mapping as `cls`, after checking types, ranges and unknown keys. `~` becomes the home folder."""
    try:
        config = TypeAdapter(cls).validate_python(expanded(raw))
    except ValidationError as error:
        raise UserError(f"config error: {explain(cls, error)}") from None
    problem = number_given_as_bool(raw, config)
    if problem is not None:
        raise UserError(f"config error: {problem}")
    return config


def dump(config: DataclassInstance) -> str:
    """YAML that `load` turns back into an equal configuration."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False, allow_unicode=True, width=110)


def config_hash(config: DataclassInstance, *, exclude: Collection[str] = ()) -> str:
    """sha256 of the options as the first version named them, by which a checkpoint belongs to a configuration.

    `exclude` names sections or options (`tracking`, `optim.steps`) that may differ within one run.
    """
    tree = dataclasses.asdict(config)
    for name in exclude:
        *sections, key = name.split(".")
        node = tree
        for section in sections:
            node = node[section]
        del node[key]
    return hashlib.sha256(json.dumps(former(tree), sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    """Convert tuples to lists, because YAML has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
