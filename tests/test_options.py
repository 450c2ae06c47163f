"""Every option by name: adding one is a decision, so this list must be changed by hand."""

from __future__ import annotations

from dec2vec.config_overrides import options
from eval.config import EvalConfig
from train.config import TrainConfig

TRAIN = """
model.name_or_path
model.revision
model.trust_remote_code
model.dtype
model.autocast
model.attention
model.device
model.load_in_4bit
model.pooling
model.layer
model.prompt
model.task
model.text_normalization
model.tokenization
model.max_length
lora.method
lora.rank
lora.alpha
lora.dropout
lora.targets
lora.whole
lora.rslora
lora.dora
lora.init
lora.gradient_checkpointing
data.N.path
data.N.split
data.N.anchor
data.N.positive
data.N.negatives
data.N.only
data.N.limit
data.N.weight
loss.temperature
loss.learn_temperature
loss.symmetric
loss.gather
optim.steps
optim.epochs
optim.lr
optim.warmup
optim.decay
optim.weight_decay
optim.beta2
optim.max_grad_norm
optim.max_bad_steps
batch.size
batch.sources
batch.chunk_tokens
batch.graph_tokens
checkpoint.every
checkpoint.keep
checkpoint.resume
tracking.backend
tracking.project
tracking.entity
tracking.name
tracking.upload
tracking.every
eval.dev
eval.tests
eval.every
eval.after_training
eval.fit_sentences
export.model
export.merge
export.whiten
export.license
export.language
seed
output_dir
"""
EVAL = """
model.name_or_path
model.revision
model.trust_remote_code
model.dtype
model.autocast
model.attention
model.device
model.load_in_4bit
model.pooling
model.layer
model.prompt
model.task
model.text_normalization
model.tokenization
model.max_length
tuned
dev
tests
fit
fit_sentences
systems.prompts
systems.poolings
systems.layers
systems.post
systems.dimensions
systems.norm
systems.transductive
pairs.N.test
pairs.N.dev
pairs.N.name
pairs.N.sentence1
pairs.N.sentence2
pairs.N.label
pairs.N.positive_from
pairs.N.dev_only
pairs.N.dev_limit
pairs.N.metric
pairs.N.criterion
pairs.N.precision
gap.N.test
gap.N.dev
gap.N.name
gap.N.question
gap.N.answer
gap.N.label
gap.N.metric
gap.N.seed
topics.N.test
topics.N.train
topics.N.dev
topics.N.name
topics.N.text
topics.N.label
topics.N.classes
topics.N.method
topics.N.form
topics.N.labels
topics.N.calibrated
topics.N.neighbours
topics.N.strengths
topics.N.metric
clustering.N.test
clustering.N.dev
clustering.N.text
clustering.N.label
clustering.N.limit
clustering.N.seeds
clustering.N.name
retrieval.N.path
retrieval.N.name
isotropy.N.path
isotropy.N.close
isotropy.N.name
mteb
baselines
cache
batch_tokens
bootstrap
seed
output_dir
"""


def test_options_of_training() -> None:
    assert options(TrainConfig) == TRAIN.split()


def test_options_of_evaluation() -> None:
    assert options(EvalConfig) == EVAL.split()
