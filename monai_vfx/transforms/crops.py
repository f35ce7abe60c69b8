"""Crops of one size around the vertebral body of every axial slice of T12-L4."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import MetaKeys, TraceKeys

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, Points
from monai_vfx.core.geometry import LPS


class VertebraCrop(InvertibleTransform):
    """Crop every slice of T12-L4 around its body: (C, H, W, N) → (C, h, w, n).

    Slices and centres are those that :class:`~monai_vfx.transforms.LocateSpined` found and put
    into the metadata.

    Args:
        size: (rows, columns) of the crop in pixels: antero-posterior, left-right.
        posterior_mm: how far the crop's centre lies behind the body's.
        masked: set everything outside the bodies to ``fill`` (bone only).
        fill: value outside the field of view and, if ``masked``, outside the bodies.
    """

    def __init__(
        self,
        size: Sequence[int] = (96, 144),
        posterior_mm: float = 24.0,
        masked: bool = False,
        fill: float = -1.0,
    ) -> None:
        rows, columns = size
        if rows < 1 or columns < 1:
            raise ValueError(f"size {tuple(size)} must be at least one pixel")
        self.size = (int(rows), int(columns))
        self.posterior_mm = posterior_mm
        self.masked = masked
        self.fill = fill

    def __call__(self, img: MetaTensor, labels: MetaTensor | None = None) -> MetaTensor:
        """Crop.

        Args:
            img: (C, H, W, N), rows to posterior, columns to the left, slices to caudal.
            labels: (1, H, W, N) body labels on the same grid; needed if ``masked``.

        Returns:
            (C, h, w, n). Of its metadata, one row a slice: ``slice_index`` (from the feet),
            ``slice_level`` (label value), ``centre_mm`` (LPS, of the body, before the posterior
            offset) and ``corner_mm`` (LPS, of the crop's first pixel). ``affine`` stays that of
            the uncropped grid, from which the pixels take direction and spacing.
        """
        affine = np.asarray(img.affine, dtype=float)
        below = int(img.meta["first_slice_from_feet"]) + img.shape[3] - 1
        indices = below - np.asarray(img.meta["slice_index"])
        centres = np.asarray(img.meta["centre_mm"]) * LPS
        starts = self._starts(affine, centres)
        voxels = self._blank_outside(img, labels)
        out = torch.full((img.shape[0], *self.size, len(indices)), self.fill)
        for at, (n, start) in enumerate(zip(indices, starts, strict=True)):
            inside, source = _overlap(start, self.size, img.shape[1:3])
            out[:, inside[0], inside[1], at] = voxels[:, source[0], source[1], n].float()
        result = MetaTensor(
            out, meta=dict(img.meta), applied_operations=list(img.applied_operations)
        )
        corners = np.column_stack([starts, indices, np.ones(len(indices))])
        result.meta["corner_mm"] = (corners @ affine.T)[:, :3] * LPS
        result.meta[MetaKeys.SPATIAL_SHAPE] = np.array(result.shape[1:])
        self.push_transform(  # type: ignore[no-untyped-call]
            result,
            orig_size=tuple(img.shape[1:]),
            extra_info={"starts": starts.tolist(), "indices": indices.tolist()},
        )
        return result

    def _starts(self, affine: Affine, centres: Points) -> npt.NDArray[np.int64]:
        """Return the first (row, column) of each crop, (n, 2)."""
        pixels = (centres - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        spacing = np.linalg.norm(affine[:3, 0])
        first = pixels[:, :2] + [self.posterior_mm / spacing, 0.0] - (np.array(self.size) - 1) / 2
        # Nearest pixel; a thousandth keeps exact halves, common in made-up grids, from being
        # decided by the last digit of the affine.
        return np.floor(first + 0.501).astype(np.int64)

    def _blank_outside(self, img: MetaTensor, labels: MetaTensor | None) -> torch.Tensor:
        voxels: torch.Tensor = img.as_tensor()
        if not self.masked:
            return voxels
        if labels is None or img.shape[1:] != labels.shape[1:]:
            found = None if labels is None else tuple(labels.shape)
            raise ValueError(f"masked crops need labels like {tuple(img.shape)}, got {found}")
        bodies = torch.as_tensor([VERTEBRAE[level] for level in LEVELS])
        return torch.where(torch.isin(labels.as_tensor().long(), bodies), voxels, self.fill)

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
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.cropper = VertebraCrop(size, posterior_mm, masked, fill)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.cropper(d[key], d.get(self.mask_key))
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
