"""Equidistant axial slices over T12-L4."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Randomizable
from monai.utils import TraceKeys

PER_SLICE_META = ("slice_index", "slice_level", "centre_mm", "corner_mm")
"""Metadata with one row a slice; sampling slices samples these too."""

_DRAWS = 2**30


def equidistant_indices(available: int, count: int, start: float = 0.5) -> npt.NDArray[np.int64]:
    """Return ``count`` indices that span ``available`` slices evenly.

    With w = available / count, index k is floor((start + k) · w): steps differ by at most one, and
    with fewer slices than ``count`` some repeat.

    Args:
        available: number of slices, at least 1.
        count: number of indices, at least 1.
        start: the draw u / w, in [0, 1); 0.5 takes the middle of each interval.

    Raises:
        ValueError: when an argument is out of its range.

    >>> equidistant_indices(27, 14).tolist()
    [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26]
    >>> equidistant_indices(3, 4, start=0.0).tolist()
    [0, 0, 1, 2]
    """
    if available < 1 or count < 1:
        raise ValueError(f"available ({available}) and count ({count}) must be at least 1")
    if not 0 <= start < 1:
        raise ValueError(f"start ({start}) must lie in [0, 1)")
    # In integers, because start + k rounds: with start just below 1 two indices could fall together
    # and the next step be 2. The draw is cut to a 2**30th of an interval.
    draw = int(start * _DRAWS) + np.arange(count, dtype=np.int64) * _DRAWS
    return draw * available // (count * _DRAWS)


class SampleSlices(Randomizable, InvertibleTransform):
    """Take equidistant slices along the last axis: (C, H, W, N) → (C, H, W, count).

    Args:
        count: slices to take.
        random_start: draw the first slice anew at each call (training), or take the middle of
            each interval.
    """

    def __init__(self, count: int = 14, random_start: bool = False) -> None:
        self.count = count
        self.random_start = random_start
        self._start = 0.5

    def randomize(self, data: Any = None) -> None:
        """Draw the position of the first slice within its interval."""
        self._start = float(self.R.uniform(0.0, 1.0)) if self.random_start else 0.5

    def __call__(self, img: MetaTensor) -> MetaTensor:
        """Return the slices, with the per-slice metadata sampled alike."""
        self.randomize()
        indices = equidistant_indices(img.shape[-1], self.count, self._start)
        out = MetaTensor(
            img.as_tensor()[..., torch.from_numpy(indices)],
            meta=dict(img.meta),
            applied_operations=list(img.applied_operations),
        )
        for name in PER_SLICE_META:
            out.meta[name] = np.asarray(img.meta[name])[indices]
        extra = {"indices": indices.tolist(), "available": img.shape[-1]}
        self.push_transform(out, extra_info=extra)  # type: ignore[no-untyped-call]
        return out

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Put the slices back among all N; between them values are interpolated along N.

        A heat map is known on the sampled slices only. Slices between two of them get the linear
        interpolation of these two, slices outside the first and last get those.
        """
        transform = self.pop_transform(data)
        taken = np.asarray(transform[TraceKeys.EXTRA_INFO]["indices"])
        available = int(transform[TraceKeys.EXTRA_INFO]["available"])
        known, first = np.unique(taken, return_index=True)
        position = np.interp(np.arange(available), known, np.arange(len(known)))
        lower = np.floor(position).astype(int)
        upper = np.minimum(lower + 1, len(known) - 1)
        weight = torch.as_tensor(position - lower, dtype=torch.float32)
        values = data.as_tensor()[..., torch.from_numpy(first)].float()
        mixed = values[..., lower] * (1 - weight) + values[..., upper] * weight
        return MetaTensor(
            mixed, meta=dict(data.meta), applied_operations=list(data.applied_operations)
        )


class SampleSlicesd(Randomizable, MapTransform, InvertibleTransform):
    """Dictionary wrapper of :class:`SampleSlices`."""

    def __init__(
        self,
        keys: KeysCollection,
        count: int = 14,
        random_start: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.sampler = SampleSlices(count, random_start)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SampleSlicesd:
        """Seed the draw of the first slice."""
        super().set_random_state(seed, state)
        self.sampler.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Sample the slices of each key."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.sampler(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the slices of each key back."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.sampler.inverse(d[key])
        return d
