"""A preview that shows whether a mask covers the right vertebrae and names them correctly.

The CT along the spine from the left and from the front, with labels and names, and the slices that
the network takes. Drawn in world space: flipped, oblique and anisotropic CTs look alike. It never
shows the patient's name.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy import ndimage

from monai_vfx.core.anatomy import LEVEL_NAMES
from monai_vfx.core.arrays import Affine, HUVolume, Json, LabelVolume, Points, Region
from monai_vfx.core.geometry import box_affine, world_positions
from monai_vfx.io.volume import Volume
from monai_vfx.outputs.report.figures import INK, QUIET, orientation_letters, outline
from monai_vfx.outputs.report.planes import enclosing_box, plane_along_spine, sample
from monai_vfx.outputs.report.slice_montage import WINDOW_HU

PIXEL_MM = 0.8
SIDE_MM = (70.0, 60.0)
"""How far the view from the left extends behind and in front of the bodies' centres."""
FRONT_MM = 75.0
"""How far the view from the front extends to either side."""
ENDS_MM = 40.0
"""How far both extend beyond the centres of the first and the last body."""
TILE_MM = (96.0, 144.0)
"""Of a slice: antero-posterior and left-right, as the network takes it by default."""
TILE_BEHIND_MM = 24.0
"""How far the middle of a tile lies behind the body's."""
COLOURS = ("#ffb000", "#57c4e5")
"""Of the bodies in turn, so that neighbours differ."""
MUSCLE_COLOUR = "#8fce6a"
_INCHES = 6.2  # height of the two views
_TITLE_LETTERS = 115  # in a line


@dataclass(frozen=True)
class PreviewSlices:
    """The slices that the network takes, cranial to caudal.

    Attributes:
        centres: (n, 3) of the body in each, mm, RAS+.
        levels: (n,) label value of the body.
    """

    centres: Points
    levels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class PreviewVoxels:
    """The box of a CT that is drawn, in memory."""

    hu: HUVolume
    labels: LabelVolume
    affine: Affine


@dataclass(frozen=True)
class View:
    """A plane of the CT with its labels.

    Attributes:
        hu: (rows, columns) HU, NaN outside the CT.
        labels: (rows, columns).
        extent: (left, right, bottom, top) in mm, as matplotlib takes it.
    """

    hu: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    extent: tuple[float, float, float, float]


def write_preview(
    volume: Volume,
    labels: LabelVolume,
    path: str | Path,
    *,
    title: str,
    notes: Mapping[str, str] | None = None,
    slices: PreviewSlices | None = None,
) -> Path:
    """Draw the labels of a CT as PNG.

    Args:
        volume: the CT.
        labels: (i, j, k) on its grid; at least one vertebral body under its VerSe number.
        path: of the PNG.
        title: above the views. No patient's name or ID.
        notes: level → further words beside its name, such as its probability.
        slices: those that the network takes; without them only the two views are drawn.

    Returns:
        ``path``.

    Raises:
        ValueError: there is no vertebral body.
        CaseRefused: voxels cannot be read.
    """
    centres = body_centres(labels, volume.affine)
    if not centres:
        raise ValueError("labels: no vertebral body is in the label map")
    spots = np.array(list(centres.values()))
    box = drawn_box(volume, spots)
    voxels = PreviewVoxels(volume.read(box), labels[box], box_affine(volume.affine, box))
    width, height = 11.6, _INCHES + 0.95 + (2.5 if slices is not None else 0.0)
    figure = Figure(figsize=(width, height), facecolor="white")
    views = _draw_views(figure, voxels, centres, notes or {})
    if slices is not None:
        for axes, axis in zip(views, (1, 0), strict=True):
            _mark_slices(axes, slices, volume.affine, axis)
        _draw_tiles(figure, voxels, slices, volume.affine)
    lines = textwrap.wrap(title, _TITLE_LETTERS)
    words = "Research software, not a medical device. Check that every name is correct."
    for number, line in enumerate([*lines, words], start=1):
        size, colour = (8, QUIET) if line is words else (11, INK)
        place = (0.3 / width, 1 - 0.2 * number / height)
        figure.text(*place, line, va="center", fontsize=size, color=colour)
    figure.savefig(path, format="png", dpi=110)
    return Path(path)


