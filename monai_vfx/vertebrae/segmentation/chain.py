"""Find the spine as a chain of bodies: its curve, and the bodies, discs and sacrum along it.

Two dynamic programmes. The first finds the path from head to feet that gathers most probability
of body, disc and sacrum, one position a slice; it needs no seed and bridges what metal or noise
took away. The second walks along that curve in arc length, so that a lumbosacral angle of 45
degrees or a scoliosis costs nothing, and cuts it into bodies and discs: what the network says at
each millimetre, and how tall bodies are beside their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.core.anatomy import STRUCTURES
from monai_vfx.core.arrays import Points
from monai_vfx.core.errors import CaseRefused
from monai_vfx.vertebrae.segmentation.grids import Probabilities, sample_at

Vector = npt.NDArray[np.float64]

STEP_MM = 1.0  # Of the arc length

BODY_MM = (8, 42)
"""Least and greatest height of a body: crushed, and the tallest lumbar ones with a margin."""

DISC_MM = (1, 20)  # Least and greatest height of a disc
MIN_BODIES = 3  # A shorter chain is not taken for a spine

_SMOOTHING_MM = (8.0, 8.0, 6.0)  # SD: about half a body, so that its middle has the most
_MIN_EVIDENCE = 0.2  # of the smoothed probability along the path
_GAP_MM = 45.0  # longest stretch without evidence that is bridged: one vertebra with its discs
_TURN_COST = 0.05  # of one voxel to the side between slices, squared
_REACH = 2  # voxels to the side between neighbouring slices
_COLUMN_MM = 24.0  # what lies closer to the path takes part in the centroid
_CURVE_SD_MM = 9.0
_RADIUS_MM = 9.0  # of the disc-shaped neighbourhood; a thoracic body is 25 mm wide
_PAD_MM = 12.0
_FLOOR = 0.05  # probability of an error at any one place
_SACRUM_MM = 12  # the sacrum begins where it prevails for as long as this


@dataclass(frozen=True)
class Curve:
    """The middle line of the spine."""

    points: Points  # (n, 3) world mm, RAS+, cranial to caudal, 1 mm apart
    ups: Points  # (n, 3) unit vectors along the curve, towards the head


@dataclass(frozen=True)
class ChainBody:
    """One body of the chain, as far as the coarse grid tells."""

    centre: Vector  # (3,) world mm, RAS+
    up: Vector  # (3,) unit vector along the spine, towards the head
    height_mm: float  # along the curve
    evidence: float  # mean probability of body along it, 0 to 1


@dataclass(frozen=True)
class SpineChain:
    """Neighbouring bodies and what lies below them."""

    bodies: tuple[ChainBody, ...]  # cranial to caudal
    sacrum: float  # probability, 0 to 1, that the sacrum lies right below the last body
    curve: Curve  # that they lie on


def find_chain(probabilities: Probabilities) -> SpineChain:
    """Find the spine on an upright grid (RAS+ axes) and cut it into bodies.

    Raises:
        CaseRefused: ``spine_not_found``.
    """
    curve = find_curve(probabilities)
    chain = cut_curve(probabilities, curve)
    if len(chain.bodies) < MIN_BODIES:
        raise CaseRefused(
            "spine_not_found",
            f"{len(chain.bodies)} vertebral bodies in a row are seen, at least {MIN_BODIES} "
            "are needed",
        )
    return chain


def find_curve(probabilities: Probabilities) -> Curve:
    """Find the middle line of the spine; see :func:`find_chain`."""
    column = sum(probabilities.values[STRUCTURES.index(n)] for n in ("body", "disc", "sacrum"))
    column = np.asarray(column, dtype=np.float32)
    spacing = np.diag(probabilities.affine)[:3]
    smooth = ndimage.gaussian_filter(column, np.array(_SMOOTHING_MM) / spacing, mode="constant")
    path = _best_path(smooth)
    along = smooth[path[:, 0], path[:, 1], np.arange(len(path))]
    if along.max() <= _MIN_EVIDENCE:  # specks beside the path are no spine
        raise _nothing_found()
    run = _longest_run(along > _MIN_EVIDENCE, max(1, round(_GAP_MM / spacing[2])))
    if (run.stop - run.start) * spacing[2] < MIN_BODIES * BODY_MM[0]:
        raise _nothing_found()
    planes = np.arange(run.start, run.stop)
    centres, mass = _centroids(column[:, :, run], path[run], spacing)
    world = probabilities.affine[:3, 3] + np.column_stack([centres, planes]) * spacing
    return _smooth_curve(world, mass)


def _nothing_found() -> CaseRefused:
    return CaseRefused("spine_not_found", "nothing like a row of vertebral bodies is seen")


def _best_path(evidence: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return (slices, 2): the x and y of each slice on the path of most evidence.

    Maximises the sum of evidence less a cost of squared steps to the side; the cost is a sum over
    x and y, so both are optimised one after the other.
    """
    slices = evidence.shape[2]
    shifts = range(-_REACH, _REACH + 1)
    score = evidence[:, :, 0].astype(np.float64)
    came = np.zeros((2, slices, *score.shape), dtype=np.int8)
    for z in range(1, slices):
        for axis in (0, 1):
            moved = np.stack(
                [_shifted(score, shift, axis) - _TURN_COST * shift**2 for shift in shifts]
            )
            best = moved.argmax(axis=0)
            score = np.take_along_axis(moved, best[None], axis=0)[0]
            came[axis, z] = best - _REACH
        score = score + evidence[:, :, z]
    x, y = (int(n) for n in np.unravel_index(int(score.argmax()), score.shape))
    path = np.empty((slices, 2), dtype=np.intp)
    for z in range(slices - 1, -1, -1):
        path[z] = x, y
        y -= int(came[1, z, x, y])  # y was optimised last, so it is undone first
        x -= int(came[0, z, x, y])
    return path


