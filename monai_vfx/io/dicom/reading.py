"""One CT series from a folder, a zip or single files: headers first, pixels of a region on demand.

Every slice of the series is accounted for: a file that cannot be read, a gap, a second patient or a
second geometry is a refusal, never a slice dropped. Positions are projected on the slice normal;
instance numbers and file names play no part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.core.arrays import Affine, HUVolume, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning, access_refused
from monai_vfx.io.dicom.archives import Source, state
from monai_vfx.io.dicom.candidates import Finding
from monai_vfx.io.dicom.choosing import choose
from monai_vfx.io.dicom.enhanced import Picture, pictures
from monai_vfx.io.dicom.facts import HeaderFacts, read_facts
from monai_vfx.io.dicom.files import read_tags, scan_files
from monai_vfx.io.dicom.pixels import PADDING_HU, TISSUE_HU, StoredValues, decoded
from monai_vfx.io.dicom.slices import check_slices
from monai_vfx.io.dicom.stack import PHASE_TAGS, stack_slices
from monai_vfx.io.dicom.values import age_years, text, thickness_mm

ALONG = 0.8
"""Least cosine at which a row is said to run along an axis of the patient."""


@dataclass(frozen=True, kw_only=True)
class SeriesHeader:
    """What the headers of a series state beside its geometry; empty for an image without them.

    Attributes:
        sop_instance_uids: of the slices' objects, sorted along their common normal.
        frame_numbers: of the slices within their objects, from 1; None for a classic series.
        thickness_mm: nominal slice thickness, None where it is not stated.
        age_years, sex: of the header, None where absent. Never guessed.
        warnings: what a reader of the result must know.
        facts: what the headers say of patient, scanner and protocol.
        frame_of_reference: FrameOfReferenceUID that the slices share, None where absent.
        series_uid: SeriesInstanceUID; None before the series is chosen, as is ``finding``.
        finding: all series and other files of the input.
    """

    sop_instance_uids: tuple[str, ...] | None = field(default=None, repr=False)
    frame_numbers: tuple[int, ...] | None = field(default=None, repr=False)
    thickness_mm: float | None = None
    age_years: float | None = None
    sex: str | None = None
    warnings: tuple[CaseWarning, ...] = ()
    facts: HeaderFacts | None = None
    frame_of_reference: str | None = field(default=None, repr=False)
    series_uid: str | None = None
    finding: Finding | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Series(SeriesHeader):
    """A checked CT series, slices sorted along their common normal.

    Attributes:
        sources: the file of each slice; one file holds all slices of an Enhanced object.
        shape: (columns, rows, slices).
        affine: voxel index (column, row, slice) → mm, RAS+.
        values: how stored values become HU, for each slice.
        deflated: whether a file is stored deflated as a whole.
    """

    sources: tuple[Source, ...]
    shape: tuple[int, int, int]
    affine: Affine
    values: tuple[StoredValues, ...]
    deflated: bool

    def read(self, region: Region) -> HUVolume:
        """Decode the slices of a region (columns, rows, slices) and crop them: (i, j, k) in HU."""
        columns, rows, slices = region
        chosen = range(self.shape[2])[slices]
        out = np.empty(  # slice by slice in memory, as it is written
            (len(chosen), rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32
        )
        by_source = defaultdict(list)
        for k in chosen:
            by_source[self.sources[k]].append(k)
        for source, places in by_source.items():
            numbers = [self.frame_numbers[k] if self.frame_numbers else None for k in places]
            # Closed at once: a refusal's traceback would hold it, and keep pydicom silenced.
            with closing(decoded(source, numbers, self.deflated)) as frames:
                for k, stored in zip(places, frames, strict=True):
                    if stored.shape != self.shape[1::-1]:
                        message = f"slice {k} has {stored.shape} pixels, not {self.shape[1::-1]}"
                        raise CaseRefused("series_mixed", message)
                    out[k - chosen.start] = self.values[k].to_hu(stored[rows, columns])
        return out.T


def read_series(path: Path, series_uid: str | None = None) -> Series:
    """Read the headers of one CT series and check that it is a volume.

    Args:
        path: a folder (searched with its sub-folders), a zip, a tar, a DICOMDIR or a DICOM file.
        series_uid: SeriesInstanceUID to take; by default the rule of
            :mod:`monai_vfx.io.dicom.choosing` decides.

    Raises:
        SeriesRefused: with the code of the rule that is broken, and what was found.
        CaseRefused: when the input cannot be searched.
    """
    with access_refused():
        return _read_series(path, series_uid, state(path))


@lru_cache(maxsize=2)
def _read_series(path: Path, series_uid: str | None, _: Any) -> Series:
    """Read a series once in a run, as long as the state of its files stays the same."""
    series, finding, warnings = choose(scan_files(path), series_uid, _check_series)
    warnings += series.warnings
    return replace(series, series_uid=finding.chosen, finding=finding, warnings=warnings)


def _check_series(files: list[tuple[Source, Any]]) -> Series:
    found = pictures(files)
    headers = [picture.header for picture in found]
    warnings = check_slices(headers)
    stack = stack_slices(
        headers, [picture.identity for picture in found], lambda: _with_phase_tags(found)
    )
    ordered = [found[n] for n in stack.order]
    uids = [picture.identity[0] for picture in ordered]
    if "" in uids or len({picture.identity for picture in ordered}) < len(ordered):
        raise CaseRefused("uid_invalid", "a SOPInstanceUID is absent, or shared by two slices")
    values = tuple(StoredValues.of(picture.header) for picture in ordered)
    frames = tuple(picture.frame for picture in ordered if picture.frame is not None)
    first = headers[0]
    position, affine = text(first, "PatientPosition") or None, stack.affine
    return Series(
        sources=tuple(picture.source for picture in ordered),
        sop_instance_uids=tuple(uids),
        frame_numbers=frames if len(frames) == len(ordered) else None,
        shape=(int(first.Columns), int(first.Rows), len(ordered)),
        affine=affine,
        values=values,
        thickness_mm=thickness_mm(first),
        age_years=age_years(first),
        sex=text(first, "PatientSex") or None,
        warnings=(*warnings, *_padding_warning(values), *_position_warnings(position, affine)),
        deflated=any(h.file_meta.TransferSyntaxUID.is_deflated for _, h in files),
        facts=read_facts([picture.header for picture in ordered]),
        frame_of_reference=text(first, "FrameOfReferenceUID") or None,
    )


def _with_phase_tags(found: Sequence[Picture]) -> list[Any]:
    """Return headers that tell phases apart; those of an Enhanced object have all there is."""
    return [
        read_tags(picture.source, PHASE_TAGS) if picture.frame is None else picture.header
        for picture in found
    ]


def _padding_warning(values: Sequence[StoredValues]) -> list[CaseWarning]:
    odd = [value for value in values if value.pads_tissue]
    if not odd:
        return []
    return [
        CaseWarning(
            "padding_ignored",
            f"PixelPaddingValue of {len(odd)} slices lies between {TISSUE_HU[0]:.0f} and "
            f"{TISSUE_HU[1]:.0f} HU, where tissue lies; nothing was set to {PADDING_HU:.0f} HU",
        )
    ]


def _position_warnings(position: str | None, affine: Affine) -> list[CaseWarning]:
    """Warn of a patient who does not lie supine, and of a position that pictures contradict.

    Rows run across the table. So they run left-right in a patient who lies supine or prone, and
    front-back in one who lies on a side. The geometry is ImageOrientationPatient's alone.
    """
    if position is None:
        return []
    warnings = []
    if not position.endswith("S"):
        warnings.append(CaseWarning("position_unusual", f"patient position is {position}"))
    left_right, front_back, _ = np.abs(affine[:3, 0]) / np.linalg.norm(affine[:3, 0])
    on_side = position.endswith(("DL", "DR"))
    if (front_back if not on_side else left_right) > ALONG:
        runs = "left-right" if on_side else "front-back"
        warnings.append(
            CaseWarning("position_conflict", f"rows run {runs}, but PatientPosition is {position}")
        )
    return warnings
