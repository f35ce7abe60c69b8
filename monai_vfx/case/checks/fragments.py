"""Is every labelled body one piece of a plausible size? Strays would move slices and crops."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from scipy import ndimage

from monai_vfx.core.anatomy import LEVEL_NAMES, LEVELS, VERTEBRAE
from monai_vfx.core.arrays import LabelVolume
from monai_vfx.core.errors import CaseRefused, CaseWarning

MIN_SHARE = 0.2
"""A whole body has at least this share of the median volume of T12-L4."""
STRAY_SHARE = 0.01
"""Pieces apart from a body are warned of from this share of its voxels on."""


def remove_fragments(labels: LabelVolume) -> list[CaseWarning]:
    """Take away, in place, what is not connected to the main piece of a body of T12-L4.

    Args:
        labels: (i, j, k) bodies under VerSe numbers.
    """
    strays = []
    # None stands for a label that is absent.
    boxes = cast(list[Any], ndimage.find_objects(labels, max_label=VERTEBRAE[LEVELS[-1]]))
    for level in LEVELS:
        box = boxes[VERTEBRAE[level] - 1]
        if box is None:
            continue
        body = labels[box] == VERTEBRAE[level]
        pieces, count = ndimage.label(body, structure=np.ones((3, 3, 3)))
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        labels[box][body & (pieces != sizes.argmax())] = 0
        if sizes.sum() - sizes.max() >= STRAY_SHARE * sizes.sum():
            strays.append(f"{level} ({count - 1})")
    if not strays:
        return []
    text = f"pieces apart from the body were left out: {', '.join(strays)}"
    return [CaseWarning("label_fragments", text)]


def check_volumes(labels: LabelVolume, cut: tuple[str, ...]) -> None:
    """Refuse a body of T12-L4 that is far smaller than its neighbours, unless it is cut.

    Args:
        labels: (i, j, k) bodies under VerSe numbers.
        cut: levels that the field of view cuts.

    Raises:
        CaseRefused: ``level_missing``.
    """
    counts = np.bincount(labels.ravel(), minlength=max(LEVEL_NAMES) + 1)
    sizes = {level: int(counts[VERTEBRAE[level]]) for level in LEVELS}
    usual = float(np.median(list(sizes.values())))
    for level, size in sizes.items():
        if level not in cut and size < MIN_SHARE * usual:
            raise CaseRefused(
                "level_missing",
                f"{level} has {size} voxels, the median of T12-L4 is {usual:.0f}; a body has at "
                f"least {MIN_SHARE:.0%} of it",
            )
