"""Every option of a training run. The resolved values are written to `config.yaml` in the run folder."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig

Fraction = Annotated[float, Ge(0.0), Lt(1.0)]
Weight = Annotated[float, Ge(0.0)]


@dataclass(frozen=True, config=STRICT)
class LoraConfig:
    """Which weights are trained."""

    method: Literal["lora", "full"] = "lora"
    """lora trains adapters with PEFT; full trains every weight of the decoder."""
    rank: Annotated[int, Ge(1)] = 16
    """Rank of the adapters."""
    alpha: Annotated[float, Gt(0.0)] = 32.0
    """The update is scaled by alpha / rank (alpha / sqrt(rank) with rslora)."""
    dropout: Fraction = 0.0
    """Dropout probability on the input of the adapters."""
    targets: str | tuple[str, ...] = "all-linear"
    """Modules that get adapters: all-linear, or a list of names such as [q_proj, v_proj]."""
    layers: tuple[Annotated[int, Ge(0)], ...] = ()
    """Decoder blocks that get adapters, numbered from 0. Empty means all blocks that the pooled layer depends on."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that are trained in full and saved with the adapters (PEFT's modules_to_save), such as [embed_tokens]."""
    rslora: bool = False
    """Use the rank-stabilized scale alpha / sqrt(rank) (Kalajdzievski 2023)."""
    dora: bool = False
    """Use weight-decomposed adapters (DoRA, Liu et al. 2024)."""
    init: Literal["default", "gaussian", "pissa", "olora", "orthogonal"] = "default"
    """How PEFT initializes the adapters. pissa and olora take the initial values from the base weights."""
    fused: bool = True
    """Use fused products of weights and adapters where they give the same result (no dropout; float32, or autocast on a
    CPU). false uses PEFT's implementation."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


LossKind = Literal["infonce", "cosent", "angle", "supcon", "distil_scores", "distil_vectors"]
Distance = Literal["kl", "margin", "mse", "correlation"]


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """The loss over the global batch."""

    kind: LossKind = "infonce"
    """infonce for pairs; cosent or angle for scored pairs; supcon for labelled texts; distil_scores or distil_vectors
    for any texts with a teacher."""
    weight: Annotated[float, Gt(0.0)] = 1.0
    """Weight of this loss in the sum of losses."""
    matryoshka: tuple[Annotated[int, Ge(1)], ...] = ()
    """Numbers of leading dimensions that are also trained as embeddings, such as [64, 128]. The full vector is always
    included."""
    matryoshka_weights: tuple[Annotated[float, Gt(0.0)], ...] = ()
    """Weight of the loss for each entry of matryoshka. Empty means 1 for all. The full vector has weight 1 unless it is
    listed."""
    angle_weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1.0)
    """Weights of AnglE's cosine, in-batch and angle losses. 0 disables a loss."""
    distance: Distance | None = None
    """Distance between the cosines of student and teacher. distil_scores: kl (default) or margin; distil_vectors: mse
    (default) or correlation."""
    teacher: str | None = None
    """Folder of a sentence-transformers model or of a dec2vec encoder to distil from. Its vectors are cached on
    disk."""
    teacher_temperature: Annotated[float, Gt(0.0)] = 0.05
    """Temperature of the teacher's cosines in kl. It is never learned."""
    temperature: Annotated[float, Gt(0.0)] = 0.05
    """Cosines are divided by this value. It is the initial value if learn_temperature is true."""
    learn_temperature: bool = False
    """Train log(temperature) together with the model."""
    symmetric: bool = False
    """Also contrast each positive with all anchors, and average both directions."""
    margin: Annotated[float, Ge(-2.0), Le(2.0)] | None = None
    """Ignore negatives with a cosine above that of the positive minus this value (Qwen3-Embedding: -0.1). None ignores
    none."""
    query_negatives: bool = False
    """Also use the other anchors as negatives of an anchor (query-to-query term of GTE and Qwen3-Embedding)."""
    document_negatives: bool = False
    """Also use the other positives as negatives of a positive (document-to-document term of GTE and
    Qwen3-Embedding)."""
    hardness: Annotated[float, Ge(0.0), Le(100.0)] = 0.0
    """Weight each negative by e^(hardness * cosine), without gradient through the weight (Lan et al. 2025). 0 weights
    all equally."""


Kind = Literal["pairs", "graded", "texts", "labelled"]


