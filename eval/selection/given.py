"""Systems that no dev data of the task chose: given beforehand, chosen on those of another task, or not chosen at all.

An evaluation needs no choice where there is nothing to choose: the tuned run has its own reading, and the same reading
of the untuned decoder is given with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from dec2vec.decoder.pooling import View
from dec2vec.vectors.whitening import Whitening
from eval.config import PostName
from eval.postprocess.fitting import Fitting
from eval.postprocess.on_corpus import corpus_candidates
from eval.selection.choose import Choice, Selection, best, rescored
from eval.systems.system import Post, System
from eval.tasks.task import E, Task, TaskVectors

Vectors = Mapping[View, TaskVectors]


@dataclass(frozen=True, eq=False)
class Given:
    """A system that is named beforehand: a tuned run as it is exported, or the untuned decoder read as that run."""

    system: System
    whitening: Whitening | None = None
    is_exported: bool = False

    def choice(self, width: int) -> Choice:
        """Nothing was chosen for it."""
        k = width if self.whitening is None else self.whitening.dimension
        return Choice(self.system, k, float("nan"), post=self.whitening, is_exported=self.is_exported)

    def is_same_map(self, choice: Choice) -> bool:
        """Whether a choice of this system's name was fitted on the same text as the run's own whitening."""
        posts = (self.whitening, choice.post)
        mine, other = (None if post is None else post.provenance.get("fit_sha256") for post in posts)
        return mine == other


def as_exported(raw: System, whitening: Whitening | None) -> list[Given]:
    """A tuned run's raw vectors, and with a whitening of its own the whitened ones, which are what it exports."""
    if whitening is None:
        return [Given(raw, is_exported=True)]
    k = whitening.dimension
    whitened = replace(raw, post=Post("whiten", f"whiten-{k}", k))
    return [Given(raw), Given(whitened, whitening, is_exported=True)]


def with_given(
    chosen: Sequence[Choice],
    given: Sequence[Given],
    vectors: Vectors,
    task: Task[E] | None = None,
    similarity: Sequence[Choice] = (),
) -> list[Choice]:
    """`chosen`, and of `given` what is not among it. `vectors` are of the dev data of `task`, or of a test.

    A given system keeps the score that it has on the similarity dev file, among whose choices it may be.
    """
    scored = {choice.system: choice for choice in similarity}
    found = {choice.system: choice for choice in chosen}
    for item in given:
        choice = found.get(item.system)
        is_other = choice is not None and not item.is_same_map(choice)
        if choice is None or is_other or choice.selection in ("other dev", "none"):  # it is given, whatever else speaks
            plain = scored.get(item.system, item.choice(vectors[item.system.view].queries.shape[1]))
            plain = replace(plain, selection="fixed", chosen_on=None, dev_curve=())
            choice = plain if task is None else rescored(task, plain, vectors)
        found[item.system] = replace(choice, is_exported=item.is_exported)
    return list(found.values())


def inherited(choices: Sequence[Choice]) -> list[Choice]:
    """For a task without dev data: of each post-processing the choice with the best similarity dev score."""
    families: dict[PostName, list[Choice]] = {}
    for choice in choices:
        if not choice.system.is_transductive:
            families.setdefault(choice.system.family, []).append(choice)
    return [_inherited(members) for members in families.values()]


def _inherited(members: Sequence[Choice]) -> Choice:
    """Of one post-processing. What stood alone was not chosen by the other task either."""
    found = replace(best(members), dev_curve=())
    if len(members) == 1 and found.selection == "fixed":
        return found
    return replace(found, chosen_on=found.dev_data, selection="other dev")


@dataclass(frozen=True)
class Undecided:
    """What is tried on a task for which no dev data choose: every candidate is a row of its own."""

    views: tuple[View, ...]
    posts: tuple[PostName, ...]
    is_only_reading: bool
    """There is one prompt, and one view of it: nothing has to be chosen."""

    def choices(self, vectors: Vectors, fitting: Fitting, task: Task[E] | None = None) -> list[Choice]:
        """Every view with every post-processing in every strength, those on the corpus of `task` too."""
        return [choice for view in self.views for choice in self._of_view(view, vectors[view], fitting, task)]

    def _of_view(self, view: View, vectors: TaskVectors, fitting: Fitting, task: Task[E] | None) -> Iterator[Choice]:
        candidates = fitting.candidates(view, vectors.queries.shape[1])
        candidates += [] if task is None else corpus_candidates(task, fitting, view, vectors)
        for candidate in candidates:
            if candidate.post in self.posts:
                is_only = self.is_only_reading and sum(other.kind == candidate.kind for other in candidates) == 1
                selection: Selection = "fixed" if is_only else "none"
                system = fitting.system(view, candidate.described)
                post = candidate.transform(fitting.provenance(view))
                yield Choice(system, candidate.k, float("nan"), post=post, selection=selection)


NOTHING = Undecided((), (), is_only_reading=False)
