"""Phantoms: anatomy in world coordinates, attenuation, labels; hospitals: files and determinism."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy import ndimage

from monai_vfx.core.anatomy import LEVELS, MUSCLES, VERTEBRAE
from monai_vfx.simulation.canvas import Canvas, capsule_distance, ellipsoid
from monai_vfx.simulation.hospital import simulate_hospital
from monai_vfx.simulation.patients import draw_patients
from monai_vfx.simulation.phantom import make_phantom, with_edge_errors
from monai_vfx.simulation.scanner import SCANNERS, Scan, acquire, draw_scan, sub_slices
from monai_vfx.simulation.spine import body_distance, make_spine

PATIENT = replace(
    draw_patients(2, seed=5)[0], trabecular_hu=140.0, cortex_mm=0.65, fat_fraction=0.15, bmi=23.6
)
BODIES = [VERTEBRAE[name] for name in LEVELS]


def seed(number: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence(9, spawn_key=(1, number))


def world(phantom, mask) -> np.ndarray:
    """Return the RAS positions (n, 3) of a mask's voxels."""
    return nib.affines.apply_affine(phantom.affine, np.argwhere(mask))


@pytest.fixture(scope="module")
def quick():
    return make_phantom(PATIENT, seed(), field_of_view="quick")


@pytest.fixture(scope="module")
def full():
    return make_phantom(PATIENT, seed(), field_of_view="full")


# ---------------------------------------------------------------- drawing


def test_a_ball_has_its_volume_and_place():
    axis = np.arange(-20, 20, 0.5, dtype=np.float32)
    canvas = Canvas(axis, axis, axis, fill=0.0)
    canvas.paint_tube(ellipsoid((3.0, -2.0, 1.0), (8.0, 8.0, 8.0)), 1.0, label=7)
    assert canvas.hu.sum() * 0.125 == pytest.approx(4 / 3 * np.pi * 512, rel=0.03)
    k, j, i = ndimage.center_of_mass(canvas.labels == 7)
    assert (-20 + i / 2, -20 + j / 2, -20 + k / 2) == pytest.approx((3, -2, 1), abs=0.1)


def test_a_thin_shell_keeps_its_mass_on_a_coarse_grid():
    # A slab of 14 mm with walls of 1 mm and 900 HU on a 2 mm grid: 2 x 900 HU x 1 mm across it.
    axis = np.arange(-20, 21, 2.0, dtype=np.float32)
    canvas = Canvas(axis, axis, axis, fill=0.0)
    everywhere = canvas.window((-20.0,) * 3, (20.0,) * 3)
    distance = np.abs(canvas.positions(everywhere)[0]) - np.float32(7.0)
    canvas.paint(everywhere, canvas.cover(distance), 900.0)
    canvas.paint(everywhere, canvas.cover(distance + np.float32(1.0)), 0.0)
    assert canvas.hu[3, 4].sum() * 2.0 == pytest.approx(1800.0, rel=0.15)


def test_capsule_distance_beside_and_beyond():
    x = np.array([0.0, 4.0, 0.0], dtype=np.float32)
    z = np.array([5.0, 5.0, 13.0], dtype=np.float32)
    zero = np.zeros(3, dtype=np.float32)
    found = capsule_distance((x, zero, z), (0.0, 0.0, 0.0), (0.0, 0.0, 10.0), 2.0)
    assert found.tolist() == [-2.0, 2.0, 1.0]


def test_sub_slices_average_to_their_slice():
    z = np.array([0.0, 5.0, 10.0], dtype=np.float32)
    assert sub_slices(z).reshape(3, 3).mean(axis=1) == pytest.approx(z, abs=1e-5)
    assert np.allclose(np.diff(sub_slices(z)), 5 / 3, atol=1e-5)


