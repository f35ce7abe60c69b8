"""A phantom's DICOM series as hospitals have them, and a result of it to export."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from matplotlib.figure import Figure
from pydicom.config import disable_value_validation

from dicom_variants import in_order, to_enhanced
from monai_vfx.case.case import Case, load_case
from monai_vfx.core.errors import CaseWarning
from monai_vfx.core.results import ModelFacts, Prediction, SliceRecord, mask_record
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.outputs.hospital.export import Export
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import Phantom, grid, make_phantom, nifti

IDENTITY = {
    "PatientName": "Quixano^Alonso",
    "PatientID": "PID-4711",
    "IssuerOfPatientID": "LaManchaGeneral",
    "OtherPatientIDs": "OTHER-0815",
    "PatientBirthDate": "19470929",
    "PatientAddress": "Calle del Ingenioso 1",
    "AccessionNumber": "ACC-000123",
    "StudyID": "STUDY-55",
    "StudyDate": "20191231",
    "SeriesDate": "20191231",
    "ReferringPhysicianName": "Carrasco^Sanson",
    "InstitutionName": "Hospital de la Mancha",
    "StationName": "WINDMILL-CT",
    "DeviceSerialNumber": "SN-998877",
    "StudyDescription": "Abdomen of A. Quixano",
}
"""What a header may say of a person; none of it may be left in a de-identified file."""


SPACING = (3.1, 3.5, 8.0)
"""mm; coarse, so that a series is 30 small slices."""
PEAK = (30, 22, 17)
"""Voxel (i, j, k) with the largest heat."""


def oblique() -> Phantom:
    """The phantom on a grid turned by 12 and 6 degrees, its columns reversed."""
    shape, affine, middle = grid(SPACING, (190.0, 170.0, 236.0))
    a, b = np.radians([12.0, 6.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = np.eye(4)
    turned[:3, :3] = about_x @ about_z @ affine[:3, :3] @ np.diag([1, -1, 1])
    turned[:3, 3] = middle - turned[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom(shape, turned, middle)


def upright() -> Phantom:
    """The phantom in the order of a scanner: rows to the left, columns to the back."""
    shape, affine, middle = grid(SPACING, (190.0, 170.0, 236.0))
    affine = affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag([-1.0, -1.0, 1.0])
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom(shape, affine, middle)


def coronal() -> Phantom:
    """The phantom cut from front to back; its rows run to the left, its columns to the feet."""
    shape, affine, middle = grid((SPACING[0], SPACING[2], SPACING[1]), (190.0, 236.0, 170.0))
    affine = affine.copy()
    turn = np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom(shape, affine, middle)


def _plain(dataset: Any) -> None:
    for name, value in IDENTITY.items():
        setattr(dataset, name, value)


def _umlaut(dataset: Any) -> None:
    _plain(dataset)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müßig^Jörg"
    dataset.StudyDescription = "Bäuche"


def _japanese(dataset: Any) -> None:
    _plain(dataset)
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def _bare(dataset: Any) -> None:
    for name in ("PatientBirthDate", "AccessionNumber", "StudyTime", "ReferringPhysicianName"):
        delattr(dataset, name)
    for name in ("StudyID", "SliceThickness", "PatientSex"):
        setattr(dataset, name, None)
    dataset.PatientName = "ANON17"  # a single part, as many de-identified series have it
    dataset.StudyDate = "2019.12.31"  # as before DICOM 3


def _signed(dataset: Any) -> None:
    _plain(dataset)
    stored = dataset.pixel_array.astype(np.int32) + int(dataset.RescaleIntercept)
    dataset.PixelData = stored.astype(np.int16).tobytes()
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept = "0"


def _feet_first(dataset: Any) -> None:
    _plain(dataset)
    dataset.PatientPosition = "FFS"


KINDS: dict[str, tuple[Callable[[], Phantom], Callable[[Any], None]]] = {
    "plain": (upright, _plain),
    "oblique": (oblique, _plain),
    "coronal": (coronal, _plain),
    "umlaut": (upright, _umlaut),
    "japanese": (upright, _japanese),
    "bare": (upright, _bare),
    "signed": (oblique, _signed),
    "feet_first": (upright, _feet_first),
    "enhanced": (oblique, _plain),
    "concatenated": (upright, _plain),
}
"""Kinds of series: the phantom's grid, and what is changed in each header."""


ENHANCED = {"enhanced": 1, "concatenated": 2}
"""Kinds that are Enhanced multi-frame: how many files. Their frames run against the slices."""


