"""Every option of a training run. The resolved value is written to `config.yaml` in the run folder."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig

Fraction = Annotated[float, Ge(0.0), Lt(1.0)]


@dataclass(frozen=True, config=STRICT)
class LoraConfig:
    """Which weights are trained."""

    method: Literal["lora", "full"] = "lora"
    """lora trains adapters through PEFT; full trains every weight of the decoder."""
    rank: Annotated[int, Ge(1)] = 16
    """Rank of the update."""
    alpha: Annotated[float, Gt(0.0)] = 32.0
    """Scale of the update is alpha / rank (alpha / sqrt(rank) with rslora)."""
    dropout: Fraction = 0.0
    """Dropout on the adapter's input."""
    targets: str | tuple[str, ...] = "all-linear"
    """all-linear, or a list of module names such as [q_proj, v_proj]."""
    layers: tuple[Annotated[int, Ge(0)], ...] = ()
    """Blocks that get adapters, numbered from 0; empty takes all that the pooled layer depends on."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained in full beside the adapters and kept with them (PEFT's modules_to_save): [embed_tokens]."""
    rslora: bool = False
    """Rank-stabilised scale (Kalajdzievski 2023)."""
    dora: bool = False
    """Weight-decomposed update (Liu et al. 2024)."""
    init: Literal["default", "gaussian", "pissa", "olora", "orthogonal"] = "default"
    """How PEFT fills the adapter's matrices; pissa and olora take them out of the base's."""
    fused: bool = True
    """Multiply by weights and adapters together, where that is the same (no dropout; float32, or autocast on a CPU),
    instead of in passes of their own over every token; off is PEFT's own way."""
    gradient_checkpointing: bool = False
    """Recompute activations in backward: less memory, about a third more time."""


LossKind = Literal["infonce", "cosent", "angle", "supcon", "distil_scores", "distil_vectors"]
Distance = Literal["kl", "margin", "mse", "correlation"]


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """What is minimised over the global batch."""

    kind: LossKind = "infonce"
    """infonce for pairs; cosent, angle for pairs with scores; supcon for labelled texts; distil_scores, distil_vectors
    for any texts and a teacher."""
    weight: Annotated[float, Gt(0.0)] = 1.0
    """Factor of this loss."""
    matryoshka: tuple[Annotated[int, Ge(1)], ...] = ()
    """Numbers of leading dimensions that are embeddings too, such as [64, 128]; the full number always is."""
    matryoshka_weights: tuple[Annotated[float, Gt(0.0)], ...] = ()
    """Weight of the loss at each of these; empty weighs all with 1, as the full number is unless listed."""
    angle_weights: tuple[Annotated[float, Ge(0.0)], Annotated[float, Ge(0.0)], Annotated[float, Ge(0.0)]] = (
        1.0,
        1.0,
        1.0,
    )
    """AnglE's sum of the cosine, in-batch and angle losses; 0 leaves one out."""
    distance: Distance | None = None
    """Between the student's and the teacher's cosines. distil_scores: kl (default) or margin; distil_vectors: mse
    (default) or correlation."""
    teacher: str | None = None
    """Folder of a sentence-transformers model or of a dec2vec encoder to distil from; its vectors are kept on disk."""
    teacher_temperature: Annotated[float, Gt(0.0)] = 0.05
    """The teacher's cosines are divided by it in kl; never learned."""
    temperature: Annotated[float, Gt(0.0)] = 0.05
    """Cosines are divided by it; the starting value when learned."""
    learn_temperature: bool = False
    """Train log(temperature) with the adapters."""
    symmetric: bool = False
    """Also rank anchors for each positive, and average both directions."""
    margin: Annotated[float, Ge(-2.0), Le(2.0)] | None = None
    """Cosines above the positive's minus this are no negatives (Qwen3-Embedding: -0.1); None turns it off."""
    query_negatives: bool = False
    """An anchor's negatives are the other anchors too (the query-to-query term of GTE and Qwen3-Embedding)."""
    document_negatives: bool = False
    """The other positives also push a positive away from themselves (their document-to-document term)."""
    hardness: Annotated[float, Ge(0.0), Le(100.0)] = 0.0
    """A negative weighs e^(hardness * cosine), a constant to the gradient (Lan et al. 2025); 0 weighs all alike."""


Kind = Literal["pairs", "graded", "texts", "labelled"]


