"""What a scanner does to a phantom: field of view, contrast, blur, correlated noise, integer HU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from monai_vfx.core.arrays import Affine
from monai_vfx.simulation.canvas import Field
from monai_vfx.simulation.populations import Hospital

FieldOfView = Literal["full", "quick"]

SLICE_MM = 5.0  # Thickness and distance of the slices, as in the study's protocol
SUB_SLICES = 3
"""Thin sections that are averaged to one slice around the spine; odd, so that one is central."""


@dataclass(frozen=True)
class Scanner:
    """One hospital's machines and habits; a patient's scan is drawn around them."""

    psf_mm: float  # SD of the Gaussian point spread in the plane, of the kernel most used
    sharp_psf_mm: float  # of the sharper kernel
    sharp_share: float  # share of scans that are reconstructed with the sharper kernel
    noise_hu: float  # SD of the noise in the middle of an average trunk on pixels of 0.8 mm
    noise_spread: float  # SD of the noise's logarithm between scans (dose, exposure control)
    aorta_hu: float  # mean enhancement of the aorta
    aorta_sd_hu: float  # its SD between patients (timing of the bolus, heart, weight)
    # added to trabecular bone; 0 is the reference of the patients' truth
    bone_enhancement_hu: float
    drift_hu: float  # SD of what a scan adds to aorta, spongy bone and lean muscle alike
    manufacturer: str  # as written into the files; always named as a simulation


SCANNERS: dict[Hospital, Scanner] = {
    "development": Scanner(
        psf_mm=0.62,
        sharp_psf_mm=0.48,
        sharp_share=0.15,
        noise_hu=17.0,
        noise_spread=0.15,
        aorta_hu=150.0,
        aorta_sd_hu=18.0,
        bone_enhancement_hu=0.0,
        drift_hu=2.0,
        manufacturer="monai_vfx simulated scanner A",
    ),
    "external": Scanner(
        psf_mm=0.72,
        sharp_psf_mm=0.55,
        sharp_share=0.30,
        noise_hu=15.0,
        noise_spread=0.20,
        aorta_hu=140.0,
        aorta_sd_hu=22.0,
        bone_enhancement_hu=-4.0,
        drift_hu=2.5,
        manufacturer="monai_vfx simulated scanner B",
    ),
}
SCANNERS["registry"] = SCANNERS["development"]

_NOISE_PIXEL_MM = 0.8
_BONE_PER_AORTA, _MUSCLE_PER_AORTA = 0.15, 0.08
"""HU that trabecular bone and muscle gain for each that the aorta gains; small, since both are
slow and little perfused (portal-venous bone lies about 10 to 20 HU above unenhanced)."""


@dataclass(frozen=True)
class Scan:
    """What one patient's scan adds that says nothing of bone and muscle."""

    psf_mm: float  # SD of the point spread in the plane
    noise_hu: float  # SD of the noise in the middle of the trunk on pixels of 0.8 mm
    aorta_hu: float  # enhancement of the aorta
    bone_hu: float  # added to trabecular bone by contrast medium and drift
    muscle_hu: float  # added to lean muscle likewise


def draw_scan(scanner: Scanner, girth: float, rng: np.random.Generator) -> Scan:
    """Draw a scan; noise grows with ``girth``, the width of the trunk relative to the average."""
    sharp = rng.random() < scanner.sharp_share
    timing, dose, drift = (float(z) for z in rng.standard_normal(3))
    timing = float(np.clip(timing, -2.0, 2.0)) * scanner.aorta_sd_hu
    psf = scanner.sharp_psf_mm if sharp else scanner.psf_mm
    # A kernel twice as sharp has twice the noise, about: of white noise the SD goes by 1 / width.
    noise = scanner.noise_hu * girth * scanner.psf_mm / psf * np.exp(scanner.noise_spread * dose)
    drift *= scanner.drift_hu
    return Scan(
        psf_mm=psf,
        noise_hu=float(noise),
        aorta_hu=scanner.aorta_hu + timing + drift,
        bone_hu=scanner.bone_enhancement_hu + _BONE_PER_AORTA * timing + drift,
        muscle_hu=_MUSCLE_PER_AORTA * timing + drift,
    )


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


def noise_share(psf_mm: float, pixel_mm: float) -> float:
    """Return the SD of noise averaged over a pixel as a share of the noise's own SD.

    The noise's autocorrelation is that of white noise under a Gaussian kernel, exp(-r² / 4 s²); its
    mean over all pairs of places within a pixel is a closed form, an axis each.

    >>> round(noise_share(0.62, 0.01), 3), round(noise_share(0.62, 2.0), 3)
    (1.0, 0.718)
    """
    a = pixel_mm / (2 * psf_mm)
    return (math.sqrt(math.pi) * math.erf(a) / a) - (1 - math.exp(-a * a)) / (a * a)


def acquire(
    hu: Field, pixel_mm: float, scan: Scan, rng: np.random.Generator
) -> np.ndarray[tuple[int, int, int], np.dtype[np.int16]]:
    """Blur, add noise and round; ``hu`` (z, y, x) is free of noise, and is overwritten.

    ``pixel_mm`` is the in-plane voxel size: noise falls where larger pixels average over it.

    Returns:
        (z, y, x) int16 in HU, from -1024 to 3071 as stored by a scanner.
    """
    sigma = scan.psf_mm / pixel_mm
    # Noise is drawn white and blurred together with the image, so its SD is raised by what the
    # blur takes away: the square root of the kernel's sum of squares, once an axis.
    impulse = np.zeros(4 * int(np.ceil(4 * sigma)) + 1)
    impulse[len(impulse) // 2] = 1.0
    kernel = ndimage.gaussian_filter1d(impulse, sigma, mode="constant")
    wanted = scan.noise_hu * noise_share(scan.psf_mm, pixel_mm)
    level = wanted / noise_share(scan.psf_mm, _NOISE_PIXEL_MM) / float(np.sum(kernel**2))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in hu.shape[1:])
    centre = 0.7 + 0.3 * np.exp(-2 * (rows[:, None] ** 2 + columns[None, :] ** 2))
    noise *= np.float32(level) * centre
    hu += noise
    for axis in (1, 2):
        ndimage.gaussian_filter1d(hu, sigma, axis=axis, output=hu, mode="nearest")
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
