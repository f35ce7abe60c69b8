"""Who was sampled from a cohort, and with which chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.calibration.terms import choose_terms, design
from monai_vfx.analysis.evaluation.estimates import Floats, check_outcome
from monai_vfx.analysis.logistic import fit_logistic
from monai_vfx.core.errors import SettingError

MIN_A_COLUMN = 10
"""Sampled, and unsampled, patients a column below which a class has one chance of sampling."""


def inclusion(
    columns: Floats, fracture: npt.ArrayLike, place: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return the chance with which each sampled patient was taken from the cohort.

    In each outcome class a logistic regression of having been sampled on the columns; 1 where
    the whole class was sampled. Where fewer than ten a column were sampled, or were not (a few
    cases that found no control, say), a regression would tell them apart by chance and may have
    no solution: the class then has one chance, its sampled share.

    Args:
        columns: (N, k) of the cohort, intercept first.
        fracture: (N,) 0 or 1.
        place: (n,) rows of the sampled.

    Returns:
        (n,) in (0, 1], in the order of ``place``; and (N, 2 k) the scores of the two regressions,
        zero where there is none.
    """
    outcome = np.asarray(fracture, np.float64)
    sampled = np.zeros(outcome.size)
    sampled[place] = 1.0
    chance = np.ones(outcome.size)
    scores = np.zeros((2, *columns.shape))
    for value in (0, 1):
        rows = outcome == value
        taken = int(sampled[rows].sum())
        if not 0 < taken < rows.sum():
            continue
        used = columns
        if min(taken, int(rows.sum()) - taken) < MIN_A_COLUMN * columns.shape[1]:
            used = columns[:, :1]
        model = fit_logistic(used[rows], sampled[rows])
        chance[rows] = model.probability
        scores[value][rows, : used.shape[1]] = model.scores
    return chance[place], np.concatenate(list(scores), axis=1)


def sampling_weights(
    population: pd.DataFrame, selected: pd.DataFrame, variables: Sequence[str]
) -> Floats:
    """Return (n,) how many patients of the cohort each sampled one stands for; NaN if unknown."""
    everyone = usable_population(population, variables)
    place = places(population, everyone, selected)
    found = place >= 0
    smaller = int(everyone["fracture"].to_numpy()[place[found]].sum())
    terms = choose_terms(everyone, variables, smaller)
    weights = np.full(len(selected), np.nan)
    chance, _ = inclusion(design(everyone, terms), everyone["fracture"], place[found])
    weights[found] = 1.0 / chance
    return weights


def usable_population(population: pd.DataFrame, variables: Sequence[str]) -> pd.DataFrame:
    """Return the cohort's rows that have the outcome and every variable, numbered anew."""
    missing = [name for name in ("case_id", "fracture", *variables) if name not in population]
    if missing:
        raise SettingError(f"the population table has no column {', '.join(missing)}")
    kept = population[population[["fracture", *variables]].notna().all(axis=1)]
    if kept["case_id"].duplicated().any():
        raise SettingError("the population table names a case twice")
    check_outcome(kept["fracture"].to_numpy())
    return kept.reset_index(drop=True)


def places(
    population: pd.DataFrame, everyone: pd.DataFrame, selected: pd.DataFrame
) -> npt.NDArray[np.int64]:
    """Return each sampled patient's row in the usable cohort; -1 where it lacks a value."""
    if "case_id" not in selected:
        raise SettingError("the sample's table has no column 'case_id'")
    strange = ~selected["case_id"].isin(population["case_id"])
    if strange.any():
        raise SettingError(
            f"{strange.sum()} of {len(selected)} sampled cases are not in the population table; "
            "it must be the whole cohort from which they were taken"
        )
    return np.asarray(pd.Index(everyone["case_id"]).get_indexer(selected["case_id"]), np.int64)
