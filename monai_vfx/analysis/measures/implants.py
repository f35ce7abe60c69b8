"""Metal or cement in and behind the bodies of T12-L4, from how dense it is.

Bone does not reach these values: cortical bone of the lumbar spine lies below 1300 HU, a plaque
of the aorta hardly above. Before the bodies nothing is looked for, as stents, clips and the
remains of oral contrast lie there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, BoolVolume, HUVolume, LabelVolume
from monai_vfx.core.geometry import box_affine, nonzero_box, voxel_spacing, world_positions

INSIDE_HU = 1200.0
"""Inside a body, from here on."""
BEHIND_HU = 2000.0
"""Behind a body, from here on: facet joints and their spurs are denser than its inside."""
MIN_INSIDE_MM3 = 150.0
"""Less than this volume inside a body may be a bone island or noise."""
MIN_BEHIND_MM3 = 100.0
"""Less than this behind a body may be noise."""
BEHIND_MM = 60.0
"""So far behind a body's middle screws and rods are looked for."""
ASIDE_MM = 35.0
"""So far to its sides."""
CEMENT_SHARE = 0.9
"""Cement where at least this share of all that is dense lies inside the bodies; else metal."""


@dataclass(frozen=True)
class Implants:
    """What was found.

    Attributes:
        kind: ``no``, ``cement`` (it keeps within the bodies) or ``metal`` (it leaves them).
        volume_mm3: of all voxels above the thresholds.
        levels: where, cranial to caudal.
        highest_hu: of the region looked at.
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
    """Look for metal and cement.

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
    """Count the dense voxels of the slab of a body behind its middle, outside all bodies.

    Returns:
        Their number, and the highest HU of the slab.
    """
    places = world_positions(affine, np.argwhere(body))
    middle = places.mean(axis=0)
    low = [middle[0] - ASIDE_MM, middle[1] - BEHIND_MM, places[:, 2].min()]
    high = [middle[0] + ASIDE_MM, middle[1], places[:, 2].max()]
    inverse = np.linalg.inv(affine)
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1])
                        for z in (low[2], high[2])])  # fmt: skip
    index = corners @ inverse[:3, :3].T + inverse[:3, 3]
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.array(hu.shape) - 1)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, 1, hu.shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    part = hu[i, j, k]
    dense = np.argwhere((part >= BEHIND_HU) & (labels[i, j, k] == 0))
    at = world_positions(box_affine(affine, (i, j, k)), dense)
    within = ((at >= low) & (at <= high)).all(axis=1)
    return int(within.sum()), float(part.max())
