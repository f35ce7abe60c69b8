"""Find vertebrae that already look fractured, from heights of the mask and their uncertainty.

The cut is Genant's first grade: a height a fifth below the posterior one, or a posterior height a
fifth below a neighbour's. The error of a ratio was measured on wedges (``docs/morphometry.md``) and
grows with the slice distance; the error of the mask comes on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from monai_vfx.analysis.morphometry.heights import MEASURED, measure_heights
from monai_vfx.analysis.morphometry.ratios import HEIGHTS, RATIOS, add_ratios, ratios_of
from monai_vfx.core.anatomy import LEVELS
from monai_vfx.core.arrays import Affine, LabelVolume

FRACTURE_RATIO = 0.80
"""A ratio at or below it is a fracture (Genant, grade 1 and more)."""
SURE_SD = 2.0
"""Number of SD from the cut at which the side of a ratio is certain."""
RATIO_SD: dict[float, float] = {1.0: 0.008, 1.5: 0.013, 2.5: 0.023, 3.0: 0.027, 5.0: 0.063}
"""Slice distance or thickness, mm → SD of a ratio of heights: the largest of the four kinds."""
MAX_THICKNESS_MM = 5.0
"""Maximum slice distance or thickness with a measured SD."""

NORMAL, UNCLEAR, FRACTURED, NOT_ASSESSABLE = "normal", "unclear", "fractured", "not_assessable"


@dataclass(frozen=True)
class Suspicion:
    """Fractures seen in the heights of T12-L4.

    Attributes:
        status: ``fractured``: a ratio lies certainly at or below the cut. ``unclear``: one may.
            ``normal``: all are known and certainly above. ``not_assessable``: none is known to be
            low, but some are missing, or no SD is known.
        levels: those that are fractured, or else unclear.
        lowest: the lowest ratio; None where none is known. ``at`` is its level and kind.
        sd: SD of a ratio; None where it is not known.
        below: whether the lowest ratio itself lies at or below the cut.
        resolution_mm: the larger of slice distance and thickness.
        resampled: the mask was drawn on another grid.
    """

    status: str
    levels: tuple[str, ...]
    lowest: float | None
    at: str | None
    sd: float | None
    below: bool
    resolution_mm: float
    resampled: bool = False

    @property
    def text(self) -> str:
        """The finding with its uncertainty, for a warning."""
        if self.resampled:
            return "the mask was drawn on another grid: fractures cannot be determined"
        if self.sd is None:
            return (
                "fractures cannot be determined: slices must be at most "
                f"{MAX_THICKNESS_MM:g} mm, got {self.resolution_mm:.1f} mm"
            )
        found = "none" if self.lowest is None else f"{self.lowest:.2f}"
        return (
            f"{', '.join(self.levels)}: lowest ratio {found} ({self.at}), "
            f"± {SURE_SD * self.sd:.2f} at slices of {self.resolution_mm:.1f} mm; "
            f"the cut is {FRACTURE_RATIO:.2f}"
        )


def ratio_sd(resolution_mm: float) -> float | None:
    """Return the SD of a ratio of heights; None for slices thicker than were measured.

    >>> ratio_sd(0.5), ratio_sd(4.0), ratio_sd(6.0)
    (0.008, 0.045, None)
    """
    if resolution_mm > MAX_THICKNESS_MM + 0.01:
        return None
    return float(np.interp(resolution_mm, list(RATIO_SD), list(RATIO_SD.values())))


def suspect_fracture(
    labels: LabelVolume,
    affine: Affine,
    cut: Sequence[str],
    resolution_mm: float,
    resampled: bool = False,
) -> Suspicion:
    """Assess the heights of T12-L4.

    Args:
        labels: (i, j, k) bodies under VerSe numbers.
        affine: (4, 4) index → world mm, RAS+.
        cut: levels known to be cut by the field of view.
        resolution_mm: the larger of slice distance and nominal thickness.
        resampled: the mask was drawn on another grid, whose error is not known.
    """
    bodies, _ = measure_heights(labels, affine, cut)
    heights = pd.DataFrame(
        [
            [getattr(bodies[level], name) if level in bodies else np.nan for name in HEIGHTS]
            for level in MEASURED
        ],
        columns=list(HEIGHTS),
    ).assign(case_id="case", level=MEASURED)
    rows = add_ratios(heights).set_index("level")[list(RATIOS)].to_dict("index")
    sd = None if resampled else ratio_sd(resolution_mm)
    known = [
        (float(rows[level][name]), level, name)
        for level in LEVELS
        for name in ratios_of(level)
        if not np.isnan(rows[level][name])
    ]
    lowest, at = None, None
    if known:
        lowest, level, name = min(known)
        at = f"{level} {RATIOS[name]}"
    if sd is None:
        return Suspicion(NOT_ASSESSABLE, (), lowest, at, None, False, resolution_mm, resampled)
    complete = len(known) == sum(len(ratios_of(level)) for level in LEVELS)
    margin = SURE_SD * sd
    sure = _levels(known, FRACTURE_RATIO - margin)
    perhaps = _levels(known, FRACTURE_RATIO + margin)
    status = FRACTURED if sure else UNCLEAR if perhaps else NORMAL if complete else NOT_ASSESSABLE
    below = lowest is not None and lowest <= FRACTURE_RATIO
    return Suspicion(status, sure or perhaps, lowest, at, sd, below, resolution_mm)


def _levels(known: list[tuple[float, str, str]], limit: float) -> tuple[str, ...]:
    """Return the levels with a ratio at or below a limit, cranial to caudal."""
    low = {level for ratio, level, _ in known if ratio <= limit}
    return tuple(level for level in LEVELS if level in low)
