"""Invariants 1 and 2: a vector depends on its own text only, and the pooled token is the one the prompt names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.prompts.prompt import PROMPT_NAMES, get_prompt
from tests.helpers import FAMILIES, LAYERS, tiny_model_folder, tiny_tokenizer

TEXTS = ["a", "the cat sat on the mat.", "", "Ünïcödé 猫", "x " * 40, "the cat sat on the mat.", "a man?"]
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=FAMILIES)
def family_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("llama"))


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.load(ModelConfig(**{"name_or_path": str(folder), "max_length": 64, "autocast": "off", **options}))


def views() -> list[View]:
    poolings = ("last", "mean", "weighted_mean", "first_last", "max")
    return [View(pooling, layer) for pooling in poolings for layer in (-1, -2, 1, 0.5)]


@pytest.mark.parametrize("prompt", ["bare", "prompteol"])
def test_vector_depends_on_its_text_only(family_folder: Path, prompt: str) -> None:
    encoder = load(family_folder)
    each = [encoder.encode_views([text], views(), EncodeOptions(prompt)) for text in TEXTS]
    alone = {view: np.concatenate([vectors[view] for vectors in each]) for view in views()}
    for budget in (1, 100, 100_000):
        for order in (list(range(len(TEXTS))), list(reversed(range(len(TEXTS))))):
            together = encoder.encode_views(
                [TEXTS[row] for row in order], views(), EncodeOptions(prompt, batch_tokens=budget)
            )
            for view in views():
                np.testing.assert_allclose(together[view], alone[view][order], **CLOSE)


def test_a_view_is_the_same_without_the_others(llama: Path) -> None:
    encoder = load(llama)
    together = encoder.encode_views(TEXTS, views())
    for view in views():
        np.testing.assert_allclose(encoder.encode_views(TEXTS, [view])[view], together[view], **CLOSE)


def test_equals_plain_transformers_with_left_padding(family_folder: Path) -> None:
    """An independent reference: masked, left-padded, explicit positions, plain AutoModel."""
    encoder = load(family_folder)
    model = AutoModel.from_pretrained(family_folder, dtype=torch.float32).eval()
    ids = encoder.tokenize(TEXTS, prompt="prompteol")
    width = max(map(len, ids))
    padded = torch.tensor([[1] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    extra = {} if "opt" in str(family_folder) else {"position_ids": (mask.cumsum(-1) - 1).clamp(0)}
    with torch.no_grad():
        states = model(input_ids=padded, attention_mask=mask, output_hidden_states=True, **extra).hidden_states
    for layer in (-1, -2, 1):
        expected = states[layer][:, -1].numpy()
        found = encoder.encode_views(TEXTS, [View("last", layer)], EncodeOptions("prompteol"))[View("last", layer)]
        np.testing.assert_allclose(found, expected, **CLOSE)


def test_texts_differ(family_folder: Path) -> None:
    """Negative control of the two above: different texts get different vectors."""
    vectors = load(family_folder).encode(["a man is riding", "the cat sat"])
    assert float(vectors[0] @ vectors[1]) < 0.999


def test_no_head_is_kept(family_folder: Path) -> None:
    names = [name for name, _ in load(family_folder).embedder.named_modules()]
    assert not any("lm_head" in name or "embed_out" in name for name in names)


@pytest.mark.parametrize("prompt", PROMPT_NAMES)
@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("tokenization", ["joint", "separate"])
def test_ends_in_the_token_of_the_prompt(llama: Path, prompt: str, side: str, tokenization: str) -> None:
    encoder = load(llama, max_length=250, tokenization=tokenization)
    tokenizer = tiny_tokenizer()
    chosen = get_prompt(prompt, encoder.config.task, side)
    for text in [*TEXTS, "word " * 2_000, 'he said "no"']:
        (ids,) = encoder.tokenize([text], prompt=prompt, side=side)
        assert len(ids) <= 250
        body = ids[:-1] if chosen.append_eos else ids
        assert (ids[-1] == tokenizer.eos_token_id) == chosen.append_eos
        decoded = tokenizer.decode(body)
        assert decoded.startswith(chosen.prefix)
        assert decoded.endswith(chosen.suffix)


def test_joint_tokenization_is_that_of_the_whole_string(llama: Path) -> None:
    (ids,) = load(llama).tokenize(["the cat."], prompt="prompteol")
    whole = tiny_tokenizer()('This sentence : "the cat." means in one word:"', add_special_tokens=False)["input_ids"]
    assert ids == whole


def test_instruct_is_for_queries_only(llama: Path) -> None:
    encoder = load(llama, prompt="instruct", max_length=200)
    bare = encoder.tokenize(["a man"], prompt="bare")
    assert encoder.tokenize(["a man"], side="document") == bare
    query = tiny_tokenizer().decode(encoder.tokenize(["a man"])[0])
    assert query.startswith("Instruct: Retrieve semantically similar text.\nQuery: a man")


def test_layer_by_fraction_is_the_layer_by_index(llama: Path) -> None:
    encoder = load(llama)
    pairs = [(1.0, -1), (1.0, LAYERS), (0.0, 0), (2 / 3, 2)]
    for fraction, index in pairs:
        views = [View("mean", fraction), View("mean", index)]
        found = encoder.encode_views(["a man"], views)
        np.testing.assert_array_equal(found[views[0]], found[views[1]])


def test_empty_list_and_odd_texts(llama: Path) -> None:
    encoder = load(llama)
    assert encoder.encode([]).shape == (0, 16)
    vectors = encoder.encode(["", "\ud800 lone", "\ufffd lone", "y" * 100_000])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[1], vectors[2])


def test_one_string_is_refused(llama: Path) -> None:
    with pytest.raises(UserError, match="list of texts"):
        load(llama).encode("a man")


def test_memory_shortage_halves_the_chunk(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(llama)
    expected = encoder.encode(TEXTS)
    forward = encoder.embedder.forward
    sizes = []

    def short_of_memory(input_ids: torch.Tensor, *rest: object) -> object:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids, *rest)

    monkeypatch.setattr(encoder.embedder, "forward", short_of_memory)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, **CLOSE)
    assert max(sizes) > 2 >= min(sizes)


def test_other_errors_are_not_swallowed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(llama)

    def broken(*_: object) -> object:
        raise RuntimeError("a bug")

    monkeypatch.setattr(encoder.embedder, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        encoder.encode(TEXTS)


def test_autocast_stays_close(llama: Path) -> None:
    exact = load(llama).encode(TEXTS)
    rough = load(llama, autocast="on").encode(TEXTS)
    assert not np.array_equal(exact, rough)
    assert np.min(np.sum(exact * rough, axis=1)) > 0.99


def test_max_length_of_a_loaded_encoder(llama: Path) -> None:
    encoder = load(llama, max_length=64)
    encoder.set_max_length(200)
    assert len(encoder.tokenize(["word " * 500])[0]) == 200
    with pytest.raises(UserError, match="max_length 257: the model has 256 positions"):
        encoder.set_max_length(257)
    assert encoder.config.max_length == 200


def test_published_model_cards_find_their_imports() -> None:
    """Cards written by earlier versions import from these modules, newer ones from the package."""
    import dec2vec.encoder
    import dec2vec.model_config
    from dec2vec import Encoder, ModelConfig, UserError, Whitening

    assert Encoder is dec2vec.encoder.Encoder and ModelConfig is dec2vec.model_config.ModelConfig
    assert issubclass(UserError, Exception) and callable(Whitening.load)
