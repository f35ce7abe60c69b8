"""Whether a mask calls its vertebrae as the vertebra segmentation does.

A shift by one level cannot be told from density: the mask lies on bone all the same. Two opinions
on one CT can be set against each other, body by body, by where their centres lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, LabelVolume, Region
from monai_vfx.vertebrae.segmentation.result import NamedLevel, VertebraSegmentation

SAME_BODY_MM = 15.0
"""Two centres nearer than this are of one body: neighbours stand 25 to 45 mm apart, and a body
that is cut by the field of view or crushed moves its centre by some 10 mm at the most."""

MIN_MATCHED = 3
"""Of T12-L4, so many must lie on a body that the segmentation found for a comparison to count."""


@dataclass(frozen=True)
class LevelMatch:
    """One body of a mask and the one that the vertebra segmentation found there."""

    given: str  # its level by the mask
    found: str | None  # its level by the vertebra segmentation; None where it found no body there
    distance_mm: float | None  # between the centres; None without a body


def match_levels(
    labels: LabelVolume, affine: Affine, levels: Sequence[NamedLevel]
) -> list[LevelMatch]:
    """Return for each of T12-L4 in a mask which body of the vertebra segmentation's it lies on.

    Labels are (i, j, k) vertebral bodies under VerSe numbers, of the CT whose levels were found.
    """
    matches = []
    centres = np.array([level.centre_mm for level in levels]).reshape(-1, 3)
    for level, box in zip(LEVELS, _boxes(labels), strict=True):
        if box is None:
            continue
        inside = np.argwhere(labels[box] == VERTEBRAE[level])
        index = inside.mean(axis=0) + [side.start for side in box]
        centre = affine[:3, :3] @ index + affine[:3, 3]
        distances = np.linalg.norm(centres - centre, axis=1)
        nearest = int(distances.argmin()) if distances.size else -1
        if nearest < 0 or distances[nearest] > SAME_BODY_MM:
            matches.append(LevelMatch(level, None, None))
        else:
            distance = round(float(distances[nearest]), 1)
            matches.append(LevelMatch(level, levels[nearest].name, distance))
    return matches


def _boxes(labels: LabelVolume) -> list[Region | None]:
    found = cast("list[Region | None]", ndimage.find_objects(labels, VERTEBRAE[LEVELS[-1]]))
    return [found[VERTEBRAE[level] - 1] for level in LEVELS]


def disagreement(matches: Sequence[LevelMatch], found: VertebraSegmentation) -> str | None:
    """Say in which levels a mask and the vertebra segmentation differ; None where they do not.

    >>> one = LevelMatch("L2", "L1", 3.0)
    >>> sure = VertebraSegmentation(np.zeros((1, 1, 1), np.uint8), (), 0.98, 0.9, {}, {}, (), {})
    >>> disagreement([LevelMatch("L4", None, None), one], sure)
    "the mask's L2 is the vertebra segmentation's L1 (confidence 0.980)"
    """
    differ = [m for m in matches if m.found not in (None, m.given)]
    if not differ:
        return None
    words = ", ".join(
        f"{match.given} is the vertebra segmentation's {match.found}" for match in differ
    )
    return f"the mask's {words} (confidence {found.confidence:.3f})"