@dataclass(frozen=True, config=STRICT)
class SourceConfig:
    """One set of training rows."""

    path: str = ""
    """File (jsonl, csv, tsv, parquet, json; also .gz and .zst), folder or pattern (`part-*.jsonl`) of such files, BEIR
    folder, folder written by `datasets.save_to_disk`, or Hub id. Layouts of other trainers are recognised."""
    split: str = "train"
    """Split of a saved or Hub data set. Files have no splits."""
    subset: str | None = None
    """Configuration of a Hub data set that has several, such as `triplet` of sentence-transformers/all-nli."""
    revision: str | None = None
    """Branch, tag or commit of a Hub data set."""
    kind: Kind = "pairs"
    """Kind of rows: an anchor with a matching text (pairs), two texts with a score (graded), a single text, embedded
    twice with different dropout (texts), or a text with its class (labelled)."""
    anchor: str = "anchor"
    """pairs: column of the queries."""
    positive: str = "positive"
    """pairs: column of the matching texts."""
    negatives: tuple[str, ...] | None = None
    """pairs: columns of hard negatives. None uses `negative`, `negative_1`, `negative_2`, ... if they exist."""
    document_id: str | None = None
    """pairs: column of document ids. Rows with equal ids are not used as negatives of each other."""
    corpus: str | None = None
    """pairs: documents that rows name by id. None uses the file or folder `corpus` or `collection` beside the rows."""
    queries: str | None = None
    """pairs: queries that rows name by id. None uses `queries` beside the rows."""
    min_grade: Annotated[int, Ge(1)] = 1
    """pairs: lowest grade of a judgement (BEIR's qrels) that makes its document a positive."""
    bad_rows: Annotated[float, Ge(0.0), Le(1.0)] = 0.01
    """pairs: largest fraction of faulty rows (no positive, an unknown id) that are left out of a recognised layout."""
    sentence1: str = "sentence1"
    """graded: column of the first texts."""
    sentence2: str = "sentence2"
    """graded: column of the second texts."""
    score: str = "score"
    """graded: column of similarity scores. Only their order is used."""
    text: str = "text"
    """texts and labelled: column of the texts."""
    label: str = "label"
    """labelled: column of the classes. Equal values are the same class in all sources of a batch."""
    texts_per_label: Annotated[int, Ge(2)] = 2
    """labelled: number of texts of a label in one batch; all of them if the label has fewer."""
    query_prompt: str | None = None
    """Prompt of the anchors, and of all texts of the other kinds. The layer remains the model's. None uses the model's
    prompt."""
    document_prompt: str | None = None
    """pairs: prompt of positives and negatives. None uses the model's prompt."""
    losses: tuple[LossConfig, ...] = ()
    """Losses of batches from this source. Empty uses the run's `loss`."""
    clean: bool = False
    """Drop rows with an empty text, repeated rows, and pairs whose anchor equals the positive."""
    only: tuple[str, ...] = ()
    """Use only rows in which a column has one of these values: [source=mrpc, source=qqp] keeps both. Empty keeps all
    rows."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use at most this many rows, the first of those kept by `only`."""
    streaming: bool = False
    """Stream a Hub data set row by row, up to `limit`, without a copy in the cache of `datasets`."""
    weight: Annotated[float, Gt(0.0), Le(1e6)] | None = None
    """With `batch.sources single`: probability that a batch comes from this source, relative to the other sources. None
    for all sources uses their numbers of rows."""


@dataclass(frozen=True, config=STRICT)
class MiningConfig:
    """Hard negatives for pairs, mined during training with the current model. `dec2vec mine` mines them before
    training."""

    every: Annotated[int, Ge(1)] | None = None
    """Number of steps between searches among the positives of a source, and before the first one. None disables
    mining."""
    negatives: Annotated[int, Ge(1), Le(100)] = 1
    """Number of mined negatives per pair, in addition to those of the data."""
    min_rank: Annotated[int, Ge(1)] = 1
    """First rank by cosine that is considered. Texts equal to the anchor or a positive are not counted."""
    max_rank: Annotated[int, Ge(1)] = 100
    """Last rank that is considered."""
    choice: Literal["top", "random"] = "top"
    """How to choose among the accepted candidates: top takes the highest scores, random draws with the seed."""
    margin: Annotated[float, Ge(0.0)] = 0.0
    """Reject candidates that score above the positive's score minus this value."""
    ratio: Annotated[float, Gt(0.0), Le(1.0)] = 0.95
    """Reject candidates that score above this fraction of the positive's score."""


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """AdamW and its schedule."""

    steps: Annotated[int, Ge(1)] | None = None
    """Number of optimizer steps. None computes it from `epochs`."""
    epochs: Annotated[float, Gt(0.0)] = 1.0
    """Number of passes over the data if `steps` is None."""
    lr: Annotated[float, Gt(0.0)] = 5e-4
    """Peak learning rate."""
    warmup: Annotated[float, Ge(0.0), Le(1.0)] = 0.1
    """Fraction of the steps used for the warm-up."""
    decay: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning-rate schedule after the warm-up. linear and cosine decay to zero."""
    weight_decay: Annotated[float, Ge(0.0)] = 0.0
    """Decoupled weight decay of AdamW."""
    beta2: Annotated[float, Gt(0.0), Lt(1.0)] = 0.999
    """Decay rate of AdamW's second moment."""
    max_grad_norm: Annotated[float, Gt(0.0)] = 1.0
    """Gradients are clipped to this global norm."""


