"""Check that a label map lies on the bone of the CT.

The cortical shell stays denser than its surroundings even where trabecular bone is lost, so the
surface layer of the bodies is compared with a ring around it, not their inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from monai_vfx.core.anatomy import STUDY_LABELS
from monai_vfx.core.arrays import BoolVolume, HUVolume, LabelVolume, Points
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import label_voxels

SHELL_MM = 3.0
"""Thickness of the surface layer, in mm."""

RING_MM = (3.0, 8.0)
"""Inner and outer distance of the ring from the body, in mm."""

MIN_CONTRAST = 0.71
"""Minimum probability that a voxel of the surface layer is denser than one of the ring."""

MIN_HU = 60.0
"""Minimum upper quartile of the surface layer, in HU."""

SLACK_MM = 4.0
"""A mask that fits after a shift by this much within the slices passes, in mm."""

GROWTH_MM = (0.0, -3.0, 3.0)
"""So does one that was drawn this much too wide or too narrow, in mm."""

_MAX_SAMPLES = 1500  # voxels of each layer and level that are compared
_MIN_SAMPLES = 20


def check_bone_overlap(
    hu: HUVolume, labels: LabelVolume, spacing_mm: tuple[float, float, float]
) -> None:
    """Refuse labelled bodies whose surface is not denser than its surroundings.

    For each level the probability that a voxel of the lateral surface layer is denser than one
    of the ring around it (the area under the ROC curve) is computed; the median over the levels,
    at the best of nine shifts within the slices and three sizes, must reach ``MIN_CONTRAST``.

    Args:
        hu: (i, j, k) in HU, of a region around T12-L4.
        labels: (i, j, k) on the same grid; values other than the bodies of T12-L4 are ignored.
        spacing_mm: voxel spacing along (i, j, k).

    Raises:
        CaseRefused: ``mask_off_bone``.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    sizes = _layers(labels, spacing)
    if not sizes:
        raise CaseRefused("mask_off_bone", "no body of T12-L4 is large enough to be compared")
    density, contrast = 0.0, 0.0
    for layers in sizes:
        for shift in _shifts(layers, spacing):
            found = _compare(hu, layers, shift)
            if found[0] >= MIN_HU and found[1] >= MIN_CONTRAST:
                return  # most masks pass at the first trial, where they lie
            density, contrast = max((density, contrast), found, key=lambda pair: pair[1])
    raise CaseRefused(
        "mask_off_bone",
        f"the bodies' surface has an upper quartile of {density:.0f} HU and is denser than its "
        f"surroundings with a probability of {contrast:.2f}; these must be at least "
        f"{MIN_HU:.0f} HU and {MIN_CONTRAST}",
    )


@dataclass(frozen=True)
class _Layer:
    """Voxel indices (n, 3) of one level's surface layer and ring, and its centre in mm."""

    shell: npt.NDArray[np.intp]
    ring: npt.NDArray[np.intp]
    centre: Points


def _layers(labels: LabelVolume, spacing: npt.NDArray[np.float64]) -> list[list[_Layer]]:
    """Return the layers of the levels for each size of ``GROWTH_MM`` at which most can be used."""
    bodies = {v: at for v, at in label_voxels(labels).items() if v in STUDY_LABELS}
    centres = {value: index.mean(axis=0) * spacing for value, index in bodies.items()}
    line = centres[max(centres)] - centres[min(centres)] if centres else np.zeros(3)
    sizes: list[list[_Layer]] = [[] for _ in GROWTH_MM]
    for value, index in bodies.items():
        pairs = _sampled_layers(labels, spacing, value, index, line)
        for layers, (shell, ring) in zip(sizes, pairs, strict=True):
            if min(len(shell), len(ring)) >= _MIN_SAMPLES:
                layers.append(_Layer(shell, ring, centres[value]))
    return [layers for layers in sizes if len(layers) > len(bodies) // 2]


def _sampled_layers(
    labels: LabelVolume,
    spacing: npt.NDArray[np.float64],
    value: int,
    index: npt.NDArray[np.intp],
    line: npt.NDArray[np.float64],
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Return the indices of one level's lateral surface layer and ring, a pair for each size."""
    reach = np.ceil((RING_MM[1] + max(GROWTH_MM)) / spacing).astype(int)
    start = np.maximum(index.min(axis=0) - reach, 0)
    stop = np.minimum(index.max(axis=0) + 1 + reach, labels.shape)
    view = labels[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))]
    body = view == value
    if body.all():
        return [(np.zeros((0, 3), dtype=np.intp),) * 2 for _ in GROWTH_MM]
    # Half a voxel off, as a voxel's distance counts from its nearest neighbour's centre.
    half = float(np.median(spacing)) / 2
    outside = ndimage.distance_transform_edt(~body, sampling=spacing) - half
    inside = ndimage.distance_transform_edt(body, sampling=spacing) - half
    distance = np.where(body, -inside, outside)
    i, j, k = np.ix_(*(np.arange(size) * mm for size, mm in zip(body.shape, spacing, strict=True)))
    height = i * line[0] + j * line[1] + k * line[2]
    low, high = np.quantile(height[body], [0.1, 0.9])
    # Discs above and below are left out, and other levels; bodies may be thinner than a layer.
    lateral = (height >= low) & (height <= high) & (body | (view == 0))
    pairs = []
    for growth in GROWTH_MM:
        shell = lateral & (distance > growth - SHELL_MM) & (distance <= growth)
        ring = lateral & (distance > growth + RING_MM[0]) & (distance <= growth + RING_MM[1])
        pairs.append((_thinned(shell) + start, _thinned(ring) + start))
    return pairs


def _thinned(region: BoolVolume) -> npt.NDArray[np.intp]:
    """Return the indices (n, 3) of a region, evenly thinned to at most ``_MAX_SAMPLES``."""
    index = np.argwhere(region)
    return index[:: len(index) // _MAX_SAMPLES + 1]


def _shifts(layers: list[_Layer], spacing: npt.NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Return the shifts in voxels, within the slices, at which a mask is tried."""
    line = layers[-1].centre - layers[0].centre
    along = int(np.abs(line).argmax()) if line.any() else 2
    steps = np.rint(SLACK_MM / spacing).astype(int)
    i, j, k = ((0,) if axis == along else (0, -int(n), int(n)) for axis, n in enumerate(steps))
    return list(product(i, j, k))


def _compare(
    hu: HUVolume, layers: list[_Layer], shift: tuple[int, int, int]
) -> tuple[float, float]:
    """Return the surface's upper quartile (HU) and its contrast, medians over the levels."""
    last = np.array(hu.shape) - 1
    found = []
    for layer in layers:
        shell = hu[tuple(np.clip(layer.shell + shift, 0, last).T)]
        ring = hu[tuple(np.clip(layer.ring + shift, 0, last).T)]
        ranks = stats.rankdata(np.concatenate([shell, ring]))[: len(shell)]
        excess = ranks.sum() - len(shell) * (len(shell) + 1) / 2
        found.append((np.quantile(shell, 0.75), excess / (len(shell) * len(ring))))
    density, contrast = np.median(found, axis=0)
    return float(density), float(contrast)
