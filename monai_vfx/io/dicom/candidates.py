"""What is known of each CT series of an input, and what else the input holds.

Nothing here can hold a patient's name or ID: patients and studies are numbered, descriptions are
left out, and of other free texts only what has the form of a code is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from monai_vfx.core.arrays import Affine, Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom.archives import Source
from monai_vfx.io.dicom.contrast import series_agent
from monai_vfx.io.dicom.enhanced import pictures
from monai_vfx.io.dicom.kernels import Kind, kernel_kind
from monai_vfx.io.dicom.values import terms, text, thickness_mm, whole

AXIAL_WITHIN_DEG = 30.0
"""Largest angle between the slice normal and the body's axis of an axial series."""


class Stacked(Protocol):
    """A series that passed the checks of its headers."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(columns, rows, slices)."""

    @property
    def affine(self) -> Affine:
        """Voxel index (column, row, slice) → mm, RAS+."""


@dataclass(frozen=True)
class Candidate:
    """One CT series of an input. Nothing in it can hold a patient's name or ID.

    Patients and studies are numbered within the input from 1; 0 where no file of the series can be
    read. ``length_mm`` is the extent along the body, ``axial`` whether slices lie across it: None,
    like ``spacing_mm``, where the series is no volume. ``origin`` is ``ORIGINAL`` or ``DERIVED`` (a
    slice of it at least), ``contrast_agent`` whether a header names one that was given into a
    vessel, ``acquired`` the time of day as ``HHMMSS``. What is not stated is None. ``lost_by`` is a
    criterion or refusal code, a colon, and why; None for the chosen one.
    """

    series_uid: str
    patient: int
    study: int
    number: int | None
    modality: str
    slices: int
    spacing_mm: float | None
    thickness_mm: float | None
    length_mm: float | None
    axial: bool | None
    image_type: tuple[str, ...]
    origin: str | None
    kernel: str | None
    kernel_kind: Kind | None
    body_part: str | None
    contrast_agent: bool
    acquired: str | None
    chosen: bool = False
    lost_by: str | None = None

    @property
    def words(self) -> str:
        """What tells it from another series."""
        facts = [
            f"number {self.number}" if self.number is not None else "no number",
            f"{self.slices} slices",
            f"every {self.spacing_mm:.3g} mm" if self.spacing_mm is not None else "no volume",
            f"{self.thickness_mm:.3g} mm thick" if self.thickness_mm else "thickness not stated",
            f"kernel {self.kernel or 'not stated'}",
            "contrast agent" if self.contrast_agent else "no contrast agent stated",
        ]
        if self.acquired is not None:
            hours, minutes, seconds = (self.acquired[n : n + 2] for n in (0, 2, 4))
            facts.append(f"acquired {hours}:{minutes}:{seconds}")
        return f"{self.series_uid} ({', '.join(facts)})"


@dataclass(frozen=True)
class Finding:
    """What an input holds: the chosen series, and how many other files of each kind.

    The candidates are the CT series, the chosen one first; kinds of other files are those of
    :data:`monai_vfx.io.dicom.files.OTHER_FILES`, without zeros.
    """

    chosen: str | None
    patients: int
    candidates: tuple[Candidate, ...]
    other_files: dict[str, int]

    def json(self) -> Json:
        """Return it as ``data_schemas/check.schema.json`` has it under ``series``."""
        facts = [asdict(one) | {"image_type": list(one.image_type)} for one in self.candidates]
        return asdict(self) | {"candidates": facts}


class SeriesRefused(CaseRefused):
    """A refusal that knows what the input holds."""

    def __init__(self, refusal: CaseRefused, finding: Finding) -> None:
        super().__init__(refusal.code, refusal.message, refusal.remedy)
        self.finding = finding

    def __reduce__(self) -> tuple[type[SeriesRefused], tuple[CaseRefused, Finding]]:  # type: ignore[override]
        """Survive the way back from a worker process."""
        return type(self), (CaseRefused(self.code, self.message, self.remedy), self.finding)


def describe(
    uid: str, files: Sequence[tuple[Source, Any]], series: Stacked | None, patient: int, study: int
) -> Candidate:
    """Return the facts of a series, whose files may all be damaged, or refused (None)."""
    headers = _headers(files)
    first = headers[0] if headers else {}
    kernels = {_kernel(header) for header in headers}
    kernel = kernels.pop() if len(kernels) == 1 else None
    spacing, length, axial = (None, None, None) if series is None else _extent(series)
    times = [text(header, "AcquisitionTime")[:6] for header in headers]
    return Candidate(
        series_uid=uid,
        patient=patient,
        study=study,
        number=whole(first, "SeriesNumber"),
        modality=_code(text(first, "Modality")) or "none",
        slices=len(headers),
        spacing_mm=spacing,
        thickness_mm=thickness_mm(first),
        length_mm=length,
        axial=axial,
        image_type=tuple(_code(term) for term in terms(first, "ImageType")),
        origin=_origin(headers),
        kernel=kernel,
        kernel_kind=kernel_kind(kernel or ""),
        body_part=_code(text(first, "BodyPartExamined").upper()) or None,
        contrast_agent=series_agent(headers) is True,
        acquired=min((t for t in times if re.fullmatch(r"\d{6}", t)), default=None),
    )


def _headers(files: Sequence[tuple[Source, Any]]) -> list[Any]:
    """Return a header for each slice; those of the files where an Enhanced object is damaged."""
    try:
        return [picture.header for picture in pictures(files)]
    except CaseRefused:
        return [header for _, header in files]


def _extent(series: Stacked) -> tuple[float, float, bool]:
    """Return slice distance and length along the body in mm, and whether slices are axial."""
    axes = series.affine[:3, :3]
    steps = np.linalg.norm(axes, axis=0)
    along = np.abs(axes[2]) / steps
    body = int(np.argmax(along))
    length = abs(float(axes[2, body])) * series.shape[body]
    return float(steps[2]), length, bool(along[2] >= np.cos(np.radians(AXIAL_WITHIN_DEG)))


def _origin(headers: Sequence[Any]) -> str | None:
    firsts = {(terms(header, "ImageType") or ("",))[0] for header in headers}
    if "DERIVED" in firsts:
        return "DERIVED"
    return "ORIGINAL" if firsts == {"ORIGINAL"} else None


def _kernel(header: Any) -> str | None:
    value = header.get("ConvolutionKernel") or ""
    name = value if isinstance(value, str) else "\\".join(str(part) for part in value)
    return name.strip() if re.fullmatch(r"[\w .,:+/()\\-]{1,64}", name) else None


def _code(term: str) -> str:
    """Return a coded term; nothing where it is no code."""
    return term if re.fullmatch(r"[A-Z0-9_ -]{1,32}", term) else ""
