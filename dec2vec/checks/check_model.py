"""All checks of a model, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dec2vec.checks.adapter import check_adapter
from dec2vec.checks.finding import Finding, failed
from dec2vec.checks.last_token import check_last_token
from dec2vec.checks.loaded_model import LoadedModel, load_model
from dec2vec.checks.model_files import find_model_files
from dec2vec.checks.overflow import check_overflow
from dec2vec.checks.pooling import check_pooling, check_spread
from dec2vec.checks.prompts import check_prompts
from dec2vec.checks.saved_files import check_vocabulary, check_weights
from dec2vec.checks.serving_files import check_serving_files
from dec2vec.checks.truncation import check_truncation
from dec2vec.checks.vectors import check_padding, check_same_vectors, check_unit_length
from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError

Check = Callable[[LoadedModel], Finding]
OF_TOKENS: tuple[Check, ...] = (check_last_token, check_prompts, check_truncation, check_pooling, check_serving_files)
OF_VECTORS: tuple[Check, ...] = (check_padding, check_unit_length, check_spread, check_adapter)


def check_model(config: ModelConfig, changes: Mapping[str, Any] = MappingProxyType({})) -> list[Finding]:
    """The finding of each check. A check that would fail only because an earlier one did is not run.

    `changes` are options that replace those of the model. Raises UserError if there is no such model.
    """
    files = find_model_files(config, changes)
    findings = [check_weights(files)]
    if failed(findings):
        return findings
    try:
        model = load_model(files)
    except UserError as error:
        return [*findings, Finding("loads", "fail", str(error), "fix what the line says")]
    findings += [_loaded(model), check_vocabulary(model)]
    if failed(findings):
        return findings  # an id without a row ends every forward pass
    findings += [check(model) for check in OF_TOKENS]
    findings.append(check_overflow(model))
    if findings[-1].verdict == "fail":
        return findings  # what follows compares numbers
    findings += [check(model) for check in OF_VECTORS]
    if failed(findings):
        return [*findings, Finding("same vectors", "skip", "fix what failed first")]
    return [*findings, check_same_vectors(model)]


def _loaded(model: LoadedModel) -> Finding:
    by = f"loaded by {' and '.join(model.routes)}"
    if not model.unread:
        return Finding("loads", "pass", by)
    what = f"{by}; the other verbs refuse it: {model.unread}"
    return Finding("loads", "warn", what, "use it by sentence-transformers alone")
