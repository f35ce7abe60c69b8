"""The figures of a study: those its jobs drew, and the few that belong to the whole of it.

The jobs' drawings are taken as they are. Drawn here: the network as it was set up (Figure 2). For
the curves of the evaluation see :mod:`monai_vfx.workflows.study.report.curves`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import COLOURS, INK, QUIET, save_figure
from monai_vfx.workflows.study.report.blocks import Picture
from monai_vfx.workflows.study.report.data import SET_LABELS, StudyFolder, number

LARGEST_SVG = 1_500_000
"""Bytes; a larger drawing is embedded as pixels."""
RGBA = tuple[float, float, float, float]
TINTS = ("#eef3f7", "#e3edf5", "#fbeee9", "#eaf2e7")


def drawn(figure: Figure) -> tuple[bytes, bytes]:
    """Return a figure as SVG and PNG; the same figure gives the same bytes."""
    with TemporaryDirectory() as folder:
        svg, png = (path.read_bytes() for path in save_figure(figure, Path(folder) / "figure"))
    return svg, png


def job_figure(
    study: StudyFolder, path: str, *, key: str, title: str, alt: str, wide: bool = False
) -> Picture | None:
    """Return a figure that a job left as SVG and PNG, None where it left none.

    Args:
        study: the folder.
        path: of the figure without ending.
        key: its file name in the report.
        title: caption.
        alt: what it shows.
        wide: whether it takes the full width.
    """
    svg, png = study.content(path + ".svg"), study.content(path + ".png")
    if svg is not None and len(svg) > LARGEST_SVG and png is not None:
        svg = None
    if svg is None and png is None:
        return None
    return Picture(key, title, alt, path + (".svg" if svg else ".png"), svg, png, wide=wide)


def architecture(study: StudyFolder) -> Picture | None:
    """Return Figure 2: the network that was trained, from the sidecar of its weights."""
    wanted = study.main.removeprefix("image_")
    sidecar = study.sidecars.get(wanted) or next(iter(study.sidecars.values()), None)
    if sidecar is None:
        study.miss("Figure 2, architecture", "no image model was trained")
        return None
    fused = sorted(name for name in study.sidecars if name.startswith("fusion_"))
    clinical = [name.removeprefix("fusion_") for name in fused]
    steps = network_steps(sidecar["config"], clinical)
    svg, png = drawn(architecture_figure(steps))
    alt = "Network, from left to right: " + "; ".join(
        " ".join([title, *lines]).replace("\n", " ") for title, lines in steps
    )
    model = next(name for name, found in study.sidecars.items() if found is sidecar)
    return Picture(
        "architecture",
        "Figure 2. The network",
        alt,
        f"image/{model}/fold_0/model.json: config",
        svg,
        png,
        wide=True,
    )


def network_steps(config: Json, clinical: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the stations of a patient's way through the network, each with what it does.

    Args:
        config: settings of the weights' sidecar.
        clinical: letters of the clinical models that were fused with this network.
    """
    rows, columns = config["crop_size"]
    low, high = config["window_hu"]
    stages = [str(layer).replace("layer", "layer ") for layer in config["attention_layers"]]
    steps: list[tuple[str, list[str]]] = [
        (
            "CT, T12 to L4",
            [
                f"{config['slices']} axial slices",
                f"{rows} × {columns} pixels of {config['pixel_mm']:g} mm",
                f"{number(low, 0)} to {number(high, 0)} HU → −1 to 1",
                "outside the bodies blanked" if config["masked"] else "bone and muscle",
            ],
        ),
        (str(config["backbone"]).replace("_", " "), ["encoder, each slice alone"]),
    ]
    if config["attention"] == "none":
        steps.append(("Average", ["of the last stage"]))
    else:
        more = ["with the global vector"] if config.get("include_global") else []
        steps.append(
            ("Spatial attention", [f"score {config['attention']}", " and ".join(stages), *more])
        )
    if config["decoder"] == "gru":
        ways = "both ways" if config.get("bidirectional") else "T12 → L4"
        steps.append(
            (
                f"GRU, {config['rnn_hidden']}",
                [
                    f"slices {ways}",
                    f"dropout {config['dropout']:g} before",
                    "attention over slices"
                    if config.get("slice_pooling") == "attention"
                    else "last state",
                ],
            )
        )
    else:
        steps.append(("Mean over slices", [f"dropout {config['dropout']:g} before"]))
    lines = ["two logits: fracture, none"]
    if clinical:
        lines += [f"fused: clinical {', '.join(clinical)}", "join before this layer"]
    return [*steps, ("Linear layer", lines)]


