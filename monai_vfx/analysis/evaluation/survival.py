"""How well a score or a risk predicts fractures by a horizon, with censoring and death.

A patient is ``time`` (years, ≥ 0) and ``event``: 0 censored, 1 fracture, 2 death without fracture.

Events at a time come before what is censored at that time. So a patient observed without fracture
for exactly the horizon is known to be event-free at it; one observed for less is censored.

Sources: Blanche, Dartigues and Jacqmin-Gadda 2013 (time-dependent AUROC with competing events);
Graf 1999 and Schoop 2011 (Brier score).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from monai_vfx.analysis.evaluation.discrimination import hanley_mcneil_variance
from monai_vfx.analysis.evaluation.estimates import (
    Area,
    Bools,
    Floats,
    check_risks,
    extreme_interval,
    logit_interval,
    same_length,
)
from monai_vfx.analysis.evaluation.incidence import CENSORED, DEATH, FRACTURE, check_times
from monai_vfx.core.arrays import Json


@dataclass(frozen=True)
class _Observed:
    """What is known at the horizon, with the weights that make up for the censored."""

    case: Bools
    control: Bools
    weight: Floats
    """(n,): 1 / G at the patient's last relevant moment; 0 for the censored; sums to n."""


def time_auroc(
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    score: npt.ArrayLike,
    horizon_years: float,
) -> Area:
    """Return the AUROC for fracture by a horizon, weighted for censoring.

    Cases fractured by the horizon. Controls were observed without fracture to the horizon, or died
    before it (the second of Blanche's two definitions: the dead do not fracture). The censored in
    between have no weight; the others are weighted by 1 / G, the Kaplan-Meier chance of not being
    censored up to (left limit) their event or the horizon. Without censoring this is the plain
    AUROC.

    The interval is on the logit scale with the influence-function variance. An AUROC of 0 or 1
    gets the exact bound of :func:`.discrimination.auroc`; a variance of zero otherwise (all scores
    equal) is replaced by Hanley and McNeil's.

    >>> area = time_auroc([1, 5, 2, 6], [1, 0, 2, 0], [0.9, 0.2, 0.4, 0.95], 5)
    >>> round(area.value, 3), area.events, area.n
    (0.667, 1, 4)
    """
    years, codes = check_times(time, event)
    scores = same_length("score", score, "time", years)
    known = _observe(years, codes, horizon_years)
    cases, controls = int(known.case.sum()), int(known.control.sum())
    if not cases or not controls:
        raise ValueError(
            f"at {horizon_years} years there are {cases} fractures and {controls} patients known "
            "to be without; both must occur"
        )
    case_weight, control_weight = known.weight * known.case, known.weight * known.control
    below, above = _weighted_placements(scores, case_weight, control_weight)
    case_share, control_share = case_weight.mean(), control_weight.mean()
    value = float((case_weight * below).sum() / case_weight.sum())
    if value in (0.0, 1.0):
        low, high = extreme_interval(value, min(cases, controls))
        return Area(value, low, high, years.size, cases)
    direct = case_weight * (below - value) / case_share
    direct += control_weight * (above - value) / control_share
    influence = direct + _censoring_influence(years, codes, horizon_years, direct)
    variance = float((influence**2).sum() / years.size**2)
    if variance < 1e-15:
        variance = hanley_mcneil_variance(value, cases, controls)
    low, high = logit_interval(value, variance)
    return Area(value, low, high, years.size, cases, variance=variance)


def time_brier(
    time: npt.ArrayLike, event: npt.ArrayLike, risk: npt.ArrayLike, horizon_years: float
) -> float:
    """Return the Brier score at a horizon, weighted for censoring: mean of w (fracture - risk)².

    The dead count as patients without a fracture, as in :func:`time_auroc`.

    >>> time_brier([1, 5], [1, 0], [0.5, 0.1], 5)
    0.13
    """
    years, codes = check_times(time, event)
    risks = same_length("risk", risk, "time", years)
    check_risks(risks)
    known = _observe(years, codes, horizon_years)
    return float((known.weight * (known.case - risks) ** 2).mean())


