"""Every option of an evaluation: the tuned runs, the untuned systems and the tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, MinLen
from pydantic import Field
from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT
from dec2vec.config.model import ModelConfig, PoolingName
from dec2vec.config.tasks import ClusteringConfig as ClusteringConfig
from dec2vec.config.tasks import Criterion as Criterion
from dec2vec.config.tasks import Form as Form
from dec2vec.config.tasks import GapConfig as GapConfig
from dec2vec.config.tasks import GapMetric as GapMetric
from dec2vec.config.tasks import PairsConfig as PairsConfig
from dec2vec.config.tasks import PairsMetric as PairsMetric
from dec2vec.config.tasks import RetrievalConfig as RetrievalConfig
from dec2vec.config.tasks import TopicsConfig as TopicsConfig

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
class ShortlistConfig:
    """A first pass over the similarity dev file alone; all other texts are read with the best prompts only."""

    prompts: Annotated[int, Ge(1)] | None = None
    """Number of prompts that are kept: those with the highest dev score. null keeps all, without a first pass."""
    layers: Literal["all"] | tuple[int | float, ...] = ()
    """Candidate layers of the prompts that are kept: all, or a list. Empty means those of the first pass."""


@dataclass(frozen=True, config=STRICT)
class SystemsConfig:
    """The untuned systems: every combination of prompt, pooling and post-processing. For a task without any dev data
    only what is named here is tried, because nothing could select among the defaults."""

    prompts: tuple[str, ...] = ("bare", "prompteol", "pretended_cot", "knowledge_enhancement", "instruct")
    """Prompt names, or templates with one {text}."""
    poolings: tuple[PoolingName, ...] = ("last", "mean", "weighted_mean", "first_last", "max")
    """Poolings tried with each prompt."""
    layers: tuple[int | float, ...] = ()
    """Candidate layers. Empty means all if there are at most 12, otherwise 12 evenly spaced ones that include -1 and
    -2."""
    post: Annotated[tuple[PostName, ...], MinLen(1)] = ("raw", "whiten")
    """Post-processings. Each is a separate row, whose layer and strength are selected on dev: raw, centre, standardise,
    abtt, pca, whiten, shrunk_whiten, soft_whiten, embfilter, random, truncate."""
    dimensions: tuple[int, ...] = ()
    """Candidate values of k for post-processings that have one. Empty means d, 3d/4, d/2, d/3, d/4, d/8."""
    norm: bool = False
    """Also apply the decoder's final norm to inner layers."""
    transductive: bool = False
    """Also whiten each file with its own sentences. These rows are labelled and never selected."""
    shortlist: ShortlistConfig = Field(default_factory=ShortlistConfig)
    """How many of the prompts are evaluated on everything."""


@dataclass(frozen=True, config=STRICT)
class IsotropyConfig:
    """Isotropy of the vectors of texts. Nothing is selected by it."""

    path: str
    """A .txt file, or a table with the columns text, anchor and positive, or sentence1 and sentence2."""
    close: float = 4.0
    """Pairs with a score above this count as equivalent (for alignment). A file without scores has them by label 1."""
    name: str = ""
    """Name in the report. Empty uses the name of the file."""


@dataclass(frozen=True, config=STRICT)
class EvalConfig:
    """An evaluation run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    """The untuned decoder. The systems override its prompt, pooling and layer. By default the one that the first tuned
    run was made from."""
    tuned: tuple[str, ...] = ()
    """Run folders or exported adapters to compare with the untuned decoder."""
    dev: str = ""
    """Similarity file on which layer and post-processing are selected, or a Hub id (owner/name:subset@split). Tasks
    without dev data use it too. Without it, tuned runs are compared with the untuned decoder read as they are."""
    tests: tuple[str, ...] = ()
    """Similarity files to report."""
    fit: tuple[str, ...] = ()
    """Training text on which post-processings are fitted: pair files in any layout that training reads, or plain .txt
    files."""
    whitening_sentences: Annotated[int, Ge(2)] = 8000
    """Number of sentences taken from `fit`."""
    systems: SystemsConfig = Field(default_factory=SystemsConfig)
    pairs: tuple[PairsConfig, ...] = ()
    """Pair matching: yes or no, with a threshold selected on dev."""
    gap: tuple[GapConfig, ...] = ()
    """Similarity of relevant answers compared with irrelevant ones."""
    topics: tuple[TopicsConfig, ...] = ()
    """Topic classification: nearest label text, nearest neighbours or linear probe."""
    clustering: tuple[ClusteringConfig, ...] = ()
    """k-means clusters compared with labels."""
    retrieval: tuple[RetrievalConfig, ...] = ()
    """Retrieval of documents for queries."""
    isotropy: tuple[IsotropyConfig, ...] = ()
    """How evenly vectors are distributed in space."""
    mteb: tuple[str, ...] = ()
    """Names of MTEB tasks and benchmarks, such as "MTEB(eng, v2)". The mteb package runs them and downloads their data
    from the Hub. Finished tasks are not computed again."""
    mteb_prompts: tuple[str, ...] = ()
    """Prompts of MTEB tasks by mteb's names, such as query=instruct or STS=prompteol; instruct takes mteb's instruction
    of the task. Other texts have the model's prompts."""
    baselines: tuple[str, ...] | None = None
    """Baselines: bag-of-words, tfidf, char-ngrams, bm25 (retrieval), word2vec, word2vec-sif, input-embeddings and sif
    (averages of the decoder's input embeddings, plain and weighted), jaccard, dice, bleu, chrf, rouge-l, or the folder
    or Hub id of any sentence-transformers or Hugging Face encoder. Each is fitted on the corpus, on the training file
    of the task, or else on `fit`. null adds tfidf, and bm25 to retrieval, wherever there is text to fit them on; an
    empty list adds none."""
    baseline_notes: tuple[str, ...] = ()
    """What a reader must know of a baseline, as NAME: TEXT, such as `all-minilm-l6-v2: trained on NLI and QQP`. Without
    it, the report names the training data that the model card of an encoder names, or says that they are unknown."""
    cache: str | None = None
    """Folder in which vectors are cached for the next evaluation. null uses output_dir/vectors; "" disables the
    cache."""
    batch_tokens: Annotated[int, Ge(1)] = 16384
    """Maximum number of padded tokens per forward pass."""
    bootstrap: Annotated[int, Ge(100)] = 1000
    """Number of bootstrap resamples for each 95 % interval."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the bootstrap and of the sample of sentences from `fit`."""
    output_dir: str = "runs/eval"
    """Folder in which report/ is written."""
