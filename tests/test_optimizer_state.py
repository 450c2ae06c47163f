"""The optimiser goes through a checkpoint bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.helpers import same_bits
from train.checkpointing.checkpoint import latest_checkpoint, save_checkpoint
from train.checkpointing.identity import Identity
from train.checkpointing.optimizer_state import optimizer_tensors, restore_optimizer
from train.distributed.single import PlainAdamW


def trained(steps: int, model: nn.Module, optimizer: PlainAdamW) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(4, 5, generator=generator)).square().sum().backward()
        optimizer.step()


def small_model() -> tuple[nn.Module, PlainAdamW, list[str]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    named = list(model.named_parameters())
    groups = [
        {"params": [named[0][1], named[2][1]]},
        {"params": [named[1][1], named[3][1]], "weight_decay": 0.0},
    ]
    order = [named[index][0] for index in (0, 2, 1, 3)]
    return model, PlainAdamW(AdamW(groups, lr=0.01, weight_decay=0.1), max_norm=1.0), order


def test_optimizer_goes_on_bit_exactly_through_a_checkpoint(tmp_path: Path) -> None:
    straight, straight_optimizer, order = small_model()
    trained(3, straight, straight_optimizer)
    weights = {name: value.detach() for name, value in straight.named_parameters()}
    save_checkpoint(tmp_path, 3, weights, optimizer_tensors(straight_optimizer, order), {}, Identity("a" * 64))
    found = latest_checkpoint(tmp_path, Identity("a" * 64))
    assert found is not None
    resumed, resumed_optimizer, _ = small_model()
    resumed.load_state_dict(found.tensors)
    restore_optimizer(resumed_optimizer, order, found.optimizer)
    assert same_bits(optimizer_tensors(resumed_optimizer, order), optimizer_tensors(straight_optimizer, order))
    trained(4, straight, straight_optimizer)
    trained(4, resumed, resumed_optimizer)
    assert same_bits(dict(resumed.named_parameters()), dict(straight.named_parameters()))
    assert resumed_optimizer.adamw.param_groups[1]["weight_decay"] == 0.0


def test_optimizer_without_steps_is_empty_and_forgotten_state_matters() -> None:
    model, optimizer, order = small_model()
    assert optimizer_tensors(optimizer, order) == {}
    trained(3, model, optimizer)
    fresh_model, fresh, _ = small_model()
    fresh_model.load_state_dict(model.state_dict())
    trained(2, model, optimizer)
    trained(2, fresh_model, fresh)
    assert not same_bits(dict(model.named_parameters()), dict(fresh_model.named_parameters()))


def test_optimizer_of_another_model_is_refused() -> None:
    model, optimizer, order = small_model()
    trained(1, model, optimizer)
    tensors = optimizer_tensors(optimizer, order)
    with pytest.raises(ValueError, match="unknown parameter"):
        restore_optimizer(optimizer, ["w", "x", "y", "z"], tensors)
    with pytest.raises(ValueError, match="has shape"):
        restore_optimizer(optimizer, [order[1], order[0], order[2], order[3]], tensors)
    with pytest.raises(ValueError, match="3 different names for 4"):
        optimizer_tensors(optimizer, order[:3])


def test_restored_tensors_are_copies() -> None:
    model, optimizer, order = small_model()
    trained(1, model, optimizer)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, order).items()}
    other_model, other, _ = small_model()
    restore_optimizer(other, order, saved)
    before = {name: tensor.clone() for name, tensor in saved.items()}
    trained(2, other_model, other)
    assert same_bits(saved, before)
