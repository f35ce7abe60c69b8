"""Bootstrap intervals: patients are resampled within the two outcome classes (stratified).

Patients who belong together (a matched pair, several scans of one patient) are drawn together. A
sample is stored as how often it holds each patient, so that one set of samples serves every score
of the same patients, and differences of scores come from the same samples.

Sources: Efron and Tibshirani 1993 (percentile interval); Field and Welsh 2007 (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from monai_vfx.analysis.evaluation.estimates import CONFIDENCE, Floats, check_outcome

Counts = npt.NDArray[np.int16]
"""(samples, n): how often each sample holds each patient."""
Groups = npt.NDArray[np.int64]
"""(n,): patients with the same number belong together."""

SAMPLES = 2000
MIN_SAMPLES = 100
_CELLS = 4_000_000
"""Samples × patients worked on at a time: 32 MB an array, whatever the size of the cohort."""


def draw_counts(
    y: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Counts:
    """Draw bootstrap samples of patients, each with as many of both outcomes as there are.

    Groups are drawn whole, and within strata of groups with the same number of events and of
    others, so that a matched pair is replaced by a matched pair and the class sizes hold.

    Args:
        y: (n,), 0 or 1, both present.
        groups: (n,), patients with the same entry are drawn together; None: everyone alone.
        samples: number of samples, at least 100.
        seed: not negative; the same arguments give the same samples.

    Returns:
        (samples, n): how often each sample holds each patient.

    >>> counts = draw_counts([0, 1, 1, 0, 0], samples=100)
    >>> set(counts[:, [1, 2]].sum(axis=1)), set(counts.sum(axis=1))
    ({np.int64(2)}, {np.int64(5)})
    """
    outcome, _ = check_outcome(y)
    if samples < MIN_SAMPLES:
        raise ValueError(f"samples ({samples}) must be at least {MIN_SAMPLES}")
    member = (
        np.arange(outcome.size)
        if groups is None
        else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    if member.shape != outcome.shape:
        raise ValueError(f"groups has the shape {member.shape}; one entry a patient is needed")
    events = np.bincount(member, weights=outcome).astype(np.int64)
    sizes = np.bincount(member)
    stratum = np.unique(np.stack([events, sizes]), axis=1, return_inverse=True)[1].ravel()
    rng = np.random.default_rng(seed)
    drawn = np.zeros((samples, sizes.size), np.int16)
    for number in range(int(stratum.max()) + 1):
        inside = np.flatnonzero(stratum == number)
        shares = np.full(inside.size, 1 / inside.size)
        drawn[:, inside] = rng.multinomial(inside.size, shares, size=samples)
    return drawn[:, member]


def auroc_samples(y: npt.ArrayLike, score: npt.ArrayLike, counts: Counts) -> Floats:
    """Return the AUROC of a score in each bootstrap sample, ties half."""
    outcome, scores = check_outcome(y, score=score)
    values = scores["score"]
    others = values[~outcome]
    order = np.argsort(others, kind="stable")
    left = np.searchsorted(others[order], values[outcome], side="left")
    right = np.searchsorted(others[order], values[outcome], side="right")
    found = np.empty(counts.shape[0])
    step = max(1, _CELLS // outcome.size)
    for start in range(0, found.size, step):
        part = counts[start : start + step]
        below = np.zeros((part.shape[0], others.size + 1))
        np.cumsum(part[:, ~outcome][:, order], axis=1, out=below[:, 1:])
        weights = part[:, outcome].astype(np.float64)
        wins = np.einsum("bm,bm->b", weights, below[:, left] + below[:, right]) / 2
        found[start : start + step] = wins / (weights.sum(axis=1) * below[:, -1])
    return found


def sample_rows(counts: Counts) -> Iterator[npt.NDArray[np.int64]]:
    """Yield each sample as row numbers, for measures that need the patients themselves."""
    rows = np.arange(counts.shape[1])
    for count in counts:
        yield np.repeat(rows, count)


def percentile_interval(samples: Floats, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the percentile interval of a statistic's bootstrap samples.

    >>> low, high = percentile_interval(np.arange(101.0))
    >>> round(low, 6), round(high, 6)
    (2.5, 97.5)
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)
