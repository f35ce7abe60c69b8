"""Read a mask of any kind and give its labels the project's own values.

A mask is a NIfTI or NRRD label map, a folder of per-structure files, a DICOM SEG or RTSTRUCT (also
as the only one in a folder or archive), or the record of a mask that could not be made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from monai_vfx.case.mask.dicom_objects import STRUCTURE_SET, find_mask_object
from monai_vfx.case.mask.mapping import LabelMapping, is_mapping_file, read_mapping
from monai_vfx.case.mask.schemes import find_structures
from monai_vfx.core.anatomy import (
    LEVELS,
    MUSCLES,
    SACRUM,
    STUDY_LABELS,
    label_value,
    structure_of_name,
)
from monai_vfx.core.arrays import Affine
from monai_vfx.core.errors import CaseRefused, refusing
from monai_vfx.core.files import read_json
from monai_vfx.io.label_map import LabelFile, called, is_label_file, read_label_file

REFUSED_MASK = "mask_refused.json"
"""Name of the file that is written in place of a mask whose making was refused."""

WANTED = {name: label_value(name) for name in ("T11", *LEVELS, "L5", "T13", "L6", SACRUM, *MUSCLES)}
"""Structure that is read → its label value. Neighbours of the study's levels help to find axes and
order, the sacrum to count."""


@dataclass(frozen=True)
class ReadMask:
    """The labels of a mask, each file or DICOM structure on its own grid.

    Attributes:
        scheme: how they were understood: ``names``, ``files``, ``mapping``, ``dicom_seg``,
            ``rtstruct`` or the name of a label scheme.
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
    """Read the structures in ``WANTED`` from a mask.

    See :func:`monai_vfx.case.mask.load.load_masks` for arguments and errors; contours are filled on
    the lattice of the CT's ``affine``.
    """
    if source.name == REFUSED_MASK:
        with refusing("mask_unreadable", f"{REFUSED_MASK} holds no refusal"):
            refusal = CaseRefused.from_json(read_json(source))
        raise refusal
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
            "the folder holds no file named after one of T12-L4, and no SEG or RTSTRUCT",
            "Give a folder of files such as vertebrae_L1.nii.gz, or one label map.",
        )
    used, files = _read_map(source, scheme, mapping)
    return ReadMask(used, files, content)


def _read_map(
    path: Path, scheme: str | None, mapping: LabelMapping | None
) -> tuple[str, list[LabelFile]]:
    """Read one label map."""
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
    if not np.isin(values, STUDY_LABELS).any():
        raise CaseRefused("mask_empty", f"{called(path)} holds no voxel of T12-L4 ({used})")
    return used, [found.with_values(values)]


def _mapped(found: LabelFile, mapping: LabelMapping) -> tuple[str, dict[int, str]]:
    """Return the meaning that a mapping gives the labels of a file."""
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
        f"the mapping contains none of the mask's labels ({shown})",
        "Correct the file given with --labels.",
    )


def _named_files(folder: Path, mapping: LabelMapping | None) -> dict[Path, int]:
    """Return the label files of a folder that are named after a structure in ``WANTED``."""
    named = {}
    for path in sorted(folder.iterdir()):
        stem = path.name.split(".")[0]
        structure = (
            structure_of_name(path.name) if mapping is None else mapping.structure(None, stem)
        )
        if is_label_file(path) and structure in WANTED:
            named[path] = WANTED[structure]
    return named if set(named.values()) & set(STUDY_LABELS) else {}


def _read_files(named: dict[Path, int]) -> list[LabelFile]:
    read = [
        found.with_values(found.values * np.uint8(value))
        for path, value in named.items()
        if (found := read_label_file(path, binary=True)).values.size
    ]
    files = [found for found in read if found.values.size]  # none may reach the foreground
    if not any(int(found.values.max()) in STUDY_LABELS for found in files):
        raise CaseRefused("mask_empty", "the files of T12-L4 in the folder hold no voxel")
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
    kind = "RTSTRUCT" if contours else "SEG"
    with refusing("mask_unreadable", f"the {kind} lacks required attributes"):
        found = (
            read_contours(dataset, meaning, affine, frame_of_reference)
            if contours
            else read_segments(dataset, meaning, frame_of_reference)
        )
        files = [  # cropped: frames and contours end where the structure does
            LabelFile(part.values * np.uint8(WANTED[part.structure]), *part.grid, {}, cropped=True)
            for part in found
        ]
    if not any(int(file.values.max()) in STUDY_LABELS for file in files):
        if mapping is not None and not files:
            raise _unmapped(seen)
        raise CaseRefused(
            "mask_labels_unknown",
            f"none of the {len(seen)} structures of the {kind} is one of T12-L4 by code or name, "
            "or those are empty",
            "Name the structures L1 or vertebra L1 and so on, or give their names with --labels.",
        )
    return "rtstruct" if contours else "dicom_seg", files