@pytest.mark.parametrize("pixel", [0.8, 2.0])
def test_noise_has_the_stated_sd_after_blur(pixel):
    scan = Scan(psf_mm=0.62, noise_hu=17.0, aorta_hu=150.0, bone_hu=0.0, muscle_hu=0.0)
    hu = np.zeros((20, 96, 96), dtype=np.float32)
    noisy = acquire(hu, pixel, scan, np.random.default_rng(0))
    middle = noisy[:, 40:56, 40:56]
    # On pixels of 2 mm as much as is left of the fine noise when it is averaged over them.
    rng, fine = np.random.default_rng(1), 0.1
    white = ndimage.gaussian_filter(rng.standard_normal((2000, 2000)), 0.62 / fine, mode="wrap")
    cells = [white.reshape(-1, n, white.shape[1] // n, n).mean(axis=(1, 3)).std() for n in (8, 20)]
    wanted = 17.0 * (cells[1] / cells[0] if pixel == 2.0 else 1.0)
    assert middle.std() == pytest.approx(wanted, rel=0.1)
    assert abs(float(middle.mean())) < 1.0


def test_scans_differ_by_contrast_kernel_and_dose_and_hospitals_by_their_means():
    scans = {
        name: [draw_scan(SCANNERS[name], 1.0, np.random.default_rng(n)) for n in range(400)]
        for name in ("development", "external")
    }
    for name, drawn in scans.items():
        scanner = SCANNERS[name]
        aorta = np.array([scan.aorta_hu for scan in drawn])
        bone = np.array([scan.bone_hu for scan in drawn])
        assert aorta.mean() == pytest.approx(scanner.aorta_hu, abs=4)
        assert np.corrcoef(aorta, bone)[0, 1] > 0.5  # the same contrast medium
        assert bone.std() < 6  # a fifth of what a standard deviation of the bone state shows
        sharp = np.array([scan.psf_mm == scanner.sharp_psf_mm for scan in drawn])
        assert sharp.mean() == pytest.approx(scanner.sharp_share, abs=0.07)
        noise = np.array([scan.noise_hu for scan in drawn])
        assert noise[sharp].mean() > 1.15 * noise[~sharp].mean()
    means = [np.mean([scan.bone_hu for scan in scans[name]]) for name in scans]
    assert means[0] - means[1] == pytest.approx(4.0, abs=1.0)


def test_masks_edges_err_by_a_millimetre_and_stay_on_their_bone(quick):
    rng = np.random.default_rng(3)
    mask = with_edge_errors(quick.labels, quick.affine, rng)
    for value in (*BODIES, *MUSCLES.values()):
        painted, drawn = quick.labels == value, mask == value
        dice = 2 * (painted & drawn).sum() / (painted.sum() + drawn.sum())
        assert 0.85 < dice < 0.99
        shift = world(quick, drawn).mean(axis=0) - world(quick, painted).mean(axis=0)
        assert np.abs(shift).max() < 0.8
        assert drawn.sum() == pytest.approx(painted.sum(), rel=0.06)
    fine = np.repeat(np.repeat(quick.labels, 4, axis=0), 4, axis=1)  # 0.5 mm
    affine = quick.affine @ np.diag([0.25, 0.25, 1.0, 1.0])
    assert np.array_equal(with_edge_errors(fine, affine, rng, 0.0), fine)
    layer = int(np.argmax((fine == VERTEBRAE["L3"]).sum(axis=(0, 1))))
    before = fine[:, :, layer] == VERTEBRAE["L3"]
    row = int(np.rint(np.argwhere(before)[:, 1].mean()))
    edges = [
        0.5 * ((volume[:, row, layer] == VERTEBRAE["L3"]).argmax() - before[:, row].argmax())
        for volume in (with_edge_errors(fine, affine, rng) for _ in range(40))
    ]
    assert np.std(edges) == pytest.approx(0.8, abs=0.25)
    assert abs(np.mean(edges)) < 0.5


# ---------------------------------------------------------------- spine


def test_spine_is_lordotic_and_grows_downwards():
    spine = make_spine(np.random.default_rng(0), 157.0, male=False, age=65.0)
    heights = [v.centre[2] for v in spine.vertebrae]
    assert heights == sorted(heights, reverse=True)
    assert spine["L3"].centre == (0.0, 0.0, 0.0)
    # L3 lies in front of both ends of the lumbar curve (LPS: y grows to the back).
    assert spine["T12"].centre[1] > 5.0
    assert spine["S1"].centre[1] > 10.0
    assert spine["L4"].half_width > spine["L1"].half_width > spine["T11"].half_width


def test_body_distance_is_minus_inside_and_flat_behind():
    body = make_spine(np.random.default_rng(0), 157.0, male=False, age=65.0)["L3"]
    points = [(0, 0, 0), (0, -0.9, 0), (0, 0.95, 0), (1.2, 0, 0), (0, 0, 0.6)]
    scaled = [
        body.world(u * body.half_width, v * body.half_depth, w * body.height) for u, v, w in points
    ]
    x, y, z = np.array(scaled, dtype=np.float32).T
    inside = np.maximum(*body_distance(body, (x, y, z))) < 0
    # The back wall is hollow: 95 % of the half depth is inside in front, outside behind.
    assert inside.tolist() == [True, True, False, False, False]


# ---------------------------------------------------------------- phantom


@pytest.mark.parametrize("view", ["quick", "full"])
def test_levels_are_whole_connected_and_in_order(request, view):
    phantom = request.getfixturevalue(view)
    heights = []
    for value in BODIES:
        body = phantom.labels == value
        box = ndimage.find_objects(body.astype(np.uint8))[0]
        _, pieces = ndimage.label(body[box], structure=np.ones((3, 3, 3)))
        assert pieces == 1
        heights.append(world(phantom, body)[:, 2].mean())
        volume_ml = body.sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
        assert 14.0 < volume_ml < 55.0
    assert heights == sorted(heights, reverse=True)
    assert all(20.0 < a - b < 45.0 for a, b in pairwise(heights))


def test_image_axes_are_left_back_head(full):
    assert nib.aff2axcodes(full.affine) == ("L", "P", "S")
    assert full.hu.shape[:2] == (512, 512)
    assert abs(full.affine[2, 2]) == 5.0
    assert 0.75 <= abs(full.affine[0, 0]) <= 0.98


def smoothed_box(phantom, low, high) -> np.ndarray:
    """Return the image inside a RAS box (mm), its noise averaged away."""
    corners = nib.affines.apply_affine(np.linalg.inv(phantom.affine), [low, high])
    first, last = np.sort(np.rint(corners).astype(int), axis=0)
    part = phantom.hu[tuple(slice(max(a, 0), b) for a, b in zip(first, last, strict=True))]
    return ndimage.gaussian_filter(part.astype(np.float32), (1.5, 1.5, 0.0))


def test_aorta_is_left_and_vena_cava_right_of_the_spine(full):
    x, y, z = world(full, full.labels == VERTEBRAE["L3"]).mean(axis=0)
    left = smoothed_box(full, (x - 22, y + 22, z - 6), (x - 3, y + 40, z + 6))
    right = smoothed_box(full, (x + 3, y + 22, z - 6), (x + 22, y + 40, z + 6))
    aorta = SCANNERS["development"].aorta_hu
    assert np.percentile(left, 95) == pytest.approx(aorta, abs=35)
    assert np.percentile(left, 95) > np.percentile(right, 95) + 8  # the cava is fainter


def test_liver_fills_the_right_and_not_the_left(full):
    x, y, z = world(full, full.labels == VERTEBRAE["T11"]).mean(axis=0)
    right = smoothed_box(full, (x + 45, y + 10, z - 10), (x + 95, y + 60, z + 10))
    left = smoothed_box(full, (x - 95, y + 10, z - 10), (x - 45, y + 60, z + 10))
    assert np.mean((right > 85) & (right < 140)) > 0.9
    assert np.mean((left > 85) & (left < 140)) < 0.6


def test_patient_lies_on_the_couch_with_the_muscles_behind(full):
    centre = world(full, np.isin(full.labels, BODIES)).mean(axis=0)
    muscle = world(full, full.labels == MUSCLES["erector_spinae"]).mean(axis=0)
    assert muscle[1] < centre[1] - 25  # RAS: posterior is smaller
    assert abs(muscle[0] - centre[0]) < 6
    fascia = world(full, full.labels == MUSCLES["psoas"])
    assert (fascia[:, 0] < centre[0]).any()
    assert (fascia[:, 0] > centre[0]).any()
    # Behind the skin comes air, then a bright line of couch.
    i = full.hu.shape[0] // 2
    column = full.hu[i, :, full.hu.shape[2] // 2].astype(float)
    skin = np.flatnonzero(column > -300)
    gaps = np.flatnonzero(np.diff(skin) > 3)
    assert len(gaps) >= 1
    for gap in gaps:  # its middle: the edges are blurred
        assert np.median(column[skin[gap] + 1 : skin[gap + 1]]) < -900


@pytest.mark.parametrize("view", ["quick", "full"])
def test_attenuations(request, view):
    phantom = request.getfixturevalue(view)
    spacing = np.abs(np.diag(phantom.affine)[:3])
    body = phantom.labels == VERTEBRAE["L1"]
    box = ndimage.find_objects(body.astype(np.uint8))[0]
    depth = ndimage.distance_transform_edt(body[box], sampling=spacing)
    assert phantom.hu[box][depth > 6].mean() == pytest.approx(PATIENT.trabecular_hu, abs=18)
    muscle = phantom.hu[phantom.labels == MUSCLES["erector_spinae"]].astype(float)
    assert 20 < muscle.mean() < PATIENT.lean_hu
    assert 0.05 < np.mean(muscle < -10) < 0.25
    assert phantom.hu.min() >= -1024


def test_quick_view_holds_the_crop_of_every_level(quick):
    ends = [(0, 0, 0), np.array(quick.hu.shape) - 1]
    corners = nib.affines.apply_affine(quick.affine, ends)
    low, high = corners.min(axis=0), corners.max(axis=0)
    for value in BODIES:
        x, y, _ = world(quick, quick.labels == value).mean(axis=0)
        assert low[0] < x - 72
        assert x + 72 < high[0]
        assert low[1] < y - 24 - 48  # RAS: posterior is smaller
        assert y - 24 + 48 < high[1]
    names = set(np.unique(quick.labels)) - {0, 101, 102}
    assert names == {*BODIES, VERTEBRAE["T11"], VERTEBRAE["L5"]}


def test_hidden_state_shows_in_bone_and_muscle():
    weak = replace(PATIENT, trabecular_hu=70.0, fat_fraction=0.40, erector_scale=0.75)
    strong = replace(PATIENT, trabecular_hu=200.0, fat_fraction=0.05, erector_scale=1.2)
    low, high = (make_phantom(p, seed(), field_of_view="quick") for p in (weak, strong))
    body, muscle = (np.isin(low.labels, BODIES), MUSCLES["erector_spinae"])
    assert np.median(high.hu[body]) - np.median(low.hu[body]) > 90
    assert high.hu[high.labels == muscle].mean() - low.hu[low.labels == muscle].mean() > 30
    assert (high.labels == muscle).sum() > 1.3 * (low.labels == muscle).sum()
    np.testing.assert_array_equal(body, np.isin(high.labels, BODIES))  # the spine is the same


def test_same_seed_same_phantom_other_seed_other(quick):
    again = make_phantom(PATIENT, seed(), field_of_view="quick")
    np.testing.assert_array_equal(again.hu, quick.hu)
    np.testing.assert_array_equal(again.labels, quick.labels)
    other = make_phantom(PATIENT, seed(1), field_of_view="quick")
    assert other.hu.shape != quick.hu.shape or (other.hu != quick.hu).any()


# ---------------------------------------------------------------- hospital


def contents(folder) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_hospital_is_complete_and_the_same_whatever_the_workers(tmp_path):
    settings = {"patients": 3, "seed": 4, "file_format": "nifti", "field_of_view": "quick"}
    calls: list[tuple[int, int]] = []
    one = simulate_hospital(
        tmp_path / "one", **settings, workers=1, progress=lambda *c: calls.append(c)
    )
    simulate_hospital(tmp_path / "two", **settings, workers=2)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    table = pd.read_csv(one)
    assert list(table.columns[:4]) == ["case_id", "image", "mask", "simulated"]
    assert {"fracture", "follow_up_years", "renal_failure"} <= set(table.columns)
    assert not {"bone_z", "five_year_risk"} & set(table.columns)
    truth = pd.read_csv(tmp_path / "one" / "truth.csv")
    assert truth["case_id"].tolist() == table["case_id"].tolist()
    assert truth["five_year_risk"].between(0, 1).all()
    image, mask = (nib.load(tmp_path / "one" / table[c][0]) for c in ("image", "mask"))
    np.testing.assert_allclose(image.affine, mask.affine)
    assert image.shape == mask.shape
    assert json.loads((tmp_path / "one" / "hospital.json").read_text())["simulated"] is True


def test_a_second_ct_of_a_registry_shows_the_same_patient(tmp_path):
    table = simulate_hospital(
        tmp_path, 34, hospital="registry", file_format="nifti", field_of_view="quick", workers=1
    )
    frame = pd.read_csv(table)
    assert frame["patient_id"].tolist()[-1] == frame["patient_id"][0] == "R00001"
    first, second = (np.asarray(nib.load(tmp_path / frame["mask"][n]).dataobj) for n in (0, 33))
    # A year's ageing moves a few edges; another patient has another grid or spine.
    assert first.shape == second.shape
    assert ((first > 0) & (second > 0)).sum() > 0.97 * (first > 0).sum()


def test_dicom_and_nifti_hold_the_same_image(tmp_path):
    settings = {"patients": 2, "seed": 4, "field_of_view": "quick", "workers": 1}
    nifti = simulate_hospital(tmp_path / "n", file_format="nifti", **settings)
    dicom = simulate_hospital(tmp_path / "d", file_format="dicom", **settings)
    case = pd.read_csv(dicom).iloc[1]
    image = nib.load(nifti.parent / pd.read_csv(nifti)["image"][1])
    slices = [pydicom.dcmread(p) for p in (dicom.parent / case["image"]).iterdir()]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    stack = np.stack([s.pixel_array.T.astype(int) - 1024 for s in slices], axis=-1)
    np.testing.assert_array_equal(stack, np.asarray(image.dataobj))
    assert slices[0].PatientSex == case["sex"]
    assert slices[0].PatientAge == f"{int(case['age']):03d}Y"
    first = np.array(slices[0].ImagePositionPatient, dtype=float) * [-1, -1, 1]
    assert first == pytest.approx(image.affine[:3, 3], abs=1e-3)


def test_a_complete_hospital_is_not_overwritten_an_interrupted_one_is_finished(tmp_path):
    settings = {"patients": 2, "seed": 4, "field_of_view": "quick", "workers": 1}
    table = simulate_hospital(tmp_path, **settings)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"cohort\.csv"):
        simulate_hospital(tmp_path, **settings)
    table.unlink()
    simulate_hospital(tmp_path, **settings)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "wrong", [{"file_format": "png"}, {"field_of_view": "tiny"}, {"workers": 0}, {"patients": 1}]
)
def test_wrong_settings_leave_nothing(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("patients", "count")):
        simulate_hospital(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
