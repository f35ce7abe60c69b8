"""Which slices show a body of T12-L4, and where its centre lies in each.

Worked out on the labels' own grid, before anything is resampled: nearest-neighbour resampling meets
ties (a 2 mm grid brought to 1 mm does at every other pixel), and the last digit of an affine would
then decide where a crop lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE

SMOOTHING_MM = 6.0
"""Standard deviation along the spine of the kernel that smooths the centroids."""
MAX_SHIFT_MM = 4.5
"""Smoothing leaves a centre at most this far from the centroid of its own slice."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BodySlices:
    """The slices that hold enough of a body.

    Attributes:
        indices: (n,) slice numbers, cranial to caudal.
        levels: (n,) label value of the level that fills most of the slice.
        centres: (n, 2) smoothed centroid (row, column) in pixels, or (n, 3) in RAS+ mm.
    """

    indices: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    centres: _Floats


def find_body_slices(
    labels: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    min_area: float = 0.25,
    include_discs: bool = False,
) -> BodySlices:
    """Choose the slices of T12-L4 and find the body's centre in each.

    Args:
        labels: (H, W, N) body labels, slices cranial to caudal.
        spacing_mm: of the axes (H, W, N).
        min_area: share of its main level's largest cross-section that a slice must show of bodies.
        include_discs: take every slice from the first to the last of these, discs too.

    Raises:
        ValueError: when no slice holds a body.
    """
    values = np.array([VERTEBRAE[level] for level in LEVELS])
    areas = np.stack([(labels == value).sum(axis=(0, 1)) for value in values])  # (levels, N)
    # What a slice shows of all bodies counts: tilted neighbours may share it over a thin disc.
    shown, largest = areas.sum(axis=0), areas.max(axis=1)[areas.argmax(axis=0)]
    indices = np.flatnonzero((shown > 0) & (shown >= min_area * largest))
    if indices.size == 0:
        raise ValueError("labels hold no voxel of T12-L4")
    if include_discs:
        indices = np.arange(indices[0], indices[-1] + 1)
    with_body = np.flatnonzero(areas.sum(axis=0) > 0)
    centroids, spread = _centroids(labels[:, :, with_body], values[areas[:, with_body].argmax(0)])
    smooth = smooth_along(
        np.multiply(with_body, spacing_mm[2], dtype=np.float64),
        centroids * np.array(spacing_mm[:2]),
        areas.sum(axis=0)[with_body],
        _room(spread * np.array(spacing_mm[:2])),
    )
    smooth /= spacing_mm[:2]
    centres = np.stack([np.interp(indices, with_body, smooth[:, axis]) for axis in (0, 1)], axis=1)
    nearest = [with_body[np.abs(with_body - n).argmin()] for n in indices]  # a disc has no label
    return BodySlices(
        indices=indices,
        levels=values[areas[:, nearest].argmax(axis=0)],
        centres=centres,
    )


def _centroids(labels: npt.NDArray[Any], main: npt.NDArray[Any]) -> tuple[_Floats, _Floats]:
    """Return the middle of the bodies in every slice (H, W, n), and how far either end lies.

    Tilted neighbours share a slice now and then: its middle is then halfway between the centroid
    of the larger body (``main``) and that of all, (n, 2) pixels.
    """
    own = np.array([np.argwhere(labels[:, :, n] == v).mean(axis=0) for n, v in enumerate(main)])
    spine = np.isin(labels, [VERTEBRAE[level] for level in LEVELS])
    every = np.array([np.argwhere(spine[:, :, n]).mean(axis=0) for n in range(len(main))])
    return (own + every) / 2, (own - every) / 2


def _room(spread_mm: _Floats) -> _Floats:
    """Return how far each centre may move, (n,) mm, so that no end of its spread is left behind."""
    lengths: _Floats = np.sqrt((spread_mm**2).sum(axis=1))
    return np.maximum(MAX_SHIFT_MM - lengths, 0.0)


def smooth_along(
    at_mm: _Floats, points_mm: _Floats, weights: npt.NDArray[Any], limit_mm: _Floats
) -> _Floats:
    """Smooth points along a line by a local straight fit with Gaussian weights.

    A straight fit, unlike a mean, does not bend the ends.

    Args:
        at_mm: (n,) position along the spine.
        points_mm: (n, 2) centroids.
        weights: (n,) area behind each centroid.
        limit_mm: (n,) how far a point may be moved.

    Returns:
        (n, 2) smoothed points.

    >>> line = np.stack([np.arange(5.0), 2 * np.arange(5.0)], axis=1)
    >>> np.allclose(smooth_along(np.arange(5.0), line, np.ones(5), np.ones(5)), line)
    True
    """
    out = np.empty_like(points_mm)
    for n, here in enumerate(at_mm):
        offset = at_mm - here
        kernel = weights * np.exp(-0.5 * (offset / SMOOTHING_MM) ** 2)
        mean = np.average(offset, weights=kernel)
        spread = np.average((offset - mean) ** 2, weights=kernel)
        centre = np.average(points_mm, axis=0, weights=kernel)
        if spread > 1e-9:
            slope = ((kernel * (offset - mean)) @ (points_mm - centre)) / (kernel.sum() * spread)
            centre = centre - slope * mean
        shift = centre - points_mm[n]
        length = float(np.linalg.norm(shift))
        out[n] = points_mm[n] + shift * min(1.0, limit_mm[n] / max(length, 1e-9))
    return out
