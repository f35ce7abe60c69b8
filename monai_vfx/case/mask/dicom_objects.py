"""DICOM objects that hold masks: which one is meant, and what its parts are called by code.

A segmentation (SEG, PS3.3 A.51), a label map segmentation (A.91) or a structure set (RTSTRUCT,
A.19) may be given as a file, or as the only such object in a folder, zip or tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_vfx.core.anatomy import (
    SNOMED_CT,
    SNOMED_CT_OTHERS,
    SNOMED_CT_VERTEBRA,
    is_other_part,
    structure_of_name,
)
from monai_vfx.core.arrays import Affine, BoolVolume
from monai_vfx.core.errors import CaseRefused, access_refused, reason
from monai_vfx.io.dicom.archives import Files, Source, list_sources, quiet_pydicom

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of SEG: with one frame a segment, and as a label map."""
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class of RTSTRUCT."""

_OLD_SNOMED = ("SNM3", "99SDM")  # earlier designators of SRT's codes, PS3.16, 8.1


Meaning = Callable[[int, str, str | None], str | None]
"""From a part's number, its name and what its codes and names mean to the structure that is to be
read; None: leave it out."""


@dataclass(frozen=True)
class MaskPart:
    """One structure of a DICOM object, on a grid of its own.

    Attributes:
        structure: level, muscle or sacrum.
        values: (i, j, k) whether a voxel belongs to it, of the box that holds it.
        start: index of the box's first voxel in the grid.
        shape: voxels of the grid along (i, j, k).
        affine: (4, 4) index of the grid → world mm, RAS+.
    """

    structure: str
    values: BoolVolume
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    affine: Affine


def find_mask_object(path: Path) -> Any | None:
    """Return the data set of the one SEG or RTSTRUCT in a file, folder or archive, or None.

    Raises:
        CaseRefused: ``several_masks``, ``mask_unreadable`` or ``file_truncated``.
    """
    with access_refused("mask_unreadable"), Files() as files:
        try:
            sources, _ = list_sources(path)
        except CaseRefused as refusal:
            if refusal.code != "input_unreadable":
                raise
            raise CaseRefused("mask_unreadable", refusal.message, refusal.remedy) from refusal
        found = [source for source in sources if _holds_mask(files, source)]
        if len(found) > 1:
            raise CaseRefused("several_masks", f"{len(found)} SEG or RTSTRUCT objects are there")
        return _read(files, found[0]) if found else None


def structure_of_item(
    number: int, names: Iterable[str], codes: Iterable[Any], regions: Iterable[Any] = ()
) -> str | None:
    """Return what a segment or region of interest is: by its codes, then by its names.

    Args:
        number: of the item, for a message.
        names: label and description, in this order.
        codes: items of code sequences that say what it is, and their modifiers.
        regions: items of code sequences that say where it lies; they count only where a code says
            that it is a vertebra or bone, as a disc lies at a level, too.

    Raises:
        CaseRefused: ``mask_labels_unknown`` where code and name mean different structures.
    """
    codes = list(codes)
    if any(is_other_part(str(code.get("CodeMeaning", ""))) for code in codes):
        return None  # a disc, say, that is named after its level
    concepts = [*codes, *regions] if any(_is_vertebra(code) for code in codes) else codes
    by_code = {found for code in concepts if (found := _structure_of_code(code)) is not None}
    by_name = [found for name in names if (found := structure_of_name(name)) is not None]
    if len(by_code) > 1 or (by_code and by_name and by_name[0] not in by_code):
        means = ", ".join(sorted(by_code))
        called = f" and named {by_name[0]}" if by_name else ""
        raise CaseRefused("mask_labels_unknown", f"structure {number} is coded {means}{called}")
    return by_code.pop() if by_code else by_name[0] if by_name else None


def _same(code: Any, value: str) -> bool:
    """Compare with a SNOMED CT concept; pydicom knows the older SRT codes of the same concepts."""
    from pydicom.sr.coding import Code

    scheme = str(code.get("CodingSchemeDesignator", ""))
    scheme = "SRT" if scheme in _OLD_SNOMED else scheme
    stated = Code(str(code.get("CodeValue", "")), scheme, "as stated")
    return bool(stated == Code(value, "SCT", "as stated"))


def _is_vertebra(code: Any) -> bool:
    return any(_same(code, value) for value in SNOMED_CT_VERTEBRA)


def _structure_of_code(code: Any) -> str | None:
    known = {value: level for level, value in SNOMED_CT.items()} | SNOMED_CT_OTHERS
    return next((name for value, name in known.items() if _same(code, value)), None)


def _holds_mask(files: Files, source: Source) -> bool:
    """Say whether a file is a SEG or RTSTRUCT; of others only the first bytes are read."""
    from pydicom import dcmread

    try:
        if not files.is_dicom(source):
            return False
        with quiet_pydicom(), files.open(source) as stream:
            header = dcmread(stream, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(header.get("SOPClassUID", "")) in (*SEGMENTATIONS, STRUCTURE_SET)
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:  # parsing damaged bytes raises anything
        raise CaseRefused(
            "file_truncated", f"a DICOM file cannot be read ({reason(error)})"
        ) from error


def _read(files: Files, source: Source) -> Any:
    from pydicom import dcmread

    try:
        with quiet_pydicom(), files.open(source) as stream:
            dataset = dcmread(stream)
            # Turns every value from bytes: none is damaged later. Not by ``walk``, which takes
            # minutes to fail on sequences within sequences, some thousand deep.
            for _ in dataset.iterall():
                pass
        return dataset
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:  # as above
        raise CaseRefused(
            "file_truncated", f"the mask's DICOM file cannot be read ({reason(error)})"
        ) from error


def check_frame_of_reference(stated: str | None, of_ct: str | None) -> None:
    """Refuse a mask that was drawn in another frame of reference than the CT's.

    Args:
        stated: FrameOfReferenceUID of the mask.
        of_ct: that of the CT; None where it is no DICOM series or states none: then nothing can
            be compared.

    Raises:
        CaseRefused: ``mask_grid_mismatch``.
    """
    if of_ct and stated != of_ct:
        raise CaseRefused(
            "mask_grid_mismatch",
            "the mask's frame of reference (0020,0052) is not the CT's; the rule is that both "
            "are the same",
        )


def boxed(
    inside: npt.NDArray[np.bool_],
) -> tuple[BoolVolume, tuple[int, int, int]] | None:
    """Cut a volume down to the box of what is true; None where nothing is.

    >>> boxed(np.pad(np.ones((1, 2, 1), dtype=bool), 1))[1]
    (1, 1, 1)
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(inside.astype(np.uint8))
    if not boxes:
        return None
    i, j, k = boxes[0]
    return inside[i, j, k].copy(), (i.start, j.start, k.start)
