"""Positions that change with the length of the longest row (longrope): a vector depends on its own text alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, LlamaConfig, Phi3Config

from dec2vec.batching import ChunkCost, by_kind, make_chunks, pad
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.encoder import Encoder
from tests.helpers import tiny_config, tiny_tokenizer
from tests.test_gradcache import LOSS, close
from tests.training_setup import data_of, gradients
from train.adapters.lora import make_trainable, trainable_parameters
from train.config import LoraConfig
from train.data.batch import BatchOptions, prepare
from train.data.table import SourceTable
from train.distributed.single import Single
from train.gradcache.cached_step import cached_step
from train.losses.infonce.infonce import infonce
from train.losses.objective import Objective, Temperature

BORDER = 64
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.0],
    "long_factor": [4.0, 60.0],
    "original_max_position_embeddings": BORDER,
}
PROMPT = "Instruct: the text that follows means: {text}"


def folder_of(path: Path, family: str, rope: dict[str, Any] = ROPE) -> Path:
    options = {**tiny_config("llama").to_dict(), "rope_parameters": {"rope_theta": 10_000.0, **rope}}
    options.pop("head_dim", None)
    kind = {"llama": LlamaConfig, "phi3": Phi3Config}[family]
    kept = {name: value for name, value in options.items() if name not in ("model_type", "architectures")}
    torch.manual_seed(0)
    model = AutoModel.from_config(kind(**kept, original_max_position_embeddings=BORDER))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


OTHERS: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "dynamic beyond": {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": BORDER},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": BORDER},
    "linear": {"rope_type": "linear", "factor": 4.0},
}
"""Positions that no length within the decoder's positions changes."""


def load(path: Path, **options: Any) -> Encoder:
    return Encoder.load(
        ModelConfig(**{"name_or_path": str(path), "max_length": 200, "autocast": "off", "device": "cpu", **options})
    )


def text_of(encoder: Encoder, tokens: int, start: str = "a man") -> str:
    """A text that has so many tokens in the encoder's prompt."""
    text = start
    while len(encoder.tokenize([text])[0]) < tokens:
        text += "z"
    assert len(encoder.tokenize([text])[0]) == tokens
    return text


def plain(path: Path, ids: list[int]) -> np.ndarray[Any, Any]:
    """The unit vector of plain transformers for a text alone."""
    with quiet(), torch.no_grad():
        state = AutoModel.from_pretrained(path)(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return torch.nn.functional.normalize(state, dim=0).numpy()


@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("prompt", ["bare", PROMPT])
def test_texts_on_both_sides_of_the_border(family: str, prompt: str, tmp_path: Path) -> None:
    encoder = load(folder_of(tmp_path, family), prompt=prompt)
    assert encoder.length_borders == [BORDER]
    texts = [text_of(encoder, BORDER, "the cat"), text_of(encoder, BORDER + 1), text_of(encoder, 60), "a dog"]
    together = encoder.encode(texts, progress=False)
    for vector, ids in zip(together, encoder.tokenize(texts), strict=True):
        np.testing.assert_allclose(vector, plain(tmp_path, ids), atol=1e-5)
    chunk = pad(encoder.tokenize(texts), range(len(texts)))  # what was done before: one chunk for all
    with torch.no_grad():
        mixed = torch.nn.functional.normalize(encoder.embedder(chunk.input_ids, chunk.lengths)[0]).numpy()
    cosines = (mixed * together).sum(1)
    assert cosines[1] == pytest.approx(1, abs=1e-5) and min(cosines[0], cosines[2]) < 0.98


@pytest.mark.parametrize("kind", OTHERS)
def test_other_positions_have_no_border(kind: str, tmp_path: Path) -> None:
    encoder = load(folder_of(tmp_path, "llama", OTHERS[kind]), prompt=PROMPT)
    assert encoder.length_borders == []
    texts = [text_of(encoder, tokens, start) for tokens in (64, 65, 200) for start in ("a man", "the cat")]
    together = encoder.encode(texts, progress=False)
    assert encoder.tally.prefix > 8
    for vector, ids in zip(together, encoder.tokenize(texts), strict=True):
        np.testing.assert_allclose(vector, plain(tmp_path, ids), atol=1e-5)


def test_a_beginning_is_shared_between_short_texts_only(tmp_path: Path) -> None:
    encoder = load(folder_of(tmp_path, "llama"), prompt=PROMPT)
    long = [text_of(encoder, BORDER + 1), text_of(encoder, BORDER + 2)]
    encoder.encode(long, progress=False)
    assert encoder.tally.prefix == 0
    encoder.encode([*long, "a dog", "a cat"], progress=False)
    assert encoder.tally.prefix > 8


def test_chunks_never_cross_a_border() -> None:
    lengths = [3, 64, 65, 1, 80, 64]
    assert [part.tolist() for part in by_kind(lengths, [64])] == [[2, 4], [0, 1, 3, 5]]
    assert [part.tolist() for part in by_kind(lengths, [])] == [[0, 1, 2, 3, 4, 5]]
    chunks = make_chunks([[1] * length for length in lengths], 10_000, ChunkCost(10_000), borders=[64])
    assert [sorted(chunk.lengths.tolist()) for chunk in chunks] == [[1, 3, 64, 64], [65, 80]]
    assert sorted(row for chunk in chunks for row in chunk.rows.tolist()) == list(range(6))
    assert len(make_chunks([[1] * length for length in lengths], 10_000, ChunkCost(10_000))) == 1


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_training_step_is_that_of_texts_alone(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folder_of(tmp_path, family), prompt=PROMPT)
    torch.manual_seed(1)
    make_trainable(encoder.embedder, LoraConfig(rank=4, alpha=4))
    with torch.no_grad():
        for name, parameter in trainable_parameters(encoder.embedder).items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    texts = [text_of(encoder, tokens, start) for tokens in (60, 64, 65) for start in ("a man", "the cat")]
    data = data_of(SourceTable("pairs", list(zip(texts[::2], texts[1::2], strict=True))))

    def step(*, alone: bool) -> tuple[float, dict[str, Tensor]]:
        batch = prepare(data, np.arange(3), encoder, BatchOptions(10_000, share_prefix=True))
        assert batch.prefix is None

        def loss(vectors: Tensor) -> Objective:
            return infonce(vectors, batch.loss_inputs, LOSS, Temperature(0.05, learned=False))

        sequences = [
            (int(row), ids[:length].tolist())
            for chunk in batch.chunks
            for row, ids, length in zip(chunk.rows, chunk.input_ids, chunk.lengths, strict=True)
        ]
        ids = [sequence for _, sequence in sorted(sequences)]
        chunks = [pad(ids, [row]) for row in range(len(ids))] if alone else batch.chunks
        result = cached_step(Single(encoder.embedder), chunks, partial(loss), graph_tokens=100, prefix=None)
        return float(result.loss), gradients(encoder.embedder)

    expected_loss, expected = step(alone=True)
    found_loss, found = step(alone=False)
    assert found_loss == pytest.approx(expected_loss, rel=1e-5) and close(found, expected)
    monkeypatch.setattr(encoder, "length_borders", [])  # all in one chunk, as it was
    monkeypatch.setattr("train.data.batch.shared_beginning", lambda sequences: [])
    mixed_loss, mixed = step(alone=False)
    assert abs(mixed_loss - expected_loss) > 1e-3 and not close(mixed, expected)