@dataclass(frozen=True, config=STRICT)
class SourceConfig:
    """One set of training rows."""

    path: str = ""
    """File (jsonl, csv, tsv, parquet), folder written by `datasets.save_to_disk`, or Hub id."""
    split: str = "train"
    """Split of a saved or Hub data set; files have none."""
    subset: str | None = None
    """Configuration of a Hub data set that has several, such as `triplet` of sentence-transformers/all-nli."""
    kind: Kind = "pairs"
    """What a row is: an anchor with its match (pairs), two texts with a score (graded), a text alone, embedded twice
    under dropout (texts), or a text with its class (labelled)."""
    anchor: str = "anchor"
    """pairs: column of the queries."""
    positive: str = "positive"
    """pairs: column of the matching texts."""
    negatives: tuple[str, ...] | None = None
    """pairs: columns of hard negatives; None takes `negative`, `negative_1`, `negative_2` ... where present."""
    document_id: str | None = None
    """pairs: column of the positives' ids; where two are equal, neither is a negative of the other's anchor."""
    sentence1: str = "sentence1"
    """graded: column of the first texts."""
    sentence2: str = "sentence2"
    """graded: column of the second texts."""
    score: str = "score"
    """graded: column of their similarity; only its order counts."""
    text: str = "text"
    """texts and labelled: column of the texts."""
    label: str = "label"
    """labelled: column of the classes; equal values are one class, in all sources of a batch."""
    texts_per_label: Annotated[int, Ge(2)] = 2
    """labelled: so many texts of a label, or all that it has, come in one batch."""
    query_prompt: str | None = None
    """Prompt of the anchors, and of every text of the other kinds, at the model's layer; None is the model's."""
    document_prompt: str | None = None
    """pairs: prompt of positives and negatives; None is the model's."""
    losses: tuple[LossConfig, ...] = ()
    """Losses of this source's batches; none means the run's `loss`."""
    clean: bool = False
    """Leave out rows with an empty text, all but the first of equal rows, and anchors equal to their positive."""
    only: tuple[str, ...] = ()
    """Use only rows where a column has a value: [source=mrpc, source=qqp] keeps both; empty keeps all."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use only the first rows of those."""
    streaming: bool = False
    """Fetch a Hub data set row by row, no further than `limit`; no copy stays in the cache of `datasets`."""
    weight: Annotated[float, Gt(0.0), Le(1e6)] | None = None
    """With `batch.sources single`: a step's chance to come from this source, relative to the others'; None for all is
    their number of rows."""


@dataclass(frozen=True, config=STRICT)
class MiningConfig:
    """Hard negatives for pairs, found while training by the model itself; `dec2vec mine` finds them beforehand."""

    every: Annotated[int, Ge(1)] | None = None
    """Steps between two searches among the positives of a source, the first after so many; None searches never."""
    negatives: Annotated[int, Ge(1), Le(100)] = 1
    """Wanted for each pair, beside those of the data."""
    min_rank: Annotated[int, Ge(1)] = 1
    """First place of the window, by cosine; texts equal to anchor or positives don't count."""
    max_rank: Annotated[int, Ge(1)] = 100
    """Last place of the window."""
    choice: Literal["top", "random"] = "top"
    """Which of those that pass: the highest scores, or a seeded draw."""
    margin: Annotated[float, Ge(0.0)] = 0.0
    """A negative's score is at most the positive's minus this."""
    ratio: Annotated[float, Gt(0.0), Le(1.0)] = 0.95
    """A negative's score is at most this share of the positive's."""


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """AdamW and its schedule."""

    steps: Annotated[int, Ge(1)] | None = None
    """Optimiser steps; None takes them from `epochs`."""
    epochs: Annotated[float, Gt(0.0)] = 1.0
    """Passes over the data when `steps` is None."""
    lr: Annotated[float, Gt(0.0)] = 5e-4
    """Peak learning rate."""
    warmup: Annotated[float, Ge(0.0), Le(1.0)] = 0.1
    """Share of the steps that warm up."""
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    """Shape after the warm-up, down to zero."""
    weight_decay: Annotated[float, Ge(0.0)] = 0.0
    """AdamW's decoupled decay."""
    beta2: Annotated[float, Gt(0.0), Lt(1.0)] = 0.999
    """AdamW's second-moment decay."""
    max_grad_norm: Annotated[float, Gt(0.0)] = 1.0
    """Gradients are clipped to this global norm."""


