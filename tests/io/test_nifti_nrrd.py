"""NIfTI, NRRD and MetaImage: what headers may say, and each fault by one change to a good file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from itk_files import write_itk

from monai_vfx.case.case import check_report
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.itk import ItkFile
from monai_vfx.io.nifti import FORMS_TOLERANCE_MM
from monai_vfx.io.volume import open_volume
from phantoms import nifti

SHAPE = (6, 5, 12)
AFFINE = np.array(
    [[-1.5, 0, 0, 30.0], [0, 2 * np.cos(0.3), -4 * np.sin(0.3), -40.0],
     [0, 2 * np.sin(0.3), 4 * np.cos(0.3), 50.0], [0, 0, 0, 1]]
)  # fmt: skip


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)


def code_of(path: Path) -> str:
    """The code that `vfx check` gives; neither it nor the terminal may name the path."""
    report, refusal = check_report(path, None, case_id="a")
    assert refusal is not None
    assert str(path) not in json.dumps(report)
    return str(refusal.code)


# -- NIfTI: voxels ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">f4", "<f8", "<u2"])
def test_data_types_and_byte_orders(
    tmp_path: Path, hu: np.ndarray, dtype: str, suffix: str
) -> None:
    values = hu if dtype != "<u2" else np.maximum(hu, 0)
    kind = nib.Nifti1Pair if suffix == ".img" else nib.Nifti1Image
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    image: Any = kind(values.astype(dtype), AFFINE, header)
    image.set_data_dtype(np.dtype(dtype))
    image.set_sform(AFFINE, code=1)
    nib.save(image, tmp_path / f"a{suffix}")
    assert nib.load(tmp_path / f"a{suffix}").header.endianness == dtype[0]
    volume = open_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(volume.read(), values)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def _header(path: Path, field: str, *values: Any) -> Path:
    """Overwrite a field of an uncompressed NIfTI's header."""
    raw = bytearray(path.read_bytes())
    header = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
    header[field] = values if len(values) > 1 else values[0]
    raw[: nib.nifti1.header_dtype.itemsize] = header.tobytes()
    path.write_bytes(bytes(raw))
    return path


@pytest.mark.parametrize(("dtype", "slope"), [("u1", 10.0), ("i1", 10.0), ("i2", 0.5)])
def test_slope_and_intercept_are_applied(tmp_path: Path, dtype: str, slope: float) -> None:
    stored = np.random.default_rng(0).integers(0, 120, SHAPE).astype(dtype)
    nib.save(nifti(stored, AFFINE), tmp_path / "a.nii")
    _header(_header(tmp_path / "a.nii", "scl_slope", slope), "scl_inter", -1000)
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nii").read(), stored * slope - 1000)


@pytest.fixture
def good(tmp_path: Path, hu: np.ndarray) -> Path:
    nib.save(nifti(hu, AFFINE), tmp_path / "a.nii")
    assert open_volume(tmp_path / "a.nii").shape == SHAPE
    return tmp_path / "a.nii"


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_that_states_none_is_none(good: Path, hu: np.ndarray, slope: float) -> None:
    np.testing.assert_array_equal(open_volume(_header(good, "scl_slope", slope)).read(), hu)


def test_an_infinite_intercept_is_refused(good: Path) -> None:
    _header(_header(good, "scl_slope", 1.0), "scl_inter", np.inf)
    with pytest.raises(CaseRefused) as refused:
        open_volume(good).read()
    assert refused.value.code in ("not_hounsfield", "input_unreadable")


def test_one_frame_of_a_fourth_axis_is_the_volume(tmp_path: Path, hu: np.ndarray) -> None:
    nib.save(nifti(hu[..., None], AFFINE), tmp_path / "a.nii")
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nii").read(), hu)
    nib.save(nifti(np.stack([hu, hu], axis=-1), AFFINE), tmp_path / "b.nii")
    assert code_of(tmp_path / "b.nii") == "not_volume"


