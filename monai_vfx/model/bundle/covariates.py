"""What a patient table adds to an image: clinical variables, and the time to a fracture."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.clinical.variables import MODELS, design_matrix
from monai_vfx.analysis.cohort.patients_csv import outcome_times, read_patients
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError

FOR_GOOD = 1000.0
"""Years that stand for the follow-up of a patient who died without a fracture."""
NO_MODEL = "none"
"""Name of the clinical model of a network that sees the image alone."""


@dataclass(frozen=True)
class Standardiser:
    """How raw clinical values become a network's input: (x - mean) / SD, missing ones 0.

    A missing value is thus filled with the mean of the training part. All statistics come from the
    training part of one fold and from nowhere else.

    Args:
        names: variables, in the network's order.
        mean: of each variable over the patients who have it.
        sd: likewise, with divisor n; 1 for a variable that is the same in all.
        missing: number of training patients without the variable.

    >>> age = Standardiser(("age",), (60.0,), (10.0,), (0,))
    >>> age({"age": 75.0}), age({"age": float("nan")})
    ((array([1.5], dtype=float32), ()), (array([0.], dtype=float32), ('age',)))
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    missing: tuple[int, ...]

    def __call__(
        self, values: Mapping[str, float]
    ) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        """Return the standardised variables (F,) and the names of those that were missing.

        Raises:
            CaseRefused: ``clinical_invalid``, naming the variables that are not there at all.
        """
        absent = [name for name in self.names if name not in values]
        if absent:
            raise CaseRefused("clinical_invalid", f"the weights take {', '.join(absent)} as well")
        raw = np.array([values[name] for name in self.names], dtype=np.float64)
        unknown = np.isnan(raw)
        filled = np.where(unknown, self.mean, raw)
        scaled = (filled - np.array(self.mean)) / np.array(self.sd)
        missing = tuple(n for n, gone in zip(self.names, unknown, strict=True) if gone)
        return scaled.astype(np.float32), missing

    @classmethod
    def fit(cls, values: Sequence[Mapping[str, float]], names: Sequence[str]) -> Standardiser:
        """Take the statistics of the training patients.

        Raises:
            SettingError: no training patient has a variable.
        """
        table = np.array([[row[name] for name in names] for row in values], dtype=np.float64)
        known = ~np.isnan(table)
        empty = [name for n, name in enumerate(names) if not known[:, n].any()]
        if empty:
            raise SettingError(
                f"clinical_model: no training patient has {', '.join(empty)}: choose a model "
                "without, or fill the table"
            )
        mean, sd = np.nanmean(table, axis=0), np.nanstd(table, axis=0)
        return cls(
            tuple(names),
            tuple(mean.tolist()),
            tuple(np.where(sd > 0, sd, 1.0).tolist()),
            tuple((~known).sum(axis=0).tolist()),
        )

    def to_settings(self) -> Json:
        """Return the statistics as plain values, as the sidecar of weights holds them."""
        return {name: list(values) for name, values in asdict(self).items()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Sequence[Any]] | None) -> Standardiser | None:
        """Read what :meth:`to_settings` wrote; None stays None: an image-only network."""
        if settings is None:
            return None
        return cls(**{name: tuple(values) for name, values in settings.items()})


def model_variables(model: str) -> tuple[str, ...]:
    """Return the variables of a clinical model.

    Raises:
        SettingError: there is none of this name.

    >>> model_variables("B")
    ('age', 'sex', 'bmi')
    """
    if model not in MODELS:
        known = ", ".join(MODELS)
        raise SettingError(f"clinical_model ({model!r}) must be {NO_MODEL!r} or one of {known}")
    return tuple(MODELS[model])


def clinical_values(cohort: str | Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return raw clinical values by case, NaN where a cell is empty; sex as 1 for female.

    Raises:
        CaseRefused: ``cohort_invalid``, when the table has bad cells or lacks a column.
    """
    frame = read_patients(cohort, need=tuple(names))
    return {str(case): row for case, row in zip(frame["case_id"], _rows(frame, names), strict=True)}


def read_row(path: str | Path) -> pd.DataFrame:
    """Read the table of one patient whose outcome is not known.

    Args:
        path: CSV with a header and one row: columns of the patient table, at least those that a
            model takes. ``image``, ``mask`` and outcome columns are left out.

    Returns:
        One checked row, typed as :func:`monai_vfx.analysis.cohort.patients_csv.read_patients`
        types it.

    Raises:
        CaseRefused: ``clinical_invalid`` unless there is one row; ``cohort_invalid`` for bad cells.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise CaseRefused("clinical_invalid", "the clinical row is no CSV in UTF-8") from error
    if len(table) != 1:
        raise CaseRefused("clinical_invalid", f"one row is needed, the table has {len(table)}")
    table.columns = [str(name).strip() for name in table.columns]
    unused = ("image", "mask", "fracture", "death", "follow_up_years", "case_id", "fold")
    table = table.drop(columns=[name for name in unused if name in table])
    with tempfile.TemporaryDirectory() as folder:
        # The patient table asks for a name and an outcome, which a new patient does not have yet.
        table.insert(0, "case_id", "row")
        table.insert(1, "fracture", "0")
        table.to_csv(Path(folder) / "row.csv", index=False)
        frame = read_patients(Path(folder) / "row.csv")
    return frame.drop(columns=["case_id", "fracture"])


def row_values(row: str | Path | pd.DataFrame, names: Sequence[str]) -> dict[str, float]:
    """Return raw values of the named variables that the table of one patient holds."""
    frame = row if isinstance(row, pd.DataFrame) else read_row(row)
    return _rows(frame, [name for name in names if name in frame])[0]


def follow_up(cohort: str | Path) -> dict[str, tuple[float, float]]:
    """Return (years, 1 for a fracture at that time or 0 for its end without one) by case.

    Who died without a fracture will never have one and stays at risk for good. The hazards are then
    those of the subdistribution (Fine and Gray 1999), and 1 - Π(1 - h) is the share of all patients
    who fracture (exactly without censoring, nearly with); were the dead censored it would be the
    share in a world without death.

    Raises:
        CaseRefused: ``cohort_invalid``, also where a time is not known.
    """
    frame = read_patients(cohort, need=("follow_up_years",))
    time, event = outcome_times(frame)
    unknown = int(np.isnan(time).sum())
    if unknown:
        raise CaseRefused(
            "cohort_invalid",
            f"follow_up_years is empty in {unknown} rows; a hazard needs it in all",
        )
    fractured = (event == 1).astype(float)
    time = np.where(event == 2, FOR_GOOD, time)
    return {
        str(case): (float(years), float(end))
        for case, years, end in zip(frame["case_id"], time, fractured, strict=True)
    }


def _rows(frame: pd.DataFrame, names: Sequence[str]) -> list[dict[str, float]]:
    values = np.asarray(design_matrix(frame, tuple(names)), dtype=np.float64)
    return [dict(zip(names, row.tolist(), strict=True)) for row in values]
