"""What the headers of a CT say about patient, scanner and protocol; an absence stays an absence.

Nothing here identifies a patient: no name, no ID, no free text. Age and sex are the patient's; the
day of the scan is kept in memory to be compared with a table, and a caller decides whether it is
written (:meth:`HeaderFacts.to_json` gives the year alone).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import date
from statistics import median
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom.contrast import Contrast, read_contrast
from monai_vfx.io.dicom.kernels import kernel_kind
from monai_vfx.io.dicom.values import age_years, numbers, text, thickness_mm

FACT_TAGS = (
    *("StudyDescription", "SeriesDescription", "ProtocolName", "ImageComments"),
    *("ContrastBolusAgent", "ContrastBolusRoute", "ContrastBolusStartTime"),
    *("ContrastBolusAgentPhase", "AcquisitionTime", "AcquisitionDate", "SeriesDate", "StudyDate"),
    *("PatientBirthDate", "PatientSize", "PatientWeight", "KVP", "Exposure", "ExposureInmAs"),
    *("ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "ReconstructionDiameter"),
    "LossyImageCompression",
)
"""Tags that facts need beyond those of the geometry."""
AGE_TOLERANCE_YEARS = 1.0
"""A header holds whole years: an age in a table may differ from it by this much."""
DATE_TOLERANCE_DAYS = 1
"""A scan after midnight may be filed under either day."""
_YEAR_DAYS = 365.25
_MAX_AGE = 120.0
_TECHNICAL = re.compile(r"[^A-Za-z0-9 ._+\-/()]")


@dataclass(frozen=True)
class HeaderFacts:
    """What the headers of one series state. None stands for what they do not.

    Attributes:
        kernel_class: soft or sharp, by the name in ``kernel``.
        kvp: tube voltage, kV.
        exposure_mas: median over the slices.
        scan_date: of the acquisition, else of the series, else of the study.
        age_years: at the scan; ``age_source`` says whether it is ``PatientAge`` or computed from
            the ``birth_date``.
        sex: ``F`` or ``M``; any other entry counts as not stated.
        height_cm, weight_kg: as stated at the scan.
        reconstruction_diameter_mm: of the field of view.
        patient_position: such as ``HFS``.
        lossy: whether the pixels went through lossy compression.
    """

    series_uid: str | None = None
    contrast: Contrast = field(default_factory=Contrast)
    thickness_mm: float | None = None
    kernel: str | None = None
    kernel_class: str | None = None
    kvp: float | None = None
    exposure_mas: float | None = None
    manufacturer: str | None = None
    model: str | None = None
    scan_date: date | None = None
    age_years: float | None = None
    age_source: str | None = None
    sex: str | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    reconstruction_diameter_mm: float | None = None
    patient_position: str | None = None
    lossy: bool | None = None

    def to_json(self) -> Json:
        """Return the facts as plain values; of the date only the year."""
        document = asdict(self)
        contrast = document.pop("contrast")
        scanned = document.pop("scan_date")
        return {
            "contrast_phase": contrast["phase"],
            "contrast_phase_source": contrast["source"],
            "contrast_given": contrast["given"],
            "contrast_delay_s": contrast["delay_s"],
            "contrast_hints": list(contrast["hints"]),
            "contrast_contradictory": contrast["contradictory"],
            "scan_year": None if scanned is None else scanned.year,
            **document,
        }


@dataclass(frozen=True)
class Expected:
    """What a table says of a case at the scan; None where it says nothing."""

    age_years: float | None = None
    sex: str | None = None
    scan_date: date | None = None


def read_facts(headers: list[Any]) -> HeaderFacts:
    """Return what the headers of the slices of one series state.

    Facts that could differ between slices are taken from the first, the exposure as the median.
    """
    first = headers[0]
    days = [_date(first, name) for name in ("AcquisitionDate", "SeriesDate", "StudyDate")]
    scanned = next(filter(None, days), None)
    age, source = _age(first, scanned)
    sex, uid = text(first, "PatientSex"), text(first, "SeriesInstanceUID")
    size = _positive(first, "PatientSize")
    exposures = [
        found
        for header in headers  # classic, and Enhanced
        if (found := _positive(header, "Exposure") or _positive(header, "ExposureInmAs"))
    ]
    kernel = _technical(first, "ConvolutionKernel")
    return HeaderFacts(
        series_uid=uid if re.fullmatch(r"[0-9.]{1,64}", uid) else None,
        contrast=read_contrast(headers),
        thickness_mm=thickness_mm(first),
        kernel=kernel,
        kernel_class=kernel_kind(kernel or ""),
        kvp=_positive(first, "KVP"),
        exposure_mas=median(exposures) if exposures else None,
        manufacturer=_technical(first, "Manufacturer"),
        model=_technical(first, "ManufacturerModelName"),
        scan_date=scanned,
        age_years=age,
        age_source=source,
        sex=sex if sex in ("F", "M") else None,
        height_cm=None if size is None else round(100 * size, 1),
        weight_kg=_positive(first, "PatientWeight"),
        reconstruction_diameter_mm=_positive(first, "ReconstructionDiameter"),
        patient_position=_technical(first, "PatientPosition"),
        lossy={"00": False, "01": True}.get(text(first, "LossyImageCompression")),
    )


def check_expected(facts: HeaderFacts | None, expected: Expected) -> None:
    """Compare what a table says of a case with its header; what either lacks is not compared.

    Raises:
        CaseRefused: ``header_conflict``, naming each field with both values. Of dates only the
            distance is named.
    """
    if facts is None:
        return
    found = []
    age, stated = expected.age_years, facts.age_years
    if age is not None and stated is not None and abs(age - stated) > AGE_TOLERANCE_YEARS:
        found.append(f"age is {age:g} in the table and {stated:g} in the header")
    if None not in (expected.sex, facts.sex) and expected.sex != facts.sex:
        found.append(f"sex is {expected.sex} in the table and {facts.sex} in the header")
    if expected.scan_date is not None and facts.scan_date is not None:
        apart = abs((expected.scan_date - facts.scan_date).days)
        if apart > DATE_TOLERANCE_DAYS:
            found.append(f"scan_date in the table lies {apart} days off the header's")
    if found:
        raise CaseRefused("header_conflict", "; ".join(found))


def _age(header: Any, scanned: date | None) -> tuple[float | None, str | None]:
    stated = age_years(header)
    if stated is not None:
        return stated, "PatientAge"
    born = _date(header, "PatientBirthDate")
    if born is None or scanned is None:
        return None, None
    age = (scanned - born).days / _YEAR_DAYS
    return (round(age, 1), "birth_date") if 0 <= age <= _MAX_AGE else (None, None)


def _technical(header: Any, name: str) -> str | None:
    """Return the name of a device or kernel, at most 32 plain characters; several joined by /."""
    value = header.get(name)
    parts = [value] if isinstance(value, str) or value is None else list(value)
    joined = "/".join(str(part or "") for part in parts)
    return _TECHNICAL.sub("", joined).strip(" /")[:32] or None


def _positive(header: Any, name: str) -> float | None:
    """Return a number above 0; None for anything else."""
    found = numbers(header, name)
    return found[0] if len(found) == 1 and 0 < found[0] < float("inf") else None


def _date(header: Any, name: str) -> date | None:
    day = text(header, name)
    if not re.fullmatch(r"\d{8}", day):
        return None
    try:
        return date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        return None
