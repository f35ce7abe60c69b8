"""The files of a folder, a zip or a tar, one like the other: where their bytes lie.

Archives are checked for size before anything is unpacked. What is packed is unpacked once, into a
nameless temporary file that vanishes with the process: nothing is written under a name that an
archive states, so no name can lead out of it, and links are never followed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import tarfile
import tempfile
import threading
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from monai_vfx.core.errors import CaseRefused, reason

MAX_FILE = 2**30
"""Bytes of one file in an archive; it is held in memory while it is read."""
MAX_ARCHIVE = 2**34
"""Bytes of all files of an archive."""
SAFE_SIZE = 2**28
"""An archive of no more bytes may be packed as tightly as it likes."""
MAX_RATIO = 100
"""How many times its own size a larger archive may hold; a CT is packed to a third."""
MAX_FILES = 100_000
"""Files in an archive."""
TAR_SUFFIXES = (*(".tar", ".tgz", ".tar.gz", ".txz", ".tar.xz", ".tbz2", ".tar.bz2"),)
"""Names of tars; one without such a name is known by its first bytes."""
NESTED_SUFFIXES = (*TAR_SUFFIXES, ".zip", ".7z", ".rar")
"""Archives within a folder or archive are known by their names and left aside."""
PREAMBLE = 128
"""Bytes before the mark of a DICOM file (PS3.10, 7.1)."""
MARK = b"DICM"
"""What stands behind them."""
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\0": lzma.open, b"BZh": bz2.open}
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""As PS3.12 has them; of others zipfile unpacks gigabytes from one part of a few kilobytes."""
MAX_INFLATED = 2**29
"""Bytes that a deflated DICOM file may hold: it is held in memory more than once."""
_TIGHTEST = 1032  # so many bytes can one byte become: zlib's own figure for deflate
_BLOCK, _PART = tarfile.BLOCKSIZE, 1 << 20
UNPACK_REMEDY = "Unpack the archive with the program that made it and give the folder."
"""What helps where an archive cannot be read."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's remarks to itself: they name files and values, a patient's among them.

    Logger, validation and warnings are the process's. So the first thread to come in silences
    them, and the last to leave gives them back.
    """
    global _quiet_users
    with _QUIET_LOCK:
        if not _quiet_users:
            _silence()
        _quiet_users += 1
    try:
        yield
    finally:
        with _QUIET_LOCK:
            _quiet_users -= 1
            if not _quiet_users:
                _QUIET.close()


_QUIET_LOCK, _QUIET = threading.Lock(), ExitStack()
_quiet_users = 0


def _silence() -> None:
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("pydicom")
    _QUIET.callback(setattr, logger, "disabled", logger.disabled)
    logger.disabled = True
    _QUIET.enter_context(disable_value_validation())
    _QUIET.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module="pydicom")


class _Store:
    """The bytes of an archive's files, one behind the other; closed once no source needs it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        weakref.finalize(self, file.close)

    def read(self, first: int, length: int) -> bytes:
        """Return bytes; safe in threads and forked processes, which share a file's position."""
        return os.pread(self.file.fileno(), length, first)


@dataclass(frozen=True)
class Source:
    """Where the bytes of one file lie: a path, or a member of an archive.

    Attributes:
        path: of the file or the archive.
        member: name within the archive.
        span: first byte and length within the archive's store.
        fault: why a member could not be unpacked to its end.
    """

    path: Path
    member: str | None = None
    span: tuple[int, int] = (0, 0)
    fault: str | None = None
    store: _Store | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """Folder and name, with slashes."""
        return self.member if self.member is not None else self.path.as_posix()

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.place.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """What tells the files of one folder from those of another."""
        return self.place.rpartition("/")[0]

    def start(self) -> bytes:
        """Return the first bytes, up to and with the mark of a DICOM file."""
        count = PREAMBLE + len(MARK)
        if self.store is not None:
            if self.span[1] < count:
                self._check_fault()
            return self.store.read(self.span[0], min(self.span[1], count))
        with self.path.open("rb") as file:
            return file.read(count)

    def is_dicom(self) -> bool:
        """Whether a file carries the mark of DICOM."""
        return self.start()[PREAMBLE:] == MARK

    def open(self) -> BinaryIO:
        """Open for reading; refuse a damaged member, and a deflated file of too many bytes."""
        self._check_fault()
        stored = None if self.store is None else self.store.read(*self.span)
        opened: BinaryIO = self.path.open("rb") if stored is None else io.BytesIO(stored)
        try:
            _check_inflated(opened)
        except BaseException:  # nobody else can close it, and it may hold a gibibyte
            opened.close()
            raise
        return opened

    def _check_fault(self) -> None:
        if self.fault is not None:
            raise CaseRefused("file_truncated", f"a DICOM file cannot be read ({self.fault})")


