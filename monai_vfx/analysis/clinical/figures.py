"""What each variable adds to a model's log odds, over all patients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from monai_vfx.outputs.report.figures import COLOURS, INK, QUIET, calm

_LOW_TO_HIGH = LinearSegmentedColormap.from_list("values", [COLOURS[0], "#d9c9c4", COLOURS[1]])
_BINS = 60
_HALF_ROW = 0.36


def contribution_figure(
    values: pd.DataFrame, contributions: pd.DataFrame, labels: Mapping[str, str]
) -> Figure:
    """Draw each patient's SHAP values and their mean absolute value, the largest on top.

    Args:
        values: (n, variables) as the model takes them; NaN is drawn grey.
        contributions: (n, variables or more) in log odds under the same names; other columns
            (``base``) are left out.
        labels: variable → heading.
    """
    names = list(values.columns)
    if not names or not len(values) or len(values) != len(contributions):
        raise ValueError(
            f"values has {len(values)} rows and {len(names)} columns, contributions "
            f"{len(contributions)} rows; the same patients and at least one variable are needed"
        )
    size = contributions[names].abs().mean()
    order = [names[n] for n in np.argsort(size.to_numpy(), kind="stable")]
    figure = Figure(figsize=(7.2, 1.25 + 0.42 * len(names)), layout="constrained")
    figure.set_facecolor("white")
    swarm, bars = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    for row, name in enumerate(order):
        x = contributions[name].to_numpy(dtype=np.float64)
        colour = _ranks(values[name].to_numpy(dtype=np.float64))
        known = np.isfinite(colour)
        y = row + _spread(x)
        swarm.scatter(x[~known], y[~known], s=5, color="#aab2ba", linewidths=0, rasterized=True)
        coloured = {"c": colour[known], "cmap": _LOW_TO_HIGH, "norm": Normalize(0, 1)}
        dots = swarm.scatter(x[known], y[known], s=5, linewidths=0, rasterized=True, **coloured)
        bars.text(float(size[name]), row, f" {size[name]:.3f}", va="center", fontsize=8, color=INK)
    bars.barh(range(len(order)), size[order].to_numpy(), height=0.55, color=COLOURS[0])
    bars.set_xlim(0, max(float(size.max()) * 1.5, 1e-6))
    swarm.axvline(0, color=QUIET, linewidth=0.8)
    swarm.set_yticks(range(len(order)), [labels.get(name, name) for name in order])
    swarm.set_ylim(-0.6, len(order) - 0.4)
    swarm.set_xlabel(f"contribution to the log odds, {len(values)} patients")
    bars.set_xlabel("mean absolute")
    for axes in (swarm, bars):
        calm(axes)
        axes.grid(visible=False, axis="y")
    bars.tick_params(labelleft=False)
    bar = figure.colorbar(dots, ax=bars, ticks=[0, 1], aspect=20, shrink=0.7, pad=0.04)
    bar.ax.set_yticklabels(["low", "high"])
    bar.ax.tick_params(labelsize=8, colors=QUIET, length=0)
    bar.set_label("value (grey: missing)", fontsize=8, color=QUIET)
    bar.outline.set_visible(False)
    return figure


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return where values lie between the 2nd and 98th percentile (n,), NaN where missing."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return values
    low, high = np.quantile(known, [0.02, 0.98])
    if high <= low:  # a rare state
        low, high = known.min(), known.max()
    if high <= low:
        return np.where(np.isfinite(values), 0.5, np.nan)
    ranks: npt.NDArray[np.float64] = np.clip((values - low) / (high - low), 0, 1)
    return ranks


def _spread(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return offsets (n,) that lay points of like x beside each other, none at random."""
    span = float(np.ptp(x)) or 1.0
    bins = np.minimum(((x - x.min()) / span * _BINS).astype(int), _BINS - 1)
    fullest = int(np.bincount(bins).max())
    offsets = np.zeros(x.size)
    for number in np.unique(bins):
        rows = np.flatnonzero(bins == number)
        place = np.arange(rows.size)
        side = np.where(place % 2 == 0, 1.0, -1.0) * ((place + 1) // 2)
        offsets[rows] = side / max(fullest / 2, 8) * _HALF_ROW
    return offsets
