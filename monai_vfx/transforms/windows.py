"""HU windows, each scaled to [-1, 1]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, ScaleIntensityRange
from torch import Tensor


class ScaleWindowsd(MapTransform):
    """Scale HU windows to [-1, 1], clipped, each a channel: (1, i, j, k) → (windows, i, j, k).

    Args:
        keys: of the images.
        windows_hu: (lowest, highest) HU of each window.
    """

    def __init__(self, keys: KeysCollection, windows_hu: Sequence[Sequence[float]]) -> None:
        super().__init__(keys)
        self.scale = [
            ScaleIntensityRange(low, high, -1.0, 1.0, clip=True) for low, high in windows_hu
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its images scaled."""
        d = dict(data)
        for key in self.keys:
            windows = [cast(Tensor, scale(d[key])) for scale in self.scale]
            d[key] = windows[0] if len(windows) == 1 else torch.cat(windows)
        return d
