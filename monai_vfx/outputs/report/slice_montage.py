"""The CT slices that the network reads, with the heat map in red (the study's Figure 3)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from mpl_toolkits.axes_grid1 import ImageGrid

from monai_vfx.core.arrays import Json
from monai_vfx.outputs.report.figures import INK, QUIET, orientation_letters

Window = tuple[float, float]
"""Hounsfield units, low and high."""
INPUT_HU: Window = (-200.0, 1000.0)
"""What -1 and 1 of the network's input stand for in the study; the setting ``window_hu``."""
WINDOW_HU: Window = (-150.0, 450.0)
"""Shown from black to white: fat dark, muscle mid-grey, trabecular bone light, cortex white."""
HEAT_RGB = (0.92, 0.11, 0.14)
HEAT_OPACITY = 0.75
"""Opacity of a heat of 1; the CT remains visible below the strongest spot."""
HEAT_COLOURS = LinearSegmentedColormap.from_list(
    "heat", [(*HEAT_RGB, 0.0), (*HEAT_RGB, HEAT_OPACITY)]
)
"""Heat in [0, 1] → red of growing opacity, transparent at 0."""
MUSCLE_GREY = 0.35

Stack = npt.NDArray[np.floating]
"""(H, W, D): rows to posterior, columns to the patient's left, slices cranial to caudal."""
Bytes = npt.NDArray[np.uint8]
View = tuple[Stack, Stack | None]
"""Network input in [-1, 1] and its heat map in [0, 1], if there is one."""

ROWS = 2
TILE, MARGIN, GAP, TITLE, HEADING, BAR, LINE = 1.75, 0.25, 0.08, 0.22, 0.34, 0.8, 0.19
"""Inches: width of a tile, around the figure, between tiles, above a tile, above a block, for the
colour bar, from line to line."""
LETTERS_PER_INCH = 13


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
    """Draw the slices as PNG, viewed from the feet (the patient's right on the left).

    Args:
        image: (H, W, D), network input in [-1, 1]; rows to posterior, columns to the patient's
            left, slices cranial to caudal.
        heat: (H, W, D), in [0, 1], or None for the CT alone.
        titles: D, one per slice (:func:`slice_titles`). No patient's name or ID.
        path: of the PNG.
        second: another image class with its heat map, of the same slices, drawn below.
        names: headings of the two blocks; shown when there are two.
        caption: line below the slices (:func:`score_caption`).
        dpi: dots per inch.
        window_hu: HU that -1 and 1 of ``image`` stand for; in the sidecar of the weights.
        second_window_hu: of ``second``; by default the same.

    Returns:
        ``path``.

    Raises:
        ValueError: shapes or ranges do not fit.
    """
    views: list[View] = [(image, heat)] if second is None else [(image, heat), second]
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


def check_view(image: Stack, heat: Stack | None, name: str = "image") -> None:
    """Raise unless an image and its heat map can be drawn.

    Args:
        image: (H, W, D), in [-1, 1].
        heat: (H, W, D), in [0, 1], or None.
        name: of the argument, for the message.

    Raises:
        ValueError: a wrong shape or range.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"{name} has the shape {image.shape}; (H, W, slices) is needed")
    if not np.isfinite(image).all() or np.abs(image).max() > 1.001:
        raise ValueError(f"{name} must hold finite values in [-1, 1]")
    if heat is None:
        return
    if heat.shape != image.shape:
        raise ValueError(
            f"the heat of {name} has the shape {heat.shape}; the image's is {image.shape}"
        )
    if not np.isfinite(heat).all() or heat.min() < 0 or heat.max() > 1.001:
        raise ValueError(f"the heat of {name} must hold finite values in [0, 1]")


def grey(image: Stack, window_hu: Window = INPUT_HU) -> Bytes:
    """Return the CT as grey levels 0-255 of :data:`WINDOW_HU`, any shape.

    Args:
        image: network input in [-1, 1].
        window_hu: what -1 and 1 stand for, HU.

    >>> grey(np.array([-1.0, 1.0])).tolist()
    [0, 255]
    """
    low, high = window_hu
    hu = (np.asarray(image, np.float64) + 1) / 2 * (high - low) + low
    shown = (hu - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0])
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def png(pixels: Bytes) -> bytes:
    """Encode (H, W) grey levels or (H, W, 4) RGBA pixels as PNG."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    target = BytesIO()
    imsave(target, pixels, format="png")
    return target.getvalue()


