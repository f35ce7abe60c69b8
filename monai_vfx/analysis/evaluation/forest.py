"""Forest plots of AUROCs with their intervals, of scores or of subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_vfx.analysis.evaluation.figures import SMALL, interval_text, new_figure, printed_name
from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import COLOURS, INK, QUIET, calm


class ForestRow(TypedDict):
    """A line of a forest plot; the entries of ``subgroups`` are such lines."""

    variable: str
    value: str
    n: int
    events: int
    auroc: float | None
    ci: Sequence[float] | None
    note: str | None


def forest_figure(rows: Sequence[ForestRow]) -> Figure:
    """Draw AUROCs with intervals one below the other, grouped by variable.

    A line without an AUROC stays, with its ``note``: nobody is dropped unseen.

    Args:
        rows: in order; ``variable`` becomes a heading where it changes (empty: none), ``value``
            the line's label.
    """
    if not rows:
        raise ValueError("rows is empty; a forest needs at least one line")
    labels: list[tuple[str, ForestRow | None]] = []
    heading = ""
    for row in rows:
        if row["variable"] and row["variable"] != heading:
            labels.append((row["variable"], None))
        heading = row["variable"]
        labels.append((row["value"], row))
    height = 0.26 * max(1 + printed_name(label).count("\n") * 0.6 for label, _ in labels)
    figure = new_figure(7.6, 0.9 + height * len(labels))
    axes = figure.subplots()
    lowest = [0.5]
    for place, (label, line) in enumerate(labels):
        if line is None:
            _beside(axes, 0, -8, place, label, weight="bold")
            continue
        _beside(axes, 0, -8, place, printed_name(label))
        _beside(axes, 1, 132, place, f"{line['events']} of {line['n']}")
        if line["auroc"] is None or line["ci"] is None:
            note = line.get("note") or "not computed"
            _beside(axes, 0, 12, place, note, color=QUIET)
            continue
        lowest.append(line["ci"][0])
        axes.plot(line["ci"], [place, place], color=COLOURS[0], linewidth=1.4)
        axes.plot(line["auroc"], place, marker="s", markersize=4.5, color=COLOURS[0])
        _beside(axes, 1, 10, place, interval_text(line["auroc"], line["ci"]))
    axes.axvline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_xlim(max(0.0, min(lowest) - 0.02), 1.0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("AUROC (95 % interval)")
    calm(axes)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    _beside(axes, 1, 10, -1, "AUROC", weight="bold")
    _beside(axes, 1, 132, -1, "fractures", weight="bold")
    return figure


def auroc_forest(scores: Mapping[str, Json]) -> Figure:
    """Draw the AUROCs of all scores as a forest."""
    return forest_figure(
        [
            {
                "variable": "",
                "value": name,
                "n": entry["n"],
                "events": entry["events"],
                "auroc": entry["auroc"],
                "ci": entry["auroc_ci"],
                "note": None,
            }
            for name, entry in scores.items()
        ]
    )


def _beside(
    axes: Axes,
    side: float,
    points: float,
    place: float,
    text: str,
    *,
    weight: str = "normal",
    color: str = INK,
) -> None:
    """Write at the height of a line, some points right of the left (0) or right (1) side."""
    axes.annotate(
        text,
        (side, place),
        xycoords=axes.get_yaxis_transform(),
        xytext=(points, 0),
        textcoords="offset points",
        fontsize=SMALL + 0.5,
        fontweight=weight,
        color=color,
        ha="right" if points < 0 else "left",
        va="center",
        annotation_clip=False,
    )
