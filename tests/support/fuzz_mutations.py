"""What goes wrong with files: bytes, DICOM elements, header fields, cells, whole files.

Every mutation takes a random generator and one file (or, of whole files, all of them), changes
what is on the disk and returns what it did in a few words.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement

Rng = np.random.Generator
T = TypeVar("T")
Mutation = Callable[[Rng, Path], str]


def pick(rng: Rng, choices: Sequence[T]) -> T:
    """Return one of several."""
    return choices[int(rng.integers(len(choices)))]


# -- bytes -----------------------------------------------------------------------------------


def _place(rng: Rng, size: int) -> int:
    """A place in a file, more often near its beginning or end."""
    near = min(size, int(pick(rng, [64, 400, 1500])))
    first, last = int(rng.integers(near + 1)), size - int(rng.integers(near + 1))
    return pick(rng, [first, first, last, int(rng.integers(size + 1))])


def flip_bits(rng: Rng, file: Path) -> str:
    """Flip a few bits."""
    content = bytearray(file.read_bytes())
    count = int(pick(rng, [1, 1, 2, 8, 64]))
    for _ in range(count if content else 0):
        content[min(_place(rng, len(content)), len(content) - 1)] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)
    return f"{count} bits flipped"


def truncate(rng: Rng, file: Path) -> str:
    """Cut the file."""
    content = file.read_bytes()
    at = _place(rng, len(content))
    file.write_bytes(content[:at])
    return f"cut at {at}"


def insert_bytes(rng: Rng, file: Path) -> str:
    """Put bytes in between."""
    content = file.read_bytes()
    at, count = _place(rng, len(content)), int(pick(rng, [1, 2, 16, 5000]))
    more = pick(rng, [bytes(count), b"\xff" * count, rng.bytes(count), content[at : at + count]])
    file.write_bytes(content[:at] + more + content[at:])
    return f"{len(more)} bytes put in at {at}"


def remove_bytes(rng: Rng, file: Path) -> str:
    """Take bytes out."""
    content = file.read_bytes()
    at, count = _place(rng, len(content)), int(pick(rng, [1, 2, 16, 400]))
    file.write_bytes(content[:at] + content[at + count :])
    return f"{count} bytes taken out at {at}"


def overwrite_bytes(rng: Rng, file: Path) -> str:
    """Write over a stretch."""
    content = file.read_bytes()
    at, count = _place(rng, len(content)), int(pick(rng, [1, 2, 4, 8, 200]))
    new = pick(rng, [bytes(count), b"\xff" * count, b"\x7f" * count, rng.bytes(count)])
    file.write_bytes(content[:at] + new + content[at + count :])
    return f"{count} bytes overwritten at {at}"


BYTES: tuple[Mutation, ...] = (flip_bits, truncate, insert_bytes, remove_bytes, overwrite_bytes)


# -- DICOM elements --------------------------------------------------------------------------

_READ = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber"),
    *("Modality", "ImageType", "PatientAge", "PatientSex", "PatientPosition", "InstanceNumber"),
    *("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt", "Rows", "Columns"),
    *("NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "SpecificCharacterSet"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "SegmentSequence"),
    *("SegmentationType", "DimensionIndexSequence", "ROIContourSequence", "ConcatenationUID"),
    *("StructureSetROISequence", "ReferencedFrameOfReferenceSequence"),
    *("ConvolutionKernel", "KVP", "StudyDate", "ContrastBolusAgent", "PixelData"),
)
_ONE = (b"", b" ", b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-320", b"0", b"-1", b"1e400")
_VALUES = (
    *_ONE,
    *(b"\\".join([value] * count) for count in (2, 3, 6) for value in _ONE),
    *(b"99999999999999999999", b"2147483648", b"\\", b"\\\\\\\\\\", b"1,5", b"0x10", b"1e5"),
    *(b"1\\0\\0\\0\\1\\0", b"0\\0\\0\\0\\0\\0", b"1e200\\0\\0\\0\\1e200\\0", b"CT\\MR", b"CT\0"),
    *(b"\xe4\xf6\xff", b"\x1b$B\x1b(J", b"A" * 70_000, b"1." * 40, b"999Y", b"HFP", b"MONOCHROME1"),
    *(bytes(2), bytes(4), b"\xff" * 2, b"\xff" * 4, b"\1\0", b"\x10\0\0\0", b"\0\x7f", b"\x40\0"),
)
_KINDS = (
    *("DS", "IS", "US", "UL", "SS", "FD", "OB", "OW", "UN", "SQ", "UI", "LO", "AT", "PN"),
    "ZZ",
)
_LENGTHS = (0, 1, 3, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"),
    *("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.3", ""),
    *("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201"),
    *("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.203"),
)
_LONG = (b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"UC", b"UR")  # PS3.5, 7.1.2


def _encoded(tag: int, vr: str, value: bytes, implicit: bool, length: int | None = None) -> bytes:
    """Return an element's bytes, little endian, with any length."""
    size = len(value) if length is None else length
    start, kind = struct.pack("<HH", tag >> 16, tag & 0xFFFF), vr.encode()
    if implicit:
        return start + struct.pack("<I", size) + value
    if kind in _LONG:
        return start + kind + bytes(2) + struct.pack("<I", size) + value
    return start + kind + struct.pack("<H", size & 0xFFFF) + value


