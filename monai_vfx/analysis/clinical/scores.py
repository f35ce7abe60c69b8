"""What clinical scores have in common: their models, thresholds and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.crossfit import CrossFit, threshold_rows
from monai_vfx.analysis.clinical.engines import Floats, Kind
from monai_vfx.analysis.clinical.fusion import Fusion
from monai_vfx.analysis.clinical.models import ClinicalModel, load_clinical
from monai_vfx.analysis.clinical.variables import MODELS
from monai_vfx.core.files import read_json, write_frame, write_json

FRAX = ("frax_major", "frax_hip")
"""Scores that a table may bring along, in percent; nothing is fitted to them."""
MATCHED_ONLY = "matched_only"
"""Logistic model of the matched variables: after matching it should find nothing."""
IMAGING_BASELINE = "imaging_baseline"
"""Logistic model of the measurements of bone and muscle."""

ModelPlan = dict[str, tuple[Kind, tuple[str, ...]]]
"""Score → kind of its model, and the variables."""
Fits = Mapping[str, CrossFit[ClinicalModel] | CrossFit[Fusion]]
"""Score → its cross-fitted models."""
FoldModels = Mapping[int, ClinicalModel] | Mapping[int, Fusion]
"""Fold → the model that is tested on it."""


def lettered_models(letters: Sequence[str]) -> ModelPlan:
    """Return ``clinical_A`` … (XGBoost), then ``logistic_A`` … for these letters of ``MODELS``."""
    kinds: dict[str, Kind] = {"clinical": "xgboost", "logistic": "logistic"}
    plan: ModelPlan = {}
    for prefix, kind in kinds.items():
        plan |= {f"{prefix}_{letter}": (kind, MODELS[letter]) for letter in letters}
    return plan


def other_folds_thresholds(
    name: str, fold: Floats, y: Floats, scores: Floats
) -> Iterator[pd.DataFrame]:
    """Choose each fold's thresholds on the other folds, for a score (n,) that was not fitted."""
    for number in sorted({int(k) for k in fold}):
        other = fold != number
        if both_outcomes(y[other], scores[other]):
            yield threshold_rows(name, number, y[other], scores[other], "other folds")


def frozen_thresholds(name: str, y: Floats, scores: Floats) -> Iterator[pd.DataFrame]:
    """Choose thresholds for other hospitals on all development patients' scores (n,)."""
    if both_outcomes(y, scores):
        yield threshold_rows(name, "frozen", y, scores, "development out-of-fold")


def both_outcomes(y: Floats, scores: Floats) -> bool:
    """Return whether both outcomes occur among the patients with a score."""
    known = y[np.isfinite(scores)]
    return bool(0 < known.sum() < known.size)


def save_fits(folder: Path, fits: Fits) -> list[Path]:
    """Write each fit's models and what they saw to ``folder/<score>/``; return the files."""
    made = []
    for name, fit in fits.items():
        made.append(folder / name / "fits.json")
        write_json(made[-1], {"fits": fit.audit})
        for fold, model in fit.models.items():
            made.append(folder / name / f"model_fold_{fold}.json")
            write_json(made[-1], model.to_json())
        if not fit.inner.empty:
            made.append(folder / name / "inner.csv")
            write_frame(made[-1], fit.inner)
    return made


def load_models(folder: Path) -> FoldModels:
    """Read the models of one score that :func:`save_fits` wrote to ``folder``."""
    files = {int(p.stem.removeprefix("model_fold_")): p for p in folder.glob("model_fold_*.json")}
    if (folder / "inner.csv").is_file():
        return {fold: load_clinical(files[fold]) for fold in sorted(files)}
    return {fold: Fusion.from_json(read_json(files[fold])) for fold in sorted(files)}
