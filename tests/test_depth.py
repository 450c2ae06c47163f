"""A decoder cut at block k: what it says is the whole one's hidden state k under the final norm, and it is smaller."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig
from dec2vec.decoder.layers import final_norm
from dec2vec.errors import UserError
from eval.config import EvalConfig
from tests.helpers import FAMILIES, LAYERS, graded_pairs, tiny_model_folder, write_jsonl
from tests.tiny_run import train, write_run
from tests.training_setup import tiny_encoder
from train.config import ExportConfig, LoraConfig, TrainConfig
from train.export.save import save_adapter, save_sentence_transformer
from train.options.data import SourceConfig
from train.preflight import check_config

TEXTS = ["the cat sat", "a man is riding a horse", "a"]


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.load(ModelConfig(**{"name_or_path": str(folder), "max_length": 64, "autocast": "off", **options}))


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_inner_state_of_the_whole(family: str, tmp_path: Path) -> None:
    """Read by transformers itself; another depth as negative control."""
    whole = AutoModel.from_pretrained(tiny_model_folder(tmp_path, family)).eval()
    states = {}
    for depth in (1, 2):
        cut = load(tmp_path, depth=depth)
        assert cut.layer_count == depth
        rows = []
        for ids in cut.tokenize(TEXTS):
            with torch.no_grad():
                output = whole(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False)
                rows.append(final_norm(whole, LAYERS)(output.hidden_states[depth])[0, -1])
        found = torch.from_numpy(cut.encode(TEXTS, normalize=False))
        torch.testing.assert_close(found, torch.stack(rows), rtol=0, atol=1e-5)
        states[depth] = found
    assert not torch.allclose(states[1], states[2], atol=1e-2)


@pytest.mark.parametrize("full", [True, False])
def test_what_is_saved_is_smaller(full: bool, tmp_path: Path) -> None:
    base = tiny_model_folder(tmp_path / "base", "qwen2")  # which says the kind of each block
    encoder = tiny_encoder(base, lora=LoraConfig(method="full") if full else LoraConfig(rank=4), depth=2)
    expected = encoder.encode(TEXTS)
    save_adapter(encoder, tmp_path / "run" / "adapter")
    model = save_sentence_transformer(encoder, tmp_path / "run" / "model", not full, None)
    saved = json.loads((model / "config.json").read_text())
    assert saved["num_hidden_layers"] == len(saved["layer_types"]) == 2
    with safe_open(model / "model.safetensors", framework="pt") as file:
        assert {int(name.split(".")[1]) for name in list(file.keys()) if name.startswith("layers.")} == {0, 1}
    for folder in (tmp_path / "run", model):  # an adapter upon the whole base, cut again; a model of two blocks
        again = load(folder)
        torch.testing.assert_close(torch.from_numpy(again.encode(TEXTS)), torch.from_numpy(expected))


def test_refusals(tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "base")
    with pytest.raises(UserError, match=r"model.depth 4: .*base has 3 blocks; use at most that many"):
        load(tmp_path / "base", depth=4)
    with pytest.raises(UserError, match=r"layer"):
        load(tmp_path / "base", depth=2, layer=3)
    encoder = tiny_encoder(tmp_path / "base", depth=1)
    with pytest.raises(UserError, match=r"model.depth 1: .*export.merge true"):
        save_sentence_transformer(encoder, tmp_path / "model", False, None)
    config = TrainConfig(model=ModelConfig(name_or_path="x", depth=1), data=(SourceConfig(path="pairs.jsonl"),))
    with pytest.raises(UserError, match=r"model.depth 1: .*export.merge true"):
        check_config(config)
    check_config(replace(config, export=ExportConfig(merge=True)))
    check_config(replace(config, export=ExportConfig(model=False)))
    check_config(replace(config, lora=LoraConfig(method="full")))


def test_a_run_is_compared_with_the_whole_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its causal reading: a weaker rival would make the tuning look better than it is."""

    class Compared(Exception):
        pass

    def evaluate(config: EvalConfig, *, base: Encoder, tuned: dict[str, Encoder], **others: object) -> None:
        assert config.model == base.config.untuned == base.config
        (own,) = tuned.values()
        raise Compared(base.layer_count, own.layer_count, own.config.depth, own.config.bidirectional)

    config = write_run(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", graded_pairs(12, seed=5))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eval.run.evaluate", evaluate)
    turned = ("--model.depth", "1", "--model.bidirectional", "true", "--export.model", "false")
    report = ("--eval.after_training", "true", "--eval.tests", "test.jsonl", "--eval.every", "9", "--optim.steps", "2")
    with pytest.raises(Compared) as found:
        train(config, tmp_path / "out", *turned, *report)
    assert found.value.args == (LAYERS, 1, 1, True)
