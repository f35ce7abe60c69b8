"""Check the sizes of labelled vertebral bodies and the distances between neighbours.

Impossible sizes are refused, rare ones warned of. The limits are wide on purpose: they catch two
vertebrae under one label, a labelled disc or a wrong voxel size, but not small, large or crushed
bodies. Adult lumbar bodies measure some 20-35 mm in height, 25-42 mm from front to back, 33-60 mm
from side to side and 15-65 ml.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monai_vfx.core.anatomy import LEVEL_NAMES, STUDY_LABELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, Points
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import world_positions

POSSIBLE: dict[str, tuple[float, float]] = {
    "height_mm": (4.0, 55.0),
    "depth_mm": (12.0, 65.0),
    "width_mm": (18.0, 85.0),
    "volume_ml": (3.0, 120.0),
}
"""Measure of a whole body of T12-L4 → minimum and maximum that are possible."""

USUAL: dict[str, tuple[float, float]] = {
    "height_mm": (12.0, 42.0),
    "depth_mm": (20.0, 52.0),
    "width_mm": (28.0, 65.0),
    "volume_ml": (9.0, 80.0),
}
"""Measure → minimum and maximum that are usual."""

NEIGHBOUR_RATIO = 1.8
"""A body whose volume is this many times its neighbour's, or more, is unusual."""

MAX_STEP = 1.65
"""Maximum distance of two neighbours' centres, as a multiple of the median between T12 and L4.
An unlabelled vertebra between two makes it about 2."""

_INNER = (0.005, 0.995)  # quantiles that stand for a body's ends: single voxels stick out


@dataclass(frozen=True)
class BodyMeasures:
    """Size of one body along its own axes, its centre in mm (RAS+)."""

    height_mm: float
    depth_mm: float
    width_mm: float
    volume_ml: float
    centre: Points


def measure_bodies(present: dict[int, Points], affine: Affine) -> dict[str, BodyMeasures]:
    """Measure the bodies of T12-L4.

    Height runs along the line through the neighbours' centres, depth and width square to it,
    towards the patient's back and left. The ends are the 0.5th and 99.5th percentile of the voxels'
    centres, a voxel further apart.

    Args:
        present: label value → voxel indices (n, 3).
        affine: (4, 4) index → world mm, RAS+.
    """
    points = {
        LEVEL_NAMES[value]: world_positions(affine, present[value])
        for value in STUDY_LABELS
        if value in present
    }
    centres = np.array([at.mean(axis=0) for at in points.values()])
    lines = np.gradient(centres, axis=0) if len(centres) > 1 else np.array([[0.0, 0.0, -1.0]])
    voxel = float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0
    found = {}
    for (level, at), line, centre in zip(points.items(), lines, centres, strict=True):
        axes = _axes(line)
        ends = np.quantile((at - centre) @ axes.T, _INNER, axis=0)
        extent = np.ptp(ends, axis=0) + np.abs(axes @ affine[:3, :3]).max(axis=1)
        height, depth, width = extent.tolist()
        found[level] = BodyMeasures(height, depth, width, len(at) * voxel, centre)
    return found


def _axes(line: Points) -> Points:
    """Return unit vectors (3, 3) along the spine, to the back and to the side."""
    along = line / np.linalg.norm(line)
    back = np.array([0.0, -1.0, 0.0]) + along * along[1]
    back /= np.linalg.norm(back)
    return np.stack([along, back, np.cross(along, back)])


def check_body_sizes(
    present: dict[int, Points], affine: Affine, cut: tuple[str, ...]
) -> list[CaseWarning]:
    """Refuse impossible bodies of T12-L4, warn of unusual ones.

    Args:
        present: label value → voxel indices (n, 3), all of T12-L4.
        affine: (4, 4) index → world mm, RAS+.
        cut: levels that the field of view cuts; their sizes are not checked.

    Raises:
        CaseRefused: ``body_impossible`` or ``levels_gap``.
    """
    bodies = measure_bodies(present, affine)
    _check_steps(bodies)
    whole = {level: body for level, body in bodies.items() if level not in cut}
    impossible = _outside(whole, POSSIBLE)
    if impossible:
        raise CaseRefused("body_impossible", "; ".join(impossible))
    unusual = _outside(whole, USUAL)
    for upper, lower in pairwise(whole):
        ratio = whole[upper].volume_ml / whole[lower].volume_ml
        adjacent = VERTEBRAE[lower] - VERTEBRAE[upper] == 1
        if adjacent and not 1 / NEIGHBOUR_RATIO < ratio < NEIGHBOUR_RATIO:
            unusual.append(
                f"{upper} has {ratio:.1f} times the volume of {lower} (usual "
                f"{1 / NEIGHBOUR_RATIO:.1f}-{NEIGHBOUR_RATIO})"
            )
    return [CaseWarning("body_unusual", "; ".join(unusual))] if unusual else []


def _outside(bodies: dict[str, BodyMeasures], limits: dict[str, tuple[float, float]]) -> list[str]:
    """Describe the measures that lie outside limits.

    >>> _outside({"L1": BodyMeasures(70.0, 30, 40, 30, np.zeros(3))}, POSSIBLE)
    ['L1 has a height of 70 mm (4-55)']
    """
    found = []
    for level, body in bodies.items():
        for name, (low, high) in limits.items():
            value = getattr(body, name)
            if not low <= value <= high:
                quantity, unit = name.rsplit("_", 1)
                found.append(
                    f"{level} has a {quantity} of {value:.3g} {unit} ({low:.3g}-{high:.3g})"
                )
    return found


def _check_steps(bodies: dict[str, BodyMeasures]) -> None:
    """Refuse bodies so far apart that an unlabelled vertebra seems to lie between them."""
    steps = {
        (upper, lower): float(np.linalg.norm(bodies[upper].centre - bodies[lower].centre))
        for upper, lower in pairwise(bodies)
    }
    if len(steps) < 3:
        return
    median = float(np.median(list(steps.values())))
    for (upper, lower), step in steps.items():
        if step > MAX_STEP * median:
            raise CaseRefused(
                "levels_gap",
                f"the centres of {upper} and {lower} are {step:.0f} mm apart, the median of T12-L4 "
                f"is {median:.0f} mm; the distance must be at most {MAX_STEP} times that",
            )
