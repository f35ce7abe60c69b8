"""Headers of NRRD and MetaImage files, read with suspicion before ITK sees them.

ITK's readers are made for files that are well. A long word, or text where a number belongs, ends
the whole process, and a damaged compressed stream keeps it busy for ever. So a file is handed to
ITK only when its header is plain and its voxels are all there.

Formats: NRRD 1-5 (teem.sourceforge.net/nrrd/format.html) and MetaIO's tag names.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

WORLDS = {
    "left-posterior-superior": "lps",
    "right-anterior-superior": "ras",
    "left-anterior-superior": "las",
}
"""NRRD's names of the worlds that ITK turns to LPS, and their short forms. It would take any
other for LPS."""
MAX_FIELD = 1000
"""Characters of a field; a longer one overruns ITK's memory."""
MAX_AXES = 10

_MAX_HEADER = 1 << 20
_AT_ONCE = 1 << 22  # bytes that are unpacked in one go
_TYPES = {  # names that either format has for a type of voxels → numpy's
    name: dtype
    for dtype, names in {
        "i1": "signed char,int8,int8_t,met_char",
        "u1": "uchar,unsigned char,uint8,uint8_t,met_uchar",
        "i2": "short,short int,signed short,int16,int16_t,met_short",
        "u2": "ushort,unsigned short,uint16,uint16_t,met_ushort",
        "i4": "int,signed int,int32,int32_t,met_int,met_long",
        "u4": "uint,unsigned int,uint32,uint32_t,met_uint,met_ulong",
        "i8": "longlong,long long,long long int,int64,int64_t,met_long_long",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t,met_ulong_long",
        "f4": "float,met_float",
        "f8": "double,met_double",
    }.items()
    for name in names.split(",")
}
_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip", "headersize")
_MATRICES = ("transformmatrix", "orientation", "rotation")
_VECTORS = ("offset", "origin", "position", "elementspacing", "elementsize", "centerofrotation")


