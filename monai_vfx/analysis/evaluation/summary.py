"""Everything about a table of scores in one document: ``evaluation.json``.

Missing scores are never filled in: each score is judged on the patients that have it, each
comparison on those that have both, and every number states how many that were.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from monai_vfx.analysis.evaluation.adjusted import adjusted_auroc
from monai_vfx.analysis.evaluation.bootstrap import MIN_SAMPLES, SAMPLES, percentile_interval
from monai_vfx.analysis.evaluation.calibration_curve import calibration_summary
from monai_vfx.analysis.evaluation.comparisons import add_holm, difference_interval, mcnemar_tests
from monai_vfx.analysis.evaluation.decision_curve import decision_curve
from monai_vfx.analysis.evaluation.decisions import Decision, decide
from monai_vfx.analysis.evaluation.discrimination import auroc, auroc_json, delong_test
from monai_vfx.analysis.evaluation.estimates import CONFIDENCE, Bools, Floats
from monai_vfx.analysis.evaluation.incidence import cumulative_incidence
from monai_vfx.analysis.evaluation.patients import Patients
from monai_vfx.analysis.evaluation.score_table import Columns, check_table
from monai_vfx.analysis.evaluation.subgroups import Groups, split_groups, subgroup_rows
from monai_vfx.analysis.evaluation.survival import time_summary
from monai_vfx.analysis.evaluation.thresholds import (
    DEFAULT_RULES,
    SAME_ROWS,
    operating_point,
    point_json,
)
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd


def evaluate_scores(
    frame: pd.DataFrame,
    label: str,
    scores: Sequence[str],
    *,
    thresholds: pd.DataFrame | None = None,
    rules: Sequence[str] = DEFAULT_RULES,
    subgroups: Sequence[str] = (),
    adjust_for: Sequence[str] = (),
    time: str | None = None,
    event: str | None = None,
    horizon_years: float = 5.0,
    risk_scores: Sequence[str] = (),
    prevalence: float | None = None,
    comparisons: str | Sequence[tuple[str, str]] = "all",
    bootstrap: int = SAMPLES,
    seed: int = 0,
) -> Json:
    """Judge the scores of a table.

    Patients tied by the columns ``patient_id`` and ``pair_id`` are drawn together in the bootstrap.

    Args:
        frame: one row a patient, cells as numbers or as text that reads as numbers.
        label: column, 0 or 1.
        scores: columns, any scale, higher meaning more likely to fracture; may have gaps.
        thresholds: cut points chosen elsewhere (columns ``score``, ``fold``, ``rule``,
            ``threshold``, ``chosen_on``). Patients with a ``fold`` take their fold's, the others
            those of the fold ``frozen``. Scores that it does not name, and all without it, take
            cut points chosen on these same patients, and say so.
        rules: for these, see :func:`.thresholds.choose_thresholds`.
        subgroups: columns to give AUROCs by.
        adjust_for: covariates of the adjusted AUROC, all together.
        time: column, years of follow-up.
        event: column, 0 censored, 1 fracture, 2 death.
        horizon_years: of the time-dependent AUROC.
        risk_scores: scores that are absolute risks in 0-1: calibration is that of a risk, and they
            get a decision curve.
        prevalence: share of patients who fracture, for the decision curve; by default that of the
            table, which is an artefact where controls were sampled.
        comparisons: ``all`` pairs, ``reference`` (the first score with each other), or pairs.
        bootstrap: number of samples, at least 100.
        seed: of the bootstrap, not negative.

    Returns:
        The document of ``data_schemas/evaluation.schema.json``.

    Raises:
        SettingError: a column is missing or settings do not fit together.
        CaseRefused: ``cohort_invalid``, naming every bad cell.
    """
    columns = Columns(
        label, tuple(scores), tuple(risk_scores), time, event, tuple(subgroups), tuple(adjust_for)
    )
    _check_settings(bootstrap, seed, horizon_years, prevalence)
    if not risk_scores and any(rule.startswith("risk_") for rule in rules):
        raise SettingError("a rule on absolute risk needs a score that is one (risk_scores)")
    table = check_table(frame, columns)
    pairs = _pairs(columns.scores, comparisons)
    patients = Patients(table, columns, bootstrap, seed, prevalence)
    decisions = {
        name: decide(table, label, name, thresholds, rules, is_risk=name in columns.risk_scores)
        for name in columns.scores
    }
    groups = [_groups(table[name]) for name in columns.subgroups]
    entries = {
        name: _score_entry(patients, name, decisions[name], groups, horizon_years)
        for name in columns.scores
    }
    document = {
        "n": len(table),
        "events": int(patients.outcome.sum()),
        "label": label,
        "confidence": CONFIDENCE,
        "complete_cases": bool(table[list(columns.scores)].notna().to_numpy().all()),
        "scores": entries,
        "comparisons": _compare_aurocs(patients, pairs)
        + _compare_calls(patients, pairs, decisions),
        "cumulative_incidence": None,
        "notes": patients.notes,
    }
    if time is not None and event is not None:
        document["cumulative_incidence"] = cumulative_incidence(table[time], table[event])
    return document


def _check_settings(
    bootstrap: int, seed: int, horizon_years: float, prevalence: float | None
) -> None:
    if bootstrap < MIN_SAMPLES:
        raise SettingError(f"bootstrap ({bootstrap}) must be at least {MIN_SAMPLES}")
    if seed < 0:
        raise SettingError(f"seed ({seed}) must not be negative")
    if not 0 < horizon_years < np.inf:
        raise SettingError(f"horizon_years ({horizon_years}) must be positive")
    if prevalence is not None and not 0 < prevalence < 1:
        raise SettingError(f"prevalence ({prevalence}) must lie between 0 and 1")


def _pairs(
    scores: tuple[str, ...], comparisons: str | Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the pairs of scores to compare."""
    if comparisons == "all":
        return list(combinations(scores, 2))
    if comparisons == "reference":
        return [(scores[0], other) for other in scores[1:]]
    if isinstance(comparisons, str):
        raise SettingError(f"comparisons ({comparisons}) must be all, reference or pairs of scores")
    pairs = [(a, b) for a, b in comparisons]
    strangers = sorted({name for pair in pairs for name in pair if name not in scores})
    if strangers or any(a == b for a, b in pairs):
        raise SettingError(
            f"comparisons must be pairs of two different scores among {', '.join(scores)}"
        )
    return pairs


