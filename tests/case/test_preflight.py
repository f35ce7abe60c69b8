"""The rules a case must pass, each broken by one change to a good case."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_variants import edit, put
from monai_vfx.case.case import check_case, check_report, check_voxels, load_case
from monai_vfx.case.checks.hounsfield import check_peaks, check_steps
from monai_vfx.core.codes import REFUSALS
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.schemas import violations
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
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
    report, refusal = check_report(image, mask, case_id="a", scheme="verse")
    assert refusal is not None
    assert refusal.code == code
    assert report["status"] == "refused"
    assert report["refusal"]["remedy"] == REFUSALS[code].remedy
    assert violations(report, "check") == []


def test_a_good_case_is_accepted(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path)
    report, refusal = check_report(image, mask, case_id="a", scheme="verse")
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
    assert [w.code for w in open_volume(tmp_path / "ct").warnings] == []
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
        hu = case.volume.read(region)
        check_voxels(case, region, hu)
        with pytest.raises(CaseRefused) as refused:
            check_voxels(case, region, hu * slope + offset)
        assert refused.value.code == "hu_implausible"


def _as_series(folder: Path, phantom: Phantom) -> tuple[Path, Path]:
    hu = np.rint(phantom.hu).astype(np.int16)
    write_ct_series(folder / "ct", hu, phantom.affine, SeriesFacts(uid_seed="slice"))
    nib.save(nifti(phantom.labels, phantom.affine), folder / "mask.nii.gz")
    return folder / "ct", folder / "mask.nii.gz"


def test_kidneys_may_peak_as_high_as_fatty_muscle() -> None:
    rng = np.random.default_rng(0)
    tissues = ((-100, 15, 6), (35, 25, 1), (150, 20, 1))  # fat, muscle, enhanced kidney
    hu = np.concatenate([rng.normal(mean, sd, 8000 * share) for mean, sd, share in tissues])
    values = rng.permutation(hu).reshape(40, 40, 40).astype(np.float32)
    check_peaks(values)
    with pytest.raises(CaseRefused) as refused:
        check_peaks(2 * values)
    assert refused.value.code == "hu_implausible"


@pytest.mark.parametrize(
    ("tag", "value", "offset"),
    [
        ("RescaleIntercept", 0, (1024, 1024)),
        ("RescaleIntercept", -1104, (-80, -80)),
        # Fat at -95 HU is stored as 929, muscle at 45 HU as 1069.
        ("RescaleSlope", 2, (924, 1074)),
        ("RescaleSlope", 0.9, (-108, -92)),
    ],
)
@pytest.mark.parametrize("first", [20, 30])
def test_one_slice_of_another_rescaling_is_named(
    phantom: Phantom, tmp_path: Path, tag: str, value: float, offset: tuple[int, int], first: int
) -> None:
    image, mask = _as_series(tmp_path, phantom)
    put(tag, value, slice(first, first + 1))(image)
    _, refusal = check_report(image, mask, case_id="a")
    assert refusal is not None
    assert refusal.code == "hu_implausible"
    assert "1 of 35 slices around the spine differ" in refusal.message
    found = re.search(rf"slice {first + 1} \(([+-]\d+) HU\)", refusal.message)
    assert found is not None
    assert offset[0] <= int(found[1]) <= offset[1]


@pytest.mark.parametrize("which", [slice(25, 28), slice(0, 20), slice(32, None)])
def test_a_run_of_slices_of_another_rescaling_is_named(
    phantom: Phantom, tmp_path: Path, which: slice
) -> None:
    image, mask = _as_series(tmp_path, phantom)
    put("RescaleIntercept", -924, which)(image)
    _, refusal = check_report(image, mask, case_id="a")
    assert refusal is not None
    assert refusal.code == "hu_implausible"
    region = load_case(image, mask).region()[2]
    around = range(*region.indices(phantom.hu.shape[2]))
    odd = [n + 1 for n in around if n in range(*which.indices(phantom.hu.shape[2]))]
    assert f"{len(odd)} of {len(around)} slices" in refusal.message
    assert f"slice {odd[0]} (+100 HU)" in refusal.message


def test_a_rescaling_of_each_slices_own_is_no_fault(phantom: Phantom, tmp_path: Path) -> None:
    image, mask = _as_series(tmp_path, phantom)
    number = iter(range(phantom.hu.shape[2]))

    def rescale(header: pydicom.Dataset) -> None:
        n = next(number)
        slope, intercept = (1.0, 2.0, 0.37)[n % 3], -1100.0 - 8 * n
        hu = header.pixel_array.astype(float) - 1024
        header.PixelData = np.rint((hu - intercept) / slope).astype(np.uint16).tobytes()
        header.RescaleSlope, header.RescaleIntercept = slope, intercept

    edit(image, rescale)
    _, refusal = check_report(image, mask, case_id="a")
    assert refusal is None


@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 2, 0)])
def test_slices_are_compared_whichever_axis_they_are_on(
    phantom: Phantom, tmp_path: Path, axes: tuple[int, int, int]
) -> None:
    hu = phantom.hu.copy()
    hu[..., 30] += 80
    affine = phantom.affine[:, [*axes, 3]]
    _saved(tmp_path, hu.transpose(axes), phantom.labels.transpose(axes), affine)
    _, refusal = check_report(tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", case_id="a")
    assert refusal is not None
    assert "slice 31 (+80 HU)" in refusal.message


def test_thick_slices_of_the_real_cases_follow_each_other(
    real_data: Path, tcga_series: Path
) -> None:
    """The whole trunk too, with lung, liver and pelvis: a fifth of the tolerance is kept."""
    for image in (tcga_series, real_data / "totalseg_example" / "ct.nii.gz"):
        hu = open_volume(image).read()
        for every in (1, 2, 3):  # 3, 6 and 9 mm apart
            for first in range(every):
                check_steps(hu[..., first::every], 2)
        with pytest.raises(CaseRefused, match=r"1 of .* slice 41 \(\+[67]\d HU\)"):
            check_steps(np.where(np.arange(hu.shape[2]) == 40, hu + 70, hu), 2)


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
        tcga_series, real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz", case_id="a"
    )
    assert refusal is None
    assert report["body_source"] == "given"
    assert [warning["code"] for warning in report["warnings"]] == ["contrast_contradictory"]
    for mask in ("v1_masks", "seg_v2_117class_fast.nii.gz"):
        report, refusal = check_report(
            real_data / "totalseg_example" / "ct.nii.gz",
            real_data / "totalseg_example" / mask,
            case_id="b",
        )
        assert refusal is None
        assert report["cut_levels"] == ["T12"]
        codes = {warning["code"] for warning in report["warnings"]}
        assert codes == {"resolution_coarse", "level_cut", "body_derived"}
