"""Bone and muscle measured where the answer is known: phantoms, simulated patients, real CT."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from monai_vfx.analysis.clinical.imaging import (
    IMAGING_VARIABLES,
    feature_table,
    imaging_features,
    measure,
)
from monai_vfx.simulation.hospital import simulate_hospital
from phantoms import LEVELS, Phantom, grid, lordosis, make_phantom, nifti

LEAN, FAT = 52.0, -95.0
EXTENT = (190.0, 170.0, 236.0)


def places(body: Phantom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y, z in mm from the middle of L2 of every voxel."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in body.hu.shape], indexing="ij"), axis=-1)
    world = index @ body.affine[:3, :3].T + body.affine[:3, 3] - body.centre
    return world[..., 0], world[..., 1], world[..., 2]


def with_muscle(body: Phantom) -> Phantom:
    """Add muscles as upright boxes; their outer 12 mm are fat, above L2 they are twice as deep.

    At L3, a side's erector spinae is 36 × 20 mm and psoas 15 × 30 mm, of which fat takes
    12 × 20 mm: a lean area of 2 · (720 - 240 + 450) = 1860 mm².
    """
    x, y, z = places(body)
    side, deep = np.abs(x), np.where(z > 0, 40, 20)
    erector = (side > 10) & (side < 46) & (y < -25) & (y > -25 - deep)
    psoas = (side > 22) & (side < 37) & (y > -18) & (y < 12)
    hu, labels = body.hu.copy(), body.labels.copy()
    for region, value in ((erector, 101), (psoas, 102)):
        free = region & (labels == 0)
        labels[free], hu[free] = value, LEAN
    hu[erector & (side > 34)] = FAT
    return replace(body, hu=hu, labels=labels)


def turned(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    i, j = [n for n in range(3) if n != axis]
    turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return turn


@cache
def _upright() -> Phantom:
    return make_phantom(*grid((1.4, 1.2, 4.0), EXTENT))


def _isotropic() -> Phantom:
    return make_phantom(*grid((2.0, 2.0, 2.0), EXTENT))


def _flipped() -> Phantom:
    shape, affine, centre = grid((1.4, 1.2, 4.0), EXTENT)
    flip = np.diag([-1.0, -1.0, -1.0, 1.0])
    flip[:3, 3] = np.array(shape) - 1
    return make_phantom(shape, affine @ flip, centre)


def _permuted() -> Phantom:
    shape, affine, centre = grid((1.4, 1.2, 4.0), EXTENT)
    return make_phantom((shape[2], shape[0], shape[1]), affine[:, [2, 0, 1, 3]], centre)


def _oblique() -> Phantom:
    shape, affine, centre = grid((1.8, 1.6, 3.0), (230.0, 210.0, 250.0))
    turn = turned(10, 0) @ turned(7, 2)
    middle = np.eye(4), np.eye(4)
    middle[0][:3, 3], middle[1][:3, 3] = centre, -centre
    return make_phantom(shape, middle[0] @ turn @ middle[1] @ affine, centre)


def _thick() -> Phantom:
    return make_phantom(*grid((1.2, 1.2, 5.0), EXTENT))


GRIDS = (_upright, _isotropic, _flipped, _permuted, _oblique, _thick)


@pytest.fixture(scope="module", params=GRIDS, ids=lambda make: make.__name__[1:])
def body(request: pytest.FixtureRequest) -> Phantom:
    return with_muscle(request.param())


def trabecular(level: str) -> float:
    """Return a level's expected HU: its own value and the slope of 0.1 HU a mm to the front.

    The region reaches from a third of the depth (15 mm each way) to 4 mm off the front; its middle
    lies about 2.5 mm before the body's, and that lies at the lordosis.
    """
    number = [*LEVELS].index(level)
    front = float(lordosis(np.array((3 - number) * 30.0)))
    return 180.0 - 10 * number + 0.1 * (front + 2.5)


# --- phantoms ------------------------------------------------------------------------------------


def test_bone_on_any_grid(body: Phantom) -> None:
    found = measure(body.hu, body.labels, body.affine)
    assert found["l1_trabecular_hu"] == pytest.approx(trabecular("L1"), abs=0.5)
    mean = np.mean([trabecular(level) for level in ("T12", "L1", "L2", "L3", "L4")])
    assert found["t12_l4_trabecular_hu"] == pytest.approx(mean, abs=0.5)
    assert found["note"] == ""


def test_cortex_endplates_and_basivertebral_vein_stay_outside(body: Phantom) -> None:
    x, y, z = places(body)
    behind = y - lordosis(z)
    height = np.abs((z + 15) % 30 - 15)  # from the middle of the level
    inside = np.isin(body.labels, list(LEVELS.values()))
    hu = body.hu.copy()
    hu[inside & ((x / 17) ** 2 + (behind / 12) ** 2 > 1)] = 700.0
    hu[inside & (height > 7)] = 700.0
    hu[inside & (behind < -6.5) & (np.abs(x) < 8)] = -60.0
    plain = measure(body.hu, body.labels, body.affine)
    found = measure(hu, body.labels, body.affine)
    for name in IMAGING_VARIABLES[:2]:
        assert found[name] == pytest.approx(plain[name], abs=1e-3)


def test_muscle_on_any_grid(body: Phantom) -> None:
    found = measure(body.hu, body.labels, body.affine)
    assert found["muscle_hu"] == pytest.approx(LEAN, abs=1e-4)
    # The slices of the tilted grid cut the upright boxes at an angle of 10 degrees.
    assert found["muscle_area_cm2"] == pytest.approx(18.6, rel=0.07)
    muscle = body.labels > 100
    assert found["muscle_fat_fraction"] == pytest.approx((body.hu[muscle] < 0).mean())


def test_the_share_of_fat_by_hand() -> None:
    body = with_muscle(_upright())
    z = places(body)[2]
    hu, labels = (np.where(z < -1, array, 0) for array in (body.hu, body.labels))
    found = measure(hu.astype(np.float32), labels.astype(np.uint8), body.affine)
    # Below L2 a side holds 36 · 20 + 15 · 30 = 1170 mm² of muscle, 240 of it fat.
    assert found["muscle_fat_fraction"] == pytest.approx(240 / 1170, rel=0.06)


@pytest.mark.parametrize(
    ("hu", "kind"),
    [(-191, None), (-190, "fat"), (-30, "fat"), (-29, "lean"), (150, "lean"), (151, None)],
)
def test_the_bounds_of_fat_and_muscle(hu: float, kind: str | None) -> None:
    body = with_muscle(_upright())
    values = body.hu.copy()
    psoas = body.labels == 102
    values[psoas], values[body.labels == 101] = hu, 60.0
    found = measure(values, body.labels, body.affine)
    share = psoas.sum() / (body.labels > 100).sum()
    assert found["muscle_fat_fraction"] == pytest.approx(share if kind == "fat" else 0.0)
    lean = share * hu + (1 - share) * 60.0 if kind == "lean" else 60.0
    assert found["muscle_hu"] == pytest.approx(lean, rel=1e-4)


# --- what cannot be measured ---------------------------------------------------------------------


def test_bodies_alone_have_no_muscle_measure() -> None:
    body = _upright()
    found = measure(body.hu, body.labels, body.affine)
    assert np.isnan([found[name] for name in IMAGING_VARIABLES[2:]]).all()
    assert np.isfinite(found["l1_trabecular_hu"])
    assert found["note"] == "no label of erector_spinae and psoas: no muscle measure"


def test_one_muscle_alone_is_not_taken_for_both() -> None:
    body = with_muscle(_upright())
    labels = np.where(body.labels == 102, 0, body.labels).astype(np.uint8)
    found = measure(body.hu, labels, body.affine)
    assert np.isnan(found["muscle_hu"])
    assert "no label of psoas" in found["note"]


def test_a_cut_level_is_not_measured() -> None:
    body = _upright()
    found = measure(body.hu, body.labels, body.affine, cut=("L1",))
    assert np.isnan(found["l1_trabecular_hu"])
    mean = np.mean([trabecular(level) for level in ("T12", "L2", "L3", "L4")])
    assert found["t12_l4_trabecular_hu"] == pytest.approx(mean, abs=0.5)
    assert "L1 is cut by the field of view" in found["note"]


def test_too_little_bone_is_no_measurement() -> None:
    body = _upright()
    x = places(body)[0]
    labels = np.where((np.abs(x) > 3) & (body.labels == 20), 0, body.labels).astype(np.uint8)
    found = measure(body.hu, labels, body.affine)
    assert np.isnan(found["l1_trabecular_hu"])
    assert "L1: " in found["note"]
    assert "too few" in found["note"]


def test_muscle_that_leaves_the_image_is_not_measured() -> None:
    body = with_muscle(_upright())
    x = places(body)[0]
    first = int(np.argmax(x[:, 0, 0] > -40))
    affine = body.affine.copy()
    affine[:3, 3] += first * affine[:3, 0]
    box = slice(first, None)
    cut = ((True, False), (False, False), (False, False))
    found = measure(body.hu[box], body.labels[box], affine, edges=cut)
    assert np.isnan(found["muscle_area_cm2"])
    assert "cut by the field of view" in found["note"]
    whole = measure(body.hu[box], body.labels[box], affine)  # a box, but the CT goes on
    assert np.isfinite(whole["muscle_area_cm2"])


def test_muscle_that_ends_above_l3_has_no_area() -> None:
    body = with_muscle(_upright())
    z = places(body)[2]
    labels = np.where((body.labels > 100) & (z < -10), 0, body.labels).astype(np.uint8)
    found = measure(body.hu, labels, body.affine)
    assert np.isnan(found["muscle_area_cm2"])
    assert np.isfinite(found["muscle_hu"])
    assert "do not reach the middle of L3" in found["note"]


# --- files and tables ----------------------------------------------------------------------------


def test_files_give_what_arrays_give(body: Phantom, tmp_path: Path) -> None:
    image, mask = body.save(tmp_path)
    found = imaging_features(image, mask, scheme="verse")
    expected = measure(body.hu.astype(np.int16).astype(np.float32), body.labels, body.affine)
    # The file is read on the slices of T12-L4 alone, the arrays hold muscle beyond them.
    for name in ("l1_trabecular_hu", "t12_l4_trabecular_hu", "muscle_hu", "muscle_area_cm2"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name
    assert found["note"] == ""


def _table(folder: Path) -> pd.DataFrame:
    image, mask = (str(path) for path in with_muscle(_upright()).save(folder))
    (folder / "broken.nii.gz").write_bytes(Path(image).read_bytes()[:5000])
    return pd.DataFrame(
        [
            ("good", image, mask),
            ("none", np.nan, mask),
            ("unmasked", image, None),
            ("gone", str(folder / "gone.nii.gz"), mask),
            ("broken", str(folder / "broken.nii.gz"), mask),
            ("again", image, mask),
        ],
        columns=["case_id", "image", "mask"],
    )


def test_a_bad_case_never_stops_the_others(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    table, refusals = feature_table(
        _table(tmp_path), progress=lambda done, of: steps.append((done, of))
    )
    assert [*table.columns] == ["case_id", *IMAGING_VARIABLES, "note"]
    assert table["case_id"].tolist() == ["good", "none", "unmasked", "gone", "broken", "again"]
    measured = table[[*IMAGING_VARIABLES]].notna().all(axis=1)
    assert table["case_id"][measured].tolist() == ["good", "again"]
    assert [(r["case_id"], r["code"]) for r in refusals] == [
        ("none", "no_image"),
        ("unmasked", "mask_required"),
        ("gone", "input_unreadable"),
        ("broken", "file_truncated"),
    ]
    assert steps == [(n, 6) for n in range(1, 7)]
    assert table["note"].tolist() == ["", *(r["code"] for r in refusals), ""]


def test_an_unforeseen_error_ends_one_case_and_tells_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("/hospital/Doe^Jane/ct.nii.gz")

    monkeypatch.setattr("monai_vfx.analysis.clinical.imaging.load_case", fail)
    _, refusals = feature_table(_table(tmp_path).iloc[[0]])
    assert refusals == [
        {"case_id": "good", "code": "internal", "message": "measuring ended with OSError"}
    ]


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    frame = _table(tmp_path)
    one, two = feature_table(frame), feature_table(frame, workers=2)
    pd.testing.assert_frame_equal(one[0], two[0])
    assert one[1] == two[1]


def test_measurements_follow_the_truth_of_a_simulated_hospital(tmp_path: Path) -> None:
    path = simulate_hospital(
        tmp_path, 8, seed=3, file_format="nifti", field_of_view="quick", workers=1
    )
    frame, truth = pd.read_csv(path), pd.read_csv(tmp_path / "truth.csv")
    for column in ("image", "mask"):
        frame[column] = [str(tmp_path / name) for name in frame[column]]
    table, refusals = feature_table(frame)
    assert refusals == []
    bone = np.corrcoef(table["l1_trabecular_hu"], truth["trabecular_hu"])[0, 1]
    assert bone > 0.97
    assert (table["l1_trabecular_hu"] - truth["trabecular_hu"]).abs().mean() < 6
    assert np.corrcoef(table["muscle_fat_fraction"], truth["fat_fraction"])[0, 1] > 0.95
    assert np.corrcoef(table["muscle_hu"], truth["lean_hu"])[0, 1] > 0.85


# --- real CT -------------------------------------------------------------------------------------


def test_plausible_on_a_contrast_enhanced_ct(
    real_data: Path, tcga_series: Path, tmp_path: Path
) -> None:
    folder = real_data / "tcga_ov_abdomen"
    bodies = nib.load(folder / "vertebral_bodies.nii.gz")
    muscle = np.asarray(nib.load(folder / "paravertebral_muscle.nii.gz").dataobj)
    labels = np.asarray(bodies.dataobj).astype(np.uint8)
    labels = np.where((labels == 0) & (muscle > 0), 100 + muscle, labels).astype(np.uint8)
    nib.save(nifti(labels, bodies.affine), tmp_path / "mask.nii.gz")
    found = imaging_features(tcga_series, tmp_path / "mask.nii.gz", scheme="verse")
    assert 100 < found["l1_trabecular_hu"] < 250  # enhanced; a woman of 69
    assert abs(found["l1_trabecular_hu"] - found["t12_l4_trabecular_hu"]) < 40
    assert 10 < found["muscle_hu"] < 80
    assert 25 < found["muscle_area_cm2"] < 90
    assert 0 < found["muscle_fat_fraction"] < 0.4
    assert found["note"] == ""


def test_plausible_on_a_native_ct_whose_t12_is_cut(real_data: Path) -> None:
    folder = real_data / "totalseg_example"
    found = [
        imaging_features(folder / "ct.nii.gz", folder / name)
        for name in ("v1_masks", "seg_v2_117class_fast.nii.gz")
    ]
    for one in found:
        assert 80 < one["l1_trabecular_hu"] < 160
        assert 10 < one["muscle_hu"] < 60
        assert one["note"] == "T12 is cut by the field of view"
    for name in IMAGING_VARIABLES:  # two segmentations of one CT
        assert found[0][name] == pytest.approx(found[1][name], rel=0.07), name
