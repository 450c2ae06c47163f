"""Training goes on from an adapter (`model.adapter`), whichever library wrote it, with other data."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.load import load, validate
from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.start import find_adapter, pinned_adapter
from eval.leakage.trained_on import trained_on
from eval.tasks.sts import dev_score, load_task
from tests.export_cases import PEFT_WARNING, tuned_encoder
from tests.helpers import graded_pairs, tiny_model_folder, word_pairs, write_jsonl
from tests.hub_server import Hub, Repository
from tests.test_hub import hub as hub
from tests.tiny_run import fingerprint, metrics_of, train, write_run
from train.adapters.lora import make_trainable, trainable_parameters
from train.build import load_base
from train.config import ExportConfig, LoraConfig, OptimConfig, TrainConfig
from train.export.export import ExportArgs, export_command
from train.export.save import save_adapter
from train.resolve import resolve
from train.warm_start import adapter_folder

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["red green", "a small blue cat", "the cat sat on the mat"]
SHORT = {"optim": OptimConfig(steps=2, lr=1e-2), "export": ExportConfig(model=False)}


def vectors(folder: Path) -> np.ndarray:
    return Encoder.load(ModelConfig(name_or_path=str(folder), device="cpu")).encode(TEXTS, progress=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a first round of a prompt, a pooling and a length of its own, in `first`."""
    folder = tmp_path_factory.mktemp("rounds")
    lora = LoraConfig(rank=4, alpha=8.0, targets=("q_proj", "down_proj"))
    model = ModelConfig(
        name_or_path="decoder", max_length=48, device="cpu", autocast="off", pooling="mean", layer=2, prompt="Q: {text}"
    )
    path = write_run(folder, model=model, lora=lora, **SHORT)
    write_jsonl(folder / "more.jsonl", word_pairs(20, seed=5))
    with contextlib.chdir(folder):
        train(path, folder / "first")
    (folder / "second.yaml").write_text(
        "model: {adapter: first, device: cpu, autocast: 'off'}\n"
        "data: [{path: more.jsonl}]\n"
        "optim: {steps: 2, lr: 1.0e-2}\nbatch: {size: 8}\ncheckpoint: {every: 1}\nexport: {model: false}\n"
    )
    return folder


@pytest.fixture(autouse=True)
def _in_its_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def started(config: TrainConfig) -> Encoder:
    """What a run trains, before its first step."""
    config = resolve(config)
    encoder = load_base(config.model, trains_adapter=True)
    make_trainable(encoder.embedder, config.lora, adapter_folder(config.model))
    return encoder


