"""What a segmentation gets wrong: edges that wander by a millimetre; no mask is the truth."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from monai_vfx.core.arrays import Affine, LabelVolume

EDGE_SD_MM = 0.8
"""SD of the in-plane error of an edge. Automatic contours of bodies and muscles differ from a
reader's by about a millimetre on average."""
KNOTS_MM = 12.0
"""Distance over which the error changes."""


def with_edge_errors(
    labels: LabelVolume, affine: Affine, rng: np.random.Generator, sd_mm: float = EDGE_SD_MM
) -> LabelVolume:
    """Return a label map whose edges are off by a smooth random shift within the slices.

    Args:
        labels: (i, j, k), k along the slices' normal.
        affine: (4, 4) voxel index → RAS mm.
        rng: source.
        sd_mm: SD of the shift along each in-plane axis; 0 leaves the map as it is.

    Returns:
        (i, j, k) a new map; voxels outside the labels' neighbourhood stay 0.
    """
    found = ndimage.find_objects((labels > 0).astype(np.uint8))
    if not found or sd_mm <= 0:
        return labels.copy()
    step = np.linalg.norm(affine[:3, :3], axis=0)
    reach = np.append(np.ceil(4 * sd_mm / step[:2]), 0).astype(int)
    window = tuple(
        slice(max(part.start - more, 0), min(part.stop + more, size))
        for part, more, size in zip(found[0], reach, labels.shape, strict=True)
    )
    shape = labels[window].shape
    places: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = list(
        np.indices(shape, sparse=True)
    )
    for axis in (0, 1):
        shift = np.rint(sd_mm * _smooth(shape, KNOTS_MM / step, rng) / step[axis]).astype(int)
        places[axis] = np.clip(places[axis] + shift, 0, shape[axis] - 1)
    result = np.zeros_like(labels)
    result[window] = labels[window][tuple(places)]
    return result


def _smooth(
    shape: tuple[int, ...], knots: Affine, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a random field of SD 1 that changes over so many voxels along each axis."""
    coarse = tuple(int(np.ceil(n / k)) + 2 for n, k in zip(shape, knots, strict=True))
    field = rng.standard_normal(coarse, dtype=np.float32)
    factors = [n / c for n, c in zip(shape, coarse, strict=True)]
    fine = ndimage.zoom(field, factors, order=1)
    # Between the knots a mean of neighbours varies less than they do.
    result: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = fine / max(float(fine.std()), 1e-6)
    return result
