"""What a model was tuned with, in words. The losses are those that training resolves, source by source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.config import TrainConfig
from train.losses.checks import distance_of, used_options
from train.losses.per_source import losses_of
from train.options.data import SourceConfig
from train.options.losses import LossConfig

_ROWS = {"pairs": "pairs", "graded": "scored pairs", "texts": "single texts", "labelled": "labelled texts"}
_NAMES = {
    "cosent": "CoSENT",
    "angle": "AnglE",
    "supcon": "supervised contrastive loss",
    "distil_scores": "distillation of cosines",
    "distil_vectors": "distillation of the matrix of cosines",
    "embed_distill": "regression on the vectors",
}


def objective(loss: LossConfig, source: SourceConfig, config: TrainConfig, with_negatives: int | None) -> str:
    """One loss of one source, such as `0.5 x InfoNCE with in-batch and hard negatives (Matryoshka 64, 128)`."""
    weight = "" if loss.weight == 1.0 else f"{loss.weight:g} x "
    sizes = f" (Matryoshka {', '.join(map(str, loss.matryoshka))})" if loss.matryoshka else ""
    return f"{weight}{_name(loss, source, config, with_negatives)}{sizes}"


def _name(loss: LossConfig, source: SourceConfig, config: TrainConfig, with_negatives: int | None) -> str:
    if loss.kind == "infonce":
        if source.kind == "texts":
            return "SimCSE (InfoNCE of two dropout views of a text, in-batch negatives)"
        together = "" if loss.positives == "each" else f", all positives of a query together ({loss.positives})"
        return f"InfoNCE with {_negatives(source, config, with_negatives)} negatives{together}"
    if loss.kind == "distil_reranker":
        return f"distillation of a reranker's scores ({distance_of(loss)})"
    if loss.teacher is not None:
        through = {"drop": ", through a projection that is not part of the model", "keep": ", through its Dense layer"}
        how = through.get(loss.projection, "") if loss.kind == "embed_distill" else ""
        return f"{_NAMES[loss.kind]} from `{Path(loss.teacher).name}` ({distance_of(loss)}{how})"
    return _NAMES[loss.kind]


def _negatives(source: SourceConfig, config: TrainConfig, with_negatives: int | None) -> str:
    """Of a source whose rows are not known: what its options say."""
    has_own = bool(source.negatives) if with_negatives is None else with_negatives > 0
    kinds = ["in-batch", *(["hard"] if has_own else []), *(["mined"] if config.mining.every is not None else [])]
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"


def tuned_with(config: TrainConfig, with_negatives: Sequence[int | None]) -> str:
    """Every objective with the rows that it was for: `InfoNCE with in-batch negatives on pairs, and CoSENT on ...`."""
    found = [
        f"{objective(loss, source, config, count)} on {_ROWS[source.kind]}"
        for source, count in zip(config.data, with_negatives, strict=True)
        for loss in losses_of(source, config)
    ]
    parts = list(dict.fromkeys(found))
    return parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}" if parts else ""


def method(config: TrainConfig) -> str:
    """Which weights were trained, and how."""
    lora = config.lora
    if lora.method == "full":
        return "full fine-tuning"
    name = "DoRA" if lora.dora else "LoRA"
    form = [f"rank {lora.rank}", *(["rank-stabilized"] if lora.rslora else [])]
    form += [f"{lora.init} initialization"] if lora.init != "default" else []
    form += ["on a base in 4 bits (NF4)"] if config.model.load_in_4bit else []
    return f"{name} ({', '.join(form)})"


def loss_options(loss: LossConfig) -> dict[str, object]:
    """The options that have an effect, as plain YAML and without the place of a teacher."""
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in used_options(loss).items()}
    return options if loss.teacher is None else {**options, "teacher": Path(loss.teacher).name}
