"""Clinical models A-D and imaging baselines: what a deep model is compared with."""

from __future__ import annotations

from monai_vfx.analysis.clinical.crossfit import CrossFit, assign_folds, cross_fit, threshold_rows
from monai_vfx.analysis.clinical.fusion import (
    Fusion,
    LateFusion,
    NestedScores,
    fit_fusion,
    late_fusion,
)
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES, feature_table, imaging_features
from monai_vfx.analysis.clinical.models import ClinicalModel, fit_clinical, load_clinical
from monai_vfx.analysis.clinical.variables import (
    MATCHING_VARIABLES,
    MODELS,
    design_matrix,
    patient_groups,
)

__all__ = [
    "IMAGING_VARIABLES",
    "MATCHING_VARIABLES",
    "MODELS",
    "ClinicalModel",
    "CrossFit",
    "Fusion",
    "LateFusion",
    "NestedScores",
    "assign_folds",
    "cross_fit",
    "design_matrix",
    "feature_table",
    "fit_clinical",
    "fit_fusion",
    "imaging_features",
    "late_fusion",
    "load_clinical",
    "patient_groups",
    "threshold_rows",
]
