"""Outline each body in a patch of its own at 2 mm: its sizes, and whether it bears ribs.

A patch stands in the vertebra's frame (z up the spine, x to the patient's right), so a tilted
vertebra looks like an upright one. What the network says is then laid on the CT's own voxels by
linear interpolation, and neighbours compete for each voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.case.checks.fragments import largest_piece
from monai_vfx.core.anatomy import MUSCLES, PATCH_STRUCTURES, STRUCTURES
from monai_vfx.core.arrays import Affine, LabelVolume, Region
from monai_vfx.core.geometry import world_positions
from monai_vfx.vertebrae.segmentation.chain import ChainBody
from monai_vfx.vertebrae.segmentation.grids import (
    PATCH_SHAPE,
    PATCH_SPACING_MM,
    Probabilities,
    box_around,
    covered,
    on_grid,
    patch_affine,
)

PatchPredictor = Callable[[Sequence[Affine]], npt.NDArray[np.float32]]
"""Affines of n patches → (n, structure, 64, 48, 32) probabilities of ``PATCH_STRUCTURES``."""

MOVED_MM = 3.0  # A patch whose body's centroid lies further off than this is taken again around it
MIN_ML = 1.5  # A smaller body is none; a crushed thoracic one has 4 ml

APART_SHARE = 0.45
"""Two bodies whose centres are nearer than this share of their height are one that was cut."""

RIB_ML, RIB_SD_ML = 0.30, 0.07
"""Volume of rib beside a body's posterolateral edge at which a rib is as likely as none, and how
fast that changes (logistic). A rib's head and neck have 1 to 2 ml there, the shortest last ribs
half of it; probability that strays over a transverse process sums up to less than 0.2 ml."""

_SURE = 0.995  # of a rib, at most, from one patch
_MIN_SEEN = 0.95  # of the zone of a joint, inside the image
_MARGIN = 1  # voxels around the largest piece that still count to the body
_FOOT_MM = 4.0  # columns of less height are the rim
_MUSCLE_VOXELS = 8_000_000  # of the CT, at a time


@dataclass(frozen=True)
class RefinedBody:
    """One body, outlined."""

    # probability of the body, (64, 48, 32), on a patch with this `affine`
    inside: npt.NDArray[np.float32]
    affine: Affine  # of the patch, index → world mm, RAS+
    centre: npt.NDArray[np.float64]  # (3,) centroid, world mm, RAS+
    # height_mm, depth_mm, width_mm: means along the patch's z, y and x
    height_mm: float
    depth_mm: float
    width_mm: float
    volume_ml: float  # of the probability
    # probability of a rib at the (right, left) side under even odds; None where the joint lies
    # outside the image
    ribs: tuple[float | None, float | None]


def refine_bodies(
    bodies: Sequence[ChainBody],
    predict: PatchPredictor,
    image_shape: tuple[int, ...],
    image_affine: Affine,
) -> list[RefinedBody | None]:
    """Outline the bodies of a chain, each in its own patch of the CT; None where it shows no body.

    A body that the chain had cut in two comes once; then the list is shorter.
    """
    affines = [patch_affine(body.centre, body.up) for body in bodies]
    found = [
        _outlined(values, affine, image_shape, image_affine)
        for values, affine in zip(predict(affines), affines, strict=True)
    ]
    again = [
        n
        for n, (body, refined) in enumerate(zip(bodies, found, strict=True))
        if refined is not None and np.linalg.norm(refined.centre - body.centre) > MOVED_MM
    ]
    if again:
        moved = [_recentred(n, bodies, found) for n in again]
        for n, values, affine in zip(again, predict(moved), moved, strict=True):
            found[n] = _outlined(values, affine, image_shape, image_affine) or found[n]
    return _without_doubles(found)


def _recentred(n: int, bodies: Sequence[ChainBody], found: Sequence[RefinedBody | None]) -> Affine:
    """Return the patch around the centroid that was found, its z between the neighbours'."""
    refined = found[n]
    assert refined is not None
    above = found[n - 1] if n > 0 else None
    below = found[n + 1] if n + 1 < len(found) else None
    up = bodies[n].up
    if above is not None and below is not None:
        between = above.centre - below.centre
        if between @ up > 0.8 * np.linalg.norm(between):
            up = up + between / np.linalg.norm(between)
    return patch_affine(refined.centre, up)


