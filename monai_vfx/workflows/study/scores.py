"""All scores of a study in two tables: out-of-fold for development, frozen ensembles for external.

Clinical models, imaging baselines and late fusions are cross-fitted here; networks come from
:mod:`monai_vfx.workflows.study.images`. Every score of a development patient comes from models
that never saw this patient's fold, every score of an external patient from the mean of all folds'
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.crossfit import (
    CrossFit,
    cross_fit,
    ensemble_score,
    threshold_rows,
)
from monai_vfx.analysis.clinical.fusion import Fusion, NestedScores, late_fusion
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES
from monai_vfx.analysis.clinical.models import ClinicalModel
from monai_vfx.analysis.clinical.scores import (
    FRAX,
    IMAGING_BASELINE,
    MATCHED_ONLY,
    Fits,
    FoldModels,
    frozen_thresholds,
    lettered_models,
    load_models,
    other_folds_thresholds,
)
from monai_vfx.analysis.clinical.variables import MATCHING_VARIABLES, MODELS
from monai_vfx.analysis.cohort.patients_csv import outcome_times
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.workflows.study.images import (
    ImageModel,
    ensemble,
    image_models,
    out_of_fold,
    validation_scores,
)
from monai_vfx.workflows.study.plan import Plan

LATE_FUSION = "late_fusion"
BASE = ("case_id", "patient_id", "pair_id", "fold", "fracture")


@dataclass(frozen=True)
class Patients:
    """One hospital's selected patients, and the measurements of the imaging baseline by case."""

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


def clinical_fits(plan: Plan, patients: Patients) -> dict[str, CrossFit[ClinicalModel]]:
    """Cross-fit every model that takes no image, by the name of its score."""
    frame = patients.with_features()
    models = lettered_models(plan.clinical)
    measured = tuple(name for name in IMAGING_VARIABLES if frame[name].notna().any())
    if measured:
        models[IMAGING_BASELINE] = ("logistic", measured)
    if set(MATCHING_VARIABLES) <= set(frame):
        models[MATCHED_ONLY] = ("logistic", MATCHING_VARIABLES)
    return {
        name: cross_fit(frame, variables, kind, plan.seed, name=name)
        for name, (kind, variables) in models.items()
    }


def late_fusions(
    plan: Plan, root: Path, frame: pd.DataFrame, fits: Mapping[str, CrossFit[ClinicalModel]]
) -> dict[str, CrossFit[Fusion]]:
    """Join the main network's score with each clinical model's by a regression."""
    main = _main(plan)
    if main is None:
        return {}
    scores = np.asarray(out_of_fold(root, main, plan.folds).reindex(frame["case_id"]), np.float64)
    image = NestedScores(scores, validation_scores(root, main, plan.folds))
    fused = {}
    for letter in plan.images.fusion:
        clinical, name = fits.get(f"clinical_{letter}"), f"{LATE_FUSION}_{letter}"
        if clinical is not None:
            fused[name] = late_fusion(frame, image, clinical, name=name)
    return fused


def development_tables(
    plan: Plan, root: Path, patients: Patients
) -> tuple[pd.DataFrame, pd.DataFrame, Fits]:
    """Return out-of-fold predictions and all thresholds, and the fits behind them.

    The thresholds of a fold come from patients outside it; those named ``frozen`` from all
    development patients' out-of-fold scores, for the external hospital.
    """
    frame = patients.frame
    fits = clinical_fits(plan, patients)
    everything: Fits = {**fits, **late_fusions(plan, root, frame, fits)}
    table = _base(frame)
    y = table["fracture"].to_numpy(np.float64)
    thresholds = []
    for model in _first_seed(plan):
        own = out_of_fold(root, model, plan.folds)
        table[model.score] = own.reindex(frame["case_id"]).to_numpy()
        inner = validation_scores(root, model, plan.folds)
        outcome = inner["case_id"].map(frame.set_index("case_id")["fracture"])
        thresholds += [
            threshold_rows(model.score, int(str(k)), outcome[own.index], own, "validation fold")
            for k, own in inner.groupby("fold")["score"]
        ]
    for name, fit in everything.items():
        table[name] = fit.scores
        thresholds.append(fit.thresholds)
    for name in _frax(frame):
        table[name] = frame[name].to_numpy()
        folds = frame["fold"].to_numpy(np.float64)
        thresholds += other_folds_thresholds(name, folds, y, table[name].to_numpy())
    for name in score_names(table):
        thresholds += frozen_thresholds(name, y, table[name].to_numpy())
    return table, pd.concat(thresholds, ignore_index=True), everything


def external_table(
    plan: Plan, root: Path, patients: Patients, models: Mapping[str, FoldModels]
) -> pd.DataFrame:
    """Return the external patients' scores by the ensembles of the folds' models.

    ``models`` are score → fold → model, those of late fusions last (:func:`load_all_models`).
    """
    table = _base(patients.frame).drop(columns=["pair_id", "fold"], errors="ignore")
    cases = patients.frame["case_id"]
    for model in _first_seed(plan):
        members = ensemble(root, model, plan.folds)
        # A patient whom one member refuses has no score of the ensemble.
        table[model.score] = members.mean(axis=1, skipna=False).reindex(cases).to_numpy()
    frame, main = patients.with_features(), _main(plan)
    for name, folds in models.items():
        if not name.startswith(LATE_FUSION):
            table[name] = ensemble_score(folds, frame)
        elif main is not None:
            clinical = table[name.replace(LATE_FUSION, "clinical")]
            table[name] = ensemble_score(folds, table[main.score], clinical)
    for name in _frax(patients.frame):
        table[name] = patients.frame[name].to_numpy()
    return table


def load_all_models(folder: Path, predictions: pd.DataFrame) -> dict[str, FoldModels]:
    """Load the models that ``save_fits`` wrote, in the order of the development predictions."""
    names = [name for name in score_names(predictions) if (folder / name).is_dir()]
    return {name: load_models(folder / name) for name in names}


def spread_over_seeds(plan: Plan, root: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return the AUROC of every seed: how far training alone moves it, patients apart."""
    rows = []
    for model in image_models(plan):
        if model.name in plan.images.models or model.further_seed:
            own = out_of_fold(root, model, plan.folds)
            known = table[table["case_id"].isin(own.index)]
            result = auroc(known["fracture"], own.loc[known["case_id"]])
            rows.append({"score": model.score, "seed": model.seed, "auroc": result.value})
    return pd.DataFrame(rows).sort_values(["score", "seed"])


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


def _frax(frame: pd.DataFrame) -> list[str]:
    return [name for name in FRAX if name in frame and frame[name].notna().any()]
