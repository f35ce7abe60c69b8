"""Read the contours of an RTSTRUCT onto the slices of a CT.

Each contour lies in one slice of the CT. Where several contours of a region lie in one slice, an
area that is enclosed twice is a hole (even-odd rule), whether the hole is a contour of its own or
is reached by a keyhole.

A voxel belongs to a region when its centre lies within the contour **or on it**. Contours are
drawn along voxel edges, half way between the outermost voxel and the next, or through the centres
of the outermost voxels (as OpenCV finds them, holes through the centres of the voxels around the
hole): all three give back the label map that they were drawn from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.case.mask.dicom_objects import (
    MaskPart,
    Meaning,
    check_frame_of_reference,
    structure_of_item,
)
from monai_vfx.core.arrays import Affine, BoolVolume, Points
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import LPS, world_positions

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Geometric types of contours that enclose an area."""

MAX_EXTENT_MM = 1000.0
"""Maximum extent of a structure, larger than the muscles along a whole spine."""

PLANE_TOLERANCE = 0.1
"""A contour's points may lie this share of a slice distance off their common plane."""

ON_LINE = 1e-3
"""A voxel's centre lies on a contour that passes it at this share of a voxel or less."""


def read_contours(
    dataset: Any,
    meaning: Meaning,
    affine: Affine,
    frame_of_reference: str | None = None,
) -> Iterator[MaskPart]:
    """Yield the regions of a structure set that ``meaning`` selects, on the CT's lattice.

    Args:
        dataset: the object, as pydicom reads it.
        meaning: selects the regions to read, and as which structure.
        affine: (4, 4) of the CT, index (column, row, slice) → world mm, RAS+.
        frame_of_reference: FrameOfReferenceUID of the CT, None where it has none.

    Raises:
        CaseRefused: ``mask_grid_mismatch``, ``contours_missing``, ``mask_labels_unknown`` or
            ``mask_unreadable``.
    """
    to_ct = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    codes = {
        int(item.ReferencedROINumber): list(item.get("RTROIIdentificationCodeSequence", []))
        for item in dataset.get("RTROIObservationsSequence", [])
    }
    contours = {
        int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence", [])
    }
    for item in dataset.get("StructureSetROISequence", []):
        number = int(item.ROINumber)
        names = [str(item.get(name, "")) for name in ("ROIName", "ROIDescription")]
        found = structure_of_item(number, names, codes.get(number, []))
        structure = meaning(number, names[0], found)
        if structure is None or number not in contours:
            continue
        planes, off = _planes(contours[number], structure, to_ct)
        if planes:
            check_frame_of_reference(
                str(item.get("ReferencedFrameOfReferenceUID", "")), frame_of_reference
            )
            part = _part(structure, planes, off, affine)
            if part is not None:
                yield part


def _planes(item: Any, structure: str, to_ct: Points) -> tuple[dict[int, list[Points]], float]:
    """Return the closed contours (n, 2) of each CT slice in voxels, and their offset in slices.

    Contours of a series shifted against the CT go to the nearest slice, -0.5 to 0.5 slices off.
    """
    planes: dict[int, list[Points]] = defaultdict(list)
    heights: dict[int, float] = {}
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for contour in item.get("ContourSequence", []):
        kind = str(contour.get("ContourGeometricType", ""))
        if kind == "POINT":  # marks a position, encloses nothing
            continue
        if kind not in CLOSED:
            raise CaseRefused(
                "mask_unreadable",
                f"contours must be of type {' or '.join(CLOSED)}, {structure} has {kind[:16]!r}",
            )
        points = _points(contour, structure) * LPS
        index = world_positions(to_ct, points)
        height = float(index[:, 2].mean())
        slice_ = round(height)
        if np.ptp(index[:, 2]) > 2 * PLANE_TOLERANCE:
            raise CaseRefused(
                "mask_grid_mismatch",
                f"each contour must lie in one slice of the CT, one of {structure} spans "
                f"{np.ptp(index[:, 2]):.1f}",
            )
        if abs(height - heights.setdefault(slice_, height)) > PLANE_TOLERANCE:
            raise CaseRefused(
                "mask_grid_mismatch",
                f"each slice of the CT must have one plane of contours, those of {structure} lie "
                "closer than the slices",
            )
        planes[slice_].append(index[:, :2])
        low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    if planes and (high - low).max() > MAX_EXTENT_MM:
        raise CaseRefused(
            "mask_unreadable",
            f"structures must be at most {MAX_EXTENT_MM:.0f} mm wide, the contours of {structure} "
            f"extend over {(high - low).max():.0f} mm",
        )
    _check_gaps(structure, sorted(heights))
    off = float(np.mean([height - slice_ for slice_, height in heights.items()] or [0.0]))
    return planes, off


