"""The patients of an evaluation: their scores, the groups they form, the bootstrap samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.bootstrap import Counts, auroc_samples, draw_counts
from monai_vfx.analysis.evaluation.estimates import Bools, Floats
from monai_vfx.analysis.evaluation.score_table import Columns
from monai_vfx.analysis.groups import tied_rows

if TYPE_CHECKING:
    import pandas as pd

_KEPT = 4
"""Sets of samples kept at a time; scores with gaps of their own would fill the memory."""


@dataclass
class Patients:
    """The checked table, its outcome, who belongs together, and the bootstrap samples so far."""

    table: pd.DataFrame
    columns: Columns
    samples: int
    seed: int
    prevalence: float | None
    notes: list[str] = field(default_factory=list)
    _drawn: dict[bytes, Counts] = field(default_factory=dict)
    _resampled: dict[tuple[str, bytes], Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = self.table[self.columns.label].to_numpy(np.float64)
        self.outcome: Bools = np.asarray(labels == 1, dtype=np.bool_)
        self.groups = _tied(self.table)
        if any(
            name in self.table and self.table[name].dropna().duplicated().any()
            for name in ("case_id", "patient_id")
        ):
            self.notes.append(
                "Some patients have several rows: DeLong's and Wilson's intervals take rows as "
                "independent and are too narrow; the bootstrap draws whole patients."
            )

    def having(self, *names: str) -> Bools:
        """Return which patients have an entry in all of these columns, (n,)."""
        there = self.table[list(names)].notna().to_numpy()
        return np.asarray(there.all(axis=1), dtype=np.bool_)

    def values(self, name: str) -> Floats:
        """Return a column of numbers, (n,), NaN where there is none."""
        return self.table[name].to_numpy(np.float64)

    def resampled(self, name: str, rows: Bools) -> Floats:
        """Return a score's AUROC in each bootstrap sample of these patients, (samples,)."""
        key = (name, rows.tobytes())
        if key not in self._resampled:
            self._resampled[key] = auroc_samples(
                self.outcome[rows], self.values(name)[rows], self.counts(rows)
            )
        return self._resampled[key]

    def counts(self, rows: Bools) -> Counts:
        """Return the bootstrap samples of these patients, the same for the same patients."""
        key = rows.tobytes()
        if key not in self._drawn:
            if len(self._drawn) == _KEPT:
                del self._drawn[next(iter(self._drawn))]
            groups = None if self.groups is None else self.groups[rows]
            self._drawn[key] = draw_counts(
                self.outcome[rows], groups=groups, samples=self.samples, seed=self.seed
            )
        return self._drawn[key]


def _tied(table: pd.DataFrame) -> npt.NDArray[np.int64] | None:
    """Number the groups that patients and pairs tie together; None where nobody is tied."""
    names = [name for name in ("case_id", "patient_id", "pair_id") if name in table]
    groups = tied_rows(len(table), *(table[name] for name in names))
    return None if np.array_equal(groups, np.arange(len(table))) else groups
