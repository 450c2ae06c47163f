"""Every option of a training run. The resolved values are written to `config.yaml` in the run folder."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import Field
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig
from dec2vec.config.tasks import DevTaskConfig, DevTasks, TaskConfig, TestTasks
from train.options.data import MiningConfig, SourceConfig
from train.options.losses import LossConfig

Fraction = Annotated[float, Ge(0.0), Lt(1.0)]


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
    """Use fused products of weights and adapters where they give the same result (no dropout; float32, or bfloat16
    autocast), and round frozen weights for autocast once. false uses PEFT's implementation."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


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
    1024 on CPUs, so that a layer's activations fit into their caches; on CUDA as many as fit, up to 16384."""
    graph_tokens: Annotated[int, Ge(0)] | Literal["auto"] = "auto"
    """Maximum number of tokens per process whose autograd graph is kept. The others are embedded twice (gradient
    caching). auto: as many as fit if the run takes 40 % of the memory that is free (80 % on CUDA). On CPUs fewer are
    kept when memory becomes short."""
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
    """Dev evaluation during training, and the final report."""

    dev: DevTasks = None
    """Similarity file (sentence1, sentence2, score) used for every choice (checkpoint, layer, k), or a list of tasks of
    any kind. Without it, the last checkpoint is exported, and the report compares it with the untuned decoder read as
    the tuned one."""
    tests: TestTasks = ()
    """Similarity files, and tasks of any kind, used only for the final report."""
    every: Annotated[int, Ge(1)] = 100
    """Number of steps between dev evaluations."""
    metric: str | None = None
    """What chooses the best checkpoint: TASK/METRIC, such as held-out/nDCG@10, or mean for the mean over the tasks.
    null: the main metric of the only task, or mean."""
    patience: Annotated[int, Ge(1)] | None = None
    """Stop after this many dev evaluations in a row without a new best score. null never stops early."""
    after_training: bool = True
    """Compare the tuned model with every untuned system after training."""
    whitening_sentences: Annotated[int, Ge(2)] = 8000
    """Number of training sentences on which whitening is fitted."""

    @property
    def dev_tasks(self) -> tuple[DevTaskConfig, ...]:
        """What `dev` names, a plain path as a similarity file."""
        named = (self.dev,) if isinstance(self.dev, str) else self.dev or ()
        return tuple(DevTaskConfig(similarity=task) if isinstance(task, str) else task for task in named)

    @property
    def test_tasks(self) -> tuple[TaskConfig, ...]:
        """The same of `tests`."""
        return tuple(TaskConfig(similarity=task) if isinstance(task, str) else task for task in self.tests)

    @property
    def similarity_dev(self) -> str | None:
        """The first similarity file of `dev`, on which layer and strength of the report's rows are chosen."""
        return next((task.similarity for task in self.dev_tasks if task.similarity is not None), None)

    @property
    def dev_names(self) -> tuple[str, ...]:
        """Of runs whose folder does not record what chose the checkpoint: the tasks that `metric` names, or all."""
        names = [task.title for task in self.dev_tasks]
        chosen = [name for name in names if f"{self.metric}/".startswith(f"{name}/")]
        return tuple(chosen or names)

    @property
    def mteb_tests(self) -> tuple[str, ...]:
        """The MTEB tasks of `tests`."""
        return tuple(task.mteb for task in self.test_tasks if task.mteb is not None)

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
    """A training run. --plan trains nothing, and says what the run would take in steps, tokens, memory and time."""

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
    "eval.patience",
    "eval.after_training",
    "eval.whitening_sentences",
    "export",
    "output_dir",
)
"""Sections and options that may differ between a run and its resumption."""
MEMORY_CHANGES = ("batch.chunk_tokens", "batch.graph_tokens")
"""Options that may differ too, since the loss does not depend on them. They are part of a run's hash all the same."""
