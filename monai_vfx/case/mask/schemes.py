"""Which number in a label map means which structure: by name, by a named scheme, or by detection.

The same number means different vertebrae in different tools: 19 is T12 in VerSe, L4 in
TotalSegmentator v1 and the duodenum in v2. Names in the file decide; without them a scheme that
the caller names; without that the numbers together with their order along the body, as VerSe's
grow caudally and TotalSegmentator's cranially.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.anatomy import LEVELS, SCHEMES, structure_of_name
from monai_vfx.core.arrays import Points
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.label_map import LabelFile

MIN_LEVELS = 3
"""Levels of T12-L4 that must follow each other for a scheme to be recognised."""

STEP_MM = (4.0, 80.0)
"""Least and greatest distance between the centroids of neighbouring levels, in mm."""

_LEVELS_NEEDED = "Give a mask that tells the levels apart: one label or one file for each vertebra."


def find_structures(found: LabelFile, scheme: str | None = None) -> tuple[str, dict[int, str]]:
    """Return how labels were understood and what they mean.

    Args:
        found: a label map.
        scheme: ``verse``, ``totalsegmentator_v1`` or ``totalsegmentator_v2``; consulted where the
            file carries no usable names. None: detect it.

    Returns:
        ``names`` or the scheme's name, and label value → level or muscle.

    Raises:
        CaseRefused: ``mask_labels_unknown``.
        ValueError: when ``scheme`` is not a known name.
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
            "mask_labels_unknown", f"no vertebral level among the names ({listed})", _LEVELS_NEEDED
        )
    detected = _detect(found)
    return detected, SCHEMES[detected]


def _detect(found: LabelFile) -> str:
    """Return the one scheme that numbers and their order along the body fit."""
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
            f"the mask holds only the labels {present}: a map of bodies without their levels",
            _LEVELS_NEEDED,
        )
    reason = "fit more than one label scheme" if fitting else "in their order fit no label scheme"
    raise CaseRefused("mask_labels_unknown", f"the labels {_shortened(present)} {reason}")


def _centroids(found: LabelFile) -> tuple[list[int], dict[int, Points]]:
    """Return the label values, and the world centroid (mm, RAS+) of those that may be T12-L4."""
    values, affine = found.values, found.box_affine
    if values.dtype.itemsize > 2:  # numbers that no scheme knows; keep the rest countable
        values = np.where(values < 1 << 16, values, 0).astype(np.uint16)
    boxes = {
        value: box
        for value, box in enumerate(ndimage.find_objects(values), start=1)
        if box is not None
    }
    centroids: dict[int, npt.NDArray[np.float64]] = {}
    for table in SCHEMES.values():
        for value in (value for value, name in table.items() if name in LEVELS and value in boxes):
            box = boxes[value]
            index = np.argwhere(values[box] == value).mean(axis=0) + [side.start for side in box]
            centroids[value] = affine[:3, :3] @ index + affine[:3, 3]
    return sorted(boxes), centroids


def _fits(scheme: str, centroids: dict[int, Points]) -> bool:
    """Say whether the labels of T12-L4 line up from head to feet in a scheme's numbers."""
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
    """Spell a list of numbers, at most twelve of them.

    >>> _shortened([1, 2]), _shortened(list(range(1, 105)))
    ('1, 2', '1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... 104')
    """
    if len(values) > 12:
        return f"{', '.join(map(str, values[:11]))}, ... {values[-1]}"
    return ", ".join(map(str, values))
