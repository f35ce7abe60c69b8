"""Check that every labelled body is one piece of a plausible size; others move slices and crops."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from monai_vfx.core.anatomy import LEVELS, STUDY_LABELS
from monai_vfx.core.arrays import BoolVolume, LabelVolume
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import nonzero_box

MIN_SHARE = 0.2
"""A whole body has at least this share of the median volume of T12-L4."""
STRAY_SHARE = 0.01
"""Fragments apart from a body are warned of from this share of its voxels on."""


def remove_fragments(labels: LabelVolume) -> list[CaseWarning]:
    """Remove, in place, what is not connected to the main piece of a body of T12-L4.

    Args:
        labels: (i, j, k) bodies under VerSe numbers.
    """
    strays = []
    for level, value in zip(LEVELS, STUDY_LABELS, strict=True):
        whole = labels == value
        box = nonzero_box(whole)
        if box is None:
            continue
        body = whole[box]
        main, count = largest_piece(body, np.ones((3, 3, 3), dtype=bool))
        labels[box][body & ~main] = 0
        if count > 1 and body.sum() - main.sum() >= STRAY_SHARE * body.sum():
            strays.append(f"{level} ({count - 1})")
    text = f"fragments apart from the bodies were removed: {', '.join(strays)}"
    return [CaseWarning("label_fragments", text)] if strays else []


def largest_piece(
    region: BoolVolume, structure: BoolVolume | None = None
) -> tuple[BoolVolume, int]:
    """Return the largest connected piece of a region, and the number of pieces.

    Args:
        region: (i, j, k).
        structure: (3, 3, 3) neighbours that count as connected; by default those that share a face.
    """
    pieces, count = ndimage.label(region, structure=structure)
    if count < 2:
        return region, count
    main: BoolVolume = pieces == np.bincount(pieces[region]).argmax()
    return main, count


def check_volumes(labels: LabelVolume, cut: tuple[str, ...]) -> None:
    """Refuse a body of T12-L4 that is far smaller than the others, unless it is cut.

    Args:
        labels: (i, j, k) bodies under VerSe numbers.
        cut: levels that the field of view cuts.

    Raises:
        CaseRefused: ``level_missing``.
    """
    counts = np.bincount(labels.ravel(), minlength=256)[list(STUDY_LABELS)]
    median = float(np.median(counts))
    for level, size in zip(LEVELS, counts.tolist(), strict=True):
        if level not in cut and size < MIN_SHARE * median:
            text = f"{level} has {size} voxels, the median of T12-L4 is {median:.0f}; a body must "
            raise CaseRefused("level_missing", f"{text}have at least {MIN_SHARE:.0%} of it")
