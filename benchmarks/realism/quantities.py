"""What a CT of the lumbar spine looks like in numbers, from image and label map alone.

Every number is taken in world millimetres and in the same way from a phantom and from a real CT,
so that grids of other voxel sizes and orientations can be compared:

* *Aorta.* Relative to the bodies' centre line a disc of 7 mm radius is sought in front of the
  spine, from 6 mm right to 30 mm left of it, that is even and brighter than the ring around it
  (12-16 mm). The place that is best on the mean of the slices from T12 to L3 is refined by up to
  4 mm on each slice.
* *Noise.* SD in a circle of 6.5 mm radius in the aorta after a plane is taken away, so neither
  enhancement nor a gradient counts; median of the slices. It takes a part of slow
  noise with it, 13 % of the SD for a kernel of 1 mm. ``noise_2mm`` is the same after the pixels
  are averaged to about 2 mm. The SD s of a Gaussian kernel, on pixels below 1.5 mm, follows
  from the mean squared difference of pixels one and two apart, whose ratio is (1 - q) / (1 - q⁴)
  with q = exp(-d² / 4 s²) for pixels of d mm; a plane changes neither difference much.
* *Trabecular bone.* Voxels of a body more than 4 mm below its surface in the middle half of its
  height, so that no endplate shows through in slices of 5 mm: median, SD, and texture, which is the
  SD less the noise's share.
* *Body.* Lengths of lines through the label along the body's own axes, interpolated linearly.
  Height: mean over a disc of 6 mm radius in the middle. Width and depth: the greatest over the
  height but for the outermost millimetre, near the endplates; waist: the least width within 4 mm
  of the middle; flare: width over waist.
* *Muscle.* Between the middles of T12 and L4 the label closed by 4 mm in the plane, because some
  annotations leave fat out. Lean: the most frequent value more than 3 mm below the surface, of
  those from -29 to 150 HU; mean and SD of the same voxels. Fat: share below -30 HU of the
  compartment.
* *Subcutaneous fat.* The most frequent value from -160 to -40 HU between 4 and 15 mm below the
  skin of the back, on the slices through L1-L4.
* *Trunk.* Width and depth of the largest piece that is not air in the slice through L3, unless
  the field of view cuts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from benchmarks.realism.cases import Seen
from monai_vfx.core.anatomy import LEVELS, MUSCLES, VERTEBRAE
from monai_vfx.core.arrays import Points
from monai_vfx.core.geometry import box_affine, nonzero_box, voxel_spacing, world_positions

DEPTH_MM, MUSCLE_DEPTH_MM, CLOSING_MM = 4.0, 3.0, 4.0
NOISE_RADIUS_MM, COARSE_MM, FINE_MM = 6.5, 2.0, 1.5
FAT_HU, LEAN_HU = -30.0, (-29.0, 150.0)
BELOW_SKIN_MM, AIR_HU = (4.0, 15.0), -300.0

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """A body's own axes: ``centre`` in world mm; unit vectors to the right, front and head."""

    centre: Points
    right: Points
    front: Points
    up: Points


def measure(case: Seen) -> tuple[dict[str, float], dict[str, Values]]:
    """Measure a CT.

    Returns:
        The quantities by name (HU, mm, cm², shares), NaN where one cannot be measured; and the HU
        behind them by tissue (``trabecular``, ``erector``, ``psoas``, ``fat``).
    """
    frames = body_frames(case)
    aorta = find_aorta(case, frames)
    found = noise(case, aorta)
    inner = [case.hu[box][inside] for box, inside in _circles(case, aorta)]
    found["aorta"] = float(np.median(np.concatenate(inner))) if case.enhanced else np.nan
    bone = {level: trabecular(case, level, frame) for level, frame in frames.items()}
    for level, frame in frames.items():
        short, values = level.lower(), bone[level]
        found[f"trabecular_{short}"] = float(np.median(values))
        found[f"trabecular_sd_{short}"] = float(values.std(ddof=1))
        rest = values.var(ddof=1) - found["noise_sd"] ** 2
        found[f"texture_{short}"] = float(np.sqrt(max(rest, 0.0)))
        sizes = body_size(case, level, frame)
        found |= {f"{name}_{short}": value for name, value in sizes.items()}
        found[f"flare_{short}"] = sizes["width"] / sizes["waist"]
    of_muscle, tissues = muscles(case, frames)
    found |= of_muscle
    fat = skin_fat(case, frames)
    found["fat"] = mode(fat)
    found |= trunk_size(case, frames)
    return found, tissues | {"trabecular": np.concatenate([*bone.values()]), "fat": fat}


