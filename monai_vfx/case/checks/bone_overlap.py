"""Does a label map lie on the bone of this CT? A check that needs the voxels.

The cortical shell stays denser than what surrounds the body even where trabecular bone is lost,
so the rule compares the bodies' surface layer with a ring around it, not their inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import BoolVolume, HUVolume, LabelVolume, Points
from monai_vfx.core.errors import CaseRefused

SHELL_MM = 3.0
"""Thickness of the surface layer, in mm."""

RING_MM = (3.0, 8.0)
"""Least and greatest distance of the ring from the body, in mm."""

MIN_CONTRAST = 0.71
"""Least probability that a voxel of the surface layer is denser than one of the ring."""

MIN_HU = 60.0
"""Least upper quartile of the surface layer, in HU."""

SLACK_MM = 4.0
"""A mask that fits after a shift of this much within the slices is taken to fit, in mm."""

GROWTH_MM = (0.0, -3.0, 3.0)
"""So is one that was drawn this much too wide or too narrow, in mm."""

_MAX_SAMPLES = 1500  # voxels of each layer and level that are compared
_MIN_SAMPLES = 20


def check_bone_overlap(
    hu: HUVolume, labels: LabelVolume, spacing_mm: tuple[float, float, float]
) -> None:
    """Refuse when the labelled bodies are not denser at their surface than around it.

    For each level the probability that a voxel of the lateral surface layer is denser than one
    of the ring around it (the area under the ROC curve) is computed; the median over the levels,
    at the best of nine shifts within the slices and three sizes, must reach ``MIN_CONTRAST``.

    Args:
        hu: (i, j, k) in HU, of a region around T12-L4.
        labels: (i, j, k) on the same grid; values other than the bodies of T12-L4 are ignored.
        spacing_mm: voxel distances along (i, j, k).

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
                return  # most masks pass where they are: the first trial
            density, contrast = max((density, contrast), found, key=lambda pair: pair[1])
    raise CaseRefused(
        "mask_off_bone",
        f"the bodies' surface (upper quartile {density:.0f} HU) is denser than its "
        f"surroundings with a probability of {contrast:.2f}; the rule is at least "
        f"{MIN_HU:.0f} HU and {MIN_CONTRAST}",
    )


@dataclass(frozen=True)
class _Layer:
    """Voxel indices (n, 3) of one level's surface layer and ring, and its centre in mm."""

    shell: npt.NDArray[np.intp]
    ring: npt.NDArray[np.intp]
    centre: Points


def _layers(labels: LabelVolume, spacing: npt.NDArray[np.float64]) -> list[list[_Layer]]:
    """Find the surface layer and the ring of every level, for each size of ``GROWTH_MM``."""
    found = ndimage.find_objects(labels, max_label=VERTEBRAE[LEVELS[-1]])
    boxes = {
        value: found[value - 1]
        for value in (VERTEBRAE[level] for level in LEVELS)
        if found[value - 1] is not None
    }
    centres = {
        value: (np.argwhere(labels[box] == value).mean(axis=0) + [s.start for s in box]) * spacing
        for value, box in boxes.items()
    }
    line = centres[max(centres)] - centres[min(centres)] if len(centres) > 1 else np.zeros(3)
    sizes: list[list[_Layer]] = [[] for _ in GROWTH_MM]
    for value, box in boxes.items():
        for layers, (shell, ring) in zip(
            sizes, _sampled_layers(labels, spacing, value, box, line), strict=True
        ):
            if min(len(shell), len(ring)) >= _MIN_SAMPLES:
                layers.append(_Layer(shell, ring, centres[value]))
    return [layers for layers in sizes if len(layers) > len(boxes) // 2]


def _sampled_layers(
    labels: LabelVolume,
    spacing: npt.NDArray[np.float64],
    value: int,
    inner: tuple[slice, ...],
    line: npt.NDArray[np.float64],
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Return the indices of one level's lateral surface layer and ring, a pair for each size."""
    reach = RING_MM[1] + max(GROWTH_MM)
    box = tuple(
        slice(max(side.start - more, 0), min(side.stop + more, size))
        for side, more, size in zip(
            inner, np.ceil(reach / spacing).astype(int).tolist(), labels.shape, strict=True
        )
    )
    view = labels[box]
    body = view == value
    if body.all():
        return [(np.zeros((0, 3), dtype=np.intp),) * 2 for _ in GROWTH_MM]
    # Half a voxel off, as a voxel's distance counts from its nearest neighbour's centre.
    half = float(np.median(spacing)) / 2
    outside = ndimage.distance_transform_edt(~body, sampling=spacing) - half
    inside = ndimage.distance_transform_edt(body, sampling=spacing) - half
    distance = np.where(body, -inside, outside)
    height = sum(
        np.arange(size).reshape([-1 if n == along else 1 for n in range(3)]) * step * part
        for along, (size, step, part) in enumerate(zip(body.shape, spacing, line, strict=True))
    )
    height = np.broadcast_to(height, body.shape)
    low, high = np.quantile(height[body], [0.1, 0.9])
    # Discs above and below are left out, and other levels; bodies may be thinner than a layer.
    lateral = (height >= low) & (height <= high) & (body | (view == 0))
    start = [side.start for side in box]
    pairs = []
    for growth in GROWTH_MM:
        shell = lateral & (distance > growth - SHELL_MM) & (distance <= growth)
        ring = lateral & (distance > growth + RING_MM[0]) & (distance <= growth + RING_MM[1])
        pairs.append((_thinned(shell) + start, _thinned(ring) + start))
    return pairs


def _thinned(region: BoolVolume) -> npt.NDArray[np.intp]:
    """Return the indices (n, 3) of a region, evenly thinned to ``_MAX_SAMPLES``."""
    index = np.argwhere(region)
    return index[:: len(index) // _MAX_SAMPLES + 1]


def _shifts(layers: list[_Layer], spacing: npt.NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Return the shifts in voxels, within the slices, at which a mask is tried."""
    line = layers[-1].centre - layers[0].centre
    along = int(np.abs(line).argmax()) if line.any() else 2
    steps = np.rint(SLACK_MM / spacing).astype(int)
    choices = [(0,) if axis == along else (0, -int(n), int(n)) for axis, n in enumerate(steps)]
    return list(product(choices[0], choices[1], choices[2]))


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