def _shifted(values: npt.NDArray[np.float64], by: int, axis: int) -> npt.NDArray[np.float64]:
    """Return values moved by whole voxels; nothing comes from outside."""
    out = np.full_like(values, -np.inf)
    source: list[slice] = [slice(None)] * 2
    target: list[slice] = [slice(None)] * 2
    source[axis] = slice(max(-by, 0), values.shape[axis] - max(by, 0))
    target[axis] = slice(max(by, 0), values.shape[axis] - max(-by, 0))
    out[tuple(target)] = values[tuple(source)]
    return out


def _longest_run(hit: npt.NDArray[np.bool_], gap: int) -> slice:
    """Return the run with the most hits; gaps up to ``gap`` places do not end it.

    >>> _longest_run(np.array([1, 0, 0, 0, 1, 1, 0, 1], dtype=bool), 1)
    slice(4, 8, None)
    """
    at = np.flatnonzero(hit)
    runs = np.split(at, np.flatnonzero(np.diff(at) > gap + 1) + 1)
    best = max(runs, key=len)
    return slice(int(best[0]), int(best[-1]) + 1)


def _centroids(
    column: npt.NDArray[np.float32], path: npt.NDArray[np.intp], spacing: Vector
) -> tuple[Points, Vector]:
    """Return the centroid (slices, 2) in voxels near the path and the probability it rests on."""
    x, y = np.meshgrid(*(np.arange(n) for n in column.shape[:2]), indexing="ij")
    centres, mass = np.empty((len(path), 2)), np.empty(len(path))
    for z, (at_x, at_y) in enumerate(path):
        off = ((x - at_x) * spacing[0]) ** 2 + ((y - at_y) * spacing[1]) ** 2
        weights = column[:, :, z] * (off < _COLUMN_MM**2)
        mass[z] = weights.sum()
        # A little of the path itself stands in where there is nothing.
        share = 1e-3 + mass[z]
        centres[z] = (
            ((weights * x).sum() + 1e-3 * at_x) / share,
            ((weights * y).sum() + 1e-3 * at_y) / share,
        )
    return centres, mass


def _smooth_curve(world: Points, mass: Vector) -> Curve:
    """Smooth x and y over z by local straight fits, and walk along them in arc length."""
    z = world[:, 2]
    fine = np.arange(z.max() + _PAD_MM, z.min() - _PAD_MM, -0.5)
    weights = np.exp(-(((fine[:, None] - z) / _CURVE_SD_MM) ** 2) / 2) * (mass + 1e-2)
    apart = z - fine[:, None]
    total, first, second = (
        (weights * power).sum(axis=1) for power in (1.0, apart, np.square(apart))
    )
    spread = np.maximum(second * total - first**2, 1e-9)
    places = [
        (second * (weights @ world[:, n]) - first * ((weights * apart) @ world[:, n])) / spread
        for n in (0, 1)
    ]
    points = np.column_stack([*places, fine])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.arange(0.0, length[-1], STEP_MM)
    even = np.column_stack([np.interp(at, length, points[:, n]) for n in range(3)])
    ups = -np.gradient(ndimage.gaussian_filter1d(even, 4.0, axis=0, mode="nearest"), axis=0)
    return Curve(even, ups / np.linalg.norm(ups, axis=1, keepdims=True))


