"""The files of a folder, a zip or a tar, one like the other: where their bytes lie.

Nothing is unpacked under the names that an archive states, so no name can lead out of it, and links
in an archive are never followed. A compressed tar cannot be entered in its middle: it is unpacked
once in a process, into a nameless temporary file that vanishes with it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import os
import shutil
import tarfile
import tempfile
import threading
import warnings
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from monai_vfx.core.errors import CaseRefused, reason
from monai_vfx.io.dicom.inflating import check_inflated

LARGEST_FILE = 2**30
"""Bytes of one file in an archive; it is held in memory while it is read."""
LARGEST_ARCHIVE = 2**34
"""Bytes of all files of an archive."""
SAFE_SIZE = 2**28
"""An archive of no more bytes may be packed as tightly as it likes."""
TIGHTEST = 100
"""How many times its own size a larger archive may hold; a CT is packed to a third."""
MOST_FILES = 100_000
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
_BLOCK = tarfile.BLOCKSIZE
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


@dataclass(frozen=True)
class Source:
    """Where the bytes of one file lie: a path, or a member of an archive.

    Attributes:
        path: of the file or the archive.
        member: name within the archive.
        span: first byte and length within a tar, once that is unpacked; None for a zip's member.
    """

    path: Path
    member: str | None = None
    span: tuple[int, int] | None = None

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


class Files:
    """Opens sources; an archive is opened once and stays so until the block's end."""

    def __init__(self) -> None:
        self._zips: dict[Path, zipfile.ZipFile] = {}
        self._tars: dict[Path, _Tar] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for archive in self._zips.values():
            archive.close()
        for path in list(self._tars):
            self._tars.pop(path).leave()

    def start(self, source: Source, count: int) -> bytes:
        """Return the first bytes."""
        with self._stream(source, count) as file:
            return bytes(file.read(count))

    def is_dicom(self, source: Source) -> bool:
        """Whether a file carries the mark of DICOM."""
        return self.start(source, PREAMBLE + len(MARK))[PREAMBLE:] == MARK

    def open(self, source: Source) -> BinaryIO:
        """Open for reading; a member of a zip is unpacked in memory, which checks its sum.

        Raises:
            CaseRefused: ``archive_too_large`` for a deflated DICOM file of too many bytes.
        """
        stream: BinaryIO = self._stream(source)
        in_zip = source.member is not None and source.span is None
        opened = io.BytesIO() if in_zip else stream
        try:
            if in_zip:
                with stream:
                    # Not at once: then zipfile inflates all before it looks at the stated size.
                    shutil.copyfileobj(stream, opened, 1 << 20)
            check_inflated(opened)
        except BaseException:  # nobody else can close it, and it may hold a gibibyte
            opened.close()
            raise
        return opened

    def _stream(self, source: Source, count: int | None = None) -> Any:
        if source.member is None:
            return source.path.open("rb")
        if source.span is not None:
            if source.path not in self._tars:
                self._tars[source.path] = _enter_tar(source.path)
            first, length = source.span
            return io.BytesIO(self._tars[source.path].read(first, min(length, count or length)))
        if source.path not in self._zips:
            self._zips[source.path] = zipfile.ZipFile(source.path)
        return self._zips[source.path].open(source.member)


def list_sources(path: Path) -> tuple[list[Source], int]:
    """List the files of a folder, an archive or of one file; count the links left aside.

    Hidden files, such as a Mac's resource forks, are no part.

    Raises:
        CaseRefused: ``file_truncated`` or ``input_unreadable`` for an archive that cannot be read,
            ``archive_too_large``.
        PermissionError: the system denies access.
    """
    if path.is_dir():
        found, links = [Source(file) for file in sorted(_walk(path))], 0
    elif not path.is_file():
        raise CaseRefused("input_unreadable", "this is no file and no folder")
    else:
        start, name = _head(path), path.name.lower()
        is_dicom = start[PREAMBLE:].startswith(MARK)
        packed = start.startswith(tuple(_PACKED)) or start[257:262] == b"ustar"
        if not is_dicom and (name.endswith(".zip") or start.startswith((b"PK\3\4", b"PK\5\6"))):
            found, links = _zip_members(path)
        elif not is_dicom and (name.endswith(TAR_SUFFIXES) or packed):
            found, links = _tar_members(path)
        else:
            return [Source(path)], 0
    return [source for source in found if not source.name.startswith(".")], links


