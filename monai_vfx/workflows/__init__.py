"""Drive the bundle: merged configs → MONAI workflow → results. The same configs as on its own.

Every function here runs what ``python -m monai.bundle run`` runs with the bundle's configs; it adds
the record of the run and puts the files where the command line promises them.
"""

from __future__ import annotations

from monai_vfx.workflows.predict import IMAGE_CLASSES, picture, predict, read_prediction
from monai_vfx.workflows.run_bundle import preprocessing, quiet, run_bundle
from monai_vfx.workflows.train import UNCHANGED, evaluate, train

__all__ = [
    "IMAGE_CLASSES",
    "UNCHANGED",
    "evaluate",
    "picture",
    "predict",
    "preprocessing",
    "quiet",
    "read_prediction",
    "run_bundle",
    "train",
]
