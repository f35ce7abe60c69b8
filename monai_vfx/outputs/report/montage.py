"""All slices that the network saw, in two rows, with the heat in red (the study's Figure 3)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.pixels import (
    HEAT_OPACITY,
    HEAT_RGB,
    INPUT_HU,
    WINDOW_HU,
    Bytes,
    Stack,
    View,
    Window,
    check_view,
    grey,
    overlay,
)

ROWS = 2
TILE, MARGIN, GAP, TITLE, HEADING, BAR, LINE = 1.75, 0.25, 0.08, 0.22, 0.34, 0.8, 0.19
"""Inches: width of a tile, around the figure, between tiles, above a tile, above a block, for the
colour bar, from line to line."""
LETTERS_AN_INCH = 13
MUSCLE_GREY = 0.35
INK, QUIET = "#1c2733", "#5b6875"


def montage(
    image: Stack,
    heat: Stack | None,
    titles: Sequence[str],
    path: str | Path,
    *,
    second: View | None = None,
    names: tuple[str, str] = ("bone + muscle", "bone only"),
    caption: str = "",
    dpi: int = 150,
    window_hu: Window = INPUT_HU,
    second_window_hu: Window | None = None,
) -> Path:
    """Draw the slices as PNG, seen from the feet as radiologists do (patient's right on the left).

    Args:
        image: (H, W, D), network input in [-1, 1]; rows to posterior, columns to the patient's
            left, slices cranial to caudal.
        heat: (H, W, D), in [0, 1], or None for the CT alone.
        titles: D, one a slice (:func:`slice_titles`). No patient's name or ID.
        path: of the PNG.
        second: another image class with its heat, of the same slices, drawn beneath.
        names: headings of the two blocks; shown when there are two.
        caption: line at the foot (:func:`score_caption`).
        dpi: dots an inch.
        window_hu: HU that -1 and 1 of ``image`` stand for; in the sidecar of the weights.
        second_window_hu: of ``second``; by default the same.

    Returns:
        ``path``.

    Raises:
        ValueError: shapes or ranges do not fit.
    """
    views: list[View] = [(image, heat)]
    if second is not None:
        views.append(second)
    for name, view in zip(("image", "second"), views, strict=False):
        check_view(*view, name=name)
        if view[0].shape[2] != len(titles):
            raise ValueError(
                f"titles has {len(titles)} entries; {name} has {view[0].shape[2]} slices"
            )
    windows = (window_hu, second_window_hu or window_hu)
    shown = [(grey(cut, hu), warm) for (cut, warm), hu in zip(views, windows, strict=False)]
    figure = _draw(shown, titles, names if second is not None else (), caption)
    figure.savefig(path, format="png", dpi=dpi)
    return Path(path)


def slice_titles(prediction: Json) -> list[str]:
    """Return a title for each slice of a prediction: level and slice number from the feet.

    >>> slice_titles({"slices": [{"index": 87, "level": "T12"}]})
    ['T12 · slice 87']
    """
    return [f"{entry['level']} · slice {entry['index']}" for entry in prediction["slices"]]


def score_caption(prediction: Json) -> str:
    """Return the line that states a prediction's score and what it must not be taken for.

    >>> score_caption({"score": 0.612, "simulated_weights": True})
    'Score 0.61 (0 to 1, not a risk) · simulated weights – not a clinical result'
    """
    standing = (
        "simulated weights – not a clinical result"
        if prediction["simulated_weights"]
        else "research software – not a medical device"
    )
    return f"Score {prediction['score']:.2f} (0 to 1, not a risk) · {standing}"


class _Sheet:
    """A figure addressed in inches from its top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )

    def text(self, left: float, baseline: float, words: str, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - baseline / self.height, words, **style)


def _draw(
    views: Sequence[tuple[Bytes, Stack | None]],
    titles: Sequence[str],
    names: Sequence[str],
    caption: str,
) -> Figure:
    """Lay out the blocks, the colour bar beside the first, and the notes beneath."""
    columns = math.ceil(len(titles) / ROWS)
    has_heat = any(heat is not None for _, heat in views)
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP + (BAR if has_heat else 0)
    tall = [TILE * image.shape[0] / image.shape[1] for image, _ in views]
    heading = HEADING if names else 0.0
    block = [heading + ROWS * (TITLE + height) + 2 * GAP for height in tall]
    notes = textwrap.wrap(_note(has_heat), int(width * LETTERS_AN_INCH))
    warning = textwrap.wrap(caption, int(width * LETTERS_AN_INCH))
    sheet = _Sheet(width, 2 * MARGIN + sum(block) + LINE * len(warning + notes))
    top = MARGIN
    for number, (image, heat) in enumerate(views):
        if names:
            sheet.text(MARGIN, top + 0.24, names[number], fontsize=12, weight="bold", color=INK)
        for n, title in enumerate(titles):
            row, column = divmod(n, columns)
            left = MARGIN + column * (TILE + GAP)
            down = top + heading + row * (TITLE + tall[number]) + TITLE
            axes = sheet.axes(left, down, TILE, tall[number])
            _tile(axes, image[:, :, n], None if heat is None else heat[:, :, n], title)
        top += block[number]
    if has_heat:
        left = MARGIN + columns * (TILE + GAP) + 0.15
        _bar(sheet.axes(left, MARGIN + heading + TITLE, 0.14, ROWS * tall[0] + TITLE))
    for n, line in enumerate(warning + notes):
        style = {"weight": "bold", "color": INK} if n < len(warning) else {"color": QUIET}
        sheet.text(MARGIN, top + LINE * (n + 1), line, fontsize=9, **style)
    return sheet.figure


def _tile(axes: Axes, image: Bytes, heat: Stack | None, title: str) -> None:
    """Draw one slice with its heat and the marks of orientation."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    if heat is not None:
        axes.imshow(overlay(heat), interpolation="bilinear")
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, color=INK, pad=3)
    for mark, x, y in (("R", 0.03, 0.5), ("L", 0.97, 0.5), ("A", 0.5, 0.96), ("P", 0.5, 0.04)):
        axes.text(
            x,
            y,
            mark,
            transform=axes.transAxes,
            fontsize=6,
            color="#ffd166",
            ha={0.03: "left", 0.97: "right"}.get(x, "center"),
            va={0.96: "top", 0.04: "bottom"}.get(y, "center"),
            path_effects=[withStroke(linewidth=1.2, foreground="black")],
        )


def _bar(axes: Axes) -> None:
    """Draw the scale of the heat as it looks on muscle, a mid-grey."""
    heat = np.linspace(0, 1, 128)[:, None, None]
    opacity = heat * HEAT_OPACITY
    axes.imshow(
        (1 - opacity) * MUSCLE_GREY + opacity * np.array(HEAT_RGB),
        origin="lower",
        aspect="auto",
        extent=(0, 1, 0, 1),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=8, colors=QUIET, length=2)
    axes.set_ylabel("heat, share of the patient's largest", fontsize=8, color=QUIET)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _note(has_heat: bool) -> str:
    """Say how to read the picture."""
    low, high = WINDOW_HU
    view = (
        "Axial slices seen from the feet, T12 to L4; R right, L left, A front, P back; "
        f"grey from {low:.0f} to {high:.0f} HU."
    )
    return view + " Red: what raised the score." if has_heat else view
