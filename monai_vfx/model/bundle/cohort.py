"""What a bundle takes from a patient table: its patients by fold, their variables and outcomes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.analysis.clinical.variables import MODELS, design_matrix
from monai_vfx.analysis.cohort.patients_csv import outcome_times, read_patients
from monai_vfx.analysis.cohort.training_items import CohortItem, read_cohort, split_folds
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError

FOR_GOOD = 1000.0
"""Years of follow-up given to a patient who died without a fracture."""
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
            CaseRefused: ``clinical_invalid``, naming the variables that have no value at all.
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


def split_cohort(
    cohort: str | Path,
    fold: int,
    folds: int,
    seed: int,
    test_fold: int | None = None,
    clinical: Json | None = None,
    hazard_years: int = 0,
) -> dict[str, list[CohortItem]]:
    """Return the patients of one training, by the keys ``train``, ``validate`` and ``test``.

    Args:
        cohort: patient table; its column ``fold``, where it has one, is the split.
        fold: which fold is held out for validation, from 0.
        folds: number of folds.
        seed: of the split.
        test_fold: the fold that is left out entirely; None leaves out none.
        clinical: statistics by which the items' ``clinical`` (F,) is standardised; None adds none.
        hazard_years: above 0 the items get their ``outcome``: (years, 1 for a fracture).

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: a fold does not exist, or the cohort is too small for the folds.
    """
    for name, number in (("fold", fold), ("test_fold", test_fold)):
        if number is not None and not 0 <= number < folds:
            raise SettingError(f"{name} ({number}) must lie in 0 … {folds - 1}: folds is {folds}")
    if fold == test_fold:
        raise SettingError(
            f"test_fold ({test_fold}) must differ from fold, which chooses the best epoch"
        )
    parts = split_folds(read_cohort(cohort), folds, seed)
    train, validate = parts[fold]
    test = [] if test_fold is None else parts[test_fold][1]
    tested = {item["case_id"] for item in test}
    train = [item for item in train if item["case_id"] not in tested]
    standardise = Standardiser.from_settings(clinical)
    added: dict[str, Json] = {item["case_id"]: {} for item in (*train, *validate, *test)}
    if standardise is not None:
        values = clinical_values(cohort, standardise.names)
        for case, extra in added.items():
            extra["clinical"] = standardise(values[case])[0]
    if hazard_years:
        outcomes = follow_up(cohort)
        for case, extra in added.items():
            extra["outcome"] = np.array(outcomes[case], dtype=np.float32)
    split = {"train": train, "validate": validate, "test": test}
    return {
        part: [cast(CohortItem, {**item, **added[item["case_id"]]}) for item in items]
        for part, items in split.items()
    }


def fit_clinical(
    model: str,
    cohort: str | Path,
    fold: int,
    folds: int,
    seed: int,
    test_fold: int | None = None,
) -> Json | None:
    """Return the statistics of a clinical model's variables over the training part of a fold.

    Returns:
        ``names``, ``mean``, ``sd`` and ``missing``, see :class:`Standardiser`; None for ``none``.

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: an unknown model, or a variable that no training patient has.
    """
    if model == NO_MODEL:
        return None
    if model not in MODELS:
        known = ", ".join(MODELS)
        raise SettingError(f"clinical_model ({model!r}) must be {NO_MODEL!r} or one of {known}")
    names = MODELS[model]
    values = clinical_values(cohort, names)
    train = split_cohort(cohort, fold, folds, seed, test_fold)["train"]
    return Standardiser.fit([values[item["case_id"]] for item in train], names).to_settings()


def cohort_cases(
    cohort: str | Path,
    fold: int | None = None,
    folds: int = 10,
    seed: int = 0,
    clinical: Standardiser | None = None,
) -> list[CohortItem]:
    """Return all patients of a table, or those that a fold holds out.

    With ``clinical`` of the weights, each item gets its raw values, which
    :class:`~monai_vfx.model.bundle.datasets.CaseDataset` then standardises.
    """
    items = read_cohort(cohort)
    if fold is not None:
        if not 0 <= fold < folds:
            raise SettingError(f"fold ({fold}) must lie in 0 … {folds - 1}: folds is {folds}")
        items = split_folds(items, folds, seed)[fold][1]
    if clinical is None:
        return items
    values = clinical_values(cohort, clinical.names)
    return [cast(CohortItem, {**item, "clinical": values[item["case_id"]]}) for item in items]


def _rows(frame: pd.DataFrame, names: Sequence[str]) -> list[dict[str, float]]:
    values = np.asarray(design_matrix(frame, tuple(names)), dtype=np.float64)
    return [dict(zip(names, row.tolist(), strict=True)) for row in values]
