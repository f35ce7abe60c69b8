"""Inside a clinical model: trees of XGBoost, or a logistic regression with its imputation.

Both know a design matrix (n, columns) and nothing of patients. They share ``SETTINGS`` (what the
inner cross-validation chooses from, the simplest first), ``FIXED`` (settings that never change),
``fit``, ``search``, ``margin``, ``contributions`` and their JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused

Floats = npt.NDArray[np.float64]
Kind = Literal["xgboost", "logistic"]

REMEDY = "Give a model file as vfx clinical wrote it."
FIXED_TREES: Json = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_bin": 64,
    "learning_rate": 0.1,
    "num_parallel_tree": 10,
    "subsample": 0.5,
    "min_child_weight": 5.0,
    "reg_lambda": 5.0,
    "nthread": 1,  # tables are small, and one thread adds up in one order
}
DEPTHS = (1, 2, 3)
ROUNDS = (25, 50, 100)
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Trees:
    """An XGBoost model."""

    SETTINGS: ClassVar[list[Json]] = [{"max_depth": d, "rounds": n} for d in DEPTHS for n in ROUNDS]
    FIXED: ClassVar[Json] = FIXED_TREES
    PACKAGE: ClassVar[str] = "xgboost"

    booster: Any

    @classmethod
    def fit(cls, x: pd.DataFrame, y: Floats, setting: Json, seed: int) -> Trees:
        """Grow trees on a design matrix and outcomes (n,)."""
        import xgboost

        settings = {**FIXED_TREES, "max_depth": setting["max_depth"], "seed": seed}
        data = _data(x, y)
        return cls(xgboost.train(settings, data, num_boost_round=setting["rounds"]))

    @classmethod
    def search(cls, x: pd.DataFrame, y: Floats, held_out: pd.DataFrame, seed: int) -> Floats:
        """Return the probabilities (settings, m) of held-out rows under every setting."""
        data, rows = _data(held_out), []
        for depth in DEPTHS:
            trees = cls.fit(x, y, {"max_depth": depth, "rounds": max(ROUNDS)}, seed)
            rows += [trees.booster.predict(data, iteration_range=(0, n)) for n in ROUNDS]
        return np.array(rows, dtype=np.float64)

    @classmethod
    def from_json(cls, document: Json, columns: Sequence[str]) -> Trees:
        """Read XGBoost's own JSON; ``CaseRefused`` where it is none or has other columns."""
        import xgboost

        booster = xgboost.Booster()
        try:
            booster.load_model(bytearray(json.dumps(document).encode()))
            booster.set_param({"nthread": 1})
        except xgboost.core.XGBoostError as error:
            raise CaseRefused(
                "weights_unreadable", "XGBoost cannot read the trees of the model", REMEDY
            ) from error
        if list(booster.feature_names or ()) != list(columns):
            raise CaseRefused("weights_mismatch", "the trees were grown on other variables", REMEDY)
        return cls(booster)

    def margin(self, x: pd.DataFrame) -> Floats:
        """Return the log odds (n,)."""
        found: npt.NDArray[np.float32] = self.booster.predict(_data(x), output_margin=True)
        return found.astype(np.float64)

    def contributions(self, x: pd.DataFrame) -> Floats:
        """Return (n, columns + 1), which add up to the log odds; the base is last."""
        found: npt.NDArray[np.float32] = self.booster.predict(_data(x), pred_contribs=True)
        return found.astype(np.float64)

    def to_json(self) -> Json:
        """Return all that :meth:`from_json` needs."""
        return cast(Json, json.loads(bytes(self.booster.save_raw("json"))))


def _data(x: pd.DataFrame, y: Floats | None = None) -> Any:
    import xgboost

    return xgboost.DMatrix(
        x.to_numpy(dtype=np.float64), label=y, feature_names=list(x.columns), nthread=1
    )


@dataclass(frozen=True)
class _Term:
    """One summand: coefficient · (value - mean) / scale of a column or of its missing cells."""

    column: str
    missing: bool
    mean: float
    scale: float
    coefficient: float = 0.0


