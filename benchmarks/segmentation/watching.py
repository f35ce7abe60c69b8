"""Segment a CT and keep what naming saw, also where the case is refused.

Calibration needs the numbers behind a refusal. They are taken where
:mod:`monai_vfx.vertebrae.segmentation.locate` hands the outlined bodies to naming: both functions
do their work as ever, and their input and output are noted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from monai_vfx.core.anatomy import VERTEBRAE
from monai_vfx.core.arrays import LabelVolume
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import Volume
from monai_vfx.vertebrae.segmentation import locate
from monai_vfx.vertebrae.segmentation.naming import Chain, Naming

ACCEPTED = "accepted"


@dataclass
class Watched:
    """What became of one CT.

    Attributes:
        outcome: ``accepted`` or the refusal's code.
        message: the refusal's.
        chain: what naming saw; None where no chain was found.
        naming: what it made of it, likewise.
        centres_mm: (n, 3) of the chain's bodies, world mm, RAS+, cranial to caudal.
        labels: (i, j, k) the bodies under the names of the most probable hypothesis, also where
            they were refused; None where no chain was found.
        seconds: each step, of accepted cases.
    """

    outcome: str = ACCEPTED
    message: str = ""
    chain: Chain | None = None
    naming: Naming | None = None
    centres_mm: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    labels: LabelVolume | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def watched_segment(volume: Volume, weights: Path | None) -> Watched:
    """Segment as ``vfx`` does.

    Args:
        volume: a checked CT.
        weights: folder of the two networks; None for the shipped ones.

    Raises:
        RuntimeError: a case was accepted and naming was not heard: ``locate`` has changed.
    """
    seen = Watched()
    places: list[LabelVolume] = []

    def paint(bodies: Any, *grid: Any) -> LabelVolume:
        seen.centres_mm = np.array([body.centre for body in bodies], dtype=float).reshape(-1, 3)
        places.append(original_paint(bodies, *grid))
        return places[-1]

    def name(chain: Chain, *rates: Any) -> Naming:
        seen.chain, seen.naming = chain, original_name(chain, *rates)
        return seen.naming

    original_paint: Callable[..., LabelVolume] = locate.paint_bodies
    original_name: Callable[..., Naming] = locate.name_bodies
    with patch.object(locate, "paint_bodies", paint), patch.object(locate, "name_bodies", name):
        try:
            seen.seconds = dict(locate.segment(volume, weights=weights).seconds)
        except CaseRefused as refusal:
            seen.outcome, seen.message = refusal.code, refusal.message
    if seen.outcome == ACCEPTED and (seen.naming is None or not places):
        raise RuntimeError(
            "naming was not heard; monai_vfx.vertebrae.segmentation.locate works another way"
        )
    if seen.naming is not None and places:
        values = np.zeros(256, dtype=np.uint8)
        for n, level in enumerate(seen.naming.names, start=1):
            values[n] = VERTEBRAE.get(level, 0)
        seen.labels = values[places[-1]]
    return seen