def body_centres(labels: LabelVolume, affine: Affine) -> dict[str, npt.NDArray[np.float64]]:
    """Return the centroid of each vertebral body in mm, RAS+, head to feet."""
    found = {}
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None and value in LEVEL_NAMES:
            index = np.argwhere(labels[box] == value).mean(axis=0) + [side.start for side in box]
            found[LEVEL_NAMES[value]] = world_positions(affine, index[None])[0]
    return dict(sorted(found.items(), key=lambda item: -item[1][2]))


def drawn_box(volume: Volume, spots: Points) -> Region:
    """Return the box of voxels around what is drawn; ``spots`` (n, 3) are the bodies' centres."""
    margin_low = np.array([FRONT_MM, max(SIDE_MM[0], TILE_MM[0] / 2 + TILE_BEHIND_MM), ENDS_MM])
    margin_high = np.array([FRONT_MM, SIDE_MM[1], ENDS_MM])
    low, high = spots.min(axis=0) - margin_low, spots.max(axis=0) + margin_high
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    return enclosing_box(corners, volume.affine, volume.shape)


def spine_view(
    voxels: PreviewVoxels, centres: Points, side: str, ends_mm: tuple[float, float]
) -> View:
    """Sample the plane that follows the bodies' centres.

    Args:
        voxels: the CT and its labels.
        centres: (n, 3) of the bodies, mm, RAS+.
        side: ``left`` or ``front``: where the reader looks from.
        ends_mm: z of the lower and the upper edge, mm.
    """
    axis, behind, before = (1, *SIDE_MM) if side == "left" else (0, FRONT_MM, FRONT_MM)
    middle = float(np.median(centres[:, axis]))
    edges = (middle + before, middle - behind)
    world = plane_along_spine(centres, axis, edges, ends_mm, PIXEL_MM)
    return _view(voxels, world, (*edges, *ends_mm))


def slice_view(voxels: PreviewVoxels, centre: Points, affine: Affine) -> View:
    """Sample a slice as it is viewed from the feet, the patient's right on the reader's left.

    Args:
        voxels: the CT and its labels.
        centre: (3,) of the body in the slice, mm, RAS+.
        affine: of the CT, whose slice directions are taken.
    """
    left, back = _in_plane(affine)
    half = (TILE_MM[1] / 2, TILE_MM[0] / 2)
    rows, columns = np.arange(-half[1] + 0.5, half[1]), np.arange(-half[0] + 0.5, half[0])
    middle = centre + TILE_BEHIND_MM * back
    world = middle + rows[:, None, None] * back + columns[None, :, None] * left
    return _view(voxels, world, (-half[0], half[0], -half[1], half[1]))


def _view(voxels: PreviewVoxels, world: Points, extent: tuple[float, float, float, float]) -> View:
    hu, outside = sample(voxels.hu, voxels.affine, world)
    labels, _ = sample(voxels.labels, voxels.affine, world, order=0)
    hu = np.where(outside, np.nan, hu).astype(np.float32)
    return View(hu, np.where(outside, 0, labels), extent)


