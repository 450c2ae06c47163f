"""Losses that are refused because they do not fit their source, or have options without an effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dec2vec.errors import UserError
from train.config import LoraConfig, TrainConfig
from train.losses.inputs import GradedInputs, LabelledInputs, LossInputs, PairInputs, TeacherInputs
from train.losses.per_source import losses_of, used_losses
from train.options.data import Kind
from train.options.losses import Distance, LossConfig, LossKind

ROWS: dict[Kind, type[LossInputs]] = {
    "pairs": PairInputs,
    "texts": PairInputs,
    "graded": GradedInputs,
    "labelled": LabelledInputs,
}
"""The inputs of a loss that each kind of source provides."""
ROWS_OF: dict[LossKind, type[LossInputs]] = {
    "infonce": PairInputs,
    "cosent": GradedInputs,
    "angle": GradedInputs,
    "supcon": LabelledInputs,
    "distil_scores": TeacherInputs,
    "distil_vectors": TeacherInputs,
    "embed_distill": TeacherInputs,
    "distil_reranker": PairInputs,
}
"""The inputs that each loss needs."""
WORDS: dict[type[LossInputs], str] = {
    PairInputs: "pairs of anchor and positive",
    GradedInputs: "pairs with a score",
    LabelledInputs: "texts with a label",
    TeacherInputs: "texts with a teacher's vectors",
}
DISTANCES: dict[LossKind, tuple[Distance, ...]] = {
    "distil_scores": ("kl", "margin"),
    "distil_vectors": ("mse", "correlation"),
    "embed_distill": ("cosine", "mse"),
    "distil_reranker": ("kl", "margin"),
}
"""Distances that each distillation can minimize. The first is the default."""
_FROM_A_MODEL: tuple[LossKind, ...] = ("distil_scores", "distil_vectors", "embed_distill")
"""Distillations whose teacher is a model that embeds the texts."""
COMMON = ("kind", "weight", "matryoshka", "matryoshka_weights", "temperature", "learn_temperature")
"""Options that every loss uses."""
_ONLY_KL = {True: ("temperature", "learn_temperature", "teacher_temperature"), False: ("score_temperature",)}
"""Options that only the distance kl uses, by whether the teacher is a model: its margins are cosines, as the student's;
those of a reranker are logits, which the student's cosines reach when they are divided by the temperature."""
ONLY_FOR: dict[str, tuple[LossKind, ...]] = {
    "symmetric": ("infonce",),
    "margin": ("infonce",),
    "query_negatives": ("infonce",),
    "document_negatives": ("infonce",),
    "hardness": ("infonce",),
    "angle_weights": ("angle",),
    "positives": ("infonce",),
    "distance": ("distil_scores", "distil_vectors", "embed_distill", "distil_reranker"),
    "teacher": ("distil_scores", "distil_vectors", "embed_distill"),
    "projection": ("embed_distill",),
    "teacher_temperature": ("distil_scores",),
    "score_scale": ("distil_reranker",),
    "score_temperature": ("distil_reranker",),
}
"""Options that only these losses use. An option that is neither here nor in `COMMON` would be silently ignored."""


def check_losses(config: TrainConfig) -> None:
    """UserError for a loss that does not fit a source, or that has options without an effect."""
    for number, source in enumerate(config.data):
        for loss in losses_of(source, config):
            rows = TeacherInputs if loss.kind in _FROM_A_MODEL else ROWS[source.kind]
            check_loss(loss, rows, f"data.{number} (kind {source.kind})")
            _check_kind(loss, source.kind, number)
    if config.data and all(source.losses for source in config.data):
        _refuse_unused(config.loss)
    _check_projection([loss for loss in used_losses(config) if loss.kind == "embed_distill"])
    starts = sorted({loss.temperature for loss in used_losses(config) if loss.learn_temperature})
    if len(starts) > 1:
        raise UserError(
            "loss.temperature: losses that learn it share one value, which cannot start at "
            f"{' and '.join(map(str, starts))}; set the same temperature for them"
        )


def _check_projection(losses: Sequence[LossConfig]) -> None:
    """A run trains one projection, to one teacher."""
    for option in ("teacher", "projection"):
        values = sorted({str(vars(loss)[option]) for loss in losses})
        if len(values) > 1:
            raise UserError(
                f"loss.{option}: a run trains one projection, but its losses of kind embed_distill have "
                f"{' and '.join(values)}; set the same {option} for them"
            )
    for loss in losses:
        if loss.projection != "drop" and loss.matryoshka:
            raise UserError(
                f"loss.matryoshka: with loss.projection {loss.projection} embed_distill compares whole vectors; remove "
                "it from this loss (the others may have it), or use loss.projection drop"
            )


def _check_kind(loss: LossConfig, kind: Kind, number: int) -> None:
    """Refuse what needs a query with documents where a row is a single text."""
    if kind != "texts":
        return
    if loss.positives != "each":
        raise UserError(
            f"loss.positives {loss.positives}: a text of data.{number} (kind texts) has itself as its only positive; "
            "remove it"
        )
    if loss.kind == "distil_reranker":
        raise UserError(
            f"loss.kind distil_reranker needs documents with scores, but data.{number} (kind texts) has single texts"
        )


