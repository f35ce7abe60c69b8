"""Reads a mask from whatever holds it; its labels become the project's own.

NIfTI or NRRD label map, folder of per-structure files, DICOM SEG or RTSTRUCT (also as the only one
in a folder or archive), or the record of a mask that could not be made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from monai_vfx.case.mask.dicom_objects import STRUCTURE_SET, MaskPart, find_mask_object
from monai_vfx.case.mask.mapping import LabelMapping, is_mapping_file, read_mapping
from monai_vfx.case.mask.schemes import find_structures
from monai_vfx.core.anatomy import (
    LEVELS,
    MUSCLES,
    SACRUM,
    VERTEBRAE,
    label_value,
    structure_of_name,
)
from monai_vfx.core.arrays import Affine
from monai_vfx.core.errors import CaseRefused, reason
from monai_vfx.io.label_map import LabelFile, called, is_label_file, read_label_file

REFUSED_MASK = "mask_refused.json"
"""Name of the file that stands in place of a mask that was to be made and was refused."""

# Neighbours of the study's levels help to find axes and order, the sacrum to count.
_READ = ("T11", *LEVELS, "L5", "T13", "L6", SACRUM, *MUSCLES)
WANTED = {name: label_value(name) for name in _READ}
"""Structure that is read → its label value."""

_STUDY = tuple(VERTEBRAE[level] for level in LEVELS)


@dataclass(frozen=True)
class ReadMask:
    """The labels of a mask, each file or DICOM structure on a grid of its own.

    Attributes:
        scheme: how they were understood: ``names``, ``files``, ``mapping``, ``dicom_seg``,
            ``rtstruct`` or a label scheme's name.
        files: the labels.
        content: what a vertebra's label covers, where a mapping states it.
    """

    scheme: str
    files: list[LabelFile]
    content: Literal["body", "vertebra"] | None = None


def read_mask(
    source: Path,
    affine: Affine,
    scheme: str | None = None,
    frame_of_reference: str | None = None,
) -> ReadMask:
    """Read a mask; what is not needed is left out.

    Args:
        source: what holds it.
        affine: (4, 4) of the CT; contours are filled on its lattice.
        scheme: name of a label scheme or path of a mapping file; None: found out.
        frame_of_reference: UID of the CT's, None where it has none.

    Raises:
        CaseRefused: see :func:`monai_vfx.case.mask.load.load_masks`.
        SettingError: the mapping file cannot be used.
        ValueError: when ``scheme`` is not a known name.
    """
    if source.name == REFUSED_MASK:
        raise _recorded_refusal(source)
    mapping = read_mapping(scheme) if scheme is not None and is_mapping_file(scheme) else None
    content = None if mapping is None else mapping.content
    if source.is_dir() and (named := _named_files(source, mapping)):
        return ReadMask("files" if mapping is None else "mapping", _read_files(named), content)
    if not is_label_file(source):
        dataset = find_mask_object(source)
        if dataset is not None:
            used, files = _read_object(dataset, affine, mapping, frame_of_reference)
            return ReadMask(used, files, content)
    if source.is_dir():
        raise CaseRefused(
            "mask_labels_unknown",
            "no file of the folder is named after one of T12-L4, and none is a SEG or RTSTRUCT",
            "Give a folder with files such as vertebrae_L1.nii.gz, or one label map.",
        )
    used, files = _read_map(source, scheme, mapping)
    return ReadMask(used, files, content)


def _recorded_refusal(path: Path) -> CaseRefused:
    """Return the refusal that was written when the mask of a case should have been made."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return CaseRefused(facts["code"], facts["message"], facts["remedy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return CaseRefused("mask_unreadable", f"{REFUSED_MASK} holds no refusal ({reason(error)})")


