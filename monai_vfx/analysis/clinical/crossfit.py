"""Out-of-fold scores: each patient judged by models that never saw this patient's fold.

For each outer fold a model is tuned and fitted on the others (:func:`fit_clinical`: imputation,
scaling and the inner folds see those rows alone), thresholds are chosen on its inner out-of-fold
probabilities, and the fold is scored once. Which cases each fit saw is returned for the audit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.clinical.engines import Floats, Kind
from monai_vfx.analysis.clinical.models import ClinicalModel, fit_clinical
from monai_vfx.analysis.clinical.variables import outcomes
from monai_vfx.analysis.evaluation.thresholds import DEFAULT_RULES, choose_thresholds
from monai_vfx.analysis.folds import check_folds, patient_groups
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

Model = TypeVar("Model")


@dataclass(frozen=True)
class CrossFit(Generic[Model]):
    """One kind of model, cross-fitted over the folds of a table.

    Attributes:
        name: of the score, such as ``clinical_A``.
        scores: (n,) out-of-fold probabilities in [0, 1]; NaN where none of a patient's variables
            is known.
        thresholds: rows (score, fold, rule, threshold, chosen_on, n, events), one a fold and rule.
        models: fold → model.
        audit: one entry a fold: ``score``, ``fold``, ``tested`` (cases of the fold) and ``seen``,
            which holds the cases that the ``fit`` saw (imputation, scaling and tuning included)
            and those that the ``threshold`` was chosen on.
        inner: rows (case_id, fold, score): the probabilities that patients *outside* a fold got
            from the inner folds of its model; empty for a late fusion, which has none.
    """

    name: str
    scores: Floats
    thresholds: pd.DataFrame
    models: dict[int, Model] = field(repr=False)
    audit: list[Json] = field(repr=False)
    inner: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)


def ensemble_score(models: Mapping[int, Any], *inputs: Any) -> Floats:
    """Return the mean probability (n,) that the models of all folds give to other patients.

    The inputs are what ``predict`` takes: a patient table, or for a late fusion two scores (n,).
    """
    scores: Floats = np.mean([model.predict(*inputs) for model in models.values()], axis=0)
    return scores


def cross_fit(
    frame: pd.DataFrame,
    names: Sequence[str],
    kind: Kind = "xgboost",
    seed: int = 0,
    *,
    name: str = "clinical",
) -> CrossFit[ClinicalModel]:
    """Cross-fit a model over the folds of a table.

    Args:
        frame: patient table with ``case_id``, ``fold``, ``fracture`` and the variables;
            ``patient_id`` and ``pair_id`` where there are such.
        names: variables, such as ``MODELS["D"]``.
        kind: ``xgboost`` or ``logistic``.
        seed: of the inner folds.
        name: of the score.
    """
    folds, groups, y = given_folds(frame), patient_groups(frame), outcomes(frame)
    cases = frame["case_id"].astype(str).to_numpy()
    scores = np.full(len(frame), np.nan)
    models: dict[int, ClinicalModel] = {}
    rows, inner, audit = [], [], []
    for fold in sorted(set(folds.tolist())):
        test, train = folds == fold, folds != fold
        model = fit_clinical(frame[train], names, kind, seed, groups[train])
        scores[test] = model.predict(frame[test])
        known = np.isfinite(model.inner_scores)
        chosen_from = model.inner_scores[known]
        rows.append(threshold_rows(name, fold, y[train][known], chosen_from, "inner folds"))
        inner.append(
            pd.DataFrame({"case_id": cases[train][known], "fold": fold, "score": chosen_from})
        )
        models[fold] = model
        seen = {"fit": list(model.cases), "threshold": cases[train][known].tolist()}
        audit.append({"score": name, "fold": fold, "tested": cases[test].tolist(), "seen": seen})
    thresholds = pd.concat(rows, ignore_index=True)
    return CrossFit(name, scores, thresholds, models, audit, pd.concat(inner, ignore_index=True))


def threshold_rows(
    name: str, fold: int | str, y: npt.ArrayLike, scores: npt.ArrayLike, chosen_on: str
) -> pd.DataFrame:
    """Choose a threshold by each rule, as rows of ``thresholds.csv``.

    Args:
        name: of the score.
        fold: that the thresholds are for, or ``frozen`` for other hospitals.
        y: (n,) outcomes.
        scores: (n,); rows without a score are passed over.
        chosen_on: in words, such as ``inner folds``.
    """
    labels, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = np.isfinite(values)
    chosen = choose_thresholds(labels[known], values[known], DEFAULT_RULES)
    place = {"score": name, "fold": str(fold), "chosen_on": chosen_on}
    columns = ["score", "fold", "rule", "threshold", "chosen_on", "n", "events"]
    return pd.DataFrame([place | vars(threshold) for threshold in chosen], columns=columns)


def given_folds(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the table's folds (n,); refuse fewer than two, gaps, and torn patients or pairs."""
    if "fold" not in frame.columns:
        raise SettingError("the table must give every row a fold")
    return check_folds(frame["fold"], frame["case_id"].to_numpy()[patient_groups(frame)])
