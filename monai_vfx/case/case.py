"""The rules a case must pass before anything is computed on it, each with its code.

Headers and label map decide first (:func:`load_case`); the voxels around T12-L4 follow when they
are read (:func:`check_voxels`), on every way into the project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from monai_vfx.case.checks.bone_overlap import check_bone_overlap
from monai_vfx.case.checks.craniocaudal_shift import check_craniocaudal_shift
from monai_vfx.case.checks.hounsfield import check_offset, check_peaks, check_steps
from monai_vfx.case.mask.load import Masks, load_masks
from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.arrays import BoolVolume, HUVolume, Json, LabelVolume, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.schemas import schema
from monai_vfx.io.dicom.candidates import SeriesRefused
from monai_vfx.io.dicom.choosing import MAX_SLICE_SPACING_MM
from monai_vfx.io.dicom.facts import Expected, HeaderFacts, check_expected
from monai_vfx.io.volume import Volume, open_volume

PROTOCOL_THICKNESS_MM = 5.0
"""Slice distance of the study (paper: 5 mm sections); more is warned of."""
THICKNESS_SLACK_MM = 0.5
"""Distances are rounded or overlap a little: so much above the protocol is still the protocol."""
COARSE_PIXEL_MM = 1.5
"""Pixel size above which the 1 mm grid of the network only magnifies."""
PIXEL_MM = (0.2, 3.5)
"""Pixels of a body CT are 0.5 to 1 mm wide, of a resampled one up to 3 mm."""
FIELD_MM = (80.0, 1100.0)
"""Width of a slice: from a reconstruction of the spine alone to the widest gantry."""
EXTENT_MM = (60.0, 2500.0)
"""Length from the first slice to the last: T12-L4 are longer, and no patient is so long."""
GAP_RATIO = 1.5
"""Slices further apart than this share of their thickness leave tissue between them unseen."""
FAT_HU, BONE_HU = -20.0, 50.0
"""Some tissue around every spine is below the first, and some above the second."""
MAX_HU = 33_000.0
"""No stored CT value is larger."""
PADDING_MM = 5.0
"""The region read is this much wider than the crops need."""
STUDY_YEARS = (50, 80)
"""Age of the study's patients at the CT, both included."""

_EMPTY_FACTS: Json = dict.fromkeys(schema("case_facts")["properties"])

MaskMaker = Callable[[Volume], Path]
"""Makes the mask of a CT that was opened and returns where it lies."""


@dataclass(frozen=True)
class Case:
    """A CT and its labels, accepted by header and label map.

    Attributes:
        volume: the CT; no voxel is read yet.
        masks: labels on the CT's grid.
        warnings: what a reader of the result must know.
        checked: the region whose voxels were checked already; None before :func:`check_case`.
        exclusions: what the study would exclude the case for; None where that was not measured.
    """

    volume: Volume
    masks: Masks
    warnings: tuple[CaseWarning, ...]
    checked: Region | None = None
    exclusions: tuple[CaseWarning, ...] | None = None

    def holding(self, box: Region) -> Case:
        """Read a box of the CT once; what is asked for within it comes from memory afterwards.

        Raises:
            CaseRefused: the voxels cannot be read.
        """
        read, held = self.volume.read, self.volume.read(box)

        def from_memory(region: Region) -> HUVolume:
            if any(a.start < b.start or a.stop > b.stop for a, b in zip(region, box, strict=True)):
                return read(region)
            i, j, k = (
                slice(a.start - b.start, a.stop - b.start) for a, b in zip(region, box, strict=True)
            )
            return held[i, j, k].copy(order="K")

        return replace(self, volume=replace(self.volume, _read=from_memory))

    def region(
        self, crop_mm: tuple[float, float] = (96.0, 144.0), posterior_mm: float = 24.0
    ) -> Region:
        """Return the box that holds every crop around the bodies of T12-L4.

        Args:
            crop_mm: (antero-posterior, left-right) extent of the crop.
            posterior_mm: how far the crop's centre lies behind the body's.

        Returns:
            A box within the volume; along the slices just those that hold a body.
        """
        from nibabel.orientations import io_orientation

        ap, lr = crop_mm
        # Growth in mm towards (left, right), (posterior, anterior), (inferior, superior).
        growth = {0: (lr / 2, lr / 2), 1: (ap / 2 + posterior_mm, ap / 2 - posterior_mm), 2: (0, 0)}
        box = []
        around = self.masks.box or tuple(slice(0, size) for size in self.volume.shape)
        bodies = is_study_level(self.masks.labels[around])
        orientation = io_orientation(self.volume.affine)
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            inside = np.flatnonzero(bodies.any(axis=others)) + around[axis].start
            world, sign = int(orientation[axis, 0]), orientation[axis, 1]
            negative, positive = growth[world] if sign > 0 else growth[world][::-1]
            pad = 0.0 if world == 2 else PADDING_MM
            step = self.volume.spacing_mm[axis]
            start = int(inside[0]) - int(np.ceil(max(negative + pad, 0) / step))
            stop = int(inside[-1]) + 1 + int(np.ceil(max(positive + pad, 0) / step))
            box.append(slice(max(start, 0), min(stop, self.volume.shape[axis])))
        return box[0], box[1], box[2]


