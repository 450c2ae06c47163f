"""The former module of `ModelConfig`, from which model cards that are already published import it."""

from dec2vec.config.model import ModelConfig as ModelConfig
