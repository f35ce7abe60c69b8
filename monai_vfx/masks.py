"""Vertebral bodies and muscles of one case on the CT's grid, from whatever label map there is.

``docs/masks.md`` states the rules in words. World is RAS+ in mm; labels are the project's own
(:mod:`monai_vfx.anatomy`), whatever the file's numbers were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from monai_vfx.anatomy import (
    LEVEL_NAMES,
    LEVELS,
    MUSCLES,
    VERTEBRAE,
    label_value,
    structure_of_name,
)
from monai_vfx.bodies import (
    bodies_if_whole,
    box_affine,
    derive_bodies,
    voxel_spacing,
)
from monai_vfx.dicom.files import reason
from monai_vfx.errors import CaseRefused, CaseWarning
from monai_vfx.label_files import LabelFile, called, is_label_file, read_label_file
from monai_vfx.label_schemes import find_structures
from monai_vfx.on_bone import check_on_bone
from monai_vfx.shapes import Affine, LabelVolume, Points, Region
from monai_vfx.wholeness import check_sizes, keep_largest_pieces

__all__ = ["Masks", "check_on_bone", "load_masks"]

GRID_TOLERANCE = 0.1
"""Grids coincide when their corners do within this share of the CT's smallest spacing."""

OUTSIDE_SHARE = 0.05
"""Largest share of T12-L4's voxels that may lie beside the CT (not above or below it)."""

REFUSED_MASK = "mask_refused.json"
"""Name of the file that stands in place of a mask that was to be made and was refused."""

DEEPEST_BODY_MM = 50.0
"""A body is shorter than this from front to back, a whole vertebra (70-90 mm) never."""

_KEPT = ("T11", *LEVELS, "L5")  # neighbours of the study's levels help to find axes and order
_WANTED = {name: label_value(name) for name in (*_KEPT, "T13", "L6", *MUSCLES)}
_EXTRA = (VERTEBRAE["T13"], VERTEBRAE["L6"])
_STUDY = tuple(VERTEBRAE[level] for level in LEVELS)
_MARGIN = 8  # voxels around the labels, so that a box's edge is not taken for the volume's


@dataclass(frozen=True)
class Masks:
    """Labels of one case on the CT's grid.

    Attributes:
        labels: (i, j, k) uint8, bodies of T11-L5 under VerSe numbers, 101 erector spinae, 102
            psoas, as far as the source holds them.
        scheme: how the source's labels were understood: ``names``, ``files``, ``verse``,
            ``totalsegmentator_v1`` or ``totalsegmentator_v2``.
        body_source: ``given`` where the source holds bodies, ``derived`` where they were taken
            out of whole vertebrae.
        levels: names of the levels that are present, cranial to caudal.
        cut: those of T12-L4 that reach the edge of the CT's or the mask's field of view.
        warnings: what a reader of a result must know.
        box: holds every label, where it is known; most of a CT holds none.
    """

    labels: LabelVolume
    scheme: str
    body_source: Literal["given", "derived"]
    levels: tuple[str, ...]
    cut: tuple[str, ...]
    warnings: tuple[CaseWarning, ...]
    box: Region | None = None


@dataclass(frozen=True)
class _Placed:
    """A file's labels on the CT's grid, and what was lost or changed on the way."""

    values: LabelVolume
    box: Region
    resampled: bool
    total: int  # voxels of T12-L4 in the file's grid
    beside: int  # of these, beside the CT
    beyond: int  # of these, above or below it
    levels: frozenset[int]  # of T12-L4 in the file


