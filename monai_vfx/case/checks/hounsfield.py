"""Check that values around the spine are Hounsfield units.

A rescaling that was left out or applied twice moves or stretches the whole histogram, and no header
tells. Two tissues surround every spine: fat near -100 HU and muscle near 50 HU. Where only some
slices were rescaled wrongly those peaks remain, but values jump from one slice to the next.
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
"""Minimum share of voxels between them: the box around T12-L4 lies mostly within the body."""
MAIN_PEAK_HU = (-150.0, 150.0)
"""Where the main peak may lie: fat at 80 kV to muscle with contrast medium, and loosely so."""
PEAKS_APART_HU = (90.0, 215.0)
"""How far apart fat and soft tissue may peak; 110 to 155 HU in scans at 120 kV."""
USUAL_OFFSETS = (-1024.0, -1000.0, 1000.0, 1024.0)
"""By how much values are off where an intercept was left out or applied twice."""
MAX_STEP_HU = 50.0
"""Maximum median difference between a slice and the next within the body. Real CT has at most 6 HU
at 3 mm, 14 HU at 9 mm (whole trunk, lung and liver included)."""

_MIN_STEP_SHARE = 0.05  # of a slice: fewer voxels of the body are not compared
_MAX_NAMED = 5  # slices in a message
_BIN_HU = 5.0
_RANGE_HU = (-1200.0, 1200.0)
_SMOOTHING_BINS = 2.0
_MIN_PROMINENCE = 5e-4  # of all voxels, a bin


def check_offset(hu: HUVolume) -> None:
    """Refuse values that are off by the amount of a usual intercept.

    Args:
        hu: (i, j, k) of the region around T12-L4.

    Raises:
        CaseRefused: ``hu_implausible``.
    """
    values = hu[::2, ::2].ravel()
    if _is_body(values).mean() >= MIN_BODY_SHARE:
        return
    for offset in USUAL_OFFSETS:
        if _is_body(values - offset).mean() >= MIN_BODY_SHARE:
            raise CaseRefused(
                "hu_implausible",
                f"values around the spine are off by {offset:+.0f} HU: the rescaling was left out "
                "or applied twice",
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
    share = float(_is_body(values).mean())
    if share < MIN_BODY_SHARE:
        raise CaseRefused(
            "hu_implausible",
            f"at least {MIN_BODY_SHARE:.0%} of the values around the spine must lie between "
            f"{BODY_HU[0]:.0f} and {BODY_HU[1]:.0f} HU, got {share:.0%}",
        )
    within = {hu: size for hu, size in _peaks(values).items() if -300 <= hu <= 300}
    main = max(within, key=within.__getitem__, default=None)
    if main is None or not MAIN_PEAK_HU[0] <= main <= MAIN_PEAK_HU[1]:
        found = "none" if main is None else f"{main:.0f} HU"
        raise CaseRefused(
            "hu_implausible",
            f"values around the spine must have their main peak between {MAIN_PEAK_HU[0]:.0f} and "
            f"{MAIN_PEAK_HU[1]:.0f} HU, got {found}",
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
        f"the peaks of fat ({fat:.0f} HU) and soft tissue ({soft:.0f} HU) must be "
        f"{PEAKS_APART_HU[0]:.0f} to {PEAKS_APART_HU[1]:.0f} HU apart, got {soft - fat:.0f} HU: "
        "the values seem to be scaled",
    )


def check_steps(hu: HUVolume, slice_axis: int, first_slice: int = 0) -> None:
    """Refuse slices whose values jump against their neighbours'.

    From each slice to the next the median difference is taken over the voxels that hold a body's
    values in one of the two. Of the slices on both sides of too large a step the fewer are named.

    Args:
        hu: (i, j, k) of the region around T12-L4.
        slice_axis: axis along which slices were reconstructed, each with its own rescaling.
        first_slice: index in the CT of the region's first slice.

    Raises:
        CaseRefused: ``hu_implausible``; slices are counted from 1 along the CT's own axis.
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
        f"{len(odd)} of {len(levels)} slices around the spine differ from the others: slice "
        f"{found}, counted from 1; neighbouring slices must differ by at most {MAX_STEP_HU:.0f} HU "
        "(median over the body): slope or intercept seems to be wrong",
    )


def _step(one: Any, other: Any) -> float:
    """Return the median difference in HU between two slices (n,) within the body; 0 without one."""
    either = _is_body(one) | _is_body(other)
    if either.mean() < _MIN_STEP_SHARE:
        return 0.0
    return float(np.median(other[either] - one[either]))


def _is_body(values: Any) -> Any:
    return (values >= BODY_HU[0]) & (values <= BODY_HU[1])


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
