"""Hip bones and femora as solids. RAS mm relative to the centre of S1.

The places of the landmarks (crest, spines, acetabulum, symphysis, tuberosity) were read off one
annotated scan and fit the usual distances: 250 mm between the crests, 176 mm between the hips.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from monai_vfx.vertebrae.training.anatomy.label_map import Blob, Frame, Rod, Shape, Solid, Vector
from monai_vfx.vertebrae.training.anatomy.tissues import Tissue

_CREST = np.array(
    [
        *((42, -50, -6), (46, -50, 10), (58, -42, 27), (74, -28, 41), (92, -8, 49)),
        *((108, 14, 50), (120, 36, 42), (127, 56, 26), (128, 72, 6), (122, 80, -14)),
    ],
    dtype=float,
)
_BASE = np.array(
    [
        *((46, -38, -28), (50, -32, -30), (55, -24, -31), (61, -14, -33), (68, -3, -38)),
        *((76, 8, -46), (84, 18, -52), (90, 30, -55), (95, 42, -55), (98, 52, -52)),
    ],
    dtype=float,
)
_HIP = (88.0, 20.0, -88.0)
HIP_LAYERS = ((Tissue.PELVIS_CORTEX, 0.0), (Tissue.PELVIS_MARROW, 1.9))
LIMB_LAYERS = ((Tissue.LIMB_CORTEX, 0.0), (Tissue.LIMB_MARROW, 2.5))


def make_pelvis(frame: Frame, size: float, breadth: float, replaced: int = 0) -> list[Solid]:
    """Return hip bones, femora and the joints between them.

    Args:
        frame: origin at the centre of S1, axes upright or turned with the sacrum.
        size: scale of the person.
        breadth: of the pelvis relative to the usual one.
        replaced: side of a hip prosthesis, 1 the patient's right, -1 the left, 0 none.
    """
    solids = []
    for side in (1, -1):

        def at(point: Sequence[float] | Vector, side: int = side) -> Vector:
            x, y, z = (float(value) for value in point)
            return frame.world(side * x * size * breadth, y * size, z * size)

        hip = Frame(at(_HIP), frame.axes)
        cup = Blob(hip, (26.0 * size,) * 3)
        solids.append(Solid(_hip_parts(at, hip, size), HIP_LAYERS, minus=(cup,), blend=4.0))
        joint = ((Tissue.JOINT_CARTILAGE, 0.0),)
        solids.append(Solid((cup,), joint))
        metal = ((Tissue.METAL, 0.0),)
        head = Blob(hip, (23.5 * size,) * 3)
        neck = Rod(hip.origin, at((122, 4, -104)), 14.0 * size, 17.0 * size)
        shaft = Rod(at((122, 4, -112)), at((106, 12, -420)), 16.0 * size, 14.0 * size)
        if side == replaced:
            stem = Rod(at((118, 4, -100)), at((110, 10, -240)), 7.0)
            solids.append(Solid((shaft,), LIMB_LAYERS))
            solids.append(Solid((head, Rod(hip.origin, at((118, 4, -100)), 7.0), stem), metal))
        else:
            solids.append(Solid((head, neck, shaft), LIMB_LAYERS, blend=4.0))
    symphysis = Rod(
        frame.world(0, 66 * size, -104 * size), frame.world(0, 58 * size, -128 * size), 7
    )
    solids.append(Solid((symphysis,), ((Tissue.JOINT_CARTILAGE, 0.0),)))
    return solids


def wing_points(frame: Frame, side: int, size: float, breadth: float) -> Vector:
    """Return points (n, 3) on the inner face of an iliac wing, where the iliacus lies."""
    inner = 0.5 * _resampled(_CREST[3:9], 10) + 0.5 * _resampled(_BASE[3:9], 10) - (9.0, 0.0, 0.0)
    scale = np.array([side * size * breadth, size, size])
    return np.asarray(frame.origin + (inner * scale) @ frame.axes.T)


def _hip_parts(
    at: Callable[[Sequence[float] | Vector], Vector], hip: Frame, size: float
) -> tuple[Shape, ...]:
    crest = [at(point) for point in _resampled(_CREST, 36)]
    base = [at(point) for point in _resampled(_BASE, 36)]
    parts: list[Shape] = []
    for top, low in zip(crest, base, strict=True):
        middle = 0.55 * top + 0.45 * low + hip.axes @ (0, -3.0 * size, 0)
        parts += [
            Rod(top, middle, 5.5 * size, 4.0 * size),
            Rod(middle, low, 4.0 * size, 6.5 * size),
        ]
    parts += [Rod(a, b, 6.5 * size) for a, b in itertools.pairwise(crest)]
    rods = (
        ((56, -22, -32), (80, 10, -60), 8.5, 13.0),
        ((50, -40, -4), (55, -26, -26), 8.0, 8.0),
        ((96, 48, -52), (90, 30, -70), 8.0, 13.0),
        ((84, 14, -66), (82, 2, -100), 14.0, 15.0),
        ((84, 36, -84), (14, 66, -104), 10.0, 8.0),
        ((11, 66, -104), (12, 58, -130), 8.5, 7.0),
        ((13, 58, -128), (46, 4, -158), 7.0, 7.0),
        ((80, -4, -100), (58, -14, -156), 13.5, 14.0),
        ((60, -12, -150), (46, 4, -158), 11.0, 8.0),
    )
    for start, end, first, last in rods:
        parts.append(Rod(at(start), at(end), first * size, last * size))
    parts.append(Blob(hip, (31.0 * size,) * 3))
    return tuple(parts)


def _resampled(points: Vector, count: int) -> Vector:
    places = np.linspace(0, len(points) - 1, count)
    columns = [np.interp(places, range(len(points)), column) for column in points.T]
    return np.column_stack(columns)