def load_masks(
    source: Path,
    shape: tuple[int, int, int],
    affine: Affine,
    scheme: str | None = None,
    bodies: Literal["auto", "given", "derive"] = "auto",
) -> Masks:
    """Read the labels of one case onto the CT's grid and check them.

    Args:
        source: a NIfTI or NRRD label map, or a folder with one such file a structure. A file
            named ``REFUSED_MASK`` holds the refusal of a mask that could not be made.
        shape: (i, j, k) of the CT.
        affine: (4, 4) of the CT, index → world mm, RAS+.
        scheme: ``verse``, ``totalsegmentator_v1`` or ``totalsegmentator_v2`` for a label map
            without names; found from the labels by default.
        bodies: ``given``: the labels are bodies; ``derive``: they are whole vertebrae; ``auto``:
            find out.

    Raises:
        CaseRefused: ``mask_unreadable``, ``file_truncated``, ``not_volume``, ``mask_fractional``,
            ``geometry_missing``, ``geometry_invalid``, ``mask_labels_unknown``, ``mask_empty``,
            ``mask_grid_mismatch``, ``level_missing`` or ``levels_out_of_order``; the one that a
            ``REFUSED_MASK`` holds.
        ValueError: when ``scheme`` or ``bodies`` is not one of the names above.
    """
    if bodies not in ("auto", "given", "derive"):
        raise ValueError(f"bodies ({bodies!r}) must be 'auto', 'given' or 'derive'")
    source = Path(source)
    if source.name == REFUSED_MASK:
        raise _recorded_refusal(source)
    used, files = _read_folder(source) if source.is_dir() else _read_map(source, scheme)
    placed = [_place(found, shape, affine) for found in files]
    warnings = _check_place(placed)
    labels = np.zeros(shape, dtype=np.uint8)
    for part in placed:
        view = labels[part.box]
        np.copyto(view, part.values, where=(part.values > 0) & ((view == 0) | (view > 100)))
    known = {value for part in placed for value in part.levels}
    around = _enclosing([part.box for part in placed], shape)  # most of a CT holds no label
    whole = _present(labels, around)
    _check_missing(known, whole, "lies outside the CT")
    warnings += _take_out_extra(labels, whole, affine, files)
    derived = _replace_by_bodies(labels, affine, bodies, around)
    if derived:
        text = "vertebral bodies were derived from whole vertebrae"
        warnings.append(CaseWarning("body_derived", text))
    warnings += keep_largest_pieces(labels[around])
    present = _present(labels, around)
    _check_missing(known, present, "has only its arch in the field of view")
    _check_order(present, affine)
    cut = _cut_levels(present, labels, affine, files)
    check_sizes(labels[around], cut)
    if cut:
        text = f"{', '.join(cut)} at the edge of the field of view"
        warnings.append(CaseWarning("level_cut", text))
    return Masks(
        labels=labels,
        scheme=used,
        body_source="derived" if derived else "given",
        levels=tuple(LEVEL_NAMES[value] for value in sorted(present)),
        cut=cut,
        warnings=tuple(warnings),
        box=around,
    )


def _recorded_refusal(path: Path) -> CaseRefused:
    """Return the refusal that was written when the mask of a case should have been made."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return CaseRefused(facts["code"], facts["message"], facts["remedy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CaseRefused("mask_unreadable", f"{REFUSED_MASK} holds no refusal ({reason(error)})")


def _read_map(path: Path, scheme: str | None) -> tuple[str, list[LabelFile]]:
    """Read one label map; its labels become the project's."""
    found = read_label_file(path)
    if found.values.size == 0:
        raise CaseRefused("mask_empty", f"{called(path)} holds no label")
    used, structures = find_structures(found, scheme)
    values = np.zeros(found.values.shape, dtype=np.uint8)
    boxes = ndimage.find_objects(found.values, max_label=max(structures))
    for value, structure in structures.items():
        box = boxes[value - 1] if value > 0 else None
        if structure in _WANTED and box is not None:
            values[box][found.values[box] == value] = _WANTED[structure]
    if not np.isin(values, _STUDY).any():
        raise CaseRefused("mask_empty", f"{called(path)} holds no voxel of T12-L4 ({used})")
    return used, [found.with_values(values)]


