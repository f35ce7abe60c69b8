"""Cohorts of phantoms for the tests of the bundle: small images, a table with any columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

from monai_vfx.model.checkpoint import bundle_root
from phantoms import grid, make_phantom, nifti

CONFIGS = bundle_root() / "configs"
META = str(CONFIGS / "metadata.json")
SMALL: dict[str, Any] = {
    **{"crop_size": [32, 48], "pixel_mm": 3.0, "rnn_hidden": 8, "workers": 0},
    **{"batch_size": 4, "micro_batch": 2},
}
"""Settings of a network that trains in a second."""


def files(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def workflow(*names: str, kind: str = "train", **overrides: Any) -> ConfigWorkflow:
    return ConfigWorkflow(files(*names), META, logging_file=False, workflow_type=kind, **overrides)


def run(*names: str, **overrides: Any) -> ConfigWorkflow:
    job = workflow(*names, **overrides)
    job.initialize()
    job.run()
    job.finalize()
    return job


def make_cohort(
    folder: Path, labels: Sequence[int], columns: Mapping[str, Sequence[object]] | None = None
) -> Path:
    """Write phantoms p0, p1, …, the fractured ones with bone of lower density, and their table."""
    folder.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(*grid((2.5, 2.5, 5.0), (190.0, 170.0, 236.0)))
    table = {
        "case_id": [f"p{n}" for n in range(len(labels))],
        "image": [f"p{n}_ct.nii.gz" for n in range(len(labels))],
        "mask": [f"p{n}_mask.nii.gz" for n in range(len(labels))],
        "fracture": labels,
        "simulated": [1] * len(labels),
        **(columns or {}),
    }
    for number, label in enumerate(labels):
        hu = phantom.hu - 60 * label * (phantom.labels > 0) + number
        nib.save(nifti(hu.astype(np.int16), phantom.affine), folder / table["image"][number])
        nib.save(nifti(phantom.labels, phantom.affine), folder / table["mask"][number])
    with (folder / "cohort.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(table)
        rows.writerows(zip(*table.values(), strict=True))
    return folder / "cohort.csv"