def body_frames(case: Seen) -> dict[str, Frame]:
    """Return the frames of the bodies T12-L4, but of those that the first or last slice cuts.

    The cranial axis follows the line through the neighbouring bodies' centres; front is the
    patient's, square to that.
    """
    centres: dict[int, Points] = {}
    cut = set()
    last = case.labels.shape[2]
    for value in (VERTEBRAE[name] for name in ("T11", *LEVELS, "L5")):
        box = nonzero_box(case.labels == value)
        if box is None:
            continue
        inside = np.argwhere(case.labels[box] == value)
        centres[value] = world_positions(box_affine(case.affine, box), inside).mean(axis=0)
        if box[2].start == 0 or box[2].stop == last:
            cut.add(value)
    frames: dict[str, Frame] = {}
    for level in LEVELS:
        value = VERTEBRAE[level]
        near = [v for v in (value - 1, value, value + 1) if v in centres]
        if value not in centres or value in cut or len(near) < 2:
            continue
        up = centres[near[0]] - centres[near[-1]]
        up /= np.linalg.norm(up)
        front = np.array([0.0, 1.0, 0.0]) - up * up[1]
        front /= np.linalg.norm(front)
        frames[level] = Frame(centres[value], np.cross(front, up), front, up)
    return frames


def body_size(case: Seen, level: str, frame: Frame) -> dict[str, float]:
    """Return ``height``, ``width``, ``depth`` and ``waist`` of a body in mm, as said above."""
    box = nonzero_box(case.labels == VERTEBRAE[level], margin=2)
    if box is None:
        raise ValueError(f"level {level}: no voxel of the label map has it")
    label = (case.labels[box] == VERTEBRAE[level]).astype(np.float32)
    axes = np.stack([frame.right, frame.front, frame.up])
    inverse = np.linalg.inv(box_affine(case.affine, box))
    fine, across, up = np.arange(-36, 36.1, 0.25), np.arange(-6, 6.1, 2), np.arange(-24, 24.1, 1)

    def lengths(*ranges: Values, along: int) -> Values:
        local = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)
        at = (frame.centre + local @ axes) @ inverse[:3, :3].T + inverse[:3, 3]
        inside = ndimage.map_coordinates(label, at.reshape(-1, 3).T, order=1) >= 0.5
        length: Values = inside.reshape(local.shape[:3]).sum(axis=along) * 0.25
        return length

    disc = np.hypot(across[:, None], across[None, :]) <= 6.0
    widths = lengths(fine, across, up, along=0).mean(axis=0)
    depths = lengths(across, fine, up, along=1).mean(axis=0)
    rows = np.flatnonzero(widths > 0)[1:-1]
    return {
        "height": float(lengths(across, across, fine, along=2)[disc].mean()),
        "width": float(widths[rows].max()),
        "depth": float(depths[rows].max()),
        "waist": float(widths[np.abs(up) <= 4.0].min()),
    }


def trabecular(case: Seen, level: str, frame: Frame) -> Values:
    """Return the HU of a body's voxels ``DEPTH_MM`` below its surface, half of its height."""
    box = nonzero_box(case.labels == VERTEBRAE[level], margin=1)
    if box is None:
        raise ValueError(f"level {level}: no voxel of the label map has it")
    inside = case.labels[box] == VERTEBRAE[level]
    places = world_positions(box_affine(case.affine, box), np.argwhere(inside)) - frame.centre
    height = places @ frame.up
    low, high = np.quantile(height, [0.02, 0.98])
    deep = _depth(case, inside)[inside] > DEPTH_MM
    middle = np.abs(height - (low + high) / 2) <= (high - low) / 4
    values: Values = case.hu[box][inside][deep & middle].astype(float)
    return values


