"""What never gets a gradient is left out of the adapters; what only some texts reach is trained, on any processes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.gradient_reach import weights_that_texts_skip
from dec2vec.errors import UserError
from tests.helpers import tiny_model_folder
from tests.processes import run_alone, run_ranks
from tests.test_distributed import Case, Outcome, three_steps
from tests.training_setup import distance, tiny_encoder
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig
from train.export.save import save_sentence_transformer

GEMMA_MLP = "transformers.models.gemma.modeling_gemma.GemmaMLP"
EXPERTS = 12


class Mixture(nn.Module):
    """Experts in a list, of which a router picks one for each token, and a module that only longer texts reach."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.router = nn.Linear(width, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(EXPERTS))
        self.late = nn.Linear(width, width)
        self.unused = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).max(-1)
        parts = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                parts = parts + (chosen == number)[..., None] * weights[..., None] * expert(x)
        return parts + self.late(x) if x.shape[1] > 9 else parts


@pytest.fixture
def mixtures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A decoder of them, with a seed that no other test has: the files of a seed are made once."""
    monkeypatch.setattr(GEMMA_MLP, Mixture)
    return tiny_model_folder(tmp_path / "mixtures", "gemma", seed=1804)


def adapted(embedder: Embedder) -> set[str]:
    """Modules with adapters, without the number of the block."""
    return {name.split(".lora_")[0].split(".layers.")[-1][2:] for name in trainable_parameters(embedder)}


def gradients_of(embedder: Embedder, tokens: int) -> set[str]:
    """Modules whose adapters get a gradient from a text: autograd's own word."""
    embedder(torch.tensor([list(range(5, 5 + tokens))]), torch.tensor([tokens]))[0].sum().backward()
    return {
        name.split(".lora_")[0].split(".layers.")[-1][2:]
        for name, parameter in trainable_parameters(embedder).items()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "dt_proj")])
def test_weights_that_are_read_without_a_call(
    targets: str | tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        embedder = tiny_encoder(tmp_path, "jamba", lora=LoraConfig(rank=2, targets=targets)).embedder
    assert "lora.targets: dt_proj get no adapters (2 modules), as they would not be trained" in caplog.text
    assert adapted(embedder) == gradients_of(embedder, 5) and "mamba.dt_proj" not in adapted(embedder)


@pytest.mark.parametrize(("family", "name"), [("phimoe", "mlp.router"), ("deepseek_v4", "self_attn.o_a_proj")])
def test_linear_layers_to_which_nothing_can_be_added(family: str, name: str, tmp_path: Path) -> None:
    """A router returns several values, a grouped product has another width: adapters were a traceback in step 1."""
    embedder = tiny_encoder(tmp_path, family, lora=LoraConfig(rank=2)).embedder
    assert gradients_of(embedder, 5) <= adapted(embedder) and name not in adapted(embedder)


def test_an_rwkv_that_is_scaled_outside_of_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rescale_every 2\), .*; set rescale_every to 0 in its config.json"):
        tiny_encoder(tmp_path, "rwkv", lora=LoraConfig(rank=2))


def test_adapters_of_a_shared_weight_are_not_merged(tmp_path: Path) -> None:
    """Zamba's attention blocks are one: both adapters were added to it, and the merged model was another (3e-1)."""
    encoder = tiny_encoder(tmp_path / "base", "zamba", lora=LoraConfig(rank=2))
    with pytest.raises(UserError, match=r"merge: layers.1.*q_proj and layers.2.*q_proj share one weight.*keep"):
        save_sentence_transformer(encoder, tmp_path / "model", True, None)
    assert not (tmp_path / "model").exists()


def test_targets_of_which_none_would_be_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora.targets dt_proj: .* an adapter would have no effect; use all-linear or"):
        tiny_encoder(tmp_path, "jamba", lora=LoraConfig(rank=2, targets="dt_proj"))


def test_a_projection_behind_an_inner_layer(tmp_path: Path) -> None:
    """OPT-350M has it; the last layer reaches it."""
    inner = tiny_encoder(tmp_path, "opt_350m", lora=LoraConfig(rank=2), layer=2).embedder
    last = tiny_encoder(tmp_path, "opt_350m", lora=LoraConfig(rank=2)).embedder
    outside = [{name for name in adapted(embedder) if "project" in name} for embedder in (inner, last)]
    assert [len(names) for names in outside] == [1, 2]  # project_in, and project_out


def test_whole_modules_above_an_inner_layer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lora = LoraConfig(rank=2, modules_to_save=("input_layernorm",))
    with caplog.at_level(logging.INFO):
        embedder = tiny_encoder(tmp_path, lora=lora, layer=2).embedder
    assert "lora.modules_to_save: input_layernorm stay as they are, as no gradient reaches them" in caplog.text
    saved = [name for name in trainable_parameters(embedder) if "modules_to_save" in name]
    assert [name.split(".layers.")[1][0] for name in saved] == ["0", "1"]


def test_experts_that_no_token_visits_keep_their_adapters(mixtures: Path) -> None:
    embedder = tiny_encoder(mixtures, lora=LoraConfig(rank=2)).embedder
    experts = {f"mlp.experts.{number}" for number in range(EXPERTS)}
    assert experts | {"mlp.late", "mlp.router"} < adapted(embedder)
    assert "mlp.unused" not in adapted(embedder)
    reached = gradients_of(embedder, 2)
    assert 0 < len(experts & reached) <= 6 and "mlp.late" not in reached
    for weight in weights_that_texts_skip(embedder):
        weight.requires_grad_(False)
    assert adapted(embedder) == reached - experts  # under DDP these get a zero gradient from every pass


def test_experts_of_a_decoder_that_is_trained_in_full(mixtures: Path) -> None:
    embedder = tiny_encoder(mixtures, lora=LoraConfig(method="full"), layer=2).embedder
    names = {name.removeprefix("backbone.layers.") for name in trainable_parameters(embedder)}
    assert {f"1.mlp.experts.{number}.weight" for number in range(EXPERTS)} | {"1.mlp.late.bias"} < names
    assert not any("unused" in name or name.startswith("2.") for name in names)


def check_equal(alone: Outcome, ranks: list[Outcome]) -> None:
    for outcome in ranks:
        assert outcome.losses == pytest.approx(alone.losses, rel=1e-5)
        assert distance(outcome.gradients[0], alone.gradients[0]) < 1e-5
        assert distance(outcome.weights, alone.weights) < 1e-5
        assert outcome.reductions == [0, 0, 0]


@pytest.mark.slow
def test_two_processes_equal_one_where_a_module_is_never_called(tmp_path: Path) -> None:
    tiny_encoder(tmp_path, "jamba")
    check_equal(run_alone(three_steps, tmp_path, Case()), run_ranks(2, three_steps, tmp_path, Case()))


@pytest.mark.slow
def test_two_processes_equal_one_where_texts_skip_experts(mixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_equal(run_alone(three_steps, mixtures, Case()), run_ranks(2, three_steps, mixtures, Case()))
    monkeypatch.setattr("train.distributed.ddp.weights_that_texts_skip", lambda embedder: [])
    with pytest.raises(AssertionError, match="Expected to have finished reduction in the prior iteration"):
        run_ranks(2, three_steps, mixtures, Case())
