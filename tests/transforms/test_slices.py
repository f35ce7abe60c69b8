"""Equidistant slices: the closed form, the edges, the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_vfx.transforms import SampleSlices, SampleSlicesd
from monai_vfx.transforms.slices import equidistant_indices


@given(st.integers(1, 400), st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_indices_span_the_region_with_even_steps(available: int, count: int, start: float) -> None:
    indices = equidistant_indices(available, count, start)
    steps = np.diff(indices)
    assert indices.shape == (count,)
    assert indices[0] >= 0
    assert indices[-1] <= available - 1
    assert indices[0] <= np.ceil(available / count)
    assert indices[-1] >= available - 1 - np.ceil(available / count)
    if count > 1:
        assert steps.min() >= 0
        assert steps.max() - steps.min() <= 1


def test_27_slices_do_not_break_the_stride() -> None:
    # 27 // 14 = 1 would cover only half of the region.
    assert equidistant_indices(27, 14)[-1] == 26


def test_start_just_below_one_does_not_round_up() -> None:
    # In floating point 0.99… + 13 rounds to 14, one past the last slice, and 0.99… + 1 to 2.
    below_one = np.nextafter(1.0, 0.0)
    assert equidistant_indices(14, 14, below_one).tolist() == list(range(14))
    assert equidistant_indices(3, 3, below_one).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("available", "count", "start"), [(0, 14, 0.5), (5, 0, 0.5), (5, 5, 1.0)])
def test_arguments_out_of_range_are_refused(available: int, count: int, start: float) -> None:
    with pytest.raises(ValueError, match="must"):
        equidistant_indices(available, count, start)


def _stack(n: int) -> MetaTensor:
    values = torch.arange(n, dtype=torch.float32).expand(1, 2, 3, n).clone()
    meta = {
        "slice_index": 100 - np.arange(n),
        "slice_level": np.full(n, 20),
        "centre_mm": np.zeros((n, 3)),
        "corner_mm": np.zeros((n, 3)),
    }
    return MetaTensor(values, meta=meta)


def test_metadata_follow_the_slices() -> None:
    out = SampleSlices(4)(_stack(8))
    assert out[0, 0, 0].tolist() == [1, 3, 5, 7]
    assert out.meta["slice_index"].tolist() == [99, 97, 95, 93]


def test_random_start_is_seeded_and_moves() -> None:
    sampler = SampleSlicesd("image", count=4, random_start=True).set_random_state(seed=1)
    draws = [sampler({"image": _stack(40)})["image"][0, 0, 0].tolist() for _ in range(20)]
    again = SampleSlicesd("image", count=4, random_start=True).set_random_state(seed=1)
    assert draws == [again({"image": _stack(40)})["image"][0, 0, 0].tolist() for _ in range(20)]
    assert {int(draw[0]) for draw in draws} <= set(range(10))
    assert len({tuple(draw) for draw in draws}) >= 5


def test_inverse_keeps_sampled_slices_and_joins_them_linearly() -> None:
    sampler = SampleSlices(4)
    out = sampler(_stack(8))
    back = sampler.inverse(out)
    assert back.shape == (1, 2, 3, 8)
    assert back[0, 1, 2].tolist() == [1, 1, 2, 3, 4, 5, 6, 7]
    assert back.applied_operations == []


def test_inverse_of_repeated_slices() -> None:
    sampler = SampleSlices(6)
    back = sampler.inverse(sampler(_stack(3)))
    assert back[0, 0, 0].tolist() == [0, 1, 2]