def find_aorta(case: Seen, frames: dict[str, Frame]) -> dict[int, Points]:
    """Return the aorta's centre in world mm, by slice from T12 to L3; rule: see above."""
    inverse, spacing = np.linalg.inv(case.affine), voxel_spacing(case.affine)
    line = np.array([inverse @ [*frame.centre, 1.0] for frame in frames.values()])
    line = line[np.argsort(line[:, 2])]
    low = _slice(case, frames["L3"].centre) if "L3" in frames else round(line[0, 2])
    to_right, to_front = np.arange(-48.0, 25.0, 2.0), np.arange(0.0, 79.0, 2.0)
    grid = np.stack(np.meshgrid(to_right, to_front, indexing="ij"), axis=-1)
    pixels: dict[int, Values] = {}
    scores: dict[int, Values] = {}
    for k in range(low, round(line[-1, 2]) + 1):
        middle = [np.interp(k, line[:, 2], line[:, axis]) for axis in (0, 1)]
        pixels[k] = middle + grid / spacing[:2]
        at = pixels[k].reshape(-1, 2).T
        patch = ndimage.map_coordinates(case.hu[:, :, k], at, order=1, mode="nearest")
        scores[k] = _roundness(patch.reshape(grid.shape[:2]), 2.0)
    x, y = grid[..., 0], grid[..., 1]
    allowed = (x >= -30) & (x <= 6) & (y >= 16) & (y <= 62)
    best = _best(np.mean([*scores.values()], axis=0), allowed)
    near = np.hypot(*(grid - grid[best]).transpose(2, 0, 1)) <= 4.0
    found = {}
    for k, score in scores.items():
        index = [*pixels[k][_best(score, near)], k, 1.0]
        found[k] = (case.affine @ index)[:3]
    return found


