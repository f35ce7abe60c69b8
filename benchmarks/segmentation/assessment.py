"""Judge a segmentation against a known truth: bodies, names and the stated confidence.

Label maps are (i, j, k) uint8 on one grid and hold VerSe numbers (:mod:`monai_vfx.core.anatomy`);
values that are no vertebra (muscles) take no part. Affines map an index to world mm, RAS+.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.stats import binomtest

from monai_vfx.analysis.evaluation.estimates import Estimate, wilson_interval
from monai_vfx.core.anatomy import LEVEL_NAMES, MUSCLES, VERTEBRAE
from monai_vfx.core.arrays import Affine, LabelVolume

MIN_OVERLAP = 0.25
"""A true body counts as found where one found body covers at least this share of it."""

CONFIDENCE_EDGES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
"""Groups of the reliability table; most of them lie where a threshold is set."""

_LABELS = 256
_FIRST_MUSCLE = min(MUSCLES.values())


@dataclass(frozen=True)
class BodyAgreement:
    """One body in both label maps.

    Attributes:
        dice: Dice coefficient, 0 to 1; 0 where one of the maps lacks the body.
        centre_error_mm: distance of the centroids; NaN where one of the maps lacks the body.
        volume_ratio: found volume / true volume; 0 where it was not found, inf where it is not
            there.
    """

    dice: float
    centre_error_mm: float
    volume_ratio: float


@dataclass(frozen=True)
class Acceptance:
    """What becomes of a set of cases.

    Attributes:
        n: cases.
        accepted: those that were not refused.
        right: accepted ones with all names right.
        share_accepted: with its Wilson interval (95 %).
        share_right: of the accepted ones, with its Clopper-Pearson interval (95 %); None where
            none was accepted.
        right_lower_bound: one-sided 95 % lower bound of ``share_right`` (Clopper-Pearson).
    """

    n: int
    accepted: int
    right: int
    share_accepted: Estimate
    share_right: Estimate | None
    right_lower_bound: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Cases of similar confidence.

    Attributes:
        low, high: the group's bounds; ``low`` <= confidence < ``high``, the last group takes 1 too.
        confidence: mean.
        right: share with all names right, with its Clopper-Pearson interval (95 %).
    """

    low: float
    high: float
    confidence: float
    right: Estimate


@dataclass(frozen=True)
class Threshold:
    """A least confidence for acceptance, and what it gives on the cases that it was chosen on.

    Attributes:
        value: cases with at least this confidence are accepted.
        acceptance: of the cases at this threshold.
        met: whether the wanted share of right names is reached (by the lower bound where that was
            asked for); where it is not, the threshold is the one that comes nearest to it.
    """

    value: float
    acceptance: Acceptance
    met: bool


def overlap_table(truth: LabelVolume, found: LabelVolume) -> npt.NDArray[np.int64]:
    """Count voxels by true and found label.

    Returns:
        (256, 256): row the true label, column the found one. Values from 101 on (muscles) count
        as background; background in both maps is not counted.

    Raises:
        ValueError: shapes that differ.
    """
    if truth.shape != found.shape:
        raise ValueError(f"truth {truth.shape} and found {found.shape} must have one shape")
    some = (truth != 0) | (found != 0)
    pairs = truth[some].astype(np.int64) * _LABELS + found[some]
    table = np.bincount(pairs, minlength=_LABELS**2).reshape(_LABELS, _LABELS)
    table[0] += table[_FIRST_MUSCLE:].sum(axis=0)
    table[:, 0] += table[:, _FIRST_MUSCLE:].sum(axis=1)
    table[_FIRST_MUSCLE:], table[:, _FIRST_MUSCLE:], table[0, 0] = 0, 0, 0
    return table


def body_agreement(
    truth: LabelVolume, found: LabelVolume, affine: Affine, levels: Mapping[str, int]
) -> dict[str, BodyAgreement]:
    """Compare bodies at the resolution of the grid, each with the body of the same name.

    Returns:
        By name, for the levels that at least one of the maps holds.
    """
    table = overlap_table(truth, found)
    true_count, found_count = table.sum(axis=1), table.sum(axis=0)
    true_centres, found_centres = label_centres(truth, affine), label_centres(found, affine)
    compared = {}
    for name, value in levels.items():
        volumes = int(true_count[value]), int(found_count[value])
        if max(volumes) == 0:
            continue
        error = np.nan
        if min(volumes):
            error = float(np.linalg.norm(true_centres[value] - found_centres[value]))
        compared[name] = BodyAgreement(
            dice=2 * int(table[value, value]) / sum(volumes),
            centre_error_mm=error,
            volume_ratio=volumes[1] / volumes[0] if volumes[0] else np.inf,
        )
    return compared


