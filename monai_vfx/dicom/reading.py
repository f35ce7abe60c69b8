"""One CT series from a folder, a zip or single files: headers first, pixels of a region on demand.

Every slice of the series is accounted for: a file that cannot be read, a gap, a second patient or a
second geometry is a refusal, never a slice dropped. Positions are projected on the slice normal;
instance numbers and file names play no part.

Geometry: DICOM PS3.3, C.7.6.2.1.1 (equation C.7.6.2.1-1), in LPS, turned to RAS+ at the end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.dicom.files import Files, Source, access_refused, read_headers, reason
from monai_vfx.errors import CaseRefused, CaseWarning
from monai_vfx.shapes import Affine, HUVolume, Region

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SPACING_TOLERANCE = 0.03
"""A slice distance may differ from the median by this share of it."""
SPACING_SLACK_MM = 0.1
"""It may always differ by this much, as positions are rounded."""
SAME_PLACE_MM = 0.01
"""Slices nearer than this share one position."""
DIRECTION_TOLERANCE = 1e-3
"""Largest difference between direction cosines of slices of one series."""
ORTHONORMAL_TOLERANCE = 1e-2
"""A direction's length may differ from 1, and the cosine between row and column from 0, by this."""
ASIDE_TOLERANCE_MM = 0.5
"""Largest distance of a slice's corner from the line through the first and last, in mm."""
TILT_TOLERANCE_DEG = 0.5
"""Largest angle between the slice normal and the line through the slices' corners."""
SHORTEST_SERIES = 10
"""Fewest slices that can hold T12-L4 (10 mm apart at the most)."""

_REQUIRED = {  # tag → how many values it has
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "Rows": 1,
    "Columns": 1,
}


