"""How well corrected risks fit the cohort: reliability and mean risk by group."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import logit

from monai_vfx.analysis.calibration.model import Calibration, mean_risk_interval
from monai_vfx.analysis.evaluation.calibration_curve import coefficient_interval
from monai_vfx.analysis.evaluation.estimates import (
    CONFIDENCE,
    Bools,
    Floats,
    check_outcome,
    wilson_interval,
)
from monai_vfx.analysis.logistic import fit_logistic
from monai_vfx.core.arrays import Json

AGE_THIRDS = ("youngest third", "middle third", "oldest third")


def sampled_summary(
    y: npt.ArrayLike, risk: npt.ArrayLike, weights: npt.ArrayLike, *, bins: int = 10
) -> Json:
    """Return the reliability of absolute risks, judged on patients sampled from a cohort.

    As :func:`.evaluation.calibration_curve.calibration_summary`, with every patient standing for
    ``weights`` patients of the cohort. Slope and intercept have robust (sandwich)
    intervals. The interval of a bin's observed share is Wilson's for the cases among the sampled,
    its odds multiplied by what sampling took away.
    """
    outcome, named = check_outcome(y, risk=risk, weights=weights)
    risks, weight = named["risk"], named["weights"]
    share = weight / weight.sum()
    linear, ones = logit(risks), np.ones((risks.size, 1))
    model = fit_logistic(np.column_stack([ones, linear]), outcome, weight=weight)
    slope = coefficient_interval(model, robust=True)
    model = fit_logistic(ones, outcome, weight=weight, offset=linear)
    intercept = coefficient_interval(model, robust=True)
    groups = np.array_split(np.argsort(risks, kind="stable"), min(bins, risks.size))
    return {
        "kind": "risk",
        "n": outcome.size,
        "events": int(outcome.sum()),
        "confidence": CONFIDENCE,
        "slope": slope[0],
        "slope_ci": slope[1],
        "intercept": intercept[0],
        "intercept_ci": intercept[1],
        "brier": float(share @ (risks - outcome) ** 2),
        "ici": None,
        "mean_predicted": float(share @ risks),
        "observed": float(share @ outcome),
        "bins": [_bin(outcome[rows], risks[rows], weight[rows]) for rows in groups],
        "notes": ["sampled patients, each weighted by the inverse of its chance to be sampled"],
    }


def group_risks(
    calibration: Calibration, patients: pd.DataFrame, cohort: pd.DataFrame | None = None
) -> list[Json]:
    """Return mean risk, its interval and the observed share for all, by age third and by sex.

    Args:
        calibration: fitted.
        patients: ``score``, ``label``, the calibration's variables and, where they were sampled,
            ``weight``; grouping needs ``age`` and ``sex``, what is missing is left out.
        cohort: the whole cohort with ``fracture``; sets the thirds of age and the observed
            shares. None: the patients are the cohort.
    """
    whole = patients.rename(columns={"label": "fracture"}) if cohort is None else cohort
    rows = []
    for variable, value, here, there in _groups(patients, whole):
        usable = calibration.usable(patients["score"], patients) & here
        group, outcome = patients[usable], whole.loc[there, "fracture"]
        entry: Json = {"variable": variable, "value": value, "n": len(group)}
        entry |= {"events": int(group["label"].sum()), "mean_risk": None, "ci": None}
        if len(group):
            found = mean_risk_interval(
                calibration, group["score"], group, weights=group.get("weight")
            )
            entry |= {"mean_risk": found.value, "ci": found.ci, "n": found.n}
        observed = wilson_interval(int(outcome.sum()), max(1, len(outcome)))
        entry["observed"] = {
            "value": observed.value if len(outcome) else None,
            "ci": observed.ci if len(outcome) else None,
            "n": len(outcome),
            "events": int(outcome.sum()),
        }
        rows.append(entry)
    return rows


def _groups(patients: pd.DataFrame, whole: pd.DataFrame) -> Iterator[tuple[str, str, Bools, Bools]]:
    """Yield variable, value, and who belongs to it among patients and in the cohort."""
    yield "all", "all", np.ones(len(patients), np.bool_), np.ones(len(whole), np.bool_)
    if "age" in patients and "age" in whole:
        cuts = np.nanquantile(whole["age"].to_numpy(np.float64), [1 / 3, 2 / 3])
        limits = [-np.inf, *cuts, np.inf]
        for name, low, high in zip(AGE_THIRDS, limits[:-1], limits[1:], strict=True):
            here, there = (
                ((frame["age"] > low) & (frame["age"] <= high)).to_numpy()
                for frame in (patients, whole)
            )
            yield "age", name, here, there
    if "sex" in patients and "sex" in whole:
        for name in ("F", "M"):
            here, there = ((frame["sex"] == name).to_numpy() for frame in (patients, whole))
            yield "sex", name, here, there


def _bin(outcome: Bools, risk: Floats, weight: Floats) -> Json:
    events, n = int(outcome.sum()), outcome.size
    # Mean weight of cases over that of controls; where a class is absent, of the bin's others.
    cases = float(weight[outcome].mean()) if events else 1.0
    controls = float(weight[~outcome].mean()) if events < n else 1.0
    sampled = wilson_interval(events, n)
    bounds = [_scaled(share, cases / controls) for share in sampled.ci]
    return {
        "predicted": float(weight @ risk / weight.sum()),
        "observed": _scaled(sampled.value, cases / controls),
        "ci": bounds,
        "n": n,
        "events": events,
    }


def _scaled(share: float, factor: float) -> float:
    """Return a share whose odds are multiplied by a factor.

    >>> round(_scaled(0.5, 1 / 9), 6)
    0.1
    """
    return share * factor / (share * factor + 1 - share)