@dataclass(frozen=True, config=STRICT)
class BatchConfig:
    """The batch, and the chunks in which it is computed."""

    size: Annotated[int, Ge(2)] = 256
    """Number of pairs per step over all processes. Each pair uses the others as negatives."""
    sources: Literal["mixed", "single"] = "mixed"
    """mixed draws each batch from all sources; single fills it from one source, so that its negatives are of the same
    kind."""
    no_duplicates: bool = False
    """Build batches in which no text occurs in two rows, whether as anchor, positive or negative."""
    chunk_tokens: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    """Maximum number of padded tokens per forward pass. It limits the memory and does not change the gradient. auto:
    1024 on CPUs, so that a layer's activations fit into their caches, and 16384 on CUDA."""
    graph_tokens: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    """Maximum number of tokens per process whose autograd graph is kept. The others are embedded twice (gradient
    caching). auto: as many as fit into half of the memory that is free at the first step."""
    share_prefix: bool = True
    """Run a prefix that all texts of a step share, such as an instruction, only once where this gives the same
    gradient."""
    unpadded: bool = False
    """On CUDA with a 16-bit dtype, concatenate the texts of a chunk instead of padding them, if torch has the kernel
    and the texts share no prefix. Not measured on a GPU yet."""


@dataclass(frozen=True, config=STRICT)
class CheckpointConfig:
    """Checkpoints and resuming."""

    every: Annotated[int, Ge(1)] = 100
    """Number of steps between checkpoints. One is also written at the end and on SIGTERM or SIGINT."""
    keep: Annotated[int, Ge(1)] = 2
    """Number of latest checkpoints to keep, in addition to the best one."""
    resume: Literal["auto", "fresh"] = "auto"
    """auto resumes from the latest complete checkpoint of the same configuration; fresh starts from the beginning."""


@dataclass(frozen=True, config=STRICT)
class DistributedConfig:
    """How processes detect lost or diverged processes."""

    timeout: Annotated[float, Gt(0.0), Le(1e7)] = 1800.0
    """Seconds for which a process waits for the others before it exits. Set it above the time of a dev evaluation."""
    compare_every: Annotated[int, Ge(1)] = 100
    """Number of steps between comparisons of the trained weights of all processes. Every checkpoint also compares
    them."""


@dataclass(frozen=True, config=STRICT)
class TrackingConfig:
    """Where metrics go besides `metrics.jsonl`."""

    backend: Literal["wandb", "tensorboard", "none"] = "none"
    """Additional destination of the metrics. wandb logs offline if there is no login."""
    project: str = "dec2vec"
    """W&B project, or entity/project for that of a team or another user."""
    upload: bool = False
    """Also upload the report and the adapter as artifacts, with names in place of the paths of this machine."""
    every: Annotated[int, Ge(1)] = 1
    """Number of steps between logged metrics."""


@dataclass(frozen=True, config=STRICT)
class EvalSection:
    """Dev evaluation during training and the final report. Files have the columns sentence1, sentence2 and score."""

    dev: str | None = None
    """Similarity file used for every choice (checkpoint, layer, k). Without it, the last checkpoint is exported, and
    the report compares it with the untuned decoder read as the tuned one."""
    tests: tuple[str, ...] = ()
    """Similarity files used only for the final report."""
    every: Annotated[int, Ge(1)] = 100
    """Number of steps between dev evaluations."""
    after_training: bool = True
    """Compare the tuned model with every untuned system after training."""
    whitening_sentences: Annotated[int, Ge(2)] = 8000
    """Number of training sentences on which whitening is fitted."""

    @property
    def has_report(self) -> bool:
        """Whether a report follows the training."""
        return self.after_training and bool(self.tests)


@dataclass(frozen=True, config=STRICT)
class ExportConfig:
    """The exported folder, which is written after training."""

    model: bool = True
    """Write `model/`, a sentence-transformers folder. false also allows settings that such a folder cannot
    represent."""
    merge: bool = False
    """Merge the adapter into the weights of `model/`."""
    whiten: bool = False
    """Add whitening, fitted on training text, as a layer of `model/`."""
    license: str = "other"
    """License identifier for the model card."""
    language: str | None = None
    """Language code for the model card, such as en. None states no language."""
    push: str | None = None
    """Hub repository user/name. Each checkpoint that is the best on dev so far is pushed to it during training, and the
    finished model with its report at the end."""
    private: bool = False
    """Create the repository as private."""


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
    """Seed of data order, adapter initialization and dropout."""
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
