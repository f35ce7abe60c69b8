"""Fracture over time, where follow-up may end early and death may come first.

A patient is ``time`` (years, ≥ 0) and ``event``: 0 censored (alive, no fracture, no longer
observed), 1 fracture, 2 death without fracture. Death is no censoring: the dead cannot fracture.

Sources: Aalen and Johansen 1978, its variance as in Marubini and Valsecchi 1995 (exact with ties,
whereas lifelines breaks them at random); Gensheimer and Narasimhan 2019 (yearly hazards).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from monai_vfx.analysis.evaluation.discrimination import _finite_vector, _quantile
from monai_vfx.core.arrays import Json

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
CENSORED, FRACTURE, DEATH = 0, 1, 2


def check_times(time: npt.ArrayLike, event: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Let only usable follow-up pass.

    Args:
        time: (n,), years, finite, ≥ 0.
        event: (n,), 0 censored, 1 fracture, 2 death.

    Raises:
        ValueError: names the argument, the value found and the rule.

    >>> check_times([1.0, -2.0], [0, 1])
    Traceback (most recent call last):
    ...
    ValueError: time holds -2.0 at position 1; years must be 0 or more
    """
    years, codes = _finite_vector("time", time), _finite_vector("event", event)
    if years.size != codes.size:
        raise ValueError(f"time has {years.size} values and event {codes.size}; one a patient each")
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