@dataclass(frozen=True)
class Series:
    """A checked CT series, slices sorted along their common normal.

    Attributes:
        sources: one file a slice.
        sop_instance_uids: of the slices, in the same order.
        shape: (columns, rows, slices).
        affine: voxel index (column, row, slice) → mm, RAS+.
        rescale: (n, 2): slope and intercept of each slice.
        thickness_mm: nominal slice thickness, None where the tag is absent.
        patient_position: such as ``HFS``; None where absent.
        age_years, sex: of the header, None where absent.
        warnings: what a reader of the result must know.
        deflated: whether a file is stored deflated as a whole.
    """

    sources: tuple[Source, ...]
    sop_instance_uids: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: Affine
    rescale: tuple[tuple[float, float], ...]
    thickness_mm: float | None
    patient_position: str | None
    age_years: float | None
    sex: str | None
    warnings: tuple[CaseWarning, ...]
    deflated: bool

    def read(self, region: Region) -> HUVolume:
        """Decode the slices of a region and crop them.

        Args:
            region: (columns, rows, slices), start and stop given.

        Returns:
            (i, j, k) in HU.

        Raises:
            CaseRefused: ``file_truncated`` when a slice cannot be decoded; ``series_mixed``.
        """
        columns, rows, slices = region
        chosen = range(self.shape[2])[slices]
        out = np.empty(  # slice by slice in memory, as it is written
            (len(chosen), rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32
        )
        with Files() as files:
            for at, k in enumerate(chosen):
                out[at] = self._slice(files, k, rows, columns)
        return out.T

    def _slice(self, files: Files, k: int, rows: slice, columns: slice) -> Any:
        """Return a part (rows, columns) of one slice in HU, float32."""
        stored = _decode(files, self.sources[k], k, self.deflated)
        if stored.shape != (self.shape[1], self.shape[0]):
            raise CaseRefused(
                "series_mixed", f"slice {k} has {stored.shape} pixels, not {self.shape[1::-1]}"
            )
        slope, intercept = self.rescale[k]
        return stored[rows, columns] * np.float32(slope) + np.float32(intercept)


def read_series(path: Path, series_uid: str | None = None) -> Series:
    """Read the headers of one CT series and check that it is a volume.

    Args:
        path: a folder (searched with its sub-folders), a zip, or a DICOM file.
        series_uid: SeriesInstanceUID to take where there are several.

    Raises:
        CaseRefused: with the code of the rule that is broken.
    """
    headers, ignored = read_headers(path)
    by_series: dict[str, list[tuple[Source, Any]]] = defaultdict(list)
    for source, header in headers:
        by_series[str(header.get("SeriesInstanceUID", ""))].append((source, header))
    chosen, warnings = _choose(by_series, series_uid, ignored)
    return _check_series(chosen, warnings)


def _choose(
    by_series: dict[str, list[tuple[Source, Any]]], series_uid: str | None, ignored: int
) -> tuple[list[tuple[Source, Any]], list[CaseWarning]]:
    """Pick the one CT series that was asked for, or the only one there is."""
    if series_uid is not None:
        if series_uid not in by_series:
            raise CaseRefused(
                "no_image", f"series {series_uid} is not among the {len(by_series)} found"
            )
        return by_series[series_uid], _left_aside(len(by_series) - 1)
    ct = {uid: files for uid, files in by_series.items() if _is_ct_volume(files)}
    if not ct:
        first_headers = [files[0][1] for files in by_series.values()]
        modalities = sorted({str(header.get("Modality", "none")) for header in first_headers})
        if "CT" in modalities and len(modalities) == 1:
            return max(by_series.values(), key=len), []
        raise CaseRefused("not_ct", f"modality is {', '.join(modalities)}, the rule is CT")
    if len(ct) > 1:
        listed = "; ".join(
            f"{uid} ({len(files)} slices, number {files[0][1].get('SeriesNumber', 'none')})"
            for uid, files in sorted(ct.items())
        )
        raise CaseRefused("several_series", f"{len(ct)} CT series were found: {listed}")
    return next(iter(ct.values())), _left_aside(len(by_series) - 1)


_CAPTURES = {f"1.2.840.10008.5.1.4.1.1.7{part}" for part in ("", ".1", ".2", ".3", ".4")}


def _left_aside(count: int) -> list[CaseWarning]:
    if count == 0:
        return []
    return [CaseWarning("other_series_ignored", f"{count} other series were left aside")]


def _is_ct_volume(files: list[tuple[Source, Any]]) -> bool:
    """Whether a series is CT and no scout view or secondary capture (a dose sheet, say)."""
    first = files[0][1]
    kinds = str(first.get("ImageType", "")).upper()  # one value or several
    if str(first.get("Modality", "")) != "CT" or "LOCALIZER" in kinds:
        return False
    return str(first.get("SOPClassUID", "")) not in _CAPTURES


def _check_series(files: list[tuple[Source, Any]], warnings: list[CaseWarning]) -> Series:
    headers = [header for _, header in files]
    _check_uniform(headers)
    row, column, normal = _directions(headers)
    corners = np.array([[float(x) for x in h.ImagePositionPatient] for h in headers])  # LPS mm
    order = np.argsort(corners @ normal, kind="stable")
    corners = corners[order]
    step = _check_positions(corners, normal)

    first = headers[0]
    row_spacing, column_spacing = (float(x) for x in first.PixelSpacing)  # between rows, columns
    affine = np.eye(4)
    affine[:3, 0] = row * column_spacing
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = normal * step
    affine[:3, 3] = corners[0]
    position = str(first.get("PatientPosition", "") or "") or None
    if position is not None and not position.endswith("S"):
        warnings = [*warnings, CaseWarning("position_unusual", f"patient position is {position}")]
    ordered = [headers[n] for n in order]
    return Series(
        sources=tuple(files[n][0] for n in order),
        sop_instance_uids=tuple(str(h.get("SOPInstanceUID", "")) for h in ordered),
        shape=(int(first.Columns), int(first.Rows), len(files)),
        affine=LPS_TO_RAS @ affine,
        rescale=tuple((float(h.RescaleSlope), float(h.RescaleIntercept)) for h in ordered),
        thickness_mm=_thickness_mm(first),
        patient_position=position,
        age_years=_age_years(str(first.get("PatientAge", "") or "")),
        sex=str(first.get("PatientSex", "") or "") or None,
        warnings=tuple(warnings),
        deflated=any(_is_deflated(h) for h in headers),
    )


def _check_uniform(headers: list[Any]) -> None:
    """Refuse what is no stack of equal slices in HU of one person."""
    modalities = {str(h.get("Modality", "none")) for h in headers}
    if modalities != {"CT"}:
        raise CaseRefused("not_ct", f"modality is {', '.join(sorted(modalities))}, the rule is CT")
    if any(int(h.get("NumberOfFrames", 1) or 1) > 1 for h in headers):
        raise CaseRefused("multiframe", "the series is an Enhanced multi-frame object")
    for tag, count in _REQUIRED.items():
        _check_numbers(tag, count, [_numbers(h, tag) for h in headers])
    if len(headers) < SHORTEST_SERIES:
        raise CaseRefused(
            "too_few_slices", f"{len(headers)} slices, at least {SHORTEST_SERIES} are needed"
        )
    if len({str(h.get("PatientID", "")) for h in headers}) > 1:
        raise CaseRefused("identity_conflict", "the slices carry different patient IDs")
    for tag in ("Rows", "Columns", "PixelSpacing", "FrameOfReferenceUID"):
        values = {_plain(h.get(tag)) for h in headers}
        if len(values) > 1:
            raise CaseRefused("series_mixed", f"{tag} has {len(values)} values among the slices")
    for h in headers:
        _check_values(h)


def _numbers(header: Any, tag: str) -> list[float]:
    """Return all values of a numeric tag; none where it is absent or empty."""
    value = header.get(tag)
    if value is None or value == "":
        return []
    if isinstance(value, str | int | float):
        value = [value]
    return [_number(x) for x in value]


def _number(value: Any) -> float:
    """Return a number; NaN for an empty value or text that is none.

    >>> _number("1.5"), _number("1.h"), _number(None)
    (1.5, nan, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _check_numbers(tag: str, count: int, found: list[list[float]]) -> None:
    """Refuse a tag that lacks its values in some slice, or has one that is no size or place."""
    missing = sum(1 for values in found if not values)
    if missing:
        raise CaseRefused("geometry_missing", f"{tag} is absent in {missing} slices")
    wrong = next((values for values in found if len(values) != count), None)
    if wrong is not None:
        raise CaseRefused("geometry_invalid", f"{tag} has {len(wrong)} values, the rule is {count}")
    if not np.isfinite(found).all():
        raise CaseRefused("geometry_invalid", f"{tag} is infinite or not a number")


def _thickness_mm(header: Any) -> float | None:
    """Return the nominal slice thickness; None where the tag states none."""
    values = _numbers(header, "SliceThickness")
    return values[0] if len(values) == 1 and np.isfinite(values[0]) and values[0] > 0 else None


def _plain(value: Any) -> Any:
    """Return a header's value so that equal numbers are equal however they are written.

    >>> _plain(["1.50", 2]), _plain("1.2.840")
    ((1.5, 2.0), '1.2.840')
    """
    if isinstance(value, str | int | float) or value is None:
        return str(value)
    return tuple(float(part) for part in value)


def _check_values(header: Any) -> None:
    """Refuse a slice whose values do not become HU."""
    for tag in ("RescaleSlope", "RescaleIntercept"):
        values = _numbers(header, tag)
        if len(values) != 1 or not np.isfinite(values).all():
            raise CaseRefused("not_hounsfield", f"{tag} is absent or not one number")
        if tag == "RescaleSlope" and values[0] <= 0:
            raise CaseRefused(
                "not_hounsfield", f"RescaleSlope is {values[0]:g}, it must be above 0"
            )
    kind = str(header.get("RescaleType", "HU") or "HU")
    if kind not in ("HU", "US"):  # US: unspecified, usual in CT of older scanners
        raise CaseRefused("not_hounsfield", f"RescaleType is {kind}, the rule is HU")
    if int(header.get("SamplesPerPixel", 1) or 1) != 1:
        raise CaseRefused("not_volume", "the slices are colour pictures")


def _directions(headers: list[Any]) -> tuple[Any, Any, Any]:
    """Return the unit vectors of a row, a column and the slice normal, in LPS."""
    all_cosines = np.array([[float(x) for x in h.ImageOrientationPatient] for h in headers])
    if not np.abs(all_cosines - all_cosines[0]).max() <= DIRECTION_TOLERANCE:
        raise CaseRefused("series_mixed", "ImageOrientationPatient differs between slices")
    row, column = all_cosines[0, :3], all_cosines[0, 3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(np.append(lengths - 1, row @ column)).max() > ORTHONORMAL_TOLERANCE:
        raise CaseRefused("geometry_invalid", "ImageOrientationPatient is not orthonormal")
    spacing = np.array([float(x) for x in headers[0].PixelSpacing])
    if spacing.min() <= 0 or not np.isfinite(spacing).all():
        raise CaseRefused("geometry_invalid", f"PixelSpacing is {spacing.tolist()} mm")
    return row, column, np.cross(row, column)


def _check_positions(corners: Any, normal: Any) -> float:
    """Return the slice distance in mm of sorted corners (n, 3)."""
    distances = np.diff(corners @ normal)
    step = float(np.median(distances))
    if distances.min() < SAME_PLACE_MM:
        raise CaseRefused(
            "slices_duplicated",
            f"{int((distances < SAME_PLACE_MM).sum())} slices share the position of another",
        )
    tolerance = max(SPACING_SLACK_MM, SPACING_TOLERANCE * step)
    uneven = np.abs(distances - step) > tolerance
    if uneven.any():
        raise CaseRefused(
            "slices_missing",
            f"slice distances run from {distances.min():.2f} to {distances.max():.2f} mm "
            f"(median {step:.2f}, tolerance {tolerance:.2f}); {int(uneven.sum())} are off",
        )
    run = corners[-1] - corners[0]
    line = corners[0] + np.outer(np.linspace(0, 1, len(corners)), run)
    off = corners - line
    aside = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    if not aside.max() <= ASIDE_TOLERANCE_MM:
        raise CaseRefused(
            "series_mixed",
            f"slices lie up to {aside.max():.1f} mm beside the line through the series; the rule "
            f"is at most {ASIDE_TOLERANCE_MM} mm",
        )
    across = np.linalg.norm(run - (run @ normal) * normal)
    tilt = float(np.degrees(np.arctan2(across, run @ normal)))
    if tilt > TILT_TOLERANCE_DEG:
        raise CaseRefused(
            "gantry_tilt",
            f"slices are sheared by {tilt:.1f} degrees, the rule is at most {TILT_TOLERANCE_DEG}",
        )
    return float((run @ normal) / (len(corners) - 1))


def _age_years(text: str) -> float | None:
    """Return an age string (DICOM VR AS) in years; None where it is absent or malformed.

    >>> _age_years("069Y"), _age_years("018M"), _age_years("")
    (69.0, 1.5, None)
    """
    found = re.fullmatch(r"(\d{3})([DWMY])", text)
    if found is None:
        return None
    return int(found.group(1)) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[found.group(2)]


def _is_deflated(header: Any) -> bool:
    syntax = header.file_meta.get("TransferSyntaxUID")
    return syntax is not None and bool(syntax.is_deflated)


def _decode(files: Files, source: Source, k: int, deflated: bool) -> Any:
    """Return the stored pixel values (rows, columns) of one slice."""
    import pydicom
    from pydicom.pixels import pixel_array

    with access_refused():
        try:
            with files.open(source) as file:
                # Straight from the file is faster, but does not inflate.
                return pixel_array(pydicom.dcmread(file) if deflated else file, raw=True)
        except PermissionError:
            raise
        except Exception as error:  # decoders of third parties raise anything
            raise CaseRefused(
                "file_truncated", f"the pixels of slice {k} cannot be decoded ({reason(error)})"
            ) from error
