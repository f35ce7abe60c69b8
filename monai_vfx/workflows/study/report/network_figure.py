"""Figure 2 of a study: the network that was trained, from the sidecar of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import FancyBboxPatch, Rectangle

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import COLOURS, INK, QUIET, figure_files
from monai_vfx.outputs.report.page import Figure
from monai_vfx.workflows.study.report.cells import number
from monai_vfx.workflows.study.report.folder import StudyFolder

TINTS = ("#eef3f7", "#e3edf5", "#fbeee9", "#eaf2e7")


def architecture(study: StudyFolder) -> Figure | None:
    """Return Figure 2: the main network, else the first one that was trained."""
    wanted = study.main.removeprefix("image_")
    model = wanted if wanted in study.sidecars else next(iter(study.sidecars), None)
    if model is None:
        study.miss("Figure 2, architecture", "no image model was trained")
        return None
    fused = sorted(name for name in study.sidecars if name.startswith("fusion_"))
    clinical = [name.removeprefix("fusion_") for name in fused]
    stations = network_stations(study.sidecars[model]["config"], clinical)
    svg, png = figure_files(architecture_figure(stations))
    alt = "; ".join(" ".join([title, *lines]) for title, lines in stations)
    return Figure(
        "architecture",
        "Figure 2. The network",
        f"Network, from left to right: {alt}",
        f"image/{model}/fold_0/model.json: config",
        svg,
        png,
        wide=True,
    )


def network_stations(config: Json, clinical: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the stages of the network from input to output, as (title, lines).

    Args:
        config: settings of the weights' sidecar.
        clinical: letters of the clinical models that were fused with this network.
    """
    rows, columns = config["crop_size"]
    low, high = (number(bound, 0) for bound in config["window_hu"])
    layers = " and ".join(str(n).replace("layer", "layer ") for n in config["attention_layers"])
    attention = [f"score {config['attention']}", layers]
    attention += ["with the global vector"] if config.get("include_global") else []
    dropout = f"dropout {config['dropout']:g} before"
    output = ["two logits: fracture, none"]
    if clinical:
        output += [f"fused: clinical {', '.join(clinical)}", "join before this layer"]
    return [
        (
            "CT, T12 to L4",
            [
                f"{config['slices']} axial slices",
                f"{rows} × {columns} pixels of {config['pixel_mm']:g} mm",
                f"{low} to {high} HU → −1 to 1",
                "outside the bodies blanked" if config["masked"] else "bone and muscle",
            ],
        ),
        (str(config["backbone"]).replace("_", " "), ["encoder, slice by slice"]),
        ("Average", ["of the last stage"])
        if config["attention"] == "none"
        else ("Spatial attention", attention),
        (f"GRU, {config['rnn_hidden']}", ["slices T12 → L4", dropout, "last state"])
        if config["decoder"] == "gru"
        else ("Mean over slices", [dropout]),
        ("Linear layer", output),
    ]


def architecture_figure(stations: Sequence[tuple[str, Sequence[str]]]) -> Drawing:
    """Draw the five stages with arrows between them, each with a small sketch of its kind.

    Args:
        stations: (title, lines below it) each, from left to right.
    """
    figure = Drawing(figsize=(10.4, 2.7), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, len(stations)), ylim=(0, 1))
    axes.set_axis_off()
    sketches = (_slices, _encoder, _attention, _recurrence, _logits)
    for n, ((title, lines), sketch) in enumerate(zip(stations, sketches, strict=True)):
        middle = n + 0.5
        box: Json = {"facecolor": TINTS[n % len(TINTS)], "edgecolor": COLOURS[0]}
        axes.add_patch(
            FancyBboxPatch(
                (n + 0.09, 0.04),
                *(0.82, 0.92),
                boxstyle="round,pad=0,rounding_size=0.04",
                mutation_aspect=2,
                **box,
            )
        )
        style: Json = {"ha": "center", "color": INK}
        axes.text(middle, 0.87, title, va="center", fontsize=10, weight="bold", **style)
        words = "\n".join(lines)
        axes.text(middle, 0.78, words, va="top", fontsize=8.2, linespacing=1.45, **style)
        sketch(axes, middle)
        if n:
            _arrow(axes, n - 0.08, n + 0.08, 0.5)
    return figure


def _arrow(axes: Axes, start: float, end: float, y: float) -> None:
    style: Json = {"arrowstyle": "-|>", "color": QUIET, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (end, y), (start, y), arrowprops=style)


def _rectangle(axes: Axes, x: float, y: float, width: float, height: float, **style: Any) -> None:
    look: Json = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.7, **style}
    axes.add_patch(Rectangle((x, y), width, height, **look))


def _slices(axes: Axes, middle: float) -> None:
    for k in range(6):
        _rectangle(axes, middle - 0.19 + 0.035 * k, 0.20 - 0.022 * k, 0.2, 0.15)


def _encoder(axes: Axes, middle: float) -> None:
    for k, height in enumerate((0.24, 0.18, 0.12, 0.07)):
        _rectangle(axes, middle - 0.2 + 0.11 * k, 0.21 - height / 2, 0.06, height)


def _attention(axes: Axes, middle: float) -> None:
    weights = ((0.05, 0.15, 0.1, 0.05), (0.2, 0.85, 0.6, 0.1), (0.1, 0.5, 0.3, 0.05))
    for row, line in enumerate(weights):
        for column, weight in enumerate(line):
            place = (middle - 0.14 + 0.07 * column, 0.26 - 0.075 * row)
            _rectangle(axes, *place, 0.07, 0.075, facecolor=(COLOURS[1], weight))


def _recurrence(axes: Axes, middle: float) -> None:
    for k in range(4):
        x = middle - 0.24 + 0.16 * k
        axes.plot(x, 0.2, "o", markersize=9, markerfacecolor="white", markeredgecolor=INK)
        if k:
            _arrow(axes, x - 0.115, x - 0.04, 0.2)


def _logits(axes: Axes, middle: float) -> None:
    for x, colour in ((middle - 0.08, COLOURS[1]), (middle + 0.08, "white")):
        axes.plot(x, 0.16, "o", markersize=10, markerfacecolor=colour, markeredgecolor=INK)
