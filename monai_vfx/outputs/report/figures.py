"""The style of all figures, their files, and the learning curve of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SIZE = (4.8, 3.7)
"""Inches. Small, so that letters stay readable when a page shows the figure 360 pixels wide."""
INK, QUIET, GRID = "#1c2733", "#5b6875", "#dfe5ea"
COLOURS = ("#1f5f8b", "#c8553d", "#4f7942", "#8a5a9e", "#b8860b", "#2a9d8f")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def learning_curve(history: Sequence[Mapping[str, float | None]]) -> Figure:
    """Draw loss and validation AUROC by epoch, one above the other.

    Args:
        history: one mapping an epoch with ``epoch`` (from 1) and, where measured, ``train_loss``,
            ``validation_loss`` and ``validation_auroc``; missing keys and None leave a gap.

    Raises:
        ValueError: no epoch.
    """
    if not history:
        raise ValueError("history is empty; at least one epoch is needed")
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    loss, auroc = figure.subplots(2, 1, sharex=True)
    _line(loss, history, "train_loss", "training", 0)
    _line(loss, history, "validation_loss", "validation", 1)
    _line(auroc, history, "validation_auroc", "validation", 1)
    auroc.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    auroc.set_ylim(min(0.4, *auroc.get_ylim()), 1.0)
    loss.set_ylabel("cross-entropy")
    auroc.set_ylabel("validation AUROC")
    auroc.set_xlabel("epoch")
    auroc.xaxis.set_major_locator(MaxNLocator(integer=True))
    if loss.get_legend_handles_labels()[0]:
        loss.legend(frameon=False, fontsize=9, labelcolor=INK)
    for axes in (loss, auroc):
        calm(axes)
    return figure


def figure_files(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as SVG and PNG; the same figure gives the same bytes."""
    svg = BytesIO()
    with rc_context({"svg.hashsalt": "monai_vfx", "svg.fonttype": "none"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue(), figure_png(figure)


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write a figure as ``stem.svg`` and ``stem.png``; the same figure gives the same bytes.

    Args:
        figure: to write.
        stem: path without its ending; the folder is made if missing.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(stem.name + ending) for ending in (".svg", ".png")]
    for path, content in zip(files, figure_files(figure), strict=True):
        path.write_bytes(content)
    return files


def figure_png(figure: Figure, dpi: int = 200) -> bytes:
    """Return a figure as PNG."""
    target = BytesIO()
    figure.savefig(target, format="png", dpi=dpi)
    return target.getvalue()


def _line(
    axes: Axes, history: Sequence[Mapping[str, float | None]], key: str, label: str, colour: int
) -> None:
    points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    if points:
        epochs, values = zip(*points, strict=True)
        axes.plot(
            epochs,
            values,
            color=COLOURS[colour],
            linestyle=DASHES[colour],
            marker="o",
            markersize=3,
            linewidth=1.5,
            label=label,
        )


def calm(axes: Axes) -> None:
    """Give axes the look of the house: pale grid, no box, quiet ticks."""
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, labelsize=9, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)


def orientation_letters(axes: Axes, letters: str, size: float = 12.0) -> None:
    """Write the patient's directions at the edges of an image.

    Args:
        axes: of the image.
        letters: for the left, right, upper and lower edge, such as ``APHF``.
        size: points.
    """
    edges = ((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0))
    for letter, (x, y) in zip(letters, edges, strict=True):
        axes.annotate(
            letter,
            (x, y),
            ((0.5 - x) * 0.6 * size, (0.5 - y) * 0.6 * size),
            xycoords="axes fraction",
            textcoords="offset points",
            ha={0.0: "left", 1.0: "right"}.get(x, "center"),
            va={0.0: "bottom", 1.0: "top"}.get(y, "center"),
            color="white",
            fontsize=size,
            fontweight="bold",
            path_effects=outline(size / 4),
        )


def outline(width: float = 3.0) -> list[patheffects.withStroke]:
    """Return a black outline of so many points, for text and lines on a CT."""
    return [patheffects.withStroke(linewidth=width, foreground="black")]
