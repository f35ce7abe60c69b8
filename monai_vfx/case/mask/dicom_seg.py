"""Reads DICOM segmentations (SEG): binary, fractional and label map, by highdicom.

Geometry comes from the object's own functional groups, in any order of frames; positions without
a frame hold nothing. Tiled objects (slide microscopy) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai_vfx.case.mask.dicom_objects import (
    MaskPart,
    Meaning,
    boxed,
    check_frame_of_reference,
    structure_of_item,
)
from monai_vfx.core.arrays import Affine
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import LPS_TO_RAS

_NEEDED = (
    *("FrameOfReferenceUID", "SegmentSequence", "SegmentationType", "PixelData"),
    *("Rows", "Columns", "BitsAllocated", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_OF_FRAMES = (  # functional group, and what a frame states there (PS3.3, C.7.6.16 and C.8.20.3)
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
"""A voxel of a fractional segment belongs to it from this share of the largest value on."""


def read_segments(
    dataset: Any, meaning: Meaning, frame_of_reference: str | None = None
) -> Iterator[MaskPart]:
    """Yield the segments of a SEG that mean something, one by one: a volume of each may be large.

    Args:
        dataset: the object, as pydicom reads it.
        meaning: which segments are read, and as what.
        frame_of_reference: UID of the CT's, None where it has none.

    Raises:
        CaseRefused: ``mask_grid_mismatch``, ``mask_labels_unknown``, ``mask_unreadable`` or
            ``geometry_invalid``.
    """
    import highdicom as hd

    _check_whole(dataset)
    check_frame_of_reference(str(dataset.get("FrameOfReferenceUID", "")), frame_of_reference)
    if "TotalPixelMatrixRows" in dataset:
        raise CaseRefused("mask_unreadable", "the SEG is tiled, as slides are; a volume is needed")
    try:
        seg = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        geometry = seg.get_volume_geometry()
    except Exception as error:  # a damaged object raises anything; its text may name the patient
        raise _unreadable(error) from error
    if geometry is None:
        raise CaseRefused(
            "geometry_invalid", "the frames of the SEG are not the evenly spaced slices of a volume"
        )
    affine = LPS_TO_RAS @ geometry.affine[:, [2, 1, 0, 3]]  # slice, row, column → column first
    for number, item in _items(dataset):
        structure = _structure(number, item, meaning)
        part = None if structure is None else _part(seg, number, structure, affine)
        if part is not None:
            yield part


def _check_whole(dataset: Any) -> None:
    """Refuse an object that does not say where its frames lie and which segment each shows."""
    lacking = [name for name in _NEEDED if name not in dataset]
    if lacking:
        raise _incomplete(f"the SEG lacks {', '.join(lacking)}")
    frames = dataset.PerFrameFunctionalGroupsSequence
    if len(frames) != int(dataset.NumberOfFrames):
        raise _incomplete(
            f"the SEG has {dataset.NumberOfFrames} frames, and its "
            f"PerFrameFunctionalGroupsSequence says something of {len(frames)}"
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
    """Return what a frame states itself, or all frames together; None where nothing does."""
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


def _part(seg: Any, number: int, structure: str, affine: Affine) -> MaskPart | None:
    try:
        values = seg.get_volume(segment_numbers=[number]).array[..., 0]
    except Exception as error:  # as above
        raise _unreadable(error) from error
    inside = (values >= FRACTION if values.dtype.kind == "f" else values > 0).T
    box = boxed(inside)
    if box is None:
        return None
    shape = (inside.shape[0], inside.shape[1], inside.shape[2])
    return MaskPart(structure, *box, shape, affine)


def _unreadable(error: Exception) -> CaseRefused:
    return CaseRefused("mask_unreadable", f"the SEG cannot be read ({type(error).__name__})")
