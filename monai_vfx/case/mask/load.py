"""Load the vertebral bodies and muscles of one case onto the CT's grid, from any kind of mask.

``docs/masks.md`` states the rules. World is RAS+ in mm; labels are the project's own
(:mod:`monai_vfx.core.anatomy`), whatever the file's numbers were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from monai_vfx.case.checks.body_size import check_body_sizes
from monai_vfx.case.checks.fragments import check_volumes, remove_fragments
from monai_vfx.case.mask.bodies import bodies_if_whole, derive_bodies
from monai_vfx.case.mask.read import read_mask
from monai_vfx.case.mask.resample import check_place, enclosing, join, place
from monai_vfx.core.anatomy import LEVEL_NAMES, SACRUM_LABEL, STUDY_LABELS, VERTEBRAE
from monai_vfx.core.arrays import Affine, LabelVolume, Points, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.geometry import (
    box_affine,
    label_voxels,
    long_axis,
    upright,
    world_positions,
)
from monai_vfx.io.label_map import LabelFile

MAX_BODY_DEPTH_MM = 50.0
"""Bodies are shorter than this from front to back, whole vertebrae (70-90 mm) longer."""

_EXTRA = (VERTEBRAE["T13"], VERTEBRAE["L6"])


@dataclass(frozen=True)
class Masks:
    """Labels of one case on the CT's grid.

    Attributes:
        labels: (i, j, k) uint8, bodies of T11-L5 under VerSe numbers, 101 erector spinae, 102
            psoas, as far as the source holds them.
        scheme: how the source's labels were understood, as in :class:`ReadMask`.
        body_source: ``given`` where the source holds bodies, ``derived`` where they were taken
            out of whole vertebrae.
        levels: names of the levels that are present, cranial to caudal.
        cut: those of T12-L4 that reach the edge of the CT's or the mask's field of view.
        warnings: what a reader of a result must know.
        box: a box that holds every label, where it is known; most of a CT holds none.
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
        source: a NIfTI or NRRD label map, a folder with one such file per structure, or a DICOM
            SEG or RTSTRUCT, also as the only one in a folder or archive. A file named
            ``REFUSED_MASK`` holds the refusal of a mask that could not be made.
        shape: (i, j, k) of the CT.
        affine: (4, 4) of the CT, index → world mm, RAS+.
        scheme: a key of :data:`~monai_vfx.core.anatomy.SCHEMES` for a label map without names, by
            default found from the labels; or the path of a mapping
            (:mod:`monai_vfx.case.mask.mapping`), which then defines every label.
        bodies: ``given``: the labels are bodies; ``derive``: they are whole vertebrae; ``auto``:
            as a mapping states it, else found from their shape.
        frame_of_reference: FrameOfReferenceUID of a DICOM CT; a SEG or RTSTRUCT must have the same.

    Raises:
        CaseRefused: the mask breaks a rule of ``docs/masks.md``.
        SettingError: the mapping cannot be used.
        ValueError: ``scheme`` or ``bodies`` is not one of the names above.
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
    around = enclosing([part.box for part in placed], shape)
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
    origin = np.array([side.start for side in around])
    found = label_voxels(labels[around])
    return {value: index + origin for value, index in found.items() if value in LEVEL_NAMES}


def _take_out_extra(
    labels: LabelVolume, present: dict[int, Points], affine: Affine, files: list[LabelFile]
) -> list[CaseWarning]:
    """Remove T13, L6 and the sacrum, in place, after the order of the levels was checked with them.

    Others may number the levels differently where they are present; the warnings state the count.
    """
    extra = [value for value in _EXTRA if any((file.values == value).any() for file in files)]
    sacrum = any((file.values == SACRUM_LABEL).any() for file in files)
    labels[labels == SACRUM_LABEL] = 0
    lumbar = [name for value in sorted(present) if (name := LEVEL_NAMES[value]).startswith("L")]
    above = " above the sacrum" if sacrum else ""
    counted = f"{len(lumbar)} lumbar vertebrae are labelled{above} ({lumbar[0]}-{lumbar[-1]})"
    if extra:
        # T11 may show by its spinous process alone, which lies as low as T12.
        _check_order({v: at for v, at in present.items() if v >= STUDY_LABELS[0]}, affine)
        for value in set(extra) & set(present):
            labels[tuple(present[value].T)] = 0
        names = ", ".join(LEVEL_NAMES[value] for value in extra)
        return [CaseWarning("level_extra", f"the mask labels {names}; {counted}")]
    if sacrum and len(lumbar) != 5:
        return [CaseWarning("lumbar_count", f"{counted}; five are usual")]
    return []


def _check_missing(known: set[int], present: Iterable[int], why: str) -> None:
    """Refuse a missing level of T12-L4; ``why`` is the reason for those that the source holds."""
    missing = [
        f"{LEVEL_NAMES[value]} {why if value in known else 'has no voxel in the mask'}"
        for value in STUDY_LABELS
        if value not in present
    ]
    if missing:
        raise CaseRefused("level_missing", "; ".join(missing))


def _replace_by_bodies(labels: LabelVolume, affine: Affine, bodies: str, around: Region) -> bool:
    """Replace whole vertebrae by their bodies, in place; return whether that was done."""
    if bodies == "given" or (bodies == "auto" and _all_short(labels[around], affine)):
        return False
    derive = derive_bodies if bodies == "derive" else bodies_if_whole
    # Upright axes: a turn of the patient in the scanner does not change a body's voxels.
    cut = derive(labels[around], box_affine(upright(affine), around))
    if cut is not None:
        labels[around] = cut
    return cut is not None


def _all_short(labels: LabelVolume, affine: Affine) -> bool:
    """Return whether all of T12-L4 are too short from front to back for a spinous process."""
    axes = upright(affine)
    axis = int(np.flatnonzero(axes[1, :3])[0])
    found = label_voxels(labels)
    depths = [int(np.ptp(found[v][:, axis])) + 1 for v in STUDY_LABELS if v in found]
    return bool(max(depths, default=0) * abs(axes[1, axis]) < MAX_BODY_DEPTH_MM)


def _check_order(present: dict[int, Points], affine: Affine) -> None:
    """Refuse levels whose centroids do not follow each other from head to feet."""
    thirteenth = VERTEBRAE["T13"]  # its number is the last, its place is above L1
    values = sorted(present, key=lambda v: VERTEBRAE["T12"] + 0.5 if v == thirteenth else v)
    heights = {value: float(present[value].mean(axis=0) @ affine[2, :3]) for value in values}
    wrong = [
        f"{LEVEL_NAMES[upper]} is not above {LEVEL_NAMES[lower]}"
        for upper, lower in pairwise(values)
        if heights[upper] <= heights[lower]
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
    for value in STUDY_LABELS:
        index = present[value]
        touches = bool(((index == 0) | (index == last)).any())
        if touches or any(_reaches_end(index, affine, found) for found in grids):
            cut.append(LEVEL_NAMES[value])
    return tuple(cut)


def _reaches_end(index: Points, affine: Affine, found: LabelFile) -> bool:
    """Return whether CT voxels (n, 3) reach the first or last slice of a mask's own grid."""
    if found.cropped:
        return False
    axis = long_axis(found.affine)
    position = world_positions(np.linalg.inv(found.affine) @ affine, index)[:, axis]
    return bool((position < 0.5).any() or (position > found.shape[axis] - 1.5).any())
