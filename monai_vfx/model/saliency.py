"""Does a heat map fall on what matters? Measures for maps of patients whose truth is known.

Each compares a map with the region that is known to carry the signal, and with what a map that
knows nothing would reach: the region's share of the picture.

Sources: Zhang et al. 2018, "Top-down neural attention by excitation backprop" (pointing game);
Wang et al. 2020, "Score-CAM" (energy-based pointing game); Adebayo et al. 2018, "Sanity checks for
saliency maps" (the control: a network whose weights were randomised).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.bootstrap import percentile_interval
from monai_vfx.analysis.evaluation.estimates import Floats

SAMPLES = 2000


@dataclass(frozen=True)
class MeanDifference:
    """A measure of the same patients under two conditions.

    Args:
        first: mean of the first condition over the patients who have both.
        second: likewise of the second.
        difference: ``first - second``.
        ci_low: of the difference, percentile bootstrap over patients.
        ci_high: likewise.
        n: patients who have both.
        left_out: patients who lack one, as where a map is zero everywhere.
    """

    first: float
    second: float
    difference: float
    ci_low: float
    ci_high: float
    n: int
    left_out: int


def energy_ratio(heat: npt.ArrayLike, region: npt.ArrayLike) -> float:
    """Return the heat's share within a region divided by the region's share of the picture.

    Args:
        heat: any shape, such as (H, W, D); at least 0, finite.
        region: of the same shape, True where the signal lies.

    Returns:
        At least 0; 1 for a map that is the same everywhere, 1 / area share for one that lies
        wholly within. NaN for a map that is zero everywhere.

    Raises:
        ValueError: shapes, values or an empty or full region.

    >>> energy_ratio([[3.0, 1.0], [0.0, 0.0]], [[True, False], [False, False]])
    3.0
    """
    values, inside = _checked(heat, region)
    total = float(values.sum())
    if total == 0:
        return float("nan")
    return float(values[inside].sum()) / total / float(inside.mean())


def pointing_hit(heat: npt.ArrayLike, region: npt.ArrayLike) -> float:
    """Return 1 if the map's largest value lies within the region, else 0 (the pointing game).

    Where several places share the largest value it is the share of them within, so that a flat
    map gets the region's share of the picture.

    Args:
        heat: as for :func:`energy_ratio`.
        region: likewise.

    Returns:
        0 to 1; NaN for a map that is zero everywhere.

    Raises:
        ValueError: as for :func:`energy_ratio`.

    >>> pointing_hit([0.1, 0.9, 0.3], [False, True, False])
    1.0
    """
    values, inside = _checked(heat, region)
    largest = values.max()
    return float("nan") if largest == 0 else float(inside[values == largest].mean())


def mean_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> MeanDifference:
    """Compare a measure of the same patients under two conditions, such as trained and randomised.

    Args:
        first: (n,) one value a patient, NaN where there is none.
        second: (n,) likewise, of the same patients in the same order.
        samples: of the bootstrap, at least 100.
        seed: not negative.
        confidence: level of the interval.

    Raises:
        ValueError: lengths differ, too few samples, or fewer than two patients have both.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"first {a.shape} and second {b.shape} must be (n,) of the same patients")
    if samples < 100:
        raise ValueError(f"samples ({samples}) must be at least 100")
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2:
        raise ValueError(f"{int(known.sum())} patients have both values; at least 2 are needed")
    apart: Floats = (a - b)[known]
    rows = np.random.default_rng(seed).integers(0, apart.size, (samples, apart.size))
    low, high = percentile_interval(apart[rows].mean(axis=1), confidence=confidence)
    return MeanDifference(
        first=float(a[known].mean()),
        second=float(b[known].mean()),
        difference=float(apart.mean()),
        ci_low=low,
        ci_high=high,
        n=int(known.sum()),
        left_out=int((~known).sum()),
    )


def _checked(heat: npt.ArrayLike, region: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    values, inside = np.asarray(heat, dtype=np.float64), np.asarray(region)
    if inside.dtype != np.bool_:
        raise ValueError(f"region holds {inside.dtype}; True and False are needed")
    if values.shape != inside.shape:
        raise ValueError(f"heat {values.shape} and region {inside.shape} must have one shape")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("heat must hold finite values of at least 0")
    if not 0 < inside.sum() < inside.size:
        raise ValueError(
            f"region holds {int(inside.sum())} of {inside.size} places; some, not all, are needed"
        )
    return values, inside
