"""What a scanner does to a phantom: field of view, blur, correlated noise, integer HU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from monai_vfx.shapes import Affine
from monai_vfx.simulation.canvas import Field
from monai_vfx.simulation.populations import Hospital

FieldOfView = Literal["full", "quick"]

SLICE_MM = 5.0
"""Thickness and distance of the slices, as in the study's protocol."""
SUB_SLICES = 3
"""Thin sections that are averaged to one slice around the spine; odd, so that one is central."""


@dataclass(frozen=True)
class Scanner:
    """One hospital's reconstruction.

    Args:
        psf_mm: SD of the Gaussian point spread in the plane.
        noise_hu: SD of the noise in the middle of an average trunk.
        aorta_hu: mean enhancement of the aorta.
        bone_enhancement_hu: added to trabecular bone; 0 is the reference of the patients' truth.
        manufacturer: as written into the files; always named as a simulation.
    """

    psf_mm: float
    noise_hu: float
    aorta_hu: float
    bone_enhancement_hu: float
    manufacturer: str


SCANNERS: dict[Hospital, Scanner] = {
    "development": Scanner(0.62, 17.0, 150.0, 0.0, "monai_vfx simulated scanner A"),
    "external": Scanner(0.72, 15.0, 140.0, -4.0, "monai_vfx simulated scanner B"),
}
SCANNERS["registry"] = SCANNERS["development"]


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a reconstruction in LPS mm: x to the left, y to the back, z to the head."""

    x: Field
    y: Field
    z: Field

    @property
    def affine(self) -> Affine:
        """(i, j, k) with i to the left, j to the back, k to the head → RAS+ mm."""
        result = np.zeros((4, 4))
        for row, (axis, sign) in enumerate(((self.x, -1.0), (self.y, -1.0), (self.z, 1.0))):
            result[row, row] = sign * round(float(axis[-1] - axis[0]) / (len(axis) - 1), 6)
            result[row, 3] = sign * round(float(axis[0]), 3)
        result[3, 3] = 1.0
        return result


def centred_axis(centre: float, step: float, count: int) -> Field:
    """Return ``count`` positions ``step`` mm apart around a centre.

    >>> centred_axis(10.0, 2.0, 3).tolist()
    [8.0, 10.0, 12.0]
    """
    return (centre + step * (np.arange(count) - (count - 1) / 2)).astype(np.float32)


def sub_slices(z: Field) -> Field:
    """Return the centres of the thin sections of all slices, ascending."""
    step = float(z[1] - z[0]) / SUB_SLICES
    offsets = step * (np.arange(SUB_SLICES) - SUB_SLICES // 2)
    return (z[:, None] + offsets[None, :]).astype(np.float32).reshape(-1)


def acquire(
    hu: Field, pixel_mm: float, scanner: Scanner, girth: float, rng: np.random.Generator
) -> np.ndarray[tuple[int, int, int], np.dtype[np.int16]]:
    """Blur, add noise and round.

    Args:
        hu: (z, y, x) noise-free attenuation; overwritten.
        pixel_mm: in-plane voxel size.
        scanner: the hospital's.
        girth: the trunk's width relative to the average; noise grows with it.
        rng: source of the noise.

    Returns:
        (z, y, x) int16 in HU, from -1024 to 3071 as stored by a scanner.
    """
    sigma = scanner.psf_mm / pixel_mm
    # Noise is drawn white and blurred together with the image, so its SD is raised by what the
    # blur takes away: the square root of the kernel's sum of squares, once an axis.
    impulse = np.zeros(4 * int(np.ceil(4 * sigma)) + 1)
    impulse[len(impulse) // 2] = 1.0
    kernel = ndimage.gaussian_filter1d(impulse, sigma, mode="constant")
    level = scanner.noise_hu * girth / float(np.sum(kernel**2))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in hu.shape[1:])
    centre = 0.7 + 0.3 * np.exp(-2 * (rows[:, None] ** 2 + columns[None, :] ** 2))
    noise *= np.float32(level) * centre
    hu += noise
    for axis in (1, 2):
        ndimage.gaussian_filter1d(hu, sigma, axis=axis, output=hu, mode="nearest")
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