def label_centres(labels: LabelVolume, affine: Affine) -> dict[int, npt.NDArray[np.float64]]:
    """Return the centroid (3,) in mm of every label, by its value."""
    centres = {}
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            index = np.argwhere(labels[box] == value).mean(axis=0)
            index += [side.start for side in box]
            centres[value] = affine[:3, :3] @ index + affine[:3, 3]
    return centres


def named_as(truth: LabelVolume, found: LabelVolume) -> dict[int, int | None]:
    """Return which found body lies on each true one.

    Returns:
        True label → the found label that covers most of it; None where that is less than
        ``MIN_OVERLAP``.
    """
    table = overlap_table(truth, found)
    named: dict[int, int | None] = {}
    for value in (int(v) for v in np.flatnonzero(table.sum(axis=1)) if v):
        best = 1 + int(np.argmax(table[value, 1:]))
        enough = table[value, best] >= MIN_OVERLAP * table[value].sum()
        named[value] = best if enough else None
    return named


def names_right(
    truth: LabelVolume, found: LabelVolume, values: Sequence[int], *, sides: bool = True
) -> bool:
    """Return whether all these levels (label values) are named right.

    Each true body must lie under the found body of its own name, and each found body of these
    names must lie mostly on that true body: a level that is not in the image must not be found.
    Without ``sides`` found bodies beyond the truth do not count (it may hold some levels only).
    """
    there = named_as(truth, found)
    if any(there[value] != value for value in values if value in there):
        return False
    if not sides:
        return True
    back = named_as(found, truth)
    return all(back[value] == value for value in values if value in back)


def by_convention(truth: LabelVolume) -> LabelVolume:
    """Return a true map renamed as a reader does who sees no neck: the body above L1 is T12.

    Whether thirteen or eleven thoracic vertebrae lie above cannot be told from an abdominal CT, so
    names are judged both ways. Where L1 or the bodies above it are not in the map, nothing changes.
    """
    present = {LEVEL_NAMES[int(v)] for v in np.unique(truth) if int(v) in LEVEL_NAMES}
    thoracic = sorted(int(name[1:]) for name in present if name.startswith("T"))
    if "L1" not in present or not thoracic or thoracic[-1] == 12:
        return truth
    moved = np.arange(_LABELS, dtype=np.uint8)
    for number in thoracic:
        conventional = number + 12 - thoracic[-1]
        moved[VERTEBRAE[f"T{number}"]] = VERTEBRAE[f"T{conventional}"] if conventional > 0 else 0
    renamed: LabelVolume = moved[truth]
    return renamed


def levels_at_edge(labels: LabelVolume) -> set[int]:
    """Return the label values that reach a face of the grid, and so may be cut by it."""
    faces = [labels.take(end, axis=axis) for axis in range(3) for end in (0, -1)]
    return {int(value) for face in faces for value in np.unique(face) if value}


