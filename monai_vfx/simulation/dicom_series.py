"""Write a volume as a CT series with complete headers.

The attributes follow the CT Image IOD (DICOM PS3.3, A.3), types 1 and 2 all present. Everything,
the UIDs included, is a function of the arguments: the same call writes the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import __version__ as pydicom_version
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from monai_vfx.core.arrays import Affine
from monai_vfx.core.geometry import LPS_TO_RAS, voxel_spacing

ORTHOGONAL_TOLERANCE = 1e-4
"""Largest cosine between two voxel axes that still counts as a right angle."""

_IMPLEMENTATION_UID = generate_uid(entropy_srcs=["monai_vfx", "implementation"])


@dataclass(frozen=True)
class SeriesFacts:
    """What the headers say beside the image."""

    uid_seed: str  # text that all UIDs are derived from; different series need different ones
    patient_id: str = "SIMULATED"  # identifier of the patient
    patient_name: str = "Simulated^Phantom"  # in DICOM's form, `Family^Given`
    sex: str = ""  # `"F"`, `"M"`, `"O"` or `""` (unknown)
    age_years: int | None = None  # 0 to 999, or None where unknown
    height_cm: float | None = None  # None where unknown; `weight_kg` likewise
    weight_kg: float | None = None
    date: str = "20200101"  # of study, series and image, `YYYYMMDD`
    time: str = "120000"  # `HHMMSS`
    study_description: str = "SIMULATED CT ABDOMEN"  # free text; `series_description` likewise
    series_description: str = "SIMULATED PORTAL VENOUS 5 MM"
    body_part: str = "ABDOMEN"  # examined, a term of DICOM PS3.16 annex L
    contrast_agent: str = "SIMULATED IODINATED AGENT"  # empty where none was given
    patient_position: str = "HFS"  # such as `HFS`, head first supine
    kvp: float = 120.0  # tube voltage in kV
    kernel: str = "STANDARD"  # name of the reconstruction kernel
    manufacturer: str = "monai_vfx"  # of the equipment
    simulated: bool = True  # mark the images as derived, by simulation
    intercept: float = -1024.0  # HU of the stored value 0
    slope: float = 1.0  # HU per stored unit
    # to share a frame with another series; by default derived
    frame_of_reference_uid: str | None = None

    def uid(self, *parts: str) -> UID:
        """Return the UID derived from the seed and ``parts``.

        >>> SeriesFacts("a").uid("study") == SeriesFacts("a").uid("study")
        True
        >>> SeriesFacts("a").uid("study") == SeriesFacts("b").uid("study")
        False
        """
        return generate_uid(entropy_srcs=["monai_vfx", self.uid_seed, *parts])


def write_ct_series(
    folder: Path | str, hu: npt.NDArray[np.integer], affine: Affine, facts: SeriesFacts
) -> list[Path]:
    """Write a volume as one DICOM file a slice, explicit VR little endian.

    The third axis is the slice axis. Instance numbers run from the last slice to the first, and
    file names follow the UIDs: neither is an order of positions that a reader could lean on.

    Args:
        folder: is made if missing; must not hold any file.
        hu: (i, j, k) integers in HU.
        affine: voxel index → RAS+ mm; axes at right angles, in any orientation, any handedness.
        facts: what the headers say.

    Returns:
        The files, from the first slice to the last.

    Raises:
        ValueError: for an array that is not a volume of integers, an affine with sheared or
            empty axes, HU that the rescaling cannot store in 16 bits, or an age beyond 999.
        FileExistsError: when the folder holds anything.
    """
    geometry = _Geometry.of(affine)
    stored = _stored_values(hu, facts)
    if facts.age_years is not None and not 0 <= facts.age_years <= 999:
        raise ValueError(f"`age_years` must be 0 to 999, got {facts.age_years}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: a series needs a folder of its own")
    dataset = FileDataset("", {}, file_meta=_file_meta(), preamble=b"\0" * 128)
    dataset.update(_series_attributes(facts, geometry, stored.shape))
    paths = []
    count = stored.shape[2]
    for k in range(count):
        _set_slice(dataset, facts, geometry, k, count)
        # (i, j) is (column, row); DICOM stores rows one after another.
        dataset.PixelData = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        path = folder / f"CT.{dataset.SOPInstanceUID.rsplit('.', 1)[-1]}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _Geometry:
    """An affine in DICOM's terms, LPS mm."""

    origin: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]  # columns: unit vectors of i, j, k
    spacing: npt.NDArray[np.float64]

    @classmethod
    def of(cls, affine: Affine) -> _Geometry:
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise ValueError(f"`affine` must be a finite 4 x 4 matrix, got shape {matrix.shape}")
        lps = LPS_TO_RAS @ matrix  # its own inverse
        spacing = voxel_spacing(lps)
        if (spacing <= 0).any():
            raise ValueError(f"voxel sizes of `affine` must be positive, got {spacing.tolist()} mm")
        axes = lps[:3, :3] / spacing
        cosines = np.abs(axes.T @ axes - np.eye(3)).max()
        if cosines > ORTHOGONAL_TOLERANCE:
            raise ValueError(
                f"axes of `affine` must not be sheared: the cosine between two must be at most "
                f"{ORTHOGONAL_TOLERANCE}, got {cosines:.2g}"
            )
        return cls(lps[:3, 3], axes, spacing)


