"""Names for the array shapes that recur, so that signatures say what they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Affine = npt.NDArray[np.float64]
"""(4, 4): voxel index (i, j, k, 1) → world position in mm, RAS+ (to right, front, head)."""

Points = npt.NDArray[np.float64]
"""(n, 3): positions in mm, RAS+ unless the name says ``lps``."""

HUVolume = npt.NDArray[np.float32]
"""(i, j, k): Hounsfield units in the file's own axis order."""

LabelVolume = npt.NDArray[np.uint8]
"""(i, j, k): labels of :mod:`monai_vfx.core.anatomy` in the image's axis order; 0 is none."""

BoolVolume = npt.NDArray[np.bool_]
"""(i, j, k): a region."""

Region = tuple[slice, slice, slice]
"""A box of voxels, one ``slice`` with explicit start and stop an axis."""

Json = dict[str, Any]
"""An object of JSON values."""