def _read_folder(folder: Path) -> tuple[str, list[LabelFile]]:
    """Read the files of a folder that are named after a structure the project needs."""
    named = {}
    for path in sorted(folder.iterdir()):
        structure = structure_of_name(path.name)
        if is_label_file(path) and structure in _WANTED:
            named[path] = _WANTED[structure]
    if not set(named.values()) & set(_STUDY):
        raise CaseRefused(
            "mask_labels_unknown",
            "no file of the folder is named after one of T12-L4",
            "Give a folder with files such as vertebrae_L1.nii.gz, or one label map.",
        )
    files = [
        found.with_values(found.values * np.uint8(value))
        for path, value in named.items()
        if (found := read_label_file(path, binary=True)).values.size
    ]
    if not any(int(found.values.max()) in _STUDY for found in files):
        raise CaseRefused("mask_empty", "the vertebrae of the folder are empty")
    return "files", files


def _place(found: LabelFile, shape: tuple[int, int, int], affine: Affine) -> _Placed:
    """Bring a file's labels onto the CT's grid, exactly where the grids' points coincide."""
    to_ct = np.asarray(np.linalg.inv(affine), dtype=np.float64) @ found.affine
    exact = _lattice_map(to_ct, found.shape, affine)
    counts = _count_outside(found, to_ct, shape, affine)
    if exact is None:
        values, box = _resample(found, to_ct, shape)
    else:
        values, box = _reindex(found, exact, shape)
    return _Placed(values, box, exact is None, *counts)


def _lattice_map(
    to_ct: Affine, mask_shape: tuple[int, int, int], affine: Affine
) -> npt.NDArray[np.int64] | None:
    """Return the whole-numbered index map (4, 4) from mask to CT, or None if there is none.

    The mask's axes may be permuted, flipped and shifted against the CT's, and be longer or
    shorter, as long as the points of both grids coincide.
    """
    rounded = np.rint(to_ct)
    turn = np.abs(rounded[:3, :3])
    if not ((turn.sum(axis=0) == 1).all() and (turn.sum(axis=1) == 1).all()):
        return None
    corners = np.array(list(product(*((0, size - 1) for size in mask_shape))), dtype=float)
    difference = to_ct - rounded
    apart = (corners @ difference[:3, :3].T + difference[:3, 3]) @ affine[:3, :3].T
    limit = GRID_TOLERANCE * voxel_spacing(affine).min()
    if np.linalg.norm(apart, axis=1).max() > limit:
        return None
    return rounded.astype(np.int64)


def _reindex(
    found: LabelFile, exact: npt.NDArray[np.int64], shape: tuple[int, int, int]
) -> tuple[LabelVolume, Region]:
    """Turn and flip the box of labels; what lies outside the CT is dropped."""
    order = np.abs(exact[:3, :3]).argmax(axis=1)  # CT axis → mask axis
    signs = exact[np.arange(3), order]
    values = found.values.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
    first = np.array(found.start)
    ends = np.array([first, first + found.values.shape - 1]) @ exact[:3, :3].T + exact[:3, 3]
    start = ends.min(axis=0)
    box, inner = [], []
    for begin, length, size in zip(start.tolist(), values.shape, shape, strict=True):
        low, high = max(begin, 0), max(min(begin + length, size), 0)
        low = min(low, high)
        box.append(slice(low, high))
        inner.append(slice(low - begin, high - begin))
    return values[tuple(inner)].astype(np.uint8), (box[0], box[1], box[2])


def _resample(
    found: LabelFile, to_ct: Affine, shape: tuple[int, int, int]
) -> tuple[LabelVolume, Region]:
    """Take at each CT voxel the label of the mask voxel that is nearest in the world."""
    first = np.array(found.start)
    ends = np.array([first - 0.5, first + found.values.shape - 0.5])
    corners = np.array(list(product(*ends.T))) @ to_ct[:3, :3].T + to_ct[:3, 3]
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, shape)
    high = np.maximum(np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, shape), low)
    back = np.linalg.inv(to_ct)
    values = ndimage.affine_transform(
        found.values.astype(np.uint8),
        back[:3, :3],
        offset=back[:3, :3] @ low + back[:3, 3] - first,
        output_shape=tuple((high - low).tolist()),
        order=0,
        mode="grid-constant",
    )
    i, j, k = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return values, (i, j, k)


