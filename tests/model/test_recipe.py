"""Settings of training beyond the study's: loss, optimizer, rates over time, mixing, stopping."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch.nn import functional as F

from monai_vfx.core.errors import SettingError
from monai_vfx.model.bundle import MixUp, make_loss, make_optimizer, moving_average
from monai_vfx.model.network import AttentionCNNRNN

CPU = torch.device("cpu")
ITEMS = cast(Any, [{"label": label} for label in (0, 0, 0, 1)])


def network() -> AttentionCNNRNN:
    torch.manual_seed(0)
    return AttentionCNNRNN("resnet18", rnn_hidden=4)


def step(net: AttentionCNNRNN, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 1, 32, 48, 3, generator=generator)
    optimizer.zero_grad()
    F.cross_entropy(net.train()(x), torch.tensor([0, 1])).backward()
    optimizer.step()


def test_the_study_s_settings_give_its_loss_and_optimizer() -> None:
    logits, labels = torch.tensor([[0.3, 1.0], [2.0, -1.0]]), torch.tensor([1, 1])
    loss = make_loss(0, None, 0.0, ITEMS, CPU)
    assert torch.equal(loss(logits, labels), F.cross_entropy(logits, labels))
    optimizer = make_optimizer(network(), 1e-5)
    assert type(optimizer) is torch.optim.Adam
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["lr"] == 1e-5


def test_balanced_weights_and_smoothing_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])  # p1 = 3/4 and 1/2
    loss = make_loss(0, "balanced", 0.0, ITEMS, CPU)
    # weights 4/(2·3) = 2/3 and 4/(2·1) = 2; the mean is weighted
    by_hand = (2 / 3 * -math.log(1 / 4) + 2 * -math.log(1 / 2)) / (2 / 3 + 2)
    assert float(loss(logits, torch.tensor([0, 1]))) == pytest.approx(by_hand, rel=1e-5)
    smooth = make_loss(0, None, 0.2, ITEMS, CPU)
    by_hand = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert float(smooth(logits[:1], torch.tensor([1]))) == pytest.approx(by_hand, rel=1e-5)


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


def test_frozen_norms_stay_and_the_rest_moves() -> None:
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    step(net, make_optimizer(net, 1e-2, frozen_norms=True))
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert "stem.0.weight" in moved
    assert not [k for k in moved if k.startswith("stem.1.") or ".bn" in k]
    step(net, make_optimizer(net, 1e-2))
    assert not torch.equal(net.stem[1].running_mean, before["stem.1.running_mean"])


def test_gradients_are_clipped_before_the_step() -> None:
    net = network()
    optimizer = make_optimizer(net, 1e-3, gradient_clip=1e-3)
    step(net, optimizer)
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_moving_average_by_hand() -> None:
    net = network()
    optimizer = make_optimizer(net, 1e-2)
    average = moving_average(net, optimizer, 0.75, CPU)
    assert average is not None
    step(net, optimizer)
    first = net.head.weight.detach().clone()
    torch.testing.assert_close(average.module.head.weight, first)  # it begins at the first step
    step(net, optimizer)
    torch.testing.assert_close(average.module.head.weight, 0.75 * first + 0.25 * net.head.weight)
    assert moving_average(net, optimizer, 0.0, CPU) is None


def test_mixup_mixes_images_and_targets_alike() -> None:
    torch.manual_seed(3)
    image = torch.eye(4).reshape(4, 1, 4, 1, 1)  # patient n is 1 in row n
    label = torch.tensor([0, 1, 0, 1])
    mixed, target, _, _ = MixUp(1.0)({"image": image, "label": label})
    assert not torch.equal(mixed, image)
    shares = mixed.reshape(4, 4)  # of each patient in each
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    torch.testing.assert_close(target, shares @ F.one_hot(label, 2).float())
    outcome = torch.zeros(4, 2)
    with pytest.raises(SettingError, match=r"mixup .* must be 0 with hazard_years"):
        MixUp(1.0)({"image": image, "label": label, "outcome": outcome})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_loss(0, "even", 0.0, ITEMS, CPU), "class_weights"),
        (lambda: make_loss(0, [1.0, -1.0], 0.0, ITEMS, CPU), "class_weights"),
        (lambda: make_loss(0, None, 1.0, ITEMS, CPU), "label_smoothing"),
        (lambda: make_optimizer(network(), 1e-3, weight_decay=-1.0), "weight_decay"),
        (lambda: MixUp(-1.0), "mixup"),
    ],
)
def test_values_outside_their_range_are_refused(call: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()
