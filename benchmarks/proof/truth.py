"""What a model of each kind could reach: the one place that asks the simulation for its truth.

Per patient, the score that a perfect reader of the truth would give; with it the attainable AUROC
is computed on the very patients that a model is tested on, so that their chance is shared.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from monai_vfx.simulation.populations import RISK_MODELS, Signal

Floats = npt.NDArray[np.float64]


def ideal_scores(truth: pd.DataFrame, signal: Signal) -> dict[str, Floats]:
    """Return each patient's score by a perfect reader, by kind of model.

    Args:
        truth: ``truth.csv`` of the patients: ``bone_z``, ``muscle_z``, ``five_year_risk``.
        signal: that they were drawn with.

    Returns:
        (n,) for ``bone`` and ``image`` (bone and muscle) and ``risk`` (everything that drives the
        fracture, and so the ceiling of image with clinical variables).
    """
    model = RISK_MODELS[signal]
    bone, muscle = truth["bone_z"].to_numpy(float), truth["muscle_z"].to_numpy(float)
    return {
        "bone": -bone,
        "image": model.bone * bone + model.muscle * muscle,
        "risk": truth["five_year_risk"].to_numpy(float),
    }


def attainable_by_table(signal: Signal, hospital: str) -> dict[str, tuple[float, float]]:
    """Return (AUROC, standard error) that models of a table alone can reach in a population.

    Empty where the simulation does not say: ``clinical_A`` … ``clinical_D`` then have no ceiling.
    """
    return {}
