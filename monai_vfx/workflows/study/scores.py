"""All scores of a study in two tables: out-of-fold at home, the frozen ensembles elsewhere.

Clinical models, imaging baselines and late fusions are cross-fitted here; networks come from
:mod:`monai_vfx.workflows.study.images`. Every score of a development patient comes from models
that never
saw this patient's fold, every score of an external patient from the mean of all folds' models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.crossfit import CrossFit, cross_fit, threshold_rows
from monai_vfx.analysis.clinical.engines import Kind
from monai_vfx.analysis.clinical.fusion import LateFusion, NestedScores, late_fusion
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES
from monai_vfx.analysis.clinical.variables import MATCHING_VARIABLES, MODELS
from monai_vfx.analysis.cohort.patients_csv import outcome_times
from monai_vfx.core.files import write_json
from monai_vfx.workflows.study.images import (
    ImageModel,
    ensemble,
    image_models,
    out_of_fold,
    validation_scores,
)
from monai_vfx.workflows.study.plan import Plan

FRAX = ("frax_major", "frax_hip")
"""Comparators that come with the patients, in percent, and are not fitted to anything."""
BASE = ("case_id", "patient_id", "pair_id", "fold", "fracture")


@dataclass(frozen=True)
class Patients:
    """One hospital's patients as a study scores them.

    Args:
        frame: the selected rows of its table, in order.
        features: measurements of the imaging baseline, one row a case.
    """

    frame: pd.DataFrame
    features: pd.DataFrame

    def with_features(self) -> pd.DataFrame:
        """Return the table with the measurements beside it."""
        return self.frame.merge(
            self.features[["case_id", *IMAGING_VARIABLES]], on="case_id", how="left", validate="1:1"
        )


def columns(plan: Plan) -> list[str]:
    """Return the columns that the tables of a study must have; single cells may be empty."""
    models = [*plan.clinical, *(plan.images.fusion if plan.images.models else ())]
    names = [name for model in models for name in MODELS[model]]
    if plan.images.models and plan.images.hazard:
        names.append("follow_up_years")
    return list(dict.fromkeys(names))


def clinical_fits(plan: Plan, patients: Patients) -> dict[str, CrossFit]:
    """Cross-fit every model that takes no picture, by the name of its score."""
    frame = patients.with_features()
    fits = {}
    kinds: dict[str, Kind] = {"clinical": "xgboost", "logistic": "logistic"}
    for prefix, kind in kinds.items():
        for model in plan.clinical:
            name = f"{prefix}_{model}"
            fits[name] = cross_fit(frame, MODELS[model], kind, plan.seed, name=name)
    measured = [name for name in IMAGING_VARIABLES if frame[name].notna().any()]
    if measured:
        name = "imaging_baseline"
        fits[name] = cross_fit(frame, measured, "logistic", plan.seed, name=name)
    if set(MATCHING_VARIABLES) <= set(frame):
        name = "matched_only"
        fits[name] = cross_fit(frame, MATCHING_VARIABLES, "logistic", plan.seed, name=name)
    return fits


def late_fusions(
    plan: Plan, root: Path, frame: pd.DataFrame, fits: Mapping[str, CrossFit]
) -> dict[str, LateFusion]:
    """Join the main network's score with each clinical model's by a regression."""
    main = _main(plan)
    if main is None:
        return {}
    scores = np.asarray(out_of_fold(root, main, plan.folds).reindex(frame["case_id"]), np.float64)
    image = NestedScores(scores, validation_scores(root, main, plan.folds))
    return {
        f"late_fusion_{m}": late_fusion(
            frame, image, fits[f"clinical_{m}"], name=f"late_fusion_{m}"
        )
        for m in plan.images.fusion
        if f"clinical_{m}" in fits
    }


def development_tables(
    plan: Plan, root: Path, patients: Patients
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, CrossFit | LateFusion]]:
    """Return out-of-fold predictions and all thresholds, and the fits behind them.

    The thresholds of a fold come from patients outside it; those named ``frozen`` from all
    development patients' out-of-fold scores, for the external hospital.
    """
    frame = patients.frame
    fits = clinical_fits(plan, patients)
    late = late_fusions(plan, root, frame, fits)
    table = _base(frame)
    thresholds = []
    for model in _first_seed(plan):
        table[model.score] = (
            out_of_fold(root, model, plan.folds).reindex(frame["case_id"]).to_numpy()
        )
        inner = validation_scores(root, model, plan.folds)
        thresholds.append(_by_fold(model.score, inner, frame, "validation fold"))
    everything: dict[str, CrossFit | LateFusion] = {**fits, **late}
    for name, fit in everything.items():
        table[name] = fit.scores
        thresholds.append(fit.thresholds)
    for name in FRAX:
        if name in frame and frame[name].notna().any():
            table[name] = frame[name].to_numpy()
            thresholds.append(_other_folds(name, table))
    thresholds += [
        threshold_rows(name, "frozen", table["fracture"], table[name], "development out-of-fold")
        for name in score_names(table)
    ]
    return table, pd.concat(thresholds, ignore_index=True), everything


def external_table(
    plan: Plan,
    root: Path,
    patients: Patients,
    fits: Mapping[str, CrossFit | LateFusion],
) -> pd.DataFrame:
    """Return the external patients' scores by the ensembles of the folds' models."""
    table = _base(patients.frame).drop(columns=["pair_id", "fold"], errors="ignore")
    cases = patients.frame["case_id"]
    for model in _first_seed(plan):
        members = ensemble(root, model, plan.folds)
        # A patient whom one member refuses has no score of the ensemble.
        table[model.score] = members.mean(axis=1, skipna=False).reindex(cases).to_numpy()
    frame = patients.with_features()
    for name, fit in fits.items():
        if isinstance(fit, CrossFit):
            table[name] = fit.predict(frame)
    main = _main(plan)
    for name, fit in fits.items():
        if isinstance(fit, LateFusion) and main is not None:
            clinical = table[name.replace("late_fusion", "clinical")]
            table[name] = fit.predict(table[main.score], clinical)
    for name in FRAX:
        if name in patients.frame and patients.frame[name].notna().any():
            table[name] = patients.frame[name].to_numpy()
    return table


def save_fits(folder: Path, fits: Mapping[str, CrossFit | LateFusion]) -> list[Path]:
    """Leave each fit's models and what it saw under ``folder/<score>/``."""
    made = []
    for name, fit in fits.items():
        seen = folder / name / "fits.json"
        write_json(seen, {"fits": fit.audit})
        made.append(seen)
        for fold, model in fit.models.items():
            path = folder / name / f"model_fold_{fold}.json"
            write_json(path, model.to_json())
            made.append(path)
        if isinstance(fit, CrossFit):
            inner = folder / name / "inner.csv"
            fit.inner.to_csv(inner, index=False)
            made.append(inner)
    return made


