"""What the vertebra segmentation finds: named vertebrae, a label map and how sure the names are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monai_vfx.core.arrays import Json, LabelVolume
from monai_vfx.core.errors import CaseWarning


@dataclass(frozen=True)
class NamedLevel:
    """One vertebral body that was found."""

    name: str  # the level that the most probable naming gives it, as in VERTEBRAE
    probability: float  # posterior probability, 0 to 1, that it is this level
    centre_mm: tuple[float, float, float]  # centroid of the body in world mm, RAS+
    # height_mm, depth_mm, width_mm: of the body along the spine, from front to back and from side
    # to side, mm; means over the body, so that one crushed edge does not decide
    height_mm: float
    depth_mm: float
    width_mm: float
    volume_ml: float  # of the body, in the part that is in view
    # probability, 0 to 1, that it bears a rib at its (right, left) side; 0.5 where nothing can be
    # said, as the joint lies outside the image
    ribs: tuple[float, float]
    complete: bool  # whether the body lies in the image with both endplates


@dataclass(frozen=True)
class VertebraSegmentation:
    """Vertebrae and muscles of one CT."""

    # (i, j, k) uint8 on the CT's own grid and in the file's axis order: vertebral bodies under
    # VerSe numbers, 101 erector spinae, 102 psoas
    labels: LabelVolume
    levels: tuple[NamedLevel, ...]  # the bodies that were found, cranial to caudal
    # posterior probability, 0 to 1, that T12, L1, L2, L3 and L4 are all named right
    confidence: float
    threshold: float  # least confidence at which the names are used
    # what the names rest on, plain JSON values: `sacrum_in_view`, `last_rib` (level of the last
    # body with ribs, or None), `lumbar_count` (bodies between the last rib and the sacrum, or None)
    # and `hypotheses`, the most probable namings with their `probability`, most probable first
    evidence: Json
    # SHA-256 of the networks' weights, by network (`locator`, `refiner`)
    weights_sha256: Mapping[str, str]
    warnings: tuple[CaseWarning, ...]  # what a reader of a result must know
    seconds: Mapping[str, float]  # what each step took, by name; `total` for all of them
