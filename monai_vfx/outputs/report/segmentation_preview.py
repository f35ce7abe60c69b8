"""A picture to check by eye that a mask lies on the right vertebrae and calls them right.

The CT along the spine from the side and from the front, with the labels and their names, and the
slices that the network takes. Drawn in world space, so that flipped, oblique and anisotropic CT
look alike; the patient's name is nowhere in it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy import ndimage

from monai_vfx.core.anatomy import LEVEL_NAMES
from monai_vfx.core.arrays import Affine, HUVolume, LabelVolume, Points, Region
from monai_vfx.core.geometry import box_affine, world_positions
from monai_vfx.io.volume import Volume
from monai_vfx.outputs.report.figures import orientation_letter
from monai_vfx.outputs.report.pixels import WINDOW_HU

PIXEL_MM = 0.8
SIDE_MM = (70.0, 60.0)
"""How far the view from the side reaches behind and in front of the bodies' centres."""
FRONT_MM = 75.0
"""How far the view from the front reaches to either side."""
ENDS_MM = 40.0
"""How far both reach beyond the centres of the first and the last body."""
TILE_MM = (96.0, 144.0)
"""Of a slice: antero-posterior and left-right, as the network takes it by default."""
TILE_BEHIND_MM = 24.0
"""How far the middle of a slice's picture lies behind the body's."""
COLOURS = ("#ffb000", "#57c4e5")
"""Of the bodies by turns, so that neighbours differ."""
MUSCLE_COLOUR = "#8fce6a"
INK, QUIET = "#1c2733", "#5b6875"
_OUTLINE = [patheffects.withStroke(linewidth=2.6, foreground="black")]
_INCHES = 6.2  # height of the two views
_TITLE_LETTERS = 115  # in a line


@dataclass(frozen=True)
class PictureSlices:
    """The slices that the network takes, cranial to caudal.

    Attributes:
        centres: (n, 3) of the body in each, mm, RAS+.
        levels: (n,) label value of the body.
    """

    centres: Points
    levels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class PictureVoxels:
    """The box of a CT that is drawn, in memory."""

    hu: HUVolume
    labels: LabelVolume
    affine: Affine

    def sample(self, world: Points) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return HU (NaN outside) and label at positions (rows, columns, 3) in mm, RAS+."""
        inverse = np.linalg.inv(self.affine)
        index = np.moveaxis(world @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)
        hu = ndimage.map_coordinates(self.hu, index, order=1, mode="nearest")
        labels = ndimage.map_coordinates(self.labels, index, order=0, mode="constant")
        size = np.array(self.hu.shape).reshape(3, 1, 1)
        outside = ((index < -0.5) | (index > size - 0.5)).any(axis=0)
        return np.where(outside, np.nan, hu).astype(np.float32), np.where(outside, 0, labels)


def segmentation_picture(
    volume: Volume,
    labels: LabelVolume,
    path: str | Path,
    *,
    title: str,
    notes: Mapping[str, str] | None = None,
    slices: PictureSlices | None = None,
) -> Path:
    """Draw the labels of a CT as PNG.

    Args:
        volume: the CT.
        labels: (i, j, k) on its grid; at least one vertebral body under its VerSe number.
        path: of the PNG.
        title: heads the picture. No patient's name or ID.
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
    voxels = PictureVoxels(volume.read(box), labels[box], box_affine(volume.affine, box))
    low, high = spots[:, 2].min() - ENDS_MM, spots[:, 2].max() + ENDS_MM
    tall = high - low
    tiles = 0 if slices is None else 2
    width, height = 11.6, _INCHES + 0.95 + tiles * 1.25
    figure = Figure(figsize=(width, height), facecolor="white")
    top = height - 0.8
    left = 0.3
    views: list[Axes] = []
    for side, letters, extent in (("left", "AP", sum(SIDE_MM)), ("front", "RL", 2 * FRONT_MM)):
        wide = min(_INCHES * extent / tall, 5.4)
        place = (left / width, (top - _INCHES) / height, wide / width, _INCHES / height)
        axes = figure.add_axes(place)
        _draw_view(axes, spine_view(voxels, spots, side, (low, high)), letters)
        views.append(axes)
        left += wide + 0.2
    for level, centre in centres.items():
        _name(views[0], centre[1] + 22.0, centre[2], level, "right")
        _name(views[1], centre[0] - 27.0, centre[2], level, "left")
        beside = top - _INCHES * (high - centre[2]) / tall
        words = f"{level}  {(notes or {}).get(level, '')}"
        figure.text(left / width, beside / height, words, fontsize=9, color=INK, va="center")
    if slices is not None:
        for axes, axis in zip(views, (1, 0), strict=True):
            _mark_slices(axes, slices, volume.affine, axis)
        _draw_tiles(figure, voxels, slices, volume.affine)
    lines = textwrap.wrap(title, _TITLE_LETTERS)
    for number, line in enumerate(lines):
        at = 1 - (0.2 + 0.2 * number) / height
        figure.text(0.3 / width, at, line, fontsize=11, color=INK, va="center")
    words = "Research software, not a medical device: look whether every name is right."
    at = 1 - (0.2 + 0.2 * len(lines)) / height
    figure.text(0.3 / width, at, words, fontsize=8, color=QUIET, va="center")
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
    """Return the box of voxels around what is drawn."""
    margin_low = np.array([FRONT_MM, max(SIDE_MM[0], TILE_MM[0] / 2 + TILE_BEHIND_MM), ENDS_MM])
    margin_high = np.array([FRONT_MM, SIDE_MM[1], ENDS_MM])
    low, high = spots.min(axis=0) - margin_low, spots.max(axis=0) + margin_high
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    inverse = np.asarray(np.linalg.inv(volume.affine), dtype=np.float64)
    index = world_positions(inverse, corners)
    first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.array(volume.shape) - 1)
    last = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, first + 1, volume.shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return i, j, k


