"""Vertebral bodies and muscles of one case on the CT's grid, from whatever mask there is.

``docs/masks.md`` states the rules in words. World is RAS+ in mm; labels are the project's own
(:mod:`monai_vfx.core.anatomy`), whatever the file's numbers were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from monai_vfx.case.checks.body_size import check_body_sizes
from monai_vfx.case.checks.fragments import check_volumes, remove_fragments
from monai_vfx.case.mask.bodies import bodies_if_whole, derive_bodies
from monai_vfx.case.mask.read import read_mask
from monai_vfx.case.mask.resample import check_place, enclosing, join, place
from monai_vfx.core.anatomy import LEVEL_NAMES, LEVELS, SACRUM_LABEL, VERTEBRAE
from monai_vfx.core.arrays import Affine, LabelVolume, Points, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import box_affine, long_axis, upright
from monai_vfx.io.label_map import LabelFile

MAX_BODY_DEPTH_MM = 50.0
"""A body is shorter than this from front to back, a whole vertebra (70-90 mm) never."""

_LUMBAR = 5  # vertebrae, in most people
_EXTRA = (VERTEBRAE["T13"], VERTEBRAE["L6"])
_STUDY = tuple(VERTEBRAE[level] for level in LEVELS)


@dataclass(frozen=True)
class Masks:
    """Labels of one case on the CT's grid.

    Attributes:
        labels: (i, j, k) uint8, bodies of T11-L5 under VerSe numbers, 101 erector spinae, 102
            psoas, as far as the source holds them.
        scheme: how the source's labels were understood: ``names``, ``files``, ``dicom_seg``,
            ``rtstruct``, ``mapping``, ``verse``, ``totalsegmentator_v1`` or
            ``totalsegmentator_v2``.
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


def load_masks(
    source: Path,
    shape: tuple[int, int, int],
    affine: Affine,
    scheme: str | None = None,
    bodies: Literal["auto", "given", "derive"] = "auto",
    frame_of_reference: str | None = None,
) -> Masks:
    """Read the labels of one case onto the CT's grid and check them.

    Args:
        source: a NIfTI or NRRD label map, a folder with one such file a structure, or a DICOM SEG
            or RTSTRUCT, also as the only one in a folder or archive. A file named ``REFUSED_MASK``
            holds the refusal of a mask that could not be made.
        shape: (i, j, k) of the CT.
        affine: (4, 4) of the CT, index → world mm, RAS+.
        scheme: ``verse``, ``totalsegmentator_v1`` or ``totalsegmentator_v2`` for a label map
            without names; found from the labels by default. Or the path of a mapping
            (:mod:`monai_vfx.case.mask.mapping`), which then says what every label means.
        bodies: ``given``: the labels are bodies; ``derive``: they are whole vertebrae; ``auto``:
            as a mapping states it, else find out.
        frame_of_reference: FrameOfReferenceUID of the CT, where it is DICOM; a SEG or RTSTRUCT
            must have the same.

    Raises:
        CaseRefused: ``mask_unreadable``, ``file_truncated``, ``not_volume``, ``mask_fractional``,
            ``geometry_missing``, ``geometry_invalid``, ``mask_labels_unknown``, ``mask_empty``,
            ``mask_grid_mismatch``, ``mask_overlaps``, ``several_masks``, ``contours_missing``,
            ``level_missing``, ``levels_out_of_order``, ``levels_gap`` or ``body_impossible``; the
            one that a ``REFUSED_MASK`` holds.
        SettingError: the mapping cannot be used.
        ValueError: when ``scheme`` or ``bodies`` is not one of the names above.
    """
    if bodies not in ("auto", "given", "derive"):
        raise ValueError(f"bodies ({bodies!r}) must be 'auto', 'given' or 'derive'")
    read = read_mask(Path(source), affine, scheme, frame_of_reference)
    if bodies == "auto" and read.content is not None:
        bodies = "given" if read.content == "body" else "derive"
    placed = [place(found, shape, affine) for found in read.files]
    warnings = check_place(placed)
    labels = join(placed, shape)
    known = {value for part in placed for value in part.levels}
    around = enclosing([part.box for part in placed], shape)  # most of a CT holds no label
    whole = _present(labels, around)
    _check_missing(known, whole, "lies outside the CT")
    warnings += _take_out_extra(labels, whole, affine, read.files)
    derived = _replace_by_bodies(labels, affine, bodies, around)
    if derived:
        text = "vertebral bodies were derived from whole vertebrae"
        warnings.append(CaseWarning("body_derived", text))
    warnings += remove_fragments(labels[around])
    present = _present(labels, around)
    _check_missing(known, present, "has only its arch in the field of view")
    _check_order(present, affine)
    cut = _cut_levels(present, labels, affine, read.files)
    check_volumes(labels[around], cut)
    warnings += check_body_sizes(present, affine, cut)
    if cut:
        text = f"{', '.join(cut)} at the edge of the field of view"
        warnings.append(CaseWarning("level_cut", text))
    return Masks(
        labels=labels,
        scheme=read.scheme,
        body_source="derived" if derived else "given",
        levels=tuple(LEVEL_NAMES[value] for value in sorted(present)),
        cut=cut,
        warnings=tuple(warnings),
        box=around,
    )


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
    """Check the order with T13 and L6 and take both out, and the sacrum, in place.

    With any of them others may count the levels differently; the warnings say what was counted.
    """
    extra = [value for value in _EXTRA if any((file.values == value).any() for file in files)]
    sacrum = any((file.values == SACRUM_LABEL).any() for file in files)
    labels[labels == SACRUM_LABEL] = 0
    lumbar = [name for value in sorted(present) if (name := LEVEL_NAMES[value]).startswith("L")]
    above = " above the sacrum" if sacrum else ""
    counted = f"{len(lumbar)} lumbar vertebrae are labelled{above} ({lumbar[0]}-{lumbar[-1]})"
    if extra:
        # T11 may show by its spinous process alone, which lies as low as T12.
        _check_order({v: at for v, at in present.items() if v >= _STUDY[0]}, affine)
        for value in set(extra) & set(present):
            labels[tuple(present[value].T)] = 0
        text = f"labelled: {', '.join(LEVEL_NAMES[value] for value in extra)}; {counted}"
        return [CaseWarning("level_extra", f"a vertebra beyond T12 and L1-L5 is {text}")]
    if sacrum and len(lumbar) != _LUMBAR:
        return [CaseWarning("lumbar_count", f"{counted}; five are usual")]
    return []


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
    return bool(max(depths, default=0) * abs(axes[1, axis]) < MAX_BODY_DEPTH_MM)


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
    axis = long_axis(found.affine)
    to_mask = np.linalg.inv(found.affine) @ affine
    position = index @ to_mask[axis, :3] + to_mask[axis, 3]
    return bool((position < 0.5).any() or (position > found.shape[axis] - 1.5).any())
