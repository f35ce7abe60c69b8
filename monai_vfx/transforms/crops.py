"""Crops of one size around the vertebral body of every axial slice of T12-L4."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import MetaKeys, TraceKeys

from monai_vfx.anatomy import LEVELS, VERTEBRAE

SMOOTHING_MM = 6.0
"""Standard deviation along the spine of the kernel that smooths the centroids."""
LARGEST_SHIFT_MM = 4.5
"""Smoothing leaves a centre at most this far from the centroid of its own slice."""
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BodySlices:
    """The slices that hold enough of a body.

    Attributes:
        indices: (n,) positions along the last axis, cranial to caudal.
        levels: (n,) label value of the level that fills most of the slice.
        centres: (n, 2) smoothed centroid (row, column) in pixels.
    """

    indices: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    centres: _Floats


def find_body_slices(
    labels: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    min_area: float = 0.25,
    include_discs: bool = False,
) -> BodySlices:
    """Choose the slices of T12-L4 and find the body's centre in each.

    Args:
        labels: (H, W, N) body labels, slices cranial to caudal.
        spacing_mm: of the axes (H, W, N).
        min_area: share of a level's largest cross-section that a slice must show.
        include_discs: take every slice from the first to the last of these, discs too.

    Raises:
        ValueError: when no slice holds a body.
    """
    values = np.array([VERTEBRAE[level] for level in LEVELS])
    areas = np.stack([(labels == value).sum(axis=(0, 1)) for value in values])  # (levels, N)
    largest = areas.max(axis=1, keepdims=True)
    enough = ((areas >= min_area * largest) & (areas > 0)).any(axis=0)
    indices = np.flatnonzero(enough)
    if indices.size == 0:
        raise ValueError("labels hold no voxel of T12-L4")
    if include_discs:
        indices = np.arange(indices[0], indices[-1] + 1)
    with_body = np.flatnonzero(areas.sum(axis=0) > 0)
    centroids, spread = _centroids(labels[:, :, with_body], values[areas[:, with_body].argmax(0)])
    smooth = smooth_along(
        with_body * spacing_mm[2],
        centroids * np.array(spacing_mm[:2]),
        areas.sum(axis=0)[with_body],
        np.maximum(LARGEST_SHIFT_MM - np.hypot(*(spread * spacing_mm[:2]).T), 0.0),
    )
    smooth /= spacing_mm[:2]
    centres = np.stack([np.interp(indices, with_body, smooth[:, axis]) for axis in (0, 1)], axis=1)
    nearest = [with_body[np.abs(with_body - n).argmin()] for n in indices]  # a disc has no label
    return BodySlices(
        indices=indices,
        levels=values[areas[:, nearest].argmax(axis=0)],
        centres=centres,
    )


def _centroids(labels: npt.NDArray[Any], main: npt.NDArray[Any]) -> tuple[_Floats, _Floats]:
    """Return the middle of the bodies in every slice (H, W, n), and how far either end lies.

    Tilted neighbours share a slice now and then: its middle is then halfway between the centroid
    of the larger body (``main``) and that of all, (n, 2) pixels.
    """
    own = np.array([np.argwhere(labels[:, :, n] == v).mean(axis=0) for n, v in enumerate(main)])
    spine = np.isin(labels, [VERTEBRAE[level] for level in LEVELS])
    every = np.array([np.argwhere(spine[:, :, n]).mean(axis=0) for n in range(len(main))])
    return (own + every) / 2, (own - every) / 2


def smooth_along(
    at_mm: _Floats, points_mm: _Floats, weights: npt.NDArray[Any], limit_mm: _Floats
) -> _Floats:
    """Smooth points along a line by a local straight fit with Gaussian weights.

    A straight fit, unlike a mean, does not bend the ends.

    Args:
        at_mm: (n,) position along the spine.
        points_mm: (n, 2) centroids.
        weights: (n,) area behind each centroid.
        limit_mm: (n,) how far a point may be moved.

    Returns:
        (n, 2) smoothed points.

    >>> line = np.stack([np.arange(5.0), 2 * np.arange(5.0)], axis=1)
    >>> np.allclose(smooth_along(np.arange(5.0), line, np.ones(5), np.ones(5)), line)
    True
    """
    out = np.empty_like(points_mm)
    for n, here in enumerate(at_mm):
        offset = at_mm - here
        kernel = weights * np.exp(-0.5 * (offset / SMOOTHING_MM) ** 2)
        mean = np.average(offset, weights=kernel)
        spread = np.average((offset - mean) ** 2, weights=kernel)
        centre = np.average(points_mm, axis=0, weights=kernel)
        if spread > 1e-9:
            slope = ((kernel * (offset - mean)) @ (points_mm - centre)) / (kernel.sum() * spread)
            centre = centre - slope * mean
        shift = centre - points_mm[n]
        length = float(np.linalg.norm(shift))
        out[n] = points_mm[n] + shift * min(1.0, limit_mm[n] / max(length, 1e-9))
    return out


class VertebraCrop(InvertibleTransform):
    """Crop every slice of T12-L4 around its body: (C, H, W, N) → (C, h, w, n).

    Args:
        size: (rows, columns) of the crop in pixels: antero-posterior, left-right.
        posterior_mm: how far the crop's centre lies behind the body's.
        masked: set everything outside the bodies to ``fill`` (bone only).
        fill: value outside the field of view and, if ``masked``, outside the bodies.
        min_area: see :func:`find_body_slices`.
        include_discs: see :func:`find_body_slices`.
    """

    def __init__(
        self,
        size: Sequence[int] = (96, 144),
        posterior_mm: float = 24.0,
        masked: bool = False,
        fill: float = -1.0,
        min_area: float = 0.25,
        include_discs: bool = False,
    ) -> None:
        rows, columns = size
        if rows < 1 or columns < 1:
            raise ValueError(f"size {tuple(size)} must be at least one pixel")
        if not 0 <= min_area <= 1:
            raise ValueError(f"min_area ({min_area}) must lie in [0, 1]")
        self.size = (int(rows), int(columns))
        self.posterior_mm = posterior_mm
        self.masked = masked
        self.fill = fill
        self.min_area = min_area
        self.include_discs = include_discs

    def __call__(self, img: MetaTensor, labels: MetaTensor) -> MetaTensor:  # type: ignore[override]
        """Crop.

        Args:
            img: (C, H, W, N), rows to posterior, columns to the left, slices to caudal.
            labels: (1, H, W, N) body labels on the same grid.

        Returns:
            (C, h, w, n). Its metadata gain, one row a slice: ``slice_index`` (from the feet),
            ``slice_level`` (label value), ``centre_mm`` (LPS, of the body, before the posterior
            offset) and ``corner_mm`` (LPS, of the crop's first pixel). ``affine`` stays that of
            the uncropped grid, from which the pixels take direction and spacing.
        """
        if img.shape[1:] != labels.shape[1:]:
            raise ValueError(f"image {tuple(img.shape)} and labels {tuple(labels.shape)} differ")
        affine = np.asarray(img.affine, dtype=float)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        label_map = np.asarray(labels.as_tensor()[0])
        found = find_body_slices(
            label_map,
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            self.min_area,
            self.include_discs,
        )
        voxels = img.as_tensor()
        if self.masked:
            bodies = np.isin(label_map, [VERTEBRAE[level] for level in LEVELS])
            voxels = torch.where(torch.from_numpy(bodies), voxels, self.fill)
        half = (np.array(self.size) - 1) / 2
        middle = found.centres + np.array([self.posterior_mm / spacing[0], 0.0])
        starts = np.floor(middle - half + 0.5).astype(int)
        out = torch.full((img.shape[0], *self.size, len(found.indices)), self.fill)
        for at, (n, start) in enumerate(zip(found.indices, starts, strict=True)):
            inside, source = _overlap(start, self.size, img.shape[1:3])
            out[:, inside[0], inside[1], at] = voxels[:, source[0], source[1], n].float()
        result = MetaTensor(
            out, meta=dict(img.meta), applied_operations=list(img.applied_operations)
        )
        for name, pixel in (("centre_mm", found.centres), ("corner_mm", starts)):
            places = np.column_stack([pixel, found.indices, np.ones(len(found.indices))])
            result.meta[name] = (places @ affine.T)[:, :3] * RAS_TO_LPS
        result.meta["slice_level"] = found.levels
        result.meta["slice_index"] = (
            int(img.meta["first_slice_from_feet"]) + img.shape[3] - 1 - found.indices
        )
        result.meta[MetaKeys.SPATIAL_SHAPE] = np.array(result.shape[1:])
        self.push_transform(  # type: ignore[no-untyped-call]
            result,
            orig_size=tuple(img.shape[1:]),
            extra_info={"starts": starts.tolist(), "indices": found.indices.tolist()},
        )
        return result

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Paste the crops back into a map of zeros: (C, h, w, n) → (C, H, W, N).

        Slices between two crops (a disc) get the linear interpolation of their neighbours, each
        at its own place; see :meth:`SampleSlices.inverse` for why.
        """
        transform = self.pop_transform(data)
        rows, columns, slices = transform[TraceKeys.ORIG_SIZE]
        starts = np.asarray(transform[TraceKeys.EXTRA_INFO]["starts"])
        indices = np.asarray(transform[TraceKeys.EXTRA_INFO]["indices"])
        crops = data.as_tensor().float()
        out = torch.zeros((crops.shape[0], int(rows), int(columns), int(slices)))
        for n in range(int(indices[0]), int(indices[-1]) + 1):
            position = float(np.interp(n, indices, np.arange(len(indices))))
            for at in {int(np.floor(position)), int(np.ceil(position))}:
                inside, source = _overlap(starts[at], self.size, (int(rows), int(columns)))
                weight = 1 - abs(position - at)
                out[:, source[0], source[1], n] += weight * crops[:, inside[0], inside[1], at]
        return MetaTensor(
            out, meta=dict(data.meta), applied_operations=list(data.applied_operations)
        )


class VertebraCropd(MapTransform, InvertibleTransform):
    """Dictionary wrapper of :class:`VertebraCrop`; the labels are read from ``mask_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        size: Sequence[int] = (96, 144),
        posterior_mm: float = 24.0,
        masked: bool = False,
        fill: float = -1.0,
        min_area: float = 0.25,
        include_discs: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.cropper = VertebraCrop(size, posterior_mm, masked, fill, min_area, include_discs)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.cropper(d[key], d[self.mask_key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paste each key back."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.cropper.inverse(d[key])
        return d


_Box = tuple[slice, slice]


def _overlap(start: Any, size: Sequence[int], shape: Sequence[int]) -> tuple[_Box, _Box]:
    """Return the part of a crop that lies in the image, in crop and in image coordinates."""
    inside, source = [], []
    for first, length, extent in zip(start, size, shape, strict=True):
        low, high = max(int(first), 0), min(int(first) + length, extent)
        high = max(high, low)
        inside.append(slice(low - int(first), high - int(first)))
        source.append(slice(low, high))
    return (inside[0], inside[1]), (source[0], source[1])
