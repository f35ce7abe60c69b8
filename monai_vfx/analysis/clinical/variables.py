"""The variables of models A-D, and the numbers that a model takes from a patient table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.core.errors import CaseRefused

_A = ("age", "sex")
_B = (*_A, "bmi")
_C = (*_B, "glucocorticoids", "drinker", "smoker", "secondary_osteoporosis")
_D = (*_C, "type2_diabetes", "hiv", "hepatitis_c", "renal_failure")

MODELS: dict[str, tuple[str, ...]] = {"A": _A, "B": _B, "C": _C, "D": _D}
"""Name of the nested model → its variables, as in the study."""

MATCHING_VARIABLES: tuple[str, ...] = _B
"""What cases and controls are matched on; alone, they must not tell them apart."""


def design_matrix(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return a model's numbers; sex becomes ``female``, what is missing stays NaN.

    Args:
        frame: patient table; ``sex`` is F or M, every other variable a number in its own unit.
        names: columns of the table, in the order the model takes them.

    Returns:
        (n, variables) float64 on the table's own index.

    >>> design_matrix(pd.DataFrame({"age": [71, 64], "sex": ["F", None]}), ("age", "sex"))
        age  female
    0  71.0     1.0
    1  64.0     NaN
    """
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise CaseRefused("cohort_invalid", f"columns are missing: {', '.join(missing)}")
    columns = {
        column_of(name): _sexes(frame[name]) if name == "sex" else _numbers(frame[name])
        for name in names
    }
    return pd.DataFrame(columns, index=frame.index)


def column_of(name: str) -> str:
    """Return the design column of a variable.

    >>> column_of("sex"), column_of("age")
    ('female', 'age')
    """
    return "female" if name == "sex" else name


def outcomes(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return ``fracture`` as 0.0 and 1.0 (n,); refuse anything else as ``cohort_invalid``."""
    if "fracture" not in frame.columns:
        raise CaseRefused("cohort_invalid", "columns are missing: fracture")
    values = _numbers(frame["fracture"])
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if wrong.size:
        raise CaseRefused(
            "cohort_invalid",
            f"fracture holds {frame['fracture'].iloc[wrong[0]]} in patient {wrong[0] + 1} of "
            f"{len(frame)}, must be 0 or 1",
        )
    return values


def _sexes(column: pd.Series) -> npt.NDArray[np.float64]:
    female: npt.NDArray[np.float64] = np.asarray(column.map({"F": 1.0, "M": 0.0}), dtype=np.float64)
    _check_known(column, female, "must be F or M")
    return female


def _numbers(column: pd.Series) -> npt.NDArray[np.float64]:
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    values: npt.NDArray[np.float64] = np.asarray(numbers, dtype=np.float64)
    _check_known(column, values, "must be a number")
    return values


def _check_known(column: pd.Series, values: npt.NDArray[np.float64], rule: str) -> None:
    """Let a NaN pass only where the cell was empty, and no infinity."""
    wrong = np.flatnonzero((np.isnan(values) & column.notna().to_numpy()) | np.isinf(values))
    if wrong.size:
        raise CaseRefused(
            "cohort_invalid",
            f"{column.name} holds {column.iloc[wrong[0]]} in patient {wrong[0] + 1} of "
            f"{len(column)}, {rule}",
        )
