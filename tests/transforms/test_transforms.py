"""The chain in world space: any file order, any grid, and back onto the CT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from itk_files import convert
from monai.data import MetaTensor
from monai.transforms import Compose, allow_missing_keys_mode
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import map_coordinates

from monai_vfx.core.errors import CaseRefused, find_refusal
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.transforms import CTRegion, LocateSpined, RegionReader, VertebraCrop
from monai_vfx.transforms.centres import find_body_slices
from monai_vfx.transforms.loading import overhang_mm
from monai_vfx.workflows.run_bundle import preprocessing
from phantoms import Phantom, grid, lordosis, make_phantom, nifti

LPS = np.array([-1.0, -1.0, 1.0])
META = {"first_slice_from_feet": 0, "slice_index": np.array([1]), "centre_mm": np.zeros((1, 3))}


def run(image: Path, mask: Path, **settings: Any) -> MetaTensor:
    """Return the network input of a case, through the bundle's own chain."""
    item = {"image": str(image), "mask": str(mask)}
    return preprocessing(**settings)(item)["image"]  # type: ignore[no-any-return]


def at_world(image: Path, positions_lps: np.ndarray) -> np.ndarray:
    """Interpolate a CT linearly at world positions, and bring it to [-1, 1]."""
    volume = open_volume(image)
    index = np.linalg.inv(volume.affine) @ np.vstack(
        [(positions_lps * LPS).T, np.ones(len(positions_lps))]
    )
    hu = map_coordinates(volume.read().astype(float), index[:3], order=1, mode="nearest")
    return 2 * (np.clip(hu, -200, 1000) + 200) / 1200 - 1


def world_of_crop(out: MetaTensor, row: int, column: int, n: int) -> np.ndarray:
    """Return the LPS position of a pixel of the network input."""
    axes = np.asarray(out.affine)[:3, :2] * LPS[:, None]
    return np.asarray(out.meta["corner_mm"])[n] + axes @ [row, column]


def assert_is_linear_interpolation(image: Path, mask: Path) -> None:
    out = run(image, mask)
    picks = [(r, c, n) for r in range(3, 96, 13) for c in range(2, 144, 11) for n in range(14)]
    expected = at_world(image, np.array([world_of_crop(out, *pick) for pick in picks]))
    got = np.array([float(out[(0, *pick)]) for pick in picks])
    inside = got != -1.0  # padding, or clipped anyway
    assert inside.mean() > 0.5
    assert np.abs(got - expected)[inside].max() < 1e-4


def test_output_is_linear_interpolation_at_its_world_positions(
    phantom: Phantom, tmp_path: Path
) -> None:
    assert_is_linear_interpolation(*phantom.save(tmp_path))


def test_output_is_linear_interpolation_on_the_real_series(
    tcga_series: Path, real_data: Path
) -> None:
    mask = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    assert_is_linear_interpolation(tcga_series, mask)


def test_left_is_right_of_the_picture_and_back_is_below(phantom: Phantom, tmp_path: Path) -> None:
    out = run(*phantom.save(tmp_path), posterior_mm=0.0, crop_size=[81, 145], slices=42)
    levels = np.asarray(out.meta["slice_level"])
    middle = int(np.flatnonzero(levels == 21).mean())
    beads = np.argwhere(out[0, :, :, middle].numpy() > 0.9)
    rows, columns = beads[:, 0] - 39.5, beads[:, 1] - 71.5
    assert np.any(np.hypot(rows, columns - 40) < 3)  # 40 mm to the patient's left
    assert np.any(np.hypot(rows - 40 + 0.5, columns) < 3)  # 40 mm behind
    assert not np.any(columns < -20)


def test_centres_levels_and_slices(phantom: Phantom, tmp_path: Path) -> None:
    out = run(*phantom.save(tmp_path))
    centres = np.asarray(out.meta["centre_mm"]) * LPS - phantom.centre
    np.testing.assert_allclose(centres[:, 0], 0, atol=0.3)
    np.testing.assert_allclose(centres[:, 1], lordosis(centres[:, 2]), atol=1.0)
    assert np.all(np.diff(centres[:, 2]) < 0)  # cranial to caudal
    index = np.asarray(out.meta["slice_index"])
    heights = phantom.affine[2, 3] + 4.0 * index - phantom.centre[2]
    np.testing.assert_allclose(heights, centres[:, 2], atol=1e-6)
    levels = np.asarray(out.meta["slice_level"])
    assert sorted(set(levels.tolist())) == [19, 20, 21, 22, 23]
    expected = 19 + np.round((60 - centres[:, 2]) / 30).astype(int)
    np.testing.assert_array_equal(levels, expected)


VARIANTS = ["RAS", "LPS", "LAI", "SRA", "IPL", "ASL"]


