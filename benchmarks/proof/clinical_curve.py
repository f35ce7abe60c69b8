"""What clinical models reach by the number of patients they are fitted on; they need no images.

A-D know little (attainable AUROCs of about 0.55 and 0.63), so on the study's 1,214 patients chance
takes a good part of it. Fitted on draws of that size and on more, and tested on far more patients
than have images, they show whether patients or the models are what limits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from monai_vfx.analysis.clinical.models import fit_clinical
from monai_vfx.analysis.clinical.variables import MODELS
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.simulation.attainable import best_scores
from monai_vfx.simulation.hazard import Signal
from monai_vfx.simulation.patients import draw_patients

TEST_SEED, FIRST_SEED = 901_000, 920_000
"""Far from those of sets that have images, and from those that the trees' settings come from."""


def fit_by_size(
    folder: Path, signal: Signal, sizes: Sequence[Sequence[int]], tested: int, draws: int
) -> list[Path]:
    """Fit A-D on development sets of several sizes.

    Args:
        folder: for ``curve.csv``.
        signal: of the simulation.
        sizes: (patients, number of sets of that size) each.
        tested: patients that all are tested on, of the development hospital.
        draws: of the population, to fit the best score of each class.
    """
    test = table_of(tested, TEST_SEED, signal)
    names = [f"clinical_{letter}" for letter in MODELS]
    ideal = best_scores(test, "development", signal, count=draws, classes=names)
    best = {name: auroc(test["fracture"], ideal[name]) for name in names}
    rows: list[dict[str, Any]] = []
    for patients, sets in sizes:
        for number in range(sets):
            seed = FIRST_SEED + len(rows)
            train = table_of(patients, seed, signal)
            for letter, variables in MODELS.items():
                for kind in ("xgboost", "logistic"):
                    model = fit_clinical(train, variables, kind, seed)  # type: ignore[arg-type]
                    own = auroc(test["fracture"], model.predict(test))
                    row = {"model": f"clinical_{letter}", "kind": kind, "patients": patients}
                    row |= {"set": number, "auroc": own.value, "se": own.variance**0.5}
                    ceiling = best[f"clinical_{letter}"].value
                    row |= {"attainable": ceiling}
                    rows.append(row | {"share": (own.value - 0.5) / (ceiling - 0.5)})
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "curve.csv", index=False)
    return [folder / "curve.csv"]


def table_of(patients: int, seed: int, signal: Signal) -> pd.DataFrame:
    """Draw cases and matched controls of the development hospital, without images."""
    people = draw_patients(patients, seed, "development", signal)
    return pd.DataFrame([asdict(person) for person in people])


def summarise(out: Path, results: Path) -> None:
    """Write ``clinical_curve.csv``: mean and SD over sets of each model, kind and size."""
    path = out / "clinical" / "curve" / "curve.csv"
    if not path.is_file():
        return
    table = pd.read_csv(path)
    groups = table.groupby(["model", "kind", "patients"], sort=False)
    found = groups.agg(
        sets=("set", "size"),
        auroc=("auroc", "mean"),
        sd=("auroc", "std"),
        attainable=("attainable", "first"),
        share=("share", "mean"),
        min_share=("share", "min"),
        max_share=("share", "max"),
    )
    results.mkdir(parents=True, exist_ok=True)
    found.reset_index().to_csv(results / "clinical_curve.csv", index=False, float_format="%.4g")
