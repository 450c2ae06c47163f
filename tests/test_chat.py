"""The chat template as a prompt: the ids are those of `apply_chat_template`."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, PreTrainedTokenizerFast

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.prompts.chat import chat_prompt
from dec2vec.prompts.ensembles import check_prompt, default_layer
from dec2vec.prompts.prompt import get_prompt
from tests.helpers import tiny_model_folder, tiny_tokenizer

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["a man?", "the cat sat on the mat.", "Ünïcödé 猫", 'he said "no"', ""]
NAMES = ("chat", "chat_no_generation")
LAST = View("last", -1)


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    """The tiny one with a BOS of its own, so that one too many would show."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.bos_token = "<pad>"
    single = TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 1)])
    tokenizer.backend_tokenizer.post_processor = single
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tiny_model_folder(tmp_path_factory.mktemp("llama"))
    tokenizer_with(CHATML).save_pretrained(folder)
    return Encoder.load(ModelConfig(name_or_path=str(folder), prompt="chat", max_length=100, autocast="off"))


def written(name: str, text: str) -> list[int]:
    """By the library."""
    ids: list[int] = tokenizer_with(CHATML).apply_chat_template(
        [{"role": "user", "content": text}],
        tokenize=True,
        add_generation_prompt=name == "chat",
        return_dict=False,
    )
    return ids


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_vectors_are_those_of_the_template(encoder: Encoder, name: str) -> None:
    ids = encoder.tokenize(TEXTS, prompt=name)
    assert ids == [written(name, text) for text in TEXTS]
    model = AutoModel.from_pretrained(encoder.config.name_or_path, dtype=torch.float32).eval()
    found = encoder.encode_views(TEXTS, [LAST], EncodeOptions(name))[LAST]
    for row, text in enumerate(TEXTS):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([written(name, text)])).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-5)


def test_the_pooled_token_and_one_bos(encoder: Encoder) -> None:
    """The two differ in the pooled token, and neither begins with the tokenizer's BOS twice."""
    tokenizer = tiny_tokenizer()
    chat, plain = (encoder.tokenize(["a man"], prompt=name)[0] for name in NAMES)
    assert tokenizer.decode(chat).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(plain).endswith("a man<|im_end|>\n")
    assert chat[0] == 1 != chat[1]
    assert encoder.tokenize(["a man"], prompt="bare")[0][0] == 1
    vectors = [encoder.encode(["a man"], prompt=name) for name in NAMES]
    assert float((vectors[0] * vectors[1]).sum()) < 0.999


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokenization", ["joint", "separate"])
def test_only_the_text_is_cut(encoder: Encoder, name: str, tokenization: str) -> None:
    config = ModelConfig(name_or_path=encoder.config.name_or_path, max_length=100, tokenization=tokenization)
    (ids,) = Encoder(config, encoder.tokenizer, encoder.embedder).tokenize(["word " * 100], prompt=name)
    prompt = chat_prompt(encoder.tokenizer, name)
    decoded = tiny_tokenizer().decode(ids)
    assert len(ids) <= 100 and decoded.startswith(prompt.prefix + "word") and decoded.endswith(prompt.suffix)


def test_a_template_that_ends_in_the_text_gets_eos() -> None:
    prompt = chat_prompt(tokenizer_with("{{ messages[0].content }}"))
    assert (prompt.prefix, prompt.suffix, prompt.append_eos) == ("", "", True)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('system first') }}", r"fails \(system first\)"),
        ("{{ messages[0].content }} {{ messages[0].content }}", "inserts the text 2 times"),
        ("hello", "inserts the text 0 times"),
    ],
)
def test_refused(template: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chat_prompt(tokenizer_with(template))


def test_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        Encoder.load(ModelConfig(name_or_path=str(folder), prompt="chat", max_length=64))


def test_names_are_known_without_a_tokenizer_but_not_to_training() -> None:
    for name in NAMES:
        check_prompt(name)
        assert default_layer(name) == -1
        with pytest.raises(UserError, match="training and export need a single prompt"):
            get_prompt(name, "")
