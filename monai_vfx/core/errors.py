"""Refusals, warnings and their codes: why a case is not accepted, in words a user can act on.

A *refusal* ends the work on one case (exit status 3, one JSON line); a *warning* travels with the
result. Both carry a code that is part of the public contract, so pipelines may branch on it. The
tables below are the only place where codes are defined.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)

REFUSALS: dict[str, str] = {
    # input
    "input_unreadable": "Give a DICOM folder, a zip or tar of one, a NIfTI or an NRRD file.",
    "archive_too_large": "Unpack the archive with the program that made it and give the folder.",
    "no_image": "Give a folder that holds the DICOM files of one CT series.",
    "files_missing": "Copy the whole disc again, or name a series that is whole with --series UID.",
    "file_truncated": "The file is incomplete, or its header is another file's: copy or export it "
    "again.",
    "file_missing": "The image's voxels or header lie in another file: give both, side by side.",
    "not_ct": "Only CT is accepted: choose the CT series of the study.",
    "several_series": "Point to one series, or name it with --series UID.",
    "series_mixed": "Export the series again so that all its slices share one geometry.",
    "geometry_missing": "Export the series again with its position, orientation and spacing tags.",
    "geometry_invalid": "The image's geometry is not usable: export or convert it again.",
    "forms_disagree": "Write the NIfTI again with sform and qform alike, or with one of them.",
    "units_not_mm": "Write the image again with positions and spacing in mm.",
    "too_few_slices": "Provide the whole volume: T12 to L4 must be covered.",
    "slices_duplicated": "Two slices share one position: remove the duplicates.",
    "phases_overlap": "The series holds several phases or reconstructions: separate them first.",
    "slices_missing": "Slices are missing: export the whole series again.",
    "spacing_uneven": "Slices must be equally far apart: use a reconstruction where they are.",
    "gantry_tilt": "Tilted-gantry series are not supported: use an untilted reconstruction.",
    "multiframe": "Convert the Enhanced object to a classic CT series, NIfTI or NRRD.",
    "uid_invalid": "Export the series again: each slice needs a SOPInstanceUID of its own.",
    "pixel_format": "Export the series again, as CT images with 9 to 16 or 32 bits a value.",
    "syntax_unsupported": "Store the series in another transfer syntax, such as explicit VR.",
    "slices_too_thick": "Use a reconstruction with slices at most 10 mm apart, best 5 mm or less.",
    "not_volume": "One three-dimensional image is needed: no time points, no colours.",
    "not_hounsfield": "Values must be Hounsfield units: apply rescale slope and intercept.",
    "hu_implausible": "Values are shifted or scaled: apply slope and intercept exactly once.",
    "size_implausible": "Write pixel size and positions in mm.",
    "identity_conflict": "The slices name more than one patient: separate them first.",
    "header_conflict": "Find out which is right: the row may belong to another CT. Correct the "
    "table, or leave out the column.",
    # PACS
    "pacs_unreachable": "Check host, port and path of the address, and whether the PACS runs.",
    "pacs_denied": "Set VFX_DICOMWEB_USER and VFX_DICOMWEB_PASSWORD, or VFX_DICOMWEB_TOKEN, to "
    "an account that may do this.",
    "not_in_pacs": "Check the UIDs and the path of the address.",
    "retrieval_incomplete": "Run again; if it stays so, export the series to a folder.",
    "pacs_error": "Run again later; if it stays so, ask who runs the PACS to look into its log.",
    "store_failed": "The results stay in --out: ask who runs the PACS why it does not take them.",
    # mask
    "mask_required": "Give a label map or a folder of per-structure files with --mask.",
    "mask_unreadable": "The mask must be a NIfTI or NRRD label map, a folder of such, or a DICOM "
    "SEG or RTSTRUCT.",
    "several_masks": "Give the one SEG or RTSTRUCT file that is meant.",
    "mask_empty": "The mask holds no vertebra of T12-L4: check which file was given.",
    "mask_labels_unknown": "Name the scheme with --labels, or use a file that carries names.",
    "mask_grid_mismatch": "The mask does not lie on this CT: use the mask made from this series.",
    "mask_off_bone": "The labelled region is not bone on this CT: check that mask and CT match.",
    "mask_shifted": "The mask lies beside its vertebrae along the spine: use the mask made from "
    "this series, or move it.",
    "mask_fractional": "Label values must be whole numbers: export the mask as a label map.",
    "mask_overlaps": "Correct the structures so that no voxel belongs to two vertebrae.",
    "contours_missing": "Interpolate the contours to all slices of the CT and export them again.",
    "level_missing": "All of T12, L1, L2, L3 and L4 must be in the image and in the mask.",
    "levels_out_of_order": "Check label values and affine: levels must run head to feet.",
    "levels_gap": "Label the vertebra in between, and name those below it anew.",
    "body_impossible": "Check whether a label holds two vertebrae or a part of one, and the voxel "
    "size.",
    "mask_disagrees": "Look at mask_disagrees.png in --out: correct the mask's levels, or give "
    "--no-compare-mask if they are right.",
    "mask_not_made": "Run the tool by hand to see why, or give a mask with --mask.",
    # segmentation
    "spine_not_found": "A CT that shows the lumbar spine is needed; give a mask with --mask.",
    "level_uncertain": "Name the vertebrae by eye and give the mask with --mask, or use a CT that "
    "shows the last ribs and the sacrum.",
    # morphometry
    "heights_too_coarse": "Use slices at most 3 mm apart, a reader's heights, or --allow-thick.",
    # model
    "weights_unreadable": "Give a checkpoint of vfx train with its .json sidecar beside it.",
    "weights_mismatch": "The checkpoint does not fit the network that its sidecar describes.",
    # tables
    "clinical_invalid": "Give a table of one row with the weights' variables, with --clinical.",
    "cohort_invalid": "Correct the listed cells and run again.",
    "gate_stale": "Run vfx check on this table again and give the new check.csv.",
    "gate_excluded": "Leave the warning out of the list of those that exclude, to keep the case.",
    "internal": "This is a defect of the software: please report it with the log.",
}
"""Refusal code → what the user can do about it."""

WARNINGS: dict[str, str] = {
    "label_fragments": "stray pieces of labels were left out",
    "level_cut": "a level is cut by the field of view",
    "level_extra": "a vertebra beyond T12 and L1-L5 is labelled (T13 or L6): check the numbering",
    "lumbar_count": "not five lumbar vertebrae were counted above the sacrum: check the numbering",
    "body_unusual": "a vertebral body has an unusual size: look at the picture",
    "mask_resampled": "the mask was resampled onto the CT's grid",
    "mask_partial": "a part of the mask lies outside the CT",
    "segmentation_not_written": "the mask that was made could not be written as DICOM SEG",
    "export_not_written": "the CT's headers do not allow an object that --export asks for",
    "mask_not_compared": "the mask's levels could not be compared with the vertebra segmentation's",
    "body_derived": "vertebral bodies were derived from whole-vertebra labels",
    "slices_repeated": "fewer slices than the network takes: some are repeated",
    "slice_thickness": "slices are thicker than the study's protocol",
    "slices_apart": "slices are thinner than their distance: tissue between them was not imaged",
    "resolution_coarse": "pixels are coarser than those of the study",
    "crop_padded": "the crop leaves the field of view and was padded",
    "simulated_weights": "the weights were trained on simulated patients",
    "position_unusual": "the patient does not lie supine",
    "age_outside_study": "the patient is younger or older than those of the study",
    "contrast_contradictory": "what is known of contrast medium contradicts itself",
    "fracture_suspected": "a vertebra already looks fractured",
    "fracture_unclear": "a vertebra may be fractured: the slices are too thick to tell",
    "metal_or_cement": "metal or cement in or behind T12-L4",
    "position_conflict": "position of the patient and direction of the rows contradict each other",
    "lossy_compression": "values were changed by compression before they came here",
    "monoenergetic": "HU are those of a virtual photon energy, not of a tube voltage",
    "padding_ignored": "the padding value is one that tissue has: it was not replaced by air",
    "several_patients": "the input holds several patients: check that the right one was taken",
    "other_series_ignored": "other series in the folder were left aside",
    "clinical_missing": "a clinical variable is missing and was set to the training mean",
    "heights_coarse": "slices are so thick that heights of vertebrae are uncertain",
    "normal_values_crude": "one cut for all levels and ratios: wrong for ratios of neighbours",
    "out_of_distribution": "the image differs from all that the weights were trained on",
}
"""Warning code → its meaning."""


class CaseRefused(Exception):  # noqa: N818 - a refusal is an outcome, not a program error
    """A case does not fulfil a rule.

    Args:
        code: a key of :data:`REFUSALS`.
        message: what was found, with the offending value and the rule. Must not hold a patient's
            name or ID.
        remedy: what to do; by default the sentence of :data:`REFUSALS`.

    Raises:
        KeyError: when ``code`` is not registered.

    >>> raise CaseRefused("level_missing", "L2 has no voxel in the mask")
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.CaseRefused: level_missing: L2 has no voxel in the mask. All of T12, ...
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        self.code = code
        self.message = message.rstrip(".")
        self.remedy = REFUSALS[code] if remedy is None else remedy
        super().__init__(f"{code}: {self.message}. {self.remedy}")

    def __reduce__(self) -> tuple[type[CaseRefused], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.code, self.message, self.remedy)

    def to_json(self) -> dict[str, str]:
        """Return ``code``, ``message`` and ``remedy``."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> CaseRefused:
        """Return the refusal of what :meth:`to_json` gave; other keys are left aside.

        >>> CaseRefused.from_json(CaseRefused("mask_empty", "no label").to_json()).message
        'no label'
        """
        return CaseRefused(facts["code"], facts["message"], facts["remedy"])


@dataclass(frozen=True)
class CaseWarning:
    """Something about a case that a reader of its result must know.

    Args:
        code: a key of :data:`WARNINGS`.
        message: what was found, with values and units.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in WARNINGS:
            raise KeyError(self.code)


