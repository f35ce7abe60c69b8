"""Enhanced multi-frame CT is read as the classic series it could have been, with the same codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_variants import LEGACY_ENHANCED_CT, in_order, to_enhanced
from monai_vfx.case.case import check_report
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import Volume, open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series

SHAPE = (20, 16, 14)
SHUFFLED = [int(n) for n in np.random.default_rng(1).permutation(SHAPE[2])]


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique series, each slice with a rescaling of its own."""
    folder = tmp_path_factory.mktemp("classic") / "series"
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * [1.5, 2.0, 4.0]
    affine[:3, 3] = (10, -20, 30)
    hu = np.random.default_rng(3).integers(-1000, 1500, size=SHAPE).astype(np.int16)
    facts = SeriesFacts(uid_seed="enhanced", sex="F", age_years=69, simulated=False)
    write_ct_series(folder, hu, affine, facts)
    for n, file in enumerate(in_order(folder)):
        header = pydicom.dcmread(file)
        header.RescaleIntercept = -1024 - n
        header.PixelData = (header.pixel_array + n).astype(np.uint16).tobytes()
        header.save_as(file)
    return folder


@pytest.fixture(scope="module")
def headers(classic: Path) -> list[Any]:
    return [pydicom.dcmread(file) for file in in_order(classic)]


def assert_same(one: Volume, classic: Path) -> None:
    other = open_volume(classic)
    np.testing.assert_array_equal(one.affine, other.affine)
    np.testing.assert_array_equal(one.read(), other.read())
    box = (slice(3, 9), slice(2, 15), slice(5, 8))
    np.testing.assert_array_equal(one.read(box), other.read(box))
    assert (one.age_years, one.sex, one.thickness_mm) == (69.0, "F", 4.0)
    assert one.warnings == ()


@pytest.mark.parametrize("order", [range(SHAPE[2]), SHUFFLED], ids=["upwards", "shuffled"])
def test_frames_in_any_order_are_the_classic_series(
    headers: list[Any], classic: Path, tmp_path: Path, order: list[int]
) -> None:
    file = to_enhanced(headers, tmp_path / "e", order=order)
    volume = open_volume(file)
    assert_same(volume, classic)
    assert volume.frame_numbers == tuple(list(order).index(k) + 1 for k in range(SHAPE[2]))
    assert volume.sop_instance_uids == (pydicom.dcmread(file).SOPInstanceUID,) * SHAPE[2]
    assert open_volume(classic).frame_numbers is None


def test_a_legacy_converted_object(headers: list[Any], classic: Path, tmp_path: Path) -> None:
    assert_same(
        open_volume(to_enhanced(headers, tmp_path / "e", sop_class=LEGACY_ENHANCED_CT)), classic
    )


def test_what_a_frame_says_counts_for_that_frame_alone(
    headers: list[Any], classic: Path, tmp_path: Path
) -> None:
    def state_it_for_all(whole: Any) -> None:
        whole.RescaleSlope, whole.RescaleIntercept = 2, 0
        whole.PixelSpacing = [9, 9]

    assert_same(open_volume(to_enhanced(headers, tmp_path / "e", change=state_it_for_all)), classic)


