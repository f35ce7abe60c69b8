"""Find the structure of each number in a label map: by name, by a given scheme, or by detection.

The same number means different vertebrae in different tools: 19 is T12 in VerSe, L4 in
TotalSegmentator v1 and the duodenum in v2. Names in the file decide; without them the scheme that
the caller names; without that the numbers and their order along the body, as those of VerSe rise
caudally and those of TotalSegmentator cranially.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from monai_vfx.core.anatomy import LEVELS, SCHEMES, structure_of_name
from monai_vfx.core.arrays import Points
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.geometry import world_positions
from monai_vfx.io.label_map import LabelFile

MIN_LEVELS = 3
"""Minimum number of levels of T12-L4 that must be in order for a scheme to be recognised."""

STEP_MM = (4.0, 80.0)
"""Minimum and maximum distance between the centroids of neighbouring levels, in mm."""

_LEVELS_NEEDED = "Give a mask that distinguishes the levels: one label or file per vertebra."


def find_structures(found: LabelFile, scheme: str | None = None) -> tuple[str, dict[int, str]]:
    """Return how labels were understood, and the level or muscle of each label value.

    Args:
        found: a label map.
        scheme: a key of :data:`SCHEMES`, used where the file carries no usable names. None: detect
            it.

    Returns:
        ``names`` or the name of the scheme, and label value → level or muscle.

    Raises:
        CaseRefused: ``mask_labels_unknown``.
        ValueError: ``scheme`` is unknown.
    """
    if scheme is not None and scheme not in SCHEMES:
        raise ValueError(f"scheme ({scheme!r}) must be one of {sorted(SCHEMES)}")
    named = {value: structure_of_name(name) for value, name in found.names.items()}
    by_name = {value: structure for value, structure in named.items() if structure is not None}
    if by_name:
        return "names", by_name
    if scheme is not None:
        return scheme, SCHEMES[scheme]
    if found.names:
        listed = ", ".join(list(found.names.values())[:8])
        raise CaseRefused(
            "mask_labels_unknown", f"none of the names is a level ({listed})", _LEVELS_NEEDED
        )
    detected = _detect(found)
    return detected, SCHEMES[detected]


def _detect(found: LabelFile) -> str:
    """Return the one scheme that fits the numbers and their order along the body."""
    present, centroids = _centroids(found)
    fitting = {name for name in SCHEMES if _fits(name, centroids)}
    # A whole spine in v1 numbers holds the numbers 28-32 as well, in the same order; organs of a
    # v2 map do not line up as v1's levels do.
    if fitting == {"totalsegmentator_v1", "totalsegmentator_v2"}:
        fitting = {"totalsegmentator_v1"}
    if len(fitting) == 1:
        return fitting.pop()
    if set(present) <= {1, 2}:
        raise CaseRefused(
            "mask_labels_unknown",
            f"the mask holds only the labels {present}, which do not distinguish the levels",
            _LEVELS_NEEDED,
        )
    reason = "fit more than one label scheme" if fitting else "in their order fit no label scheme"
    raise CaseRefused("mask_labels_unknown", f"the labels {_shortened(present)} {reason}")


def _centroids(found: LabelFile) -> tuple[list[int], dict[int, Points]]:
    """Return the label values, and the world centroid (mm, RAS+) of those that may be T12-L4."""
    values, affine = found.values, found.box_affine
    if values.dtype.itemsize > 2:  # larger numbers are in no scheme
        values = np.where(values < 1 << 16, values, 0).astype(np.uint16)
    boxes = {
        value: box for value, box in enumerate(ndimage.find_objects(values), 1) if box is not None
    }
    centroids = {}
    for value in {v for table in SCHEMES.values() for v, name in table.items() if name in LEVELS}:
        if box := boxes.get(value):
            index = np.argwhere(values[box] == value) + [side.start for side in box]
            centroids[value] = world_positions(affine, index.mean(axis=0))
    return list(boxes), centroids


def _fits(scheme: str, centroids: dict[int, Points]) -> bool:
    """Return whether the labels of T12-L4 run from head to feet in the numbers of a scheme."""
    value_of = {level: value for value, level in SCHEMES[scheme].items()}
    line = [
        (rank, centroids[value_of[level]])
        for rank, level in enumerate(LEVELS)
        if value_of[level] in centroids
    ]
    if len(line) < MIN_LEVELS:
        return False
    steps = [(upper[1] - lower[1], lower[0] - upper[0]) for upper, lower in pairwise(line)]
    return all(
        step[2] > 0 and STEP_MM[0] * levels <= np.linalg.norm(step) <= STEP_MM[1] * levels
        for step, levels in steps
    )


def _shortened(values: list[int]) -> str:
    """Join at most twelve numbers of a list.

    >>> _shortened([1, 2]), _shortened(list(range(1, 105)))
    ('1, 2', '1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... 104')
    """
    if len(values) > 12:
        return f"{', '.join(map(str, values[:11]))}, ... {values[-1]}"
    return ", ".join(map(str, values))