class SettingError(ValueError):
    """A setting cannot be used; the message names it, its value and the rule. Wrong use: exit 2."""


class MissingDependencyError(ImportError):
    """An optional package is needed; the message holds the exact install command.

    Args:
        package: its name.
        extra: of this package that brings it, or the whole command that installs it.
        purpose: what it is needed for.

    >>> print(MissingDependencyError("WeasyPrint", "pdf", "for a PDF"))
    WeasyPrint is needed for a PDF: pip install 'monai_vfx[pdf]'
    >>> print(MissingDependencyError("A tool", "pip install a-tool", "here"))
    A tool is needed here: pip install a-tool
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._facts = (package, extra, purpose)
        command = extra if " " in extra else f"pip install 'monai_vfx[{extra}]'"
        super().__init__(f"{package} is needed {purpose}: {command}")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), self._facts


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the error of this kind that lies behind ``error``, or None.

    MONAI wraps what a transform or a part of a config raises in a ``RuntimeError``; what was
    raised is then its cause. Only causes count: an error that happened while another was handled
    is an error of its own.

    >>> try:
    ...     try:
    ...         raise CaseRefused("mask_empty", "no label")
    ...     except CaseRefused as refusal:
    ...         raise RuntimeError("applying transform") from refusal
    ... except RuntimeError as error:
    ...     find_cause(error, CaseRefused).code
    'mask_empty'
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__
    return None


def find_refusal(error: BaseException | None) -> CaseRefused | None:
    """Return the refusal that lies behind ``error``, or None; see :func:`find_cause`."""
    return find_cause(error, CaseRefused)


@contextmanager
def refusing(code: str, what: str) -> Iterator[None]:
    """Turn any error of the block into a refusal: parsers of foreign bytes raise anything.

    A refusal, a setting error or a missing package passes as it is. The error's own text is left
    out: it may hold a path or a
    patient's name.

    Args:
        code: a key of :data:`REFUSALS`.
        what: what could not be done, such as ``the header cannot be read``; the error's kind is
        added.

    >>> with refusing("mask_unreadable", "the header cannot be read"):
    ...     {}["affine"]
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.CaseRefused: mask_unreadable: the header cannot be read (KeyError). The
    ...
    """
    try:
        yield
    except (CaseRefused, SettingError, MissingDependencyError):
        raise
    except Exception as error:
        raise CaseRefused(code, f"{what} ({type(error).__name__})") from error
