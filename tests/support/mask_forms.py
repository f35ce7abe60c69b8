"""One label map in the forms in which hospitals have it: DICOM SEG of three kinds, RTSTRUCT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import contourpy
import highdicom as hd
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from monai_vfx.core.anatomy import LEVEL_NAMES, MUSCLES, SNOMED_CT

STRUCTURE = ("123037004", "SCT", "Anatomical structure")
VERTEBRA = ("51282000", "SCT", "Vertebra")
TISSUE = ("85756007", "SCT", "Tissue")
CODES: dict[str, tuple[str, str, str]] = {
    **{level: (code, "SCT", f"{level} vertebra") for level, code in SNOMED_CT.items()},
    "erector_spinae": ("44947003", "SCT", "Erector spinae muscle"),
    "psoas": ("68455001", "SCT", "Iliopsoas muscle"),
}
NAMES = LEVEL_NAMES | {value: name for name, value in MUSCLES.items()}


def headers(series: Path) -> list[Dataset]:
    """Return the headers of a series, in the order of the slices along their normal."""
    found = [dcmread(file) for file in series.iterdir() if file.suffix == ".dcm"]
    row, column = np.array(found[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    for header in found:
        if "^" not in str(header.get("PatientName", "")):
            header.PatientName = ""  # highdicom warns of names of one part
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
            if name not in header:
                setattr(header, name, "")
        for name in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            if name not in header:
                setattr(header, name, "")
    return sorted(found, key=lambda h: float(np.dot(h.ImagePositionPatient, normal)))


def write_seg(
    path: Path,
    labels: np.ndarray,
    series: Path,
    kind: str = "BINARY",
    *,
    codes: Mapping[str, tuple[str, str, str]] | None = None,
    names: Mapping[str, str] | None = None,
    shuffle: bool = False,
    **options: Any,
) -> Path:
    """Write labels (columns, rows, slices) as SEG of a kind; empty frames are left out.

    ``codes``: structure → code of the segment's type; ``names``: structure → segment label.
    ``shuffle``: frames in reverse order.
    """
    present = [int(value) for value in np.unique(labels) if value]
    order = np.zeros(256, dtype=np.uint8)
    order[present] = np.arange(1, len(present) + 1)
    frames: Any = np.ascontiguousarray(order[labels].T)
    if kind == "FRACTIONAL":
        # Whole voxels of a share of 0.6, and a rim of 0.4 around them, which does not belong.
        inside = np.stack([frames == n + 1 for n in range(len(present))], axis=-1)
        rim = np.roll(inside, 1, axis=2) | np.roll(inside, 1, axis=1)
        frames = np.where(inside, 0.6, np.where(rim, 0.4, 0.0)).astype(np.float32)
    made_by = hd.AlgorithmIdentificationSequence(
        name="test", version="1", family=hd.sr.CodedConcept("123109", "DCM", "Manual Processing")
    )
    segments = []
    for number, value in enumerate(present, start=1):
        name = NAMES[value]
        segments.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=(names or {}).get(name, name),
                segmented_property_category=hd.sr.CodedConcept(*STRUCTURE),
                segmented_property_type=hd.sr.CodedConcept(*(codes or CODES)[name]),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=made_by,
            )
        )
    seg = hd.seg.Segmentation(
        source_images=headers(series),
        pixel_array=frames,
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=5,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **options,
    )
    if shuffle:
        pixels = seg.pixel_array[::-1]
        seg.PixelData = pack_bits(pixels) if kind == "BINARY" else pixels.tobytes()
        groups = list(seg.PerFrameFunctionalGroupsSequence)
        seg.PerFrameFunctionalGroupsSequence = groups[::-1]
    seg.save_as(path)
    return path


def write_rtstruct(
    path: Path,
    labels: np.ndarray,
    affine: np.ndarray,
    frame_of_reference: str,
    *,
    convention: str = "half way",
    keyhole: bool = False,
    names: Mapping[str, str] | None = None,
    skip: tuple[int, ...] = (),
    off_mm: float = 0.0,
) -> Path:
    """Write labels as contours in LPS mm.

    ``convention``: contours run ``half way`` between voxel centres, along voxel ``edges`` or
    through the ``centres`` of the outermost voxels. ``skip``: slices without contours. ``off_mm``:
    how far contours lie off the CT's slices.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plan = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    plan.SOPClassUID = RTStructureSetStorage
    plan.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    plan.Modality = "RTSTRUCT"
    plan.PatientName, plan.PatientID = "Doe^Jane", "SECRET7"
    plan.StructureSetROISequence, plan.ROIContourSequence = [], []
    for number, value in enumerate((int(v) for v in np.unique(labels) if v), start=1):
        region = Dataset()
        region.ROINumber = number
        region.ROIName = (names or {}).get(NAMES[value], NAMES[value])
        region.ReferencedFrameOfReferenceUID = frame_of_reference
        region.ROIGenerationAlgorithm = "MANUAL"
        plan.StructureSetROISequence.append(region)
        drawn = Dataset()
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = []
        inside = labels == value
        for k in np.flatnonzero(inside.any(axis=(0, 1))).tolist():
            if k in skip:
                continue
            lines = trace(inside[:, :, k], convention)
            for line in [bridged(lines)] if keyhole and len(lines) > 1 else lines:
                index = np.column_stack([line, np.full(len(line), float(k))])
                index[:, 2] += off_mm / np.linalg.norm(affine[:3, 2])
                world = (index @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
                contour = Dataset()
                contour.ContourGeometricType = "CLOSED_PLANAR"
                contour.NumberOfContourPoints = len(world)
                contour.ContourData = [f"{v:.4f}"[:16] for v in world.ravel()]
                drawn.ContourSequence.append(contour)
        plan.ROIContourSequence.append(drawn)
    plan.save_as(path, enforce_file_format=True)
    return path


def trace(inside: np.ndarray, convention: str) -> list[np.ndarray]:
    """Return the contours (n, 2) around a slice's voxels (columns, rows), the outer one first."""
    times = 8 if convention == "edges" else 1
    corner = np.argwhere(inside).min(axis=0)
    i, j = corner.tolist()
    inside = inside[
        i : np.argwhere(inside)[:, 0].max() + 1, j : np.argwhere(inside)[:, 1].max() + 1
    ]
    level = 1 - 1e-4 if convention == "centres" else 0.5
    large = np.pad(np.kron(inside, np.ones((times, times))), 1)
    # Rows of contourpy's field are y.
    found = contourpy.contour_generator(z=large.T).lines(level)
    lines = [corner + (np.asarray(line)[:-1] - 1 - (times - 1) / 2) / times for line in found]
    return sorted(lines, key=lambda line: -np.ptp(line[:, 0]))


def bridged(lines: list[np.ndarray]) -> np.ndarray:
    """Join an outer contour and its holes by cuts that are walked to and fro."""
    path = lines[0]
    for hole in lines[1:]:
        apart = np.linalg.norm(path[:, None] - hole[None], axis=2)
        a, b = np.unravel_index(apart.argmin(), apart.shape)
        around = np.concatenate([np.roll(hole, -b, axis=0), hole[b : b + 1]])
        path = np.concatenate([path[: a + 1], around, path[a:]])
    return path
