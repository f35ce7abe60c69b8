"""The columns of a calibration's logistic models: the matched variables, linear or as splines.

Continuous variables enter as natural (restricted) cubic splines with three knots where there are
enough events for it, else linearly; sex enters as female 0 or 1.

Source: the truncated power form of restricted cubic splines in Harrell, Regression Modeling
Strategies, 2nd edition, section 2.4.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from monai_vfx.analysis.evaluation.estimates import Floats
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

KNOT_QUANTILES = (0.10, 0.50, 0.90)
"""Harrell's places for three knots."""
EVENTS_A_COEFFICIENT = 20
"""Splines are used when the smaller class has this many patients for every coefficient."""


@dataclass(frozen=True)
class Term:
    """One variable of the patient table as columns of a design matrix.

    Args:
        name: column of the table; ``sex`` holds F or M, every other one numbers.
        centre: subtracted, in the variable's unit.
        scale: divided by, in the variable's unit; not zero.
        knots: three values in the variable's unit, rising, for a spline; None for a straight line.
    """

    name: str
    centre: float = 0.0
    scale: float = 1.0
    knots: tuple[float, float, float] | None = None

    @property
    def width(self) -> int:
        """Number of columns."""
        return 1 if self.knots is None else 2

    def columns(self, frame: pd.DataFrame) -> Floats:
        """Return (n, width) float64; NaN where the table has no value."""
        values = read_variable(frame, self.name)
        line = (values - self.centre) / self.scale
        if self.knots is None:
            return line[:, None]
        low, middle, high = ((knot - self.centre) / self.scale for knot in self.knots)

        def cube(knot: float) -> Floats:
            return np.asarray(np.maximum(line - knot, 0.0) ** 3, np.float64)

        bend = cube(low) + ((middle - low) * cube(high) - (high - low) * cube(middle)) / (
            high - middle
        )
        return np.column_stack([line, bend / (high - low) ** 2])

    def to_json(self) -> Json:
        """Return the entry of ``calibration.json``."""
        knots = None if self.knots is None else list(self.knots)
        return {"name": self.name, "centre": self.centre, "scale": self.scale, "knots": knots}

    @classmethod
    def from_json(cls, entry: Json) -> Term:
        """Return the term of an entry."""
        knots = None if entry["knots"] is None else tuple(entry["knots"])
        return cls(entry["name"], entry["centre"], entry["scale"], knots)


def read_variable(frame: pd.DataFrame, name: str) -> Floats:
    """Return a column as numbers (n,); sex as 1 for F and 0 for M, missing as NaN.

    >>> read_variable(pd.DataFrame({"sex": ["F", "M", None]}), "sex").tolist()
    [1.0, 0.0, nan]
    """
    if name not in frame:
        raise SettingError(f"the table has no column {name!r}, which the calibration needs")
    column = frame[name]
    if name == "sex":
        known = column.isna() | column.isin(["F", "M"])
        if not known.all():
            raise SettingError(f"sex holds {column[~known].iloc[0]!r}; F or M is needed")
        column = column.map({"F": 1.0, "M": 0.0})
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise SettingError(f"column {name!r} must hold numbers: {error}") from error


def choose_terms(frame: pd.DataFrame, names: Sequence[str], smaller_class: int) -> tuple[Term, ...]:
    """Choose how each variable enters: spline or straight line, centre, scale and knots.

    Args:
        frame: patients whose distribution sets centre, scale and knots.
        names: columns.
        smaller_class: patients in the smaller class of the sample to be fitted.
    """
    plain = [_line(frame, name) for name in names]
    curved = [_spline(frame, term) for term in plain]
    width = 2 + sum(term.width for term in curved)  # intercept and logit score
    return tuple(curved if smaller_class >= EVENTS_A_COEFFICIENT * width else plain)


def design(frame: pd.DataFrame, terms: Sequence[Term]) -> Floats:
    """Return (n, 1 + widths): a column of ones, then the terms; NaN where a value is missing."""
    return np.column_stack([np.ones(len(frame)), *(term.columns(frame) for term in terms)])


def _line(frame: pd.DataFrame, name: str) -> Term:
    values = read_variable(frame, name)
    values = values[np.isfinite(values)]
    if values.size == 0 or np.ptp(values) == 0:
        raise SettingError(f"column {name!r} holds fewer than two different values")
    if set(np.unique(values)) <= {0.0, 1.0}:
        return Term(name, 0.5)
    return Term(name, float(np.median(values)), float(values.std()))


def _spline(frame: pd.DataFrame, line: Term) -> Term:
    values = read_variable(frame, line.name)
    low, middle, high = (float(q) for q in np.nanquantile(values, KNOT_QUANTILES))
    if len(np.unique(values[np.isfinite(values)])) < 10 or not low < middle < high:
        return line
    return Term(line.name, line.centre, line.scale, (low, middle, high))