@pytest.mark.parametrize("axes", VARIANTS)
def test_flipped_and_permuted_files_give_the_same_input(
    phantom: Phantom, tmp_path: Path, axes: str
) -> None:
    reference = run(*phantom.save(tmp_path / "a"))
    turned = []
    for name, voxels in (("ct", phantom.hu.astype(np.int16)), ("mask", phantom.labels)):
        image = nifti(voxels, phantom.affine)
        step = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(axes)))
        turned.append(tmp_path / f"{name}.nii.gz")
        nib.save(image.as_reoriented(step), turned[-1])
    out = run(*turned)
    assert float((out.as_tensor() - reference.as_tensor()).abs().max()) < 1e-5
    for name in ("slice_index", "slice_level"):
        np.testing.assert_array_equal(out.meta[name], reference.meta[name])
    np.testing.assert_allclose(out.meta["centre_mm"], reference.meta["centre_mm"], atol=1e-3)


def test_dicom_nifti_and_nrrd_give_the_same_input(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path)
    convert(image, tmp_path / "ct.nrrd")
    facts = SeriesFacts(uid_seed="c")
    write_ct_series(tmp_path / "dicom", phantom.hu.astype(np.int16), phantom.affine, facts)
    reference = run(image, mask)
    for other in (tmp_path / "ct.nrrd", tmp_path / "dicom"):
        out = run(other, mask)
        assert float((out.as_tensor() - reference.as_tensor()).abs().max()) < 2e-4
        np.testing.assert_allclose(out.meta["centre_mm"], reference.meta["centre_mm"], atol=1e-2)


def test_an_oblique_patient_gives_the_same_input(phantom: Phantom, tmp_path: Path) -> None:
    """The same voxels, the table turned by 12 degrees about two axes."""
    a, b = np.deg2rad(12), np.deg2rad(-9)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn = np.eye(4)
    turn[:3, :3] = about_x @ about_z
    reference = run(*phantom.save(tmp_path / "a"))
    oblique = Phantom(phantom.hu, phantom.labels, turn @ phantom.affine, phantom.centre)
    out = run(*oblique.save(tmp_path / "b"))
    assert float((out.as_tensor() - reference.as_tensor()).abs().max()) < 1e-3
    turned = np.asarray(reference.meta["centre_mm"]) * LPS @ turn[:3, :3].T
    np.testing.assert_allclose(np.asarray(out.meta["centre_mm"]) * LPS, turned, atol=1e-2)


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 5.0), (1.3, 0.8, 2.5)])
def test_other_grids_show_the_same_anatomy(
    phantom: Phantom, tmp_path: Path, spacing: tuple[float, float, float]
) -> None:
    other = make_phantom(*grid(spacing, (190.0, 170.0, 236.0)))
    ours, theirs = run(*phantom.save(tmp_path / "a")), run(*other.save(tmp_path / "b"))
    middle = int(np.flatnonzero(np.asarray(ours.meta["slice_level"]) == 21)[1])
    same = int(np.flatnonzero(np.asarray(theirs.meta["slice_level"]) == 21)[1])
    difference = (ours[0, ..., middle].as_tensor() - theirs[0, ..., same].as_tensor()).abs()
    assert float(difference.median()) < 0.02


def test_bone_only_blanks_everything_else(phantom: Phantom, tmp_path: Path) -> None:
    paths = phantom.save(tmp_path)
    bone = run(*paths, masked=True, posterior_mm=0.0, crop_size=[96, 96])
    full = run(*paths, masked=False, posterior_mm=0.0, crop_size=[96, 96])
    kept = bone.as_tensor() != -1
    assert 0.05 < float(kept.float().mean()) < 0.15  # 40 × 30 mm ellipse in 96 × 96 mm
    assert torch.equal(bone.as_tensor()[kept], full.as_tensor()[kept])
    assert float(full.as_tensor()[kept].min()) > -0.58  # 52 HU: no muscle, no fat


def test_a_spot_in_the_input_returns_to_its_place_on_the_ct(
    phantom: Phantom, tmp_path: Path
) -> None:
    image, mask = phantom.save(tmp_path)
    chain = preprocessing()
    out = chain({"image": str(image), "mask": str(mask)})["image"]
    heat = MetaTensor(
        torch.zeros_like(out.as_tensor()),
        meta=dict(out.meta),
        applied_operations=list(out.applied_operations),
    )
    heat[0, 60:65, 30:35, 6] = 1.0
    with allow_missing_keys_mode(chain):
        back = chain.inverse({"image": heat})["image"]
    mask_region = LocateSpined(("image", "mask"))({"image": image, "mask": mask})["mask"][0]
    weights = back[0].numpy() * (back[0].numpy() > 0.5)
    index = (np.argwhere(weights > 0) * weights[weights > 0][:, None]).sum(0) / weights.sum()
    found = (np.asarray(back.affine) @ [*index, 1])[:3]
    expected = world_of_crop(out, 62, 32, 6) * LPS
    assert np.linalg.norm((found - expected)[:2]) < 1.0
    assert abs(found[2] - expected[2]) < 4.0
    assert tuple(back.shape[1:]) == tuple(mask_region.shape)