def test_what_highdicom_converts(headers: list[Any], classic: Path, tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage
    from pydicom.uid import generate_uid

    made = LegacyConvertedEnhancedCTImage(
        legacy_datasets=headers,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
    )
    made.save_as(tmp_path / "legacy.dcm")
    volume = open_volume(tmp_path / "legacy.dcm")
    np.testing.assert_array_equal(volume.affine, open_volume(classic).affine)
    np.testing.assert_array_equal(volume.read(), open_volume(classic).read())


def test_parts_of_a_concatenation_are_one(
    headers: list[Any], classic: Path, tmp_path: Path
) -> None:
    first = to_enhanced(headers, tmp_path / "e", order=SHUFFLED, parts=3)
    volume = open_volume(tmp_path / "e")
    assert_same(volume, classic)
    assert volume.sop_instance_uids is not None
    assert len(set(volume.sop_instance_uids)) == 3
    first.unlink()
    with pytest.raises(CaseRefused, match="2 of 3 parts") as refused:
        open_volume(tmp_path / "e")
    assert refused.value.code == "slices_missing"


def test_the_last_part_is_missed_too(headers: list[Any], tmp_path: Path) -> None:
    to_enhanced(headers, tmp_path / "e", order=range(14), parts=3)
    (tmp_path / "e" / "part3.dcm").unlink()
    with pytest.raises(CaseRefused, match="slices_missing"):
        open_volume(tmp_path / "e")


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_frames_in_other_transfer_syntaxes(
    headers: list[Any], classic: Path, tmp_path: Path, syntax: pydicom.uid.UID
) -> None:
    file = to_enhanced(headers, tmp_path / "e", order=SHUFFLED)
    whole = pydicom.dcmread(file)
    if syntax.is_encapsulated:
        whole.compress(syntax, generate_instance_uid=False)
    whole.file_meta.TransferSyntaxUID = syntax
    whole.save_as(
        file,
        implicit_vr=syntax.is_implicit_VR if not syntax.is_encapsulated else None,
        little_endian=True if not syntax.is_encapsulated else None,
    )
    assert_same(open_volume(file), classic)


def test_a_cut_object_is_refused(headers: list[Any], tmp_path: Path) -> None:
    file = to_enhanced(headers, tmp_path / "e")
    file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(CaseRefused, match="file_truncated"):
        open_volume(file)


def _frame(whole: Any, group: str, number: int = 4) -> Any:
    return whole.PerFrameFunctionalGroupsSequence[number][group].value[0]


def _two_phases(whole: Any) -> None:
    whole.PixelData += whole.PixelData
    whole.NumberOfFrames *= 2
    items = list(whole.PerFrameFunctionalGroupsSequence)
    again = []
    for item in items:
        other = pydicom.dataset.Dataset.from_json(item.to_json())
        other.FrameContentSequence[0].TemporalPositionIndex = 2
        again.append(other)
    whole.PerFrameFunctionalGroupsSequence = items + again


def _same_place(whole: Any) -> None:
    place = _frame(whole, "PlanePositionSequence", 5).ImagePositionPatient
    _frame(whole, "PlanePositionSequence").ImagePositionPatient = place


def _shift(mm: float) -> Callable[[Any], None]:
    def change(whole: Any) -> None:
        x, y, z = _frame(whole, "PlanePositionSequence").ImagePositionPatient
        _frame(whole, "PlanePositionSequence").ImagePositionPatient = [x, y, z + mm]

    return change


def _shared(group: str, tag: str, value: Any) -> Callable[[Any], None]:
    def change(whole: Any) -> None:
        item = whole.SharedFunctionalGroupsSequence[0][group].value[0]
        if value is None:
            del item[tag]
        else:
            setattr(item, tag, value)

    return change


FAULTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "no groups of frames": ("multiframe", lambda w: w.pop("PerFrameFunctionalGroupsSequence")),
    "a frame without groups": (
        "multiframe",
        lambda w: w.PerFrameFunctionalGroupsSequence.pop(),
    ),
    "two stacks": (
        "multiframe",
        lambda w: setattr(_frame(w, "FrameContentSequence"), "StackID", "2"),
    ),
    "two phases": ("phases_overlap", _two_phases),
    "no pixel spacing": (
        "geometry_missing",
        _shared("PixelMeasuresSequence", "PixelSpacing", None),
    ),
    "one pixel spacing": (
        "geometry_invalid",
        _shared("PixelMeasuresSequence", "PixelSpacing", 2.0),
    ),
    "no orientation": (
        "geometry_missing",
        lambda w: w.SharedFunctionalGroupsSequence[0].pop("PlaneOrientationSequence"),
    ),
    "no position": (
        "geometry_missing",
        lambda w: w.PerFrameFunctionalGroupsSequence[4].pop("PlanePositionSequence"),
    ),
    "no rescaling": (
        "not_hounsfield",
        lambda w: w.PerFrameFunctionalGroupsSequence[4].pop("PixelValueTransformationSequence"),
    ),
    "electron density": (
        "not_hounsfield",
        lambda w: setattr(_frame(w, "PixelValueTransformationSequence"), "RescaleType", "ED"),
    ),
    "a material map": (
        "not_hounsfield",
        _shared(
            "CTImageFrameTypeSequence", "FrameType", ["ORIGINAL", "PRIMARY", "A", "MAT_SPECIFIC"]
        ),
    ),
    "a frame twice": ("slices_duplicated", _same_place),
    "a frame off its place": ("spacing_uneven", _shift(1.1)),
    "an MR object": ("not_ct", lambda w: setattr(w, "Modality", "MR")),
    "bits that do not fit": ("pixel_format", lambda w: setattr(w, "HighBit", 7)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_the_code_of_a_classic_series(
    fault: str, headers: list[Any], tmp_path: Path
) -> None:
    code, spoil = FAULTS[fault]
    file = to_enhanced(headers, tmp_path / "e", change=spoil)
    report, refusal = check_report(file, None, case_id="a")
    assert refusal is not None
    assert refusal.code == code
    assert str(tmp_path) not in json.dumps(report)


def test_only_the_frames_asked_for_are_decoded(headers: list[Any], tmp_path: Path) -> None:
    file = to_enhanced(headers, tmp_path / "e", order=range(SHAPE[2]))
    whole = pydicom.dcmread(file)
    whole.compress(RLELossless, generate_instance_uid=False)
    whole.save_as(file)
    volume = open_volume(file)
    expected = volume.read()
    content = bytearray(file.read_bytes())
    content[-200:-50] = bytes(150)  # damages the last frame, not its end mark
    file.write_bytes(bytes(content))
    box = (slice(0, SHAPE[0]), slice(0, SHAPE[1]), slice(2, 6))
    np.testing.assert_array_equal(open_volume(file).read(box), expected[box])
    with pytest.raises(CaseRefused, match="file_truncated"):
        open_volume(file).read()