@dataclass(frozen=True)
class TextHeader:
    """A header that ITK can be trusted with.

    Attributes:
        fields: the format's own fields, names in small letters.
        keys: what a NRRD holds beside them (``name:=value``).
        meta: whether this is MetaImage; otherwise NRRD.
        data: the file that holds the voxels.
        start: its byte at which they begin, as far as the header says.
    """

    fields: dict[str, str]
    keys: dict[str, str]
    meta: bool
    data: Path
    start: int

    @property
    def voxel_type(self) -> str:
        """Numpy's name of the voxels' type, without the order of bytes."""
        return _TYPES[self.fields["elementtype" if self.meta else "type"].lower()]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Voxels along each axis, the fastest first."""
        return tuple(int(n) for n in self.fields["dimsize" if self.meta else "sizes"].split())

    @property
    def packed(self) -> bool:
        """Whether the voxels are compressed."""
        if self.meta:
            return self.fields.get("compresseddata", "").lower() in ("true", "1")
        return self.fields["encoding"].lower() in ("gzip", "gz")


def read_text_header(path: Path) -> TextHeader:
    """Read the header of a NRRD or MetaImage file.

    Args:
        path: ending in ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``.

    Raises:
        FileNotFoundError: the file of voxels that the header names is not there.
        OSError: the file cannot be read.
        ValueError: this is no such header, or one that ITK would stumble over; the message says
            what is wrong and names no file.
    """
    meta = path.name.lower().endswith((".mha", ".mhd"))
    with path.open("rb") as file:
        content = file.read(_MAX_HEADER)
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    place = 0
    if not meta:
        if re.match(rb"NRRD000[1-6]\r?\n", content) is None:
            raise ValueError("the file does not begin as a NRRD")
        place = content.index(b"\n") + 1
    while place < len(content) and "elementdatafile" not in fields:
        end = content.find(b"\n", place) + 1 or len(content)
        line = content[place:end].decode("utf-8", errors="replace").rstrip("\r\n")
        place = end
        if not line:
            break  # voxels follow
        if not line.startswith("#"):
            _take(line, "=" if meta else ":", fields, keys)
    _check_fields(fields, meta)
    name = fields.get("elementdatafile" if meta else "data file", fields.get("datafile", "LOCAL"))
    if name.upper() == "LOCAL":
        return TextHeader(fields, keys, meta, path, place)
    data = path.parent / name
    if {"/", "\\", "%"} & {*name} or name.upper().startswith("LIST"):
        raise ValueError("the voxels lie in no single file beside the header")
    if not data.is_file():
        raise FileNotFoundError
    return TextHeader(fields, keys, meta, data, 0)


def missing_world(header: TextHeader) -> str | None:
    """Say what a header lacks to place its voxels in a patient; None if nothing.

    ITK would fill in what is absent, and so guess an orientation.
    """
    fields = header.fields
    if header.meta:
        if not set(_MATRICES) & set(fields):
            return "the header has no field 'TransformMatrix'"
        return None
    world = fields.get("space", "")
    if world.lower() not in {*WORLDS, *WORLDS.values()}:
        return f"the header's field 'space' is {world!r}, must be one of {', '.join(WORLDS)}"
    return None if "space directions" in fields else "the header has no field 'space directions'"


def check_voxels_whole(header: TextHeader) -> str | None:
    """Describe bytes that follow the voxels, None where there are none: slices not announced.

    A compressed stream is unpacked to its end.

    Raises:
        EOFError: bytes are missing.
        OSError, zlib.error: the stream is damaged, or the file cannot be read.
    """
    channels = int(header.fields.get("elementnumberofchannels", 1))
    needed = math.prod(header.sizes) * channels * int(header.voxel_type[1])
    with header.data.open("rb") as file:
        skipped = _skip(header, file, needed)
        found = _unpacked(file, needed + skipped) - skipped if header.packed else _left(file)
    if found < needed:
        raise EOFError
    if found > needed:
        more = "bytes" if header.packed else f"{found - needed} bytes"
        return f"{more} follow the last voxel that the header's sizes announce"
    return None


def _skip(header: TextHeader, file: BinaryIO, needed: int) -> int:
    """Go to where the voxels begin; return how many unpacked bytes come before them.

    Lines are skipped in the file, a NRRD's bytes in what is unpacked; -1 counts from the end.
    """
    fields = header.fields
    size = header.data.stat().st_size
    file.seek(header.start)
    if header.meta:
        ahead = int(fields.get("headersize", 0))
        file.seek(max(size - needed, 0) if ahead == -1 else header.start + ahead)
        return 0
    for _ in range(int(fields.get("line skip", fields.get("lineskip", 0)))):
        if not file.readline():
            raise EOFError
    ahead = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if header.packed:
        return max(ahead, 0)
    file.seek(max(size - needed, 0) if ahead == -1 else file.tell() + ahead)
    return 0


def _left(file: BinaryIO) -> int:
    """Return how many bytes are left of a file."""
    here = file.tell()
    return file.seek(0, 2) - here


def _unpacked(file: BinaryIO, needed: int) -> int:
    """Return how many bytes a compressed stream holds; more than needed are not all counted."""
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib's frame or that of gzip
    found = 0
    while not unpack.eof and found <= needed:
        packed = unpack.unconsumed_tail or file.read(_AT_ONCE)
        if not packed:
            raise EOFError
        found += len(unpack.decompress(packed, _AT_ONCE))
    return found


def _take(line: str, mark: str, fields: dict[str, str], keys: dict[str, str]) -> None:
    """Put a line where it belongs."""
    name, found, value = line.partition(mark)
    if mark == ":" and value.startswith("="):
        keys[name] = value[1:]
        return
    name = name.strip().lower()
    if not found or len(line) > MAX_FIELD or not line.replace("\t", " ").isprintable():
        raise ValueError("a line of the header is too long or no text")
    if name in fields:
        raise ValueError("a field stands twice in the header")
    fields[name] = value.strip()


def _check_fields(fields: dict[str, str], meta: bool) -> None:
    """Refuse values that are not what their names announce."""
    axes, sizes = ("ndims", "dimsize") if meta else ("dimension", "sizes")
    if not re.fullmatch(r"\d{1,2}", fields.get(axes, "")):
        raise ValueError("the header does not say how many axes there are")
    count = int(fields[axes])
    lengths = fields.get(sizes, "").split()
    if not 1 <= count <= MAX_AXES or len(lengths) != count:
        raise ValueError("the header's sizes do not fit its axes")
    if not all(re.fullmatch(r"0*[1-9]\d{0,6}", length) for length in lengths):
        raise ValueError("the header's sizes are not whole numbers above 0")
    if fields.get("elementtype" if meta else "type", "").lower() not in _TYPES:
        raise ValueError("the header names no known type of voxels")
    if not all(re.fullmatch(r"\d{1,12}|-1", fields.get(name, "0")) for name in _SKIPS):
        raise ValueError("the header skips no number of lines or bytes")
    if meta:
        _check_meta_fields(fields, count)
    elif fields.get("encoding", "").lower() not in ("raw", "gzip", "gz"):
        raise ValueError("the header's encoding is neither raw nor gzip")


def _check_meta_fields(fields: dict[str, str], count: int) -> None:
    """Refuse fields of a MetaImage of so many axes that hold no numbers, or too few."""
    if not re.fullmatch(r"\d{1,3}", fields.get("elementnumberofchannels", "1")):
        raise ValueError("the header's number of channels is none")
    expected = dict.fromkeys(_MATRICES, count * count) | dict.fromkeys(_VECTORS, count)
    for name in expected.keys() & fields.keys():
        if not _are_numbers(fields[name], expected[name]):
            raise ValueError("the header's geometry has too few numbers, or none")


def _are_numbers(text: str, count: int) -> bool:
    try:
        return len([float(part) for part in text.split()]) == count
    except ValueError:
        return False
