"""One DICOM series in other forms: edited, as Enhanced multi-frame, in other transfer syntaxes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

ENHANCED_CT = UID("1.2.840.10008.5.1.4.1.1.2.1")
LEGACY_ENHANCED_CT = UID("1.2.840.10008.5.1.4.1.1.2.2")
_PER_SLICE = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "SliceLocation", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("AcquisitionNumber", "InstanceNumber", "WindowCenter", "WindowWidth", "PixelData"),
)


def in_order(folder: Path) -> list[Path]:
    """The files from the lowest slice to the highest; their names follow no order."""
    files = [file for file in folder.iterdir() if file.suffix == ".dcm"]
    return sorted(files, key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))


def edit(folder: Path, change: Callable[[Any], None], which: slice = slice(None)) -> None:
    """Change the headers of some slices, counted from the lowest."""
    for file in in_order(folder)[which]:
        header = pydicom.dcmread(file)
        change(header)
        header.save_as(file)


def put(tag: str, value: Any, which: slice = slice(None)) -> Callable[[Path], None]:
    """Return what writes a tag's value into slices; None removes the tag."""

    def change(header: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of values that we want to be wrong
            if value is None:
                del header[tag]
            else:
                setattr(header, tag, value)

    return lambda folder: edit(folder, change, which)


def to_enhanced(
    headers: list[Any],
    folder: Path,
    *,
    order: Iterable[int] | None = None,
    parts: int = 1,
    sop_class: UID = ENHANCED_CT,
    change: Callable[[Any], None] | None = None,
    syntax: UID = ExplicitVRLittleEndian,
) -> Path:
    """Write slices as Enhanced CT: orientation and spacing shared, position and rescale a frame.

    Args:
        headers: whole classic images.
        folder: is made.
        order: of the frames; reversed by default.
        parts: files of a concatenation.
        sop_class: of the object.
        change: is called with each part's data set before it is written.
        syntax: a native one.

    Returns:
        The first file.
    """
    folder.mkdir(parents=True)
    numbers = list(order) if order is not None else list(range(len(headers)))[::-1]
    for part, chosen in enumerate(np.array_split(numbers, parts), start=1):
        whole = _common(headers[0], sop_class, syntax)
        whole.NumberOfFrames = len(chosen)
        whole.SharedFunctionalGroupsSequence = [_shared(headers[0])]
        whole.PerFrameFunctionalGroupsSequence = [_of_frame(headers[n]) for n in chosen]
        whole.PixelData = b"".join(headers[n].PixelData for n in chosen)
        if parts > 1:
            whole.ConcatenationUID = "1.2.3.77"
            whole.InConcatenationNumber, whole.InConcatenationTotalNumber = part, parts
        if change is not None:
            change(whole)
        whole.save_as(folder / f"part{part}.dcm", enforce_file_format=True)
    return folder / "part1.dcm"


def _common(header: Any, sop_class: UID, syntax: UID) -> Any:
    whole = pydicom.dcmread(header.filename)
    for tag in _PER_SLICE:
        if tag in whole:
            del whole[tag]
    whole.SOPClassUID = sop_class
    whole.SOPInstanceUID = generate_uid()
    whole.file_meta.MediaStorageSOPClassUID = sop_class
    whole.file_meta.MediaStorageSOPInstanceUID = whole.SOPInstanceUID
    whole.file_meta.TransferSyntaxUID = syntax
    return whole


def _group(**attributes: Any) -> list[Dataset]:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return [item]


def _shared(header: Any) -> Dataset:
    groups = Dataset()
    groups.PixelMeasuresSequence = _group(
        PixelSpacing=header.PixelSpacing, SliceThickness=header.SliceThickness
    )
    groups.PlaneOrientationSequence = _group(ImageOrientationPatient=header.ImageOrientationPatient)
    groups.CTImageFrameTypeSequence = _group(FrameType=[*list(header.ImageType)[:3], "NONE"])
    return groups


def _of_frame(header: Any) -> Dataset:
    groups = Dataset()
    groups.FrameContentSequence = _group(StackID="1", TemporalPositionIndex=1)
    groups.PlanePositionSequence = _group(ImagePositionPatient=header.ImagePositionPatient)
    groups.PixelValueTransformationSequence = _group(
        RescaleSlope=header.RescaleSlope,
        RescaleIntercept=header.RescaleIntercept,
        RescaleType="HU",
    )
    return groups


def transcode(source: Path, target: Path, syntax: UID, encode: Callable[[Any], bytes]) -> None:
    """Write a native slice with its pixels encoded by a function of the data set."""
    header = pydicom.dcmread(source)
    header.PixelData = encapsulate([encode(header)])
    header["PixelData"].VR = "OB"
    header.file_meta.TransferSyntaxUID = syntax
    header.save_as(target, enforce_file_format=True)