def test_a_second_round_begins_where_the_first_ended(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = started(load(TrainConfig, place / "second.yaml", []))
    trained = trainable_parameters(encoder.embedder)
    assert {name.split(".")[-4] for name in trained} == {"q_proj", "down_proj"}
    blocks = {name.partition("layers.")[2][0] for name in trained}
    assert blocks == {"0", "1"}, "layer 2 is pooled"
    first = vectors(place / "first")
    np.testing.assert_allclose(encoder.encode(TEXTS, progress=False), first, atol=1e-6)
    bare = Encoder.from_backbone(encoder.config).encode(TEXTS, progress=False)
    assert np.abs(bare - first).max() > 1e-2, "the adapter counts"

    with caplog.at_level(logging.INFO):
        train(place / "second.yaml", place / "still", "--optim.lr", "1e-12", "--optim.steps", "1")
        train(place / "second.yaml", place / "second")
    assert f"goes on from the adapter {place / 'first'}: rank 4, alpha 8, on {place / 'decoder'};" in caplog.text
    assert "prompt Q: {text}, pooling mean of layer 2, max_length 48" in caplog.text
    np.testing.assert_allclose(vectors(place / "still"), first, atol=1e-6)
    assert np.abs(vectors(place / "second") - first).max() > 1e-3
    written = load(TrainConfig, place / "second" / "config.yaml", [])
    assert (written.lora.rank, written.lora.targets) == (4, ("down_proj", "q_proj"))
    assert written.model.adapter == str(place / "first")
    with quiet():
        alone = PeftModel.from_pretrained(AutoModel.from_pretrained(place / "decoder"), place / "second" / "adapter")
    found, kept = alone.state_dict(), load_file(place / "second" / "adapter" / "adapter_model.safetensors")
    assert kept and all(
        torch.equal(found[name.replace(".weight", ".default.weight")], tensor) for name, tensor in kept.items()
    ), "the adapter of the second round is whole by itself"


@pytest.mark.slow
def test_a_second_round_resumes_and_knows_its_adapter(place: Path) -> None:
    path = place / "second.yaml"
    train(path, place / "whole")
    (place / "copy").mkdir(exist_ok=True)
    for file in (place / "first" / "adapter").iterdir():
        (place / "copy" / file.name).write_bytes(file.read_bytes())
    train(path, place / "parts", "--model.adapter", "copy", "--checkpoint.keep", "2")
    for part in ("adapter", "checkpoints/step-000002"):
        for file in (place / "parts" / part).iterdir():
            file.unlink()
        (place / "parts" / part).rmdir()
    train(path, place / "parts")  # the same adapter elsewhere
    assert metrics_of(place / "parts") == metrics_of(place / "whole")
    assert {**fingerprint(place / "parts"), "names": ""} == {**fingerprint(place / "whole"), "names": ""}
    weights = place / "copy" / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(UserError, match=r"model\.adapter was \S+first, and is now \S+copy"):
        train(path, place / "parts", "--model.adapter", "copy")


REFUSED = {
    "--lora.rank 8": r"lora\.rank 8: model\.adapter \S+ has 4; remove the option",
    "--lora.targets v_proj": r"lora\.targets v_proj: model\.adapter \S+ has \('down_proj', 'q_proj'\)",
    "--lora.dora true": r"lora\.dora True: model\.adapter \S+ has False",
    "--lora.layers 0": r"lora\.layers \(0,\): model\.adapter \S+ exists already",
    "--lora.method full": r"lora\.method full: model\.adapter \S+ is trained as an adapter",
    "--output_dir first": r"model\.adapter \S+first/adapter would be overwritten by training",
    "--model.adapter absent": r"model\.adapter absent: no adapter_config\.json",
    "--model.adapter decoder": r"model\.adapter decoder: no adapter_config\.json",
    "--model.name_or_path wide": r"model\.adapter \S+: it does not fit the decoder; .*size mismatch",
    "--model.name_or_path gpt2": r"model\.adapter \S+: the decoder has no module layers\.0\.",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_contradicts_the_adapter_is_refused(place: Path, words: str) -> None:
    if words.endswith(" wide") and not (place / "wide").exists():
        settings = json.loads((tiny_model_folder(place / "wide") / "config.json").read_text())
        model = AutoModel.from_config(LlamaConfig(**{**settings, "intermediate_size": 64}))
        model.save_pretrained(place / "wide")
    if words.endswith(" gpt2"):
        tiny_model_folder(place / "gpt2", "gpt2")
    with pytest.raises(UserError, match=REFUSED[words]):
        train(place / "second.yaml", place / "refused", *words.split())


def test_the_same_options_are_no_contradiction(place: Path) -> None:
    given = load(TrainConfig, place / "second.yaml", ["--lora.targets", "q_proj", "down_proj", "--lora.rank", "4"])
    assert resolve(given) == resolve(load(TrainConfig, place / "second.yaml", []))
    assert resolve(resolve(given)) == resolve(given)
    other = load(TrainConfig, place / "second.yaml", ["--model.prompt", "bare", "--model.max_length", "20"])
    assert (resolve(other).model.prompt, resolve(other).model.max_length) == ("bare", 20)


PLAIN: dict[str, tuple[type, dict[str, Any]]] = {
    "of a decoder": (AutoModel, {}),
    "of a language model": (AutoModelForCausalLM, {"task_type": "CAUSAL_LM"}),
    "of some layers": (AutoModelForCausalLM, {"layers_to_transform": [1], "rank_pattern": {"down_proj": 2}}),
    "by a pattern": (
        AutoModelForCausalLM,
        {"target_modules": r"model\.layers\.[01]\..*(q|v)_proj", "use_rslora": True},
    ),
    "dora": (AutoModel, {"use_dora": True}),
    "with embeddings and head": (AutoModelForCausalLM, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "with biases": (AutoModelForCausalLM, {"bias": "all"}),
}


FURTHER = ("of a decoder", "of some layers", "dora", "with biases")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in FURTHER else ()) for kind in PLAIN]
)
def test_an_adapter_of_peft_is_read_as_peft_reads_it(place: Path, tmp_path: Path, kind: str) -> None:
    of, settings = PLAIN[kind]
    family = "qwen2" if kind == "with biases" else "llama"
    base = tiny_model_folder(tmp_path / "base", family)
    with quiet():
        torch.manual_seed(3)
        model = of.from_pretrained(base, pad_token_id=1)
        model = get_peft_model(model, PeftLora(**{"r": 4, "target_modules": ["q_proj", "down_proj"], **settings}))
        for name, parameter in model.named_parameters():
            if "lora_" in name or parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
        model.save_pretrained(tmp_path / "plain")
    tree = {"model": {"adapter": str(tmp_path / "plain"), "device": "cpu", "autocast": "off"}}
    encoder = started(validate(TrainConfig, tree))
    assert resolve(validate(TrainConfig, tree)).model.name_or_path == str(base)
    found = encoder.encode(TEXTS, progress=False)
    with torch.no_grad():
        rows = [torch.tensor([row]) for row in encoder.tokenize(TEXTS)]
        states = [model(input_ids=row, output_hidden_states=True).hidden_states[-1][0, -1] for row in rows]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(torch.stack(states)).numpy(), atol=1e-5)
    assert np.abs(Encoder.from_backbone(encoder.config).encode(TEXTS, progress=False) - found).max() > 1e-2
    assert trainable_parameters(encoder.embedder)


