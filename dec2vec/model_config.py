"""The old home of `ModelConfig`: model cards that are already published import it from here."""

from dec2vec.config.model import ModelConfig as ModelConfig