@dataclass(frozen=True)
class View:
    """A plane along the spine, from the patient's left or from the front.

    Attributes:
        hu: (rows, columns) HU, head up, NaN outside the CT. From the left the patient's front is
            at the reader's left, from the front the patient's right is.
        labels: (rows, columns).
        extent: (left, right, bottom, top) in mm RAS, as matplotlib takes it.
    """

    hu: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    extent: tuple[float, float, float, float]


def spine_view(
    voxels: PictureVoxels, centres: Points, side: str, ends_mm: tuple[float, float]
) -> View:
    """Sample the plane that follows the bodies' centres.

    Args:
        voxels: the CT and its labels.
        centres: (n, 3) of the bodies, mm, RAS+, head to feet.
        side: ``left`` or ``front``: where the reader looks from.
        ends_mm: (lowest, highest) place, mm.
    """
    axis = 1 if side == "left" else 0
    other = 1 - axis
    spots = centres[::-1]  # feet to head, as interp needs
    z = np.arange(ends_mm[1] - PIXEL_MM / 2, ends_mm[0], -PIXEL_MM)
    middle = float(np.median(spots[:, axis]))
    behind, before = SIDE_MM if axis == 1 else (FRONT_MM, FRONT_MM)
    start, stop = middle + before, middle - behind
    across = np.arange(start - PIXEL_MM / 2, stop, -PIXEL_MM)
    world = np.empty((len(z), len(across), 3))
    world[..., axis] = across
    world[..., other] = np.interp(z, spots[:, 2], spots[:, other])[:, None]
    world[..., 2] = z[:, None]
    hu, labels = voxels.sample(world)
    return View(hu, labels, (start, stop, ends_mm[0], ends_mm[1]))


