"""What slices of some thickness and distance do to a finely sampled image."""

from __future__ import annotations

import numpy as np
import torch

from monai_vfx.core.arrays import Affine


def slice_matrix(count: int, thickness: float, distance: float, phase: float) -> torch.Tensor:
    """Return the matrix that cuts a column of samples into slices and interpolates them back.

    Args:
        count: samples.
        thickness: of a slice, in samples; a slice is the mean over it.
        distance: of the slices' centres, in samples.
        phase: 0 to 1, where the first slice lies.

    Returns:
        (count, count) float32; rows sum to 1.
    """
    distance = max(distance, 1e-3)
    centres = torch.arange(-2, int(count / distance) + 3) * distance + phase * distance
    at = torch.arange(count, dtype=torch.float32)
    # Overlap of each sample, one wide, with each slice.
    half = max(thickness, 1.0) / 2
    overlap = torch.minimum(at + 0.5, centres[:, None] + half) - torch.maximum(
        at - 0.5, centres[:, None] - half
    )
    box = overlap.clamp(min=0)
    inside = box.sum(1) > 0
    centres, box = centres[inside], box[inside]
    box = box / box.sum(1, keepdim=True)
    between = (1 - (at[:, None] - centres).abs() / distance).clamp(min=0)
    return (between / between.sum(1, keepdim=True)) @ box


def slab_kernel(normal: Affine, thickness: float, distance: float) -> torch.Tensor:
    """Return the blur of tilted slices as a convolution.

    Args:
        normal: (3,) voxels passed on one mm along the slices' normal.
        thickness: of a slice, mm.
        distance: of the slices' centres, mm, over which values are interpolated linearly.

    Returns:
        (x, y, z) float32 of odd lengths; sums to 1.
    """
    line = np.linspace(-0.5, 0.5, 25)
    mm = (thickness * line[:, None] + distance * 0.7 * line[None, :]).reshape(-1)
    points = mm[:, None] * normal
    reach = np.ceil(np.abs(points).max(axis=0) - 1e-6).astype(int)
    kernel = np.zeros(2 * reach + 1)
    low = np.floor(points).astype(int)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, points - low, 1 - points + low), axis=1)
        where = low + corner + reach
        kept = weight > 1e-9
        np.add.at(kernel, tuple(where[kept].T), weight[kept])
    return torch.from_numpy(kernel / kernel.sum()).float()
