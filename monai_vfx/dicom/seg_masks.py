"""Reads DICOM segmentations (SEG): binary, fractional and label map, by highdicom.

Geometry comes from the object's own functional groups, in any order of frames; positions without
a frame hold nothing. Tiled objects (slide microscopy) are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai_vfx.dicom.mask_objects import (
    MaskPart,
    Meaning,
    boxed,
    check_frame_of_reference,
    structure_of_item,
)
from monai_vfx.dicom.stack import LPS_TO_RAS
from monai_vfx.errors import CaseRefused
from monai_vfx.shapes import Affine

_NEEDED = ("FrameOfReferenceUID", "SegmentSequence", "PixelData")

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

    lacking = [name for name in _NEEDED if name not in dataset]
    if lacking:
        raise CaseRefused("mask_unreadable", f"the SEG lacks {', '.join(lacking)}")
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
