"""Figure 1 (participant flow) and the love plot of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import COLOURS, GRID, INK, QUIET, SIZE, calm

BALANCED = 0.1
"""A standardised difference below it is commonly called balanced (Austin 2009)."""

_WIDTH, _CENTRE = 7.6, 3.8
_LINE, _PADDING, _GAP, _FORK = 0.155, 0.16, 0.3, 0.18
"""Inches: the flow's width and middle, height of a line, margins within and between boxes, from a
box to a fork below it."""
_LABELS = {
    "analysed": {"cases": "Incident vertebral fracture", "non_cases": "No vertebral fracture"},
    "image_quality": {"cases": "Adequate images", "non_cases": "Adequate images"},
    "matched": {"cases": "Cases", "non_cases": "Matched controls"},
}
"""Step → group → label of its box."""
_MIDDLES = {"cases": 2.87, "non_cases": 4.73}


class _Chart:
    """A flow chart in inches, drawn from the top left corner downwards."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(_WIDTH, 1.0), facecolor="white")
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.axis("off")

    def box(
        self,
        middle: float,
        top: float,
        lines: Sequence[str],
        width: float = 2.7,
        *,
        bold: bool = False,
    ) -> float:
        """Draw a box of centred lines and return its lower edge."""
        height = len(lines) * _LINE + _PADDING
        self.axes.add_patch(
            Rectangle((middle - width / 2, top), width, height, facecolor="white", edgecolor=INK)
        )
        style: Json = {"weight": "bold" if bold else "normal", "ha": "center", "va": "center"}
        self._text(middle, top + height / 2, "\n".join(lines), **style)
        return top + height

    def excluded(self, left: float, middle: float, lines: Sequence[str], width: float) -> None:
        """Draw a box of exclusions; the first line is its heading."""
        top = middle - _side_height(lines) / 2
        style: Json = {"facecolor": "#f4f6f8", "edgecolor": QUIET, "linewidth": 0.8}
        self.axes.add_patch(Rectangle((left, top), width, _side_height(lines), **style))
        top += _PADDING / 2
        self._text(left + 0.08, top, lines[0], weight="bold", va="top")
        self._text(left + 0.08, top, "\n".join(["", *lines[1:]]), va="top")

    def line(self, *points: tuple[float, float], head: bool = True) -> None:
        """Draw straight lines from point to point, the last with a head unless told otherwise."""
        for n, (start, end) in enumerate(pairwise(points), start=2):
            style: Json = {"arrowstyle": "-|>" if head and n == len(points) else "-"}
            style |= {"color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
            self.axes.annotate("", end, start, arrowprops=style | {"mutation_scale": 8})

    def finish(self, bottom: float) -> Figure:
        """Fit the figure's height to what was drawn and return it."""
        self.figure.set_size_inches(_WIDTH, bottom + 0.05)
        self.axes.set(xlim=(0, _WIDTH), ylim=(bottom + 0.05, 0))
        return self.figure

    def _text(self, x: float, y: float, words: str, **style: Any) -> None:
        self.axes.text(x, y, words, fontsize=8.0, linespacing=1.4, color=INK, **style)


def flow_figure(flow: Json) -> Figure:
    """Draw the participant flow of ``flow.json`` as journals print it.

    One box for each step that excluded patients, from top to bottom; exclusions with their reasons
    to the right. Below the analysed patients, cases and non-cases continue side by side (steps
    ``image_quality`` and ``matched``), with exclusions at the outside.
    """
    steps = flow["steps"]
    if not steps:
        raise ValueError("flow has no steps; at least one is needed")
    shared = [step for step in steps if step["name"] not in ("image_quality", "matched")]
    split = [step for step in steps if step["name"] in ("image_quality", "matched")]
    chart = _Chart()
    bottom = _draw_shared(chart, shared)
    return chart.finish(_draw_split(chart, shared[-1], split, bottom))


def love_plot(
    balance: pd.DataFrame, n_before: int | None = None, n_after: int | None = None
) -> Figure:
    """Draw absolute standardised differences before and after matching.

    ``balance`` is that of :func:`monai_vfx.analysis.cohort.balance.balance`; a difference that is
    not known has no point. The numbers of patients are for the legend.
    """
    if balance.empty:
        raise ValueError("balance has no rows; at least one variable is needed")
    table = balance.assign(size=balance["smd_before"].abs()).sort_values("size", kind="stable")
    height = max(SIZE[1], 1.1 + 0.24 * len(table))
    figure = Figure(figsize=(6.0, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    rows = np.arange(len(table))
    before, after = (table[f"smd_{side}"].abs().to_numpy(float) for side in ("before", "after"))
    axes.hlines(rows, np.fmin(before, after), np.fmax(before, after), color=GRID, linewidth=1.6)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.axvline(BALANCED, color=QUIET, linewidth=0.9, linestyle="--")
    hollow: Json = {"markerfacecolor": "white", "markeredgecolor": COLOURS[1], "markersize": 6.5}
    axes.plot(before, rows, "o", label=_legend("Before matching", n_before), **hollow)
    axes.plot(after, rows, "o", color=COLOURS[0], markersize=6, label=_legend("After", n_after))
    axes.set_yticks(rows, [str(name) for name in table["label"]])
    right = max(0.25, 1.08 * np.nanmax([*before, *after, 0.0]))
    axes.set_xlim(-0.025 * right, right)
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.set_xlabel("Absolute standardised difference")
    calm(axes)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", labelcolor=INK)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _legend(words: str, n: int | None) -> str:
    return words if n is None else f"{words} (n = {n:,})"


def _draw_shared(chart: _Chart, steps: Sequence[Json]) -> float:
    """Draw the boxes of all patients, exclusions to the right; return the lower edge."""
    first, last = steps[0], steps[-1]
    bottom = chart.box(_CENTRE, 0.05, _lines(first["label"], first["n"]), bold=True)
    for step in steps[1:]:
        if not step["excluded"] and step is not last:
            continue
        reasons = _reasons([(e["reason"], e["n"]) for e in step["excluded"]], 33)
        top = bottom + _gap(reasons)
        chart.line((_CENTRE, bottom), (_CENTRE, top))
        if reasons:
            half = (bottom + top) / 2
            chart.excluded(5.45, half, reasons, 2.1)
            chart.line((_CENTRE, half), (5.45, half))
        lines = _lines(step["label"], step["n"])
        if step is last:
            lines[-1] = f"Analysed: {lines[-1]}"
        bottom = chart.box(_CENTRE, top, lines, bold=step is last)
    return bottom


def _draw_split(chart: _Chart, analysed: Json, steps: Sequence[Json], bottom: float) -> float:
    """Draw cases and non-cases side by side and where they join; return the lower edge."""
    top = bottom + 2 * _FORK
    chart.line((_CENTRE, bottom), (_CENTRE, bottom + _FORK), head=False)
    for x in _MIDDLES.values():
        chart.line((_CENTRE, bottom + _FORK), (x, bottom + _FORK), (x, top))
    bottom = _draw_groups(chart, "analysed", analysed, top)
    for step in steps:
        reasons = {
            group: _reasons([(e["reason"], _count(e, group)) for e in step["excluded"]], 25)
            for group in _MIDDLES
        }
        top = bottom + max(_gap(lines) for lines in reasons.values())
        half = (bottom + top) / 2
        for group, x in _MIDDLES.items():
            chart.line((x, bottom), (x, top))
            if reasons[group]:
                left, edge = (0.05, 1.76) if group == "cases" else (5.84, 5.84)
                chart.excluded(left, half, reasons[group], 1.71)
                chart.line((x, half), (edge, half))
        bottom = _draw_groups(chart, step["name"], step, top)
    if not steps:
        return bottom
    for x in _MIDDLES.values():
        chart.line((x, bottom), (x, bottom + _FORK), (_CENTRE, bottom + _FORK), head=False)
    chart.line((_CENTRE, bottom + _FORK), (_CENTRE, bottom + 2 * _FORK))
    lines = _lines(steps[-1]["label"], steps[-1]["n"])
    return chart.box(_CENTRE, bottom + 2 * _FORK, lines, bold=True)


def _draw_groups(chart: _Chart, name: str, step: Json, top: float) -> float:
    """Draw the boxes of cases and non-cases after a step; return the lower edge."""
    return max(
        chart.box(x, top, _lines(_LABELS[name][group], _count(step, group), 29), 1.7)
        for group, x in _MIDDLES.items()
    )


def _count(entry: Json, group: str) -> int:
    return int(entry["events"] if group == "cases" else entry["n"] - entry["events"])


def _lines(label: str, n: int, width: int = 36) -> list[str]:
    return [*wrap(label, width), f"n = {n:,}"]


def _reasons(reasons: Sequence[tuple[str, int]], width: int) -> list[str]:
    """Return the lines of a box of exclusions, none if nobody was excluded."""
    known = [(reason, n) for reason, n in reasons if n]
    lines = [f"Excluded: n = {sum(n for _, n in known):,}"] if known else []
    for reason, n in known:  # the no-break space keeps a number with its word
        words = f"{reason}:\u00a0{n:,}"
        lines += wrap(words, width, initial_indent="– ", subsequent_indent="   ")
    return lines


def _side_height(lines: Sequence[str]) -> float:
    return len(lines) * _LINE + _PADDING


def _gap(reasons: Sequence[str]) -> float:
    return max(_GAP, _side_height(reasons) + 0.2) if reasons else _GAP
