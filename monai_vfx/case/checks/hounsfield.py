"""Whether values around the spine can be Hounsfield units: peaks of tissues, steps of slices.

A rescaling that was left out or applied twice moves or stretches the whole histogram, and no header
says so. Two tissues are around every spine: fat near -100 HU and muscle near 50 HU. Where single
slices were rescaled otherwise, those peaks stay; but what was fat or muscle in one slice is
something else in the next.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from monai_vfx.core.arrays import HUVolume
from monai_vfx.core.errors import CaseRefused

BODY_HU = (-250.0, 500.0)
"""Between these lie fat, soft tissue with contrast medium and spongy bone."""
MIN_BODY_SHARE = 0.3
"""Least share of voxels between them: the box around T12-L4 lies mostly within the body."""
MAIN_PEAK_HU = (-150.0, 150.0)
"""Where the main peak may lie: fat at 80 kV to muscle with contrast medium, and loosely so."""
PEAKS_APART_HU = (90.0, 215.0)
"""How far apart fat and soft tissue may peak; 110 to 155 HU in scans at 120 kV."""
USUAL_OFFSETS = (-1024.0, -1000.0, 1000.0, 1024.0)
"""By how much values are off where an intercept was left out or applied twice."""
MAX_STEP_HU = 50.0
"""Most that a slice's values may differ from the next slice's, as the median over the body. Real CT
has at most 6 HU at 3 mm, 14 HU at 9 mm (whole trunk, lung and liver included)."""

_MIN_STEP_SHARE = 0.05  # of a slice: fewer voxels of the body say nothing
_MAX_NAMED = 5  # slices in a message
_BIN_HU = 5.0
_RANGE_HU = (-1200.0, 1200.0)
_SMOOTHING_BINS = 2.0
_MIN_PROMINENCE = 5e-4  # of all voxels, a bin


def check_offset(hu: HUVolume) -> None:
    """Refuse values that lie beside those of a body by what an intercept usually is.

    Args:
        hu: (i, j, k) of the region around T12-L4.

    Raises:
        CaseRefused: ``hu_implausible``.
    """
    values = hu[::2, ::2].ravel()
    share = _body_share(values)
    if share >= MIN_BODY_SHARE:
        return
    for offset in USUAL_OFFSETS:
        if _body_share(values - offset) >= MIN_BODY_SHARE:
            raise CaseRefused(
                "hu_implausible",
                f"values around the spine are those of a body {offset:+.0f} HU: the rescaling was "
                "left out or applied twice",
            )


def check_peaks(hu: HUVolume) -> None:
    """Refuse values whose histogram is shifted or stretched.

    Offsets below 100 HU or so cannot be told from another tube voltage or contrast medium.

    Args:
        hu: (i, j, k) of the region around T12-L4.

    Raises:
        CaseRefused: ``hu_implausible``.
    """
    values = hu[::2, ::2].ravel()
    share = _body_share(values)
    if share < MIN_BODY_SHARE:
        raise CaseRefused(
            "hu_implausible",
            f"{share:.0%} of the values around the spine lie between {BODY_HU[0]:.0f} and "
            f"{BODY_HU[1]:.0f}, the rule is at least {MIN_BODY_SHARE:.0%}",
        )
    peaks = _peaks(values)
    within = {hu: size for hu, size in peaks.items() if -300 <= hu <= 300}
    main = max(within, key=within.__getitem__, default=None)
    if main is None or not MAIN_PEAK_HU[0] <= main <= MAIN_PEAK_HU[1]:
        found = "there is none" if main is None else f"it lies at {main:.0f}"
        raise CaseRefused(
            "hu_implausible",
            f"values around the spine must have their main peak between {MAIN_PEAK_HU[0]:.0f} and "
            f"{MAIN_PEAK_HU[1]:.0f} HU; {found}",
        )
    fat = max((hu for hu in within if hu < -30), key=within.__getitem__, default=None)
    soft = max((hu for hu in within if hu >= -30), key=within.__getitem__, default=None)
    if fat is None or soft is None:
        return
    # Where muscle is half fat, enhanced kidneys peak as high as it does.
    as_high = [hu for hu in within if hu >= -30 and within[hu] >= within[soft] / 2]
    if any(PEAKS_APART_HU[0] <= hu - fat <= PEAKS_APART_HU[1] for hu in as_high):
        return
    raise CaseRefused(
        "hu_implausible",
        f"fat peaks at {fat:.0f} and soft tissue at {soft:.0f}, {soft - fat:.0f} apart; the rule "
        f"is {PEAKS_APART_HU[0]:.0f} to {PEAKS_APART_HU[1]:.0f} HU: values seem to be scaled",
    )


def check_steps(hu: HUVolume, slice_axis: int, first_slice: int = 0) -> None:
    """Refuse slices whose values do not follow from their neighbours'.

    From each slice to the next the median difference is taken over the voxels that hold the body's
    values in one of the two. Slices on the lesser side of a step that is too large are named.

    Args:
        hu: (i, j, k) of the region around T12-L4.
        slice_axis: along which slices were reconstructed, each with a rescaling of its own.
        first_slice: index in the CT of the region's first slice.

    Raises:
        CaseRefused: ``hu_implausible``; slices are counted from 1, along the CT's own axis.
    """
    slices = np.moveaxis(hu, slice_axis, 0)[:, ::2, ::2].reshape(hu.shape[slice_axis], -1)
    steps = np.array([_step(one, other) for one, other in pairwise(slices)])
    steps[np.abs(steps) <= MAX_STEP_HU] = 0.0
    if not steps.any():
        return
    levels = np.concatenate([[0.0], np.cumsum(steps)])
    off = levels - np.quantile(levels, 0.5, method="lower")
    odd = np.flatnonzero(np.abs(off) > MAX_STEP_HU)
    found = ", ".join(f"{first_slice + 1 + n} ({off[n]:+.0f} HU)" for n in odd[:_MAX_NAMED])
    raise CaseRefused(
        "hu_implausible",
        f"{len(odd)} of {len(levels)} slices around the spine differ from the others; counted from "
        f"1: slice {found}; the rule is at most {MAX_STEP_HU:.0f} HU, as the median over the "
        "body, from a slice to the next: their slope or intercept seems to be wrong",
    )


def _step(one: Any, other: Any) -> float:
    """Return the median difference in HU between two slices (n,) within the body; 0 without one."""
    body = [(values >= BODY_HU[0]) & (values <= BODY_HU[1]) for values in (one, other)]
    either = body[0] | body[1]
    if either.mean() < _MIN_STEP_SHARE:
        return 0.0
    return float(np.median(other[either] - one[either]))


def _body_share(values: Any) -> float:
    return float(((values >= BODY_HU[0]) & (values <= BODY_HU[1])).mean())


def _peaks(values: Any) -> dict[float, float]:
    """Return the peaks of a histogram: HU → prominence as a share of all voxels."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    low, high = _RANGE_HU
    bins = np.rint((np.clip(values, low, high) - low) / _BIN_HU).astype(np.intp)
    counts = np.bincount(bins, minlength=round((high - low) / _BIN_HU) + 1).astype(float)
    counts[[0, -1]] = 0  # what lies beyond
    smooth = gaussian_filter1d(counts / values.size, _SMOOTHING_BINS)
    found, properties = find_peaks(smooth, prominence=_MIN_PROMINENCE)
    return {
        float(low + _BIN_HU * peak): float(size)
        for peak, size in zip(found, properties["prominences"], strict=True)
    }
