"""Figures of an evaluation: ROC panels, calibration, decisions, incidence.

All take what ``evaluation.json`` holds. Curves differ by colour and by dash, so that they can be
told apart in grey; every panel states patients and fractures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from monai_vfx.analysis.evaluation.discrimination import roc_curve
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import COLOURS, DASHES, INK, QUIET, calm

STYLES = tuple(
    zip(
        (*COLOURS, INK, "#d081a8"),
        (*DASHES, (0, (7, 1.5, 1, 1.5, 1, 1.5)), (0, (3, 3))),
        strict=True,
    )
)
"""Colour and dash of up to eight curves."""
SMALL, NORMAL = 8.0, 9.0
"""Points."""
PLAIN_LEGEND: Json = {"frameon": False, "labelcolor": INK, "fontsize": NORMAL, "handlelength": 2.8}


class RocData(TypedDict):
    """A ROC curve to draw, with the AUROC that belongs to it."""

    name: str
    false_positive_rate: Sequence[float] | npt.NDArray[np.float64]
    true_positive_rate: Sequence[float] | npt.NDArray[np.float64]
    auroc: float
    auroc_ci: Sequence[float]
    n: int
    events: int


class RocPanel(TypedDict):
    """ROC curves of one set of patients."""

    title: str
    curves: Sequence[RocData]


def roc_data(name: str, y: npt.ArrayLike, score: npt.ArrayLike, entry: Json) -> RocData:
    """Return the ROC curve of a score, to be drawn with its AUROC.

    Args:
        name: to be shown.
        y: (n,), 0 or 1.
        score: (n,), NaN where a patient has none.
        entry: of the score in ``evaluation.json``.
    """
    values = np.asarray(score, np.float64)
    known = np.isfinite(values)
    false_positive, true_positive, _ = roc_curve(np.asarray(y)[known], values[known])
    return {
        "name": name,
        "false_positive_rate": false_positive,
        "true_positive_rate": true_positive,
        "auroc": entry["auroc"],
        "auroc_ci": entry["auroc_ci"],
        "n": entry["n"],
        "events": entry["events"],
    }


def roc_panels(panels: Sequence[RocPanel]) -> Figure:
    """Draw ROC curves of several sets side by side, such as development and external.

    A curve keeps its colour and dash in all panels, by its name. The legend under each panel gives
    AUROC and interval.

    Args:
        panels: one to three, each with one to eight curves.
    """
    names = list(dict.fromkeys(curve["name"] for panel in panels for curve in panel["curves"]))
    if not 1 <= len(panels) <= 3 or not all(panel["curves"] for panel in panels):
        raise ValueError(f"panels has {len(panels)} entries; 1 to 3 with curves can be drawn")
    styles = _styles(names)
    lines = max(
        sum(1 + printed_name(curve["name"]).count("\n") for curve in panel["curves"])
        for panel in panels
    )
    below = 0.35 + 0.17 * lines
    figure = new_figure(4.4 * len(panels) + 0.2, 4.8 + below)
    grid = figure.subplots(2, len(panels), height_ratios=(4.8, below), squeeze=False)
    for axes, legend, panel in zip(*grid, panels, strict=True):
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
        together = len({(curve["n"], curve["events"]) for curve in panel["curves"]}) == 1
        for curve in panel["curves"]:
            colour, dash = styles[curve["name"]]
            axes.plot(
                curve["false_positive_rate"],
                curve["true_positive_rate"],
                color=colour,
                linestyle=dash,
                linewidth=1.6,
                label=f"{printed_name(curve['name'])}: "
                + interval_text(curve["auroc"], curve["auroc_ci"])
                + ("" if together else f", {curve['events']} of {curve['n']}"),
            )
        first = panel["curves"][0]
        axes.set_xlabel("1 - specificity")
        axes.set_ylabel("sensitivity")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        calm(axes)
        _title(
            axes,
            panel["title"],
            f"{first['events']} fractures of {first['n']} patients"
            if together
            else "fractures of patients: see legend",
        )
        _legend(legend, axes, "AUROC (95 % interval)")
    return figure


def calibration_figure(calibrations: Mapping[str, Json]) -> Figure:
    """Draw reliability plots, a panel a score, with the same axes for all of a kind.

    Points are groups of equal size with Wilson intervals; the straight line is perfect.

    Args:
        calibrations: name → ``calibration`` of ``evaluation.json``; one to twelve.
    """
    if not 1 <= len(calibrations) <= 12:
        raise ValueError(f"calibrations has {len(calibrations)} entries; 1 to 12 can be drawn")
    most: dict[str, float] = {}
    for found in calibrations.values():
        highest = max(max(row["predicted"], row["ci"][1]) for row in found["bins"])
        most[found["kind"]] = max(most.get(found["kind"], 0.0), highest)
    across = min(3, ceil(len(calibrations) ** 0.5))
    down = ceil(len(calibrations) / across)
    figure = new_figure(max(4.2, 3.3 * across), 4.1 * down)
    grid = np.ravel(figure.subplots(down, across))
    for axes, (name, found) in zip(grid, calibrations.items(), strict=False):
        limit = min(1.02, 1.05 * most[found["kind"]])
        axes.plot([0, limit], [0, limit], color=QUIET, linewidth=0.8, linestyle=":")
        predicted = np.array([row["predicted"] for row in found["bins"]])
        observed = np.array([row["observed"] for row in found["bins"]])
        bounds = np.array([row["ci"] for row in found["bins"]]).T
        axes.errorbar(
            predicted,
            observed,
            yerr=np.abs(bounds - observed),
            color=COLOURS[0],
            marker="o",
            markersize=4.5,
            linewidth=1.2,
            elinewidth=0.9,
            linestyle="-",
        )
        sides = (-0.02 * limit, limit)
        axes.set(xlim=sides, ylim=sides, aspect="equal")
        axes.set_xlabel("predicted risk" if found["kind"] == "risk" else "score, not a risk")
        axes.set_ylabel("observed share")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(
                PercentFormatter(1.0, decimals=0 if limit > 0.08 else 1, symbol=" %")
            )
        calm(axes)
        _title(axes, name, _calibration_facts(found))
    for axes in grid[len(calibrations) :]:
        axes.set_visible(False)
    return figure


def decision_figure(curves: Mapping[str, Sequence[Json]]) -> Figure:
    """Draw net benefit over the threshold, beside treating everybody and nobody.

    Args:
        curves: name → ``decision_curve`` of ``evaluation.json``; one to eight. Where scores rest on
            different patients, "treat all" is drawn for the first and says so.
    """
    styles = _styles(list(curves))
    figure = new_figure(7.6, 4.0)
    axes = figure.subplots()
    first, *_ = curves
    thresholds = [row["threshold"] for row in curves[first]]
    everybody = [row["treat_all"] for row in curves[first]]
    same = all(
        np.allclose([row["treat_all"] for row in rows], everybody) for rows in curves.values()
    )
    axes.axhline(0, color=QUIET, linewidth=1.0, label="treat nobody")
    label = "treat everybody" if same else f"treat everybody\n(patients of {printed_name(first)})"
    axes.plot(thresholds, everybody, color=QUIET, linewidth=1.0, dashes=(1, 1), label=label)
    for name, rows in curves.items():
        colour, dash = styles[name]
        axes.plot(
            [row["threshold"] for row in rows],
            [row["net_benefit"] for row in rows],
            color=colour,
            linestyle=dash,
            linewidth=1.6,
            label=printed_name(name),
        )
    # Below nobody's benefit there is only harm: a strip is enough to see it begin.
    top = max(1e-3, *(row["net_benefit"] for rows in curves.values() for row in rows), *everybody)
    axes.set_ylim(-0.25 * top, 1.08 * top)
    axes.set_xlim(0, 1.02 * max(thresholds))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("risk from which one treats")
    axes.set_ylabel("net benefit")
    calm(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), **PLAIN_LEGEND)
    return figure


def incidence_figure(incidence: Json) -> Figure:
    """Draw the cumulative incidence of fracture and of death, with the patients still at risk."""
    times, fracture = np.array(incidence["times"]), 100 * np.array(incidence["fracture"])
    low, high = 100 * np.array(incidence["ci"]).T
    figure = new_figure(5.4, 4.2)
    axes = figure.subplots()
    axes.fill_between(times, low, high, step="post", color=COLOURS[0], alpha=0.16, linewidth=0)
    axes.step(
        times, fracture, where="post", color=COLOURS[0], linewidth=1.8, label="fracture (95 % band)"
    )
    axes.step(
        times,
        100 * np.array(incidence["death"]),
        where="post",
        color=COLOURS[1],
        linestyle=DASHES[1],
        linewidth=1.6,
        label="death before fracture",
    )
    end = float(times[-1]) or 1.0
    axes.set_xlim(-0.01 * end, 1.01 * end)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_ylabel("cumulative incidence, %")
    axes.set_xlabel("years after the CT\nand patients still at risk")
    calm(axes)
    left = dict(zip(incidence["times"], incidence["at_risk"], strict=True))
    years = [year for year in axes.get_xticks() if year in left]
    axes.set_xticks(years, [f"{year:.0f}\n{left[year]}" for year in years])
    axes.tick_params(axis="x", pad=7)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.3, **PLAIN_LEGEND
    )
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return a white figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _styles(names: Sequence[str]) -> dict[str, tuple[str, object]]:
    if not 1 <= len(names) <= len(STYLES):
        raise ValueError(f"{len(names)} curves; 1 to {len(STYLES)} can be told apart")
    return dict(zip(names, STYLES, strict=False))


def interval_text(value: float, bounds: Sequence[float]) -> str:
    """Return a value with its interval as figures print them."""
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def printed_name(name: str) -> str:
    """Break a long name, so that it does not push the axes aside; nothing of it is lost."""
    return fill(name, 34)


def _calibration_facts(found: Json) -> str:
    """Return slope, intercept and the rest, a line each."""
    lines = [
        f"{key} {found[key]:.2f} ({found[f'{key}_ci'][0]:.2f} to {found[f'{key}_ci'][1]:.2f})"
        if found[key] is not None
        else f"{key} not estimable"
        for key in ("slope", "intercept")
    ]
    ici = "not estimable" if found["ici"] is None else f"{found['ici']:.3f}"
    lines.append(f"ICI {ici}, Brier score {found['brier']:.3f}")
    lines.append(f"{found['events']} fractures of {found['n']} patients")
    return "\n".join(lines)


def _title(axes: Axes, title: str, facts: str) -> None:
    """Write a panel's name, and small below it what it rests on."""
    axes.set_title(facts, loc="left", fontsize=SMALL, color=QUIET, linespacing=1.25)
    axes.annotate(
        printed_name(title),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 8 + 1.25 * SMALL * (facts.count("\n") + 1)),
        textcoords="offset points",
        fontsize=NORMAL + 1,
        fontweight="bold",
        color=INK,
        va="bottom",
    )


def _legend(place: Axes, axes: Axes, title: str) -> None:
    """Give the legend of one pair of axes a place of its own."""
    place.set_axis_off()
    legend = place.legend(
        *axes.get_legend_handles_labels(),
        loc="upper left",
        title=title,
        title_fontsize=SMALL,
        alignment="left",
        borderaxespad=0,
        **PLAIN_LEGEND | {"fontsize": SMALL, "handlelength": 3.2},
    )
    legend.get_title().set_color(QUIET)
