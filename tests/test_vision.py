"""Vision-language decoders: vectors are those of plain transformers, and depend on their own input only."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import transformers
import transformers.models.smolvlm.processing_smolvlm as smolvlm
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, LlavaConfig, ProcessorMixin

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.batching import within
from dec2vec.decoder import image_reader, vision
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.decoder.load import load_architecture
from tests.helpers import tiny_model_folder
from tests.vision_models import (
    LAYERS,
    PROCESSOR_OPTIONS,
    VISION_FAMILIES,
    picture,
    tiny_vision_folder,
    vision_tokenizer,
)
from train.adapters.lora import make_trainable
from train.config import LoraConfig

FAST = {
    fast: [pytest.param(name, marks=() if name == fast else pytest.mark.slow) for name in VISION_FAMILIES]
    for fast in ("qwen3_vl", "gemma3", "llava")
}
"""All families, of which the others than the named one are slow."""
QWEN = VISION_FAMILIES[:3]
MARKS = {"gemma3": "<start_of_image>"} | dict.fromkeys(QWEN, "<|vision_start|><|image_pad|><|vision_end|>")
"""What a user of transformers writes for an image."""
INPUTS: list[Any] = [
    "a dog",
    picture(0),
    {"text": "a cat", "image": picture(1, 40, 24)},
    picture(2, 10, 30),
    "a long text about many things, with a tail",
    {"text": "what?", "image": picture(0)},
]
EOS = 0


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vision")


def load(folders: Path, family: str, **options: Any) -> Encoder:
    folder = tiny_vision_folder(folders / family, family)
    return Encoder.load(ModelConfig(name_or_path=str(folder), autocast="off", **options))


def encode(encoder: Encoder, inputs: list[Any], **options: Any) -> NDArray[np.float32]:
    return encoder.encode(inputs, progress=False, **options)


def plain_processor(folder: Path, family: str) -> Any:
    """The family's own class, which gets no video part and does not ask for num2words."""
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL", "smolvlm": "SmolVLM"}
    names |= {"idefics3": "Idefics3", "llava": "Llava", "paligemma": "PaliGemma", "gemma3": "Gemma3"}
    parts = [AutoImageProcessor.from_pretrained(folder, backend="pil"), AutoTokenizer.from_pretrained(folder)]
    parts += [None] * (family in (*QWEN, "smolvlm"))
    without_checks = patch.object(ProcessorMixin, "check_argument_for_proper_class", lambda *_: None)
    with without_checks, patch.object(smolvlm, "num2words", object()):
        return getattr(transformers, f"{names[family]}Processor")(*parts, **PROCESSOR_OPTIONS.get(family, {}))