def _refuse_unused(loss: LossConfig) -> None:
    default = LossConfig()
    changed = [f"loss.{name}" for name, value in vars(loss).items() if value != vars(default)[name]]
    if changed:
        raise UserError(
            f"{', '.join(changed)}: every source has its own losses, so these options are not used; set them in "
            "the losses of the source that they are for, or remove them"
        )


def check_loss(config: LossConfig, rows: type[LossInputs], source: str) -> None:
    """Refuse a loss that does not fit the inputs `rows`, or has unsuitable options. The message names `source`."""
    check_rows(config.kind, rows, source)
    _check_options(config)
    _check_matryoshka(config)


def check_rows(kind: LossKind, rows: type[LossInputs], source: str) -> None:
    """Refuse a kind of loss that needs other inputs than `source` provides."""
    if not issubclass(rows, ROWS_OF[kind]):
        fitting = " or ".join(name for name, wanted in ROWS_OF.items() if issubclass(rows, wanted))
        raise UserError(
            f"loss.kind {kind} needs {WORDS[ROWS_OF[kind]]}, but {source} has {WORDS[rows]}; use {fitting} for it"
        )


def distance_of(config: LossConfig) -> Distance:
    """The distance that a distillation minimizes."""
    return config.distance or DISTANCES[config.kind][0]


def used_options(config: LossConfig) -> dict[str, object]:
    """The options that have an effect on this loss, with the distance that it minimizes."""
    names = [*COMMON, *(name for name, kinds in ONLY_FOR.items() if config.kind in kinds)]
    options = {name: vars(config)[name] for name in names}
    if config.kind in DISTANCES:
        options["distance"] = distance_of(config)
        without = () if options["distance"] == "kl" else _ONLY_KL[config.kind in _FROM_A_MODEL]
        options = {name: value for name, value in options.items() if name not in without}
    if not config.matryoshka:
        options = {name: value for name, value in options.items() if not name.startswith("matryoshka")}
    return options


def _check_options(config: LossConfig) -> None:
    given, default = vars(config), vars(LossConfig())
    for name, kinds in ONLY_FOR.items():
        if config.kind not in kinds and given[name] != default[name]:
            raise UserError(
                f"loss.{name} is not used by loss.kind {config.kind} (only by {', '.join(kinds)}); remove it, or "
                "set the kind of loss that it is for"
            )
    if config.kind in DISTANCES and distance_of(config) not in DISTANCES[config.kind]:
        allowed = " or ".join(DISTANCES[config.kind])
        raise UserError(f"loss.distance {config.distance}: use {allowed} with loss.kind {config.kind}")
    if config.kind in _FROM_A_MODEL and config.teacher is None:
        raise UserError(f"loss.kind {config.kind}: give the folder of a teacher with loss.teacher")
    if config.kind == "angle" and not any(config.angle_weights):
        raise UserError("loss.angle_weights: all are 0; set at least one above 0")
    if config.kind in _FROM_A_MODEL and distance_of(config) != "kl" and config.learn_temperature:
        raise UserError(f"loss.learn_temperature: loss.distance {distance_of(config)} has no temperature; remove it")

    if config.positives == "sum" and (config.query_negatives or config.document_negatives):
        name = "query_negatives" if config.query_negatives else "document_negatives"
        raise UserError(
            f"loss.{name}: its negatives belong to a query and one positive; use loss.positives mean, or remove it"
        )


def _check_matryoshka(config: LossConfig) -> None:
    sizes, weights = config.matryoshka, config.matryoshka_weights
    if len(set(sizes)) != len(sizes):
        raise UserError(f"loss.matryoshka {list(sizes)}: a number of dimensions is repeated; list each once")
    if weights and len(weights) != len(sizes):
        raise UserError(
            f"loss.matryoshka_weights: {len(weights)} weights for {len(sizes)} numbers of dimensions; give one for each"
        )


_OTHER_HEADS = ("classifier", "summary", "cls")
"""Prefixes of the dropout options of task heads, which embedding models do not have (`summary_first_dropout`)."""


def check_dropout(architecture: Mapping[str, object], lora: LoraConfig, source: str) -> None:
    """Refuse a source of single texts if both copies of a text would get the same vector.

    `architecture` is the configuration of the decoder, `config.get_text_config().to_dict()`.
    """
    if (lora.method == "lora" and lora.dropout > 0) or any(_drops(*entry) for entry in architecture.items()):
        return
    fix = "lora.dropout 0.1" if lora.method == "lora" else "lora.method lora and lora.dropout 0.1"
    raise UserError(f"{source}: the two copies of a text differ only by dropout, and every dropout is 0; add {fix}")


def _drops(name: str, value: object) -> bool:
    """Whether it is a positive dropout rate, as named by any family: attention_dropout, resid_pdrop, layerdrop."""
    return "drop" in name and not name.startswith(_OTHER_HEADS) and isinstance(value, float) and value > 0
