"""One clinical model: gradient-boosted trees or penalised logistic regression on a few variables.

Both are tuned by an inner cross-validation of the very rows they are given, over pairs and
patients, and by nothing else. The criterion is the log loss of the pooled inner out-of-fold
probabilities: it is proper, changes smoothly where the AUROC of a few fractures jumps, and keeps
the probabilities usable for what follows (calibration, fusion). Of equal settings
the simplest wins.

* ``xgboost``: depth 1-3 and 25-100 rounds at a learning rate of 0.1, each leaf holding at least 5
  units of Hessian (20 patients at a probability of one half), weights penalised by 5. A round is
  the mean of ten trees, each grown on half of the patients: single trees make steps of a risk that
  follows age smoothly. Fifteen inner fits: the numbers of rounds are read off the same ones.
  Missing values go the way that each split has learned for them.
* ``logistic``: an L2 penalty of 1/C, C from 0.001 to 10. Missing values take the training median,
  and a 0/1 term says that they were missing. Continuous variables are scaled to SD 1. Terms of 0
  and 1 are centred only: scaled as well, a state of three patients would be hardly penalised.

Training on sampled controls, a score is the probability of being a case *in such a sample*, never
a five-year risk. Files are JSON: nothing is un-pickled.

Sources: Chen and Guestrin 2016 (XGBoost); Friedman 2002 (stochastic gradient boosting); Lundberg
and Lee 2017, Lundberg et al. 2020 (SHAP).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from monai_vfx.analysis.clinical.engines import ENGINES, REMEDY, Floats, Kind, Linear, Trees
from monai_vfx.analysis.clinical.variables import design_matrix, outcomes
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.core.schemas import violations

INNER_FOLDS = 5

FORMAT = "monai_vfx clinical model"
_PLAIN = ("seed", "hyperparameters", "tuning", "trained_on", "versions")
"""What a model's file holds as the model does."""