def _without_doubles(found: list[RefinedBody | None]) -> list[RefinedBody | None]:
    """Drop the smaller of two neighbours that outline the same body."""
    kept: list[RefinedBody | None] = []
    for body in found:
        last = kept[-1] if kept else None
        if body is not None and last is not None:
            apart = float(np.linalg.norm(body.centre - last.centre))
            if apart < APART_SHARE * max(body.height_mm, last.height_mm):
                if body.volume_ml > last.volume_ml:
                    kept[-1] = body
                continue
        kept.append(body)
    return kept


def _outlined(
    values: npt.NDArray[np.float32],
    affine: Affine,
    image_shape: tuple[int, ...],
    image_affine: Affine,
) -> RefinedBody | None:
    """Measure what one patch shows."""
    inside = values[PATCH_STRUCTURES.index("this_body")]
    main = ndimage.binary_dilation(largest_piece(inside > 0.5)[0], iterations=_MARGIN)
    inside = np.where(main, inside, np.float32(0))
    volume = float(inside.sum()) * PATCH_SPACING_MM**3 / 1000
    if volume < MIN_ML:
        return None
    axes = np.meshgrid(*(np.arange(n) for n in inside.shape), indexing="ij", sparse=True)
    middle = np.array([float((inside * axis).sum()) for axis in axes]) / float(inside.sum())
    height, depth, width = _sizes(inside, middle)
    to_image = np.linalg.inv(image_affine) @ affine
    seen = covered(image_shape, to_image, PATCH_SHAPE)
    rib = values[PATCH_STRUCTURES.index("rib")]
    ribs = [
        _rib_probability(rib, seen, _joint_zone(side, middle, (height, depth, width)))
        for side in (1, -1)
    ]
    return RefinedBody(
        inside=inside,
        affine=affine,
        centre=affine[:3, :3] @ middle + affine[:3, 3],
        height_mm=height,
        depth_mm=depth,
        width_mm=width,
        volume_ml=volume,
        ribs=(ribs[0], ribs[1]),
    )


