"""Every option of an evaluation: the tuned runs, the untuned systems beside them, the tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig, PoolingName
from eval.task_config import ClusteringConfig, GapConfig, IsotropyConfig, PairsConfig, RetrievalConfig, TopicsConfig

PostName = Literal[
    "raw",
    "centre",
    "standardise",
    "abtt",
    "pca",
    "whiten",
    "shrunk_whiten",
    "soft_whiten",
    "embfilter",
    "random",
    "truncate",
]


@dataclass(frozen=True, config=STRICT)
class SystemsConfig:
    """The untuned systems: every prompt with every pooling and every post-processing."""

    prompts: tuple[str, ...] = ("bare", "prompteol", "pretended_cot", "knowledge_enhancement", "instruct")
    """Prompt names or templates with one {text}."""
    poolings: tuple[PoolingName, ...] = ("last", "mean", "weighted_mean", "first_last", "max")
    """Poolings tried with each prompt."""
    layers: tuple[int | float, ...] = ()
    """Candidate layers; empty means all up to 12, else 12 spread evenly, always with -1 and -2."""
    post: Annotated[tuple[PostName, ...], MinLen(1)] = ("raw", "whiten")
    """Post-processings, each a row with its own layer and strength: raw, centre, standardise, abtt, pca, whiten,
    shrunk_whiten, soft_whiten, embfilter, random, truncate."""
    dimensions: tuple[int, ...] = ()
    """Candidate k of the post-processings that have one; empty means d, 3d/4, d/2, d/3, d/4, d/8."""
    norm: bool = False
    """Also read inner layers through the decoder's final norm."""
    transductive: bool = False
    """Also whiten each file with its own sentences: labelled rows that are never chosen."""


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    """An evaluation run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    """The untuned decoder; its prompt, pooling and layer are overridden by the systems."""
    tuned: tuple[str, ...] = ()
    """Run folders (or exported adapters) to compare with it."""
    dev: str = ""
    """Similarity file on which layer and post-processing are chosen (or a Hub id, owner/name:subset@split); empty,
    and no tests, for other tasks alone."""
    tests: tuple[str, ...] = ()
    """Similarity files that are reported on."""
    fit: tuple[str, ...] = ()
    """Training-side text that post-processings are fitted on: pair files or plain .txt."""
    fit_sentences: Annotated[int, Ge(2)] = 8000
    """Sentences taken from `fit`."""
    systems: SystemsConfig = Field(default_factory=SystemsConfig)
    pairs: tuple[PairsConfig, ...] = ()
    """Pair matching: yes or no from a threshold that dev chooses."""
    gap: tuple[GapConfig, ...] = ()
    """Relevant answers against irrelevant ones."""
    topics: tuple[TopicsConfig, ...] = ()
    """Topic classification: nearest label text, neighbours, probe."""
    clustering: tuple[ClusteringConfig, ...] = ()
    """k-means against labels."""
    retrieval: tuple[RetrievalConfig, ...] = ()
    """Queries that look for documents."""
    isotropy: tuple[IsotropyConfig, ...] = ()
    """How evenly vectors fill their space."""
    mteb: tuple[str, ...] = ()
    """Names of MTEB tasks, run by the mteb package; their data come from the Hub."""
    baselines: tuple[str, ...] = ()
    """Outside baselines: bag-of-words, tfidf, char-ngrams, word2vec, word2vec-sif, input-embeddings and sif (the
    decoder's own, plain and weighted), jaccard, dice, bleu, chrf, rouge-l,
    or the folder or Hub id of any sentence-transformers or Hugging Face encoder."""
    cache: str | None = None
    """Folder in which vectors are kept for the next evaluation; null takes output_dir/vectors, "" keeps none."""
    batch_tokens: Annotated[int, Ge(1)] = 16384
    """Padded tokens of one forward pass."""
    bootstrap: Annotated[int, Ge(100)] = 1000
    """Resamples behind each 95 % interval."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the bootstrap and of the sample of fit sentences."""
    output_dir: str = "runs/eval"
    """Folder that receives report/."""