def load_case(
    image: str | PathLike[str] | Volume,
    mask: str | PathLike[str] | MaskMaker | None,
    *,
    series_uid: str | None = None,
    scheme: str | None = None,
) -> Case:
    """Open a CT and its mask and check both, without reading a voxel of the CT.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD; or a CT that is open already.
        mask: label map, folder of per-structure files, DICOM SEG or RTSTRUCT; or what makes one,
            called once the CT has passed the checks of its header.
        series_uid: which series, where the folder holds several.
        scheme: label scheme of the mask, or path of a label mapping; found from names or ids by
            default.

    Raises:
        CaseRefused: with the code of the rule that is broken.
    """
    volume = image if isinstance(image, Volume) else open_volume(image, series_uid)
    warnings = [*volume.warnings, *check_spacing(volume), *_check_domain(volume)]
    if mask is None:
        raise CaseRefused("mask_required", "no mask was given for this CT")
    masks = load_masks(
        Path(mask(volume) if callable(mask) else mask),
        volume.shape,
        volume.affine,
        scheme=scheme,
        frame_of_reference=volume.frame_of_reference,
    )
    return Case(volume=volume, masks=masks, warnings=(*warnings, *masks.warnings))


def check_case(case: Case) -> Region:
    """Run the checks that need voxels; return the region that was read.

    Raises:
        CaseRefused: see :func:`check_voxels`.
    """
    region = case.region()
    check_voxels(case, region, case.volume.read(region))
    return region


def check_voxels(case: Case, region: Region, hu: HUVolume) -> None:
    """Check that voxels are HU in every slice, and that the labels lie on bone with discs between.

    Args:
        case: the CT and its labels.
        region: box around T12-L4 (:meth:`Case.region`).
        hu: (i, j, k) of that region.

    Raises:
        CaseRefused: ``not_hounsfield``, ``hu_implausible``, ``mask_off_bone`` or
            ``mask_shifted``.
    """
    axis = case.volume.slice_axis
    labels, spacing_mm = case.masks.labels[region], case.volume.spacing_mm
    check_offset(hu)
    check_steps(hu, axis, region[axis].start)
    low, high = float(hu.min()), float(hu.max())
    if low >= FAT_HU or high <= BONE_HU or low < -MAX_HU or high > MAX_HU:
        # Fat lies around every spine and bone in it; 16-bit CT cannot hold more than MAX_HU.
        raise CaseRefused(
            "not_hounsfield",
            f"values around the spine run from {low:.0f} to {high:.0f}; fat below {FAT_HU:.0f} and "
            f"bone above {BONE_HU:.0f} HU must be there, and nothing beyond {MAX_HU:.0f}",
        )
    check_peaks(hu)
    bodies = np.where(is_study_level(labels), labels, 0).astype(np.uint8)
    check_bone_overlap(hu, bodies, spacing_mm)
    check_craniocaudal_shift(hu, bodies, spacing_mm)


def is_study_level(labels: LabelVolume) -> BoolVolume:
    """Return where a label map holds a body of T12-L4.

    >>> is_study_level(np.array([[[18, 19, 23, 24]]], dtype=np.uint8)).tolist()
    [[[False, True, True, False]]]
    """
    first, last = VERTEBRAE[LEVELS[0]], VERTEBRAE[LEVELS[-1]]
    return (labels >= first) & (labels <= last)


def check_spacing(volume: Volume) -> list[CaseWarning]:
    """Check the size of pixels, slices and the whole stack, without mask or voxels.

    Raises:
        CaseRefused: ``size_implausible`` (spacing written in cm or micron, say) or
            ``slices_too_thick``.
    """
    pixels, fields = list(volume.spacing_mm), list(volume.shape)
    step, slices = pixels.pop(volume.slice_axis), fields.pop(volume.slice_axis)
    for what, found, (low, high) in (
        ("pixels", pixels, PIXEL_MM),
        ("sides of a slice", [n * mm for n, mm in zip(fields, pixels, strict=True)], FIELD_MM),
        ("the stack of slices", [slices * step], EXTENT_MM),
    ):
        if not low <= min(found) <= max(found) <= high:
            raise CaseRefused(
                "size_implausible",
                f"{what} of {min(found):.4g} to {max(found):.4g} mm; must be {low:g} to {high:g} "
                "mm",
            )
    if step > MAX_SLICE_SPACING_MM:
        raise CaseRefused(
            "slices_too_thick",
            f"slices must be at most {MAX_SLICE_SPACING_MM:.0f} mm apart, got {step:.1f} mm",
        )
    found_warnings = []
    thickness = volume.thickness_mm or 0.0
    if volume.thickness_mm is not None and step > GAP_RATIO * thickness:
        text = f"slices of {thickness:.1f} mm lie {step:.1f} mm apart"
        found_warnings.append(CaseWarning("slices_apart", text))
    thickness = max(step, thickness)
    if thickness > PROTOCOL_THICKNESS_MM + THICKNESS_SLACK_MM:
        text = f"slices of {thickness:.1f} mm; the study used 5 mm"
        found_warnings.append(CaseWarning("slice_thickness", text))
    if max(pixels) > COARSE_PIXEL_MM:
        text = f"pixels of {max(pixels):.2f} mm; the network works at 1 mm"
        found_warnings.append(CaseWarning("resolution_coarse", text))
    return found_warnings