def profile(probabilities: Probabilities, curve: Curve) -> npt.NDArray[np.float64]:
    """Return the mean probabilities (4, n) of a disc-shaped neighbourhood square to the curve.

    The rows are body, disc, sacrum, and all else; columns add up to 1.
    """
    right = np.array([1.0, 0.0, 0.0]) - curve.ups * curve.ups[:, :1]
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    front = np.cross(curve.ups, right)
    offsets = [(0.0, 0.0)]
    for radius in (_RADIUS_MM / 2, _RADIUS_MM):
        angles = np.arange(8) * np.pi / 4
        offsets += [(radius * np.cos(a), radius * np.sin(a)) for a in angles]
    points = np.stack([curve.points + u * right + v * front for u, v in offsets])
    rows = [
        sample_at(probabilities.values[STRUCTURES.index(n)], probabilities.affine, points).mean(0)
        for n in ("body", "disc", "sacrum")
    ]
    return np.stack([*rows, np.clip(1 - sum(rows), 0, 1)])


def cut_curve(probabilities: Probabilities, curve: Curve) -> SpineChain:
    """Cut the curve into bodies and discs, down to the sacrum if it is in view."""
    seen = profile(probabilities, curve)
    pieces, sacrum = cut_profile(seen)
    bodies = []
    for start, stop in pieces:
        middle = (start + stop - 1) // 2
        around = slice(max(middle - 3, 0), middle + 4)
        up = curve.ups[around].mean(axis=0)
        bodies.append(
            ChainBody(
                centre=(curve.points[middle] + curve.points[(start + stop) // 2]) / 2,
                up=up / np.linalg.norm(up),
                height_mm=(stop - start) * STEP_MM,
                evidence=float(seen[0, start:stop].mean()),
            )
        )
    while bodies and bodies[0].evidence < 2 * _MIN_EVIDENCE:
        bodies.pop(0)
    while bodies and bodies[-1].evidence < 2 * _MIN_EVIDENCE:
        bodies.pop()
        sacrum = None
    return SpineChain(tuple(bodies), _sacrum_probability(seen, sacrum), curve)


def _sacrum_probability(seen: npt.NDArray[np.float64], start: int | None) -> float:
    """Return how sure it is that what begins here is the sacrum."""
    if start is None:
        return 0.001
    stretch = seen[:, start + 2 : start + 22]
    bone = stretch[:3].sum(axis=0)
    share = float(stretch[2].sum() / max(bone.sum(), 1e-6)) * min(1.0, float(bone.mean()) / 0.5)
    return float(np.clip(1 / (1 + np.exp(-(share - 0.45) / 0.06)), 0.001, 0.999))


def cut_profile(seen: npt.NDArray[np.float64]) -> tuple[list[tuple[int, int]], int | None]:
    """Cut a profile into nothing, bodies and discs in turn, sacrum, nothing: the most likely way.

    A semi-Markov model: the log probabilities of the profile are summed over each stretch, and a
    stretch's length has a prior: heights of bodies about 26 mm, close to the height of the one
    above (a fractured body is allowed to differ at a limited cost), discs about 7 mm. Returns
    (start, stop) of each body, cranial to caudal, and where the sacrum starts, if it is seen.
    """
    logs = np.log((seen + _FLOOR) / (1 + 4 * _FLOOR))
    sums = np.concatenate([np.zeros((4, 1)), np.cumsum(logs, axis=1)], axis=1)
    ways = _walk(sums)
    end = _best_end(ways, sums)
    if end is None:
        return [], None
    kind, place, height = end
    sacrum = place if kind == 2 else None
    if kind:
        place -= int(ways.disc_length[place, height])
    pieces = []
    while height != _FRESH:
        start = place - int(_HEIGHTS[height])
        pieces.append((start, place))
        has_disc = bool(ways.below_disc[start, height])
        height = int(ways.above[start, height])
        place = start - int(ways.disc_length[start, height]) if has_disc else start
    return pieces[::-1], sacrum


_HEIGHTS = np.arange(BODY_MM[0], BODY_MM[1] + 1)
_DISCS = np.arange(DISC_MM[0], DISC_MM[1] + 1)
_FRESH = len(_HEIGHTS)  # "height" of what is above the first body


@dataclass(frozen=True)
class _Ways:
    """The best ways to each place."""

    after_body: Vector  # (n + 1, heights + 1) log probability by end and height of a body
    after_disc: Vector  # the same by end of a disc and height of the body above it
    disc_length: npt.NDArray[np.int16]  # that disc's
    # (n + 1, heights) the height of what is above, by start and height of a body
    above: npt.NDArray[np.int16]
    below_disc: npt.NDArray[np.bool_]  # whether a disc lies between the two


def _walk(sums: Vector) -> _Ways:
    """Find the best ways to the end of every body and disc."""
    body, disc, _, nothing = sums
    n = sums.shape[1] - 1
    height_cost = np.minimum(((_HEIGHTS - 26) / 7.0) ** 2 / 2, 3.0)
    disc_cost = np.minimum(((_DISCS - 7) / 4.0) ** 2 / 2, 3.0)
    mean = (_HEIGHTS[:, None] + _HEIGHTS) / 2
    change_cost = np.minimum(((_HEIGHTS[:, None] - _HEIGHTS) / (0.1 * mean + 1)) ** 2 / 2, 5.0)
    after_body = np.full((n + 1, _FRESH + 1), -np.inf)
    after_disc = np.full((n + 1, _FRESH + 1), -np.inf)
    after_body[:, _FRESH] = nothing
    disc_length = np.zeros((n + 1, _FRESH + 1), dtype=np.int16)
    above = np.zeros((n + 1, _FRESH), dtype=np.int16)
    below_disc = np.zeros((n + 1, _FRESH), dtype=bool)
    for place in range(n + 1):
        lengths = _DISCS[place >= _DISCS]
        if lengths.size:
            cost = disc[place] - disc[place - lengths] - disc_cost[: lengths.size]
            ways = after_body[place - lengths] + cost[:, None]
            best = ways.argmax(axis=0)
            disc_length[place] = lengths[best]
            after_disc[place] = np.take_along_axis(ways, best[None], axis=0)[0]
        # above the body: a disc below another body, a disc below nothing, or nothing
        below_body = after_disc[place, :_FRESH, None] - change_cost
        others = [np.full((1, _FRESH), v) for v in (after_disc[place, _FRESH], nothing[place])]
        ways = np.concatenate([below_body, *others])
        best = ways.argmax(axis=0)
        above[place] = np.minimum(best, _FRESH)
        below_disc[place] = best <= _FRESH
        start = np.take_along_axis(ways, best[None], axis=0)[0]
        fits = np.flatnonzero(n - place >= _HEIGHTS)
        ends = place + _HEIGHTS[fits]
        after_body[ends, fits] = start[fits] + body[ends] - body[place] - height_cost[fits]
    return _Ways(after_body, after_disc, disc_length, above, below_disc)


def _best_end(ways: _Ways, sums: Vector) -> tuple[int, int, int] | None:
    """Return how the best way ends, where, and the last body's height; None for no body at all.

    The kinds: 0 nothing below a body, 1 nothing below a disc, 2 a disc and the sacrum.
    """
    _, _, sacral, nothing = sums
    below = nothing[-1] - nothing
    after_body, after_disc = (w[:, :_FRESH] for w in (ways.after_body, ways.after_disc))
    with_sacrum = np.full_like(after_disc, -np.inf)
    furthest = np.maximum.accumulate((sacral + below)[::-1])[
        ::-1
    ]  # best place from here on to stop
    places = np.arange(len(below) - _SACRUM_MM)
    reached = furthest[places + _SACRUM_MM] - sacral[places]
    with_sacrum[places] = after_disc[places] + reached[:, None]
    endings = [after_body + below[:, None], after_disc + below[:, None], with_sacrum]
    kind = int(np.argmax([ending.max() for ending in endings]))
    most = endings[kind].max()
    if not np.isfinite(most) or most <= nothing[-1]:
        return None
    place, height = np.unravel_index(int(endings[kind].argmax()), endings[kind].shape)
    return kind, int(place), int(height)
