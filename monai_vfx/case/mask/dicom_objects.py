"""Find the DICOM object that holds a mask, and the structures that its codes and names mean.

A segmentation (SEG, PS3.3 A.51), a label map segmentation (A.91) or a structure set (RTSTRUCT,
A.19) may be given as a file, or as the only such object in a folder, zip or tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_vfx.core.anatomy import (
    SNOMED_CT,
    SNOMED_CT_OTHERS,
    SNOMED_CT_VERTEBRA,
    is_other_part,
    structure_of_name,
)
from monai_vfx.core.arrays import Affine, BoolVolume
from monai_vfx.core.errors import CaseRefused, access_refused, refusing
from monai_vfx.core.geometry import nonzero_box
from monai_vfx.io.dicom.archives import Source, list_sources, quiet_pydicom

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes of SEG: with frames per segment, and as a label map."""
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class of RTSTRUCT."""

_OLD_SNOMED = ("SNM3", "99SDM")  # earlier designators of SRT's codes, PS3.16, 8.1


Meaning = Callable[[int, str, str | None], str | None]
"""Maps the number and name of a part, and the structure that its codes and names mean, to the
structure to read it as; None: leave it out."""


@dataclass(frozen=True)
class MaskPart:
    """One structure of a DICOM object, on its own grid.

    Attributes:
        structure: level, muscle or sacrum.
        values: (i, j, k) of the box that holds the structure: whether a voxel belongs to it.
        grid: index of the box's first voxel in the grid, voxels of the grid along (i, j, k), and
            affine (4, 4) of the grid, index → world mm, RAS+.
    """

    structure: str
    values: BoolVolume
    grid: tuple[tuple[int, int, int], tuple[int, int, int], Affine]

    @classmethod
    def cut(cls, structure: str, inside: BoolVolume, affine: Affine) -> MaskPart | None:
        """Cut a structure on a whole grid (i, j, k) down to its box; None where it is empty."""
        box = nonzero_box(inside)
        if box is None:
            return None
        i, j, k = box
        i_size, j_size, k_size = inside.shape
        grid = ((i.start, j.start, k.start), (i_size, j_size, k_size), affine)
        return cls(structure, inside[box].copy(), grid)


def find_mask_object(path: Path) -> Any | None:
    """Return the data set of the one SEG or RTSTRUCT in a file, folder or archive, or None.

    Raises:
        CaseRefused: ``several_masks``, ``mask_unreadable`` or ``file_truncated``.
    """
    with access_refused("mask_unreadable"):
        try:
            sources, _ = list_sources(path)
        except CaseRefused as refusal:
            if refusal.code != "input_unreadable":
                raise
            raise CaseRefused("mask_unreadable", refusal.message, refusal.remedy) from refusal
        found = [source for source in sources if _holds_mask(source)]
        if len(found) > 1:
            raise CaseRefused("several_masks", f"{len(found)} SEG or RTSTRUCT objects were found")
        return _read(found[0]) if found else None


def structure_of_item(
    number: int, names: Iterable[str], codes: Iterable[Any], regions: Iterable[Any] = ()
) -> str | None:
    """Return the structure of a segment or region of interest: by its codes, then by its names.

    Args:
        number: number of the item, for a message.
        names: label and description, in this order.
        codes: items of code sequences of its type and their modifiers.
        regions: items of code sequences of its anatomic region; they count only where a type code
            is that of a vertebra or bone, as discs lie at a level, too.

    Raises:
        CaseRefused: ``mask_labels_unknown`` where code and name mean different structures.
    """
    codes = list(codes)
    if any(is_other_part(str(code.get("CodeMeaning", ""))) for code in codes):
        return None  # a disc, say, that is named after its level
    vertebra = any(_same(code, value) for code in codes for value in SNOMED_CT_VERTEBRA)
    known = {value: level for level, value in SNOMED_CT.items()} | SNOMED_CT_OTHERS
    concepts = [*codes, *regions] if vertebra else codes
    by_code = {known[value] for code in concepts for value in known if _same(code, value)}
    by_name = [found for name in names if (found := structure_of_name(name)) is not None]
    if len(by_code) > 1 or (by_code and by_name and by_name[0] not in by_code):
        means = ", ".join(sorted(by_code))
        called = f" and named {by_name[0]}" if by_name else ""
        raise CaseRefused("mask_labels_unknown", f"structure {number} is coded {means}{called}")
    return by_code.pop() if by_code else by_name[0] if by_name else None


def _same(code: Any, value: str) -> bool:
    """Compare with a SNOMED CT concept; pydicom knows the older SRT codes of each concept."""
    from pydicom.sr.coding import Code

    scheme = str(code.get("CodingSchemeDesignator", ""))
    scheme = "SRT" if scheme in _OLD_SNOMED else scheme
    stated = Code(str(code.get("CodeValue", "")), scheme, "as stated")
    return bool(stated == Code(value, "SCT", "as stated"))


def _holds_mask(source: Source) -> bool:
    """Return whether a file is a SEG or RTSTRUCT; of others only the first bytes are read."""
    from pydicom import dcmread

    unreadable = refusing("file_truncated", "a DICOM file cannot be read")
    with unreadable, access_refused("mask_unreadable"):
        if not source.is_dicom():
            return False
        with quiet_pydicom(), source.open() as stream:
            header = dcmread(stream, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        return str(header.get("SOPClassUID", "")) in (*SEGMENTATIONS, STRUCTURE_SET)


def _read(source: Source) -> Any:
    from pydicom import dcmread

    with (
        refusing("file_truncated", "the mask's DICOM file cannot be read"),
        access_refused("mask_unreadable"),
        quiet_pydicom(),
        source.open() as stream,
    ):
        dataset = dcmread(stream)
        # Convert every value from bytes, so that damage shows now. Not by ``walk``, which takes
        # minutes to fail on sequences within sequences, some thousand deep.
        for _ in dataset.iterall():
            pass
        return dataset


def check_frame_of_reference(stated: str | None, of_ct: str | None) -> None:
    """Refuse a mask with another FrameOfReferenceUID than the CT's, where the CT has one."""
    if of_ct and stated != of_ct:
        text = "the mask's frame of reference (0020,0052) must be that of the CT"
        raise CaseRefused("mask_grid_mismatch", text)