def _check_domain(volume: Volume) -> list[CaseWarning]:
    """Warn of what puts a CT outside the study, as far as the header says so."""
    facts = volume.facts or HeaderFacts()
    warnings = age_warnings(facts.age_years)
    if facts.contrast.contradictory:
        text = f"the header contradicts itself on contrast ({'; '.join(facts.contrast.hints)})"
        warnings.append(CaseWarning("contrast_contradictory", text))
    return warnings


def age_warnings(age_years: float | None) -> list[CaseWarning]:
    """Return the warning ``age_outside_study`` where an age is known and outside.

    >>> [w.message for w in age_warnings(49.0)], age_warnings(80.0), age_warnings(None)
    (['age 49 years; the study: 50 to 80'], [], [])
    """
    youngest, oldest = STUDY_YEARS
    if age_years is None or youngest <= age_years <= oldest:
        return []
    text = f"age {age_years:g} years; the study: {youngest} to {oldest}"
    return [CaseWarning("age_outside_study", text)]


def header_facts(volume: Volume) -> Json:
    """Return what the header of a CT says, with the geometry that decides its domain.

    Returns:
        Those keys of ``data_schemas/case_facts.schema.json`` that need no voxel; null where the
        header says nothing, as a NIfTI's or NRRD's does.
    """
    axis = volume.slice_axis
    pixels = [step for n, step in enumerate(volume.spacing_mm) if n != axis]
    return {
        **(volume.facts or HeaderFacts()).to_json(),
        "slice_distance_mm": round(volume.spacing_mm[axis], 3),
        "pixel_mm": round(max(pixels), 3),
    }


def check_report(
    image: str | PathLike[str],
    mask: str | PathLike[str] | MaskMaker | None,
    *,
    case_id: str,
    series_uid: str | None = None,
    scheme: str | None = None,
    review: Callable[[Case], Json] | None = None,
    expected: Expected | None = None,
) -> tuple[Json, CaseRefused | None]:
    """Run every check on one case and say what was found (``data_schemas/check.schema.json``).

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        mask: as :func:`load_case` takes it.
        case_id: the caller's name for the case.
        series_uid: which series, where the folder holds several.
        scheme: label scheme of the mask, or path of a label mapping; found from names or ids by
            default.
        review: called with the case once all other checks are passed. Returns ``mask``, where the
            mask comes from, further ``warnings`` and ``facts``, those that need voxels; it may
            refuse the case as well.
        expected: what a table says of the case, to be compared with its header.

    Returns:
        The report, and the refusal if the case would not be accepted.
    """
    report = _report(case_id)
    expected = expected or Expected()
    try:
        volume = open_volume(image, series_uid)
        report |= {
            "series": volume.finding.json() if volume.finding is not None else None,
            "format": volume.file_format,
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "slices": volume.shape[volume.slice_axis],
            "warnings": [asdict(warning) for warning in volume.warnings],
            "facts": _EMPTY_FACTS | header_facts(volume),
        }
        check_expected(volume.facts, expected)
        case = load_case(volume, mask, scheme=scheme)
        report |= {
            "levels": list(case.masks.levels),
            "cut_levels": list(case.masks.cut),
            "label_scheme": case.masks.scheme,
            "body_source": case.masks.body_source,
            "warnings": [asdict(warning) for warning in case.warnings],
        }
        if report["facts"]["age_years"] is None:
            report["warnings"] += [asdict(w) for w in age_warnings(expected.age_years)]
        check_case(case)
        if review is not None:
            found = review(case)
            report["mask"] = found["mask"]
            report["warnings"] += found["warnings"]
            report["facts"] |= found.get("facts", {})
    except CaseRefused as refusal:
        series = {"series": refusal.finding.json()} if isinstance(refusal, SeriesRefused) else {}
        return report | {"status": "refused", "refusal": refusal.to_json(), **series}, refusal
    return report, None


def refused_report(case_id: str, refusal: CaseRefused) -> Json:
    """Return the report of a case of which nothing is known but why it is refused."""
    return _report(case_id) | {"status": "refused", "refusal": refusal.to_json()}


def _report(case_id: str) -> Json:
    """Return the report of an accepted case of which nothing is known yet."""
    unknown = (
        *("series", "format", "shape", "spacing_mm", "slices", "levels", "cut_levels"),
        *("label_scheme", "body_source", "mask", "facts", "warnings", "refusal"),
    )
    lists: Json = {"levels": [], "cut_levels": [], "warnings": []}
    return {"case_id": case_id, "status": "accepted"} | dict.fromkeys(unknown) | lists
