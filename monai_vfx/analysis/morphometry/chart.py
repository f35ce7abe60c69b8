"""The ratios of a patient's vertebrae as a chart, for readings without a CT at hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_vfx.analysis.morphometry.figures import CHART_COLOURS, STATUS_WORDS, by_level
from monai_vfx.analysis.morphometry.normals import Normal, NormalValues
from monai_vfx.analysis.morphometry.ratios import RATIOS, ratios_of
from monai_vfx.analysis.morphometry.rules import FRACTURED, GRADE_LOSS
from monai_vfx.core.anatomy import LEVELS
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import INK, QUIET, calm

TITLES = {
    "wedge": "anterior / posterior (wedge)",
    "biconcavity": "middle / posterior (biconcavity)",
    "crush_below": "posterior / lower neighbour's (crush)",
    "crush_above": "posterior / upper neighbour's (crush)",
}


def ratio_figure(vertebrae: pd.DataFrame, normal: NormalValues) -> Figure:
    """Draw the ratios of one patient, level by level, against their cuts."""
    figure = Figure(figsize=(7.4, 6.6), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, sharex=True)
    for axes, name in zip(panels.flat, RATIOS, strict=True):
        _ratio_panel(axes, vertebrae, normal, name)
    for axes in panels[:, 0]:
        axes.set_ylabel("ratio")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    status = ", ".join(
        f"{row['level']} {STATUS_WORDS[row['status']]}" for row in vertebrae.to_dict("records")
    )
    figure.suptitle(status, fontsize=10, color=INK)
    return figure


def _ratio_panel(axes: Axes, vertebrae: pd.DataFrame, normal: NormalValues, name: str) -> None:
    rows = by_level(vertebrae)
    for place, level in enumerate(LEVELS):
        value = normal.values.get((rows[level]["normal_group"], level, name))
        if value is not None:
            _normal_band(axes, place, value)
        elif not normal.values and name in ratios_of(level):
            _cut(axes, place, 1 - GRADE_LOSS[0], "cut: 20 % loss")
        ratio = rows[level][name]
        if name not in ratios_of(level):
            _word(axes, place, "not in\nthe rule")
        elif np.isnan(ratio):
            _word(axes, place, "not\nassessable")
        else:
            _point(axes, place, ratio, low=name in str(rows[level]["below"]).split(";"))
    axes.set_title(TITLES[name], fontsize=10, color=INK)
    known = vertebrae[name].dropna()
    axes.set_ylim(min(0.55, *(known - 0.06), 0.55), max(1.25, *(known + 0.08), 1.25))
    axes.set_xlim(-0.6, len(LEVELS) - 0.2)
    axes.set_xticks(list(range(len(LEVELS))), LEVELS)
    calm(axes)


def _point(axes: Axes, place: int, ratio: float, *, low: bool) -> None:
    colour = CHART_COLOURS[FRACTURED if low else "normal"]
    axes.plot(place, ratio, "X" if low else "o", color=colour, markersize=8 if low else 6)
    axes.annotate(
        f"{ratio:.2f}" + (" below" if low else ""),
        (place, ratio),
        (7, 4),
        textcoords="offset points",
        fontsize=8,
        color=colour,
        fontweight="bold" if low else "normal",
    )


def _word(axes: Axes, place: int, words: str) -> None:
    style: Json = {"fontsize": 7.5, "color": QUIET, "ha": "center", "va": "bottom"}
    axes.text(place, 0.03, words, transform=axes.get_xaxis_transform(), **style)


def _cut(axes: Axes, place: int, cut: float, label: str) -> None:
    """Draw the cut of a level; the legend takes the first level's."""
    ends = [place - 0.3, place + 0.3]
    axes.plot(ends, [cut, cut], color=INK, linewidth=1.6, label=None if place else label)


def _normal_band(axes: Axes, place: int, value: Normal) -> None:
    low, label = value.mean - 3 * value.sd, None if place else "normal mean ± 3 SD"
    axes.bar(place, 6 * value.sd, bottom=low, width=0.6, color="#dfe9f0", label=label)
    _cut(axes, place, value.cut, "cut: mean - 3 SD")
