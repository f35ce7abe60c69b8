"""A simulated hospital on disk: images, masks, the cohort's table and the hidden truth."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pandas as pd

from monai_vfx.core.arrays import Affine
from monai_vfx.core.files import write_json, write_text
from monai_vfx.core.workers import run_tasks
from monai_vfx.simulation.attainable import attainable_auroc, attainable_record
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.simulation.hazard import HAZARDS, UNITS, Signal
from monai_vfx.simulation.patients import COHORT_COLUMNS, TRUTH_COLUMNS, Patient, draw_patients
from monai_vfx.simulation.phantom import EDGE_SD_MM, make_phantom, with_edge_errors
from monai_vfx.simulation.populations import POPULATIONS, Hospital
from monai_vfx.simulation.scanner import SCANNERS, FieldOfView

FileFormat = Literal["dicom", "nifti"]
Progress = Callable[[int, int], None]


def simulate_hospital(
    out: Path | str,
    patients: int = 20,
    seed: int = 0,
    hospital: Hospital = "development",
    file_format: FileFormat = "dicom",
    field_of_view: FieldOfView = "full",
    signal: Signal = "paper",
    workers: int | None = None,
    progress: Progress | None = None,
    attainable: bool = False,
    mask_error_mm: float = EDGE_SD_MM,
) -> Path:
    """Write a hospital of simulated patients; return the path of ``cohort.csv``.

    The files are ``cohort.csv`` (what a hospital would know, with paths relative to it),
    ``truth.csv`` (hidden states and true risk), ``hospital.json`` (settings), and a CT and a
    label map a patient. ``cohort.csv`` is written last: a folder without it is not complete, and
    the same call may be made again. The files do not depend on ``workers``.

    Args:
        out: folder; made if missing.
        patients: number of patients, at least 2.
        seed: not negative.
        hospital: ``development`` (cases and matched controls, one to one), ``external`` or
            ``registry`` (unselected, with rows that break the eligibility rules).
        file_format: ``dicom`` writes a series a patient, ``nifti`` one uncompressed file.
        field_of_view: ``full`` (abdomen) or ``quick`` (around T12-L4, for demonstrations).
        signal: the hazard: ``paper``, ``strong``, ``no_muscle`` or ``none``.
        workers: processes; by default one a CPU core. 1 works in this process.
        progress: called with (patients done, patients) after each.
        attainable: whether ``hospital.json`` gets the attainable AUROC of every class of models
            (:func:`~monai_vfx.simulation.attainable.attainable_record`); takes half a minute.
        mask_error_mm: SD of the error of the masks' edges; 0 writes the painted labels.

    Raises:
        ValueError: for a setting outside these.
        FileExistsError: when ``out`` already holds a complete hospital.
    """
    _check_settings(file_format, field_of_view, workers, mask_error_mm)
    people = draw_patients(patients, seed, hospital, signal)
    out = Path(out)
    table = out / "cohort.csv"
    if table.exists():
        raise FileExistsError(f"{table} exists: choose another folder or remove it")
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = {person.case_id: row for row, person in enumerate(people)}
    settings = (seed, hospital, file_format, field_of_view, mask_error_mm, out)
    # A second CT shows the anatomy of the first.
    jobs = [_Job(person, rows[person.patient_id], *settings) for person in people]
    count = min(workers or os.cpu_count() or 1, len(jobs))
    written = run_tasks(_write_patient, jobs, count if count > 1 else 0, _died)
    for done, _ in enumerate(written, start=1):
        if progress is not None:
            progress(done, len(jobs))
    frame = pd.DataFrame([asdict(person) for person in people])
    classes = None
    if attainable and frame["fracture"].nunique() == 2:
        classes = attainable_record(frame, hospital, signal)
    _write_json(out / "hospital.json", people, jobs[0], signal, classes)
    frame[["case_id", *TRUTH_COLUMNS]].to_csv(out / "truth.csv", index=False)
    frame.insert(1, "image", [job.image_name for job in jobs])
    frame.insert(2, "mask", [job.mask_name for job in jobs])
    frame.insert(3, "simulated", 1)
    columns = ["case_id", "image", "mask", "simulated", *COHORT_COLUMNS]
    write_text(table, frame[columns].round(2).to_csv(index=False))
    return table


@dataclass(frozen=True)
class _Job:
    """One patient to be written."""

    patient: Patient
    row: int
    seed: int
    hospital: Hospital
    file_format: FileFormat
    field_of_view: FieldOfView
    mask_error_mm: float
    out: Path

    @property
    def image_name(self) -> str:
        ending = ".nii" if self.file_format == "nifti" else ""
        return f"images/{self.patient.case_id}{ending}"

    @property
    def mask_name(self) -> str:
        return f"masks/{self.patient.case_id}.nii.gz"

    @property
    def uid_seed(self) -> str:
        return f"{self.hospital}/{self.seed}/{self.field_of_view}/{self.patient.case_id}"


def _write_patient(job: _Job) -> None:
    # The seed is the patient's own, so neither the order nor the number of processes matters.
    seed = np.random.SeedSequence(job.seed, spawn_key=(1, job.row))
    phantom = make_phantom(job.patient, seed, job.hospital, job.field_of_view)
    image = job.out / job.image_name
    if job.file_format == "nifti":
        _save_nifti(image, phantom.hu, phantom.affine)
    else:
        if image.is_dir():  # left by an interrupted run
            for path in image.glob("CT.*.dcm"):
                path.unlink()
        write_ct_series(image, phantom.hu, phantom.affine, _facts(job))
    rng = np.random.default_rng(np.random.SeedSequence(job.seed, spawn_key=(3, job.row)))
    mask = with_edge_errors(phantom.labels, phantom.affine, rng, job.mask_error_mm)
    _save_nifti(job.out / job.mask_name, mask, phantom.affine)


def _save_nifti(
    path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], affine: Affine
) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _facts(job: _Job) -> SeriesFacts:
    patient = job.patient
    return SeriesFacts(
        uid_seed=job.uid_seed,
        patient_id=f"SIM-{job.seed}-{patient.patient_id}",
        patient_name=f"Simulated^{patient.patient_id}",
        sex=patient.sex,
        age_years=int(patient.age),
        height_cm=patient.height_cm,
        weight_kg=patient.weight_kg,
        manufacturer=SCANNERS[job.hospital].manufacturer,
    )


def _died(job: _Job) -> None:
    raise RuntimeError(f"the process that writes {job.patient.case_id} ended unexpectedly")


def _write_json(
    path: Path,
    people: list[Patient],
    job: _Job,
    signal: Signal,
    classes: dict[str, dict[str, dict[str, float]]] | None,
) -> None:
    events = sum(person.fracture for person in people)
    scores = attainable_auroc(people, signal) if 0 < events < len(people) else None
    settings = {
        "simulated": True,
        "hospital": job.hospital,
        "seed": job.seed,
        "file_format": job.file_format,
        "field_of_view": job.field_of_view,
        "mask_error_mm": job.mask_error_mm,
        "signal": signal,
        "patients": len(people),
        "fractures": events,
        "prevalence": events / len(people),
        "population_prevalence": POPULATIONS[job.hospital].prevalence,
        "hazard": {
            name: {"log_hazard_ratio": value, "centre": UNITS[name][0], "unit": UNITS[name][1]}
            for name, value in asdict(HAZARDS[signal]).items()
        },
        "scanner": asdict(SCANNERS[job.hospital]),
        "attainable_auroc": scores,
        "attainable_classes": classes,
    }
    write_json(path, settings)


def _check_settings(
    file_format: str, field_of_view: str, workers: int | None, mask_error_mm: float
) -> None:
    if file_format not in ("dicom", "nifti"):
        raise ValueError(f"`file_format` must be dicom or nifti, got {file_format!r}")
    if field_of_view not in ("full", "quick"):
        raise ValueError(f"`field_of_view` must be full or quick, got {field_of_view!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}")
    if not 0 <= mask_error_mm <= 3:
        raise ValueError(f"`mask_error_mm` must be 0 to 3 mm, got {mask_error_mm} mm")