def _groups(column: pd.Series) -> Groups:
    try:
        return split_groups(column)
    except ValueError as error:
        raise SettingError(str(error)) from error


def _score_entry(
    patients: Patients,
    name: str,
    decisions: Sequence[Decision],
    groups: Sequence[Groups],
    horizon_years: float,
) -> Json:
    """Return what ``evaluation.json`` holds of one score."""
    there = patients.having(name)
    y, values = patients.outcome[there], patients.values(name)[there]
    is_risk = name in patients.columns.risk_scores
    low, high = percentile_interval(patients.resampled(name, there))
    return auroc_json(auroc(y, values)) | {
        "missing": int((~there).sum()),
        "bootstrap_ci": [low, high],
        "bootstrap_samples": patients.samples,
        "operating_points": [
            {
                "rule": decision.rule,
                "threshold": decision.threshold,
                "chosen_on": decision.chosen_on,
                **point_json(operating_point(y, decision.positive[there])),
            }
            for decision in decisions
        ],
        "calibration": _calibration(y, values, is_risk=is_risk),
        "decision_curve": (
            decision_curve(y, values, prevalence=patients.prevalence) if is_risk else None
        ),
        "adjusted_auroc": _adjusted(patients, name),
        "time": _over_time(patients, name, horizon_years),
        "subgroups": [
            row
            for group in groups
            for row in subgroup_rows(patients.outcome, patients.values(name), group)
        ],
    }


def _calibration(y: Bools, values: Floats, *, is_risk: bool) -> Json | None:
    """Return calibration, for a risk or for a score that is a probability among these patients."""
    if values.min() < 0 or values.max() > 1:
        return None
    return calibration_summary(y, values) | {"kind": "risk" if is_risk else "score"}


