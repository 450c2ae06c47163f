"""The first of two passes over many prompts: all of them on the similarity dev file alone, of which the best go on.

The texts of dev are a tenth of all texts, so that a prompt which is left out costs a fraction of an evaluation. What
decides is the best candidate of each prompt, whatever its layer, pooling and post-processing. Test data are never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from eval.config import SystemsConfig
from eval.selection.choose import Choice, best, choose
from eval.selection.judge import EvaluationOptions, Reader
from eval.systems.system import TextEncoder
from eval.tasks.sts import StsTask


@dataclass(frozen=True, eq=False)
class Tried:
    """One prompt after the first pass."""

    prompt: str
    choices: tuple[Choice, ...]
    """The best candidate of each post-processing, with the scores of all others in the first pass."""

    @property
    def best(self) -> Choice:
        """What the prompt is ranked by."""
        return best(self.choices)


@dataclass(frozen=True, eq=False)
class Shortlist:
    """Every prompt with its dev scores, the best first; of equal ones the one that comes first in the configuration."""

    ranked: tuple[Tried, ...]
    count: int
    """Number of prompts that are kept."""
    dev: str
    """The name of the file that they were compared on."""
    layers: int
    """Number of candidate layers of each prompt in the first pass."""
    kept_layers: int
    """Number of candidate layers of the prompts that are kept."""

    @property
    def kept(self) -> list[str]:
        """The prompts that are evaluated on everything, the best first."""
        return [tried.prompt for tried in self.ranked[: self.count]]

    @property
    def left_out(self) -> list[Tried]:
        """The prompts that are not kept, the best first."""
        return list(self.ranked[self.count :])

    @property
    def left_out_choices(self) -> list[Choice]:
        """The candidates of the prompts that are not kept, for the curves of dev scores."""
        return [choice for tried in self.left_out for choice in tried.choices]

    @property
    def notes(self) -> list[str]:
        """What was left out, with its dev scores."""
        if not self.left_out:
            return []
        return [
            f"Note: {len(self.left_out)} of {len(self.ranked)} prompts were tried on {self.dev} alone and have no rows "
            f"(systems.shortlist): {_scores(self.left_out)}. Kept: {_scores(self.ranked[: self.count])}. These are the "
            f"best dev scores x 100 at {self.layers} layers; the prompts that were kept were then tried at "
            f"{self.kept_layers}."
        ]


def check_shortlist(systems: SystemsConfig, dev: str) -> None:
    """UserError where no similarity dev file could rank the prompts."""
    if systems.shortlist.prompts is not None and not dev:
        raise UserError("config error: systems.shortlist: prompts are compared on a similarity file; give one as dev")


def kept_systems(systems: SystemsConfig, prompts: Sequence[str], layer_count: int) -> SystemsConfig:
    """What is tried with the prompts that are kept."""
    wanted = systems.shortlist.layers
    layers = tuple(range(layer_count + 1)) if wanted == "all" else wanted
    return replace(systems, prompts=tuple(prompts), layers=layers or systems.layers)


def first_pass(
    encoder: TextEncoder,
    dev: StsTask,
    prompts: Sequence[str],
    views: Sequence[View],
    options: EvaluationOptions,
) -> list[Tried]:
    """Each prompt with its dev scores. Only the dev file is read, and the text that post-processings are fitted on."""
    tried = []
    for prompt in prompts:
        reader = Reader.from_encoder(encoder, prompt, views, options)
        vectors = reader.read(dev.test, views)
        watched = options.watched(views, f"{prompt} on {dev.name}")
        choices = choose(dev, vectors, reader.fitting, watched)
        tried.append(Tried(prompt, tuple(replace(choice, post=None) for choice in choices)))  # maps take much memory
    return [found for found in tried if found.choices]


def make_shortlist(tried: Sequence[Tried], count: int, dev: str, layers: int, kept_layers: int) -> Shortlist:
    """The best `count` of the prompts."""
    ranked = sorted(tried, key=lambda found: found.best.rank, reverse=True)
    return Shortlist(tuple(ranked), count, dev, layers, kept_layers)


def _scores(tried: Iterable[Tried]) -> str:
    """Such as `prompteol 69.61 (mean@24+whiten-144)`."""
    return ", ".join(f"{found.prompt} {100 * found.best.dev_score:.2f} ({_reading(found.best)})" for found in tried)


def _reading(choice: Choice) -> str:
    post = choice.system.post
    return str(choice.system.view) if post is None else f"{choice.system.view}+{post.label}"
