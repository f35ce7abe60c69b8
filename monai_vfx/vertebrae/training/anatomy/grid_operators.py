"""Random fields, blurs and slices of a grid, as matrices along its axes and kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from monai_vfx.core.arrays import Affine


def spline_basis(count: int, knot_distance: float) -> torch.Tensor:
    """Return uniform cubic B-splines (count, knots) at 0, 1, … count - 1; rows sum to 1.

    >>> basis = spline_basis(9, 4.0)
    >>> basis.shape, bool(torch.allclose(basis.sum(1), torch.ones(9)))
    (torch.Size([9, 6]), True)
    """
    at = torch.arange(count, dtype=torch.float32) / max(float(knot_distance), 1.0)
    knots = torch.arange(-1, int(at[-1]) + 3, dtype=torch.float32)
    distance = (at[:, None] - knots).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def random_field(
    shape: Sequence[int], knot_distance: Iterable[float], generator: torch.Generator
) -> torch.Tensor:
    """Return a smooth Gaussian field (x, y, z) of mean 0 and SD 1.

    The knots' distance along each axis, in voxels, is about the length of correlation.
    """
    bases = [spline_basis(n, step) for n, step in zip(shape, knot_distance, strict=True)]
    # The SD of a sum of independent coefficients is the root of the weights' sum of squares.
    bases = [basis / (basis**2).sum(1, keepdim=True).sqrt() for basis in bases]
    coefficients = torch.randn([basis.shape[1] for basis in bases], generator=generator)
    return along_axes(coefficients, bases)


def along_axes(values: torch.Tensor, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Multiply each of the last three axes (x, y, z) with a matrix (new, old); None leaves it."""
    x, y, z = matrices
    if x is not None:
        values = torch.einsum("ai,...ijk->...ajk", x, values)
    if y is not None:
        values = torch.matmul(y, values)
    if z is not None:
        values = torch.matmul(values, z.T)
    return values


def gaussian_matrix(count: int, sd: float) -> torch.Tensor:
    """Return the (count, count) matrix of a Gaussian blur, SD in samples; rows sum to 1."""
    at = torch.arange(count, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / max(sd, 1e-3)) ** 2)
    return weights / weights.sum(1, keepdim=True)


def slice_matrix(count: int, thickness: float, distance: float, phase: float) -> torch.Tensor:
    """Return the matrix that cuts a column of samples into slices and interpolates them back.

    A slice is the mean over its thickness; thickness and the distance of the slices' centres are
    in samples; ``phase`` (0 to 1) says where the first slice lies. The matrix is (count, count),
    its rows sum to 1.
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
    """Return the blur of tilted slices as a convolution (x, y, z) of odd lengths; it sums to 1.

    ``normal`` (3,) holds the voxels passed on one mm along the slices' normal. Thickness of the
    slices and distance of their centres, between which values are interpolated, are in mm.
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
