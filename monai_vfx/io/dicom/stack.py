"""How the slices of a series lie to each other: one orientation, in line, evenly spaced.

Geometry: DICOM PS3.3, C.7.6.2.1.1 (equation C.7.6.2.1-1), in LPS, turned to RAS+ at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_vfx.core.arrays import Affine
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import LPS_TO_RAS
from monai_vfx.io.dicom.values import plain

SPACING_TOLERANCE = 0.03
"""A slice distance may differ from the median by this share of it."""
SPACING_SLACK_MM = 0.1
"""It may always differ by this much, as positions are rounded."""
SAME_PLACE_MM = 0.01
"""Slices nearer than this share one position."""
DIRECTION_TOLERANCE = 1e-3
"""Largest difference between direction cosines of slices of one series."""
ORTHONORMAL_TOLERANCE = 1e-2
"""A direction's length may differ from 1, and the cosine between row and column from 0, by this."""
ASIDE_TOLERANCE_MM = 0.5
"""Largest distance of a slice's corner from the line through the first and last, in mm."""
TILT_TOLERANCE_DEG = 0.5
"""Largest angle between the slice normal and the line through the slices' corners."""
MIN_SLICES = 10
"""Fewest slices that can hold T12-L4 (10 mm apart at the most)."""

PHASE_TAGS = (
    *("TemporalPositionIndex", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase"),
    *("AcquisitionNumber", "ConvolutionKernel", "KVP", "ImageType", "ContrastBolusAgent"),
    *("AcquisitionDateTime", "AcquisitionTime", "SeriesTime", "ContentTime"),
)
"""What may tell the phases of one series apart, the plainest first."""


@dataclass(frozen=True)
class Stack:
    """Slices in line: the header of each along the normal, and voxel index → mm, RAS+."""

    order: tuple[int, ...]
    affine: Affine


def stack_slices(
    headers: Sequence[Any],
    identities: Sequence[Any],
    details: Callable[[], Sequence[Any]],
) -> Stack:
    """Sort slices along their common normal and check that they fill a box.

    Headers hold position, orientation and pixel spacing, identities the UID and frame number;
    ``details`` returns headers with :data:`PHASE_TAGS` and is called only where slices overlap.
    """
    row, column, normal = _directions(headers)
    corners = np.array([[float(x) for x in h.ImagePositionPatient] for h in headers])  # LPS mm
    along = corners @ normal
    order = np.argsort(along, kind="stable")
    if not _is_even(along[order]):
        _explain_unevenness(along[order], [identities[n] for n in order], order, details)
    _check_stacks(along[order], [headers[n] for n in order])  # they may alternate
    step = _check_line(corners[order], normal)
    row_spacing, column_spacing = (float(x) for x in headers[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = row * column_spacing
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = normal * step
    affine[:3, 3] = corners[order[0]]
    return Stack(order=tuple(int(n) for n in order), affine=LPS_TO_RAS @ affine)


def _directions(headers: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return the unit vectors of a row, a column and the slice normal, in LPS."""
    all_cosines = np.array([[float(x) for x in h.ImageOrientationPatient] for h in headers])
    if not np.abs(all_cosines - all_cosines[0]).max() <= DIRECTION_TOLERANCE:
        raise CaseRefused("series_mixed", "ImageOrientationPatient differs between slices")
    row, column = all_cosines[0, :3], all_cosines[0, 3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(np.append(lengths - 1, row @ column)).max() > ORTHONORMAL_TOLERANCE:
        raise CaseRefused("geometry_invalid", "ImageOrientationPatient is not orthonormal")
    spacing = np.array([float(x) for x in headers[0].PixelSpacing])
    if spacing.min() <= 0 or not np.isfinite(spacing).all():
        raise CaseRefused("geometry_invalid", f"PixelSpacing is {spacing.tolist()} mm")
    return row, column, np.cross(row, column)


def _tolerance(step: float) -> float:
    return max(SPACING_SLACK_MM, SPACING_TOLERANCE * step)


def _is_even(along: Any) -> bool:
    """Whether sorted positions lie apart, and equally so."""
    distances = np.diff(along)
    step = float(np.median(distances))
    return bool(
        distances.min() >= SAME_PLACE_MM and np.abs(distances - step).max() <= _tolerance(step)
    )


def _explain_unevenness(
    along: Any, identities: Sequence[Any], order: Any, details: Callable[[], Sequence[Any]]
) -> None:
    """Refuse sorted positions (n,) that are not even, with the code of what is wrong."""
    distances = np.diff(along)
    again = distances < SAME_PLACE_MM
    same = [n for n in map(int, np.flatnonzero(again)) if identities[n] == identities[n + 1]]
    if same:
        message = f"{len(same)} slices are there more than once, as the same image"
        raise CaseRefused("slices_duplicated", message)
    found = details()
    _check_phases(along, [found[n] for n in order])
    if again.any():
        message = f"{int(again.sum())} slices share the position of another"
        raise CaseRefused("slices_duplicated", message)
    step = float(np.median(distances))
    tolerance = _tolerance(step)
    off = distances[np.abs(distances - step) > tolerance]
    holes = np.rint(off / step)
    are_holes = (holes >= 2).all() and (np.abs(off - holes * step) <= tolerance * holes).all()
    seen = (
        f"slice distances run from {distances.min():.2f} to {distances.max():.2f} mm "
        f"(median {step:.2f}, tolerance {tolerance:.2f}); {len(off)} are off"
    )
    if are_holes:
        lost = int((holes - 1).sum())
        raise CaseRefused("slices_missing", f"{lost} slices are missing: {seen}")
    raise CaseRefused("spacing_uneven", seen)


def _check_phases(along: Any, details: Sequence[Any]) -> None:
    """Refuse sorted slices that are several stacks in one place."""
    _check_stacks(along, details)
    places = np.concatenate([[0], np.cumsum(np.diff(along) >= SAME_PLACE_MM)])
    repeated = np.bincount(places) > 1
    edges = np.flatnonzero(np.diff(np.concatenate([[False], repeated, [False]])))
    longest = int((edges[1::2] - edges[::2]).max(initial=0))
    if longest >= MIN_SLICES:
        raise CaseRefused(
            "phases_overlap",
            f"{longest} slices in a row share their positions with others; none of the tags that "
            "tell phases apart differs between them",
        )


def _check_stacks(along: Any, headers: Sequence[Any]) -> None:
    """Refuse sorted slices that a tag divides into stacks in one place."""
    for tag in PHASE_TAGS:
        groups = defaultdict(list)
        for place, header in zip(along, headers, strict=True):
            groups[plain(header.get(tag))].append(place)
        stacks = [g for g in groups.values() if len(g) >= MIN_SLICES and _is_even(g)]
        if any(_overlap(a, b) for n, a in enumerate(stacks) for b in stacks[:n]):
            sizes = ", ".join(str(len(g)) for g in stacks)
            raise CaseRefused(
                "phases_overlap",
                f"{len(stacks)} stacks of {sizes} slices lie in one place; they differ by {tag}",
            )


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two sorted stacks share at least half of the shorter one's length."""
    shared = min(one[-1], other[-1]) - max(one[0], other[0])
    return shared >= min(one[-1] - one[0], other[-1] - other[0]) / 2


def _check_line(corners: Any, normal: Any) -> float:
    """Return the slice distance in mm of sorted corners (n, 3); refuse what is no upright box."""
    run = corners[-1] - corners[0]
    line = corners[0] + np.outer(np.linspace(0, 1, len(corners)), run)
    off = corners - line
    aside = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    if not aside.max() <= ASIDE_TOLERANCE_MM:
        raise CaseRefused(
            "series_mixed",
            f"slices lie up to {aside.max():.1f} mm beside the line through the series; must "
            f"be at most {ASIDE_TOLERANCE_MM} mm",
        )
    across = np.linalg.norm(run - (run @ normal) * normal)
    tilt = float(np.degrees(np.arctan2(across, run @ normal)))
    if tilt > TILT_TOLERANCE_DEG:
        raise CaseRefused(
            "gantry_tilt",
            f"slices are sheared by {tilt:.1f} degrees, must be at most {TILT_TOLERANCE_DEG}",
        )
    return float((run @ normal) / (len(corners) - 1))
