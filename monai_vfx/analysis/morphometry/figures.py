"""The measured heights of a patient's vertebrae, drawn on the sagittal CT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from monai_vfx.analysis.morphometry.heights import BodyHeights
from monai_vfx.analysis.morphometry.normals import NormalValues
from monai_vfx.analysis.morphometry.ratios import HEIGHTS, ratios_of
from monai_vfx.analysis.morphometry.rules import FRACTURED
from monai_vfx.core.arrays import Json
from monai_vfx.core.geometry import box_affine
from monai_vfx.io.volume import Volume
from monai_vfx.outputs.report.figures import INK, orientation_letters, outline
from monai_vfx.outputs.report.planes import enclosing_box, plane_along_spine, sample
from monai_vfx.outputs.report.slice_montage import WINDOW_HU

STATUS_WORDS = {"normal": "normal", "fractured": "FRACTURED", "not_assessable": "not assessable"}
STATUS_COLOURS = {"normal": "#5fd3f3", "fractured": "#ff7a59", "not_assessable": "#f2d544"}
"""On the CT: light, as bone and soft tissue behind are grey."""
CHART_COLOURS = {"normal": "#1f5f8b", "fractured": "#c8553d", "not_assessable": "#8a6d00"}
"""On white."""
SHORT = {
    "wedge": "Ha/Hp",
    "biconcavity": "Hm/Hp",
    "crush_below": "Hp/below",
    "crush_above": "Hp/above",
}
_PIXEL_MM = 0.5
_CT_INCHES = 7.6  # height of the CT
_WORDS_INCHES = 0.8  # height of the words beside one level
_MARGIN_MM = {"front": 45.0, "back": 65.0, "head": 28.0, "feet": 28.0}


@dataclass(frozen=True)
class SagittalView:
    """A plane through the middles of the bodies, seen from the patient's left.

    Attributes:
        hu: (rows, columns) HU, head up, front to the left, 0.5 mm pixels; NaN outside the CT.
        top_mm: height of the first row's upper edge, mm RAS.
        front_mm: place of the first column's outer edge, mm RAS.
    """

    hu: npt.NDArray[np.float32]
    top_mm: float
    front_mm: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) in mm RAS, as matplotlib takes it."""
        rows, columns = self.hu.shape
        right = self.front_mm - columns * _PIXEL_MM
        return self.front_mm, right, self.top_mm - rows * _PIXEL_MM, self.top_mm