def time_summary(
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    score: npt.ArrayLike,
    horizon_years: float,
    risk: npt.ArrayLike | None = None,
) -> Json:
    """Return the entry ``time`` of ``evaluation.json`` for a score.

    Returns:
        ``horizon_years``, ``auroc``, ``ci``, ``brier``, and how many of the ``n`` patients
        fractured by the horizon (``events``), were ``censored`` before it (observed for less than
        the horizon, event-free) or died before it (``deaths``).
    """
    years, codes = check_times(time, event)
    area = time_auroc(years, codes, score, horizon_years)
    return {
        "horizon_years": float(horizon_years),
        "auroc": area.value,
        "ci": area.ci,
        "brier": None if risk is None else time_brier(years, codes, risk, horizon_years),
        "n": area.n,
        "events": area.events,
        "censored": int(((codes == CENSORED) & (years < horizon_years)).sum()),
        "deaths": int(((codes == DEATH) & (years <= horizon_years)).sum()),
    }


def _censoring_table(
    years: Floats, codes: npt.NDArray[np.int64]
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return distinct times of censoring, with at risk of it, censored, and G after each.

    Events come before censoring at the same time, so they have left the risk set.
    """
    times = np.unique(years[codes == CENSORED])
    at_risk = years.size - np.searchsorted(np.sort(years), times, side="left")
    gone = np.searchsorted(times, years[codes != CENSORED])
    same = np.isin(years[codes != CENSORED], times)
    left = at_risk - np.bincount(gone[same], minlength=times.size)
    censored = np.bincount(np.searchsorted(times, years[codes == CENSORED]), minlength=times.size)
    remaining = np.cumprod(1 - censored / left)
    return times, left.astype(np.float64), censored.astype(np.float64), remaining


def _observe(years: Floats, codes: npt.NDArray[np.int64], horizon_years: float) -> _Observed:
    """Return cases, controls and weights at the horizon."""
    if not (np.isfinite(horizon_years) and horizon_years > 0):
        raise ValueError(f"horizon_years ({horizon_years}) must be above 0")
    happened = (codes != CENSORED) & (years <= horizon_years)
    free = ~happened & (years >= horizon_years)
    times, _, _, remaining = _censoring_table(years, codes)
    moment = np.minimum(years, horizon_years)
    chance = np.concatenate([[1.0], remaining])[np.searchsorted(times, moment, side="left")]
    if not free.any() and not happened[years == years.max()].all():
        raise ValueError(
            f"follow-up ends at {years.max()} years, before the horizon of {horizon_years}"
        )
    weight = np.divide(1.0, chance, out=np.zeros_like(chance), where=happened | free)
    case = happened & (codes == FRACTURE)
    return _Observed(case=case, control=(happened & ~case) | free, weight=weight)


def _weighted_placements(
    scores: Floats, case_weight: Floats, control_weight: Floats
) -> tuple[Floats, Floats]:
    """Return each patient's weighted share of controls below, and of cases above (ties half)."""
    place = rankdata(scores, method="dense").astype(np.int64) - 1
    controls = np.bincount(place, control_weight)
    cases = np.bincount(place, case_weight)
    below = (np.cumsum(controls) - controls / 2) / controls.sum()
    above = (np.cumsum(cases[::-1])[::-1] - cases / 2) / cases.sum()
    return below[place], above[place]


def _censoring_influence(
    years: Floats, codes: npt.NDArray[np.int64], horizon_years: float, direct: Floats
) -> Floats:
    """Return what a patient adds to the estimate by way of the censoring weights.

    A weight 1 / G(u-) moves by m(u-) / G(u-), m being the patient's censoring martingale over the
    share at risk; so each patient's ``direct`` influence, summed over those who are weighted
    after a time s, meets the patient's martingale at s.
    """
    n = years.size
    times, at_risk, censored, _ = _censoring_table(years, codes)
    within = times < horizon_years
    times, at_risk, censored = times[within], at_risk[within], censored[within]
    if not times.size:
        return np.zeros(n)
    moment = np.minimum(years, horizon_years)
    order = np.argsort(moment, kind="stable")
    tails = np.concatenate([np.cumsum(direct[order][::-1])[::-1], [0.0]])
    later = tails[np.searchsorted(moment[order], times, side="right")] / n
    jump = later / (at_risk / n)
    compensator = np.concatenate([[0.0], np.cumsum(jump * censored / at_risk)])
    # At risk of censoring at s: still observed at s, and no event at s itself.
    event = codes != CENSORED
    upto = np.where(
        event,
        np.searchsorted(times, years, side="left"),
        np.searchsorted(times, years, side="right"),
    )
    own = np.zeros(n)
    counted = ~event & (years < horizon_years)
    own[counted] = jump[np.searchsorted(times, years[counted])]
    influence: Floats = own - compensator[upto]
    return influence
