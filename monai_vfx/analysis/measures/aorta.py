"""Measure the aorta, where the mask labels it, and find the contrast phase.

TotalSegmentator labels the aorta beside the vertebrae; the project's own labels do not, so the file
is read again for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.geometry import voxel_spacing, world_positions
from monai_vfx.io.label_map import LabelFile, is_label_file, read_label_file
from monai_vfx.io.volume import Volume

DEPTH_MM = 3.0
"""Depth below the surface from which voxels count: wall and plaques do not."""
MIN_VOXELS = 50
"""Minimum number of voxels of a measurement."""
PHASE_HU: dict[str, tuple[float, float]] = {
    "none": (-10.0, 70.0),
    "delayed": (85.0, 110.0),
    "portal_venous": (125.0, 190.0),
    "arterial": (220.0, 1500.0),
}
"""Phase → median HU of the aorta at 100 to 140 kV; between these ranges the phase is unknown."""
USUAL_KVP = (100.0, 140.0)
"""At other voltages iodine is brighter or fainter: only the phase ``none`` is found."""

_IDS = {"totalsegmentator_v2": 52, "totalsegmentator_v1": 7}
_MAX_VOXELS = 20_000


def aorta_hu(volume: Volume, mask: Path, scheme: str) -> float | None:
    """Return the median HU inside the aorta; None where the mask does not label it.

    Args:
        volume: the CT.
        mask: the file or folder of the case's labels.
        scheme: how they were understood (:class:`monai_vfx.case.mask.load.Masks`).

    Raises:
        CaseRefused: a file that names the aorta cannot be read.
    """
    found = _find(mask, scheme)
    if found is None:
        return None
    spacing = voxel_spacing(found.affine)
    depth = ndimage.distance_transform_edt(np.pad(found.values > 0, 1), sampling=spacing)
    index = np.argwhere(depth[1:-1, 1:-1, 1:-1] > DEPTH_MM)
    if len(index) < MIN_VOXELS:
        return None
    index = index[:: max(1, len(index) // _MAX_VOXELS)]
    inside = _on_grid(volume, world_positions(found.box_affine, index))
    if len(inside) < MIN_VOXELS:
        return None
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    values = volume.read((i, j, k))[tuple((inside - low).T)]
    return float(np.median(values))


def phase_of_aorta(hu: float | None, kvp: float | None) -> str | None:
    """Return the contrast phase of an aorta; None where it cannot be determined.

    Args:
        hu: the result of :func:`aorta_hu`.
        kvp: tube voltage; an unknown one (None) counts as usual.

    >>> phase_of_aorta(38.0, 120.0), phase_of_aorta(150.0, None), phase_of_aorta(150.0, 80.0)
    ('none', 'portal_venous', None)
    >>> phase_of_aorta(205.0, 120.0) is None
    True
    """
    if hu is None:
        return None
    phase = next((name for name, (low, high) in PHASE_HU.items() if low <= hu <= high), None)
    usual = kvp is None or USUAL_KVP[0] <= kvp <= USUAL_KVP[1]
    return phase if usual or phase == "none" else None


def _find(mask: Path, scheme: str) -> LabelFile | None:
    """Return the aorta's labels, 1 inside."""
    if mask.is_dir():
        named = [p for p in sorted(mask.iterdir()) if is_label_file(p) and _is_aorta(p.name)]
        found = read_label_file(named[0], binary=True) if named else None
        return found if found is not None and found.values.size else None
    if not is_label_file(mask):
        return None
    whole = read_label_file(mask)
    by_name = next((v for v, name in whole.names.items() if _is_aorta(name)), None)
    value = by_name if scheme == "names" else _IDS.get(scheme)
    if value is None or not (whole.values == value).any():
        return None
    return whole.with_values((whole.values == value).astype(np.uint8))


def _is_aorta(name: str) -> bool:
    return name.split(".")[0].strip().lower() == "aorta"


def _on_grid(volume: Volume, places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the CT's voxels (n, 3) nearest to places (n, 3), those within it."""
    index = np.rint(world_positions(np.linalg.inv(volume.affine), places)).astype(np.int64)
    within = ((index >= 0) & (index < np.array(volume.shape))).all(axis=1)
    inside: npt.NDArray[np.int64] = index[within]
    return inside