def _sizes(
    inside: npt.NDArray[np.float32], middle: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return height, depth and width in mm from the soft outline.

    The height is the mean of the columns over the footprint without its rim, so that a wedged or
    hollow body counts with what it has; depth and width are means near the midline and the middle
    of the body, at half its height.
    """
    columns = inside.sum(axis=2) * PATCH_SPACING_MM
    foot = ndimage.binary_erosion(columns > _FOOT_MM)
    height = float(columns[foot].mean()) if foot.any() else float(columns.max())
    reach = max(1, round(height / 4 / PATCH_SPACING_MM))
    z = round(float(middle[2]))
    level = inside[:, :, max(z - reach, 0) : z + reach + 1].mean(axis=2)
    x, y = (round(float(n)) for n in middle[:2])
    depth = float(level[max(x - 3, 0) : x + 4].sum(axis=1).mean()) * PATCH_SPACING_MM
    width = float(level[:, max(y - 2, 0) : y + 3].sum(axis=0).mean()) * PATCH_SPACING_MM
    return height, depth, width


def _joint_zone(
    side: int, middle: npt.NDArray[np.float64], sizes: tuple[float, float, float]
) -> Region:
    """Return the part of a patch in which the head and neck of a body's own rib lie.

    From 8 mm inside the body's side wall to 22 mm beside it, from the middle of the body to 20 mm
    behind it, and from a third of the height below its middle to its upper endplate: a rib of the
    vertebra below begins lower, one of the vertebra above is further out by then. ``side`` is 1 on
    the right, -1 on the left; ``middle`` an index; sizes are height, depth and width in mm.
    """
    height, depth, width = sizes
    out = sorted(side * (width / 2 + more) for more in (-8.0, 22.0))
    bounds = (out, (-depth / 2 - 20.0, 2.0), (-0.35 * height, 0.55 * height))
    sides = []
    for ends, at, size in zip(bounds, middle, PATCH_SHAPE, strict=True):
        low, high = (round(float(at) + end / PATCH_SPACING_MM) for end in ends)
        sides.append(slice(min(max(low, 0), size - 1), max(min(high + 1, size), 1)))
    return sides[0], sides[1], sides[2]


def _rib_probability(
    rib: npt.NDArray[np.float32], seen: npt.NDArray[np.bool_], zone: Region
) -> float | None:
    """Return how sure it is that a rib begins in a zone; None where the image shows too little."""
    if seen[zone].mean() < _MIN_SEEN:
        return None
    volume = float(rib[zone].sum()) * PATCH_SPACING_MM**3 / 1000
    chance = 1 / (1 + np.exp(-np.clip((volume - RIB_ML) / RIB_SD_ML, -50, 50)))
    return float(np.clip(chance, 1 - _SURE, _SURE))


def paint_bodies(
    bodies: Sequence[RefinedBody], shape: tuple[int, int, int], affine: Affine
) -> LabelVolume:
    """Lay the outlines on the CT's own voxels: 0 for none, else 1 + the body's place in ``bodies``.

    A voxel belongs to the body of the greatest interpolated probability, if that is above one
    half; of each body the largest piece is kept and its holes are filled.
    """
    labels = np.zeros(shape, dtype=np.uint8)
    boxes = {n: _box_of(body, affine, shape) for n, body in enumerate(bodies)}
    placed = {n: box for n, box in boxes.items() if box is not None}
    if not placed:
        return labels
    lows = np.min([[side.start for side in box] for box in placed.values()], axis=0)
    highs = np.max([[side.stop for side in box] for box in placed.values()], axis=0)
    best = np.full(tuple(highs - lows), 0.5, dtype=np.float32)
    for n, box in placed.items():
        chance = on_grid(bodies[n].inside, bodies[n].affine, box, affine)
        view = best[
            tuple(slice(s.start - low, s.stop - low) for s, low in zip(box, lows, strict=True))
        ]
        more = chance > view
        view[more] = chance[more]
        labels[box][more] = n + 1
    for n, box in placed.items():
        view = labels[box]
        own = view == n + 1
        main = largest_piece(own)[0]
        view[own & ~main] = 0
        view[ndimage.binary_fill_holes(main) & (view == 0)] = n + 1
    return labels


def _box_of(body: RefinedBody, affine: Affine, shape: tuple[int, int, int]) -> Region | None:
    """Return the CT's voxels that a body may cover."""
    index = np.argwhere(body.inside > 0.25)
    if not len(index):
        return None
    ends = np.array([index.min(axis=0) - 1, index.max(axis=0) + 1])
    return box_around(world_positions(body.affine, list(product(*ends.T))), affine, shape)


def touches_edge(labels: LabelVolume, value: int) -> bool:
    """Return whether a label reaches a face of the volume, and so may be cut by it."""
    return any(
        bool((labels.take(end, axis) == value).any()) for axis in range(3) for end in (0, -1)
    )


def paint_muscles(
    labels: LabelVolume,
    affine: Affine,
    probabilities: Probabilities,
    heights_mm: tuple[float, float],
) -> None:
    """Add erector spinae and psoas to labels, in place, where nothing is labelled yet.

    A voxel belongs to a muscle whose interpolated probability is above one half, between the
    lowest and the highest z (world mm) that are wanted.
    """
    heights = probabilities.affine[2, 3] + probabilities.affine[2, 2] * np.arange(
        probabilities.values.shape[3]
    )
    wanted = np.flatnonzero((heights >= heights_mm[0]) & (heights <= heights_mm[1]))
    for name, value in MUSCLES.items() if wanted.size else ():
        first = int(wanted[0])
        chance = probabilities.values[STRUCTURES.index(name), :, :, first : int(wanted[-1]) + 1]
        index = np.argwhere(chance > 0.25)
        if not len(index):
            continue
        low = np.maximum(index.min(axis=0) - 1, 0)
        high = np.minimum(index.max(axis=0) + 2, chance.shape)
        chance = chance[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
        part = probabilities.affine.copy()
        part[:3, 3] += part[:3, :3] @ (low + np.array([0, 0, first]))
        corners = list(product(*((0, n - 1) for n in high - low)))
        box = box_around(world_positions(part, corners), affine, labels.shape)
        if box is not None:
            _paint_muscle(labels, affine, value, (chance, part), box)


def _paint_muscle(
    labels: LabelVolume,
    affine: Affine,
    value: int,
    muscle: tuple[npt.NDArray[np.float32], Affine],
    box: Region,
) -> None:
    """Paint one muscle in a box, a slab at a time."""
    i, j, k = box
    step = max(1, _MUSCLE_VOXELS // max((i.stop - i.start) * (j.stop - j.start), 1))
    for start in range(k.start, k.stop, step):
        slab = (i, j, slice(start, min(start + step, k.stop)))
        view = labels[slab]
        view[(on_grid(*muscle, slab, affine) > 0.5) & (view == 0)] = value
