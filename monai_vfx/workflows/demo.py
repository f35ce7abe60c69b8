"""The whole job on a simulated hospital, on a CPU: train, test on unseen patients, explain one.

Nothing is prepared: patients are simulated, the network is trained from random weights through the
bundle, and the AUROC is whatever comes out.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from monai_vfx.analysis.cohort.training_items import read_cohort
from monai_vfx.analysis.evaluation.discrimination import auroc, auroc_json
from monai_vfx.analysis.evaluation.figures import RocData, roc_data, roc_panels
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.results import Prediction
from monai_vfx.outputs.report.case_page import write_case_page
from monai_vfx.simulation.hospital import simulate_hospital
from monai_vfx.workflows.predictor import predict
from monai_vfx.workflows.scoring import input_and_heat
from monai_vfx.workflows.train import evaluate, train

SIGNAL: Literal["strong"] = "strong"
FOLDS = 5
"""One fold of the training hospital is held out to choose the best epoch."""


def run_demo(
    out: Path, seed: int = 0, training_patients: int = 280, unseen_patients: int = 220
) -> Json:
    """Simulate, train, evaluate, predict, explain and report.

    Args:
        out: folder for everything; a demo that was stopped goes on where it was.
        seed: of the patients, the folds and the training.
        training_patients: to train on; a fifth of them chooses the best epoch.
        unseen_patients: to test on.

    Returns:
        ``auroc``, ``auroc_ci``, ``n``, ``events`` on unseen patients and the paths of the results.
    """
    start = time.monotonic()
    _tell(start, f"simulating {training_patients} patients to train on, {unseen_patients} to test")
    training = _hospital(out / "hospital", training_patients, 3 * seed, "nifti", "quick")
    unseen = _hospital(out / "unseen", unseen_patients, 3 * seed + 1, "nifti", "quick")
    patient = read_cohort(_hospital(out / "patient", 2, 3 * seed + 2, "dicom", "full"))[0]

    _tell(start, "training through the bundle (overlay cpu_small)")
    trained = train(training, out=out / "training", folds=FOLDS, overlays=("cpu_small",), seed=seed)
    weights = Path(trained["weights"])

    _tell(start, "testing on the unseen patients")
    evaluate(
        unseen,
        weights=weights,
        out=out / "evaluation",
        workers=min(len(os.sched_getaffinity(0)), 8),
    )
    curve, signal = _roc(out / "evaluation" / "predictions.csv"), _signal(out / "unseen")

    _tell(start, "predicting and explaining one full DICOM series")
    prediction = predict(
        patient["image"],
        patient["mask"],
        weights=weights,
        out=out,
        case_id="demo",
        explain=True,
        compare_mask=False,  # its levels are true by construction
    )
    image, heat = input_and_heat({"image": patient["image"], "mask": patient["mask"]}, weights)
    page = write_case_page(
        out / "report.html",
        prediction=prediction.to_json(),
        image=image,
        heat=heat,
        heat_name="GradCAM, layer3",
        names=("bone + muscle", "bone only"),
        history=_history(out / "training" / "metrics_history.csv"),
        evaluation=curve,
        roc=roc_panels([{"title": "", "curves": [curve]}]),
        evaluated_on=f"{curve['n']} unseen simulated patients; simulated signal: {signal}",
        facts={"Training": f"{training_patients} simulated patients, overlay cpu_small"},
    )
    summary: Json = {
        "auroc": curve["auroc"],
        "auroc_ci": list(curve["auroc_ci"]),
        "n": curve["n"],
        "events": curve["events"],
        "signal": signal,
        "seconds": round(time.monotonic() - start, 1),
        "weights": str(weights),
        "report": str(page),
    }
    write_json(out / "demo.json", summary)
    _tell(start, "done")
    _print_summary(summary, prediction, out)
    return summary


def _print_summary(summary: Json, prediction: Prediction, out: Path) -> None:
    low, high = summary["auroc_ci"]
    print(
        f"AUROC {summary['auroc']:.3f} (95 % interval {low:.3f}-{high:.3f}) on {summary['n']} "
        f"unseen simulated patients, {summary['events']} with fracture; "
        f"simulated signal: {summary['signal']}"
    )
    print(f"score of the patient: {prediction.score:.3f} (simulated weights, no clinical meaning)")
    print(f"weights:  {summary['weights']}")
    print(f"results:  {out / 'prediction.json'}, gradcam.nii.gz, gradcam.png")
    print(f"page:     {summary['report']}")


def _tell(start: float, what: str) -> None:
    print(f"[{time.monotonic() - start:5.0f} s] {what}", file=sys.stderr, flush=True)


def _hospital(
    folder: Path,
    patients: int,
    seed: int,
    file_format: Literal["dicom", "nifti"],
    field_of_view: Literal["full", "quick"],
) -> Path:
    """Return the cohort table of a hospital, simulated unless it is there already."""
    table = folder / "cohort.csv"
    if table.exists():
        record = json.loads((folder / "hospital.json").read_text(encoding="utf-8"))
        if (record["seed"], record["patients"]) != (seed, patients):
            raise SettingError(f"{folder} holds a demo of another seed: choose another --out")
        return table
    with tqdm(total=patients, desc=folder.name, file=sys.stderr, mininterval=5) as bar:

        def advance(done: int, _: int) -> None:
            bar.update(done - bar.n)

        return simulate_hospital(
            folder,
            patients,
            seed=seed,
            file_format=file_format,
            field_of_view=field_of_view,
            signal=SIGNAL,
            progress=advance,
        )


def _roc(predictions: Path) -> RocData:
    with predictions.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["label"]) for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    return roc_data("bone + muscle", labels, scores, auroc_json(auroc(labels, scores)))


def _signal(folder: Path) -> str:
    """Say how strong the simulated signal is, as the hospital's record has it."""
    record = json.loads((folder / "hospital.json").read_text(encoding="utf-8"))
    best = record["attainable_auroc"]
    return (
        f"{record['signal']} (attainable AUROC on these patients: {best['image']:.2f} from what "
        "the CT shows)"
    )


def _history(path: Path) -> list[dict[str, float | None]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                "epoch": float(row["epoch"]),
                "train_loss": float(row["train_loss"]),
                "validation_auroc": float(row["val_auroc"]) if row["val_auroc"] else None,
            }
            for row in csv.DictReader(file)
        ]
