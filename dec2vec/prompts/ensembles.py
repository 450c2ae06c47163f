"""Ensembles of prompts: each prompt embeds the text, and the vector is the mean of these vectors.

metaeol             MetaEOL's eight templates (Lei et al. 2024), mean of the raw vectors
metaeol:1,3,5       some of them, numbered as published
ck                  Knowledge Enhancement and Pretended CoT (the CK baseline of Cheng et al. 2025)
metaeol+unit        mean of the vectors scaled to length 1, so that a member with long vectors does not dominate
"""

from __future__ import annotations

from dataclasses import dataclass

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import (
    CHAT_NAMES,
    ENSEMBLE_NAMES,
    PUBLISHED,
    SLOT,
    Prompt,
    Side,
    echo_prompt,
    get_prompt,
    template_prompt,
)
from dec2vec.prompts.templates import METAEOL
from dec2vec.prompts.templates import PUBLISHED as TEMPLATES

UNIT = "+unit"
OF_THE_MODEL = (*CHAT_NAMES, PUBLISHED)
"""Prompts whose words are in the files of the model."""


@dataclass(frozen=True)
class Ensemble:
    """Prompts whose vectors are averaged, after scaling them to length 1 if `unit`. It may be a single prompt."""

    members: tuple[Prompt, ...]
    unit: bool = False

    @property
    def is_single(self) -> bool:
        """Whether the vectors are simply those of one prompt."""
        return len(self.members) == 1 and not self.unit


def get_ensemble(spec: str, task: str, side: Side = "text") -> Ensemble:
    """The prompts that `spec` names: a single one of `get_prompt`, `echo`, or an ensemble. Chat prompts are in `chat`.

    UserError for unknown names, and for members that the ensemble does not have.
    """
    if spec == "echo":
        return Ensemble((echo_prompt(task, side),))
    name, _, chosen = spec.removesuffix(UNIT).partition(":")
    if name not in ENSEMBLE_NAMES or SLOT in spec:
        return Ensemble((get_prompt(spec, task, side),))
    return Ensemble(_chosen(spec, _members(name), chosen), unit=spec.endswith(UNIT))


def check_prompt(spec: str) -> None:
    """Raise UserError for a prompt that no encoder has. Whether the model has what the name means is checked later."""
    if spec not in OF_THE_MODEL:
        get_ensemble(spec, "")


def default_layer(spec: str) -> int:
    """The layer of the prompt's publication: -2 for Pretended CoT, Knowledge Enhancement and `ck`, otherwise -1."""
    if spec in OF_THE_MODEL or spec.startswith(f"{PUBLISHED}:"):
        return -1
    return get_ensemble(spec, "").members[0].default_layer


def _members(name: str) -> tuple[Prompt, ...]:
    if name == "ck":
        return tuple(template_prompt(part, *TEMPLATES[part]) for part in ("knowledge_enhancement", "pretended_cot"))
    return tuple(template_prompt(f"{name}:{number}", text, -1) for number, text in enumerate(METAEOL, start=1))


def _chosen(spec: str, members: tuple[Prompt, ...], chosen: str) -> tuple[Prompt, ...]:
    """The members with the numbers in `chosen`, such as `1,3,5`; all members if there are no numbers."""
    if ":" not in spec:
        return members
    numbers = chosen.split(",")
    if len(set(numbers)) < len(numbers) or any(
        number not in map(str, range(1, len(members) + 1)) for number in numbers
    ):
        raise UserError(
            f"prompt {spec!r}: members must be different numbers from 1 to {len(members)}, as in "
            f"{spec.partition(':')[0]}:1,2"
        )
    return tuple(members[int(number) - 1] for number in numbers)