def list_sources(path: Path) -> tuple[list[Source], int]:
    """List the files of a folder, an archive or of one file; count the links left aside.

    Hidden files, such as a Mac's resource forks, are no part.
    """
    if path.is_dir():
        found, links = tuple(Source(file) for file in sorted(_walk(path))), 0
    elif not path.is_file():
        raise CaseRefused("input_unreadable", "the path is neither a file nor a folder")
    else:
        start, name = _head(path), path.name.lower()
        is_dicom = start[PREAMBLE:].startswith(MARK)
        packed = start.startswith(tuple(_PACKED)) or start[257:262] == b"ustar"
        is_zip = name.endswith(".zip") or start.startswith((b"PK\3\4", b"PK\5\6"))
        if is_dicom or not (is_zip or name.endswith(TAR_SUFFIXES) or packed):
            return [Source(path)], 0
        facts = path.stat()
        found, links = _members(path, is_zip, (facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return [source for source in found if not source.name.startswith(".")], links


def state(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a file of an input changes: names, sizes, times."""
    of_folder = path.is_dir() or path.name.upper() == "DICOMDIR"
    files = sorted(_walk(path if path.is_dir() else path.parent)) if of_folder else [path]
    facts = [(file.as_posix(), file.stat()) for file in files]
    return tuple((name, f.st_ino, f.st_size, f.st_mtime_ns) for name, f in facts)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BLOCK)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; one that cannot be entered is an error, not an omission."""

    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            if (Path(parent) / name).is_file():
                yield Path(parent) / name


@lru_cache(maxsize=2)
def _members(
    path: Path, is_zip: bool, facts: tuple[int, int, int]
) -> tuple[tuple[Source, ...], int]:
    """Return the files of an archive and how many links it has; unpacked once in a state."""
    found, links = (_zip_members if is_zip else _tar_members)(path, facts[1])
    return tuple(sorted(found, key=lambda source: source.place)), links


def _zip_members(path: Path, size: int) -> tuple[list[Source], int]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if any(member.flag_bits & 1 for member in members):
                raise CaseRefused("input_unreadable", "the zip is encrypted", UNPACK_REMEDY)
            if any(member.compress_type not in _ZIP_METHODS for member in members):
                raise CaseRefused(
                    "input_unreadable",
                    "the zip is packed in a way other than deflating",
                    UNPACK_REMEDY,
                )
            _check_sizes([member.file_size for member in members], size)
            links = [member for member in members if (member.external_attr >> 28) == 0o12]
            store = _Store(tempfile.TemporaryFile(prefix="vfx_"))  # noqa: SIM115
            found = [_unzip(path, archive, m, store) for m in members if m not in links]
            store.file.flush()
    except (CaseRefused, PermissionError):
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CaseRefused("file_truncated", f"the zip cannot be read ({reason(error)})") from error
    return found, len(links)


def _unzip(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, store: _Store) -> Source:
    """Unpack a member behind those before; what is damaged is kept as far as it can be read."""
    first, fault = store.file.tell(), None
    try:
        with archive.open(member) as stream:
            # Not at once: then zipfile inflates all before it looks at the stated size.
            while part := stream.read(_PART):
                store.file.write(part)
    except Exception as error:  # damaged streams raise anything
        fault = reason(error)
    return Source(path, member.filename, (first, store.file.tell() - first), fault, store)


def _tar_members(path: Path, size: int) -> tuple[list[Source], int]:
    store, is_tar = _Store(_tar_file(path, size)), True
    try:
        is_tar = store.read(0, _BLOCK)[257:262] == b"ustar"
        members, end = _tar_headers(store.file)
        blank = store.read(end, _BLOCK)
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:  # damaged headers raise anything
        raise _bad_tar(error, "file_truncated" if is_tar else "input_unreadable") from error
    if blank.strip(b"\0") or len(blank) < _BLOCK:
        # Where tarfile meets bytes that are no header it says nothing and takes them for the end.
        raise CaseRefused("file_truncated", "the tar has no end mark behind its last file")
    files = [member for member in members if member.isreg() and not member.issparse()]
    _check_sizes([member.size for member in files], max(size, 1))
    others = sum(1 for member in members if not member.isdir()) - len(files)
    return [Source(path, m.name, (m.offset_data, m.size), None, store) for m in files], others


def _tar_headers(file: BinaryIO) -> tuple[list[tarfile.TarInfo], int]:
    """Return all members and where the last one ends."""
    members, end = [], 0
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            members.append(member)
            if len(members) > 2 * MAX_FILES:
                raise _too_large(f"more than {2 * MAX_FILES} files and folders")
            end = archive.offset
    return members, end


def _tar_file(path: Path, packed_size: int) -> Any:
    """Open a tar; a compressed one cannot be entered in its middle and is unpacked as a whole."""
    start = _head(path)
    unpack = next((open_ for mark, open_ in _PACKED.items() if start.startswith(mark)), None)
    if unpack is None:
        return path.open("rb")
    most, size = _max_bytes(packed_size), 0
    file: Any = tempfile.TemporaryFile(prefix="vfx_")  # noqa: SIM115
    try:
        with unpack(path) as stream:
            while part := stream.read(_PART):
                size += len(part)
                if size > most:
                    raise _too_large(f"more than {most} bytes, the most for an archive of its size")
                file.write(part)
        file.flush()
    except BaseException as error:  # damaged streams raise anything
        file.close()
        if isinstance(error, CaseRefused | PermissionError) or not isinstance(error, Exception):
            raise
        raise _bad_tar(error) from error
    return file


def _check_sizes(sizes: list[int], packed: int) -> None:
    """Refuse an archive that was made to fill a disk or a memory."""
    total, most = sum(sizes), _max_bytes(packed)
    if len(sizes) > MAX_FILES:
        raise _too_large(f"{len(sizes)} files; at most {MAX_FILES} are allowed")
    if min(sizes, default=0) < 0 or max(sizes, default=0) > MAX_FILE:
        raise _too_large(f"a file of {max(sizes)} bytes; at most {MAX_FILE} are allowed")
    if total > most:
        raise _too_large(f"{total} bytes; at most {most} are allowed for an archive of its size")


def _max_bytes(packed: int) -> int:
    """Return how many bytes an archive of so many may hold.

    >>> _max_bytes(1000) == SAFE_SIZE, _max_bytes(2 * SAFE_SIZE) == MAX_ARCHIVE
    (True, True)
    """
    return min(MAX_ARCHIVE, max(SAFE_SIZE, MAX_RATIO * packed))


def _too_large(found: str) -> CaseRefused:
    return CaseRefused("archive_too_large", f"the archive holds {found}")


def _bad_tar(error: BaseException, code: str = "file_truncated") -> CaseRefused:
    return CaseRefused(code, f"the tar cannot be read ({reason(error)})")


def _check_inflated(file: BinaryIO) -> None:
    """Refuse a DICOM file that was made to fill the memory: pydicom inflates it whole.

    The file is left at its start. Only a file that could be too large is inflated, part by part.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(PREAMBLE)
    try:
        if size * _TIGHTEST > MAX_INFLATED and file.read(len(MARK)) == MARK:
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