@dataclass(frozen=True)
class Linear:
    """A logistic regression with the imputation and scaling of its training rows."""

    SETTINGS: ClassVar[list[Json]] = [{"C": c} for c in PENALTIES]
    FIXED: ClassVar[Json] = {"penalty": "l2"}
    PACKAGE: ClassVar[str] = "scikit-learn"

    columns: tuple[str, ...]
    fill: dict[str, float]
    terms: tuple[_Term, ...]
    intercept: float

    @classmethod
    def fit(cls, x: pd.DataFrame, y: Floats, setting: Json, seed: int) -> Linear:
        """Impute, scale and fit on a design matrix and outcomes (n,)."""
        del seed  # the optimum is unique
        return cls.fit_each(x, y, (setting["C"],))[0]

    @classmethod
    def fit_each(cls, x: pd.DataFrame, y: Floats, penalties: Sequence[float]) -> list[Linear]:
        """Fit with each C, on one imputation and scaling."""
        from sklearn.linear_model import LogisticRegression

        columns = tuple(str(column) for column in x.columns)
        fill = {name: float(x[name].median()) for name in columns if x[name].notna().any()}
        terms = _terms(x, fill)
        blank = cls(columns, fill, terms, float(logit(y.mean())))
        if not terms:  # nothing varies: the model is the share of fractures
            return [blank] * len(penalties)
        parts, found = blank._parts(x), []
        for penalty in penalties:
            fitted = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-10)
            fitted.fit(parts, y)
            weighted = tuple(
                replace(term, coefficient=float(coefficient))
                for term, coefficient in zip(terms, fitted.coef_[0], strict=True)
            )
            found.append(cls(columns, fill, weighted, float(fitted.intercept_[0])))
        return found

    @classmethod
    def search(cls, x: pd.DataFrame, y: Floats, held_out: pd.DataFrame, seed: int) -> Floats:
        """Return the probabilities (settings, m) of held-out rows under every setting."""
        del seed  # the optimum is unique
        return np.array([expit(f.margin(held_out)) for f in cls.fit_each(x, y, PENALTIES)])

    @classmethod
    def from_json(cls, document: Json, columns: Sequence[str]) -> Linear:
        """Read :meth:`to_json`; ``CaseRefused`` where terms have other columns."""
        terms = tuple(_Term(**term) for term in document["terms"])
        if not {term.column for term in terms} | set(document["fill"]) <= set(columns):
            raise CaseRefused(
                "weights_mismatch", "the terms speak of other variables than the model", REMEDY
            )
        return cls(tuple(columns), dict(document["fill"]), terms, float(document["intercept"]))

    def margin(self, x: pd.DataFrame) -> Floats:
        """Return the log odds (n,)."""
        margin: Floats = self.contributions(x).sum(axis=1)
        return margin

    def contributions(self, x: pd.DataFrame) -> Floats:
        """Return (n, columns + 1), which add up to the log odds; the base is last."""
        found = np.zeros((len(x), len(self.columns) + 1))
        found[:, -1] = self.intercept
        for term, part in zip(self.terms, self._parts(x).T, strict=True):
            found[:, self.columns.index(term.column)] += term.coefficient * part
        return found

    def to_json(self) -> Json:
        """Return all that :meth:`from_json` needs."""
        terms = [vars(term) for term in self.terms]
        return {"intercept": self.intercept, "fill": self.fill, "terms": terms}

    def _parts(self, x: pd.DataFrame) -> Floats:
        """Return the scaled values (n, terms)."""
        values, gaps = _filled(x, self.fill)
        parts = np.empty((len(x), len(self.terms)))
        for n, term in enumerate(self.terms):
            column = self.columns.index(term.column)
            raw = (gaps if term.missing else values)[:, column]
            parts[:, n] = (raw - term.mean) / term.scale
        return parts


def _terms(x: pd.DataFrame, fill: dict[str, float]) -> tuple[_Term, ...]:
    """Return the terms that vary, values before missing ones, still without coefficients."""
    values, gaps = _filled(x, fill)
    found = []
    for missing, parts in ((False, values), (True, gaps)):
        for name, part in zip(x.columns, parts.T, strict=True):
            binary = missing or bool(x[name].dropna().isin((0.0, 1.0)).all())
            if part.std() > 0:
                scale = 1.0 if binary else float(part.std())
                found.append(_Term(str(name), missing, float(part.mean()), scale))
    return tuple(found)


def _filled(x: pd.DataFrame, fill: dict[str, float]) -> tuple[Floats, Floats]:
    """Return the values with their gaps filled, and 1 where there was a gap; (n, columns) each."""
    values = x.to_numpy(dtype=np.float64)
    gaps = np.isnan(values)
    medians = np.array([fill.get(str(name), 0.0) for name in x.columns])
    return np.where(gaps, medians, values), gaps.astype(np.float64)


ENGINES: dict[Kind, type[Trees] | type[Linear]] = {"xgboost": Trees, "logistic": Linear}