def slice_view(voxels: PictureVoxels, centre: Points, affine: Affine) -> View:
    """Sample a slice as it is seen from the feet, the patient's right on the reader's left.

    Args:
        voxels: the CT and its labels.
        centre: (3,) of the body in the slice, mm, RAS+.
        affine: of the CT, whose slice directions are taken.
    """
    left, back = _in_plane(affine)
    rows = np.arange(-TILE_MM[0] / 2 + 0.5, TILE_MM[0] / 2)
    columns = np.arange(-TILE_MM[1] / 2 + 0.5, TILE_MM[1] / 2)
    middle = centre + TILE_BEHIND_MM * back
    world = middle + rows[:, None, None] * back + columns[None, :, None] * left
    hu, labels = voxels.sample(world)
    half = (TILE_MM[1] / 2, TILE_MM[0] / 2)
    return View(hu, labels, (-half[0], half[0], -half[1], half[1]))


def _draw_view(axes: Axes, view: View, letters: str) -> None:
    _show(axes, view)
    for x, letter, ha in ((0.02, letters[0], "left"), (0.98, letters[1], "right")):
        orientation_letter(axes, x, 0.5, letter, ha, "center")
    orientation_letter(axes, 0.5, 0.985, "H", "center", "top")
    orientation_letter(axes, 0.5, 0.015, "F", "center", "bottom")


def _show(axes: Axes, view: View) -> None:
    """Show HU in grey and the labels over them in colour."""
    hu, labels, extent = view.hu, view.labels, view.extent
    axes.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], extent=extent, aspect="auto")
    shade = np.zeros((*labels.shape, 4))
    for value in np.unique(labels[labels > 0]):
        body = int(value) in LEVEL_NAMES
        inside = labels == value
        rim = inside & ~ndimage.binary_erosion(inside)
        colour = COLOURS[int(value) % 2] if body else MUSCLE_COLOUR
        shade[inside] = to_rgba(colour, 0.28 if body else 0.12)
        shade[rim] = to_rgba(colour, 0.95 if body else 0.5)
    axes.imshow(shade, extent=extent, interpolation="nearest", aspect="auto")
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])


def _name(axes: Axes, x: float, z: float, words: str, ha: str) -> None:
    axes.text(
        x,
        z,
        words,
        ha=ha,
        va="center",
        color="white",
        fontsize=9.5,
        fontweight="bold",
        path_effects=_OUTLINE,
        clip_on=True,
    )


def _in_plane(affine: Affine) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the unit vectors within a slice that point most to the patient's left and back."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left = axes[:, np.abs(axes[0]).argmax()]
    back = axes[:, np.abs(axes[1]).argmax()]
    return -left * np.sign(left[0]), -back * np.sign(back[1])


def _mark_slices(axes: Axes, slices: PictureSlices, affine: Affine, axis: int) -> None:
    """Draw a short line where each slice cuts the view."""
    left, back = _in_plane(affine)
    along = back if axis == 1 else left
    for centre in slices.centres:
        ends = np.stack([centre - 17.0 * along, centre + 17.0 * along])
        axes.plot(ends[:, axis], ends[:, 2], color="white", linewidth=0.8, alpha=0.8)


def _draw_tiles(
    figure: Figure, voxels: PictureVoxels, slices: PictureSlices, affine: Affine
) -> None:
    """Draw the slices in two rows, cranial to caudal."""
    width, height = figure.get_size_inches()
    columns = -(-len(slices.centres) // 2)
    wide = (width - 0.5) / columns
    for n, (centre, level) in enumerate(zip(slices.centres, slices.levels, strict=True)):
        row, column = divmod(n, columns)
        place = (
            (0.3 + column * wide) / width,
            (0.1 + (1 - row) * 1.25) / height,
            (wide - 0.08) / width,
            1.13 / height,
        )
        axes = figure.add_axes(place)
        view = slice_view(voxels, centre, affine)
        _show(axes, view)
        axes.text(
            view.extent[0] + 3,
            view.extent[3] - 3,
            LEVEL_NAMES[int(level)],
            color="white",
            fontsize=8,
            fontweight="bold",
            va="top",
            path_effects=_OUTLINE,
        )
