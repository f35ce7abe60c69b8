"""How good a score is: discrimination, calibration, decisions, time, with honest intervals.

The unit is the patient: every number carries how many patients (``n``) and how many fractures
(``events``) it rests on.
"""

from __future__ import annotations

from monai_vfx.evaluation.auroc import (
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

__all__ = [
    "Auroc",
    "DelongTest",
    "Proportion",
    "RocCurve",
    "auroc",
    "check_outcome",
    "delong_test",
    "hanley_mcneil_variance",
    "roc_curve",
    "wilson_interval",
]
