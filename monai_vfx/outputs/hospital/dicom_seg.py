"""Write a label map as a DICOM segmentation (SEG, PS3.3 A.51) of its CT series.

The object belongs to the patient's study and repeats patient and study of the CT's headers, unless
these are de-identified.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_vfx.core.anatomy import LEVEL_NAMES, MUSCLES, SNOMED_CT
from monai_vfx.core.arrays import LabelVolume
from monai_vfx.outputs.hospital.dicom_derived import RESEARCH, Derivation
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier, SourceHeaders, source_headers

_STRUCTURE = ("123037004", "SCT", "Anatomical structure")
_VERTEBRA = ("51282000", "SCT", "Vertebra")
_MUSCLE_TYPES = {
    "erector_spinae": ("44947003", "SCT", "Erector spinae muscle"),
    "psoas": ("68455001", "SCT", "Iliopsoas muscle"),
}


def write_segmentation(
    path: str | Path,
    labels: LabelVolume,
    image: str | Path | SourceHeaders,
    series_uid: str | None = None,
    algorithm: str = "monai_vfx vertebra segmentation",
    *,
    given: bool = False,
    hide: Deidentifier | None = None,
) -> Path:
    """Write a label map as a binary DICOM SEG, one segment per structure; return its path.

    Args:
        path: path of the file.
        labels: (i, j, k) on the grid of the CT as :func:`monai_vfx.io.volume.open_volume` gives it:
            columns, rows, slices along the series' normal. Vertebrae under VerSe numbers and the
            muscles of :mod:`monai_vfx.core.anatomy`; at least one voxel.
        image: DICOM folder, zip or file of the CT, or its headers.
        series_uid: which series, where there are several.
        algorithm: name of the algorithm that made the labels.
        given: whether the user gave the labels, so that their origin is unknown (algorithm type
            ``SEMIAUTOMATIC``, otherwise ``AUTOMATIC``).
        hide: removes the patient from the object.

    Raises:
        ValueError: labels of another shape than the CT, or without a known structure.
        NotDerivable: the series lacks an attribute that the object needs.
        CaseRefused: see :func:`monai_vfx.io.dicom.reading.read_series`.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    headers = image if isinstance(image, SourceHeaders) else source_headers(image, series_uid, hide)
    if labels.shape != headers.series.shape:
        raise ValueError(f"labels: {labels.shape} voxels; the CT has {headers.series.shape}")
    named = _structures(labels)
    if not named:
        raise ValueError("labels: no vertebra or muscle is in the label map")
    order = np.zeros(256, dtype=np.uint8)
    order[[value for value, *_ in named]] = np.arange(1, len(named) + 1)
    frames = np.ascontiguousarray(order[labels].T)  # (slices, rows, columns)
    content = (frames.tobytes(), algorithm, str([kind for *_, kind in named]))
    derivation = Derivation("mask", headers, f"Vertebrae and muscles, {RESEARCH}", content)
    made_by = hd.AlgorithmIdentificationSequence(
        name=algorithm, version=derivation.version, family=codes.DCM.ArtificialIntelligence
    )
    types = hd.seg.SegmentAlgorithmTypeValues
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=hd.sr.CodedConcept(*_STRUCTURE),
            segmented_property_type=hd.sr.CodedConcept(*kind),
            algorithm_type=types.SEMIAUTOMATIC if given else types.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, (_, name, kind) in enumerate(named, start=1)
    ]
    derivation.write(
        Path(path),
        hd.seg.Segmentation,
        source_images=headers.slices,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        content_label="VERTEBRAE",
        content_description=algorithm[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    return Path(path)


def vertebra_code(level: str) -> tuple[str, str, str]:
    """Return SNOMED CT's concept of a vertebra; the general one where the level has none.

    >>> vertebra_code("L1"), vertebra_code("L6")
    (('66794005', 'SCT', 'L1 vertebra'), ('51282000', 'SCT', 'Vertebra'))
    """
    known = SNOMED_CT.get(level)
    return (known, "SCT", f"{level} vertebra") if known else _VERTEBRA


def _structures(labels: LabelVolume) -> list[tuple[int, str, tuple[str, str, str]]]:
    """Return (label value, name, coded type) of each structure, cranial to caudal."""
    present = {int(value) for value in np.unique(labels)}
    levels = [(v, LEVEL_NAMES[v]) for v in sorted(present & set(LEVEL_NAMES))]
    muscles = [(v, n, _MUSCLE_TYPES[n]) for n, v in MUSCLES.items() if v in present]
    return [*((value, level, vertebra_code(level)) for value, level in levels), *muscles]
