"""A folder of sentence-transformers is read as that library reads it, on each side, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _pytest.mark.structures import ParameterSet
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.checks.check_model import check_model
from dec2vec.checks.finding import failed
from dec2vec.cli import main
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from tests.export_cases import PEFT_WARNING
from tests.helpers import tiny_model_folder
from tests.published_folders import PROMPTS, Folder, Layer, edit_json, write_published

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["the cat sat on the mat.", "A Man Rides", "word after word " * 30, "  two  spaces ", "Ünïcödé 猫", "x <eos> y"]
IDENTITY = "torch.nn.modules.linear.Identity"
CASES: dict[str, Folder] = {
    "last token": Folder(prompts=PROMPTS),
    "last token, default prompt": Folder(prompts={"s2s": "Same: ", **PROMPTS}, default="s2s"),
    "last token of the text": Folder(ending=False),
    "mean": Folder("mean_tokens", ending=False, prompts={"query": "Find: "}, normalize=False),
    "weighted mean": Folder("weightedmean_tokens", prompts=PROMPTS),
    "max": Folder("max_tokens"),
    "dense": Folder(prompts=PROMPTS, layers=(Layer(),)),
    "dense without activation": Folder("mean_tokens", layers=(Layer(12, IDENTITY, bias=False), Layer(6, IDENTITY))),
    "dense by default": Folder(layers=(Layer(8, None), Layer(8, "torch.nn.modules.activation.GELU")), between=True),
    "dense with residual": Folder(layers=(Layer(16, residual=True), Layer(4, residual=True)), normalize=False),
    "prompt not pooled": Folder("mean_tokens", prompts=PROMPTS, include_prompt=False),
    "prompt not pooled, max": Folder("max_tokens", prompts=PROMPTS, include_prompt=False, ending=False),
    "lower case": Folder("mean_tokens", prompts=PROMPTS, lower_case=True),
    "in a folder of its own": Folder(prompts=PROMPTS, transformer="0_Transformer"),
    "first dimensions": Folder(layers=(Layer(12),), truncate=5),
    "cut at the beginning": Folder(prompts=PROMPTS, truncation_side="left"),
    "length of the decoder": Folder(max_length=None, family="gpt2"),
}


SLOW = frozenset(CASES) - {"last token", "mean", "weighted mean", "dense", "prompt not pooled", "lower case"}


def of_speed(names: Iterable[str]) -> list[ParameterSet]:
    """The cases, of which further variants are slow tests."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


def config(folder: Path, **options: Any) -> ModelConfig:
    return ModelConfig(**{"name_or_path": str(folder), "device": "cpu", "autocast": "off", **options})


def by_library(folder: Path, texts: list[str], side: str) -> np.ndarray:
    """Each text alone, so that its padding is no question, as unit vectors."""
    model = SentenceTransformer(str(folder), device="cpu")
    encode = {"text": model.encode, "query": model.encode_query, "document": model.encode_document}[side]
    return np.concatenate([encode([text], normalize_embeddings=True) for text in texts])


def plain(folder: Path) -> Path:
    """The decoder alone, as it was read before."""
    copy = folder.with_name("plain")
    shutil.copytree(folder, copy)
    (copy / "modules.json").unlink()
    return copy


@pytest.mark.parametrize("case", of_speed(CASES))
def test_equals_the_library_on_each_side(tmp_path: Path, case: str) -> None:
    folder = write_published(tmp_path / "model", CASES[case])
    encoder = Encoder.load(config(folder))
    for side in ("text", "query", "document"):
        found = encoder.encode(TEXTS, side=side, progress=False)
        np.testing.assert_allclose(found, by_library(folder, TEXTS, side), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["last token", "mean", "dense"])
def test_the_decoder_alone_gives_other_vectors(tmp_path: Path, case: str) -> None:
    """Negative control of the test above."""
    folder = write_published(tmp_path / "model", CASES[case])
    found = Encoder.load(config(plain(folder), max_length=40)).encode(TEXTS, progress=False)
    expected = by_library(folder, TEXTS, "query")
    assert found.shape != expected.shape or float(np.abs(found - expected).max()) > 0.05


def test_vectors_keep_their_length_without_normalize(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "model", CASES["dense with residual"])
    found = Encoder.load(config(folder)).encode(TEXTS, normalize=False, progress=False)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert float(np.abs(np.linalg.norm(expected, axis=1) - 1).max()) > 0.5


@pytest.mark.parametrize("normalize", [True, False])
def test_another_similarity_is_said_where_it_ranks_otherwise(
    tmp_path: Path, normalize: bool, caplog: pytest.LogCaptureFixture
) -> None:
    Encoder.load(config(write_published(tmp_path / "model", Folder(similarity="dot", normalize=normalize))))
    said = [line for line in caplog.messages if "meant to be compared by dot" in line]
    assert len(said) == (not normalize)