def _stored_values(
    hu: npt.NDArray[np.integer], facts: SeriesFacts
) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint16]]:
    array = np.asarray(hu)
    if array.ndim != 3 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"`hu` must have 3 axes of integers, got {array.ndim} of {array.dtype}")
    values = np.rint((array.astype(np.float64) - facts.intercept) / facts.slope)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"`hu` of {array.min()} to {array.max()} cannot be stored in 16 bits with intercept "
            f"{facts.intercept:g} and slope {facts.slope:g}"
        )
    return values.astype(np.uint16)


def _file_meta() -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_UID
    meta.ImplementationVersionName = "MONAI_VFX"
    return meta


def _series_attributes(
    facts: SeriesFacts, geometry: _Geometry, shape: tuple[int, int, int]
) -> Dataset:
    """Return everything that all slices share."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    _set_patient_and_study(dataset, facts)
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = facts.uid("series")
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = facts.series_description
    dataset.BodyPartExamined = facts.body_part
    dataset.PatientPosition = facts.patient_position
    dataset.FrameOfReferenceUID = facts.frame_of_reference_uid or facts.uid("frame")
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = facts.manufacturer
    dataset.ManufacturerModelName = "CT phantom" if facts.simulated else ""
    dataset.SoftwareVersions = f"monai_vfx, pydicom {pydicom_version}"
    dataset.AcquisitionNumber = 1
    dataset.ContrastBolusAgent = facts.contrast_agent
    dataset.KVP = facts.kvp
    dataset.ConvolutionKernel = facts.kernel
    dataset.ImageType = ["DERIVED" if facts.simulated else "ORIGINAL", "PRIMARY", "AXIAL"]
    if facts.simulated:
        dataset.DerivationDescription = "Computed from a mathematical phantom: not a patient"
        dataset.ImageComments = "SIMULATED CT: not a patient"
    dataset.BurnedInAnnotation = "NO"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape[1], shape[0]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept, dataset.RescaleSlope = _number(facts.intercept), _number(facts.slope)
    dataset.RescaleType = "HU"
    dataset.WindowCenter, dataset.WindowWidth = 50, 400
    dataset.PixelSpacing = [_number(geometry.spacing[1]), _number(geometry.spacing[0])]
    dataset.SliceThickness = _number(geometry.spacing[2])
    dataset.SpacingBetweenSlices = _number(geometry.spacing[2])
    dataset.ImageOrientationPatient = [_number(v) for v in geometry.axes[:, :2].T.ravel()]
    return dataset


def _set_patient_and_study(dataset: Dataset, facts: SeriesFacts) -> None:
    dataset.PatientName = facts.patient_name
    dataset.PatientID = facts.patient_id
    dataset.PatientBirthDate = ""
    dataset.PatientSex = facts.sex
    if facts.age_years is not None:
        dataset.PatientAge = f"{facts.age_years:03d}Y"
    if facts.height_cm is not None:
        dataset.PatientSize = _number(facts.height_cm / 100)
    if facts.weight_kg is not None:
        dataset.PatientWeight = _number(facts.weight_kg)
    dataset.StudyInstanceUID = facts.uid("study")
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = facts.study_description
    for moment in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{moment}Date", facts.date)
        setattr(dataset, f"{moment}Time", facts.time)


def _set_slice(
    dataset: FileDataset, facts: SeriesFacts, geometry: _Geometry, k: int, count: int
) -> None:
    uid = facts.uid("image", str(k))
    dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.SOPInstanceUID = uid
    dataset.InstanceNumber = count - k
    position = geometry.origin + k * geometry.spacing[2] * geometry.axes[:, 2]
    dataset.ImagePositionPatient = [_number(v) for v in position]
    normal = np.cross(geometry.axes[:, 0], geometry.axes[:, 1])
    dataset.SliceLocation = _number(float(normal @ position))


def _number(value: float) -> str:
    """Return a decimal string of at most 16 characters, as precise as that allows.

    >>> _number(-0.7071067811865476), _number(5.0), _number(-1e-17)
    ('-0.7071067811865', '5.0', '0.0')
    """
    return format_number_as_ds(round(float(value), 13) + 0.0)
