from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_vfx.core.errors import SettingError
from monai_vfx.model.gradcam import gradcam, randomised
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.model.saliency import energy_ratio, mean_difference, pointing_hit


@pytest.fixture
def region():
    inside = np.zeros((4, 5, 2), dtype=bool)
    inside[1:3, 1:3, :] = True  # 8 of 40 places
    return inside


def test_energy_ratio_by_hand(region):
    assert energy_ratio(np.ones(region.shape), region) == pytest.approx(1.0)
    assert energy_ratio(region * 0.7, region) == pytest.approx(40 / 8)
    assert energy_ratio(~region * 0.7, region) == 0.0
    heat = np.where(region, 3.0, 1.0)  # 24 of 56 units of heat on a fifth of the places
    assert energy_ratio(heat, region) == pytest.approx(24 / 56 * 5)
    assert energy_ratio(heat * 1e-3, region) == pytest.approx(24 / 56 * 5)


def test_pointing_game_by_hand(region):
    heat = np.full(region.shape, 0.2)
    assert pointing_hit(heat, region) == pytest.approx(8 / 40)  # flat: chance
    heat[1, 1, 0] = 0.9
    assert pointing_hit(heat, region) == 1.0
    heat[0, 0, 1] = 0.95
    assert pointing_hit(heat, region) == 0.0
    heat[1, 1, 0] = 0.95
    assert pointing_hit(heat, region) == 0.5


@pytest.mark.parametrize("measure", [energy_ratio, pointing_hit])
def test_a_map_of_zeros_has_no_measure(measure, region):
    assert np.isnan(measure(np.zeros(region.shape), region))


@pytest.mark.parametrize("measure", [energy_ratio, pointing_hit])
def test_what_cannot_be_measured_is_refused(measure, region):
    heat = np.ones(region.shape)
    with pytest.raises(ValueError, match="one shape"):
        measure(heat[:2], region)
    with pytest.raises(ValueError, match="True and False"):
        measure(heat, region.astype(int))
    with pytest.raises(ValueError, match="0 of 40"):
        measure(heat, np.zeros_like(region))
    with pytest.raises(ValueError, match="40 of 40"):
        measure(heat, np.ones_like(region))
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="finite values of at least 0"):
            measure(np.where(region, wrong, 1.0), region)


def test_interval_of_a_difference_is_that_of_paired_means():
    rng = np.random.default_rng(3)
    shared = rng.normal(2.0, 5.0, 400)  # of both conditions: it must drop out
    first, second = shared + rng.normal(0.5, 1.0, 400), shared + rng.normal(0.0, 1.0, 400)
    found = mean_difference(first, second)
    apart = first - second
    half = 1.96 * apart.std(ddof=1) / 20
    assert found.difference == pytest.approx(apart.mean())
    assert found.ci_low == pytest.approx(apart.mean() - half, abs=0.02)
    assert found.ci_high == pytest.approx(apart.mean() + half, abs=0.02)
    assert (found.n, found.left_out) == (400, 0)


def test_patients_who_lack_a_value_are_counted_and_left_out():
    found = mean_difference([1.0, 2.0, np.nan, 4.0], [0.0, 1.0, 9.0, np.nan])
    assert (found.first, found.second, found.difference) == (1.5, 0.5, 1.0)
    assert (found.n, found.left_out) == (2, 2)
    with pytest.raises(ValueError, match="at least 2"):
        mean_difference([1.0, np.nan], [0.0, 1.0])
    with pytest.raises(ValueError, match="same patients"):
        mean_difference([1.0, 2.0], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="at least 100"):
        mean_difference([1.0, 2.0], [0.0, 1.0], samples=10)


def test_random_weights_touch_the_named_modules_of_a_copy():
    torch.manual_seed(0)
    network = AttentionCNNRNN("resnet18", rnn_hidden=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    copy = randomised(network, ["head", "decoder"], seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training
    assert not copy.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        same = torch.equal(value, copy.state_dict()[name])
        assert same is not name.startswith(("head.", "decoder."))
    again = randomised(network, ["head", "decoder"], seed=5).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in copy.state_dict().items())


def test_a_wholly_random_network_still_has_a_map():
    torch.manual_seed(0)
    network = AttentionCNNRNN("resnet18", rnn_hidden=4)
    copy = randomised(network, seed=1)
    shared = dict(network.named_parameters())
    for name, value in copy.named_parameters():
        if name.endswith("weight") and value.dim() > 1:
            assert not torch.equal(value, shared[name]), name
    image = torch.rand(1, 1, 32, 48, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    heat = gradcam(copy, image, "layer2")
    assert heat.shape == (1, 32, 48, 3)
    assert not torch.allclose(heat, gradcam(network, image, "layer2"))


def test_a_module_that_is_not_there_or_has_no_weights_is_named():
    network = AttentionCNNRNN("resnet18", rnn_hidden=4)
    for name in ("heads", "dropout"):
        with pytest.raises(SettingError, match=f"no module '{name}' with weights"):
            randomised(network, [name])
