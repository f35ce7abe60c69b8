"""At prediction: warn of what the study would have excluded the case for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform

from monai_vfx.analysis.measures.measured import study_exclusions
from monai_vfx.transforms import LocateSpined


class StudyExclusionsd(MapTransform):
    """Add the warnings of :func:`study_exclusions` to a CT that was located and not yet read.

    Stands between ``LocateSpined`` and ``LoadImaged``, where the whole mask is still at hand.
    Training has no use for it: there the quality gate decides (``docs/checking.md``).

    Args:
        keys: of the located CT.

    Raises:
        CaseRefused: the voxels cannot be read.
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the warnings in its CT."""
        d = dict(data)
        for key in self.keys:
            handle = d[key]
            found = handle.case.exclusions
            if found is None:
                _, found = study_exclusions(handle.case)
            d[key] = replace(handle, warnings=(*handle.warnings, *found))
        return d


def with_exclusions(chain: Compose) -> Compose:
    """Return the preprocessing with :class:`StudyExclusionsd` behind what locates the spine.

    Args:
        chain: of ``common.yaml``.
    """
    steps = list(chain.transforms)
    place = 1 + next(n for n, step in enumerate(steps) if isinstance(step, LocateSpined))
    key = steps[place - 1].keys[0]
    return Compose([*steps[:place], StudyExclusionsd(key), *steps[place:]])