def test_slices_of_a_quarter_of_the_largest_area_are_kept() -> None:
    labels = np.zeros((20, 20, 9), dtype=np.uint8)
    for n, side in zip((1, 2, 3, 4), (4, 6, 12, 12), strict=True):
        labels[:side, :side, n] = 19
    labels[:12, :12, 6] = 20
    found = find_body_slices(labels, (1.0, 1.0, 5.0))
    assert found.indices.tolist() == [2, 3, 4, 6]  # 16 of 144 is too little, 36 is a quarter
    assert found.levels.tolist() == [19, 19, 19, 20]
    labels[:, :, 7] = 0
    labels[:5, :5, 7], labels[10:14, :5, 7] = 19, 20  # 25 and 20 of 144: together enough
    assert find_body_slices(labels, (1.0, 1.0, 5.0)).indices.tolist() == [2, 3, 4, 6, 7]
    labels[:, :, 7] = 0
    with_discs = find_body_slices(labels, (1.0, 1.0, 5.0), include_discs=True)
    assert with_discs.indices.tolist() == [2, 3, 4, 5, 6]


def test_crop_beyond_the_field_of_view_is_padded(phantom: Phantom, tmp_path: Path) -> None:
    narrow = make_phantom(*grid((1.0, 1.0, 4.0), (100.0, 80.0, 236.0)))
    out = run(*narrow.save(tmp_path))
    assert out.shape == (1, 96, 144, 14)
    assert float(out[0, :, 0].max()) == -1.0
    warnings = json.loads(out.meta["case_facts"])["warnings"]
    assert [w["code"] for w in warnings] == ["crop_padded"]
    # Behind a body 3 to 8 mm in front of the middle lie about 45 mm of the needed 72.
    assert warnings[0]["message"].endswith(("28 mm", "29 mm", "30 mm"))


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAL"])
def test_overhang_is_the_same_in_any_order_of_axes(
    phantom: Phantom, tmp_path: Path, axes: str
) -> None:
    image = nifti(phantom.hu.astype(np.int16), phantom.affine)
    step = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(axes)))
    nib.save(image.as_reoriented(step), tmp_path / "ct.nii")
    volume = open_volume(tmp_path / "ct.nii")
    # 170 mm deep: 84.4 mm lie behind the middle, 94.5 mm (half of 189) left and right of it.
    got = overhang_mm(volume, phantom.centre[None], (96.0, 144.0), posterior_mm=24.0)
    assert got == pytest.approx(72 - 84.4, abs=1.2)
    got = overhang_mm(volume, phantom.centre[None], (96.0, 200.0), posterior_mm=0.0)
    assert got == pytest.approx(100 - 94.5, abs=1.0)


def test_the_reader_takes_nothing_but_a_region() -> None:
    with pytest.raises(TypeError, match="LocateSpined"):
        RegionReader().read("ct.nii.gz")
    assert not RegionReader().verify_suffix("ct.nii.gz")


def test_no_path_reaches_the_metadata(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path / "Doe^Jane")
    item = LocateSpined(("image", "mask"))({"image": str(image), "mask": str(mask)})
    assert isinstance(item["image"], CTRegion)
    assert "Doe" not in str(item["image"])
    out = run(image, mask)
    assert "Doe" not in str({**out.meta})


def test_a_refusal_travels_through_compose(phantom: Phantom, tmp_path: Path) -> None:
    image, _ = phantom.save(tmp_path)
    empty = tmp_path / "empty.nii.gz"
    nib.save(nifti(np.zeros_like(phantom.labels), phantom.affine), empty)
    with pytest.raises(RuntimeError) as error:
        run(image, empty)
    refusal = find_refusal(error.value)
    assert isinstance(refusal, CaseRefused)
    assert refusal.code == "mask_empty"


def test_crop_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="min_area"):
        LocateSpined(("image", "mask"), min_area=1.5)
    with pytest.raises(ValueError, match="labels"):
        VertebraCrop(masked=True)(MetaTensor(torch.zeros(1, 4, 4, 4), meta=META))
    with pytest.raises(ValueError, match="size"):
        VertebraCrop(size=(0, 10))
    with pytest.raises(ValueError, match="keys"):
        LocateSpined("image")
    assert isinstance(Compose([LocateSpined(("image", "mask"))]), Compose)
