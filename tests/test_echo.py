"""Echo: the text twice, the second copy pooled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View, pool
from dec2vec.prompts.prompt import get_prompt
from tests.helpers import tiny_model_folder, tiny_tokenizer

TEXTS = ["a man?", "the cat sat on the mat.", "", "Ünïcödé 猫", "Query again:", "x " * 200]
TASK = "Find it."
MAX_LENGTH = 90
POOLINGS = ("last", "mean", "weighted_mean", "max", "first_last", "first_last_static")
VIEWS = [View(pooling, layer) for pooling in POOLINGS for layer in (-1, 1)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tiny_model_folder(tmp_path_factory.mktemp("llama"))
    config = ModelConfig(name_or_path=str(folder), prompt="echo", task=TASK, max_length=MAX_LENGTH, autocast="off")
    return Encoder.load(config)


def pieces(text: str, side: str) -> tuple[list[int], list[int], list[int]]:
    """Ids before the second copy but for the text, of the text, and of what stands between."""
    prefix, between = {
        "query": (f"Instruct:{TASK},\nQuery:", "\nQuery again:"),
        "document": ("Document:", "\nDocument again:"),
    }[side]
    return tuple(tiny_tokenizer()(piece, add_special_tokens=False)["input_ids"] for piece in (prefix, text, between))


@pytest.mark.parametrize("side", ["query", "document"])
def test_ids_are_those_of_the_template(encoder: Encoder, side: str) -> None:
    for text, ids in zip(TEXTS, encoder.tokenize(TEXTS, side=side), strict=True):
        prefix, copy, between = pieces(text, side)
        room = (MAX_LENGTH - len(prefix) - len(between) - 1) // 2
        kept = copy[:room]
        assert ids == [*prefix, *kept, *between, *kept, tiny_tokenizer().eos_token_id]
        assert MAX_LENGTH - 1 <= len(ids) <= MAX_LENGTH or kept == copy
    assert len(copy) > room, "the last text is one that is cut"


@pytest.mark.parametrize("side", ["query", "document"])
def test_pools_the_second_copy_as_a_loop_does(encoder: Encoder, side: str) -> None:
    """A plain forward pass of each row, and sums over the positions of the second copy and the EOS."""
    model = AutoModel.from_pretrained(encoder.config.name_or_path, dtype=torch.float32).eval()
    found = encoder.encode_views(TEXTS, VIEWS, EncodeOptions(side=side))
    for row, (text, ids) in enumerate(zip(TEXTS, encoder.tokenize(TEXTS, side=side), strict=True)):
        prefix, copy, between = pieces(text, side)
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        start = len(prefix) + (len(ids) - 1 - len(prefix) - len(between)) // 2 + len(between)
        assert ids[start:-1] == copy[: len(ids) - 1 - start]
        for layer in (-1, 1):
            low, first, chosen = (states[index][0, start:].numpy() for index in (0, 1, layer))
            steps = np.arange(1, len(chosen) + 1)[:, None]
            expected = {
                "last": chosen[-1],
                "mean": chosen.mean(0),
                "weighted_mean": (chosen * steps).sum(0) / steps.sum(),
                "max": chosen.max(0),
                "first_last": (first.mean(0) + chosen.mean(0)) / 2,
                "first_last_static": (low.mean(0) + chosen.mean(0)) / 2,
            }
            for pooling, vector in expected.items():
                np.testing.assert_allclose(found[View(pooling, layer)][row], vector, rtol=0, atol=1e-5)


def test_the_whole_row_gives_other_vectors(encoder: Encoder) -> None:
    """Negative control: without the starts, all but `last` differ."""
    ids = torch.tensor(encoder.tokenize(TEXTS[:1]))
    lengths = torch.tensor([ids.shape[1]])
    with torch.no_grad():
        whole = encoder.embedder(ids, lengths, VIEWS)
    span = encoder.encode_views(TEXTS[:1], VIEWS)
    for view, vectors in zip(VIEWS, whole, strict=True):
        is_same = np.allclose(vectors.numpy(), span[view], atol=1e-4)
        assert is_same == (view.pooling == "last")


def test_own_text_only(encoder: Encoder) -> None:
    """Invariant 1."""
    alone = [encoder.encode_views([text], VIEWS) for text in TEXTS]
    for budget in (1, 200, 100_000):
        together = encoder.encode_views(TEXTS[::-1], VIEWS, EncodeOptions(batch_tokens=budget))
        for view in VIEWS:
            expected = np.concatenate([vectors[view] for vectors in alone[::-1]])
            np.testing.assert_allclose(together[view], expected, rtol=0, atol=1e-5)


def test_memory_shortage_keeps_the_starts(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoder.encode_views(TEXTS, VIEWS)
    forward = encoder.embedder.forward

    def short_of_memory(input_ids: torch.Tensor, *rest: object) -> object:
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids, *rest)

    monkeypatch.setattr(encoder.embedder, "forward", short_of_memory)
    found = encoder.encode_views(TEXTS, VIEWS)
    for view in VIEWS:
        np.testing.assert_allclose(found[view], expected[view], rtol=0, atol=1e-5)


def test_start_zero_is_no_start() -> None:
    states = {index: torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(index)) for index in range(3)}
    lengths, zeros = torch.tensor([1, 3, 5]), torch.zeros(3, dtype=torch.long)
    for pooling in POOLINGS:
        view = View(pooling, 2)
        assert pool(states, lengths, view, 2, zeros).equal(pool(states, lengths, view, 2))


def test_refused(encoder: Encoder) -> None:
    with pytest.raises(UserError, match="training and export need a single prompt"):
        get_prompt("echo", "")
    empty = len(encoder.tokenize([""])[0])
    encoder.set_max_length(empty + 2)
    assert len(encoder.tokenize(["a man"])[0]) == empty + 2
    encoder.set_max_length(empty + 1)
    with pytest.raises(UserError, match=rf"needs {empty} tokens .* set model.max_length to {empty + 2} or more"):
        encoder.encode(TEXTS)
    encoder.set_max_length(MAX_LENGTH)
