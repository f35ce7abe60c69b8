"""A label map as DICOM segmentation (SEG) of the CT series that it was made from.

The object is part of the patient's study, so it holds what the CT's own headers say of patient and
study (DICOM PS3.3, A.51); nothing else of this package's output does.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.anatomy import LEVEL_NAMES, MUSCLES, SNOMED_CT
from monai_vfx.dicom.files import Files, quiet_pydicom
from monai_vfx.dicom.reading import read_series
from monai_vfx.shapes import LabelVolume

_STRUCTURE = ("123037004", "SCT", "Anatomical structure")
_VERTEBRA = ("51282000", "SCT", "Vertebra")
_MUSCLE_TYPES = {
    "erector_spinae": ("44947003", "SCT", "Erector spinae muscle"),
    "psoas": ("68455001", "SCT", "Iliopsoas muscle"),
}
_OFTEN_ABSENT = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Attributes that must be there but may be empty (type 2); de-identified series lack some."""
_SERIES_NUMBER = 9101
"""High, so that viewers list the segmentation behind the series of the scanner."""


class NoSegmentation(Exception):  # noqa: N818 - what a series cannot have, not a fault of its own
    """A series whose headers lack what a DICOM SEG must repeat."""


def write_segmentation(
    path: str | Path,
    labels: LabelVolume,
    image: str | Path,
    series_uid: str | None = None,
    algorithm: str = "monai_vfx vertebra localiser",
) -> Path:
    """Write a label map as a binary DICOM SEG, one segment a structure.

    Args:
        path: of the file to write.
        labels: (i, j, k) on the grid of the CT as :func:`monai_vfx.volumes.open_volume` gives it:
            columns, rows, slices along the series' normal. Vertebrae under VerSe numbers and the
            muscles of :mod:`monai_vfx.anatomy`; at least one voxel.
        image: the DICOM folder, zip or file that the labels belong to.
        series_uid: which series, where there are several.
        algorithm: what made the labels.

    Returns:
        ``path``.

    Raises:
        ValueError: labels of another shape than the CT, or none that is known.
        NoSegmentation: the series lacks an attribute that the object needs.
        CaseRefused: see :func:`monai_vfx.dicom.reading.read_series`.
    """
    import highdicom as hd
    from pydicom import dcmread
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    series = read_series(Path(image), series_uid)
    if labels.shape != series.shape:
        raise ValueError(f"labels: {labels.shape} voxels; the CT has {series.shape}")
    named = _structures(labels)
    if not named:
        raise ValueError("labels: no vertebra or muscle is in the label map")
    version = metadata.version("monai_vfx")
    order = np.zeros(256, dtype=np.uint8)
    order[[value for value, *_ in named]] = np.arange(1, len(named) + 1)
    frames = np.ascontiguousarray(order[labels].T)  # (slices, rows, columns)
    with Files() as files, quiet_pydicom():
        headers = []
        for source in series.sources:
            with files.open(source) as stream:
                header = dcmread(stream, stop_before_pixels=True)
            for name in _OFTEN_ABSENT:
                if name not in header:
                    setattr(header, name, "")
            headers.append(header)
        made_by = hd.AlgorithmIdentificationSequence(
            name=algorithm, version=version, family=codes.DCM.ArtificialIntelligence
        )
        segments = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=hd.sr.CodedConcept(*_STRUCTURE),
                segmented_property_type=hd.sr.CodedConcept(*kind),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=made_by,
            )
            for number, (_, name, kind) in enumerate(named, start=1)
        ]
        # The same labels of the same series are the same object.
        digest = hashlib.sha256(frames.tobytes()).hexdigest()
        seed = ["monai_vfx", str(headers[0].SeriesInstanceUID), version, digest]
        try:
            segmentation = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=generate_uid(entropy_srcs=[*seed, "series"]),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=generate_uid(entropy_srcs=[*seed, "object"]),
                instance_number=1,
                manufacturer="monai_vfx",
                manufacturer_model_name=algorithm,
                software_versions=version,
                device_serial_number="none",
                series_description="Vertebrae and muscles, not for clinical use",
                content_label="VERTEBRAE",
                transfer_syntax_uid=ExplicitVRLittleEndian,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NoSegmentation(type(error).__name__) from error  # its text may name the patient
        segmentation.save_as(path)
    return Path(path)


def _structures(labels: LabelVolume) -> list[tuple[int, str, tuple[str, str, str]]]:
    """Return (label value, name, coded type) of what a label map holds, cranial to caudal."""
    present = {int(value) for value in np.unique(labels)}
    named: list[tuple[int, str, tuple[str, str, str]]] = []
    for value in sorted(present & set(LEVEL_NAMES)):
        level = LEVEL_NAMES[value]
        known = SNOMED_CT.get(level)
        named.append((value, level, (known, "SCT", f"{level} vertebra") if known else _VERTEBRA))
    named += [(v, name, _MUSCLE_TYPES[name]) for name, v in MUSCLES.items() if v in present]
    return named


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
