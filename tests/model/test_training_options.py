"""Settings of training beyond the study's: optimizer, learning rate over time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from monai_vfx.core.errors import SettingError
from monai_vfx.model.bundle.training import make_optimizer, make_schedule
from monai_vfx.model.network import AttentionCNNRNN


def network() -> AttentionCNNRNN:
    torch.manual_seed(0)
    return AttentionCNNRNN("resnet18", rnn_hidden=4)


def step(net: AttentionCNNRNN, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 1, 32, 48, 3, generator=generator)
    optimizer.zero_grad()
    F.cross_entropy(net.train()(x), torch.tensor([0, 1])).backward()
    optimizer.step()


def test_the_study_s_settings_give_its_optimizer() -> None:
    optimizer = make_optimizer(network(), 1e-5)
    assert type(optimizer) is torch.optim.Adam
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["lr"] == 1e-5


def test_rates_and_decay_by_part() -> None:
    net = network()
    optimizer = make_optimizer(net, 1e-3, weight_decay=0.1, encoder_rate=0.5)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(found) == len(list(net.parameters()))
    assert found[id(net.stem[0].weight)] == (5e-4, 0.1)
    assert found[id(net.stem[1].weight)] == (5e-4, 0.0)
    assert found[id(net.head.weight)] == (1e-3, 0.1)
    assert found[id(net.head.bias)] == (1e-3, 0.0)


def test_gradients_are_clipped_before_the_step() -> None:
    net = network()
    optimizer = make_optimizer(net, 1e-3, gradient_clip=1e-3)
    step(net, optimizer)
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("schedule", ["none", "cosine"])
def test_rates_over_time_by_hand(schedule: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    make_schedule(optimizer, schedule, warmup_epochs=1, max_epochs=3, epoch_steps=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    rising = [1e-3 * (1 / 4 + 3 / 4 * n / 4) for n in range(4)]
    falling = [1e-3 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    assert rates == pytest.approx(rising + (falling if schedule == "cosine" else [1e-3] * 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_optimizer(network(), 1e-3, weight_decay=-1.0), "weight_decay"),
        (lambda o=None: make_schedule(o, "plateau", 0, 1, 1), "schedule"),  # type: ignore[misc]
        (lambda o=None: make_schedule(o, "none", -1, 1, 1), "warmup_epochs"),  # type: ignore[misc]
    ],
)
def test_values_outside_their_range_are_refused(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()
