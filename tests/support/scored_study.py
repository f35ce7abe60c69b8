"""A study's folder as it stands before evaluation, made by the real code but for the networks.

Patients, pairs, folds, clinical fits, late fusions and thresholds are real. What a network would
leave behind (split, sidecar, scores of its evaluations) is written by hand: one score a network
and patient, drawn from the patient's true risk and the network's own noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES
from monai_vfx.analysis.clinical.scores import Fits, save_fits
from monai_vfx.analysis.clinical.variables import MODELS, design_matrix
from monai_vfx.analysis.cohort.matching import Matching, match
from monai_vfx.analysis.cohort.patients_csv import read_patients, write_patients
from monai_vfx.analysis.folds import table_folds
from monai_vfx.core.files import write_json
from monai_vfx.model.bundle.cohort import Standardiser
from monai_vfx.simulation.patients import COHORT_COLUMNS, draw_patients
from monai_vfx.workflows.study.images import ImageModel, image_models
from monai_vfx.workflows.study.plan import Hospital, ImagePlan, Plan
from monai_vfx.workflows.study.scores import (
    Patients,
    development_tables,
    external_table,
    load_all_models,
)
from monai_vfx.workflows.study.steps import same_study

FOLDS = 3
REFUSED = "P5"
"""The networks refuse this patient's image, at home and elsewhere."""
SECOND = "second"
"""A second CT of the first patient; it is in no pair."""


@dataclass(frozen=True)
class Scored:
    """A study's folder with what it was made of."""

    root: Path
    plan: Plan
    home: Patients
    away: Patients
    fits: Fits


def build(root: Path, *, unknown: Sequence[str] = ()) -> Scored:
    """Write a study's folder.

    Args:
        root: the folder.
        unknown: columns that whoever made the folds did not know of, though the table has them.
    """
    plan = Plan(
        name="Test",
        development=Hospital(table=root / "home.csv"),
        external=Hospital(table=root / "away.csv"),
        folds=FOLDS,
        clinical=("A", "B"),
        images=ImagePlan(fusion=("A",), hazard=True),
    )
    frame = _patients(root, "development", 90)
    known = frame.drop(columns=list(unknown))
    known["fold"] = table_folds(known, FOLDS, seed=1)
    if "patient_id" in unknown:
        first = known["fold"].iloc[0]
        known.loc[known["case_id"] == SECOND, "fold"] = (first + 1) % FOLDS
    away = _patients(root, "external", 40)
    selected = {
        side: root / "cohort" / side / "selected.csv" for side in ("development", "external")
    }
    write_patients(known, selected["development"])
    write_patients(away.drop(columns="pair_id"), selected["external"])
    sides = {}
    for side, path in selected.items():
        table = read_patients(path)
        _measurements(table).to_csv(_folder(root / "imaging") / f"{side}.csv", index=False)
        measured = pd.read_csv(root / "imaging" / f"{side}.csv", dtype={"case_id": str})
        sides[side] = Patients(table, measured)
    for model in image_models(plan):
        for fold in range(FOLDS):
            _write_network(root, model, fold, sides["development"].frame, sides["external"].frame)
    same_study(root, plan.to_json())
    table, thresholds, fits = development_tables(plan, root / "image", sides["development"])
    predictions = _folder(root / "predictions")
    table.to_csv(predictions / "development.csv", index=False)
    thresholds.to_csv(predictions / "thresholds.csv", index=False)
    save_fits(root / "clinical", fits)
    models = load_all_models(root / "clinical", table)
    external_table(plan, root / "image", sides["external"], models).to_csv(
        predictions / "external.csv", index=False
    )
    write_patients(frame.assign(fold=known["fold"]), selected["development"])
    return Scored(root, plan, sides["development"], sides["external"], fits)


def network_score(model: str, fold: int, case_id: str, fracture: int) -> float:
    """Return what the network that is tested on a fold says about a patient, any patient."""
    rng = np.random.default_rng(zlib.crc32(f"{model} {fold} {case_id}".encode()))
    return float(expit(1.5 * (fracture - 0.5) + rng.normal()))