def _draw(
    views: Sequence[tuple[Bytes, Stack | None]],
    titles: Sequence[str],
    names: Sequence[str],
    caption: str,
) -> Figure:
    """Lay out the blocks, the colour bar beside the first, and the notes below."""
    columns = math.ceil(len(titles) / ROWS)
    has_heat = any(heat is not None for _, heat in views)
    across = columns * (TILE + GAP) - GAP
    width = 2 * MARGIN + across + (BAR if has_heat else 0)
    tall = [ROWS * TILE * image.shape[0] / image.shape[1] + TITLE for image, _ in views]
    heading = (HEADING if names else 0.0) + TITLE
    letters = int(width * LETTERS_PER_INCH)
    warning, notes = textwrap.wrap(caption, letters), textwrap.wrap(_note(has_heat), letters)
    height = 2 * MARGIN + sum(tall) + len(tall) * (heading + 2 * GAP)
    height += LINE * len(warning + notes)
    figure = Figure(figsize=(width, height), facecolor="white")
    top = height - MARGIN
    for number, (image, heat) in enumerate(views):
        if names:
            place = (MARGIN / width, (top - 0.24) / height)
            figure.text(*place, names[number], fontsize=12, weight="bold", color=INK)
        top -= heading + tall[number]
        bounds = (MARGIN / width, top / height, across / width, tall[number] / height)
        grid = ImageGrid(figure, bounds, (ROWS, columns), axes_pad=(GAP, TITLE))
        for n, axes in enumerate(grid):
            axes.set_axis_off()
            if n < len(titles):
                _tile(axes, image[:, :, n], None if heat is None else heat[:, :, n], titles[n])
        if has_heat and not number:
            left = (MARGIN + across + 0.15) / width
            _bar(figure, figure.add_axes((left, top / height, 0.14 / width, tall[0] / height)))
        top -= 2 * GAP
    for n, line in enumerate(warning + notes, start=1):
        style: Json = {"weight": "bold", "color": INK} if n <= len(warning) else {"color": QUIET}
        figure.text(MARGIN / width, (top - LINE * n) / height, line, fontsize=9, **style)
    return figure


def _tile(axes: Axes, image: Bytes, heat: Stack | None, title: str) -> None:
    """Draw one slice with its heat map and orientation letters."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    if heat is not None:
        axes.imshow(heat, cmap=HEAT_COLOURS, vmin=0, vmax=1, interpolation="bilinear")
    axes.set_title(title, fontsize=8, color=INK, pad=3)
    orientation_letters(axes, "RLAP", size=6)


def _bar(figure: Figure, axes: Axes) -> None:
    """Draw the colour scale as it appears on muscle, a mid-grey."""
    muscle = np.full(3, MUSCLE_GREY)
    warmest = (1 - HEAT_OPACITY) * muscle + HEAT_OPACITY * np.array(HEAT_RGB)
    colours = LinearSegmentedColormap.from_list("heat_on_muscle", [tuple(muscle), tuple(warmest)])
    bar = figure.colorbar(ScalarMappable(cmap=colours), cax=axes, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    axes.tick_params(labelsize=8, colors=QUIET, length=2)
    axes.set_ylabel("heat, share of the patient's maximum", fontsize=8, color=QUIET)


def _note(has_heat: bool) -> str:
    low, high = WINDOW_HU
    view = (
        "Axial slices viewed from the feet, T12 to L4; R right, L left, A anterior, P posterior; "
        f"grey scale from {low:.0f} to {high:.0f} HU."
    )
    return view + " Red: regions that raised the score." if has_heat else view