def test_a_single_picture_with_both_forms_is_no_volume(tmp_path: Path, hu: np.ndarray) -> None:
    image = nifti(hu[:, :, 0], AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    nib.save(image, tmp_path / "a.nii")
    assert code_of(tmp_path / "a.nii") == "not_volume"


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(tmp_path: Path, hu: np.ndarray, odd: float) -> None:
    values = hu.astype(np.float32)
    values[2, 3, 4] = odd
    nib.save(nifti(values, AFFINE), tmp_path / "a.nii")
    with pytest.raises(CaseRefused, match="not_hounsfield"):
        open_volume(tmp_path / "a.nii").read()


@pytest.mark.parametrize("dtype", ["c8", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_of_several_numbers_are_refused(tmp_path: Path, dtype: Any) -> None:
    nib.save(nifti(np.zeros(SHAPE, dtype=dtype), AFFINE), tmp_path / "a.nii")
    assert code_of(tmp_path / "a.nii") == "not_volume"


# -- NIfTI: geometry -------------------------------------------------------------------------


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_both_handednesses_are_kept(
    tmp_path: Path, hu: np.ndarray, signs: tuple[int, int, int]
) -> None:
    affine = np.diag([1.5 * signs[0], 2.0 * signs[1], 4.0 * signs[2], 1.0])
    nib.save(nifti(hu, affine), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(open_volume(tmp_path / "a.nii.gz").affine, affine)


@pytest.mark.parametrize(("mm", "refused"), [(0.9, False), (1.1, True)])
def test_forms_may_differ_by_a_millimetre(
    tmp_path: Path, hu: np.ndarray, mm: float, refused: bool
) -> None:
    assert FORMS_TOLERANCE_MM == 1.0
    image = nifti(hu, AFFINE)
    shifted = AFFINE.copy()
    shifted[0, 3] += mm
    image.set_sform(shifted, code=2)
    nib.save(image, tmp_path / "a.nii.gz")
    if refused:
        assert code_of(tmp_path / "a.nii.gz") == "forms_disagree"
    else:
        np.testing.assert_allclose(open_volume(tmp_path / "a.nii.gz").affine, shifted, atol=1e-5)


@pytest.mark.parametrize("lost", ["sform", "qform"])
def test_a_form_of_code_zero_does_not_count(tmp_path: Path, hu: np.ndarray, lost: str) -> None:
    other = np.diag([3.0, 3.0, 3.0, 1.0])
    image = nifti(hu, AFFINE)
    (image.set_sform if lost == "sform" else image.set_qform)(other, code=0, update_affine=False)
    if lost == "sform":
        image.set_qform(AFFINE, code=1, update_affine=False)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(open_volume(tmp_path / "a.nii.gz").affine, AFFINE, atol=1e-4)


@pytest.mark.parametrize(("units", "code"), [(1, "units_not_mm"), (3, "units_not_mm")])
def test_other_units_than_mm_are_refused(good: Path, units: int, code: str) -> None:
    assert code_of(_header(good, "xyzt_units", units)) == code


@pytest.mark.parametrize("units", [0, 2, 2 + 8])
def test_mm_and_no_unit_are_mm(good: Path, units: int) -> None:
    assert open_volume(_header(good, "xyzt_units", units)).spacing_mm == pytest.approx((1.5, 2, 4))


def test_an_affine_of_no_numbers_is_refused(good: Path) -> None:
    assert code_of(_header(good, "srow_x", np.nan, 0, 0, 0)) == "geometry_invalid"


@pytest.mark.parametrize("lost", [".hdr", ".img"])
def test_half_of_a_pair_is_refused(tmp_path: Path, hu: np.ndarray, lost: str) -> None:
    pair: Any = nib.Nifti1Pair(hu, AFFINE)  # type: ignore[no-untyped-call]
    pair.set_sform(AFFINE, code=1)
    nib.save(pair, tmp_path / "a.img")
    for suffix in (".hdr", ".img"):
        np.testing.assert_array_equal(open_volume(tmp_path / f"a{suffix}").read(), hu)
    (tmp_path / f"a{lost}").unlink()
    kept = ".img" if lost == ".hdr" else ".hdr"
    assert code_of(tmp_path / f"a{kept}") == "file_missing"


# -- NRRD and MetaImage ----------------------------------------------------------------------


def _written(folder: Path, name: str, hu: np.ndarray, compress: bool = False) -> Path:
    geometry = {"spacing": (1.5, 2.0, 4.0), "origin": (-30.0, 40.0, 50.0)}
    return write_itk(folder / name, hu, **geometry, compress=compress)  # type: ignore[arg-type]


def _change(path: Path, old: str, new: str) -> Path:
    content = path.read_bytes()
    assert content.count(old.encode()) == 1, old
    path.write_bytes(content.replace(old.encode(), new.encode()))
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_a_region_is_a_part_of_the_whole(
    tmp_path: Path, hu: np.ndarray, name: str, compress: bool
) -> None:
    volume = open_volume(_written(tmp_path, name, hu, compress))
    box = (slice(2, 5), slice(1, 4), slice(3, 11))
    np.testing.assert_array_equal(volume.read(box), hu[box])
    np.testing.assert_array_equal(volume.read(), hu)


DIRECTIONS = "space directions: (1.5,0,0) (0,2,0) (0,0,4)"
FAULTS: dict[str, tuple[str, str, str, str]] = {
    "an axis without direction": (
        "a.nrrd",
        DIRECTIONS,
        "space directions: none (0,2,0) (0,0,4)",
        "geometry_missing",
    ),
    "an axis too many": ("a.nrrd", "dimension: 3", "dimension: 4", "input_unreadable"),
    "a list axis": ("a.nrrd", "kinds: domain", "kinds: list", "not_volume"),
    "two axes of one direction": (
        "a.nrrd",
        DIRECTIONS,
        "space directions: (1,0,0) (1,0,0) (0,0,4)",
        "geometry_invalid",
    ),
    "a direction of no length": (
        "a.nrrd",
        DIRECTIONS,
        "space directions: (0,0,0) (0,2,0) (0,0,4)",
        "geometry_invalid",
    ),
    "a direction of no number": (
        "a.nrrd",
        DIRECTIONS,
        "space directions: (nan,0,0) (0,2,0) (0,0,4)",
        "geometry_invalid",
    ),
    "no origin": ("a.nrrd", "space origin: (-30,40,50)\n", "", "geometry_missing"),
    "centimetres": ("a.nrrd", "endian:", 'space units: "cm" "cm" "cm"\nendian:', "units_not_mm"),
    "a size of letters": ("a.nrrd", "sizes: 6 5 12", "sizes: 6 x 12", "input_unreadable"),
    "an unknown type": ("a.nrrd", "type: short", "type: foo", "input_unreadable"),
    "an unknown encoding": ("a.nrrd", "encoding: raw", "encoding: zzz", "input_unreadable"),
    "voxels that are not there": ("a.nhdr", "data file: a.raw", "data file: b.raw", "file_missing"),
    "voxels in several files": (
        "a.nhdr",
        "data file: a.raw",
        "data file: a%d.raw 1 2 1",
        "input_unreadable",
    ),
    "a MetaImage of 99 axes": ("a.mha", "NDims = 3", "NDims = 99", "input_unreadable"),
    "a MetaImage of four": ("a.mha", "NDims = 3", "NDims = 4", "input_unreadable"),
    "two sizes": ("a.mha", "DimSize = 6 5 12", "DimSize = 6 5", "input_unreadable"),
    "a size below zero": ("a.mha", "DimSize = 6 5 12", "DimSize = 6 5 -12", "input_unreadable"),
    "an unknown element": ("a.mha", "MET_SHORT", "MET_FOO", "input_unreadable"),
    "a matrix of three": (
        "a.mha",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "TransformMatrix = 1 0 0",
        "input_unreadable",
    ),
    "no offset": ("a.mhd", "Offset = -30 40 50\n", "", "geometry_missing"),
    "no element spacing": ("a.mhd", "ElementSpacing = 1.5 2 4\n", "", "geometry_missing"),
    "raw voxels that are not there": ("a.mhd", "= a.raw", "= b.raw", "file_missing"),
    "a list of files": ("a.mhd", "= a.raw", "= LIST", "input_unreadable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_header_has_its_code(
    fault: str, tmp_path: Path, hu: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    name, old, new, code = FAULTS[fault]
    path = _written(tmp_path, name, hu)
    np.testing.assert_array_equal(open_volume(path).read(), hu)
    assert code_of(_change(path, old, new)) == code
    assert "".join(capfd.readouterr()) == ""  # ITK would name the path on the terminal


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_more_voxels_than_bytes(
    tmp_path: Path, hu: np.ndarray, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = _change(_written(tmp_path, name, hu), "DimSize = 6 5 12", "DimSize = 6 5 13")
    with pytest.raises(CaseRefused) as refused:
        open_volume(path).read()
    assert refused.value.code == "file_truncated"
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("sizes", ["6 5 11", "5 5 12", "6 4 12", "6 5 1"])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_more_bytes_than_voxels(
    tmp_path: Path, hu: np.ndarray, name: str, sizes: str, compress: bool
) -> None:
    path = _written(tmp_path, name, hu, compress)
    np.testing.assert_array_equal(open_volume(path).read(), hu)
    field = "DimSize = " if name in ("a.mha", "a.mhd") else "sizes: "
    opened = ItkFile(_change(path, f"{field}6 5 12", field + sizes), "the CT", "not_ct")
    with pytest.raises(CaseRefused, match="bytes follow the last voxel") as refused:
        list(opened.slabs())
    assert refused.value.code == "file_truncated"


@pytest.mark.parametrize(
    ("name", "field", "before"),
    [
        ("a.nhdr", "byte skip: 100", bytes(100)),
        ("a.nhdr", "byte skip: -1", bytes(37)),
        ("a.nhdr", "byteskip: 3", bytes(3)),
        ("a.nhdr", "line skip: 2", b"one\ntwo\n"),
        ("a.nhdr", "lineskip: 1\nbyte skip: 2", b"one\n##"),
        ("a.mhd", "HeaderSize = 100", bytes(100)),
        ("a.mhd", "HeaderSize = -1", bytes(37)),
    ],
)
def test_what_a_header_says_to_skip_is_no_surplus(
    tmp_path: Path, hu: np.ndarray, name: str, field: str, before: bytes
) -> None:
    path = _written(tmp_path, name, hu)
    first = "ElementType" if name == "a.mhd" else "encoding"
    _change(path, f"\n{first}", f"\n{field}\n{first}")
    data = tmp_path / "a.raw"
    data.write_bytes(before + data.read_bytes())
    np.testing.assert_array_equal(open_volume(path).read(), hu)
    if "-1" not in field:
        data.write_bytes(data.read_bytes() + bytes(1))
        with pytest.raises(CaseRefused, match="1 bytes follow the last voxel"):
            open_volume(path).read()


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("damage", ["cut", "spoilt"])
def test_damaged_compressed_voxels(
    tmp_path: Path, hu: np.ndarray, capfd: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    path = _written(tmp_path, name, hu, compress=True)
    np.testing.assert_array_equal(open_volume(path).read(), hu)
    data = tmp_path / "a.zraw" if name == "a.mhd" else path
    content = bytearray(data.read_bytes())
    if damage == "cut":
        del content[-60:]
    else:
        content[-300:-200] = bytes(100)
    data.write_bytes(bytes(content))
    with pytest.raises(CaseRefused) as refused:
        open_volume(path).read()
    assert refused.value.code == "file_truncated"
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    "spoil",
    [lambda b: b[:40], lambda b: b[:0], lambda b: bytes(range(256)) * 4, lambda b: b"NRRD0004\n"],
)
@pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.nhdr", "a.mhd"])
def test_remains_of_a_header_end_no_process(
    tmp_path: Path, hu: np.ndarray, name: str, spoil: Callable[[bytes], bytes]
) -> None:
    path = _written(tmp_path, name, hu)
    path.write_bytes(spoil(path.read_bytes()))
    assert code_of(path) in ("input_unreadable", "geometry_missing")


def test_the_process_lives_on_after_a_header_that_ends_others(
    tmp_path: Path, hu: np.ndarray
) -> None:
    """ITK alone ends the process (corrupted memory) at 99 axes."""
    path = _change(_written(tmp_path, "a.mha", hu), "NDims = 3", "NDims = 99")
    words = "import sys; from monai_vfx.cli import main; main(sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", words, "check", str(path)], capture_output=True, text=True
    )
    assert ended.returncode == 3
    assert json.loads(ended.stdout)["refusal"]["code"] == "input_unreadable"
    assert str(path) not in ended.stderr
