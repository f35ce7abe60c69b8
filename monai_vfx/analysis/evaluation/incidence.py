"""Cumulative incidence of fracture, where follow-up may end early and death may come first.

A patient is ``time`` (years, ≥ 0) and ``event``: 0 censored (alive, no fracture, no longer
observed), 1 fracture, 2 death without fracture. Death is not censoring: the dead cannot fracture.

Sources: Aalen and Johansen 1978, its variance as in Marubini and Valsecchi 1995, both by
statsmodels (exact with ties, whereas lifelines breaks them at random).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.estimates import (
    CONFIDENCE,
    QUANTILE,
    TAIL,
    Floats,
    finite_vector,
    same_length,
)
from monai_vfx.core.arrays import Json

CENSORED, FRACTURE, DEATH = 0, 1, 2


def check_times(time: npt.ArrayLike, event: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Check follow-up times and events.

    >>> check_times([1.0, -2.0], [0, 1])
    Traceback (most recent call last):
    ...
    ValueError: time holds -2.0 at position 1; years must be 0 or more
    """
    years = finite_vector("time", time)
    codes = same_length("event", event, "time", years)
    wrong = np.flatnonzero(years < 0)
    if wrong.size:
        raise ValueError(
            f"time holds {years[wrong[0]]} at position {wrong[0]}; years must be 0 or more"
        )
    wrong = np.flatnonzero(~np.isin(codes, (CENSORED, FRACTURE, DEATH)))
    if wrong.size:
        raise ValueError(
            f"event holds {codes[wrong[0]]} at position {wrong[0]}; only 0 (censored), "
            "1 (fracture) and 2 (death) are accepted"
        )
    return years, codes.astype(np.int64)


def cumulative_incidence(time: npt.ArrayLike, event: npt.ArrayLike) -> Json:
    """Return the Aalen-Johansen cumulative incidence of fracture and of death.

    The interval of the fracture curve is on the log-log scale. Where the curve is still 0 (or 1),
    no variance can be estimated; the open bound is then Clopper and Pearson's for none (all) of
    the patients at risk.

    Returns:
        ``times`` (years: 0, each whole year, each distinct time of fracture or death, the end of
        follow-up), ``fracture`` and ``death`` (shares in [0, 1] at these times), ``ci`` of
        ``fracture``, ``at_risk`` (patients whose follow-up reaches that time), and ``n``,
        ``events``, ``deaths``, ``censored`` in all.

    >>> curve = cumulative_incidence([1, 2, 2, 3], [1, 2, 1, 0])
    >>> curve["times"], curve["fracture"], curve["death"], curve["at_risk"]
    ([0.0, 1.0, 2.0, 3.0], [0.0, 0.25, 0.5, 0.5], [0.0, 0.0, 0.25, 0.25], [4, 4, 3, 1])
    """
    years, codes = check_times(time, event)
    fitted_at, (fracture, death), errors = _aalen_johansen(years, codes)
    times = np.unique(years[codes != CENSORED])
    end = float(years.max())
    grid = np.unique(np.concatenate([[0.0, end], np.arange(1.0, np.floor(end) + 1), times]))
    step = np.searchsorted(fitted_at, grid, side="right")
    shares, deaths, spreads = (np.r_[0.0, curve][step] for curve in (fracture, death, errors))
    remaining = (years[None, :] >= grid[:, None]).sum(axis=1)
    bounds = [
        # Nobody has fractured at time 0, unless the table says so.
        (0.0, 0.0) if moment == 0 and share == 0 else _share_interval(share, error, left)
        for moment, share, error, left in zip(grid, shares, spreads, remaining, strict=True)
    ]
    return {
        "times": grid.tolist(),
        "fracture": shares.tolist(),
        "ci": [list(pair) for pair in bounds],
        "death": deaths.tolist(),
        "at_risk": remaining.tolist(),
        "confidence": CONFIDENCE,
        "n": int(years.size),
        "events": int((codes == FRACTURE).sum()),
        "deaths": int((codes == DEATH).sum()),
        "censored": int((codes == CENSORED).sum()),
    }


def _aalen_johansen(
    years: Floats, codes: npt.NDArray[np.int64]
) -> tuple[Floats, tuple[Floats, Floats], Floats]:
    """Return distinct times, the incidence of fracture and of death, and the former's error.

    Where all who are still at risk have an event at the last time, the library has no standard
    error; it is then that of the time before.
    """
    from statsmodels.duration.survfunc import CumIncidenceRight  # a second to import

    with np.errstate(divide="ignore", invalid="ignore"):
        fitted = CumIncidenceRight(years, codes)
    nothing = np.zeros(fitted.times.size)
    # Sums of rounded steps may exceed 1 by a last digit.
    curves = [np.minimum(curve, 1.0) for curve in fitted.cinc]
    fracture, death = [*curves, nothing, nothing][:2]
    errors = np.array(fitted.cinc_se[0]) if curves else nothing
    if np.isnan(errors[-1]):
        errors[-1] = errors[-2] if errors.size > 1 else 0.0
    return fitted.times, (fracture, death), errors


def _share_interval(share: float, error: float, at_risk: int) -> tuple[float, float]:
    """Return bounds of a cumulative incidence on the log-log scale."""
    rounding = 1e-12
    if share < rounding or share > 1 - rounding:
        bound = float(TAIL ** (1 / max(at_risk, 1)))
        return (0.0, 1 - bound) if share < rounding else (bound, 1.0)
    half = QUANTILE * error / abs(share * np.log(share))
    low, high = share ** np.exp([half, -half])
    return float(low), float(high)