def test_as_the_library_saves_it_today(tmp_path: Path) -> None:
    """Version 6 writes other names (pooling_mode, modality_config), and the length into the tokenizer."""
    folder = write_published(tmp_path / "model", CASES["dense"])
    SentenceTransformer(str(folder), device="cpu").save(str(tmp_path / "saved"))
    assert "pooling_mode" in json.loads((tmp_path / "saved" / "1_Pooling" / "config.json").read_text())
    encoder = Encoder.load(config(tmp_path / "saved"))
    assert encoder.max_length == 40
    found = encoder.encode(TEXTS, side="query", progress=False)
    np.testing.assert_allclose(found, by_library(folder, TEXTS, "query"), rtol=0, atol=1e-5)


def test_an_adapter_that_another_library_saved(tmp_path: Path) -> None:
    base = tiny_model_folder(tmp_path / "base")
    folder = write_published(tmp_path / "model", CASES["mean"])
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    torch.manual_seed(0)
    adapted = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder)
    found = Encoder.load(config(folder)).encode(TEXTS, side="query", progress=False)
    np.testing.assert_allclose(found, by_library(folder, TEXTS, "query"), rtol=0, atol=1e-5)
    untuned = write_published(tmp_path / "untuned", CASES["mean"])
    assert float(np.abs(found - by_library(untuned, TEXTS, "query")).max()) > 0.01, "negative control"


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.mark.parametrize("generation", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_texts_in_a_chat_template(tmp_path: Path, generation: bool) -> None:
    """Version 6 puts texts into the template where the folder says so; this one removes white space."""
    folder = write_published(tmp_path / "model", Folder(prompts=PROMPTS, ending=False))
    edit_json(folder / "tokenizer_config.json", chat_template=TEMPLATE)
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    edit_json(
        folder / "sentence_bert_config.json",
        modality_config={"text": text, "message": {**text, "format": "flat"}},
        module_output_name="token_embeddings",
        processing_kwargs={"chat_template": {"add_generation_prompt": generation}},
    )
    encoder = Encoder.load(config(folder))
    for side in ("text", "query"):
        found = encoder.encode(TEXTS, side=side, progress=False)
        np.testing.assert_allclose(found, by_library(folder, TEXTS, side), rtol=0, atol=1e-5)
    edit_json(folder / "sentence_bert_config.json", modality_config={"text": text})
    assert float(np.abs(found - by_library(folder, TEXTS, "query")).max()) > 0.05, "negative control"


def test_what_is_asked_for_comes_first(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "model", CASES["dense"])
    asked = Encoder.load(config(folder, pooling="mean", prompt="instruct", max_length=30))
    assert (asked.config.pooling, asked.config.prompt, asked.max_length) == ("mean", "instruct", 30)
    assert asked.view == View("mean", -1), "the Dense layer belongs to the pooling that it was trained on"
    assert asked.encode(["a"], progress=False).shape == (1, 16)
    ids = asked.tokenize(["a"])[0]
    assert asked.tokenizer.convert_ids_to_tokens(ids[-1]) == "<pad>", "the ending is still that of its tokenizer"
    view = View("last", 3)
    both = asked.encode_views(["a"], [view, View("last", 3, dense=True)], EncodeOptions("published"))
    assert [vectors.shape[1] for vectors in both.values()] == [16, 8]


def test_every_verb_and_check_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_published(tmp_path / "model", CASES["dense"])
    (tmp_path / "t.txt").write_text("\n".join(TEXTS[:2]) + "\n", encoding="utf-8")
    (tmp_path / "g.jsonl").write_text(json.dumps({"generated": TEXTS[0], "reference": TEXTS[1]}) + "\n")
    options = ["--model", str(folder), "--device", "cpu"]
    main(["encode", *options, "--input", str(tmp_path / "t.txt"), "--output", str(tmp_path / "v.npy")])
    main(
        [
            "score",
            *options,
            "--input",
            str(tmp_path / "g.jsonl"),
            "--output",
            str(tmp_path / "s.jsonl"),
            "--threshold",
            "0",
        ]
    )
    expected = by_library(folder, TEXTS[:2], "text")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, rtol=0, atol=2e-2)  # bfloat16 where it is fast
    cosine = json.loads((tmp_path / "s.jsonl").read_text())["cosine"]
    assert cosine == pytest.approx(float(expected[0] @ expected[1]), abs=2e-2)
    findings = {finding.check: finding for finding in check_model(config(folder))}
    assert not failed(list(findings.values())), findings
    assert findings["loads"].what == "loaded by dec2vec and sentence-transformers"
    assert findings["same vectors"].verdict == "pass"


def test_check_says_that_the_verbs_refuse_a_folder(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "model", Folder("cls_token"))
    loads = next(finding for finding in check_model(config(folder)) if finding.check == "loads")
    assert loads.verdict == "warn" and "its Pooling is cls" in loads.what


def _modules(folder: Path, number: int, kind: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[number]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules))


def _module(folder: Path, number: int, kind: str) -> None:
    _modules(folder, number, f"sentence_transformers.models.{kind}")


def _settings(folder: Path, **changes: Any) -> None:
    edit_json(folder / "config_sentence_transformers.json", **changes)


def _transformer(folder: Path, **changes: Any) -> None:
    edit_json(folder / "sentence_bert_config.json", **changes)