def score_names(table: pd.DataFrame) -> list[str]:
    """Return the columns of a predictions table that are scores."""
    known = {*BASE, "time_years", "event"}
    return [str(name) for name in table.columns if name not in known]


def main_score(plan: Plan, scores: list[str]) -> str:
    """Return the score that a study is about: its main network's, else the richest model's."""
    wanted = f"image_{plan.images.main}"
    clinical = [name for name in scores if name.startswith("clinical_")]
    return wanted if wanted in scores else (clinical or scores)[-1]


def comparisons(plan: Plan, scores: list[str]) -> list[tuple[str, str]]:
    """Return the pairs that the paper's tables compare, as far as both scores exist."""
    # An absolute risk is the main score and the matched variables: no model of its own.
    scores = [name for name in scores if not name.startswith("risk_")]
    main = main_score(plan, scores)
    return [(main, name) for name in scores if name != main]


def _base(frame: pd.DataFrame) -> pd.DataFrame:
    table = frame[[name for name in BASE if name in frame]].reset_index(drop=True).copy()
    if "follow_up_years" in frame and frame["follow_up_years"].notna().all():
        table["time_years"], table["event"] = outcome_times(frame)
    return table


def _main(plan: Plan) -> ImageModel | None:
    name = plan.images.main
    return next((model for model in image_models(plan) if model.name == name), None)


def _first_seed(plan: Plan) -> list[ImageModel]:
    return [model for model in image_models(plan) if not model.further_seed]


def _by_fold(name: str, inner: pd.DataFrame, frame: pd.DataFrame, chosen_on: str) -> pd.DataFrame:
    """Choose thresholds of each fold on the scores that its model gave to others."""
    outcome = frame.set_index("case_id")["fracture"]
    return pd.concat(
        [
            threshold_rows(
                name,
                fold,
                outcome.loc[inner.loc[inner["fold"] == fold, "case_id"]],
                inner.loc[inner["fold"] == fold, "score"],
                chosen_on,
            )
            for fold in sorted(set(inner["fold"].tolist()))
        ]
    )


def _other_folds(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Choose thresholds of each fold on the other folds, for a score that nobody fitted."""
    return pd.concat(
        [
            threshold_rows(
                name,
                fold,
                table.loc[table["fold"] != fold, "fracture"],
                table.loc[table["fold"] != fold, name],
                "other folds",
            )
            for fold in sorted({int(k) for k in table["fold"]})
        ]
    )
