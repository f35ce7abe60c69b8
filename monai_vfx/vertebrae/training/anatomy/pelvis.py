"""Sacrum, hip bones and femora as solids. RAS mm; hips relative to the centre of S1.

The places of the hips' landmarks (crest, spines, acetabulum, symphysis, tuberosity) were read off
one annotated scan and fit the usual distances: 250 mm between the crests, 176 mm between the hips.
The segments of the sacrum are 29 mm high at S1 and shorter below; with its alae it is about 115 mm
wide, as in that scan. It is concave to the front.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from monai_vfx.core.vertebra_sizes import SACRUM_TILT, LevelSize
from monai_vfx.vertebrae.training.anatomy.label_map import (
    Blob,
    Frame,
    Rod,
    Shape,
    Solid,
    Vector,
    mm,
    solid,
)
from monai_vfx.vertebrae.training.anatomy.skeleton import Body, Vertebra, rotation
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

    The frame's origin is the centre of S1; ``replaced`` is the side of a hip prosthesis, 1 the
    patient's right, -1 the left, 0 none.
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
    solids.append(solid(Tissue.JOINT_CARTILAGE, symphysis))
    return solids


def wing_points(frame: Frame, side: int, size: float, breadth: float) -> Vector:
    """Return points (n, 3) on the inner face of an iliac wing, where the iliacus lies."""
    inner = 0.5 * _resampled(_CREST[3:9], 10) + 0.5 * _resampled(_BASE[3:9], 10) - (9.0, 0.0, 0.0)
    scale = mm(side * size * breadth, size, size)
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


_CURVE = np.array([0.0, 5.0, 16.0, 34.0, 52.0, 70.0])
_DIP = np.array([0.0, -13.0, -26.0, -20.0, -8.0, 0.0])
"""Tilts of S1-S5 and the coccyx against S1 in degrees: an even curve, and what a bent one adds."""


def make_sacrum(
    last: Vertebra, tilt: float, bent: float, size: float, second_disc: float, slip: float
) -> list[Vertebra]:
    """Return S1-S5 and the first coccygeal segments below a last lumbar vertebra.

    S1 has a tilt in degrees; ``bent`` is 0 for an even curve of the sacrum, 1 for one bent sharply
    at S3; ``second_disc`` (mm) is left of the disc S1/S2; the last lumbar vertebra stands ``slip``
    mm in front of S1.
    """
    segments: list[Vertebra] = []
    above = last
    heights = (29.0, 24.0, 21.0, 18.0, 16.0, 22.0)
    depths = (32.0, 23.0, 17.0, 13.0, 11.0, 9.0)
    widths = (50.0, 40.0, 33.0, 29.0, 26.0, 15.0)
    for number, turn in enumerate(_CURVE + bent * _DIP):
        angle = max(tilt + float(turn), min(tilt, -80.0))  # no segment lies above the one before
        axes = rotation(np.deg2rad(angle), np.deg2rad(last.coronal / 3), 0.0)
        gap = (last.size.disc, second_disc, 0.0, 0.0, 0.0, 0.0)[number]
        height = heights[number] * size
        middle = axes[:, 2] + above.frame.axes[:, 2]
        place = (
            above.frame.origin
            - above.size.height / 2 * above.frame.axes[:, 2]
            - gap * middle / np.linalg.norm(middle)
            - height / 2 * axes[:, 2]
            - (slip if number == 0 else 0.0) * axes[:, 1]
        )
        expected = LevelSize(
            *(height, 2.0 if number == 0 else 0.5, depths[number] * size, widths[number] * size),
            *(gap, angle, 0.0),
        )
        name = f"S{number + 1}"
        above = Vertebra(name, Frame(place, axes), expected, 0.4, 0.02, last.span)
        segments.append(above)
    return segments


def sacrum_parts(
    sacrum: list[Vertebra], first_reach: float = 58.0
) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Return the parts of the sacrum, and the foramina that are cut out of it.

    The alae of S1 reach ``first_reach`` mm from the midline.
    """
    parts: list[Shape] = [Body(segment) for segment in sacrum]
    cuts: list[Shape] = []
    reach, thick = (first_reach, 54.0, 45.0, 32.0, 22.0), (12.0, 11.0, 9.0, 7.0, 5.0)
    for number, segment in enumerate(sacrum[:5]):
        k, at = segment.span, segment.frame
        half = segment.size.height / 2
        deep = segment.half_depth
        for side in (-1, 1):
            for w in (-0.6 * half, 0.45 * half):
                start = at.world(side * segment.half_width * 0.6, -0.1 * deep, w)
                end = at.world(side * (reach[number] * k - thick[number]), -8 * k, w - 3)
                parts.append(Rod(start, end, thick[number] * k * 0.85, thick[number] * k))
            arch = at.world(side * 14 * k, -deep - 11 * k, 0)
            crest = at.world(0, -deep - (20 - 2 * number) * k, -4)
            parts.append(Rod(arch, crest, (4.0 - 0.4 * number) * k))
            parts.append(Rod(at.world(side * 19 * k, -deep * 0.6, 0), arch, 4.5 * k))
            if number < 4:  # a nerve leaves to the front and to the back below each segment
                x = side * (segment.half_width * 0.85 + 1)
                front = at.world(x, deep + 6, -half)
                rear = at.world(x, -deep - 20 * k, -half)
                cuts.append(Rod(front, rear, (4.5 - 0.4 * number) * k))
    return tuple(parts), tuple(cuts)


def sacralised_parts(last: Vertebra, first: Vertebra, sides: tuple[int, ...]) -> tuple[Shape, ...]:
    """Return the broad transverse processes of a sacralised last lumbar vertebra (Castellvi III).

    Sides are 1 for the patient's right, -1 for the left.
    """
    k = last.span
    parts: list[Shape] = []
    for side in sides:
        root = last.frame.world(side * last.half_width * 0.8, -last.half_depth - 6 * k, 4.0)
        tip = last.frame.world(side * 48 * k, -last.half_depth - 4 * k, -2.0)
        ala = first.frame.world(side * 42 * k, -4.0, first.size.height * 0.45)
        parts += [Rod(root, tip, 8 * k, 10 * k), Rod(tip, ala, 10 * k, 10 * k)]
    return tuple(parts)


def sacral_tilt(lordosis: float) -> float:
    """Return the tilt of S1 in degrees; ``lordosis`` is relative to the usual one."""
    return SACRUM_TILT * lordosis