def _count_outside(
    found: LabelFile, to_ct: Affine, shape: tuple[int, int, int], affine: Affine
) -> tuple[int, int, int, frozenset[int]]:
    """Count T12-L4's voxels in all, beside the CT and beyond its cranial and caudal ends."""
    study = np.isin(found.values, _STUDY)
    levels = frozenset(int(value) for value in np.unique(found.values[study]))
    index = np.argwhere(study) + found.start
    position = index @ to_ct[:3, :3].T + to_ct[:3, 3]
    out = (position < -0.5) | (position > np.array(shape) - 0.5)
    long_axis = _long_axis(affine)
    beside = np.delete(out, long_axis, axis=1).any(axis=1)
    beyond = out[:, long_axis] & ~beside
    return len(index), int(beside.sum()), int(beyond.sum()), levels


def _long_axis(affine: Affine) -> int:
    """Return the array axis that runs closest to cranio-caudal."""
    return int(np.abs(affine[2, :3] / voxel_spacing(affine)).argmax())


def _check_place(placed: list[_Placed]) -> list[CaseWarning]:
    """Refuse labels that do not lie in the CT; warn of those that do in part, or were resampled.

    A mask drawn on a longer scan may stick out above and below, which shows as cut or missing
    levels. Beside the CT nothing of it has a reason to be.
    """
    total, beside, beyond = (
        sum(getattr(part, name) for part in placed) for name in ("total", "beside", "beyond")
    )
    if beside > OUTSIDE_SHARE * total or beside + beyond == total:
        raise CaseRefused(
            "mask_grid_mismatch",
            f"{(beside + beyond) / total:.0%} of the voxels of T12-L4 lie outside the CT",
        )
    text = "the mask's grid differs from the CT's: nearest label"
    resampled = any(part.resampled for part in placed)
    warnings = [CaseWarning("mask_resampled", text)] if resampled else []
    if beside + beyond:
        text = f"{(beside + beyond) / total:.1%} of the voxels of T12-L4 lie outside the CT"
        warnings.append(CaseWarning("mask_partial", text))
    return warnings


def _enclosing(boxes: list[Region], shape: tuple[int, int, int]) -> Region:
    """Return the box around boxes, a margin wider as far as the volume reaches."""
    sides = [
        slice(
            max(min(box[axis].start for box in boxes) - _MARGIN, 0),
            min(max(box[axis].stop for box in boxes) + _MARGIN, shape[axis]),
        )
        for axis in range(3)
    ]
    return sides[0], sides[1], sides[2]


def _present(labels: LabelVolume, around: Region) -> dict[int, Points]:
    """Return each vertebra's voxel indices (n, 3); all lie in the box."""
    view = labels[around]
    origin = np.array([side.start for side in around])
    found = {}
    for value, box in enumerate(ndimage.find_objects(view), start=1):
        if box is not None and value in LEVEL_NAMES:
            inner = np.array([side.start for side in box])
            found[value] = np.argwhere(view[box] == value) + inner + origin
    return found


def _take_out_extra(
    labels: LabelVolume, present: dict[int, Points], affine: Affine, files: list[LabelFile]
) -> list[CaseWarning]:
    """Check the order with T13 and L6 and take both out, in place: others may count differently."""
    extra = [value for value in _EXTRA if any((file.values == value).any() for file in files)]
    if not extra:
        return []
    # T11 may show by its spinous process alone, which lies as low as T12.
    _check_order({v: at for v, at in present.items() if v >= _STUDY[0]}, affine)
    for value in set(extra) & set(present):
        labels[tuple(present[value].T)] = 0
    text = f"labelled: {', '.join(LEVEL_NAMES[value] for value in extra)}; check the numbering"
    return [CaseWarning("level_extra", f"a vertebra beyond T12 and L1-L5 is {text}")]