@dataclass(frozen=True)
class Exported:
    """A series, a mask on it, a result and its pictures."""

    series: Path
    mask: Path
    case: Case
    prediction: Prediction
    picture: Path
    heat: Any

    @property
    def header(self) -> Any:
        """The header of the lowest slice."""
        return pydicom.dcmread(min(self.series.iterdir()), stop_before_pixels=True)

    def write(
        self,
        folder: Path,
        *kinds: str,
        hide: Deidentifier | None = None,
        heat: bool = True,
        **changes: Any,
    ) -> tuple[CaseWarning, ...]:
        """Export the result, changed where asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        return Export(kinds or ("dicom", "fhir"), self.series, hide=hide).write(
            folder,
            replace(self.prediction, **changes),
            self.case.masks.labels,
            self.picture,
            self.heat if heat else None,
        )


def make_exported(folder: Path, kind: str) -> Exported:
    """Write a series of a kind and put a result of it together."""
    import nibabel as nib

    make, change = KINDS[kind]
    phantom = make()
    series = folder / "ct"
    facts = SeriesFacts(f"exported {kind}", sex="M", age_years=72, patient_id="PID-4711")
    hu = np.rint(phantom.hu).astype(np.int16)
    with disable_value_validation():
        for file in write_ct_series(series, hu, phantom.affine, facts):
            dataset = pydicom.dcmread(file)
            change(dataset)
            dataset.save_as(file)
    if kind in ENHANCED:
        slices = [pydicom.dcmread(file) for file in in_order(series)]
        to_enhanced(slices, folder / "frames", parts=ENHANCED[kind])
        series = folder / "frames"
    mask = folder / "mask.nii.gz"
    nib.save(nifti(phantom.labels, phantom.affine), mask)
    case = load_case(series, mask)
    picture = folder / "montage.png"
    figure = Figure(figsize=(2.0, 1.5))
    figure.text(0.1, 0.5, "SIMULATED", color="red")
    figure.savefig(picture, dpi=50)
    heat = np.zeros(case.volume.shape, dtype=np.float32)
    heat[20:36, 14:30, 6:21] = 0.25
    heat[PEAK] = 1.0
    heat[:, :, 10] = 0.0  # no heat in between
    return Exported(series, mask, case, _prediction(case), picture, heat)


def _prediction(case: Case) -> Prediction:
    volume = case.volume
    uids = volume.sop_instance_uids if volume.slice_axis == 2 else None
    indices = np.linspace(24, 5, 14).astype(int)  # from the feet, cranial to caudal
    places = [volume.index_from_feet(int(index)) for index in indices]
    levels = ("T12", "L1", "L2", "L3", "L4")
    return Prediction(
        case_id="one",
        status="ok",
        score=0.612345,
        risk_5y=0.1234,
        risk_5y_interval=(0.0712, 0.1987),
        calibration={
            "method": "random_controls",
            "prevalence": 0.037,
            "source": "calibration.json",
        },
        simulated_weights=True,
        model=ModelFacts(
            "vertebral_fracture_risk_ct_classification", "0.1.0", "ab" * 32, ("ab" * 32, "cd" * 32)
        ),
        levels=levels,
        spacing_mm=volume.spacing_mm,
        slices=tuple(
            SliceRecord(int(index), uids and uids[k], levels[n * 5 // 14], (0.0, 0.0, float(n)))
            for n, (index, k) in enumerate(zip(indices, places, strict=True))
        ),
        mask=mask_record("given", levels),
        warnings=(CaseWarning("simulated_weights", "trained on simulated patients"),),
    )


UNKNOWN_TO_THE_CHECKER = (
    # A scheme of one's own is unknown by its nature; the report names and identifies it.
    r"Unrecognized defined term <99MVFX> for value 1 of attribute <Coding Scheme Designator>",
    # In PS3.3, C.8.16.1.4 since 2018, of parametric maps.
    r"Unrecognized defined term <QUANTITY> for value 4 of attribute <(Image|Frame) Type>",
)
"""Warnings that name what the checker's own tables lack."""
ABSENT_IN_THE_CT = (
    r"Missing attribute or value that would be needed to build DICOMDIR - .*",
    r"Value dubious for this VR - \(0x0010,0x0010\) PN .* Retired Person Name form",
)
"""Warnings about what the CT itself does not say or says so."""


def check_conformance(*files: Path, allowed: tuple[str, ...] = ()) -> None:
    """Let dciodvfy judge DICOM objects: no error, and no warning but those that are known."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian: dicom3tools) is not installed")
    assert files
    known = UNKNOWN_TO_THE_CHECKER + allowed
    for file in files:
        ran = subprocess.run([program, str(file)], capture_output=True, text=True, check=False)
        lines = (ran.stdout + ran.stderr).splitlines()
        assert not [line for line in lines if line.startswith("Error")], (file.name, lines)
        warnings = [line.removeprefix("Warning - ") for line in lines if "Warning - " in line]
        new = [w for w in warnings if not any(re.fullmatch(pattern, w) for pattern in known)]
        assert new == [], (file.name, new)


def read_segmentation(path: str | Path) -> dict[str, Any]:
    """Return the voxels of every segment of a SEG that :func:`write_segmentation` wrote.

    Args:
        path: of the file.

    Returns:
        Segment's name → (n, 3) positions of its voxels in mm, RAS+.
    """
    import highdicom as hd

    found = {}
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    for description in hd.seg.segread(path).SegmentSequence:
        index = np.argwhere(volume.array == int(description.SegmentNumber))
        lps = volume.map_indices_to_reference(index)
        found[str(description.SegmentLabel)] = lps * np.array([-1.0, -1.0, 1.0])
    return found