def nested_sequences(depth: int, implicit: bool = False) -> bytes:
    """Return sequences within sequences, ReferencedImageSequence all of them."""
    value = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(value)) + value
        value = _encoded(0x00081140, "SQ", item, implicit)
    return value


def _replaced(file: Path, tag: int, new: bytes) -> None:
    """Put bytes in the place of an element, or where it would stand."""
    content = file.read_bytes()
    dataset = pydicom.dcmread(file)
    implicit = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
    for present in sorted(dataset.keys()):
        raw = dataset.get_item(present)
        if int(present) < tag or not isinstance(raw, RawDataElement):
            continue
        head = 12 if not implicit and (raw.VR or "").encode() in _LONG else 8
        begin = raw.value_tell - head
        end = begin
        if int(present) == tag:
            end = len(content) if raw.length == 0xFFFFFFFF else raw.value_tell + raw.length
        file.write_bytes(content[:begin] + new + content[end:])
        return
    file.write_bytes(content + new)


def set_element(rng: Rng, files: Sequence[Path]) -> str:
    """Delete an element, or give it a nasty value, VR, length or sequence."""
    keyword = pick(rng, _READ)
    tag = int(tag_for_keyword(keyword) or 0)
    how = pick(rng, ["value", "value", "value", "deleted", "kind", "length", "nested"])
    value, kind = pick(rng, _VALUES), dictionary_VR(tag).split(" ")[0]
    length, depth = None, int(pick(rng, [3, 50, 2000]))
    if how == "kind":
        kind = pick(rng, _KINDS)
    if how == "length":
        length = pick(rng, _LENGTHS)
    done = 0
    for file in files:
        try:
            implicit = pydicom.dcmread(file).file_meta.TransferSyntaxUID.is_implicit_VR
            new = _encoded(tag, kind, value + bytes(len(value) % 2), implicit, length)
            if how == "nested":
                new = nested_sequences(depth, implicit)
            _replaced(file, tag, b"" if how == "deleted" else new)
            done += 1
        except Exception:  # an earlier mutation left no DICOM; then this one does nothing
            continue
    return f"{keyword}: {how} {kind} {value[:20]!r} {length} in {done} files"


def set_syntax(rng: Rng, files: Sequence[Path]) -> str:
    """Announce another transfer syntax."""
    syntax = pick(rng, _SYNTAXES)
    for file in files:
        content = file.read_bytes()
        at = content.find(b"\x02\x00\x10\x00UI")
        if at >= 0:
            size = int.from_bytes(content[at + 6 : at + 8], "little")
            value = syntax.encode() + bytes(len(syntax) % 2)
            new = content[: at + 6] + struct.pack("<H", len(value)) + value
            file.write_bytes(new + content[at + 8 + size :])
    return f"transfer syntax {syntax!r} in {len(files)} files"


