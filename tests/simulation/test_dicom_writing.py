"""A written series reads back in pydicom and ITK with the given values and geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest
from itk_files import read_series
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series

FACTS = SeriesFacts("test", sex="F", age_years=69, height_cm=157.0, weight_kg=58.2)
SHAPE = (7, 5, 3)
TYPE_2_OR_1 = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "PatientPosition",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "InstanceNumber",
    "ImageType",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "KVP",
    "AcquisitionNumber",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "ContrastBolusAgent",
    "PixelData",
]


def rotation(degrees: float, axis: int) -> np.ndarray:
    angle = np.deg2rad(degrees)
    first, second = [a for a in range(3) if a != axis]
    matrix = np.eye(4)
    matrix[[first, second], [first, second]] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


AFFINES = {
    "axial": np.array(
        [[-0.8, 0, 0, 12.5], [0, -0.9, 0, 30.0], [0, 0, 5.0, -410.0], [0, 0, 0, 1.0]]
    ),
    "head_first_slice": np.array(
        [[-0.8, 0, 0, 12.5], [0, -0.9, 0, 30.0], [0, 0, -5.0, 410.0], [0, 0, 0, 1.0]]
    ),
    "sagittal": np.array(
        [[0, 0, 2.0, -9.0], [-0.7, 0, 0, 30.0], [0, -0.9, 0, 15.0], [0, 0, 0, 1.0]]
    ),
    "oblique": rotation(17.0, 0) @ rotation(-31.0, 2) @ np.diag([-0.75, -0.9, 3.0, 1.0]),
}


@pytest.fixture
def volume() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(-1024, 3072, SHAPE).astype(np.int16)


@pytest.mark.parametrize("name", AFFINES)
def test_itk_sees_the_same_values_at_the_same_places(tmp_path, volume, name):
    affine = AFFINES[name]
    write_ct_series(tmp_path, volume, affine, FACTS)
    image = read_series(tmp_path)
    assert sorted(image.GetLargestPossibleRegion().GetSize()) == sorted(SHAPE)
    for index in ((0, 0, 0), (6, 0, 1), (2, 4, 2)):
        ras = affine @ [*index, 1.0]
        lps = (-ras[0], -ras[1], ras[2])
        found = image.TransformPhysicalPointToContinuousIndex(lps)
        assert np.allclose(found, np.rint(found), atol=1e-6)
        assert image.GetPixel([round(v) for v in found]) == volume[index]


def test_pydicom_reads_position_orientation_and_hu(tmp_path, volume):
    paths = write_ct_series(tmp_path, volume, AFFINES["axial"], FACTS)
    dataset = pydicom.dcmread(paths[2])
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert list(dataset.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    # RAS (12.5, 30, -410) is LPS (-12.5, -30, -410); two slices of 5 mm further up
    assert list(dataset.ImagePositionPatient) == [-12.5, -30.0, -400.0]
    assert list(dataset.PixelSpacing) == [0.9, 0.8]  # between rows, then between columns
    assert (dataset.Rows, dataset.Columns) == (5, 7)
    hu = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
    np.testing.assert_array_equal(hu, volume[:, :, 2].T)


def test_headers_are_complete_and_say_simulated(tmp_path, volume):
    dataset = pydicom.dcmread(write_ct_series(tmp_path, volume, AFFINES["axial"], FACTS)[0])
    assert [name for name in TYPE_2_OR_1 if name not in dataset] == []
    assert dataset.SOPClassUID == CTImageStorage
    assert list(dataset.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert "SIMULATED" in dataset.ImageComments
    assert (dataset.PatientAge, dataset.PatientSex) == ("069Y", "F")
    assert float(dataset.PatientSize) == 1.57
    assert (dataset.Modality, dataset.KVP, dataset.PatientPosition) == ("CT", 120, "HFS")


def test_unknown_facts_are_left_out_not_invented(tmp_path, volume):
    facts = SeriesFacts("x", simulated=False)
    dataset = pydicom.dcmread(write_ct_series(tmp_path, volume, AFFINES["axial"], facts)[0])
    assert "PatientAge" not in dataset
    assert "PatientSize" not in dataset
    assert dataset.PatientSex == ""
    assert "ImageComments" not in dataset
    assert dataset.ImageType[0] == "ORIGINAL"


def test_same_call_writes_same_bytes_and_other_seed_other_uids(tmp_path, volume):
    first = write_ct_series(tmp_path / "a", volume, AFFINES["axial"], FACTS)
    second = write_ct_series(tmp_path / "b", volume, AFFINES["axial"], FACTS)
    other = write_ct_series(
        tmp_path / "c", volume, AFFINES["axial"], replace(FACTS, uid_seed="other")
    )
    assert [p.name for p in first] == [p.name for p in second]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    uids = [pydicom.dcmread(p).SeriesInstanceUID for p in (first[0], first[1], other[0])]
    assert uids[0] == uids[1] != uids[2]


def test_file_names_and_instance_numbers_do_not_follow_the_position(tmp_path):
    many = np.zeros((2, 2, 12), dtype=np.int16)
    paths = write_ct_series(tmp_path, many, AFFINES["axial"], FACTS)
    assert paths != sorted(paths)
    assert pydicom.dcmread(paths[0]).InstanceNumber == 12
    assert pydicom.dcmread(paths[-1]).InstanceNumber == 1


def test_rescaling_is_undone_by_the_reader(tmp_path):
    hu = np.array([-1000, 0, 40, 3000], dtype=np.int16).reshape(2, 2, 1)
    facts = replace(FACTS, slope=2.0, intercept=-1024.0)
    dataset = pydicom.dcmread(write_ct_series(tmp_path, hu, AFFINES["axial"], facts)[0])
    np.testing.assert_array_equal(dataset.pixel_array * 2.0 - 1024.0, hu[:, :, 0].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hu": np.zeros((2, 2), np.int16)}, "3 axes of integers"),
        ({"hu": np.zeros((2, 2, 2), np.float32)}, "3 axes of integers"),
        ({"hu": np.full((2, 2, 2), -2048, np.int16)}, "cannot be stored"),
        ({"affine": np.diag([1.0, 1.0, 0.0, 1.0])}, "must be positive"),
        ({"affine": np.eye(4) + np.eye(4, k=1) * [0, 0.1, 0, 0]}, "sheared"),
        ({"affine": np.eye(3)}, "4 x 4"),
        ({"facts": replace(FACTS, age_years=1000)}, "age_years"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, change, message):
    arguments = {"hu": np.zeros((2, 2, 2), np.int16), "affine": np.eye(4), "facts": FACTS} | change
    with pytest.raises(ValueError, match=message):
        write_ct_series(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_touched(tmp_path, volume):
    (tmp_path / "other.dcm").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="not empty"):
        write_ct_series(tmp_path, volume, AFFINES["axial"], FACTS)
    assert [p.name for p in tmp_path.iterdir()] == ["other.dcm"]
