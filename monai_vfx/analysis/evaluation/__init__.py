"""How good a score is: discrimination, calibration, decisions, time, with honest intervals.

The unit is the patient: every number carries how many patients (``n``) and how many fractures
(``events``) it rests on. :func:`monai_vfx.analysis.evaluation.summary.evaluate_scores` does it
all at once.
"""

from __future__ import annotations

from monai_vfx.analysis.evaluation.adjusted import AdjustedAuroc, adjusted_auroc
from monai_vfx.analysis.evaluation.bootstrap import auroc_samples, draw_counts, percentile_interval
from monai_vfx.analysis.evaluation.comparisons import (
    McnemarTest,
    difference_interval,
    holm,
    mcnemar_tests,
)
from monai_vfx.analysis.evaluation.discrimination import (
    Auroc,
    DelongTest,
    Proportion,
    RocCurve,
    auroc,
    check_outcome,
    delong_test,
    hanley_mcneil_variance,
    roc_curve,
    wilson_interval,
)
from monai_vfx.analysis.evaluation.subgroups import split_groups, subgroup_rows
from monai_vfx.analysis.evaluation.thresholds import (
    OperatingPoint,
    Threshold,
    choose_thresholds,
    operating_point,
)

__all__ = [
    "AdjustedAuroc",
    "Auroc",
    "DelongTest",
    "McnemarTest",
    "OperatingPoint",
    "Proportion",
    "RocCurve",
    "Threshold",
    "adjusted_auroc",
    "auroc",
    "auroc_samples",
    "check_outcome",
    "choose_thresholds",
    "delong_test",
    "difference_interval",
    "draw_counts",
    "hanley_mcneil_variance",
    "holm",
    "mcnemar_tests",
    "operating_point",
    "percentile_interval",
    "roc_curve",
    "split_groups",
    "subgroup_rows",
    "wilson_interval",
]