def architecture_figure(steps: Sequence[tuple[str, Sequence[str]]]) -> Figure:
    """Draw stations with arrows between them; a small sketch in each says what kind it is.

    Args:
        steps: (title, lines below it) each, from left to right.
    """
    figure = Figure(figsize=(10.4, 2.7), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, len(steps))
    axes.set_ylim(0, 1)
    for n, (title, lines) in enumerate(steps):
        _station(axes, n, title, lines)
        if n:
            _arrow(axes, (n - 0.08, 0.5), (n + 0.08, 0.5))
    return figure


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = FancyArrowPatch(
        start,
        end,
        color=QUIET,
        linewidth=1.0,
        arrowstyle="-|>",
        mutation_scale=10,
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(arrow)


def _station(axes: Axes, n: int, title: str, lines: Sequence[str]) -> None:
    box = FancyBboxPatch(
        (n + 0.09, 0.04),
        0.82,
        0.92,
        boxstyle="round,pad=0,rounding_size=0.04",
        facecolor=TINTS[n % len(TINTS)],
        edgecolor=COLOURS[0],
        linewidth=1.0,
        mutation_aspect=2,
    )
    axes.add_patch(box)
    middle = n + 0.5
    axes.text(middle, 0.87, title, ha="center", va="center", fontsize=10, weight="bold", color=INK)
    words = "\n".join(lines)
    axes.text(middle, 0.78, words, ha="center", va="top", fontsize=8.2, color=INK, linespacing=1.45)
    sketch = _SKETCHES.get(title.split(",")[0].split(" ")[0])
    (sketch or (_encoder if n == 1 else _slices if n == 0 else _logits))(axes, middle)


def _rectangle(
    axes: Axes, corner: tuple[float, float], size: tuple[float, float], colour: RGBA = (1, 1, 1, 1)
) -> None:
    axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor=INK, linewidth=0.7))


def _slices(axes: Axes, middle: float) -> None:
    """A stack of slices."""
    for k in range(6):
        _rectangle(axes, (middle - 0.19 + 0.035 * k, 0.20 - 0.022 * k), (0.2, 0.15))


def _encoder(axes: Axes, middle: float) -> None:
    """Stages that shrink the image."""
    for k, height in enumerate((0.24, 0.18, 0.12, 0.07)):
        _rectangle(axes, (middle - 0.2 + 0.11 * k, 0.21 - height / 2), (0.06, height))


def _attention(axes: Axes, middle: float) -> None:
    """A grid of positions, some heavier than others."""
    weights = ((0.05, 0.15, 0.1, 0.05), (0.2, 0.85, 0.6, 0.1), (0.1, 0.5, 0.3, 0.05))
    for row, line in enumerate(weights):
        for column, weight in enumerate(line):
            place = (middle - 0.14 + 0.07 * column, 0.26 - 0.075 * row)
            _rectangle(axes, place, (0.07, 0.075), (*to_rgb(COLOURS[1]), weight))


def _recurrence(axes: Axes, middle: float) -> None:
    """States that hand on to the next."""
    for k in range(4):
        x = middle - 0.24 + 0.16 * k
        axes.plot(x, 0.2, "o", markersize=9, markerfacecolor="white", markeredgecolor=INK)
        if k:
            _arrow(axes, (x - 0.115, 0.2), (x - 0.04, 0.2))


def _logits(axes: Axes, middle: float) -> None:
    """Two outputs."""
    for k, colour in enumerate((COLOURS[1], "white")):
        x = middle - 0.08 + 0.16 * k
        axes.plot(x, 0.16, "o", markersize=10, markerfacecolor=colour, markeredgecolor=INK)


_SKETCHES = {"Spatial": _attention, "GRU": _recurrence, "Mean": _recurrence, "Average": _attention}
"""First word of a station's title → what is drawn in it."""


def gallery(study: StudyFolder) -> list[Picture]:
    """Return Figure 3: heat maps of a few patients, named by number only."""
    entries = (study.json("gallery/gallery.json") or {}).get("pictures") or []
    pictures = []
    for n, entry in enumerate(entries, start=1):
        png = study.content(f"gallery/{entry['png']}")
        if png is None:
            study.miss(f"Figure 3, patient {entry['case_number']}", f"{entry['png']} is not there")
            continue
        outcome = "with" if entry["fracture"] else "without"
        title = (
            f"Figure 3.{n}. {SET_LABELS[entry['set']].split(' (')[0]}, case "
            f"{entry['case_number']}, {outcome} fracture, score {entry['score']:.2f}"
        )
        pictures.append(
            Picture(
                f"gradcam_{n:02d}",
                title,
                entry["alt"],
                f"gallery/{entry['png']}",
                None,
                png,
                wide=True,
            )
        )
    if not pictures:
        study.miss("Figure 3, GradCAM", "gallery/gallery.json lists no picture")
    return pictures