def clopper_pearson(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """Return a share with its exact interval (Clopper and Pearson 1934).

    Args:
        successes: 0 to ``n``.
        n: at least 1.
        confidence: two-sided level, in (0, 1).

    >>> share = clopper_pearson(100, 100)
    >>> f"{share.value:.0f} {share.low:.4f}"
    '1 0.9638'
    """
    interval = binomtest(successes, n).proportion_ci(confidence, method="exact")
    return Estimate(successes / n, float(interval.low), float(interval.high), n, successes)


def acceptance(accepted: npt.ArrayLike, right: npt.ArrayLike) -> Acceptance:
    """Count accepted and right cases.

    Raises:
        ValueError: no case, or lengths that differ.

    >>> table = acceptance([True] * 300 + [False] * 20, [True] * 300 + [False] * 20)
    >>> table.share_accepted.value, round(table.right_lower_bound, 4)
    (0.9375, 0.9901)
    """
    taken, true = np.asarray(accepted, dtype=bool), np.asarray(right, dtype=bool)
    if taken.ndim != 1 or taken.size == 0 or taken.shape != true.shape:
        raise ValueError(f"accepted {taken.shape} and right {true.shape} must be as long, above 0")
    count, hits = int(taken.sum()), int((taken & true).sum())
    share, bound = None, None
    if count:
        share = clopper_pearson(hits, count)
        bound = clopper_pearson(hits, count, confidence=0.9).low  # 5 % on this side
    return Acceptance(taken.size, count, hits, wilson_interval(count, taken.size), share, bound)


def reliability_table(
    confidence: npt.ArrayLike, right: npt.ArrayLike, edges: Sequence[float] = CONFIDENCE_EDGES
) -> list[ReliabilityBin]:
    """Set stated confidence beside the share of cases that are right.

    Args:
        confidence: (n,) in [0, 1]; NaN where a case has none, which leaves it out.
        right: (n,) bool.
        edges: growing bounds of the groups, from 0 to 1.

    Returns:
        The groups that hold a case, by growing confidence.

    Raises:
        ValueError: a confidence outside [0, 1], or edges that do not run from 0 to 1.
    """
    stated, true = _known(confidence, right)
    if edges[0] != 0 or edges[-1] != 1 or any(b <= a for a, b in pairwise(edges)):
        raise ValueError(f"edges ({list(edges)}) must grow from 0 to 1")
    group = np.minimum(np.searchsorted(edges, stated, side="right"), len(edges) - 1) - 1
    return [
        ReliabilityBin(
            low=edges[number],
            high=edges[number + 1],
            confidence=float(stated[group == number].mean()),
            right=clopper_pearson(int(true[group == number].sum()), int((group == number).sum())),
        )
        for number in np.unique(group)
    ]


def calibration_error(
    confidence: npt.ArrayLike, right: npt.ArrayLike, edges: Sequence[float] = CONFIDENCE_EDGES
) -> float:
    """Return the expected calibration error (Guo 2017): mean gap of confidence and share right.

    Returns:
        0 to 1; NaN where no case has a confidence.
    """
    rows = reliability_table(confidence, right, edges)
    if not rows:
        return float("nan")
    gaps = [abs(row.confidence - row.right.value) for row in rows]
    return float(np.average(gaps, weights=[row.right.n for row in rows]))


def choose_threshold(
    confidence: npt.ArrayLike, right: npt.ArrayLike, *, target: float = 0.99, bounded: bool = True
) -> Threshold:
    """Choose the least confidence at which enough of the accepted cases are right.

    Args:
        confidence: (n,) in [0, 1]; NaN where a case is refused without one.
        right: (n,) bool.
        target: wanted share of right cases among the accepted ones, in (0, 1).
        bounded: the one-sided 95 % lower bound of the share must reach ``target``, not the share
            alone. Of n accepted cases that are all right, 299 are needed for 99 %.

    Raises:
        ValueError: no case has a confidence, or a target outside (0, 1).
    """
    if not 0 < target < 1:
        raise ValueError(f"target ({target}) must lie in (0, 1)")
    stated, _ = _known(confidence, right)
    if stated.size == 0:
        raise ValueError("confidence: no case has one")
    every = np.nan_to_num(np.asarray(confidence, dtype=np.float64), nan=-1.0)
    options = [
        Threshold(float(value), table, _reached(table, bounded) >= target)
        for value in np.unique(stated)
        for table in [acceptance(every >= value, right)]
    ]
    met = [option for option in options if option.met]
    if met:
        return met[0]
    return max(options, key=lambda option: (_reached(option.acceptance, bounded), -option.value))


def _reached(table: Acceptance, bounded: bool) -> float:
    """Return what is compared with the target; the tables here have an accepted case."""
    if table.share_right is None or table.right_lower_bound is None:
        return 0.0
    return table.right_lower_bound if bounded else table.share_right.value


def _known(
    confidence: npt.ArrayLike, right: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the cases that have a confidence."""
    stated, true = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if stated.shape != true.shape or stated.ndim != 1:
        raise ValueError(f"confidence {stated.shape} and right {true.shape} must be as long")
    known = ~np.isnan(stated)
    if ((stated[known] < 0) | (stated[known] > 1)).any():
        raise ValueError("confidence must lie in [0, 1]")
    return stated[known], true[known]