def sagittal_view(volume: Volume, bodies: Mapping[str, BodyHeights]) -> SagittalView:
    """Return the plane of the CT that follows the bodies' middles from side to side."""
    ends = np.concatenate([body.lines.reshape(-1, 3) for body in bodies.values()])
    centres = np.array([body.centre for body in bodies.values()])
    front, top = ends[:, 1].max() + _MARGIN_MM["front"], ends[:, 2].max() + _MARGIN_MM["head"]
    back, low = ends[:, 1].min() - _MARGIN_MM["back"], ends[:, 2].min() - _MARGIN_MM["feet"]
    world = plane_along_spine(centres, 1, (front, back), (low, top), _PIXEL_MM)
    box = enclosing_box(world, volume.affine, volume.shape)
    hu, outside = sample(volume.read(box), box_affine(volume.affine, box), world)
    hu = np.where(outside, np.nan, hu).astype(np.float32)
    rows = np.flatnonzero(~outside.all(axis=1))
    columns = np.flatnonzero(~outside.all(axis=0))
    hu = hu[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return SagittalView(hu, float(top - rows[0] * _PIXEL_MM), float(front - columns[0] * _PIXEL_MM))


def sagittal_figure(
    view: SagittalView,
    bodies: Mapping[str, BodyHeights],
    vertebrae: pd.DataFrame,
    normal: NormalValues,
    note: str = "",
) -> Figure:
    """Draw the measured heights on the sagittal CT, with ratios and status beside each body."""
    left, right, bottom, top = view.extent
    tall, wide = top - bottom, left - right
    height = _CT_INCHES
    picture = height * wide / tall
    figure = Figure(figsize=(picture + 3.3, height + 0.85), facecolor="white")
    width, total = figure.get_size_inches()
    axes = figure.add_axes((0.06 / width, 0.75 / total, picture / width, height / total))
    axes.imshow(
        view.hu,
        cmap="gray",
        vmin=WINDOW_HU[0],
        vmax=WINDOW_HU[1],
        extent=view.extent,
        interpolation="bilinear",
    )
    axes.set_facecolor("black")
    axes.set_axis_off()
    rows = by_level(vertebrae)
    for level, body in bodies.items():
        _draw_body(axes, level, body, rows.get(level))
    orientation_letters(axes, "APHF")
    style: Json = {"frameon": False, "color": "white", "label_top": True, "borderpad": 0.8}
    style |= {"size_vertical": 0.8, "fill_bar": True}
    bar = AnchoredSizeBar(axes.transData, 30.0, "30 mm", "lower left", **style)
    for artist in bar.findobj(match=lambda a: isinstance(a, Text | Rectangle)):
        artist.set_path_effects(outline())
    axes.add_artist(bar)
    _beside(figure, axes, view, bodies, rows)
    words = _rule_words(normal)
    figure.text(
        0.08 / width,
        0.68 / total,
        f"Heights in mm: anterior, middle, posterior, of the central 40 % of each body.\n{words}"
        + (f"\n{note}" if note else ""),
        fontsize=8,
        color=INK,
        va="top",
    )
    return figure


def by_level(vertebrae: pd.DataFrame) -> dict[str, Json]:
    """Return the rows of one case by their level."""
    records = vertebrae.to_dict("records")
    return {str(row["level"]): {str(k): cell for k, cell in row.items()} for row in records}


def _draw_body(axes: Axes, level: str, body: BodyHeights, row: Json | None) -> None:
    colour = STATUS_COLOURS.get(str(row["status"]) if row else "neighbour", "#ffffff")
    up = body.up[1:] / np.linalg.norm(body.up[1:])
    cap = 2.0 * np.array([up[1], -up[0]])  # square to the height, in (y, z)
    for low, high in body.lines[:, :, 1:]:
        for ends in ((low, high), (low - cap, low + cap), (high - cap, high + cap)):
            axes.plot(*np.stack(ends).T, color=colour, linewidth=1.5, path_effects=outline(2.8))
    front = body.lines[0, :, 1:].mean(axis=0)
    axes.text(
        front[0] + 9.0,
        front[1],
        level,
        color=colour,
        fontsize=10,
        fontweight="bold",
        ha="right",
        va="center",
        path_effects=outline(),
    )


def _beside(
    figure: Figure,
    axes: Axes,
    view: SagittalView,
    bodies: Mapping[str, BodyHeights],
    rows: Mapping[str, Json],
) -> None:
    """Write each level's numbers at the height of its body, not closer than can be read."""
    _, right, bottom, top = view.extent
    levels = [*(["T11"] if "T11" in bodies else []), *rows]
    step = (top - bottom) / _CT_INCHES * _WORDS_INCHES
    for level, place in zip(levels, _places(levels, bodies, (bottom, top), step), strict=True):
        row = rows.get(level)
        colour = INK if row is None else CHART_COLOURS[str(row["status"])]
        style: Json = {"textcoords": "offset points", "annotation_clip": False}
        heading = _heading(level, row)
        style |= {"fontsize": 9.5, "fontweight": "bold", "color": colour, "va": "bottom"}
        axes.annotate(heading, (right, place), (8, 12), **style)
        style |= {"fontsize": 8.2, "fontweight": "normal", "color": INK, "va": "top"}
        axes.annotate(_numbers(level, row, bodies.get(level)), (right, place), (8, 4), **style)


def _places(
    levels: list[str],
    bodies: Mapping[str, BodyHeights],
    ends: tuple[float, float],
    step: float,
) -> list[float]:
    """Return heights for the levels' words near their bodies, ``step`` apart at least."""
    known = {level: float(bodies[level].centre[2]) for level in levels if level in bodies}
    place = ends[1] - step / 2
    result: list[float] = []
    for level in levels:
        place = min(known.get(level, place), place)
        result.append(place)
        place -= step
    # The last words must not fall below the CT.
    lowest = [ends[0] + (len(result) - number - 0.5) * step for number in range(len(result))]
    return [max(own, least) for own, least in zip(result, lowest, strict=True)]


def _heading(level: str, row: Json | None) -> str:
    if row is None:
        return f"{level}  neighbour of T12, not judged"
    grade = row["grade"]
    words = STATUS_WORDS[str(row["status"])]
    if row["status"] == FRACTURED and grade >= 1:  # a small loss can be far from normal
        words += f", grade {int(grade)}"
    return f"{level}  {words}"


def _numbers(level: str, row: Json | None, body: BodyHeights | None) -> str:
    heights = [getattr(body, name) if body else np.nan for name in HEIGHTS]
    first = "not measured" if body is None else " / ".join(f"{h:.1f}" for h in heights) + " mm"
    if row is None:
        return first
    low = str(row["below"]).split(";")
    words = []
    for name in ratios_of(level):
        value = "n/a" if np.isnan(row[name]) else f"{row[name]:.2f}"
        words.append(f"{SHORT[name]} {value}" + (" (below cut)" if name in low else ""))
    return "\n".join([first, ", ".join(words[:2]), ", ".join(words[2:])])


def _rule_words(normal: NormalValues) -> str:
    if normal.source == "genant":
        return (
            "Fractured: a ratio at most 0.80 (Genant: 20, 25, more than 40 % loss = grade 1, 2, 3)."
        )
    if normal.source == "paper":
        return "Fractured: a ratio below 0.67 (0.91 - 3 × 0.08 for all levels and ratios)."
    people = f"{normal.patients} {'simulated ' if normal.simulated else ''}people"
    return f"Fractured: a ratio below mean - 3 SD of {people} without fracture."
