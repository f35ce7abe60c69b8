"""What the bundle's configs name and MONAI lacks: datasets, handlers and small functions.

Everything here is a part that a config puts together; nothing here knows a whole workflow. A case
that is refused never stops the others.
"""

from monai_vfx.model.bundle.covariates import Standardiser
from monai_vfx.model.bundle.data import (
    CaseDataset,
    CohortCache,
    check_output_dir,
    cohort_cases,
    collate_cases,
    evaluate_accepted,
    fit_clinical,
    fracture_score,
    prepare_batch,
    score_and_label,
    split_cohort,
)
from monai_vfx.model.bundle.exclusions import StudyExclusionsd, with_exclusions
from monai_vfx.model.bundle.hazards import JointLoss
from monai_vfx.model.bundle.overlays import check_overlay
from monai_vfx.model.bundle.precision import Bfloat16Inferer
from monai_vfx.model.bundle.prediction import (
    EvaluationWriter,
    HeatMapWriter,
    PredictionWriter,
    prediction_of,
)
from monai_vfx.model.bundle.prepared import PreparedImages
from monai_vfx.model.bundle.recipe import (
    EarlyStop,
    MixUp,
    RateSchedule,
    RecipeState,
    make_loss,
    make_optimizer,
    moving_average,
)
from monai_vfx.model.bundle.training import (
    EpochSeeds,
    HistoryWriter,
    SidecarWriter,
    TrainingCheckpoints,
    check_resumable,
    hash_of_pretrained,
    newest_checkpoint,
    start_from,
)
from monai_vfx.model.checkpoint import TrainedModel, bundle_root
from monai_vfx.model.pretrained import name_of_pretrained

__all__ = [
    "Bfloat16Inferer",
    "CaseDataset",
    "CohortCache",
    "EarlyStop",
    "EpochSeeds",
    "EvaluationWriter",
    "HeatMapWriter",
    "HistoryWriter",
    "JointLoss",
    "MixUp",
    "PredictionWriter",
    "PreparedImages",
    "RateSchedule",
    "RecipeState",
    "SidecarWriter",
    "Standardiser",
    "StudyExclusionsd",
    "TrainedModel",
    "TrainingCheckpoints",
    "bundle_root",
    "check_output_dir",
    "check_overlay",
    "check_resumable",
    "cohort_cases",
    "collate_cases",
    "evaluate_accepted",
    "fit_clinical",
    "fracture_score",
    "hash_of_pretrained",
    "make_loss",
    "make_optimizer",
    "moving_average",
    "name_of_pretrained",
    "newest_checkpoint",
    "prediction_of",
    "prepare_batch",
    "score_and_label",
    "split_cohort",
    "start_from",
    "with_exclusions",
]