@cache
def plain_states(folder: Path, family: str, words: str, *, eos: bool) -> list[list[NDArray[np.float32]]]:
    """Of each input with an image, the last token's state at every layer, one input at a time."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = plain_processor(folder, family)
    found = []
    for given in INPUTS:
        if isinstance(given, str):
            continue
        text, image = (given["text"], given["image"]) if isinstance(given, dict) else ("", given)
        written = words.format(MARKS.get(family, "<image>") + text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PaliGemma's processor calls numpy as before numpy 2
            inputs = dict(processor(text=written, images=[image], return_tensors="pt"))
        for name, value in (("input_ids", EOS), ("attention_mask", 1), ("token_type_ids", 0), ("mm_token_type_ids", 0)):
            if eos and name in inputs:
                inputs[name] = torch.cat([inputs[name], torch.full_like(inputs[name][:, :1], value)], dim=1)
        given_to = set(vision._KINDS.values()) | set(image_reader._INPUTS) | {"input_ids", "attention_mask"}
        with torch.no_grad():
            output = model(**{name: inputs[name] for name in inputs if name in given_to}, output_hidden_states=True)
        found.append([state[0, -1].numpy() for state in output.hidden_states])
    return found


def close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", FAST["qwen3_vl"])
def test_vectors_are_those_of_plain_transformers(family: str, folders: Path) -> None:
    encoder = load(folders, family)
    inputs = [value for value in INPUTS if not isinstance(value, str)]
    for words, eos in (("{}", True), ("Image: {} in one word:", False)):
        expected = plain_states(folders / family, family, words, eos=eos)
        for layer in (-1, 1):
            encoder.config = replace(encoder.config, layer=layer, prompt="bare" if eos else words.format("{text}"))
            close(encode(encoder, inputs, normalize=False), np.stack([states[layer] for states in expected]))


@pytest.mark.parametrize("family", FAST["llava"])
def test_logits_are_those_of_plain_transformers(family: str, folders: Path) -> None:
    encoder = load(folders, family, prompt="bare", pooling="logits")
    inputs = [value for value in INPUTS if not isinstance(value, str)]
    head = AutoModelForImageTextToText.from_pretrained(folders / family).lm_head.weight.detach().numpy()
    states = plain_states(folders / family, family, "{}", eos=True)
    expected = np.stack([of_input[-1] for of_input in states]) @ head.T
    np.testing.assert_allclose(encode(encoder, inputs, normalize=False), expected, atol=1e-4)


@pytest.mark.parametrize("family", FAST["gemma3"])
def test_a_vector_depends_on_its_own_input_only(family: str, folders: Path) -> None:
    encoder = load(folders, family, prompt="This is a longer prompt: {text}")
    together = encode(encoder, INPUTS)
    close(np.concatenate([encode(encoder, [value]) for value in INPUTS]), together)
    close(encode(encoder, INPUTS[::-1])[::-1], together)
    close(encode(encoder, INPUTS, batch_tokens=40), together)
    encoder.share_prefix = False
    encoder.embedder.narrow = False
    close(encode(encoder, INPUTS), together)
    distances = np.linalg.norm(together[:, None] - together, axis=2)
    assert distances[~np.eye(len(INPUTS), dtype=bool)].min() > 0.05


@pytest.mark.parametrize("family", FAST["gemma3"])
def test_without_the_rule_of_its_family_vectors_differ(
    family: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = vision.FAMILIES[family].rule
    encoder = load(folders, family)
    inputs = [INPUTS[2], INPUTS[1]]
    expected = encode(encoder, inputs)
    if rule == "whole":  # padding that counts as a part of the prefix changes the shorter row
        real = vision.input_arguments
        dropped = lambda *given: {k: v * 0 if k == "token_type_ids" else v for k, v in real(*given).items()}  # noqa: E731
        monkeypatch.setattr("dec2vec.decoder.embedder.input_arguments", dropped)
        assert np.abs(encode(encoder, inputs)[1] - expected[1]).max() > 1e-3
    monkeypatch.setattr("dec2vec.decoder.embedder.input_arguments", without_kinds)
    try:
        found = encode(encoder, inputs)
    except ValueError as error:  # some families refuse what others read with the positions of words
        assert rule == "positions" and "mm_token_type_ids" in str(error)
    else:
        assert (np.abs(found - expected).max() > 1e-3) == (rule != "causal")


def without_kinds(*given: Any) -> dict[str, Any]:
    """The arguments of a pass without those by which transformers makes masks and positions."""
    found = vision.input_arguments(*given)
    return {name: value for name, value in found.items() if name not in vision._KINDS.values()}


@pytest.mark.slow
def test_positions_of_an_image_are_not_those_of_words(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folders, "qwen2_vl")
    expected = encode(encoder, INPUTS[1:3])
    one_after_another = lambda self, input_ids, **_: (  # noqa: E731
        torch.arange(input_ids.shape[1]).expand(3, *input_ids.shape),
        torch.zeros(len(input_ids), 1, dtype=torch.long),
    )
    backbone: Any = encoder.embedder.backbone
    monkeypatch.setattr(type(backbone), "get_rope_index", one_after_another)
    assert np.abs(encode(encoder, INPUTS[1:3]) - expected).max() > 1e-3


@pytest.mark.parametrize("family", ["llava", pytest.param("paligemma", marks=pytest.mark.slow)])
def test_fast_paths_run_where_they_are_right(family: str, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folders, family, prompt="Instruct: find it. Query: {text}")
    encode(encoder, [value for value in INPUTS if not isinstance(value, str)])
    assert (encoder.tally.prefix > 0) == (family == "llava")
    block = encoder.embedder._narrowed_block([encoder.view])
    blocks = decoder_blocks(encoder.embedder.backbone, LAYERS)
    assert blocks is not None and "vision" not in type(blocks[0]).__name__.lower()
    assert (block is blocks[-1]) == (family == "llava")


def test_texts_beside_images_are_read_as_before(folders: Path) -> None:
    encoder = load(folders, "qwen3_vl")
    texts = ["a dog", "the token <|image_pad|> in a text", "a longer text than the others of this call"]
    before = encode(encoder, texts)
    mixed = encode(encoder, [*texts, *INPUTS[1:4]])
    np.testing.assert_array_equal(mixed[:3], before)
    np.testing.assert_array_equal(encode(encoder, texts), before)


def test_long_texts_are_cut_and_images_are_not(folders: Path) -> None:
    encoder = load(folders, "llava", max_length=16)
    long = "a cat and a dog and a bird and a horse and a man and a house"
    found = encode(encoder, [{"text": long, "image": picture(0)}, {"text": long + " and more", "image": picture(0)}])
    close(found[0], found[1])
    assert np.abs(found[0] - encode(encoder, [{"text": "a cat", "image": picture(0)}])[0]).max() > 1e-3
    with pytest.raises(UserError, match="are 18 tokens, and the decoder has 17 positions"):
        backbone: Any = encoder.embedder.backbone
        backbone.config.text_config.max_position_embeddings = 17
        encode(encoder, [picture(0)])


def test_training_waits_for_its_own_rules(folders: Path) -> None:
    with pytest.raises(UserError, match="llava reads images too, and training such decoders is not supported yet"):
        make_trainable(load(folders, "llava").embedder, LoraConfig())


@pytest.mark.slow
def test_chunks_hold_few_patches(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folders, "smolvlm")
    passes: list[int] = []
    backbone: Any = encoder.embedder.backbone
    features = backbone.get_image_features

    def counted(pixel_values: torch.Tensor, *rest: Any, **more: Any) -> Any:
        passes.append(pixel_values.shape[1] * 16)
        return features(pixel_values, *rest, **more)

    monkeypatch.setattr(backbone, "get_image_features", counted)
    expected = encode(encoder, [picture(seed) for seed in range(6)])
    assert passes == [6 * 5 * 16]
    close(encode(encoder, [picture(seed) for seed in range(6)], batch_tokens=170), expected)
    assert sum(passes[1:]) == passes[0] and max(passes[1:]) <= 170
    assert within([[0, 1], [2], [3, 4, 5]], [5, 5, 90, 4, 4, 4], 9) == [[0], [1], [2], [3, 4], [5]]


def test_what_cannot_be_read_is_refused(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folders, "llava")
    refusals: dict[str, Any] = {
        "by which the model marks images": [{"text": "an <image> here", "image": picture(0)}],
        "input 2: an int is neither": ["a", 5],
        "input 1: 20 x 20 are 400 pixels": [picture(0)],
    }
    for part, inputs in refusals.items():
        limit = 399 if "pixels" in part else 64_000_000
        encoder.config = replace(encoder.config, max_pixels=limit)
        with pytest.raises(UserError, match=part):
            encode(encoder, inputs)
    for single in (b"bytes", bytearray(b"bytes"), "text"):
        with pytest.raises(UserError, match="give a list"):
            encoder.encode(single)
    encoder.config = replace(encoder.config, max_pixels=400)
    with pytest.raises(UserError, match="'echo' can't be used with images"):
        encode(encoder, [picture(0)], prompt="echo")
    texts = Encoder.load(ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "llama"))))
    with pytest.raises(UserError, match="llama reads texts only"):
        encode(texts, [picture(0)])
    with pytest.raises(UserError, match="bidirectional is not supported for llava"):
        load(folders, "llava", bidirectional=True)
    monkeypatch.setattr("dec2vec.errors.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'dec2vec\[vision\]'"):
        encode(load(folders, "llava"), [picture(0)])
    assert encode(load(folders, "llava"), ["a text"]).shape == (1, 32)


def test_a_llava_with_another_tower_is_refused(tmp_path: Path) -> None:
    for tower, kind in (("pixtral", "pixtral"), ("siglip_vision_model", None)):
        config = LlavaConfig(vision_config={"model_type": tower}, text_config={"model_type": "mistral"})
        assert (vision.family_of(config) is None) == (kind is not None) and vision.other_tower(config) == kind
        config.save_pretrained(tmp_path / tower)
    with pytest.raises(UserError, match="a llava with the vision tower pixtral is not supported"):
        load_architecture(ModelConfig(name_or_path=str(tmp_path / "pixtral")))
    assert load_architecture(ModelConfig(name_or_path=str(tmp_path / "siglip_vision_model"))).model_type == "llava"


def test_errors_name_the_image(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(folders, "llava")
    limits = encoder.embedder.backbone.config.get_text_config()
    monkeypatch.setattr(limits, "max_position_embeddings", 18)
    with pytest.raises(UserError, match=r"input 2: this image and its text are \d+ tokens, and the decoder has"):
        encode(encoder, ["a", picture(0)], prompt="prompteol")

    def fail(*given: Any, **options: Any) -> None:
        raise IndexError

    monkeypatch.setattr(encoder.image_reader.processor, "_process_images", fail)
    with pytest.raises(UserError, match=r"input 2: llava can't read this shape of image \(IndexError\)"):
        encode(encoder, ["a", picture(0)])
    folder = tiny_vision_folder(tmp_path / "llava", "llava")
    (folder / "processor_config.json").unlink()
    with pytest.raises(UserError, match="do not say patch_size of the processor; copy preprocessor_config"):
        encode(Encoder.load(ModelConfig(name_or_path=str(folder))), [picture(0)])


CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
AROUND = {
    "bare": ("{}", "{}"),
    "prompteol": ('This image : "{}" means in one word:"', 'This sentence : "{}" means in one word:"'),
    "instruct": ("Instruct: T\nQuery: {}", "Instruct: T\nQuery: {}"),
    "So: {image}{text} in one word:": ("So: {} in one word:", "So: {} in one word:"),
    "chat": (CHAT, CHAT),
}
"""By prompt what stands around an image, and around an image and its text."""


def test_prompts_around_an_image(folders: Path) -> None:
    encoder = load(folders, "llava", task="T")
    marks = encoder.image_reader._marks
    for prompt, around in AROUND.items():
        (member,) = encoder.ensemble(prompt).members
        for text, expected in zip(("", "a cat"), around, strict=True):
            found = image_reader.with_image(member, marks, has_text=bool(text))
            assert found.prefix + text + found.suffix == expected.format("<image>" + text)
            assert found.append_eos == (prompt in ("bare", "instruct")) and found.adds_bos == (prompt != "chat")
    assert encoder.tokenize(["a cat"], prompt="So: {image}{text} in one word:") == encoder.tokenize(
        ["a cat"], prompt="So: {text} in one word:"
    )


@pytest.mark.slow
def test_paligemma_puts_bos_behind_the_image_and_a_newline_at_the_end(folders: Path) -> None:
    encoder = load(folders, "paligemma")
    (member,) = encoder.ensemble("bare").members
    found = image_reader.with_image(member, encoder.image_reader._marks, has_text=True)
    assert (found.prefix, found.suffix, found.adds_bos) == ("<image><bos>", "\n", False)


def test_a_template_without_text_parts_gets_a_list_of_them(folders: Path) -> None:
    encoder = load(folders, "llava")
    listed = vision_tokenizer("llava").chat_template.replace("{{ message['content'] }}", "")
    encoder.tokenizer.chat_template = listed
    (member,) = encoder.ensemble("chat").members
    assert member.prefix == "<|im_start|>user\n" and member.suffix.startswith("<|im_end|>")
