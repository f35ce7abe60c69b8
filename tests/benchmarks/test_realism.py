"""The measurements of benchmarks/realism on volumes whose values are known by construction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from benchmarks.realism import blind, cases, measure, quantities
from monai_vfx.core.anatomy import LEVELS, MUSCLES, VERTEBRAE

WIDTH, DEPTH, HEIGHT, STEP = 44.0, 33.0, 26.0, 36.0
AORTA = np.array([-14.0, 36.0])
"""Of the made spine, right and front of the bodies' line, mm."""


@pytest.fixture(scope="module")
def kit() -> SimpleNamespace:
    return SimpleNamespace(cases=cases, quantities=quantities, measure=measure, blind=blind)


def rotation(degrees: float) -> np.ndarray:
    """Turn about the left-right axis, as a tilted gantry or a patient's position does."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def made_spine(
    kit: SimpleNamespace, flips: str = "", tilt: float = 0.0, spacing=(1.25, 1.0, 2.5), noise=0.0
):
    """Boxes for the bodies T11-L5, an aorta, two muscles with fat; noise white in each voxel."""
    spacing = np.array(spacing)
    shape = np.ceil(np.array([150.0, 150.0, 280.0]) / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = rotation(tilt) @ np.diag(spacing)
    affine[:3, 3] = np.array([30.0, -70.0, 400.0]) - affine[:3, :3] @ ((shape - 1) / 2)
    world = np.stack(np.indices(shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    x, y, z = np.moveaxis(world - [30.0, -70.0, 400.0], -1, 0)
    hu = np.full(shape, -100.0)
    labels = np.zeros(shape, np.uint8)
    aorta = np.hypot(x - AORTA[0], y - AORTA[1]) <= 10
    hu[aorta] = 140.0
    for number, level in enumerate(("T11", *LEVELS, "L5")):
        height = z - (3 - number) * STEP
        body = (np.abs(x) <= WIDTH / 2) & (np.abs(y) <= DEPTH / 2) & (np.abs(height) <= HEIGHT / 2)
        hu[body], labels[body] = 120.0, VERTEBRAE[level]
    for name, at, value in (("erector_spinae", -45.0, 50.0), ("psoas", -5.0, 60.0)):
        for side in (-1, 1):
            muscle = (np.abs(x - side * 40.0) <= 12) & (np.abs(y - at) <= 12)
            hu[muscle & (labels == 0)] = value
            labels[muscle & (labels == 0)] = MUSCLES[name]
            fat = (np.abs(x - side * 40.0) <= 2.0) & (np.abs(y - at) <= 12)
            if name == "erector_spinae":  # left out of the label, as some annotations do
                hu[fat], labels[fat] = -90.0, 0
    if noise:
        hu += np.random.default_rng(3).normal(0, noise, shape)
    for letter in flips:
        axis = "ijk".index(letter)
        hu, labels = np.flip(hu, axis), np.flip(labels, axis)
        affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
        affine[:3, axis] *= -1
    return kit.cases.seen("made", hu.astype(np.float32), labels, affine)


@pytest.mark.parametrize(("flips", "tilt"), [("", 0.0), ("ij", 0.0), ("jk", 12.0), ("i", -9.0)])
def test_a_box_has_its_size_on_any_grid(kit: SimpleNamespace, flips: str, tilt: float) -> None:
    case = made_spine(kit, flips, tilt)
    frames = kit.quantities.body_frames(case)
    assert set(frames) == set(LEVELS)
    heights = []
    for level, frame in frames.items():
        found = kit.quantities.body_size(case, level, frame)
        for name, size in (("width", WIDTH), ("waist", WIDTH), ("depth", DEPTH)):
            assert found[name] == pytest.approx(size, abs=1.3), (level, name)
        heights.append(found["height"])
        assert frame.up[2] > 0.99
        assert frame.right == pytest.approx([1.0, 0.0, 0.0], abs=0.02)
    # Slices of 2.5 mm show 26 mm as 25 or 27.5: the levels lie differently between them.
    assert heights == pytest.approx([HEIGHT] * 5, abs=2.0)
    assert np.mean(heights) == pytest.approx(HEIGHT, abs=0.9)


@pytest.mark.parametrize("flips", ["", "ijk"])
def test_noise_of_a_known_sd_is_found_in_the_aorta(kit: SimpleNamespace, flips: str) -> None:
    case = made_spine(kit, flips, noise=15.0)
    centres = kit.quantities.find_aorta(case, kit.quantities.body_frames(case))
    off = np.array([centre[:2] for centre in centres.values()]) - [30.0, -70.0] - AORTA
    assert np.abs(off).max() < 3.5
    found = kit.quantities.noise(case, centres)
    assert found["noise_sd"] == pytest.approx(15.0, rel=0.08)
    # 2 mm are two of its pixels each way, so a mean is over four independent values.
    assert found["noise_2mm"] == pytest.approx(7.5, rel=0.15)
    assert np.isnan(found["noise_kernel"]) or found["noise_kernel"] < 0.45


def test_the_noise_kernel_is_that_of_the_filter(kit: SimpleNamespace) -> None:
    case = made_spine(kit, spacing=(1.0, 1.0, 2.5))
    grain = np.random.default_rng(5).normal(0, 1, case.hu.shape)
    grain = ndimage.gaussian_filter(grain, (1.0, 1.0, 0))
    case = replace(case, hu=case.hu + (20 * grain / grain.std()).astype(np.float32))
    centres = kit.quantities.find_aorta(case, kit.quantities.body_frames(case))
    found = kit.quantities.noise(case, centres)
    assert found["noise_kernel"] == pytest.approx(1.0, abs=0.1)
    # The plane takes a part of slow noise with it: 13 % of the SD here.
    assert 16.5 < found["noise_sd"] < 20.0


def test_muscle_is_measured_with_the_fat_that_its_label_leaves_out(kit: SimpleNamespace) -> None:
    case = made_spine(kit, spacing=(1.0, 1.0, 2.5), noise=6.0)
    found, _ = kit.quantities.measure(case)
    assert found["erector_lean"] == pytest.approx(50.0, abs=2.0)
    assert found["psoas_lean"] == pytest.approx(60.0, abs=2.0)
    assert found["erector_fat"] == pytest.approx(4 / 24, abs=0.05)
    assert found["psoas_fat"] == 0.0
    assert found["erector_area"] == pytest.approx(2 * 2.4 * 2.4, rel=0.05)
    assert found["trabecular_l3"] == pytest.approx(120.0, abs=1.5)
    assert found["trabecular_sd_l3"] == pytest.approx(6.0, rel=0.1)
    assert found["texture_l3"] < 2.5
    assert found["aorta"] == pytest.approx(140.0, abs=1.5)


@pytest.mark.parametrize("shift", [0, 55])
def test_a_trunk_is_measured_unless_the_field_cuts_it(kit: SimpleNamespace, shift: int) -> None:
    case = made_spine(kit, spacing=(2.0, 2.0, 5.0))
    pad = [(60, 60), (60, 60), (0, 0)]
    hu = np.pad(case.hu, pad, constant_values=-1000.0)
    x, y, _ = np.indices(hu.shape, sparse=True)
    trunk = ((x - 98 + shift) / 70.0) ** 2 + ((y - 98) / 50.0) ** 2 <= 1
    hu = np.where(trunk & (hu < -150), -100.0, np.where(trunk, hu, -1000.0)).astype(np.float32)
    affine = case.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [60, 60, 0]
    wide = replace(case, hu=hu, labels=np.pad(case.labels, pad), affine=affine)
    found = kit.quantities.trunk_size(wide, kit.quantities.body_frames(wide))
    if shift:
        assert np.isnan(found["trunk_width"])
    else:
        assert found["trunk_width"] == pytest.approx(2 * 141, abs=3)
        assert found["trunk_depth"] == pytest.approx(2 * 101, abs=3)
        fat = kit.quantities.skin_fat(wide, kit.quantities.body_frames(wide))
        assert kit.quantities.mode(fat) == pytest.approx(-100.0, abs=1.0)


def test_a_median_outside_its_range_is_named_with_its_distance(kit: SimpleNamespace) -> None:
    table = pd.DataFrame(
        {
            "name": ["a", "b", "c"],
            "source": ["real", "development, quick", "development, quick"],
            "fat": [-99.0, -120.0, -124.0],
            "aorta": [np.nan, 150.0, 160.0],
        }
    )
    ranges = {
        "fat": {"low": -115, "high": -90, "unit": "HU"},
        "aorta": {"low": 110, "high": 190, "unit": "HU"},
    }
    found = kit.measure.summary(table, ranges).set_index("quantity")
    assert found.loc["fat", "inside"] == "no (development, quick: by 7)"
    assert found.loc["fat", "real"] == "-99"
    assert found.loc["aorta", "inside"] == "yes"


def test_the_blind_key_lies_outside_the_pictures(kit: SimpleNamespace, tmp_path: Path) -> None:
    view = kit.blind.VIEWS["quick"]
    case = made_spine(kit, spacing=(1.0, 1.0, 2.5), noise=6.0)
    shown = list(kit.blind._of(case, "real", ("L2", "L3"), view))
    assert [crop.plane for crop in shown] == ["axial", "axial", "sagittal"]
    kit.blind.write_blind(tmp_path / "out", tmp_path / "key.csv", shown, view, seed=2)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    key = pd.read_csv(tmp_path / "key.csv")
    assert names == sorted(key["picture"]) == ["01.png", "02.png", "03.png"]
    with pytest.raises(ValueError, match="among the pictures"):
        kit.blind.write_blind(tmp_path / "out", tmp_path / "out/key.csv", shown, view, seed=2)


def test_slices_are_averaged_to_five_millimetres_where_they_lie(kit: SimpleNamespace) -> None:
    case = made_spine(kit, spacing=(2.0, 2.0, 1.25), noise=10.0)
    part = kit.cases.resliced(case)
    assert np.linalg.norm(part.affine[:3, 2]) == pytest.approx(5.0)
    for level in ("L1", "L4"):
        assert kit.blind.centre(part, level) == pytest.approx(
            kit.blind.centre(case, level), abs=1.3
        )
    fat = part.hu[1:5, 1:5]
    # Five positions over four slices: the mean of about four independent values.
    assert fat.std() == pytest.approx(5.0, rel=0.2)