def _check_missing(known: set[int], present: Iterable[int], why: str) -> None:
    """Refuse when one of T12-L4 is missing; ``why`` holds for those the source does have."""
    missing = [value for value in _STUDY if value not in present]
    if missing:
        reasons = (
            f"{LEVEL_NAMES[value]} {why if value in known else 'has no voxel in the mask'}"
            for value in missing
        )
        raise CaseRefused("level_missing", "; ".join(reasons))


def _replace_by_bodies(labels: LabelVolume, affine: Affine, bodies: str, around: Region) -> bool:
    """Cut whole vertebrae down to their bodies, in place; say whether that was done."""
    if bodies == "given" or (bodies == "auto" and _all_short(labels[around], affine)):
        return False
    rule = derive_bodies if bodies == "derive" else bodies_if_whole
    # Upright axes: a turn of the patient in the scanner does not change a body's voxels.
    cut = rule(labels[around], box_affine(upright(affine), around))
    if cut is None:
        return False
    labels[around] = cut
    return True


def _all_short(labels: LabelVolume, affine: Affine) -> bool:
    """Whether every level of T12-L4 is too short from front to back to have a spinous process."""
    axes = upright(affine)
    axis = int(np.flatnonzero(axes[1, :3])[0])
    boxes = ndimage.find_objects(labels, max_label=max(_STUDY))
    depths = [boxes[v - 1][axis].stop - boxes[v - 1][axis].start for v in _STUDY if boxes[v - 1]]
    return bool(max(depths, default=0) * abs(axes[1, axis]) < DEEPEST_BODY_MM)


def upright(affine: Affine) -> Affine:
    """Return an affine of the same voxel edges whose axes lie along the nearest of the world's.

    >>> c, s = np.cos(0.1), np.sin(0.1)
    >>> turned = np.diag([2.0, 3.0, -4.0, 1.0])
    >>> turned[:2, :2] = np.array([[c, -s], [s, c]]) * [2, 3]
    >>> np.diag(upright(turned)).tolist()
    [2.0, 3.0, -4.0, 1.0]
    """
    from nibabel.orientations import io_orientation

    out = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (world, sign) in enumerate(io_orientation(affine)):
        out[int(world), axis] = sign * round(float(np.linalg.norm(affine[:3, axis])), 6)
    return out


def _check_order(present: dict[int, Points], affine: Affine) -> None:
    """Refuse levels whose centroids do not follow each other from head to feet."""
    thirteenth = VERTEBRAE["T13"]  # its number is the last, its place is above L1
    values = sorted(present, key=lambda v: VERTEBRAE["T12"] + 0.5 if v == thirteenth else v)
    heights = [float(present[value].mean(axis=0) @ affine[2, :3]) for value in values]
    wrong = [
        f"{LEVEL_NAMES[upper]} is not above {LEVEL_NAMES[lower]}"
        for upper, lower, high, low in zip(
            values[:-1], values[1:], heights[:-1], heights[1:], strict=True
        )
        if high <= low
    ]
    if wrong:
        raise CaseRefused("levels_out_of_order", "; ".join(wrong))


def _cut_levels(
    present: dict[int, Points], labels: LabelVolume, affine: Affine, files: list[LabelFile]
) -> tuple[str, ...]:
    """Return those of T12-L4 that touch an edge of the CT, or the mask's first or last slice."""
    last = np.array(labels.shape) - 1
    grids = {(found.shape, found.affine.tobytes()): found for found in files}.values()
    cut = []
    for value in _STUDY:
        index = present[value]
        touches = bool(((index == 0) | (index == last)).any())
        if touches or any(_reaches_end(index, affine, found) for found in grids):
            cut.append(LEVEL_NAMES[value])
    return tuple(cut)


def _reaches_end(index: Points, affine: Affine, found: LabelFile) -> bool:
    """Say whether CT voxels (n, 3) reach the first or last slice of a mask's own grid."""
    if found.cropped:
        return False
    axis = _long_axis(found.affine)
    to_mask = np.linalg.inv(found.affine) @ affine
    position = index @ to_mask[axis, :3] + to_mask[axis, 3]
    return bool((position < 0.5).any() or (position > found.shape[axis] - 1.5).any())
