"""The sacrum of a body plan and its union with the last lumbar vertebra, as shapes. RAS mm.

Its segments are 29 mm high at S1 and shorter below; with its alae it is about 115 mm wide, as in
one annotated scan. It is concave to the front.
"""

from __future__ import annotations

import numpy as np

from monai_vfx.core.vertebra_sizes import SACRUM_TILT, LevelSize
from monai_vfx.vertebrae.training.anatomy.label_map import Frame, Rod, Shape
from monai_vfx.vertebrae.training.anatomy.skeleton import Body, Vertebra, rotation

_CURVE = np.array([0.0, 5.0, 16.0, 34.0, 52.0, 70.0])
_DIP = np.array([0.0, -13.0, -26.0, -20.0, -8.0, 0.0])
"""Tilts of S1-S5 and the coccyx against S1 in degrees: an even curve, and what a bent one adds."""


def make_sacrum(
    last: Vertebra, tilt: float, bent: float, size: float, second_disc: float, slip: float
) -> list[Vertebra]:
    """Return S1-S5 and the first coccygeal segments below a last lumbar vertebra.

    Args:
        last: the lumbar vertebra above.
        tilt: of S1 in degrees.
        bent: 0 for an even curve of the sacrum, 1 for one bent sharply at S3.
        size: scale of the person.
        second_disc: height in mm of what is left of the disc S1/S2.
        slip: how far the last lumbar vertebra stands in front of S1, mm.
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

    Args:
        sacrum: its segments.
        first_reach: of the alae of S1 from the midline, mm.
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

    Args:
        last: the last lumbar vertebra.
        first: S1.
        sides: 1 for the patient's right, -1 for the left.
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
