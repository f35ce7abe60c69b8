"""Expected sizes and tilts of the vertebrae T9 to L5 and of the sacrum.

They are those of a woman of 157 cm and fit the published ranges and one annotated scan within a few
millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LevelSize:
    """A level's expected sizes in mm and its sagittal tilt.

    Args:
        height: of the body, mean of the anterior and the posterior wall.
        wedge: anterior minus posterior height.
        depth: antero-posterior width at the waist.
        width: left-right width at the waist.
        disc: height of the disc below.
        tilt: of the body in degrees, the upper end leaning to the back is positive.
        process: left-right reach of the transverse process from the midline.
    """

    height: float
    wedge: float
    depth: float
    width: float
    disc: float
    tilt: float
    process: float


SIZES: dict[str, LevelSize] = {
    "T9": LevelSize(21.0, -1.5, 29.2, 33.8, 2.8, 5.0, 27.0),
    "T10": LevelSize(22.5, -1.5, 30.2, 35.3, 3.2, 8.0, 26.0),
    "T11": LevelSize(23.5, -1.5, 31.2, 37.3, 3.6, 11.0, 22.0),
    "T12": LevelSize(25.5, -1.5, 31.7, 38.8, 4.6, 14.0, 21.0),
    "L1": LevelSize(27.5, -0.7, 31.7, 40.3, 6.0, 15.0, 36.0),
    "L2": LevelSize(28.5, 0.2, 32.7, 41.8, 7.4, 13.0, 41.0),
    "L3": LevelSize(28.5, 1.0, 33.7, 43.8, 8.2, 7.0, 46.0),
    "L4": LevelSize(28.5, 2.0, 34.7, 45.8, 8.8, -4.0, 43.0),
    "L5": LevelSize(27.5, 4.5, 34.7, 49.3, 8.2, -22.0, 44.0),
}
SACRUM_TILT = -44.0
"""Tilt of S1 in degrees."""