def _patients(root: Path, hospital: str, count: int) -> pd.DataFrame:
    rows = [asdict(p) for p in draw_patients(count, 3, hospital)]  # type: ignore[arg-type]
    frame = pd.DataFrame(rows)[["case_id", *COHORT_COLUMNS]]
    for column in ("case_id", "patient_id"):
        frame[column] = [f"{'P' if hospital == 'development' else 'X'}{i}" for i in range(count)]
    matched = Matching(variables=("age", "sex", "bmi"), caliper=None)
    frame["pair_id"] = (
        match(frame, matched)
        .frame.set_index("case_id")["pair_id"]
        .reindex(frame["case_id"])
        .to_numpy()
    )
    if hospital == "development":
        second = frame.iloc[[0]].assign(case_id=SECOND, pair_id=np.nan)
        frame = pd.concat([frame, second], ignore_index=True)
    frame.loc[[7, 20, 33], "bmi"] = np.nan  # so that the imputation matters
    frame.loc[[7, 20, 33], "weight_kg"] = np.nan
    images = _folder(root / "scans")
    for case in frame["case_id"]:
        (images / f"{hospital}_{case}.nii").write_bytes(f"voxels of {case}".ljust(400).encode())
    frame["image"] = [str(images / f"{hospital}_{case}.nii") for case in frame["case_id"]]
    frame["mask"] = [image.replace(".nii", "_mask.nii") for image in frame["image"]]
    return frame


def _measurements(frame: pd.DataFrame) -> pd.DataFrame:
    rng = np.random.default_rng(8)
    values = rng.normal(100, 20, (len(frame), len(IMAGING_VARIABLES)))
    values[:, 0] -= 10 * frame["fracture"]
    table = pd.DataFrame(values, columns=list(IMAGING_VARIABLES))
    table.loc[[5, 12]] = np.nan  # nothing could be measured
    table.insert(0, "case_id", frame["case_id"])
    return table.assign(note="")


def _write_network(
    root: Path, model: ImageModel, fold: int, home: pd.DataFrame, away: pd.DataFrame
) -> None:
    folder = root / "image" / model.name / f"fold_{fold}"
    validation = (fold + 1) % FOLDS
    parts = {
        "train": home[~home["fold"].isin((fold, validation))],
        "validation": home[home["fold"] == validation],
        "test": home[home["fold"] == fold],
    }
    split = {name: rows["case_id"].tolist() for name, rows in parts.items()}
    write_json(folder / "split.json", {"fold": validation, **split})
    write_json(folder / "model.json", {"config": {"clinical": standardiser(model, parts["train"])}})
    for part in ("test", "validation"):
        _write_scores(folder / part, model, fold, parts[part])
    _write_scores(folder / "external", model, fold, away)


def standardiser(model: ImageModel, rows: pd.DataFrame) -> dict[str, object] | None:
    """Return the statistics of clinical variables that a fusion network holds."""
    if not model.name.startswith("fusion_"):
        return None
    names = MODELS[model.name.removeprefix("fusion_")]
    values = design_matrix(rows, names).set_axis(list(names), axis=1)
    records: list[dict[str, float]] = values.to_dict("records")  # type: ignore[assignment]
    return Standardiser.fit(records, names).to_settings()


def _write_scores(folder: Path, model: ImageModel, fold: int, rows: pd.DataFrame) -> None:
    taken = rows[~rows["case_id"].isin((REFUSED, "X5"))]
    table = taken[["case_id"]].assign(label=taken["fracture"])
    scores = [
        network_score(model.name, fold, case, fracture)
        for case, fracture in zip(taken["case_id"], taken["fracture"], strict=True)
    ]
    table["score"] = scores
    if model.name == "hazard":
        for year in range(1, 6):
            table[f"risk_year_{year}"] = np.array(scores) * year / 5
    table.to_csv(_folder(folder) / "predictions.csv", index=False)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