REFUSED: dict[str, tuple[Any, str]] = {
    "router": (lambda f: _module(f, 0, "Router"), r"module 0 is sentence_transformers\.models\.Router"),
    "word embeddings": (lambda f: _module(f, 0, "WordEmbeddings"), r"module 0 is .*WordEmbeddings"),
    "cnn": (lambda f: _module(f, 1, "CNN"), r"module 1 is .*CNN"),
    "weighted layers": (lambda f: _module(f, 2, "LayerNorm"), r"module 2 is .*LayerNorm"),
    "own code": (lambda f: _modules(f, 2, "custom.Special"), r"module 2 is custom\.Special"),
    "cls": (lambda f: edit_json(f / "1_Pooling/config.json", pooling_mode="cls"), r"its Pooling is cls"),
    "two modes": (lambda f: edit_json(f / "1_Pooling/config.json", pooling_mode=["max", "mean"]), "max and mean"),
    "activation": (
        lambda f: edit_json(f / "2_Dense/config.json", activation_function="torch.nn.modules.activation.PReLU"),
        r"2_Dense: activation_function .*PReLU is not read",
    ),
    "token vectors": (
        lambda f: edit_json(f / "2_Dense/config.json", module_input_name="token_embeddings"),
        "module_input_name 'token_embeddings'",
    ),
    "chance": (
        lambda f: edit_json(f / "2_Dense/config.json", activation_function="torch.nn.modules.dropout.Dropout"),
        r"2_Dense: activation_function .*Dropout is not read; only modules of torch.nn without weights and chance",
    ),
    "random slope": (
        lambda f: edit_json(f / "2_Dense/config.json", activation_function="torch.nn.modules.activation.RReLU"),
        r"2_Dense: activation_function .*RReLU is not read",
    ),
    "no Pooling": (lambda f: (f / "1_Pooling/config.json").unlink(), r"1_Pooling/config\.json is missing; copy"),
    "no Dense": (lambda f: (f / "2_Dense/config.json").unlink(), r"2_Dense/config\.json is missing; copy"),
    "no modes": (lambda f: edit_json(f / "1_Pooling/config.json", pooling_mode=[]), r"its Pooling is \[\]"),
    "mode of modes": (lambda f: edit_json(f / "1_Pooling/config.json", pooling_mode=[["max"]]), r"its Pooling is \["),
    "include_prompt": (
        lambda f: edit_json(f / "1_Pooling/config.json", include_prompt="no"),
        r"1_Pooling/config\.json: include_prompt is 'no' instead of true or false; correct the file",
    ),
    "list of prompts": (lambda f: _settings(f, prompts=["a"]), r"prompts is .* instead of an object; correct the file"),
    "prompt of numbers": (lambda f: _settings(f, prompts={"query": 3}), "prompts: query is '3' instead of a string"),
    "default prompt": (lambda f: _settings(f, default_prompt_name=["query"]), "default_prompt_name is .* of a string"),
    "truncate_dim": (lambda f: _settings(f, truncate_dim="x"), "truncate_dim is 'x' instead of a whole number"),
    "no dimensions": (lambda f: _settings(f, truncate_dim=-1), "truncate_dim -1 leaves no dimensions"),
    "length": (lambda f: _transformer(f, max_seq_length="abc"), "max_seq_length is 'abc' instead of a whole number"),
    "no length": (lambda f: _transformer(f, max_seq_length=0), "a length of 0 tokens leaves nothing to read"),
    "modalities": (lambda f: _transformer(f, modality_config=[1]), "modality_config is .* instead of an object"),
    "options": (lambda f: _transformer(f, processing_kwargs="x"), "processing_kwargs is 'x' instead of an object"),
    "no weights": (lambda f: (f / "2_Dense/model.safetensors").unlink(), r"no 2_Dense/model\.safetensors"),
    "sparse": (
        lambda f: edit_json(f / "config_sentence_transformers.json", model_type="SparseEncoder"),
        "it is a SparseEncoder",
    ),
    "unknown default prompt": (
        lambda f: edit_json(f / "config_sentence_transformers.json", default_prompt_name="nli"),
        "default_prompt_name 'nli' is none of the prompts",
    ),
    "other output": (
        lambda f: edit_json(f / "sentence_bert_config.json", transformer_task="fill-mask"),
        "transformer_task fill-mask is not read",
    ),
    "expanded queries": (
        lambda f: edit_json(f / "sentence_bert_config.json", query_expansion={"length": 32}),
        "query_expansion is not read",
    ),
    "own arguments": (
        lambda f: edit_json(f / "sentence_bert_config.json", config_args={"is_causal": False}),
        r"config_args\.is_causal is not read",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(tmp_path: Path, case: str) -> None:
    folder = write_published(tmp_path / "model", CASES["dense"])
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as refusal:
        Encoder.load(config(folder))
    assert "\n" not in str(refusal.value)


def test_the_name_of_its_prompts_needs_a_published_embedder(tmp_path: Path) -> None:
    folder = plain(write_published(tmp_path / "model", CASES["last token"]))
    with pytest.raises(UserError, match=r"prompt .published.: .* is not a published embedder"):
        Encoder.load(config(folder, prompt="published"))
