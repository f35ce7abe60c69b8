"""Hounsfield units as input channels of the vertebra segmentation's networks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

WINDOWS_HU: tuple[tuple[float, float], ...] = ((-150.0, 350.0), (-1000.0, 1500.0))
"""Lower and upper HU of each channel: soft tissue with spongy bone, and everything."""


class NormaliseHU(Transform):
    """Clip HU to windows and scale each to [-1, 1], one channel a window.

    Args:
        windows_hu: (lower, upper) HU of each channel.

    Raises:
        ValueError: for a window whose upper bound is not above its lower bound.

    >>> import torch
    >>> NormaliseHU()(torch.tensor([[-1024.0, 100.0, 3000.0]]))
    tensor([[-1.0000,  0.0000,  1.0000],
            [-1.0000, -0.1200,  1.0000]])
    """

    def __init__(self, windows_hu: tuple[tuple[float, float], ...] = WINDOWS_HU) -> None:
        self.windows_hu = tuple((float(lower), float(upper)) for lower, upper in windows_hu)
        if not all(lower < upper for lower, upper in self.windows_hu):
            raise ValueError(f"windows_hu {windows_hu} must be (lower, upper) with lower < upper")

    def __call__(self, img: torch.Tensor) -> torch.Tensor:
        """Return the channels.

        Args:
            img: (1, x, y, z) or any shape with one leading channel, in HU.

        Returns:
            (windows, x, y, z) float32 in [-1, 1]; a MetaTensor keeps its metadata.

        Raises:
            ValueError: unless ``img`` has one channel.
        """
        if img.ndim < 2 or img.shape[0] != 1:
            raise ValueError(f"one channel of HU is needed, not shape {tuple(img.shape)}")
        hu = (img.as_tensor() if isinstance(img, MetaTensor) else img).float()
        channels = torch.cat(
            [
                hu.clamp(lower, upper).sub_((lower + upper) / 2).div_((upper - lower) / 2)
                for lower, upper in self.windows_hu
            ]
        )
        return (
            MetaTensor(channels, meta=dict(img.meta)) if isinstance(img, MetaTensor) else channels
        )


class NormaliseHUd(MapTransform):
    """Dictionary version of :class:`NormaliseHU`.

    Args:
        keys: of images in HU.
        windows_hu: see :class:`NormaliseHU`.
        allow_missing_keys: see MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        windows_hu: tuple[tuple[float, float], ...] = WINDOWS_HU,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalise = NormaliseHU(windows_hu)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the item with its images as channels in [-1, 1]."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.normalise(item[key])
        return item
