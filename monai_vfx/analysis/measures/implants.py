"""Find metal and cement in and behind the bodies of T12-L4 by their attenuation.

Cortical bone of the lumbar spine lies below 1300 HU, plaques of the aorta hardly above. The region
in front of the bodies is not searched: stents, clips and oral contrast medium lie there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, BoolVolume, HUVolume, LabelVolume
from monai_vfx.core.geometry import box_affine, nonzero_box, voxel_spacing, world_positions

INSIDE_HU = 1200.0
"""Minimum inside a body."""
BEHIND_HU = 2000.0
"""Minimum behind a body: facet joints and their spurs are denser than its inside."""
MIN_INSIDE_MM3 = 150.0
"""Minimum volume inside a body: less may be a bone island or noise."""
MIN_BEHIND_MM3 = 100.0
"""Minimum volume behind a body: less may be noise."""
BEHIND_MM = 60.0
"""Distance behind the centre of a body in which screws and rods are searched."""
ASIDE_MM = 35.0
"""Distance to its sides."""
CEMENT_SHARE = 0.9
"""Cement where at least this share of all that is dense lies inside the bodies; else metal."""


@dataclass(frozen=True)
class Implants:
    """Metal or cement of a case.

    Attributes:
        kind: ``no``, ``cement`` (within the bodies) or ``metal`` (beyond them).
        volume_mm3: volume of all voxels above the thresholds.
        levels: levels with metal or cement, cranial to caudal.
        highest_hu: maximum of the region searched.
    """

    kind: str
    volume_mm3: float
    levels: tuple[str, ...]
    highest_hu: float

    @property
    def text(self) -> str:
        """The finding, for a warning."""
        return (
            f"{self.kind}: {self.volume_mm3 / 1000:.2f} ml at {', '.join(self.levels)}, "
            f"up to {self.highest_hu:.0f} HU"
        )


def find_implants(hu: HUVolume, labels: LabelVolume, affine: Affine) -> Implants:
    """Find metal and cement.

    Args:
        hu: (i, j, k) of a box around T12-L4, which reaches behind the bodies.
        labels: (i, j, k) bodies under VerSe numbers, on the same grid.
        affine: (4, 4) of the box, index → world mm, RAS+.
    """
    voxel = float(np.prod(voxel_spacing(affine)))
    total_inside = total_behind = 0.0
    highest = float("-inf")
    levels = []
    for level in LEVELS:
        body = labels == VERTEBRAE[level]
        around = nonzero_box(body)
        if around is None:
            continue
        values = hu[body]
        inside = float((values >= INSIDE_HU).sum()) * voxel
        dense, top = _behind(hu, labels, affine, body)
        behind = dense * voxel
        highest = max(highest, float(values.max()), top)
        if inside >= MIN_INSIDE_MM3 or behind >= MIN_BEHIND_MM3:
            levels.append(level)
            total_inside += inside
            total_behind += behind
    if not levels:
        return Implants("no", 0.0, (), highest)
    total = total_inside + total_behind
    kind = "cement" if total_inside >= CEMENT_SHARE * total else "metal"
    return Implants(kind, round(total, 1), tuple(levels), highest)


def _behind(
    hu: HUVolume, labels: LabelVolume, affine: Affine, body: BoolVolume
) -> tuple[int, float]:
    """Return the number of dense voxels of the slab behind a body, and the slab's maximum HU."""
    places = world_positions(affine, np.argwhere(body))
    middle = places.mean(axis=0)
    low = [middle[0] - ASIDE_MM, middle[1] - BEHIND_MM, places[:, 2].min()]
    high = [middle[0] + ASIDE_MM, middle[1], places[:, 2].max()]
    corners = list(product(*zip(low, high, strict=True)))
    index = world_positions(np.linalg.inv(affine), corners)
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.array(hu.shape) - 1)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 1, hu.shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    part = hu[i, j, k]
    dense = np.argwhere((part >= BEHIND_HU) & (labels[i, j, k] == 0))
    at = world_positions(box_affine(affine, (i, j, k)), dense)
    within = ((at >= low) & (at <= high)).all(axis=1)
    return int(within.sum()), float(part.max())