def _read_map(
    path: Path, scheme: str | None, mapping: LabelMapping | None
) -> tuple[str, list[LabelFile]]:
    """Read one label map; its labels become the project's."""
    found = read_label_file(path)
    if found.values.size == 0:
        raise CaseRefused("mask_empty", f"{called(path)} holds no label")
    used, structures = (
        find_structures(found, scheme) if mapping is None else _mapped(found, mapping)
    )
    values = np.zeros(found.values.shape, dtype=np.uint8)
    boxes = ndimage.find_objects(found.values, max_label=max(structures))
    for value, structure in structures.items():
        box = boxes[value - 1] if value > 0 else None
        if structure in WANTED and box is not None:
            values[box][found.values[box] == value] = WANTED[structure]
    if not np.isin(values, _STUDY).any():
        raise CaseRefused("mask_empty", f"{called(path)} holds no voxel of T12-L4 ({used})")
    return used, [found.with_values(values)]


def _mapped(found: LabelFile, mapping: LabelMapping) -> tuple[str, dict[int, str]]:
    """Return what a mapping says of the labels that a file holds."""
    present = [int(value) for value in np.unique(found.values) if value > 0]
    structures = {
        value: structure
        for value in present
        if (structure := mapping.structure(value, found.names.get(value, ""))) is not None
    }
    if not structures:
        raise _unmapped(str(value) for value in present)
    return "mapping", structures


def _unmapped(labels: Iterable[str]) -> CaseRefused:
    listed = list(labels)
    shown = ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "")
    return CaseRefused(
        "mask_labels_unknown",
        f"the mapping names none of the mask's labels ({shown})",
        "Correct the file that --labels names.",
    )


def _named_files(folder: Path, mapping: LabelMapping | None) -> dict[Path, int]:
    """Return the label files of a folder that are named after a structure the project needs."""
    named = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.split(".")[0]
        structure = (
            structure_of_name(path.name) if mapping is None else mapping.structure(None, stem)
        )
        if is_label_file(path) and structure in WANTED:
            named[path] = WANTED[structure]
    return named if set(named.values()) & set(_STUDY) else {}


def _read_files(named: dict[Path, int]) -> list[LabelFile]:
    read = [
        found.with_values(found.values * np.uint8(value))
        for path, value in named.items()
        if (found := read_label_file(path, binary=True)).values.size
    ]
    files = [found for found in read if found.values.size]  # none may reach the foreground
    if not any(int(found.values.max()) in _STUDY for found in files):
        raise CaseRefused("mask_empty", "the vertebrae of the folder are empty")
    return files


def _read_object(
    dataset: object,
    affine: Affine,
    mapping: LabelMapping | None,
    frame_of_reference: str | None,
) -> tuple[str, list[LabelFile]]:
    """Read the structures of a SEG or RTSTRUCT that are needed."""
    from monai_vfx.case.mask.dicom_rtstruct import read_contours
    from monai_vfx.case.mask.dicom_seg import read_segments

    seen: list[str] = []

    def meaning(number: int, name: str, structure: str | None) -> str | None:
        seen.append(str(number))
        meant = structure if mapping is None else mapping.structure(number, name)
        return meant if meant in WANTED else None

    contours = str(getattr(dataset, "SOPClassUID", "")) == STRUCTURE_SET
    found = (
        read_contours(dataset, meaning, affine, frame_of_reference)
        if contours
        else read_segments(dataset, meaning, frame_of_reference)
    )
    try:
        files = [_label_file(part) for part in found]
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        # A damaged object lacks what it must have, or has it in another form.
        kind = "RTSTRUCT" if contours else "SEG"
        raise CaseRefused(
            "mask_unreadable", f"the {kind} lacks attributes that it must have ({reason(error)})"
        ) from error
    if not any(int(file.values.max()) in _STUDY for file in files):
        if mapping is not None and not files:
            raise _unmapped(seen)
        raise CaseRefused(
            "mask_labels_unknown",
            f"none of the {len(seen)} structures of the {'RTSTRUCT' if contours else 'SEG'} is "
            "T12-L4 by its code or name, or those are empty",
            "Name its structures L1 or vertebra L1 and so on, or give their names with --labels.",
        )
    return "rtstruct" if contours else "dicom_seg", files


def _label_file(part: MaskPart) -> LabelFile:
    """Return a structure as labels; frames and contours end where a structure ends."""
    values = part.values * np.uint8(WANTED[part.structure])
    return LabelFile(values, part.start, part.shape, part.affine, {}, cropped=True)