@dataclass(frozen=True)
class ClinicalModel:
    """A fitted model with everything that is needed to use it and to say how it came about.

    Attributes:
        kind: ``xgboost`` or ``logistic``.
        variables: names in the patient table, in the model's order.
        columns: of the design matrix (``female`` for sex).
        seed: of the inner folds.
        hyperparameters: those chosen, and the fixed ones.
        tuning: criterion, folds, and the log loss of every setting.
        trained_on: n, events, rows without any value (left out), missing values a variable,
            variables without variation, and whether any patient was simulated.
        versions: of the packages that fitted it.
        inner_scores: (n,) out-of-fold probabilities of the rows it was fitted on, by the inner
            folds and the chosen setting; NaN for rows left out. Not in the
            file: empty in a model that was read from one. The
            choice among a few settings was made on them, which makes them very slightly better
            than new patients' would be.
        cases: names of the rows that fit, imputation, scaling and tuning saw; not written either.
    """

    kind: Kind
    variables: tuple[str, ...]
    columns: tuple[str, ...]
    seed: int
    hyperparameters: Json
    tuning: Json
    trained_on: Json
    versions: dict[str, str]
    engine: Trees | Linear = field(repr=False)
    inner_scores: Floats = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    cases: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def predict(self, frame: pd.DataFrame) -> Floats:
        """Return each patient's probability (n,) of the fracture class, in [0, 1].

        NaN for a patient of whom none of the variables is known.
        """
        x = design_matrix(frame, self.variables)
        return np.where(x.notna().any(axis=1), expit(self.engine.margin(x)), np.nan)

    def contributions(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return what each variable adds to each patient's log odds (SHAP values).

        Trees: the path-dependent SHAP values of the ensemble. Logistic: coefficient times the
        distance from the training mean, the missing term counted with its variable, which is
        exact for a linear model.

        Returns:
            (n, variables + 1) on the table's index; the columns add up to the log odds, ``base``
            being the model's mean.
        """
        x = design_matrix(frame, self.variables)
        names = [*self.variables, "base"]
        return pd.DataFrame(self.engine.contributions(x), index=frame.index, columns=names)

    def to_json(self) -> Json:
        """Return the document (``data_schemas/clinical_model.schema.json``)."""
        document: Json = {
            "format": FORMAT,
            "format_version": 1,
            "kind": self.kind,
            "outcome": "fracture within five years; a probability in the training sample, no risk",
            "variables": list(self.variables),
            "columns": list(self.columns),
            **{name: getattr(self, name) for name in _PLAIN},
            self.kind: self.engine.to_json(),
        }
        return {**document, "sha256": _checksum(document)}

    def save(self, path: str | Path) -> None:
        """Write the model as JSON, whole or not at all."""
        write_json(Path(path), self.to_json())


def fit_clinical(
    frame: pd.DataFrame,
    names: Sequence[str],
    kind: Kind = "xgboost",
    seed: int = 0,
    groups: npt.ArrayLike | None = None,
) -> ClinicalModel:
    """Tune and fit a model on these rows and no others.

    Args:
        frame: patient table with ``fracture`` and the variables; rows of which no variable is
            known are left out and counted.
        names: variables, such as ``MODELS["D"]``.
        kind: ``xgboost`` or ``logistic``.
        seed: of the inner folds; the same call gives the same model.
        groups: (n,) rows of one group stay in one inner fold, see
            :func:`monai_vfx.analysis.clinical.variables.patient_groups`; each row by itself if
            None.
    """
    if kind not in ENGINES:
        raise SettingError(f"kind ({kind!r}) must be one of {', '.join(ENGINES)}")
    engine = ENGINES[kind]
    x, y = design_matrix(frame, names), outcomes(frame)
    group = np.arange(len(frame)) if groups is None else np.asarray(groups)
    known = x.notna().any(axis=1).to_numpy()
    x, y, group = x[known], y[known], group[known]
    best, tuning, inner = _tune(engine, x, y, group, seed)
    scores = np.full(len(frame), np.nan)
    scores[known] = inner
    simulated = bool((frame["simulated"] == 1).any()) if "simulated" in frame.columns else False
    return ClinicalModel(
        kind=kind,
        variables=tuple(names),
        columns=tuple(x.columns),
        seed=seed,
        hyperparameters={**engine.FIXED, **best},
        tuning=tuning,
        trained_on={
            "n": len(y),
            "events": int(y.sum()),
            "left_out": int((~known).sum()),
            "missing": dict(zip(names, x.isna().sum().tolist(), strict=True)),
            "constant": [
                name for name, column in zip(names, x, strict=True) if x[column].nunique() < 2
            ],
            "simulated": simulated,
        },
        versions={name: metadata.version(name) for name in ("monai_vfx", engine.PACKAGE)},
        engine=engine.fit(x, y, best, seed),
        inner_scores=scores,
        cases=tuple(str(case) for case in frame["case_id"]) if "case_id" in frame.columns else (),
    )


def load_clinical(path: str | Path) -> ClinicalModel:
    """Read a model that :meth:`ClinicalModel.save` wrote; nothing in the file is executed.

    The checksum finds damage and edits by hand. It is no signature: it does not say who made it.

    Raises:
        CaseRefused: ``weights_unreadable`` for a file that is no such model, ``weights_mismatch``
            for one that was changed or whose parts do not belong together.
    """
    try:
        document = read_json(path)
        json.dumps(document, allow_nan=False)  # Python reads NaN, JSON has none
    except (OSError, ValueError, RecursionError) as error:
        message = "the clinical model is no JSON file"
        raise CaseRefused("weights_unreadable", message, REMEDY) from error
    broken = violations(document, "clinical_model")
    if broken:
        raise CaseRefused("weights_unreadable", f"no clinical model: {broken[0][:200]}", REMEDY)
    if document["sha256"] != _checksum({k: v for k, v in document.items() if k != "sha256"}):
        raise CaseRefused(
            "weights_mismatch", "the clinical model was changed after it was written", REMEDY
        )
    kind: Kind = document["kind"]
    columns = tuple(document["columns"])
    return ClinicalModel(
        kind=kind,
        variables=tuple(document["variables"]),
        columns=columns,
        **{name: document[name] for name in _PLAIN},
        engine=ENGINES[kind].from_json(document[kind], columns),
    )


def _checksum(document: Json) -> str:
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def _tune(
    engine: type[Trees] | type[Linear],
    x: pd.DataFrame,
    y: Floats,
    groups: npt.NDArray[Any],
    seed: int,
) -> tuple[Json, Json, Floats]:
    """Return the best setting, the record of the search and its out-of-fold probabilities (n,)."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(np.unique(groups[y == value])) for value in (0, 1))
    folds = min(INNER_FOLDS, fewest)
    if folds < 2:
        raise SettingError(
            f"the training rows hold {int(y.sum())} fractures among {len(y)} patients; at least "
            "2 groups with and 2 without are needed to tune a model"
        )
    scores = np.empty((len(engine.SETTINGS), len(y)))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(x, y, groups):
        if not 0 < y[train].sum() < len(train):
            raise SettingError(
                f"the rows ({len(y)}, {int(y.sum())} fractures) cannot be split into inner folds "
                "that hold both outcomes: too few groups"
            )
        scores[:, test] = engine.search(x.iloc[train], y[train], x.iloc[test], seed)
    losses = [float(log_loss(y, row, labels=[0, 1])) for row in scores]
    best = int(np.argmin(losses))
    table = [
        {**setting, "log_loss": loss} for setting, loss in zip(engine.SETTINGS, losses, strict=True)
    ]
    record = {"criterion": "log_loss", "inner_folds": folds, "settings": table}
    return engine.SETTINGS[best], record, scores[best]
