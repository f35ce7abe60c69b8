"""Check that a label map is not shifted along the spine.

After such a shift the bodies still lie on bone, which :mod:`monai_vfx.case.checks.bone_overlap`
accepts. But between two bodies there is a disc, less dense than the endplates on both sides of it.
So the middles of the gaps between labels, and the ends of the labels, are compared along the column
through the bodies' centres, where the mask lies and at other places up to half a step away.

A shift by a whole vertebra looks like no shift at all and cannot be detected here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.anatomy import STUDY_LABELS
from monai_vfx.core.arrays import HUVolume, LabelVolume, Points
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import label_voxels

COLUMN_MM = 9.0
"""Radius of the column, mm."""

RIM_MM = 3.0
"""Thickness of an end of a body, mm."""

GAP_MM = 3.0
"""Thickness of the middle of a gap, mm."""

MAX_SHIFT_MM = 17.0
"""Shifts up to this are tried, mm: half of the step from one body to the next."""

MIN_SHIFT_MM = 7.0
"""A mask that fits best after a smaller shift passes, mm."""

MIN_SHARE = 0.25
"""A mask fits where it lies if its contrast there is this share of that at the best shift."""

MIN_CONTRAST_HU = 30.0
"""Where endplates and discs differ by less even at the best shift, the mask passes, HU."""

_STEP_MM = 0.5
_MIN_GAPS = 3


@dataclass(frozen=True)
class _Column:
    """Mean HU along the spine, and the ends of the labels on it.

    Attributes:
        place: (n,) mm along the line through the bodies' centres, head to feet.
        hu: (n,) mean over the column's cross-section, NaN outside the volume.
        ends: (bodies, 2) upper and lower end of each body, mm.
    """

    place: npt.NDArray[np.float64]
    hu: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]

    def mean(self, low: float, high: float) -> float:
        at = np.arange(low, high + 1e-6, _STEP_MM)
        return float(np.interp(at, self.place, self.hu, left=np.nan, right=np.nan).mean())


def check_craniocaudal_shift(
    hu: HUVolume, labels: LabelVolume, spacing_mm: tuple[float, float, float]
) -> None:
    """Refuse labels that fit endplates and discs far better further up or down.

    Two contrasts are taken, medians over the gaps between the bodies of T12-L4: by how much the
    less dense of the two ends beside a gap exceeds the middle of the gap, and by how much that end
    together with the middles of both bodies does. A mask is refused if both are below
    ``MIN_SHARE`` of their values at the shift where the first is best, that shift is at least
    ``MIN_SHIFT_MM`` and the first contrast there at least ``MIN_CONTRAST_HU``.

    The less dense end counts because in severe osteoporosis the trabecular bone is the darkest
    band: a gap laid over it is dark as well, but has no bright edges close by on both sides.

    Args:
        hu: (i, j, k) in HU, of a region around T12-L4.
        labels: (i, j, k) on the same grid; values other than the bodies of T12-L4 are ignored.
        spacing_mm: voxel spacing along (i, j, k).

    Raises:
        CaseRefused: ``mask_shifted``.
    """
    column = _column(hu, labels, np.asarray(spacing_mm, dtype=np.float64))
    if column is None:
        return
    shifts = np.arange(-MAX_SHIFT_MM, MAX_SHIFT_MM + 1e-6, 1.0)
    found = np.array([_contrasts(column, float(shift)) for shift in shifts])
    if np.isnan(found[:, 0]).all():
        return
    best = int(np.nanargmax(found[:, 0]))
    here = found[len(shifts) // 2]
    if found[best, 0] < MIN_CONTRAST_HU or abs(shifts[best]) < MIN_SHIFT_MM:
        return
    if (here < MIN_SHARE * found[best]).all():
        towards = "feet" if shifts[best] > 0 else "head"
        raise CaseRefused(
            "mask_shifted",
            f"endplates and discs fit the mask {abs(shifts[best]):.0f} mm further to the {towards}"
            f" (contrast {found[best, 0]:.0f} HU there, {here[0]:.0f} HU where it lies); the shift "
            f"must be below {MIN_SHIFT_MM:.0f} mm or the contrast at least {MIN_SHARE:.0%} of that",
        )


def _contrasts(column: _Column, shift: float) -> tuple[float, float]:
    """Return both contrasts in HU, NaN where fewer than ``_MIN_GAPS`` gaps can be compared."""
    found = []
    for (top, bottom), (next_top, next_bottom) in pairwise(column.ends + shift):
        rim = min(column.mean(bottom - RIM_MM, bottom), column.mean(next_top, next_top + RIM_MM))
        middles = [(top + bottom) / 2, (next_top + next_bottom) / 2]
        inside = sum(column.mean(middle - GAP_MM, middle + GAP_MM) for middle in middles)
        gap = (bottom + next_top) / 2
        disc = column.mean(gap - GAP_MM / 2, gap + GAP_MM / 2)
        found.append((rim - disc, rim / 2 + inside / 4 - disc))
    kept = np.array(found)
    kept = kept[np.isfinite(kept).all(axis=1)]
    if len(kept) < min(_MIN_GAPS, len(column.ends) - 1):
        return np.nan, np.nan
    edges, both = np.median(kept, axis=0)
    return float(edges), float(both)


def _column(hu: HUVolume, labels: LabelVolume, spacing: npt.NDArray[np.float64]) -> _Column | None:
    """Sample the column through the centres of the bodies; None with fewer than three."""
    bodies = [at * spacing for v, at in label_voxels(labels).items() if v in STUDY_LABELS]
    if len(bodies) < _MIN_GAPS:
        return None
    centres = np.array([points.mean(axis=0) for points in bodies])
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(centres, axis=0), axis=1).cumsum()])
    place = np.arange(-MAX_SHIFT_MM * 2, along[-1] + MAX_SHIFT_MM * 2, _STEP_MM)
    line = _extended(place, along, centres)
    tangents = np.gradient(centres, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    ends = np.array(
        [
            at
            + np.quantile((points - centre) @ tangent, [0.02, 0.98])
            + np.array([-0.5, 0.5]) * np.abs(tangent * spacing).max()
            for points, at, centre, tangent in zip(bodies, along, centres, tangents, strict=True)
        ]
    )
    return _Column(place, _sampled(hu, line, spacing), ends)


def _extended(place: npt.NDArray[np.float64], along: Points, centres: Points) -> Points:
    """Return the points of the line through the centres, straight on beyond both ends."""
    line = np.stack([np.interp(place, along, centres[:, axis]) for axis in range(3)], axis=1)
    for end, inner, beyond in ((0, 1, place < 0), (-1, -2, place > along[-1])):
        out = centres[end] - centres[inner]
        away = np.abs(place[beyond] - along[end])
        line[beyond] = centres[end] + away[:, None] * out / np.linalg.norm(out)
    return line


def _sampled(
    hu: HUVolume, line: Points, spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean HU (n,) over a disc square to the line at each of its points."""
    tangent = np.gradient(ndimage.uniform_filter1d(line, 31, axis=0, mode="nearest"), axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    least = np.eye(3)[np.abs(tangent).argmin(axis=1)]
    first = np.cross(tangent, least)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    steps = np.arange(-COLUMN_MM, COLUMN_MM + 1, 3.0)
    offsets = [(u, v) for u in steps for v in steps if np.hypot(u, v) <= COLUMN_MM]
    values = [
        ndimage.map_coordinates(
            hu, ((line + u * first + v * second) / spacing).T, order=1, mode="constant", cval=np.nan
        )
        for u, v in offsets
    ]
    mean: npt.NDArray[np.float64] = np.mean(values, axis=0, dtype=np.float64)
    return mean
