"""What each slice of a series must state: size, place, pixel format, and values that are HU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.io.dicom.stack import MIN_SLICES
from monai_vfx.io.dicom.values import numbers, plain, terms, text, whole

_REQUIRED = {  # tag → how many values it has
    "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6,
    "PixelSpacing": 2,
    "Rows": 1,
    "Columns": 1,
}
_UNIFORM = ("Rows", "Columns", "PixelSpacing", "FrameOfReferenceUID")
BITS_ALLOCATED = (16, 32)
"""Sizes of a stored value that can hold HU."""
NO_HU = (
    *("MAT_SPECIFIC", "MAT_REMOVED", "MAT_FRACTIONAL", "MAT_MODIFIED", "MAT_VALUE_BASED"),
    *("EFF_ATOMIC_NUM", "ELECTRON_DENSITY"),
)
"""Terms of ImageType (DICOM PS3.3, C.8.15.2.1.1) for maps that a multi-energy CT is turned into."""
LOSSY_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51, 81, 91, 203))
"""JPEG baseline and extended, JPEG-LS near-lossless, JPEG 2000 and HTJ2K."""
_EIGHT_BITS = tuple(f"1.2.840.10008.1.2.4.{part}" for part in (50, 51))
"""JPEG baseline and extended: the decoders there are read 8 bits of them, too few for HU."""
_DECODERS = {  # start of the transfer syntax → what brings a decoder
    "1.2.840.10008.1.2.4.57": "python-gdcm",
    "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.8": "pyjpegls",
    "1.2.840.10008.1.2.4.9": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.20": "pylibjpeg pylibjpeg-openjpeg",
}


def check_slices(headers: Sequence[Any]) -> list[CaseWarning]:
    """Refuse what is no stack of equal slices in HU of one person; return what to warn of."""
    modalities = {text(h, "Modality") or "none" for h in headers}
    if modalities != {"CT"}:
        raise CaseRefused("not_ct", f"modality is {', '.join(sorted(modalities))}, must be CT")
    for tag, count in _REQUIRED.items():
        _check_numbers(tag, count, [numbers(h, tag) for h in headers])
    if len(headers) < MIN_SLICES:
        raise CaseRefused(
            "too_few_slices", f"{len(headers)} slices, at least {MIN_SLICES} are needed"
        )
    if len({str(h.get("PatientID", "")) for h in headers}) > 1:
        raise CaseRefused("identity_conflict", "the slices carry different patient IDs")
    for tag in _UNIFORM:
        values = {plain(h.get(tag)) for h in headers}
        if len(values) > 1:
            raise CaseRefused("series_mixed", f"{tag} has {len(values)} values among the slices")
    for h in headers:
        _check_values(h)
        _check_pixel_format(h)
    _check_syntaxes({h.file_meta.get("TransferSyntaxUID") for h in headers})
    return [*_lossy(headers), *_monoenergetic(headers)]


def _check_numbers(tag: str, count: int, found: list[list[float]]) -> None:
    """Refuse a tag that lacks its values in some slice, or has one that is no size or place."""
    missing = sum(1 for values in found if not values)
    if missing:
        raise CaseRefused("geometry_missing", f"{tag} is absent in {missing} slices")
    wrong = next((values for values in found if len(values) != count), None)
    if wrong is not None:
        raise CaseRefused("geometry_invalid", f"{tag} has {len(wrong)} values, must have {count}")
    if not np.isfinite(found).all():
        raise CaseRefused("geometry_invalid", f"{tag} is infinite or not a number")


def _check_values(header: Any) -> None:
    """Refuse a slice whose values do not become HU."""
    for tag in ("RescaleSlope", "RescaleIntercept"):
        values = numbers(header, tag)
        if len(values) != 1 or not np.isfinite(values).all():
            raise CaseRefused("not_hounsfield", f"{tag} is absent or not one number")
        if tag == "RescaleSlope" and values[0] <= 0:
            raise CaseRefused(
                "not_hounsfield", f"RescaleSlope is {values[0]:g}, it must be above 0"
            )
    kind = text(header, "RescaleType") or "HU"
    if kind not in ("HU", "US"):  # US: unspecified, usual in CT of older scanners
        raise CaseRefused("not_hounsfield", f"RescaleType is {kind}, must be HU")
    maps = [term for term in terms(header, "ImageType") if term in NO_HU]
    if maps:
        raise CaseRefused("not_hounsfield", f"ImageType names a {maps[0]} map, must be HU")


def _check_pixel_format(header: Any) -> None:
    """Refuse a description of pixels that is incomplete, or contradicts itself."""
    samples, shown = whole(header, "SamplesPerPixel"), text(header, "PhotometricInterpretation")
    if samples not in (1, None) or shown.startswith(("RGB", "YBR", "PALETTE")):
        raise CaseRefused("not_volume", "the slices are colour pictures")
    if shown == "MONOCHROME1":
        raise CaseRefused(
            "not_hounsfield",
            "PhotometricInterpretation is MONOCHROME1, must be MONOCHROME2: it is not known "
            "whether values were inverted together with the display",
        )
    if samples is None or shown != "MONOCHROME2":
        tag = "SamplesPerPixel" if samples is None else "PhotometricInterpretation"
        raise CaseRefused("pixel_format", f"{tag} is absent or no known term")
    tags = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    found = {tag: whole(header, tag) for tag in tags}
    for tag, value in found.items():
        if value is None:
            raise CaseRefused("pixel_format", f"{tag} is absent or not one whole number")
    allocated, stored, high, signed = (found[tag] or 0 for tag in tags)
    fits = allocated in BITS_ALLOCATED and 8 < stored <= allocated and high == stored - 1
    if not fits or signed not in (0, 1):
        raise CaseRefused(
            "pixel_format",
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high} and "
            f"PixelRepresentation {signed} do not describe values of 9 to 16 or 32 bits",
        )


def _check_syntaxes(syntaxes: set[Any]) -> None:
    """Refuse pixels that no decoder here can read."""
    for syntax in syntaxes:
        if syntax is None:
            raise CaseRefused("syntax_unsupported", "a file states no transfer syntax")
        if syntax.is_transfer_syntax and not syntax.is_encapsulated:
            continue
        from pydicom.pixels import get_decoder

        try:
            available = syntax not in _EIGHT_BITS and get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            name = syntax.name if syntax.is_transfer_syntax else str(syntax)
            packages = [p for start, p in _DECODERS.items() if syntax.startswith(start)]
            raise CaseRefused(
                "syntax_unsupported",
                f"no decoder is installed for the transfer syntax {name}",
                f"Install one: pip install {packages[0]}" if packages else None,
            )


def _lossy(headers: Sequence[Any]) -> list[CaseWarning]:
    """Warn of slices whose values were changed by compression."""
    ratios, lossy = [], 0
    for h in headers:
        flag = text(h, "LossyImageCompression")
        if flag == "01" or (flag != "00" and h.file_meta.TransferSyntaxUID in LOSSY_SYNTAXES):
            lossy += 1
            ratios += [r for r in numbers(h, "LossyImageCompressionRatio") if np.isfinite(r)]
    if not lossy:
        return []
    stated = f"by up to {max(ratios):.3g} : 1" if ratios else "by a ratio that is not stated"
    return [
        CaseWarning(
            "lossy_compression",
            f"{lossy} of {len(headers)} slices are compressed with loss {stated}",
        )
    ]


def _monoenergetic(headers: Sequence[Any]) -> list[CaseWarning]:
    kinds = {term for h in headers for term in terms(h, "ImageType")}
    found = sorted(term for term in kinds if term.startswith("VMI") or "MONOEN" in term)
    if not found:
        return []
    return [CaseWarning("monoenergetic", f"ImageType is {found[0]}: a virtual photon energy")]
