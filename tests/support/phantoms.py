"""Phantoms with answers known by hand, sampled in world space on any grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

LEVELS = {"T11": 18, "T12": 19, "L1": 20, "L2": 21, "L3": 22, "L4": 23, "L5": 24}


@dataclass(frozen=True)
class Phantom:
    """A spine of elliptic cylinders on any grid, the same in world space whatever the grid.

    ``hu`` (i, j, k) float32 and ``labels`` uint8 share ``affine`` (RAS mm). Bodies T11-L5 stand
    30 mm apart, 21 mm high, 40 mm wide (left-right) and 30 mm deep; L2's middle lies at
    ``centre``. A lead bead of 1500 HU lies 40 mm to the patient's left of L2, another 40 mm
    behind it: left-right and front-back mistakes show.
    """

    hu: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    centre: np.ndarray

    def save(self, folder: Path, suffix: str = ".nii.gz") -> tuple[Path, Path]:
        """Write image and label map as NIfTI; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        image, mask = folder / f"ct{suffix}", folder / f"mask{suffix}"
        nib.save(nifti(self.hu.astype(np.int16), self.affine), image)
        nib.save(nifti(self.labels, self.affine), mask)
        return image, mask


def nifti(voxels: np.ndarray, affine: np.ndarray) -> Any:
    """Return a NIfTI image with both codes set."""
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image


def lordosis(z: np.ndarray) -> np.ndarray:
    """Anterior position (mm) of the body's middle at height z over L2."""
    return 8 * np.cos(z / 60)


def make_phantom(shape: tuple[int, int, int], affine: np.ndarray, centre: Any) -> Phantom:
    """Sample the phantom on a grid."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3] - centre, -1, 0)
    front = lordosis(z)
    hu = np.full(shape, -95.0)
    hu[(x / 70) ** 2 + ((y + 15 - front) / 55) ** 2 < 1] = 45.0
    labels = np.zeros(shape, dtype=np.uint8)
    for number, (level, value) in enumerate(LEVELS.items()):
        height = (3 - number) * 30.0
        inside = (x / 20) ** 2 + ((y - front) / 15) ** 2 < 1
        inside &= np.abs(z - height) < 10.5
        hu[inside] = 180.0 - 10 * number
        if level in LEVELS:
            labels[inside] = value
    for bead in ((-40, 8, 0), (0, -32, 0)):
        near = sum((a - b) ** 2 for a, b in zip((x, y, z), bead, strict=True)) < 4.5**2
        hu[near] = 1500.0
    hu += 0.2 * x + 0.1 * y  # no two places are alike
    return Phantom(hu.astype(np.float32), labels, affine, np.asarray(centre, dtype=float))


def grid(
    spacing: tuple[float, float, float], extent_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Return shape, RAS affine and middle of an upright grid away from the origin."""
    shape = tuple(round(e / s) for e, s in zip(extent_mm, spacing, strict=True))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-31.0, 57.0, -412.0)
    middle = (affine @ [*(np.array(shape) - 1) / 2, 1])[:3]
    return shape, affine, middle  # type: ignore[return-value]


SIDECAR: dict[str, Any] = {
    "bundle": "vertebral_fracture_risk_ct_classification",
    "version": "0.1.0",
    "image_class": "bone_muscle",
    "config": {
        "image_class": "bone_muscle",
        "crop_size": [48, 72],
        "pixel_mm": 2.0,
        "posterior_mm": 24.0,
        "masked": False,
        "window_hu": [-200.0, 1000.0],
        "slices": 14,
        "min_area": 0.25,
        "include_discs": False,
        "backbone": "resnet18",
        "attention": "pc",
        "attention_layers": ["layer2", "layer3"],
        "include_global": False,
        "decoder": "gru",
        "rnn_hidden": 16,
        "bidirectional": False,
        "slice_pooling": "last",
        "dropout": 0.5,
    },
    "training": {},
    "trained_on": {"cohort_sha256": "0" * 64, "patients": 1, "fractures": 0},
    "validation": {"epoch": 1, "auroc": 0.5, "patients": 1, "fractures": 0},
    "simulated": True,
    "calibration": None,
}
"""What lies beside the weights of a small network."""
