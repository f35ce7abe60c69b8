"""How large a deflated DICOM file gets, found out before anything holds it in memory."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from monai_vfx.core.errors import CaseRefused

MAX_INFLATED = 2**29
"""Bytes that a deflated DICOM file may hold: it is held in memory more than once."""
_MARK_AT, _MARK = 128, b"DICM"  # PS3.10, 7.1
_TIGHTEST = 1032  # so many bytes can one byte become: zlib's own figure for deflate
_PART = 1 << 20


def check_inflated(file: BinaryIO) -> None:
    """Refuse a DICOM file that was made to fill the memory: pydicom inflates it whole.

    The file is left at its start. Only a file that could be too large is inflated, part by part.

    Raises:
        CaseRefused: ``archive_too_large`` above :data:`MAX_INFLATED` bytes.
        Exception: whatever pydicom raises for a damaged header.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(_MARK_AT)
    try:
        if size * _TIGHTEST > MAX_INFLATED and file.read(len(_MARK)) == _MARK:
            _check_deflated(file)
    finally:
        file.seek(0)


def _check_deflated(file: BinaryIO) -> None:
    from pydicom.filereader import read_dataset
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    stream, left = zlib.decompressobj(-zlib.MAX_WBITS), MAX_INFLATED
    packed = file.read(_PART)
    while packed and not stream.eof:
        left -= len(stream.decompress(packed, _PART))
        if left < 0:
            raise CaseRefused(
                "archive_too_large",
                f"a deflated DICOM file holds more than {MAX_INFLATED} bytes, the most for one",
                "Write the file again in another transfer syntax (explicit little endian).",
            )
        packed = stream.unconsumed_tail or file.read(_PART)