# -- NIfTI fields ----------------------------------------------------------------------------

_FIELDS: tuple[tuple[int, str], ...] = (  # offset and type within NIfTI-1's header
    *((0, "i"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (50, "h"), (54, "h")),
    *((70, "h"), (72, "h"), (76, "f"), (80, "f"), (84, "f"), (88, "f"), (92, "f"), (108, "f")),
    *((112, "f"), (116, "f"), (123, "b"), (252, "h"), (254, "h"), (256, "f"), (260, "f")),
    *((264, "f"), (268, "f"), (272, "f"), (276, "f"), (280, "f"), (284, "f"), (288, "f")),
    *((292, "f"), (296, "f"), (300, "f"), (304, "f"), (308, "f"), (312, "f"), (316, "f")),
    *((320, "f"), (324, "f"), (344, "i"), (348, "i"), (352, "i"), (356, "i")),
)
_NUMBERS: dict[str, Sequence[float]] = {
    "b": (0, 1, -1, 127),
    "h": (0, 1, -1, 2, 3, 4, 7, 8, 16, 32, 64, 128, 256, 512, 1024, 1536, 2304, 32767, -32768),
    "i": (0, 1, -1, 8, 16, 348, 540, 1 << 20, (1 << 31) - 1, -(1 << 31)),
    "f": (0.0, -1.0, 1e-30, 1e30, 3e38, 1e9, float("nan"), float("inf"), float("-inf"), 0.5, 352.0),
}


def set_nifti_field(rng: Rng, file: Path) -> str:
    """Give a field of the header a nasty value, within a gzip as well."""
    content = file.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    try:
        plain = bytearray(gzip.decompress(content) if packed else content)
        offset, kind = pick(rng, _FIELDS)
        value = pick(rng, _NUMBERS[kind])
        number = int(value) if kind != "f" else value
        struct.pack_into(f"<{kind}", plain, offset, number)
    except (OSError, EOFError, zlib.error, struct.error):
        return flip_bits(rng, file)
    file.write_bytes(gzip.compress(bytes(plain), 1, mtime=0) if packed else bytes(plain))
    return f"field at {offset} set to {number}"


# -- text headers and tables -----------------------------------------------------------------

_WORDS = (
    *(b"", b"0", b"-1", b"1", b"nan", b"inf", b"1e308", b"999999999", b"99999 99999 9999", b"3 3"),
    *(
        b"99999999999999999999",
        b"0 0 0",
        b"-1 -1 -1",
        b"1 1 1 1 1",
        b"nan nan nan",
        b"raw",
        b"gzip",
    ),
    *(b"bzip2", b"hex", b"ascii", b"double", b"float", b"int64", b"block", b"MET_FLOAT", b"True"),
    *(b"MET_DOUBLE", b"MET_CHAR", b"False", b"LOCAL", b"LIST", b"none", b"no_such_file.raw", b"."),
    *(b"(1,0,0) (0,1,0) (0,0,1)", b"(0,0,0) (0,0,0) (0,0,0)", b"(nan,0,0) (0,nan,0) (0,0,nan)"),
    *(b"(1e308,0,0) (0,1e308,0) (0,0,1e308)", b"none (1,0,0) (0,1,0)", b"1 0 0 0 1 0 0 0 1"),
    *(b"0 0 0 0 0 0 0 0 0", b"left-posterior-superior", b"3D-right-handed", b"little", b"big"),
    *(b"4", b"2", b"16", b"17", b"domain domain domain domain", b"space", b"A" * 5000, b"\xff\xfe"),
)


def set_header_line(rng: Rng, file: Path) -> str:
    """Change, remove or repeat one line of a NRRD or MetaImage header."""
    content = file.read_bytes()
    lines = content.split(b"\n")[:20]
    rest = content[len(b"\n".join(lines)) :]
    at = int(rng.integers(len(lines)))
    how, word = pick(rng, ["value", "value", "value", "removed", "repeated"]), pick(rng, _WORDS)
    name, mark, _ = lines[at].partition(b"=" if b"=" in lines[at] else b":")
    if how == "value":
        lines[at] = name + mark + b" " + word
    elif how == "removed":
        del lines[at]
    else:
        lines.insert(at, lines[at])
    file.write_bytes(b"\n".join(lines) + rest)
    return f"line {at} ({name[:30]!r}) {how} {word[:30]!r}"


_CELLS = (
    *("", " ", "nan", "inf", "-inf", "1e308", "-1", "2", "0", "1.5", "TRUE", "x", "\0", "é", "٣"),
    *(
        '"',
        '"a',
        "a,b",
        "\n",
        "a;b",
        "\t",
        "=1+1",
        "A" * 200_000,
        "../..",
        "/",
        "1e400",
        "0x1",
        "1_0",
    ),
    *("99999999999999999999999999", "NaN", "None", "c1", "p1", "\ud7ff", "\u202e", "T13", "FM"),
)


def set_cell(rng: Rng, file: Path) -> str:
    """Change one cell of a CSV, header included."""
    rows = [line.split(",") for line in file.read_bytes().decode("utf-8", "replace").split("\n")]
    row = int(rng.integers(len(rows)))
    column, cell = int(rng.integers(len(rows[row]))), pick(rng, _CELLS)
    rows[row][column] = cell
    text = "\n".join(map(",".join, rows))
    encoding = pick(rng, ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"])
    file.write_bytes(text.encode(encoding))
    return f"cell {row}, {column} set to {cell[:20]!r}, {encoding}"


# -- whole files -----------------------------------------------------------------------------


def change_files(rng: Rng, files: Sequence[Path]) -> str:
    """Remove, empty, repeat or exchange files, or put odd ones beside them."""
    file, other = pick(rng, files), pick(rng, files)
    how = pick(
        rng, ["removed", "empty", "repeated", "exchanged", "pipe", "loop", "folder", "zeros"]
    )
    beside = file.parent / f"odd{len(list(file.parent.iterdir()))}.dcm"
    if how == "removed":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "repeated":
        shutil.copy(file, beside)
    elif how == "exchanged":
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
    elif how == "zeros":
        file.write_bytes(bytes(file.stat().st_size))
    elif how == "pipe":
        os.mkfifo(beside)
    elif how == "loop":
        beside.symlink_to(beside)
    else:
        beside.mkdir()
    return f"a file: {how}"


# -- one case --------------------------------------------------------------------------------

_OF_ONE: dict[str, tuple[Mutation, ...]] = {
    "nifti": (set_nifti_field,),
    "text": (set_header_line,),
    "table": (set_cell,),
}
_OF_SOME = (set_element, set_element, set_syntax)


def mutate(rng: Rng, files: Sequence[Path], form: str) -> list[str]:
    """Spoil files in one to three ways.

    Args:
        rng: decides everything.
        files: sorted; those that may change.
        form: ``dicom``, ``nifti``, ``text``, ``table``, or ``bytes`` for all others.

    Returns:
        What was done.
    """
    done = []
    for _ in range(int(pick(rng, [1, 1, 1, 2, 3]))):
        left = [file for file in files if file.is_file()]
        if not left:
            break
        way = rng.random()
        if way < 0.06:
            done.append(change_files(rng, left))
        elif way < 0.4 or form == "bytes":
            done.append(pick(rng, BYTES)(rng, pick(rng, left)))
        elif form == "dicom":
            first = int(rng.integers(len(left)))
            count = int(pick(rng, [1, 1, 3, len(left)]))
            some = left if count == len(left) else left[first : first + count]
            done.append(pick(rng, _OF_SOME)(rng, some))
        else:
            done.append(pick(rng, _OF_ONE[form])(rng, pick(rng, left)))
    return done
