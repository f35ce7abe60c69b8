"""How large a compressed picture gets, found out before a decoder makes room for it.

Decoders believe the stream, not the header: 8 kilobytes of JPEG 2000 can hold 60,000 x 60,000
pixels of one value.

Formats: JPEG (ISO 10918-1, B.2.2), JPEG-LS (ISO 14495-1, C.2.2), RLE (DICOM PS3.5, G.3); JPEG 2000
and HTJ2K, also within JP2, which DICOM forbids and some write, by OpenJPEG.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any, BinaryIO

from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.dicom.values import whole

_TO_VALUE = 12  # bytes of tag, VR and length before encapsulated pixels (PS3.5, A.4)
_NO_SIZE = (0xC4, 0xC8, 0xCC)  # markers between 0xC0 and 0xCF that are no frame header
_JPEG_LS = 0xF7
_MAX_RUN = 128  # values that two bytes of RLE can stand for


def check_sizes(file: BinaryIO, frames: Collection[int | None]) -> None:
    """Refuse compressed pictures of a file that are not as large as the header says.

    The file, which is not deflated, is left at its start. Pictures are numbered from 1; ``[None]``
    stands for the one of a classic object. Parsing damaged bytes may raise anything.

    Raises:
        CaseRefused: ``pixel_format``, or ``file_truncated`` where a picture states no size.
    """
    from pydicom import dcmread
    from pydicom.encaps import generate_frames
    from pydicom.uid import RLELossless

    names = ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames"]
    header = dcmread(file, stop_before_pixels=True, specific_tags=names)
    syntax = header.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        wanted = {number or 1 for number in frames}
        file.seek(_TO_VALUE, 1)
        count = whole(header, "NumberOfFrames") or 1
        for number, stream in enumerate(generate_frames(file, number_of_frames=count), start=1):
            if number in wanted:
                (_check_rle if syntax == RLELossless else _check_stream)(stream, header)
            if number >= max(wanted):
                break
    file.seek(0)


def size_of(stream: bytes) -> tuple[int, int, int] | None:
    """Return rows, columns and samples of a JPEG, JPEG-LS or JPEG 2000 stream; None if it is none.

    >>> size_of(bytes.fromhex("ffd8 ffe00002 ff ffc3000b 10 0200 0100 01 011100"))
    (512, 256, 1)
    >>> size_of(b"no picture") is None
    True
    """
    try:
        if stream[:2] == b"\xff\xd8":
            return _jpeg_size(stream)
        return _jpeg_2000_size(stream)
    except (IndexError, struct.error):
        return None


def _jpeg_size(stream: bytes) -> tuple[int, int, int] | None:
    place = 2
    while stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF:  # a byte that fills
            place += 1
        elif marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NO_SIZE):
            rows, columns, samples = struct.unpack_from(">HHB", stream, place + 5)
            return rows, columns, samples
        else:
            place += 2 + struct.unpack_from(">H", stream, place + 2)[0]
    return None


def _jpeg_2000_size(stream: bytes) -> tuple[int, int, int] | None:
    """Return the size that OpenJPEG reads from the headers; no pixel is decoded."""
    from openjpeg.utils import get_parameters

    try:
        found: dict[str, Any] = get_parameters(stream)
    except (RuntimeError, ValueError):
        return None
    return found["rows"], found["columns"], found["samples_per_pixel"]


def _check_stream(stream: bytes, header: Any) -> None:
    stated = tuple(whole(header, name) for name in ("Rows", "Columns", "SamplesPerPixel"))
    found = size_of(stream)
    if found is None:
        raise CaseRefused("file_truncated", "a compressed picture states no size of its own")
    if found != stated:
        raise CaseRefused(
            "pixel_format",
            f"the header says {stated} rows, columns and samples, and the compressed picture "
            f"{found}",
        )


def _check_rle(stream: bytes, header: Any) -> None:
    sizes = [whole(header, name) or 0 for name in ("Rows", "Columns", "SamplesPerPixel")]
    values = sizes[0] * sizes[1] * sizes[2] * (whole(header, "BitsAllocated") or 0) // 8
    longest = 64 + 2 * values + _MAX_RUN  # a literal run adds a byte, at worst to each value
    if len(stream) > longest:
        raise CaseRefused(
            "pixel_format",
            f"a picture of {values} bytes has {len(stream)} compressed by RLE, the most is "
            f"{longest}",
        )
