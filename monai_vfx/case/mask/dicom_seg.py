"""Read DICOM segmentations (SEG): binary, fractional and label map, by highdicom.

Geometry comes from the object's own functional groups, in any order of frames; positions without
a frame are background. Tiled objects (slide microscopy) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai_vfx.case.mask.dicom_objects import (
    MaskPart,
    Meaning,
    check_frame_of_reference,
    structure_of_item,
)
from monai_vfx.core.errors import CaseRefused, refusing
from monai_vfx.core.geometry import LPS_TO_RAS

_NEEDED = (
    *("FrameOfReferenceUID", "SegmentSequence", "SegmentationType", "PixelData"),
    *("Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_OF_FRAMES = (  # functional group and attribute of each frame (PS3.3, C.7.6.16 and C.8.20.3)
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("FrameContentSequence", "DimensionIndexValues"),
    ("SegmentIdentificationSequence", "ReferencedSegmentNumber"),
)
_SEGMENT_NUMBER = 0x0062000B
_SAVE_ANEW = (
    "Save the segmentation again with a tool that writes whole SEG objects (3D Slicer, highdicom), "
    "or give it as a NIfTI or NRRD label map."
)

FRACTION = 0.5
"""Minimum share of the largest value at which a voxel belongs to a fractional segment."""


def read_segments(
    dataset: Any, meaning: Meaning, frame_of_reference: str | None = None
) -> Iterator[MaskPart]:
    """Yield the segments of a SEG that ``meaning`` selects, one by one as each may be large.

    Args:
        dataset: the object, as pydicom reads it.
        meaning: selects the segments to read, and as which structure.
        frame_of_reference: FrameOfReferenceUID of the CT, None where it has none.

    Raises:
        CaseRefused: ``mask_grid_mismatch``, ``mask_labels_unknown``, ``mask_unreadable`` or
            ``geometry_invalid``.
    """
    import highdicom as hd

    _check_whole(dataset)
    check_frame_of_reference(str(dataset.get("FrameOfReferenceUID", "")), frame_of_reference)
    if "TotalPixelMatrixRows" in dataset:
        raise CaseRefused("mask_unreadable", "the SEG is tiled as slides are; it must be a volume")
    with refusing("mask_unreadable", "the SEG cannot be read"):
        seg = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        geometry = seg.get_volume_geometry()
    if geometry is None:
        raise CaseRefused(
            "geometry_invalid", "the frames of the SEG must be evenly spaced slices of a volume"
        )
    affine = LPS_TO_RAS @ geometry.affine[:, [2, 1, 0, 3]]  # slice, row, column → column first
    for number, item in _items(dataset):
        structure = _structure(number, item, meaning)
        if structure is None:
            continue
        with refusing("mask_unreadable", "the SEG cannot be read"):
            values = seg.get_volume(segment_numbers=[number]).array[..., 0].T
        inside = values >= FRACTION if values.dtype.kind == "f" else values > 0
        part = MaskPart.cut(structure, inside, affine)
        if part is not None:
            yield part


def _check_whole(dataset: Any) -> None:
    """Refuse an object that does not state the position and the segment of each frame."""
    lacking = [name for name in _NEEDED if name not in dataset]
    if lacking:
        raise _incomplete(f"the SEG lacks {', '.join(lacking)}")
    frames = dataset.PerFrameFunctionalGroupsSequence
    if len(frames) != int(dataset.NumberOfFrames):
        raise _incomplete(
            f"the SEG has {dataset.NumberOfFrames} frames, its PerFrameFunctionalGroupsSequence "
            f"describes {len(frames)}"
        )
    label_map = str(dataset.SegmentationType) == "LABELMAP"  # its voxels name their segments
    for group, name in _OF_FRAMES[:2] if label_map else _OF_FRAMES:
        silent = sum(_stated(dataset, frame, group, name) is None for frame in frames)
        if silent:
            raise _incomplete(f"{silent} of {len(frames)} frames of the SEG lack {name} ({group})")
    if not label_map:
        _check_segment_numbers(dataset)


def _check_segment_numbers(dataset: Any) -> None:
    pointers = [int(d.DimensionIndexPointer) for d in dataset.get("DimensionIndexSequence", [])]
    if _SEGMENT_NUMBER not in pointers:
        raise _incomplete(
            "the SEG's DimensionIndexSequence is missing or does not list ReferencedSegmentNumber"
        )
    stated = {
        int(_stated(dataset, frame, *_OF_FRAMES[2]))
        for frame in dataset.PerFrameFunctionalGroupsSequence
    }
    unlisted = stated - {number for number, _ in _items(dataset)}
    if unlisted:
        raise _incomplete(
            f"frames of the SEG belong to the segments {', '.join(map(str, sorted(unlisted)))}, "
            "which its SegmentSequence does not list"
        )


def _stated(dataset: Any, frame: Any, group: str, name: str) -> Any:
    """Return an attribute of a frame, or that of all frames; None where neither has it."""
    for groups in (frame, *dataset.SharedFunctionalGroupsSequence):
        for item in groups.get(group, []):
            if item.get(name) is not None:
                return item.get(name)
    return None


def _incomplete(message: str) -> CaseRefused:
    return CaseRefused("mask_unreadable", message, _SAVE_ANEW)


def _items(dataset: Any) -> list[tuple[int, Any]]:
    """Return the numbers and items of the segments; a label map may list its background as 0."""
    items = [(int(item.SegmentNumber), item) for item in dataset.SegmentSequence]
    return [(number, item) for number, item in items if number > 0]


def _structure(number: int, item: Any, meaning: Meaning) -> str | None:
    kinds = list(item.get("SegmentedPropertyTypeCodeSequence", []))
    modifiers = [
        code for kind in kinds for code in kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
    ]
    names = [str(item.get(name, "")) for name in ("SegmentLabel", "SegmentDescription")]
    regions = item.get("AnatomicRegionSequence", [])
    return meaning(
        number, names[0], structure_of_item(number, names, [*kinds, *modifiers], regions)
    )