def kaplan_meier(time: npt.ArrayLike, event: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the share free of fracture and death, as a step curve.

    Args:
        time: (n,), years.
        event: (n,), 0, 1 or 2.

    Returns:
        (k,) distinct times of fracture or death, rising, and (k,) the share at and after each.

    Raises:
        ValueError: on anything :func:`check_times` rejects.

    >>> times, free = kaplan_meier([1, 2, 2, 3], [1, 0, 2, 0])
    >>> times.tolist(), free.round(3).tolist()
    ([1.0, 2.0], [0.75, 0.5])
    """
    years, codes = check_times(time, event)
    times, at_risk, fractures, deaths = _event_table(years, codes)
    free = np.cumprod(1 - (fractures + deaths) / at_risk)
    return times, np.asarray(free, np.float64)


def cumulative_incidence(
    time: npt.ArrayLike, event: npt.ArrayLike, *, confidence: float = 0.95
) -> Json:
    """Return the Aalen-Johansen cumulative incidence of fracture and of death.

    The interval of the fracture curve is on the log-log scale. Where the curve is still 0 (or 1),
    no variance can be estimated; the open bound is then Clopper and Pearson's for none (all) of
    the patients at risk.

    Args:
        time: (n,), years.
        event: (n,), 0, 1 or 2.
        confidence: level of the interval, in (0, 1).

    Returns:
        ``times`` (years: 0, each whole year, each distinct time of fracture or death, the end of
        follow-up), ``fracture`` and ``death`` (shares in [0, 1] at these times), ``ci`` of
        ``fracture``, ``at_risk`` (patients whose follow-up reaches that time), and ``n``,
        ``events``, ``deaths``, ``censored`` in all.

    Raises:
        ValueError: on anything :func:`check_times` rejects, or a level outside (0, 1).

    >>> curve = cumulative_incidence([1, 2, 2, 3], [1, 2, 1, 0])
    >>> curve["times"], curve["fracture"], curve["death"], curve["at_risk"]
    ([0.0, 1.0, 2.0, 3.0], [0.0, 0.25, 0.5, 0.5], [0.0, 0.0, 0.25, 0.25], [4, 4, 3, 1])
    """
    quantile = _quantile(confidence)
    years, codes = check_times(time, event)
    times, at_risk, fractures, deaths = _event_table(years, codes)
    before = np.concatenate([[1.0], np.cumprod(1 - (fractures + deaths) / at_risk)[:-1]])
    before = before[: times.size]
    fracture, death = np.cumsum(before * fractures / at_risk), np.cumsum(before * deaths / at_risk)
    variance = _incidence_variance(at_risk, fractures, deaths, before, fracture)
    end = float(years.max())
    grid = np.unique(np.concatenate([[0.0, end], np.arange(1.0, np.floor(end) + 1), times]))
    step = np.searchsorted(times, grid, side="right")
    shares, variances = _steps(fracture, step), _steps(variance, step)
    remaining = (years[None, :] >= grid[:, None]).sum(axis=1)
    bounds = [
        # Nobody can have fractured before time 0 ends, unless the table says so.
        (0.0, 0.0) if moment == 0 and share == 0 else _share_interval(share, spread, left, quantile)
        for moment, share, spread, left in zip(grid, shares, variances, remaining, strict=True)
    ]
    return {
        "times": grid.tolist(),
        "fracture": shares.tolist(),
        "ci": [list(pair) for pair in bounds],
        "death": _steps(death, step).tolist(),
        "at_risk": remaining.tolist(),
        "confidence": confidence,
        "n": int(years.size),
        "events": int((codes == FRACTURE).sum()),
        "deaths": int((codes == DEATH).sum()),
        "censored": int((codes == CENSORED).sum()),
    }


def yearly_intervals(
    time: npt.ArrayLike, event: npt.ArrayLike, years: int = 5
) -> tuple[Bools, Bools]:
    """Return who was at risk in each year after the CT, and who fractured in it.

    Year k (from 1) is (k - 1, k]; a fracture at time 0 belongs to year 1. At risk in a year are
    those who fracture in it and those observed through the whole of it. The dead stay at risk
    without a fracture: they are known not to fracture, so that the chained hazards give the share
    that fractures in a world where people die (the subdistribution), not one without death.

    Args:
        time: (n,), years.
        event: (n,), 0, 1 or 2.
        years: how many, at least 1.

    Returns:
        ``at_risk`` (n, years) and ``fracture`` (n, years), the second within the first.

    Raises:
        ValueError: on anything :func:`check_times` rejects, or ``years`` below 1.

    >>> at_risk, fracture = yearly_intervals([1.5, 2.0, 0.5], [1, 0, 2], years=3)
    >>> at_risk.astype(int).tolist(), fracture.astype(int).tolist()
    ([[1, 1, 0], [1, 1, 0], [1, 1, 1]], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    """
    if years < 1:
        raise ValueError(f"years ({years}) must be at least 1")
    observed, codes = check_times(time, event)
    ends = np.arange(1, years + 1)
    year = np.maximum(np.ceil(observed), 1)[:, None]
    fractured = (codes == FRACTURE)[:, None]
    through = (observed[:, None] >= ends) & ~fractured | (codes == DEATH)[:, None]
    return through | (fractured & (ends <= year)), fractured & (ends == year)


def cumulative_risk(hazards: npt.ArrayLike) -> Floats:
    """Chain yearly hazards into the risk by the end of each year, 1 - Π (1 - h).

    Args:
        hazards: (..., years), each in [0, 1].

    Raises:
        ValueError: a hazard outside [0, 1].

    >>> cumulative_risk([0.1, 0.5]).round(3).tolist()
    [0.1, 0.55]
    """
    chances = np.asarray(hazards, np.float64)
    if not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError("hazards must lie in [0, 1]")
    return np.asarray(1 - np.cumprod(1 - chances, axis=-1), np.float64)


def _event_table(
    years: Floats, codes: npt.NDArray[np.int64]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return distinct times of fracture or death, with at risk, fractures and deaths at each."""
    times = np.unique(years[codes != CENSORED])
    at_risk = years.size - np.searchsorted(np.sort(years), times, side="left")
    counts = [
        np.bincount(np.searchsorted(times, years[codes == kind]), minlength=times.size)
        for kind in (FRACTURE, DEATH)
    ]
    return times, at_risk.astype(np.float64), counts[0].astype(float), counts[1].astype(float)


def _steps(values: Floats, step: npt.NDArray[np.int64]) -> Floats:
    """Read a step curve that starts at 0."""
    return np.concatenate([[0.0], values])[step]


def _incidence_variance(
    at_risk: Floats, fractures: Floats, deaths: Floats, before: Floats, incidence: Floats
) -> Floats:
    """Return the variance of the cumulative incidence of fracture at each event time.

    With R the incidence still to come, S the share event-free before, n at risk, d events and d1
    fractures: Σ R² d / (n (n - d)) + S² d1 (n - d1) / n³ - 2 R S d1 / n². Expanding R = F(t) - F(u)
    leaves running sums.
    """
    events, left = fractures + deaths, at_risk - fractures - deaths
    # With nobody left the incidence to come is 0, and so is the term.
    first = np.divide(events, at_risk * left, out=np.zeros_like(events), where=left > 0)
    second = before**2 * fractures * (at_risk - fractures) / at_risk**3
    third = before * fractures / at_risk**2
    square = incidence**2 * np.cumsum(first) - 2 * incidence * np.cumsum(first * incidence)
    square += np.cumsum(first * incidence**2)
    mixed = incidence * np.cumsum(third) - np.cumsum(third * incidence)
    # Rounding of the running sums may leave -1e-20 where the variance is zero.
    variance: Floats = np.maximum(square + np.cumsum(second) - 2 * mixed, 0.0)
    return variance


def _share_interval(
    share: float, variance: float, at_risk: int, quantile: float
) -> tuple[float, float]:
    """Return bounds of a cumulative incidence on the log-log scale."""
    rounding = 1e-12
    if share < rounding or share > 1 - rounding:
        bound = float(norm.sf(quantile) ** (1 / max(at_risk, 1)))
        return (0.0, 1 - bound) if share < rounding else (bound, 1.0)
    half = quantile * np.sqrt(variance) / abs(share * np.log(share))
    low, high = share ** np.exp([half, -half])
    return float(low), float(high)
