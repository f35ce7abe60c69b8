"""Late fusion: an image score and a clinical score joined by a logistic regression.

The baseline for joining them inside the network. On the log-odds scale of both, per outer fold:

    logit p = a + b · logit(image) + c · logit(clinical)

What the fold is tested on must have had no part in a, b, c, nor in any score that they were
fitted on. Out-of-fold scores pooled over all folds would break the second half of this rule: the
score of a patient in fold 2 comes from a model that was trained on fold 1. So each outer fold k
has its own training table: scores that *its own* models gave to patients whom they were not
trained on and who do not lie in fold k. For the network these are the patients of its validation
fold, for the clinical model all others by its inner folds; the patients who have both are used.
Nothing there has ever met fold k. (The network's epoch was chosen on the validation fold, so the
image may weigh a little more than it should. That costs accuracy, and leaks nothing.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit

from monai_vfx.analysis.clinical.crossfit import CrossFit, given_folds, threshold_rows
from monai_vfx.analysis.clinical.engines import Floats, Linear
from monai_vfx.analysis.clinical.models import ClinicalModel
from monai_vfx.analysis.clinical.variables import outcomes
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

PENALTY = 1.0
"""C of the L2 penalty; log odds are scaled to SD 1 first."""
_NEAREST = 1e-6  # to 0 and 1, so that log odds stay finite


@dataclass(frozen=True)
class NestedScores:
    """Scores of one kind of model, with those that its folds gave to patients outside them.

    Attributes:
        scores: (n,) out-of-fold scores in [0, 1], NaN where there is none.
        inner: rows (case_id, fold, score): by the model tested on ``fold``, for a case it never
            saw.
    """

    scores: Floats
    inner: pd.DataFrame


@dataclass(frozen=True)
class Fusion:
    """One fold's regression, the patients it was fitted on, and those of them with a fracture."""

    engine: Linear
    n: int
    events: int

    def predict(self, image: npt.ArrayLike, clinical: npt.ArrayLike) -> Floats:
        """Return the joint probability (n,) of two scores (n,) in [0, 1]; NaN where one is."""
        x = _log_odds(image, clinical)
        known = x.notna().all(axis=1).to_numpy()
        return np.where(known, expit(self.engine.margin(x)), np.nan)

    def to_json(self) -> Json:
        """Return the coefficients, and what they rest on."""
        return {"n": self.n, "events": self.events, **self.engine.to_json()}

    @classmethod
    def from_json(cls, document: Json) -> Fusion:
        """Read :meth:`to_json`."""
        engine = Linear.from_json(document, ("image", "clinical"))
        return cls(engine, document["n"], document["events"])


def late_fusion(
    frame: pd.DataFrame,
    image: NestedScores,
    clinical: NestedScores | CrossFit[ClinicalModel],
    *,
    name: str = "late_fusion",
) -> CrossFit[Fusion]:
    """Join two scores, each outer fold by a regression that never met it.

    Args:
        frame: patient table with ``case_id``, ``fold`` and ``fracture``; its rows are those of the
            two ``scores``.
        image: of a network; ``inner`` holds the scores of its validation folds.
        clinical: of a clinical model; ``inner`` holds the scores of its inner folds.
        name: of the joint score.

    Raises:
        SettingError: ``inner`` scores a patient of the very fold it is for (leakage), or a fold
            has no patients of both outcomes with both scores.
    """
    folds, y = given_folds(frame), outcomes(frame)
    cases = frame["case_id"].astype(str)
    outcome, fold_of = dict(zip(cases, y, strict=True)), dict(zip(cases, folds, strict=True))
    fused = np.full(len(frame), np.nan)
    models: dict[int, Fusion] = {}
    rows, audit = [], []
    for fold in sorted(set(folds.tolist())):
        table = _joined(image.inner, clinical.inner, fold)
        met = [case for case in table["case_id"] if fold_of.get(case, fold) == fold]
        if met:
            raise SettingError(
                f"inner scores for fold {fold} hold {len(met)} patients who lie in it or are not "
                "in the table: they must come from the other folds"
            )
        labels = np.array([outcome[case] for case in table["case_id"]])
        model = fit_fusion(table["image"], table["clinical"], labels)
        test = folds == fold
        fused[test] = model.predict(image.scores[test], clinical.scores[test])
        own = model.predict(table["image"], table["clinical"])
        rows.append(threshold_rows(name, fold, labels, own, "validation fold"))
        seen = {"fit": table["case_id"].tolist(), "threshold": table["case_id"].tolist()}
        audit.append({"score": name, "fold": fold, "tested": cases[test].tolist(), "seen": seen})
        models[fold] = model
    return CrossFit(name, fused, pd.concat(rows, ignore_index=True), models, audit)


def fit_fusion(image: npt.ArrayLike, clinical: npt.ArrayLike, y: npt.ArrayLike) -> Fusion:
    """Fit the regression of outcomes (n,), both of which must occur, on scores (n,) in [0, 1]."""
    labels = np.asarray(y, dtype=np.float64)
    events = int(labels.sum())
    if not 0 < events < labels.size:
        raise SettingError(
            f"{events} fractures among the {labels.size} patients with both scores; a late fusion "
            "needs both outcomes"
        )
    engine = Linear.fit(_log_odds(image, clinical), labels, {"C": PENALTY}, 0)
    return Fusion(engine, labels.size, events)


def _log_odds(image: npt.ArrayLike, clinical: npt.ArrayLike) -> pd.DataFrame:
    scores = {"image": image, "clinical": clinical}
    return pd.DataFrame(
        {
            name: logit(np.clip(np.asarray(values, dtype=np.float64), _NEAREST, 1 - _NEAREST))
            for name, values in scores.items()
        }
    )


def _joined(image: pd.DataFrame, clinical: pd.DataFrame, fold: int) -> pd.DataFrame:
    """Return rows (case, image, clinical) of the patients that have both inner scores."""
    parts = []
    for name, table in (("image", image), ("clinical", clinical)):
        own = table[(table["fold"] == fold) & table["score"].notna()]
        scores = own["score"].astype(np.float64)
        parts.append(pd.DataFrame({"case_id": own["case_id"].astype(str), name: scores}))
    return parts[0].merge(parts[1], on="case_id", how="inner", validate="one_to_one")
