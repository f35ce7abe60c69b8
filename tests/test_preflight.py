"""The rules a case must pass, each broken by one change to a good case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from monai_vfx.dicom.writing import SeriesFacts, write_ct_series
from monai_vfx.errors import REFUSALS, CaseRefused
from monai_vfx.preflight import check_case, check_image, check_report, check_voxels, load_case
from monai_vfx.schemas import violations
from phantoms import Phantom, grid, make_phantom, nifti


def _saved(folder: Path, hu: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> tuple[str, str]:
    nib.save(nifti(hu.astype(np.int16), affine), folder / "ct.nii.gz")
    nib.save(nifti(labels, affine), folder / "mask.nii.gz")
    return str(folder / "ct.nii.gz"), str(folder / "mask.nii.gz")


def _scaled(folder: Path, phantom: Phantom, *factors: float) -> tuple[str, str]:
    affine = phantom.affine @ np.diag([*factors, 1.0])
    return _saved(folder, phantom.hu, phantom.labels, affine)


def _without(phantom: Phantom, value: int) -> np.ndarray:
    return np.where(phantom.labels == value, 0, phantom.labels).astype(np.uint8)


def _swapped(labels: np.ndarray) -> np.ndarray:
    order = np.arange(256, dtype=np.uint8)
    order[[20, 21]] = 21, 20
    return order[labels]


FAULTS: dict[str, tuple[str, Callable[[Phantom, Path], tuple[str, str | None]]]] = {
    "no mask": ("mask_required", lambda p, d: (_saved(d, p.hu, p.labels, p.affine)[0], None)),
    "no label": ("mask_empty", lambda p, d: _saved(d, p.hu, 0 * p.labels, p.affine)),
    "L2 unlabelled": ("level_missing", lambda p, d: _saved(d, p.hu, _without(p, 21), p.affine)),
    "T12 out of view": (
        "level_missing",
        lambda p, d: _saved(d, p.hu[..., :40], p.labels[..., :40], p.affine),
    ),
    "L1 and L2 swapped": (
        "levels_out_of_order",
        lambda p, d: _saved(d, p.hu, _swapped(p.labels), p.affine),
    ),
    "an MR image": ("not_hounsfield", lambda p, d: _saved(d, p.hu + 300, p.labels, p.affine)),
    "rescaling left out": (
        "hu_implausible",
        lambda p, d: _saved(d, p.hu + 1024, p.labels, p.affine),
    ),
    "rescaling applied twice": (
        "hu_implausible",
        lambda p, d: _saved(d, p.hu - 1000, p.labels, p.affine),
    ),
    "a slope of two": ("hu_implausible", lambda p, d: _saved(d, p.hu * 2, p.labels, p.affine)),
    "a slope of a half": ("hu_implausible", lambda p, d: _saved(d, p.hu / 2, p.labels, p.affine)),
    "a shift by 200": ("hu_implausible", lambda p, d: _saved(d, p.hu - 200, p.labels, p.affine)),
    "nothing but noise": (
        "hu_implausible",
        lambda p, d: _saved(
            d, np.random.default_rng(0).uniform(-1000, 1500, p.hu.shape), p.labels, p.affine
        ),
    ),
    "positions in cm": ("size_implausible", lambda p, d: _scaled(d, p, 0.1, 0.1, 0.1)),
    "positions in micron": ("size_implausible", lambda p, d: _scaled(d, p, 1000, 1000, 1000)),
    "pixels of 4 mm": ("size_implausible", lambda p, d: _scaled(d, p, 4, 4, 1)),
    "a slice of 60 mm": (
        "size_implausible",
        lambda p, d: _scaled(d, p, 0.3, 1, 1),
    ),
    "a stack of 53 mm": ("size_implausible", lambda p, d: _scaled(d, p, 1, 1, 0.225)),
    "labels beside the bone": (
        "mask_off_bone",
        lambda p, d: _saved(d, p.hu, np.roll(p.labels, 25, axis=0), p.affine),
    ),
    "slices of 12 mm": (
        "slices_too_thick",
        lambda p, d: _saved(
            d, p.hu[..., ::3], p.labels[..., ::3], p.affine @ np.diag([1.0, 1.0, 3.0, 1.0])
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_code(fault: str, phantom: Phantom, tmp_path: Path) -> None:
    code, spoil = FAULTS[fault]
    image, mask = spoil(phantom, tmp_path)
    report, refusal = check_report(image, mask, case="a", scheme="verse")
    assert refusal is not None
    assert refusal.code == code
    assert report["status"] == "refused"
    assert report["refusal"]["remedy"] == REFUSALS[code]
    assert violations(report, "check") == []


def test_a_good_case_is_accepted(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path)
    report, refusal = check_report(image, mask, case="a", scheme="verse")
    assert refusal is None
    assert report["levels"] == ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    assert report["cut_levels"] == []
    assert report["warnings"] == []
    assert violations(report, "check") == []


def test_a_cut_level_is_a_warning(phantom: Phantom, tmp_path: Path) -> None:
    top = int(np.flatnonzero((phantom.labels == 19).any(axis=(0, 1)))[-3])
    image, mask = _saved(tmp_path, phantom.hu[..., :top], phantom.labels[..., :top], phantom.affine)
    case = load_case(image, mask)
    assert [w.code for w in case.warnings] == ["level_cut"]
    assert "T12" in case.warnings[0].message
    check_case(case)


def test_thick_slices_and_coarse_pixels_are_warned_of(tmp_path: Path) -> None:
    coarse = make_phantom(*grid((2.0, 2.0, 6.0), (190.0, 170.0, 236.0)))
    case = load_case(*coarse.save(tmp_path))
    assert {w.code for w in case.warnings} == {"slice_thickness", "resolution_coarse"}


def test_slices_with_tissue_between_them_are_warned_of(phantom: Phantom, tmp_path: Path) -> None:
    thin = np.ascontiguousarray(phantom.hu.astype(np.int16))
    write_ct_series(tmp_path / "ct", thin, phantom.affine, SeriesFacts(uid_seed="gap"))
    for file in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(file)
        header.SliceThickness = 2.5  # and 4 mm apart
        header.save_as(file)
    assert [w.code for w in check_image(tmp_path / "ct").warnings] == []
    nib.save(nifti(phantom.labels, phantom.affine), tmp_path / "mask.nii.gz")
    case = load_case(tmp_path / "ct", tmp_path / "mask.nii.gz")
    assert [w.code for w in case.warnings] == ["slices_apart"]


@pytest.mark.parametrize(
    ("slope", "offset"), [(1, 1024), (1, -1024), (1, 1000), (2, 0), (0.5, 0), (1, 200), (1, -200)]
)
def test_the_real_cases_are_refused_with_a_wrong_rescaling(
    real_data: Path, tcga_series: Path, slope: float, offset: float
) -> None:
    for image, mask in (
        (tcga_series, real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"),
        (real_data / "totalseg_example" / "ct.nii.gz", real_data / "totalseg_example/v1_masks"),
    ):
        case = load_case(image, mask)
        region = case.region()
        hu, labels = case.volume.read(region), case.masks.labels[region]
        check_voxels(hu, labels, case.volume.spacing_mm)
        with pytest.raises(CaseRefused) as refused:
            check_voxels(hu * slope + offset, labels, case.volume.spacing_mm)
        assert refused.value.code == "hu_implausible"


def test_the_region_holds_every_crop(phantom: Phantom, tmp_path: Path) -> None:
    case = load_case(*phantom.save(tmp_path))
    region = case.region((60.0, 100.0), posterior_mm=10.0)
    world = [
        phantom.affine @ [*(getattr(axis, end) for axis in region), 1] for end in ("start", "stop")
    ]
    low, high = (w[:3] - phantom.centre for w in world)
    # Bodies: 40 mm wide; 30 mm deep around a middle 3 to 8 mm in front of the centre.
    assert -20 - 50 - 8 < low[0] < -20 - 50
    assert 20 + 50 < high[0] < 20 + 50 + 8
    assert low[1] < 3 - 15 - 40  # 30 + 10 mm behind the hindmost centre
    assert high[1] > 8 + 20  # 30 - 10 mm in front of the foremost
    assert low[2] == pytest.approx(-70.5, abs=4.0)
    assert high[2] == pytest.approx(70.5, abs=4.0)


def test_another_patients_mask(real_data: Path) -> None:
    image = real_data / "totalseg_example" / "ct.nii.gz"
    mask = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    with pytest.raises(CaseRefused) as refused:
        load_case(image, mask)
    assert refused.value.code == "mask_grid_mismatch"


def test_the_real_cases_are_accepted_with_their_true_warnings(
    real_data: Path, tcga_series: Path
) -> None:
    report, refusal = check_report(
        tcga_series, real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz", case="a"
    )
    assert refusal is None
    assert report["body_source"] == "given"
    assert [warning["code"] for warning in report["warnings"]] == ["contrast_contradictory"]
    for mask in ("v1_masks", "seg_v2_117class_fast.nii.gz"):
        report, refusal = check_report(
            real_data / "totalseg_example" / "ct.nii.gz",
            real_data / "totalseg_example" / mask,
            case="b",
        )
        assert refusal is None
        assert report["cut_levels"] == ["T12"]
        codes = {warning["code"] for warning in report["warnings"]}
        assert codes == {"resolution_coarse", "level_cut", "body_derived"}