def _points(contour: Any, structure: str) -> Points:
    values = np.asarray(contour.get("ContourData") or [], dtype=np.float64)
    if values.size < 9 or values.size % 3 or not np.isfinite(values).all():
        raise CaseRefused(
            "mask_unreadable",
            f"a contour must have at least three points of three coordinates, one of {structure} "
            f"has {values.size} coordinates",
        )
    return values.reshape(-1, 3)


def _check_gaps(structure: str, slices: list[int]) -> None:
    """Refuse a region with slices between its first and last that hold no contour."""
    count = slices[-1] - slices[0] + 1 if slices else 0
    if count > len(slices):
        raise CaseRefused(
            "contours_missing",
            f"{structure} has no contour in {count - len(slices)} of the {count} CT slices between "
            "its first and last",
        )


def _part(
    structure: str, planes: dict[int, list[Points]], off: float, affine: Affine
) -> MaskPart | None:
    """Fill the contours on a part of the CT's lattice, which may reach beyond the CT."""
    points = np.concatenate([points for contours in planes.values() for points in contours])
    low = np.floor(points.min(axis=0)).astype(int)
    high = np.ceil(points.max(axis=0)).astype(int) + 1
    first, last = min(planes), max(planes)
    width, height = (high - low).tolist()
    inside = np.zeros((width, height, last - first + 1), dtype=bool)
    for slice_, contours in planes.items():
        inside[:, :, slice_ - first] = fill([c - low for c in contours], (width, height))
    own = affine.copy()
    own[:3, 3] += affine[:3, :3] @ [*low, first + off]
    return MaskPart.cut(structure, inside, own)


def fill(contours: list[Points], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return which points of a lattice lie within closed contours or on them.

    Args:
        contours: (n, 2) each, vertices in voxels; the last is joined to the first.
        shape: (columns, rows) of the lattice.

    Returns:
        (columns, rows): whether an odd number of contours encloses the point, or one runs
        through it.

    >>> square = np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 2.5], [0.5, 2.5]])
    >>> fill([square], (5, 4)).astype(int).T
    array([[0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])
    """
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours])
    columns = np.arange(shape[0])
    inside: BoolVolume = np.zeros(shape, dtype=bool)
    for row in range(shape[1]):
        crossing = (start[:, 1] <= row) != (end[:, 1] <= row)
        a, b = start[crossing], end[crossing]
        x = a[:, 0] + (row - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
        inside[:, row] = (x[:, None] > columns).sum(axis=0) % 2 == 1
        inside[:, row] |= _near(start, end, row, columns)
    return inside


def _near(
    start: Points, end: Points, row: int, columns: npt.NDArray[np.int_]
) -> npt.NDArray[np.bool_]:
    """Return which lattice points of a row lie on an edge."""
    low = np.minimum(start[:, 1], end[:, 1]) - ON_LINE
    high = np.maximum(start[:, 1], end[:, 1]) + ON_LINE
    touching = (low <= row) & (row <= high)
    a, along = start[touching], (end - start)[touching]
    offset = np.stack([columns - a[:, :1], np.broadcast_to(row - a[:, 1:], (len(a), columns.size))])
    length = np.maximum((along**2).sum(axis=1), 1e-12)[:, None]
    share = np.clip((offset[0] * along[:, :1] + offset[1] * along[:, 1:]) / length, 0, 1)
    away = (offset[0] - share * along[:, :1]) ** 2 + (offset[1] - share * along[:, 1:]) ** 2
    on_line: npt.NDArray[np.bool_] = (away <= ON_LINE**2).any(axis=0)
    return on_line