def state(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a file of an input changes: names, sizes, times.

    Raises:
        PermissionError: the system denies access.
    """
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


def _zip_members(path: Path) -> tuple[list[Source], int]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except PermissionError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CaseRefused("file_truncated", f"the zip cannot be read ({reason(error)})") from error
    if any(member.flag_bits & 1 for member in members):
        raise CaseRefused("input_unreadable", "the zip is encrypted", UNPACK_REMEDY)
    if any(member.compress_type not in _ZIP_METHODS for member in members):
        raise CaseRefused(
            "input_unreadable", "the zip is packed in a way other than deflating", UNPACK_REMEDY
        )
    _check_sizes([member.file_size for member in members], path.stat().st_size)
    links = [member for member in members if (member.external_attr >> 28) == 0o12]
    names = sorted(member.filename for member in members if member not in links)
    return [Source(path, name) for name in names], len(links)


def _tar_members(path: Path) -> tuple[list[Source], int]:
    tar, is_tar = _enter_tar(path), True
    try:
        is_tar = tar.read(0, _BLOCK)[257:262] == b"ustar"
        members, end = tar.members()
        blank = tar.read(end, _BLOCK)
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:  # damaged headers raise anything
        raise _bad_tar(error, "file_truncated" if is_tar else "input_unreadable") from error
    finally:
        tar.leave()
    if blank.strip(b"\0") or len(blank) < _BLOCK:
        # Where tarfile meets bytes that are no header it says nothing and takes them for the end.
        raise CaseRefused("file_truncated", "the tar has no end mark behind its last file")
    files = [member for member in members if member.isreg() and not member.issparse()]
    _check_sizes([member.size for member in files], max(path.stat().st_size, 1))
    others = sum(1 for member in members if not member.isdir()) - len(files)
    found = [Source(path, m.name, (m.offset_data, m.size)) for m in files]
    return sorted(found, key=lambda source: source.place), others


def _check_sizes(sizes: list[int], packed: int) -> None:
    """Refuse an archive that was made to fill a disk or a memory."""
    total, most = sum(sizes), _most_bytes(packed)
    if len(sizes) > MOST_FILES:
        raise _too_large(f"{len(sizes)} files, the rule is at most {MOST_FILES}")
    if min(sizes, default=0) < 0 or max(sizes, default=0) > LARGEST_FILE:
        raise _too_large(
            f"a file of {max(sizes)} bytes, the rule is at most {LARGEST_FILE} in an archive"
        )
    if total > most:
        raise _too_large(f"{total} bytes, the rule is at most {most} for an archive of its size")


def _most_bytes(packed: int) -> int:
    """Return how many bytes an archive of so many may hold.

    >>> _most_bytes(1000) == SAFE_SIZE, _most_bytes(2 * SAFE_SIZE) == LARGEST_ARCHIVE
    (True, True)
    """
    return min(LARGEST_ARCHIVE, max(SAFE_SIZE, TIGHTEST * packed))


def _too_large(found: str) -> CaseRefused:
    return CaseRefused("archive_too_large", f"the archive holds {found}")


def _bad_tar(error: BaseException, code: str = "file_truncated") -> CaseRefused:
    return CaseRefused(code, f"the tar cannot be read ({reason(error)})")


class _Tar:
    """The bytes of a tar, unpacked; kept while someone is in."""

    def __init__(self, file: Any, keep: bool) -> None:
        self._file, self._keep = file, keep
        self._close = weakref.finalize(self, file.close)

    def read(self, first: int, length: int) -> bytes:
        """Return bytes; safe in threads and forked processes, which share a file's position."""
        return os.pread(self._file.fileno(), length, first)

    def members(self) -> tuple[list[tarfile.TarInfo], int]:
        """Return all members and where the last one ends."""
        self._file.seek(0)
        members, end = [], 0
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            for member in archive:
                members.append(member)
                if len(members) > 2 * MOST_FILES:
                    raise _too_large(f"more than {2 * MOST_FILES} files and folders")
                end = archive.offset
        return members, end

    def leave(self) -> None:
        """Close a file that costs nothing to open again."""
        if not self._keep:
            self._close()


def _enter_tar(path: Path) -> _Tar:
    start = _head(path)
    unpack = next((open_ for mark, open_ in _PACKED.items() if start.startswith(mark)), None)
    if unpack is None:
        return _Tar(path.open("rb"), keep=False)
    facts = path.stat()
    return _unpacked(path, (facts.st_ino, facts.st_size, facts.st_mtime_ns))


@lru_cache(maxsize=2)
def _unpacked(path: Path, facts: tuple[int, int, int]) -> _Tar:
    """Unpack a compressed tar; ``facts`` tell one state of the file from another."""
    unpack = next(open_ for mark, open_ in _PACKED.items() if _head(path).startswith(mark))
    most, size = _most_bytes(facts[1]), 0
    kept = _Tar(tempfile.TemporaryFile(prefix="vfx_"), keep=True)  # noqa: SIM115
    try:
        with unpack(path) as stream:
            while part := stream.read(1 << 20):
                size += len(part)
                if size > most:
                    raise _too_large(f"more than {most} bytes, the most for an archive of its size")
                kept._file.write(part)
        kept._file.flush()
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:  # damaged streams raise anything
        raise _bad_tar(error) from error
    return kept
