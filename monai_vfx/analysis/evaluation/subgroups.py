"""Discrimination in parts of the cohort: sexes, scanners, phases, thirds of age."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.analysis.evaluation.estimates import check_outcome
from monai_vfx.core.arrays import Json

if TYPE_CHECKING:
    import pandas as pd

MIN_PATIENTS = 5
"""An AUROC needs this many patients of each outcome; below it only the counts are given."""
MAX_GROUPS = 20
_MAX_CATEGORIES = 5
"""A column with at most this many different numbers is a category, not a measurement."""


@dataclass(frozen=True)
class Groups:
    """Which group each patient falls into.

    Args:
        variable: the column.
        names: of the groups, in order; the last may be ``missing``.
        member: (n,), position in ``names``.
    """

    variable: str
    names: tuple[str, ...]
    member: npt.NDArray[np.int64]


def split_groups(column: pd.Series) -> Groups:
    """Split patients by a column: categories as they are, measurements cut at their thirds.

    Patients without an entry form a group of their own, ``missing``.

    Args:
        column: (n,), text, or numbers; more than five different numbers are a measurement.

    >>> import pandas as pd
    >>> split_groups(pd.Series([61, 64, 70, 72, 75, 79], name="age")).names
    ('up to 68', 'above 68 to 73', 'above 73')
    >>> split_groups(pd.Series(["F", "M", None], name="sex")).names
    ('F', 'M', 'missing')
    """
    missing = column.isna().to_numpy()
    names, member = _by_thirds(column) if _is_measurement(column) else _by_entry(column)
    if missing.any():
        member = np.where(missing, len(names), member)
        names = [*names, "missing"]
    if len(names) > MAX_GROUPS:
        raise ValueError(
            f"{column.name} has {len(names)} different entries; at most {MAX_GROUPS} subgroups"
        )
    return Groups(str(column.name), tuple(names), member)


def _is_measurement(column: pd.Series) -> bool:
    return column.dtype.kind in "iuf" and column.nunique() > _MAX_CATEGORIES


def _by_thirds(column: pd.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    values = column.to_numpy(np.float64)
    cuts = np.unique(np.quantile(values[np.isfinite(values)], [1 / 3, 2 / 3]))
    text = [f"{cut:.4g}" for cut in cuts]
    names = [f"up to {text[0]}"]
    names += [f"above {low} to {high}" for low, high in pairwise(text)]
    return [*names, f"above {text[-1]}"], np.searchsorted(cuts, values, side="left")


def _by_entry(column: pd.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    present = column.notna().to_numpy()
    cells = column.to_numpy()[present]
    entries, code = np.unique(
        cells if column.dtype.kind in "biuf" else cells.astype(str), return_inverse=True
    )
    member = np.full(len(column), -1, dtype=np.int64)
    member[present] = code
    return [f"{x:g}" if isinstance(x, float) else str(x) for x in entries.tolist()], member


def subgroup_rows(y: npt.ArrayLike, score: npt.ArrayLike, groups: Groups) -> list[Json]:
    """Return a score's AUROC in every group, as ``evaluation.json`` holds it."""
    outcome, _ = check_outcome(y)
    values = np.asarray(score, dtype=np.float64)
    rows: list[Json] = []
    for number, name in enumerate(groups.names):
        inside = (groups.member == number) & np.isfinite(values)
        n, events = int(inside.sum()), int(outcome[inside].sum())
        row: Json = {"variable": groups.variable, "value": name, "n": n, "events": events}
        if min(events, n - events) < MIN_PATIENTS:
            note = f"fewer than {MIN_PATIENTS} patients with or without a fracture"
            rows.append(row | {"auroc": None, "ci": None, "note": note})
            continue
        found = auroc(outcome[inside], values[inside])
        rows.append(row | {"auroc": found.value, "ci": found.ci, "note": None})
    return rows
