"""The readings of the untuned decoder that are tried: those among which dev data choose, and those without dev data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dec2vec.decoder.pooling import View
from eval.config import SystemsConfig
from eval.selection.asked import asked, names_readings
from eval.selection.given import NOTHING, Undecided
from eval.systems.system import (
    System,
    TextEncoder,
    candidate_views,
    own_view,
    published_system,
    usable_prompts,
    usable_views,
)


@dataclass(frozen=True)
class Candidates:
    """Prompts, and what is tried with each."""

    prompts: Sequence[str]
    views: Sequence[View]
    """What dev data choose from."""
    undecided: Undecided
    undecided_prompts: Sequence[str]
    """Those that are tried where no dev data choose; the others serve the given readings."""
    given: Sequence[System]
    """Rows of every task: a published embedder as it is published, and the tuned runs' readings."""

    @classmethod
    def from_config(
        cls,
        systems: SystemsConfig,
        encoder: TextEncoder,
        references: Sequence[System],
        *,
        can_choose: bool,
        is_undecided: bool,
    ) -> Candidates:
        """`can_choose`: some task has dev data. `is_undecided`: some task has none, not even those of another task."""
        named = asked(systems, encoder.config)
        wanted = named.prompts if is_undecided and (names_readings(systems) or not references) else ()
        tried = systems.prompts if can_choose else wanted
        published = published_system(encoder)
        given = list(dict.fromkeys([*([] if published is None else [published]), *references]))
        prompts = usable_prompts(encoder, (*tried, *wanted, *(system.prompt for system in given)))
        views = candidate_views(systems, encoder.layer_count) if can_choose else []
        alone = candidate_views(named, encoder.layer_count) if wanted else []
        if not names_readings(systems):
            own = own_view(encoder)
            alone = [own if view == replace(own, dense=False) else view for view in alone]
        usable = usable_views(encoder, list(dict.fromkeys([*views, *alone])), prompts[0])
        undecided_views = tuple(view for view in alone if view in usable)
        undecided_prompts = [prompt for prompt in prompts if prompt in wanted]
        is_only = len(undecided_prompts) * len(undecided_views) == 1
        return cls(
            prompts,
            [view for view in views if view in usable],
            Undecided(undecided_views, named.post, is_only_reading=is_only),
            undecided_prompts,
            given,
        )

    def of(self, prompt: str) -> Undecided:
        """What is tried with `prompt` on a task for which no dev data choose."""
        return self.undecided if prompt in self.undecided_prompts else NOTHING