def _adjusted(patients: Patients, name: str) -> Json | None:
    covariates = list(patients.columns.adjust_for)
    if not covariates:
        return None
    rows = patients.having(name, *covariates)
    y = patients.outcome[rows]
    try:
        found = adjusted_auroc(
            y,
            patients.values(name)[rows],
            patients.table.loc[rows, covariates],
            patients.counts(rows),
        )
    except ValueError as error:
        patients.notes.append(f"No adjusted AUROC of {name}: {error}.")
        return None
    return {
        "auroc": found.value,
        "ci": found.ci,
        "adjusted_for": covariates,
        "method": found.method,
        "n": found.n,
        "events": found.events,
        "without_match": y.size - found.n,
    }


def _over_time(patients: Patients, name: str, horizon_years: float) -> Json | None:
    time, event = patients.columns.time, patients.columns.event
    if time is None or event is None:
        return None
    rows = patients.having(name)
    score = patients.values(name)[rows]
    risk = score if name in patients.columns.risk_scores else None
    try:
        return time_summary(
            patients.values(time)[rows], patients.values(event)[rows], score, horizon_years, risk
        )
    except ValueError as error:
        patients.notes.append(f"No time-dependent AUROC of {name}: {error}.")
        return None


def _compare_aurocs(patients: Patients, pairs: Sequence[tuple[str, str]]) -> list[Json]:
    """Return DeLong's tests; one family for Holm's correction."""
    found: list[Json] = []
    for a, b in pairs:
        rows = patients.having(a, b)
        y = patients.outcome[rows]
        if min(y.sum(), (~y).sum()) < 2:
            patients.notes.append(f"{a} and {b} are not compared: fewer than two of each outcome.")
            continue
        one, other = patients.values(a)[rows], patients.values(b)[rows]
        test = delong_test(y, one, other)
        interval = difference_interval(test)
        apart = patients.resampled(a, rows) - patients.resampled(b, rows)
        found.append(
            {
                "a": a,
                "b": b,
                "test": "delong",
                "family": "delong",
                "n": test.n,
                "events": test.events,
                "auroc_a": test.auroc_a,
                "auroc_b": test.auroc_b,
                "difference": test.difference,
                "difference_ci": None if interval is None else list(interval),
                "bootstrap_ci": list(percentile_interval(apart)),
                "z": test.z,
                "p": test.p,
            }
        )
    return add_holm(found)


def _compare_calls(
    patients: Patients,
    pairs: Sequence[tuple[str, str]],
    decisions: dict[str, list[Decision]],
) -> list[Json]:
    """Return McNemar's tests; a family a rule and quantity."""
    found: list[Json] = []
    for a, b in pairs:
        rows = patients.having(a, b)
        y = patients.outcome[rows]
        of_b = {decision.rule: decision for decision in decisions[b]}
        for one in decisions[a]:
            other = of_b.get(one.rule)
            obstacle = _obstacle(one, other, y)
            if other is None or obstacle:
                patients.notes.append(
                    f"Decisions of {a} and {b} by {one.rule} are not compared: {obstacle}."
                )
                continue
            found += [
                {
                    "a": a,
                    "b": b,
                    "test": "mcnemar",
                    "family": f"mcnemar {test.quantity} {one.rule}",
                    "quantity": test.quantity,
                    "rule": one.rule,
                    "n": test.n,
                    "only_a": test.only_a,
                    "only_b": test.only_b,
                    "p": test.p,
                }
                for test in mcnemar_tests(y, one.positive[rows], other.positive[rows])
            ]
    return add_holm(found)


def _obstacle(one: Decision, other: Decision | None, y: Bools) -> str | None:
    """Return why two decisions cannot be compared fairly; None if they can."""
    if other is None:
        return "only the first has that cut point"
    if (one.chosen_on == SAME_ROWS) != (other.chosen_on == SAME_ROWS):
        return "one cut point was chosen on these same patients, the other was not"
    if not 0 < y.sum() < y.size:
        return "the patients with both scores lack an outcome"
    return None