def test_tensors_that_do_not_fit_are_not_left_out_in_silence(place: Path, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for file in (place / "first" / "adapter").iterdir():
        (tmp_path / "odd" / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "odd" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "q_proj.lora_B" in name)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, weights)
    config = load(TrainConfig, place / "second.yaml", ["--model.adapter", str(tmp_path / "odd")])
    with pytest.raises(UserError, match=r"q_proj\.lora_B\.weight is only in its settings \(1 such tensors\)"):
        started(config)
    settings = json.loads((tmp_path / "odd" / "adapter_config.json").read_text())
    (tmp_path / "odd" / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "IA3"}))
    with pytest.raises(UserError, match=r"PEFT's type IA3, and only LORA can be trained further"):
        started(config)


@pytest.mark.slow
def test_the_report_compares_with_the_first_round(place: Path) -> None:
    """Rows of the state before are those of the first round, by name and by figure; its data count for overlap."""
    write_jsonl(place / "test.jsonl", graded_pairs(30, seed=3))
    train(place / "second.yaml", place / "judged", "--eval.tests", "test.jsonl")
    report = json.loads((place / "judged" / "report" / "report.json").read_text(encoding="utf-8"))
    rows = {row["system"]: row["value"] for row in report["results"] if row["metric"] == "spearman_all"}
    assert {name.partition("/")[0] for name in rows} == {"tuned", "before", "baseline"}
    first = Encoder.load(ModelConfig(name_or_path=str(place / "first"), device="cpu"))
    expected = dev_score(first, load_task("test.jsonl"))
    assert rows["before/Q: {text}/mean@2"] == pytest.approx(expected, abs=1e-9)
    assert any("the decoder with the adapter first, from which training went on" in note for note in report["notes"])
    exported = export_command(ExportArgs(run=place / "judged", to=place / "exported", merge=True))
    np.testing.assert_allclose(vectors(exported), vectors(place / "judged"), atol=1e-5)
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "on from the adapter `first`, which was trained on other data before" in card
    assert "Rows `before/...` are the decoder with the adapter from which training went on." in card
    with pytest.raises(UserError, match=r"the decoder \S+judged has an adapter already"):
        Encoder.load(ModelConfig(name_or_path=str(place / "judged"), adapter=str(place / "first"), device="cpu"))
    known = trained_on(str(place / "judged"))
    assert sorted(Path(name).name for name in known.texts) == ["more.jsonl", "pairs.jsonl"] and not known.unknown


def test_an_adapter_on_the_hub_is_pinned(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has one commit of it although the branch moves, asks for it once, and fetches the adapter's files alone."""
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    encoder = tuned_encoder(tmp_path / "base")
    save_adapter(encoder, tmp_path / "adapter")
    files = {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir() if path.is_file()}
    repository = Repository("bob", private=False, files={**files, "optimizer.pt": b"large"})
    hub.repositories["bob/adapter"] = repository
    start = TrainConfig(model=ModelConfig(adapter="bob/adapter@v1", device="cpu"))
    model = resolve(start).model
    assert model.adapter == f"bob/adapter@{repository.sha}" and model.name_or_path == str(tmp_path / "base")
    assert ("HEAD", "bob/adapter/resolve/v1/adapter_config.json") in hub.requests
    fetched = {path.rsplit("/", 1)[-1] for verb, path in hub.requests if verb == "GET" and "/resolve/" in path}
    assert {"adapter_config.json", "adapter_model.safetensors", "dec2vec.json"} == fetched
    asked, before = len(hub.requests), find_adapter(model)
    repository.files["adapter_config.json"] = b"{}"
    repository.commits += 1
    again, adapter = resolve(replace(start, model=model)).model, find_adapter(model)
    assert before is not None and adapter is not None and adapter.digest == before.digest and again == model
    assert len(hub.requests) == asked
    moved = pinned_adapter("bob/adapter")
    assert moved == f"bob/adapter@{repository.sha}" and moved != model.adapter
