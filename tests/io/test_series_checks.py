"""A good series, one change, one code: and `vfx check` says so."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

from dicom_variants import edit, in_order, put
from monai_vfx.case.case import check_report
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom.pixels import PADDING_HU
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import grid

SLICES = 24
SHAPE, AFFINE, _ = grid((2.0, 3.0, 5.0), (40.0, 48.0, 5.0 * SLICES))


@pytest.fixture(scope="module")
def hu() -> np.ndarray:
    """Values of 12 bits: no two slices alike, no symmetry."""
    return np.random.default_rng(3).integers(-1000, 1500, size=SHAPE).astype(np.int16)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory, hu: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("series") / "good"
    write_ct_series(folder, hu, AFFINE, SeriesFacts(uid_seed="checks", simulated=False))
    return folder


@pytest.fixture
def copied(series: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(series, tmp_path / "series"))


def _pop(tag: str) -> Callable[[Path], None]:
    return put(tag, None, slice(5, 6))


def _move(mm: tuple[float, float, float], which: slice) -> Callable[[Path], None]:
    def change(header: Any) -> None:
        old = [float(v) for v in header.ImagePositionPatient]
        header.ImagePositionPatient = [a + b for a, b in zip(old, mm, strict=True)]

    return lambda folder: edit(folder, change, which)


def _again(which: slice, shift_mm: float = 0.0, **tags: Any) -> Callable[[Path], None]:
    """Return what adds slices once more, as other images that differ by some tags."""

    def add(folder: Path) -> None:
        for number, file in enumerate(in_order(folder)[which]):
            header = pydicom.dcmread(file)
            header.SOPInstanceUID = f"1.2.3.{number + 1}"
            header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
            x, y, z = (float(v) for v in header.ImagePositionPatient)
            header.ImagePositionPatient = [x, y, z + shift_mm]
            for tag, value in tags.items():
                setattr(header, tag, value)
            header.save_as(folder / f"again{number}.dcm")

    return add


def _copies(folder: Path) -> None:
    for file in in_order(folder):
        shutil.copy(file, folder / f"copy of {file.name}")


def _shear(header: Any) -> None:
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    header.ImagePositionPatient = [x, y + 0.05 * z, z]  # 2.9 degrees


def _three_samples(header: Any) -> None:
    header.SamplesPerPixel, header.PixelData = 3, 3 * header.PixelData


def _other_syntax(folder: Path) -> None:
    _in_bytes(in_order(folder)[3], b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.7\0")


ONE = slice(5, 6)
FAULTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    # geometry
    "another frame of reference": ("series_mixed", put("FrameOfReferenceUID", "1.2.3", ONE)),
    "another orientation": (
        "series_mixed",
        put("ImageOrientationPatient", [1, 0, 0, 0, 0.99995, 0.01], ONE),
    ),
    "another pixel spacing": ("series_mixed", put("PixelSpacing", [3.1, 2.0], ONE)),
    "no pixel spacing": ("geometry_missing", _pop("PixelSpacing")),
    "no position": ("geometry_missing", _pop("ImagePositionPatient")),
    "no orientation": ("geometry_missing", _pop("ImageOrientationPatient")),
    "no columns": ("geometry_missing", _pop("Columns")),
    "a comma in a number": (
        "geometry_invalid",
        lambda d: _in_bytes(in_order(d)[3], b"3.0\\2.0 ", b"3,0\\2,0 "),
    ),
    "one slice is missing": ("slices_missing", lambda d: in_order(d)[7].unlink()),
    "three slices in a row are missing": (
        "slices_missing",
        lambda d: [f.unlink() for f in in_order(d)[7:10]],
    ),
    "one slice lies off its place": ("spacing_uneven", _move((0, 0, 1.2), ONE)),
    "the upper half lies 2 mm higher": ("spacing_uneven", _move((0, 0, 2.0), slice(12, None))),
    "one slice lies aside": ("series_mixed", _move((8, 0, 0), ONE)),
    "two slices in one place": ("slices_duplicated", _move((0, 0, 5.0), ONE)),
    "nine slices twice": ("slices_duplicated", _again(slice(0, 9))),
    "every file is there twice": ("slices_duplicated", _copies),
    "two phases, told by their number": (
        "phases_overlap",
        _again(slice(None), AcquisitionNumber=2),
    ),
    "two phases between each other": (
        "phases_overlap",
        _again(slice(None), shift_mm=1.7, AcquisitionNumber=2),
    ),
    "two phases that alternate evenly": (
        "phases_overlap",
        _again(slice(None), shift_mm=2.5, AcquisitionNumber=2),
    ),
    "a second phase of the upper part": (
        "phases_overlap",
        _again(slice(12, None), AcquisitionTime="120100"),
    ),
    "two kernels": ("phases_overlap", _again(slice(None), ConvolutionKernel="BONE")),
    "two phases that no tag tells apart": ("phases_overlap", _again(slice(None))),
    "a tilted gantry": ("gantry_tilt", lambda d: edit(d, _shear)),
    # values
    "no slope": ("not_hounsfield", _pop("RescaleSlope")),
    "no intercept": ("not_hounsfield", _pop("RescaleIntercept")),
    "electron density": ("not_hounsfield", put("RescaleType", "ED", ONE)),
    "a material map": (
        "not_hounsfield",
        put("ImageType", ["DERIVED", "PRIMARY", "AXIAL", "MAT_SPECIFIC"]),
    ),
    "inverted display": ("not_hounsfield", put("PhotometricInterpretation", "MONOCHROME1", ONE)),
    "colour": ("not_volume", put("PhotometricInterpretation", "PALETTE COLOR", ONE)),
    "three samples": ("not_volume", lambda d: edit(d, _three_samples, ONE)),
    # pixels
    "no bits allocated": ("pixel_format", _pop("BitsAllocated")),
    "no bits stored": ("pixel_format", _pop("BitsStored")),
    "no high bit": ("pixel_format", _pop("HighBit")),
    "no sign": ("pixel_format", _pop("PixelRepresentation")),
    "no samples": ("pixel_format", _pop("SamplesPerPixel")),
    "no photometric interpretation": ("pixel_format", _pop("PhotometricInterpretation")),
    "more bits stored than there are": ("pixel_format", put("BitsStored", 17, ONE)),
    "a high bit elsewhere": ("pixel_format", put("HighBit", 11, ONE)),
    "eight bits stored": ("pixel_format", put("BitsStored", 8, ONE)),
    "a third kind of sign": ("pixel_format", put("PixelRepresentation", 2, ONE)),
    # the rest
    "no UID": ("uid_invalid", _pop("SOPInstanceUID")),
    "a UID twice": ("uid_invalid", put("SOPInstanceUID", "1.2.3", slice(5, 7))),
    "no modality": ("not_ct", _pop("Modality")),
    "no pixels": ("file_truncated", _pop("PixelData")),
    "an unknown transfer syntax": ("syntax_unsupported", _other_syntax),
}


def _in_bytes(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_series_has_its_code(fault: str, copied: Path) -> None:
    assert open_volume(copied).warnings == ()
    code, spoil = FAULTS[fault]
    spoil(copied)
    with pytest.raises(CaseRefused) as refused:
        open_volume(copied)
    assert refused.value.code == code
    report, _ = check_report(copied, None, case_id="a")
    assert report["refusal"]["code"] == code
    assert str(copied) not in json.dumps(report)


def test_the_command_names_the_code(copied: Path) -> None:
    _again(slice(None), AcquisitionNumber=2)(copied)
    ended = CliRunner().invoke(main, ["check", str(copied), "--mask", "auto"])
    assert ended.exit_code == 3
    refusal = json.loads(ended.stdout.splitlines()[-1])["refusal"]
    assert refusal["code"] == "phases_overlap"
    assert "2 stacks of 24, 24 slices" in refusal["message"]
    assert "AcquisitionNumber" in refusal["message"]


def test_one_stack_of_several_acquisitions_is_no_overlap(copied: Path) -> None:
    put("AcquisitionNumber", 2, slice(12, None))(copied)
    assert open_volume(copied).shape[2] == SLICES
    in_order(copied)[20].unlink()
    with pytest.raises(CaseRefused, match="slices_missing"):
        open_volume(copied)


# -- wrong forms of right values -------------------------------------------------------------


def test_numbers_in_another_vr_are_numbers(copied: Path, hu: np.ndarray) -> None:
    def as_text(header: Any) -> None:
        for tag in ("PixelSpacing", "ImagePositionPatient", "RescaleSlope"):
            value = header[tag].value
            parts = value if tag != "RescaleSlope" else [value]
            header.add_new(tag, "LO", [f" {float(part)} " for part in parts])

    edit(copied, as_text)
    for file in copied.iterdir():  # Rows, of VR "unknown"
        _in_bytes(file, b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0UN\0\0\2\0\0\0")
    np.testing.assert_array_equal(open_volume(copied).read(), hu)


# -- values ----------------------------------------------------------------------------------


def test_each_slice_has_its_own_rescaling(copied: Path, hu: np.ndarray) -> None:
    number = iter(range(SLICES))

    def rescale(header: Any) -> None:
        n = next(number)
        slope, intercept = (1.0, 2.0, 0.5)[n % 3], -1024.0 - 8 * n
        hounsfield = header.pixel_array.astype(float) - 1024
        header.PixelData = np.rint((hounsfield - intercept) / slope).astype(np.uint16).tobytes()
        header.RescaleSlope, header.RescaleIntercept = slope, intercept

    edit(copied, rescale)
    read = open_volume(copied).read()
    assert np.abs(read - hu).max() <= 1.0  # half a stored unit of 2 HU
    even = [n for n in range(SLICES) if n % 3 != 1]
    np.testing.assert_array_equal(read[..., even], hu[..., even])


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_and_signs(copied: Path, hu: np.ndarray, bits: int, signed: bool) -> None:
    def store(header: Any) -> None:
        header.BitsStored, header.HighBit = bits, bits - 1
        if signed:
            values = header.pixel_array.astype(np.int16) - 1024
            header.PixelRepresentation, header.RescaleIntercept = 1, 0
            header.PixelData = values.astype(np.int16).tobytes()

    edit(copied, store)
    np.testing.assert_array_equal(open_volume(copied).read(), hu)


def test_a_sign_that_ends_at_the_high_bit_is_extended(copied: Path, hu: np.ndarray) -> None:
    def store(header: Any) -> None:
        values = header.pixel_array.astype(np.int16) - 1024
        header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, 1
        header.RescaleIntercept = 0
        header.PixelData = (values & 0x0FFF).astype(np.int16).tobytes()

    edit(copied, store)
    np.testing.assert_array_equal(open_volume(copied).read(), hu)


@pytest.mark.parametrize("signed", [0, 1])
def test_values_that_need_more_bits_than_stated_are_refused(copied: Path, signed: int) -> None:
    def store(header: Any) -> None:
        header.BitsStored, header.HighBit, header.PixelRepresentation = 11, 10, signed

    edit(copied, store)
    logger, filters = logging.getLogger("pydicom"), list(warnings.filters)
    with pytest.raises(CaseRefused, match="BitsStored") as refused:
        open_volume(copied).read()
    assert refused.value.code == "pixel_format"
    # While the refusal lives, its traceback holds every frame; pydicom speaks again all the same.
    assert not logger.disabled
    assert list(warnings.filters) == filters


def test_bits_of_an_overlay_above_the_high_bit_are_refused(copied: Path) -> None:
    def store(header: Any) -> None:
        header.BitsStored, header.HighBit = 12, 11
        header.PixelData = (header.pixel_array | 0x8000).astype(np.uint16).tobytes()

    edit(copied, store, slice(5, 6))
    with pytest.raises(CaseRefused) as refused:
        open_volume(copied).read()
    assert refused.value.code == "pixel_format"


def test_32_bits_are_read(copied: Path, hu: np.ndarray) -> None:
    def store(header: Any) -> None:
        header.PixelData = header.pixel_array.astype(np.uint32).tobytes()
        header.BitsAllocated, header.BitsStored, header.HighBit = 32, 32, 31

    edit(copied, store)
    np.testing.assert_array_equal(open_volume(copied).read(), hu)


# -- padding ---------------------------------------------------------------------------------


def _pad(header: Any, value: int, limit: int | None = None, tag: int | None = None) -> None:
    stored = header.pixel_array.astype(np.int16)  # HU + 1024
    stored[:4] = value
    header.PixelRepresentation = 1
    header.PixelData = stored.tobytes()
    header.PixelPaddingValue = value if tag is None else tag
    header["PixelPaddingValue"].VR = "SS" if tag is None else "US"
    if limit is not None:
        header.PixelPaddingRangeLimit = limit
        header["PixelPaddingRangeLimit"].VR = "SS"


@pytest.mark.parametrize("tag", [None, 65536 - 2000], ids=["signed", "written as unsigned"])
def test_padding_becomes_air(copied: Path, hu: np.ndarray, tag: int | None) -> None:
    edit(copied, lambda h: _pad(h, -2000, tag=tag))
    volume = open_volume(copied)
    read = volume.read()
    assert (read[:, :4] == PADDING_HU).all()
    np.testing.assert_array_equal(read[:, 4:], hu[:, 4:])
    assert volume.warnings == ()


def test_a_range_of_padding_becomes_air(copied: Path, hu: np.ndarray) -> None:
    def pad(header: Any) -> None:
        _pad(header, -2000, limit=-1500)
        stored = header.pixel_array.copy()
        stored[1], stored[2] = -1500, -1499
        header.PixelData = stored.tobytes()

    edit(copied, pad)
    read = open_volume(copied).read()
    assert (read[:, [0, 1, 3]] == PADDING_HU).all()
    assert (read[:, 2] == -1499 - 1024).all()
    np.testing.assert_array_equal(read[:, 4:], hu[:, 4:])


def test_padding_that_is_tissue_is_left_and_warned_of(copied: Path, hu: np.ndarray) -> None:

    def pad(header: Any) -> None:
        header.add_new("PixelPaddingValue", "US", 1024 + 40)  # muscle

    edit(copied, pad)
    volume = open_volume(copied)
    assert [w.code for w in volume.warnings] == ["padding_ignored"]
    np.testing.assert_array_equal(volume.read(), hu)


def test_untagged_values_below_air_stay(copied: Path) -> None:
    def pad(header: Any) -> None:
        _pad(header, -1024)  # -2048 HU
        del header.PixelPaddingValue

    edit(copied, pad)
    assert (open_volume(copied).read()[:, :4] == -2048).all()


# -- positions of the patient ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "codes"),
    [
        ("HFS", []),
        ("FFS", []),
        ("HFP", ["position_unusual"]),
        ("FFP", ["position_unusual"]),
        ("HFDR", ["position_unusual", "position_conflict"]),
        ("FFDL", ["position_unusual", "position_conflict"]),
        ("", []),
    ],
)
def test_positions_are_warned_of_and_change_nothing(
    series: Path, copied: Path, position: str, codes: list[str]
) -> None:
    put("PatientPosition", position)(copied)
    volume = open_volume(copied)
    assert [w.code for w in volume.warnings] == codes
    np.testing.assert_array_equal(volume.affine, open_volume(series).affine)


def test_rows_that_run_front_to_back_fit_a_patient_on_the_side(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, :2] = [[0, 3.0], [-2.0, 0], [0, 0]]  # rows towards the back, columns to the right
    voxels = np.zeros(SHAPE, dtype=np.int16)
    for position, codes in (("HFDR", ["position_unusual"]), ("HFS", ["position_conflict"])):
        facts = SeriesFacts(uid_seed="side", patient_position=position)
        write_ct_series(tmp_path / position, voxels, affine, facts)
        assert [w.code for w in open_volume(tmp_path / position).warnings] == codes


@pytest.mark.parametrize(
    ("position", "signs"),
    [("FFS", (-1, 1, -1)), ("HFP", (-1, -1, 1)), ("FFP", (1, -1, -1))],
)
def test_whichever_way_the_patient_lies_the_same_place_has_the_same_value(
    series: Path, tmp_path: Path, hu: np.ndarray, position: str, signs: tuple[int, int, int]
) -> None:
    flip = tuple(slice(None, None, sign) for sign in signs)
    turned = AFFINE.copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            turned[:3, 3] += turned[:3, axis] * (SHAPE[axis] - 1)
            turned[:3, axis] *= -1
    facts = SeriesFacts(uid_seed=position, patient_position=position)
    write_ct_series(tmp_path / "turned", hu[flip], turned, facts)
    one, other = open_volume(series), open_volume(tmp_path / "turned")
    index = np.random.default_rng(0).integers(0, SHAPE, size=(50, 3))
    there = np.linalg.inv(other.affine) @ one.affine @ np.c_[index, np.ones(50)].T
    np.testing.assert_allclose(there, np.rint(there), atol=1e-6)
    same = other.read()[tuple(np.rint(there[:3]).astype(int))]
    np.testing.assert_array_equal(same, hu[tuple(index.T)])


def test_virtual_energies_are_warned_of(copied: Path) -> None:
    put("ImageType", ["DERIVED", "PRIMARY", "AXIAL", "VMI"])(copied)
    assert [w.code for w in open_volume(copied).warnings] == ["monoenergetic"]