@dataclass(frozen=True, config=STRICT)
class BatchConfig:
    """How much is contrasted at once, and how much is computed at once."""

    size: Annotated[int, Ge(2)] = 256
    """Pairs in a step over all processes: each sees the others as negatives."""
    sources: Literal["mixed", "single"] = "mixed"
    """mixed draws each batch from all sources; single fills it from a single source: negatives of the same kind."""
    no_duplicates: bool = False
    """No text comes twice in a batch, as anchor, positive or negative of two rows."""
    chunk_tokens: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    """Padded tokens of one forward pass: bounds the memory, never changes the gradient. auto: 1024 on CPUs, whose
    caches then hold a layer's activations, 16384 on CUDA."""
    graph_tokens: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    """Tokens a process may keep the graph of; the rest is embedded twice (gradient caching). auto: what fits into half
    of the memory that is free at the first step."""
    share_prefix: bool = True
    """Run what all texts of a step begin with (an instruction) once, where that gives the same gradient."""
    unpadded: bool = False
    """On CUDA in 16 bits, run a chunk's texts end to end instead of in padded rows, where torch has the kernel for it
    and they have no common beginning to share; not measured on a GPU yet."""


@dataclass(frozen=True, config=STRICT)
class CheckpointConfig:
    """What survives a kill."""

    every: Annotated[int, Ge(1)] = 100
    """Steps between checkpoints; one is always written at the end and on SIGTERM or SIGINT."""
    keep: Annotated[int, Ge(1)] = 2
    """Newest checkpoints kept, beside the best one."""
    resume: Literal["auto", "fresh"] = "auto"
    """auto goes on from the newest whole checkpoint of the same configuration."""


@dataclass(frozen=True, config=STRICT)
class DistributedConfig:
    """How several processes watch each other."""

    timeout: Annotated[float, Gt(0.0), Le(1e7)] = 1800.0
    """Seconds that a process waits for the others before it ends; they wait while the main one evaluates on dev."""
    compare_every: Annotated[int, Ge(1)] = 100
    """Steps between comparisons of all processes' trained weights; they are also compared before every checkpoint."""


@dataclass(frozen=True, config=STRICT)
class TrackingConfig:
    """Where metrics go besides `metrics.jsonl`."""

    backend: Literal["wandb", "tensorboard", "none"] = "none"
    """wandb logs offline when there is no login."""
    project: str = "dec2vec"
    """W&B project, or entity/project for that of a team or another user."""
    upload: bool = False
    """Also send the report and the adapter as artifacts."""
    every: Annotated[int, Ge(1)] = 1
    """Steps between logged lines."""


@dataclass(frozen=True, config=STRICT)
class EvalSection:
    """Dev evaluation while training and the report after it. Files as in docs: sentence1, sentence2, score."""

    dev: str | None = None
    """Similarity file on which every choice is made (checkpoint, layer, k)."""
    tests: tuple[str, ...] = ()
    """Similarity files that are only reported on."""
    every: Annotated[int, Ge(1)] = 100
    """Steps between dev evaluations."""
    after_training: bool = True
    """Compare the tuned model with every untuned system when training ends."""
    whitening_sentences: Annotated[int, Ge(2)] = 8000
    """Training-side sentences that whitening is fitted on."""

    @property
    def has_report(self) -> bool:
        """Whether a report follows the training."""
        return self.after_training and self.dev is not None and bool(self.tests)


@dataclass(frozen=True, config=STRICT)
class ExportConfig:
    """What is written for the Hub when training ends."""

    model: bool = True
    """Write `model/`, the sentence-transformers folder; without it what that can't express may be trained too."""
    merge: bool = False
    """Fold the adapter into the weights of `model/`."""
    whiten: bool = False
    """Add the tuned model's whitening as a layer of `model/` (fitted on training-side text)."""
    license: str = "other"
    """Licence identifier for the model card."""
    language: str = "en"
    """Language code for the model card."""
    push: str | None = None
    """Hub repository user/name: each checkpoint that is the best on dev so far goes there while training runs, and the
    finished model with its report at the end."""
    private: bool = False
    """Create that repository private."""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A training run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    data: tuple[SourceConfig, ...] = ()
    loss: LossConfig = Field(default_factory=LossConfig)
    mining: MiningConfig = Field(default_factory=MiningConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    batch: BatchConfig = Field(default_factory=BatchConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    distributed: DistributedConfig = Field(default_factory=DistributedConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    eval: EvalSection = Field(default_factory=EvalSection)
    export: ExportConfig = Field(default_factory=ExportConfig)
    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Decides data order, adapter init and dropout."""
    output_dir: str = "runs/default"
    """Run folder."""


RESUMABLE_CHANGES = (
    "checkpoint",
    "distributed",
    "tracking",
    "eval.tests",
    "eval.every",
    "eval.after_training",
    "eval.whitening_sentences",
    "export",
    "output_dir",
)
"""Sections and options that may differ between a run and its resumption."""
