"""What the bundle's configs name and MONAI lacks: datasets, handlers and small functions.

Everything here is a part that a config puts together; nothing here knows a whole workflow. A case
that is refused never stops the others.
"""

from monai_vfx.analysis.cohort.training_items import table_sha256
from monai_vfx.model.bundle.covariates import Standardiser
from monai_vfx.model.bundle.data import (
    CaseDataset,
    CohortCache,
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
    hash_of_pretrained,
    remember_best,
    start_from,
)
from monai_vfx.model.checkpoint import TrainedModel, bundle_root
from monai_vfx.model.pretrained import name_of_pretrained
from monai_vfx.vertebrae.training.checkpoints import (
    Bfloat16Inferer,
    TrainingCheckpoints,
    check_output_dir,
    check_resumable,
    newest_checkpoint,
)

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
    "remember_best",
    "score_and_label",
    "split_cohort",
    "start_from",
    "table_sha256",
    "with_exclusions",
]