def _draw_views(
    figure: Figure,
    voxels: PreviewVoxels,
    centres: Mapping[str, npt.NDArray[np.float64]],
    notes: Mapping[str, str],
) -> list[Axes]:
    """Draw the spine from the left and from the front, and the names of the bodies beside it."""
    width, height = figure.get_size_inches()
    spots = np.array(list(centres.values()))
    low, high = spots[:, 2].min() - ENDS_MM, spots[:, 2].max() + ENDS_MM
    top, left = height - 0.8, 0.3
    views = []
    for side, letters, extent in (("left", "APHF", sum(SIDE_MM)), ("front", "RLHF", 2 * FRONT_MM)):
        wide = min(_INCHES * extent / (high - low), 5.4)
        place = (left / width, (top - _INCHES) / height, wide / width, _INCHES / height)
        axes = figure.add_axes(place)
        _show(axes, spine_view(voxels, spots, side, (low, high)))
        orientation_letters(axes, letters)
        views.append(axes)
        left += wide + 0.2
    for level, centre in centres.items():
        _name(views[0], centre[1] + 22.0, centre[2], level, ha="right")
        _name(views[1], centre[0] - 27.0, centre[2], level, ha="left")
        beside = top - _INCHES * (high - centre[2]) / (high - low)
        words = f"{level}  {notes.get(level, '')}"
        figure.text(left / width, beside / height, words, fontsize=9, color=INK, va="center")
    return views


def _show(axes: Axes, view: View) -> None:
    """Show HU in grey and the labels over them in colour."""
    low, high = WINDOW_HU
    axes.imshow(view.hu, cmap="gray", vmin=low, vmax=high, extent=view.extent, aspect="auto")
    shade = np.zeros((*view.labels.shape, 4))
    for value in np.unique(view.labels[view.labels > 0]):
        body = int(value) in LEVEL_NAMES
        inside = view.labels == value
        rim = inside & ~ndimage.binary_erosion(inside)
        colour = COLOURS[int(value) % 2] if body else MUSCLE_COLOUR
        shade[inside] = to_rgba(colour, 0.28 if body else 0.12)
        shade[rim] = to_rgba(colour, 0.95 if body else 0.5)
    axes.imshow(shade, extent=view.extent, interpolation="nearest", aspect="auto")
    axes.set(xlim=view.extent[:2], ylim=view.extent[2:], facecolor="black", xticks=[], yticks=[])


def _name(axes: Axes, x: float, y: float, words: str, **style: Any) -> None:
    shown: Json = {"va": "center", "fontsize": 9.5, "color": "white", "weight": "bold", **style}
    axes.text(x, y, words, path_effects=outline(2.6), clip_on=True, **shown)


def _in_plane(affine: Affine) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the unit vectors within a slice that point most to the patient's left and back."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left = axes[:, np.abs(axes[0]).argmax()]
    back = axes[:, np.abs(axes[1]).argmax()]
    return -left * np.sign(left[0]), -back * np.sign(back[1])


def _mark_slices(axes: Axes, slices: PreviewSlices, affine: Affine, axis: int) -> None:
    """Draw a short line where each slice cuts the view."""
    along = _in_plane(affine)[axis]
    for centre in slices.centres:
        ends = np.stack([centre - 17.0 * along, centre + 17.0 * along])
        axes.plot(ends[:, axis], ends[:, 2], color="white", linewidth=0.8, alpha=0.8)


def _draw_tiles(
    figure: Figure, voxels: PreviewVoxels, slices: PreviewSlices, affine: Affine
) -> None:
    """Draw the slices in two rows, cranial to caudal."""
    width, height = figure.get_size_inches()
    columns = -(-len(slices.centres) // 2)
    wide = (width - 0.5) / columns
    for n, (centre, level) in enumerate(zip(slices.centres, slices.levels, strict=True)):
        row, column = divmod(n, columns)
        corner = ((0.3 + column * wide) / width, (0.1 + (1 - row) * 1.25) / height)
        axes = figure.add_axes((*corner, (wide - 0.08) / width, 1.13 / height))
        view = slice_view(voxels, centre, affine)
        _show(axes, view)
        place = (view.extent[0] + 3, view.extent[3] - 3)
        _name(axes, *place, LEVEL_NAMES[int(level)], va="top", fontsize=8)
