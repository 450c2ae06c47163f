"""Which prompt a text of an MTEB task gets, by the names that mteb and sentence-transformers use for prompts.

A name is, from the most to the least specific: `ArguAna-query`, `ArguAna`, `Retrieval-query`, `Retrieval`, `query`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, get_args

from dec2vec.decoder.published import Published, published_prompt
from dec2vec.errors import UserError
from dec2vec.prompts.ensembles import check_prompt
from dec2vec.prompts.prompt import PUBLISHED, SLOT, Side
from eval.mteb_tasks.names import mteb_package
from eval.systems.system import TextEncoder

_TYPES = ("query", "document")


def parse_prompts(options: Iterable[str]) -> dict[str, str]:
    """The prompts of `mteb_prompts`, by mteb's names. UserError for unknown names and prompts."""
    found: dict[str, str] = {}
    for option in options:
        name, equals, prompt = option.partition("=")
        if not equals or not name:
            raise UserError(f"mteb_prompts {option!r}: write NAME=PROMPT, such as query=instruct")
        check_prompt(prompt)
        found[name] = prompt
    for name in found:
        _check_name(name)
    return found


def prompts_by_name(encoder: TextEncoder, given: Mapping[str, str]) -> Mapping[str, str]:
    """The prompts that `given` names, or else those of a published embedder; empty if the encoder has one prompt."""
    reading: Published | None = encoder.published
    if given or reading is None or encoder.config.prompt_name != PUBLISHED:
        return given
    return {name: published_prompt(name) for name in reading.prompts}


def prompt_of(prompts: Mapping[str, str], metadata: Any, prompt_type: Any, task: str) -> str | None:
    """The prompt of a text; None if no name fits, where the encoder's own prompt is used.

    `instruct` gets the instruction that mteb has for the task, or `task` if mteb has none.
    """
    name = next((name for name in names_of(metadata, prompt_type) if name in prompts), None)
    prompt = None if name is None else prompts[name]
    if prompt != "instruct" or side_of(prompt_type) == "document":
        return prompt
    return f"Instruct: {_instruction(metadata, prompt_type) or task}\nQuery: {SLOT}"


def names_of(metadata: Any, prompt_type: Any) -> Sequence[str]:
    """mteb's names for the prompt of a text, the most specific first."""
    kind = None if prompt_type is None else str(prompt_type.value)
    of_task = [name for name in (metadata.name, metadata.type) if name]
    if kind is None:
        return of_task
    return [*(each for name in of_task for each in (f"{name}-{kind}", name)), kind]


def side_of(prompt_type: Any) -> Side:
    """`text` for tasks that have neither queries nor documents, such as similarity."""
    return "text" if prompt_type is None else "document" if prompt_type.value == "document" else "query"


def _instruction(metadata: Any, prompt_type: Any) -> str:
    from mteb.models.abs_encoder import AbsEncoder

    plain: Any = SimpleNamespace(prompts_dict=None, prompt_priority=AbsEncoder.prompt_priority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mteb warns of a task that has no instruction
        return str(AbsEncoder.get_instruction(plain, metadata, prompt_type))


def _check_name(name: str) -> None:
    package = mteb_package()
    from mteb.abstasks.task_metadata import TaskType

    of_task = next((name.removesuffix(f"-{kind}") for kind in _TYPES if name.endswith(f"-{kind}")), name)
    if of_task in _TYPES or of_task in get_args(TaskType):
        return
    try:
        package.get_task(of_task)
    except KeyError:
        raise UserError(
            f"mteb_prompts {name}: unknown; use query, document, a task type such as Retrieval or STS, a task such as "
            "ArguAna, or one of the last two with -query or -document"
        ) from None
