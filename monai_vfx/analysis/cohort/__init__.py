"""A table of patients → who is eligible, who is matched, which fold each falls into."""

from __future__ import annotations

from monai_vfx.analysis.cohort.training_items import (
    CohortItem,
    read_cohort,
    split_folds,
    table_sha256,
)
from monai_vfx.core.tables import LISTED_FAULTS

__all__ = ["LISTED_FAULTS", "CohortItem", "read_cohort", "split_folds", "table_sha256"]
