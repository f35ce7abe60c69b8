"""One DICOM series in other forms: edited, as Enhanced multi-frame, in other transfer syntaxes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
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
        whole.add_new("PixelData", "OW", b"".join(headers[n].PixelData for n in chosen))
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


# -- transfer syntaxes -----------------------------------------------------------------------

Transcoder = Callable[[Path, Path], None]
"""Writes one native slice (explicit VR little endian) in another transfer syntax."""


def _native(syntax: UID) -> Transcoder:
    def write(source: Path, target: Path) -> None:
        header = pydicom.dcmread(source)
        if not syntax.is_little_endian:
            swapped = np.frombuffer(header.PixelData, dtype="<u2").byteswap()
            header.add_new("PixelData", "OW", swapped.tobytes())
        header.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            target,
            header,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            force_encoding=True,  # from little to big endian: the pixels were turned above
        )

    return write


def _pydicom(syntax: UID, **options: Any) -> Transcoder:
    def write(source: Path, target: Path) -> None:
        header = pydicom.dcmread(source)
        header.compress(syntax, generate_instance_uid=False, **options)
        header.save_as(target)

    return write


def _gdcm(name: str) -> Transcoder:
    def write(source: Path, target: Path) -> None:
        import gdcm

        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()

    return write


def _openjph(syntax: UID, **options: Any) -> Transcoder:
    def write(source: Path, target: Path) -> None:
        from imagecodecs import htj2k_encode

        header = pydicom.dcmread(source)
        stream = htj2k_encode(header.pixel_array, **options)
        header.add_new("PixelData", "OB", encapsulate([stream]))
        header["PixelData"].is_undefined_length = True
        header.file_meta.TransferSyntaxUID = syntax
        header.save_as(target)

    return write


LOSSLESS: dict[str, Transcoder] = {
    "implicit VR little endian": _native(uid.ImplicitVRLittleEndian),
    "explicit VR little endian": _native(uid.ExplicitVRLittleEndian),
    "explicit VR big endian": _native(uid.ExplicitVRBigEndian),
    "deflated": _native(uid.DeflatedExplicitVRLittleEndian),
    "RLE": _pydicom(uid.RLELossless),
    "JPEG lossless, process 14": _gdcm("JPEGLosslessProcess14"),
    "JPEG lossless, first order": _gdcm("JPEGLosslessProcess14_1"),
    "JPEG-LS lossless": _pydicom(uid.JPEGLSLossless),
    "JPEG 2000 lossless": _pydicom(uid.JPEG2000Lossless),
    "HTJ2K lossless": _openjph(uid.HTJ2KLossless, reversible=True),
    "HTJ2K lossless, RPCL": _openjph(uid.HTJ2KLosslessRPCL, reversible=True, tlm=True),
}
"""Transfer syntaxes of CT that keep every bit."""
LOSSY: dict[str, tuple[Transcoder, float]] = {
    "JPEG-LS near-lossless": (_pydicom(uid.JPEGLSNearLossless, jls_error=3), 3.0),
    "JPEG 2000": (_pydicom(uid.JPEG2000, j2k_cr=[4]), 30.0),
    "HTJ2K": (_openjph(uid.HTJ2K, reversible=False, level=0.0002), 40.0),
}
"""Those that do not, and the largest difference in HU at the compression given.

JPEG-LS keeps its bound exactly. JPEG 2000 differs by up to 25 HU in the noisy picture of the tests
and 5 HU in the real series, HTJ2K by 26 and 31 HU; the rest is room for other encoders.
"""


def transcode(folder: Path, target: Path, write: Transcoder) -> Path:
    """Write a native series in another transfer syntax; return its folder."""
    target.mkdir(parents=True)
    for file in folder.glob("*.dcm"):
        write(file, target / file.name)
    return target