def noise(case: Seen, centres: dict[int, Points]) -> dict[str, float]:
    """Return ``noise_sd`` and ``noise_2mm`` in HU, ``noise_kernel`` in mm around given points."""
    spacing = np.array(voxel_spacing(case.affine))[:2]
    factors = np.maximum(np.rint(COARSE_MM / spacing), 1).astype(int)
    fine, coarse = [], []
    steps = np.zeros((2, 2))
    for box, inside in _circles(case, centres):
        residual = _less_plane(case.hu[box].astype(float), inside)
        fine.append(residual[inside] @ residual[inside] / (inside.sum() - 3))
        steps += [_squared_steps(residual, inside, apart) for apart in (1, 2)]
        i, j = (n // f * f for n, f in zip(inside.shape, factors, strict=True))
        shape = (i // factors[0], factors[0], j // factors[1], factors[1])
        whole = inside[:i, :j].reshape(shape).all(axis=(1, 3))
        if whole.sum() > 6:
            blocks = case.hu[box][:i, :j].reshape(shape).mean(axis=(1, 3), dtype=float)
            rest = _less_plane(blocks, whole)[whole]
            coarse.append(rest @ rest / (whole.sum() - 3))
    nothing = {"noise_sd": np.nan, "noise_2mm": np.nan, "noise_kernel": np.nan}
    if not fine:
        return nothing
    found = nothing | {"noise_sd": float(np.sqrt(np.median(fine)))}
    if coarse:
        found["noise_2mm"] = float(np.sqrt(np.median(coarse)))
    if spacing.max() < FINE_MM:
        (near, near_count), (far, far_count) = steps
        found["noise_kernel"] = _kernel(near / near_count, far / far_count, float(spacing.mean()))
    return found


def muscles(case: Seen, frames: dict[str, Frame]) -> tuple[dict[str, float], dict[str, Values]]:
    """Return the muscles' quantities, and the HU of each compartment."""
    heights = [_slice(case, frame.centre) for frame in frames.values()]
    low, high = min(heights), max(heights)
    spacing = voxel_spacing(case.affine)
    found: dict[str, float] = {}
    tissues: dict[str, Values] = {}
    for short, name in (("erector", "erector_spinae"), ("psoas", "psoas")):
        box = nonzero_box(case.labels[:, :, low : high + 1] == MUSCLES[name], margin=6)
        if box is None:
            continue
        box = box[0], box[1], slice(low, high + 1)
        hu, inside = case.hu[box].astype(float), compartment(case, name, box)
        deep = hu[_depth(case, inside) > MUSCLE_DEPTH_MM]
        lean = deep[(deep >= LEAN_HU[0]) & (deep <= LEAN_HU[1])]
        found[f"{short}_lean"] = mode(lean)
        found[f"{short}_mean"] = float(lean.mean()) if lean.size else np.nan
        found[f"{short}_sd"] = float(lean.std(ddof=1)) if lean.size > 1 else np.nan
        found[f"{short}_fat"] = float((hu[inside] < FAT_HU).mean())
        tissues[short] = hu[inside]
        if "L3" in frames:
            middle, reach = _slice(case, frames["L3"].centre) - low, round(5.0 / spacing[2])
            part = inside[:, :, max(middle - reach, 0) : middle + reach + 1]
            area = part.sum(axis=(0, 1)).mean() * spacing[0] * spacing[1]
            found[f"{short}_area"] = float(area / 100)
    if {"erector_lean", "psoas_lean"} <= set(found):
        found["psoas_over_erector"] = found["psoas_lean"] - found["erector_lean"]
    return found, tissues


def compartment(case: Seen, muscle: str, box: tuple[slice, slice, slice]) -> Mask:
    """Return a muscle's voxels in a box, gaps up to 8 mm closed in the plane; other labels stay."""
    labels = case.labels[box]
    inside = labels == MUSCLES[muscle]
    i, j = (max(round(CLOSING_MM / s), 1) for s in voxel_spacing(case.affine)[:2])
    x, y = np.ogrid[-i : i + 1, -j : j + 1]
    disc = ((x / i) ** 2 + (y / j) ** 2 <= 1)[:, :, None]
    closed = ndimage.binary_closing(np.pad(inside, ((i, i), (j, j), (0, 0))), disc)[i:-i, j:-j]
    result: Mask = inside | (closed & (labels == 0) & (case.hu[box] <= LEAN_HU[1]))
    return result


def mode(values: Values, smooth: float = 5.0) -> float:
    """Return the most frequent HU after Gaussian smoothing with that SD; NaN of fewer than 50."""
    if len(values) < 50:
        return float("nan")
    edges = np.arange(np.floor(values.min()) - 30.5, values.max() + 31.5)
    counts = ndimage.gaussian_filter1d(np.histogram(values, edges)[0].astype(float), smooth)
    return float((edges[:-1] + 0.5)[np.argmax(counts)])


def skin_fat(case: Seen, frames: dict[str, Frame]) -> Values:
    """Return the HU of the subcutaneous fat behind the spine, as said above."""
    found = [np.empty(0)]
    for level in set(frames) - {"T12"}:
        k = _slice(case, frames[level].centre)
        spine = int((np.linalg.inv(case.affine) @ [*frames[level].centre, 1.0])[1])
        here = case.hu[:, : max(spine, 1), k].astype(float)
        trunk = trunk_of(case.hu[:, :, k])
        depth = ndimage.distance_transform_edt(trunk, sampling=voxel_spacing(case.affine)[:2])
        below = depth[:, : here.shape[1]]
        ring = (below >= BELOW_SKIN_MM[0]) & (below <= BELOW_SKIN_MM[1])
        found.append(here[ring & (here >= -160) & (here <= -40)])
    return np.concatenate(found)


def trunk_of(hu: npt.NDArray[np.generic]) -> Mask:
    """Return the largest piece of a slice that is not air, freed from the couch, holes filled."""
    body: Mask = ndimage.binary_opening(hu > AIR_HU, iterations=2)
    pieces, count = ndimage.label(body)
    if count:
        body = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    filled: Mask = ndimage.binary_fill_holes(body)
    return filled


def trunk_size(case: Seen, frames: dict[str, Frame]) -> dict[str, float]:
    """Return ``trunk_width`` and ``trunk_depth`` in mm at L3; NaN where the CT cuts it."""
    found = {"trunk_width": np.nan, "trunk_depth": np.nan}
    if "L3" not in frames:
        return found
    trunk = trunk_of(case.hu[:, :, _slice(case, frames["L3"].centre)])
    spacing = voxel_spacing(case.affine)
    for name, axis in (("trunk_width", 0), ("trunk_depth", 1)):
        span = np.flatnonzero(trunk.any(axis=1 - axis))
        if len(span) and span[0] > 0 and span[-1] < trunk.shape[axis] - 1:
            found[name] = float((span[-1] - span[0] + 1) * spacing[axis])
    # One of the two cut means that the other may be measured beside the widest place.
    return found if np.isfinite([*found.values()]).all() else dict.fromkeys(found, np.nan)


def _slice(case: Seen, point: Points) -> int:
    k = float((np.linalg.inv(case.affine) @ [*point, 1.0])[2])
    return int(np.clip(round(k), 0, case.hu.shape[2] - 1))


def _depth(case: Seen, inside: Mask) -> Values:
    """Return how far each voxel of a box lies below the surface, mm; outside the box is nothing."""
    padded = np.pad(inside, 1)
    found: Values = ndimage.distance_transform_edt(padded, sampling=voxel_spacing(case.affine))
    return found[1:-1, 1:-1, 1:-1]


def _circles(case: Seen, centres: dict[int, Points]) -> list[tuple[tuple[slice, slice, int], Mask]]:
    """Return, a slice, the box around a circle of ``NOISE_RADIUS_MM`` and its pixels in the box."""
    spacing = voxel_spacing(case.affine)
    inverse = np.linalg.inv(case.affine)
    found = []
    for k, centre in centres.items():
        at = (inverse @ [*centre, 1.0])[:2]
        reach = NOISE_RADIUS_MM / spacing[:2]
        low = np.maximum(np.floor(at - reach), 0).astype(int)
        high = np.minimum(np.ceil(at + reach) + 1, case.hu.shape[:2]).astype(int)
        i, j = np.ogrid[low[0] : high[0], low[1] : high[1]]
        inside = ((i - at[0]) / reach[0]) ** 2 + ((j - at[1]) / reach[1]) ** 2 <= 1
        if inside.sum() >= 9:
            found.append(((slice(low[0], high[0]), slice(low[1], high[1]), k), inside))
    return found


def _squared_steps(values: Values, inside: Mask, apart: int) -> tuple[float, int]:
    """Return the sum of squared differences along both axes, and how many there are."""
    total, count = 0.0, 0
    for now, kept in ((values, inside), (values.T, inside.T)):
        steps = (now[apart:] - now[:-apart])[kept[apart:] & kept[:-apart]]
        total, count = total + float(steps @ steps), count + steps.size
    return total, count


def _kernel(near: float, far: float, pixel: float) -> float:
    """Return a kernel's SD from the mean squared differences of pixels one and two apart."""
    if far <= near * 1.01:  # white as far as one can see
        return float("nan")
    # (1 - q) / (1 - q^4) is 1 over this sum.
    q = optimize.brentq(lambda q: 1 + q + q**2 + q**3 - min(far / near, 3.99), 0.0, 1.0)
    return float(pixel / (2 * np.sqrt(-np.log(q))))


def _less_plane(values: Values, inside: Mask) -> Values:
    i, j = np.indices(values.shape)
    design = np.stack([np.ones(values.shape), i, j], axis=-1)
    plane = np.linalg.lstsq(design[inside], values[inside], rcond=None)[0]
    rest: Values = values - design @ plane
    return rest


def _best(score: Values, allowed: Mask) -> tuple[int, int]:
    i, j = np.unravel_index(int(np.argmax(np.where(allowed, score, -np.inf))), score.shape)
    return int(i), int(j)


def _roundness(patch: Values, step: float) -> Values:
    """Return how much a disc around each point is even and brighter than what surrounds it."""
    r = np.hypot(*np.meshgrid(*[np.arange(-8, 9) * step] * 2, indexing="ij"))
    disc, ring = (r <= 7.0).astype(float), ((r >= 12.0) & (r <= 16.0)).astype(float)
    clipped = np.clip(patch.astype(float), -200.0, 400.0)
    mean, square, around = (
        ndimage.convolve(values, kernel / kernel.sum(), mode="nearest")
        for values, kernel in ((clipped, disc), (clipped**2, disc), (clipped, ring))
    )
    score: Values = (mean - around) / (np.sqrt(np.maximum(square - mean**2, 0.0)) + 10.0)
    return np.where((mean > 15.0) & (mean < 380.0), score, score - 10.0)
