"""Figure 1 (participant flow) and the love plot of a cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import COLOURS, GRID, INK, QUIET, SIZE, calm

BALANCED = 0.1
"""A standardised difference below it is commonly called balanced (Austin 2009)."""

_WIDTH = 7.6
_LINE, _PADDING, _GAP = 0.155, 0.16, 0.3
_FONT = 8.0
_CENTRE = 3.8
"""Inches: the flow's width, height of a line, margins within and between boxes, the middle."""


@dataclass(frozen=True)
class _Box:
    """A box of text; ``left``, ``width`` and, once placed, ``top`` in inches from the top left."""

    lines: tuple[str, ...]
    left: float
    width: float
    bold: bool = False

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + _PADDING

    @property
    def middle(self) -> float:
        return self.left + self.width / 2


def flow_figure(flow: Json) -> Figure:
    """Draw the participant flow as journals print it.

    One box a step that left somebody out, from top to bottom; exclusions with their reasons to the
    right. After the analysed, cases and non-cases go on side by side, exclusions at the outside.

    Args:
        flow: ``flow.json``: ``{"steps": [{"name", "label", "excluded": [{"reason", "n", "events"}],
            "n", "events"}]}``; steps named ``image_quality`` and ``matched`` are split.

    Raises:
        ValueError: no step.
    """
    steps = flow["steps"]
    if not steps:
        raise ValueError("flow has no steps; at least one is needed")
    shared = [s for s in steps if s["name"] not in ("image_quality", "matched")]
    split = [s for s in steps if s["name"] in ("image_quality", "matched")]
    placed: list[tuple[_Box, float]] = []
    arrows: list[tuple[tuple[float, float], tuple[float, float], bool]] = []
    bottom = _draw_shared(shared, placed, arrows)
    bottom = _draw_split(shared[-1], split, bottom, placed, arrows)
    figure = Figure(figsize=(_WIDTH, bottom + 0.05), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(bottom + 0.05, 0)
    axes.axis("off")
    for start, end, head in arrows:
        _draw_line(axes, start, end, head)
    for box, top in placed:
        _draw_box(axes, box, top)
    return figure


def love_plot(
    balance: pd.DataFrame, n_before: int | None = None, n_after: int | None = None
) -> Figure:
    """Draw absolute standardised differences before and after matching.

    Args:
        balance: of :func:`monai_vfx.analysis.cohort.balance.balance`: ``label``, ``smd_before``,
            ``smd_after``; a difference that is not known has no point.
        n_before: patients before matching, for the legend; ``n_after`` likewise.
        n_after: patients after matching.

    Raises:
        ValueError: no variable.
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
    axes.plot(
        *(before, rows, "o"),
        markerfacecolor="white",
        markeredgecolor=COLOURS[1],
        markersize=6.5,
        label=_legend("Before matching", n_before),
    )
    axes.plot(*(after, rows, "o"), color=COLOURS[0], markersize=6, label=_legend("After", n_after))
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


def _draw_shared(
    steps: Sequence[Json],
    placed: list[tuple[_Box, float]],
    arrows: list[tuple[tuple[float, float], tuple[float, float], bool]],
) -> float:
    """Place the boxes of everybody, exclusions to the right; return where they end."""
    top = 0.05
    last = len(steps) - 1
    below = None
    for number, step in enumerate(steps):
        if number and not step["excluded"] and number != last:
            continue
        lines = _box_lines(step["label"], step["n"], 36)
        if number == last and number:
            lines = (*lines[:-1], f"Analysed: n = {step['n']:,}")
        box = _Box(lines, _CENTRE - 1.35, 2.7, bold=number in (0, last))
        if below is not None:
            reasons = [(e["reason"], e["n"]) for e in step["excluded"]]
            gap = _GAP
            if reasons:
                side = _Box(_reason_lines(reasons, 33), 5.45, 2.1)
                gap = side.height + 0.2
                middle = below + gap / 2
                placed.append((side, middle - side.height / 2))
                arrows.append(((_CENTRE, middle), (side.left, middle), True))
            arrows.append(((_CENTRE, below), (_CENTRE, below + gap), True))
            top = below + gap
        placed.append((box, top))
        below = top + box.height
    return below or top


def _draw_split(
    analysed: Json,
    steps: Sequence[Json],
    top: float,
    placed: list[tuple[_Box, float]],
    arrows: list[tuple[tuple[float, float], tuple[float, float], bool]],
) -> float:
    """Place cases and non-cases side by side, and what they end in; return where it ends."""
    fork, start = top + 0.18, top + 0.36
    arrows.append(((_CENTRE, top), (_CENTRE, fork), False))
    boxes: dict[str, _Box] = {}
    for group, left in (("cases", 2.02), ("non_cases", 3.88)):
        lines = _group_lines("first", group, _count(analysed, group))
        boxes[group] = _Box(lines, left, 1.7)
        placed.append((boxes[group], start))
        arrows.append(((_CENTRE, fork), (boxes[group].middle, fork), False))
        arrows.append(((boxes[group].middle, fork), (boxes[group].middle, start), True))
    below = start + max(box.height for box in boxes.values())
    for step in steps:
        sides = {group: _outside(step, group) for group in boxes}
        gap = max([_GAP, *(side.height + 0.2 for side in sides.values() if side)])
        following = {}
        for group, box in boxes.items():
            side, middle = sides[group], below + gap / 2
            if side:
                placed.append((side, middle - side.height / 2))
                edge = side.left if group == "non_cases" else side.left + side.width
                arrows.append(((box.middle, middle), (edge, middle), True))
            lines = _group_lines(step["name"], group, _count(step, group))
            following[group] = _Box(lines, box.left, box.width)
            placed.append((following[group], below + gap))
            arrows.append(((box.middle, below), (box.middle, below + gap), True))
        boxes = following
        below += gap + max(box.height for box in boxes.values())
    if not steps:
        return below
    join, end = below + 0.18, below + 0.36
    for box in boxes.values():
        arrows.append(((box.middle, below), (box.middle, join), False))
        arrows.append(((box.middle, join), (_CENTRE, join), False))
    arrows.append(((_CENTRE, join), (_CENTRE, end), True))
    final = _Box(_box_lines(steps[-1]["label"], steps[-1]["n"], 36), _CENTRE - 1.35, 2.7, bold=True)
    placed.append((final, end))
    return end + final.height


def _count(entry: Json, group: str) -> int:
    return int(entry["events"] if group == "cases" else entry["n"] - entry["events"])


def _group_lines(step: str, group: str, n: int) -> tuple[str, ...]:
    words = {
        "first": {"cases": "Incident vertebral fracture", "non_cases": "No vertebral fracture"},
        "image_quality": dict.fromkeys(("cases", "non_cases"), "Adequate images"),
        "matched": {"cases": "Cases", "non_cases": "Matched controls"},
    }[step][group]
    return _box_lines(words, n, 29)


def _outside(step: Json, group: str) -> _Box | None:
    reasons = [(e["reason"], _count(e, group)) for e in step["excluded"]]
    reasons = [(reason, n) for reason, n in reasons if n]
    if not reasons:
        return None
    left = 0.05 if group == "cases" else 5.84
    return _Box(_reason_lines(reasons, 25), left, 1.71)


def _box_lines(label: str, n: int, width: int) -> tuple[str, ...]:
    return (*wrap(label, width), f"n = {n:,}")


def _reason_lines(reasons: Sequence[tuple[str, int]], width: int) -> tuple[str, ...]:
    def lines() -> Iterator[str]:
        yield f"Excluded: n = {sum(n for _, n in reasons):,}"
        for reason, n in reasons:
            # The no-break space keeps a number with its word.
            yield from wrap(
                f"{reason}:\u00a0{n:,}", width, initial_indent="– ", subsequent_indent="   "
            )

    return tuple(lines())


def _draw_box(axes: Axes, box: _Box, top: float) -> None:
    side = box.lines[0].startswith("Excluded")
    frame = Rectangle(
        (box.left, top),
        box.width,
        box.height,
        facecolor="#f4f6f8" if side else "white",
        edgecolor=QUIET if side else INK,
        linewidth=0.8 if side else 1.0,
    )
    axes.add_patch(frame)
    for number, line in enumerate(box.lines):
        axes.text(
            box.left + 0.08 if side else box.middle,
            top + _PADDING / 2 + (number + 0.5) * _LINE,
            line,
            ha="left" if side else "center",
            va="center",
            fontsize=_FONT,
            color=INK,
            fontweight="bold" if box.bold or (side and not number) else "normal",
        )


def _draw_line(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], head: bool
) -> None:
    style = {"arrowstyle": "-|>" if head else "-", "color": INK, "linewidth": 0.9}
    style |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
