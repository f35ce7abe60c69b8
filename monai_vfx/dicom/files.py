"""The DICOM files of a folder or a zip: their headers, and whether each file is whole."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from monai_vfx.dicom.facts import FACT_TAGS
from monai_vfx.errors import CaseRefused

_HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "ImageType",
    "PatientID",
    "PatientAge",
    "PatientSex",
    "PatientPosition",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    *FACT_TAGS,
    "LossyImageCompressionRatio",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
_CT_CLASSES = tuple(  # CT, Enhanced CT, Legacy Converted Enhanced CT
    f"1.2.840.10008.5.1.4.1.1.2{part}" for part in ("", ".1", ".2")
)
_DICOMDIR = "1.2.840.10008.1.3.10"  # has no SOPClassUID in its data set
_PREAMBLE = 128  # bytes before the mark, DICOM PS3.10, 7.1
_MARK = b"DICM"
_UNPACK = "Unpack the zip with the program that made it and give the folder."
ACCESS_REMEDY = "Give yourself the right to read the file or folder and run again."
"""What helps where the system denies access."""


def reason(error: BaseException) -> str:
    """Say what went wrong without a file's name, as that may carry a patient's.

    >>> reason(OSError(28, "No space left on device", "Doe_Jane.nii")), reason(EOFError("Doe_Jane"))
    ('No space left on device', 'EOFError')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


@contextmanager
def access_refused(code: str = "input_unreadable") -> Iterator[None]:
    """Turn a denial by the system into a refusal with this code, and a remedy that fits."""
    try:
        yield
    except PermissionError as error:
        raise CaseRefused(
            code, "the system denies access to a file or folder", ACCESS_REMEDY
        ) from error


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's remarks to itself: they name files and values, a patient's among them."""
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with disable_value_validation(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")
            yield
    finally:
        logger.disabled = before


@dataclass(frozen=True)
class Source:
    """Where the bytes of one file lie: a path, or a member of a zip."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.member or self.path.name

    @property
    def folder(self) -> str:
        """What tells the files of one folder from those of another."""
        return self.member.rpartition("/")[0] if self.member else str(self.path.parent)


class Files:
    """Opens sources; a zip is opened once and stays so until the block's end."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for archive in self._archives.values():
            archive.close()

    def start(self, source: Source) -> bytes:
        """Return the first bytes, as far as the mark of a DICOM file."""
        with self._stream(source) as file:
            return bytes(file.read(_PREAMBLE + len(_MARK)))

    def open(self, source: Source) -> BinaryIO:
        """Open for reading; a member of a zip is unpacked in memory, which checks its sum."""
        if source.member is None:
            return source.path.open("rb")
        with self._stream(source) as file:
            return io.BytesIO(file.read())

    def _stream(self, source: Source) -> Any:
        if source.member is None:
            return source.path.open("rb")
        if source.path not in self._archives:
            self._archives[source.path] = zipfile.ZipFile(source.path)
        return self._archives[source.path].open(source.member)


def _sources(path: Path) -> list[Source]:
    """List the files below a path; hidden ones, such as a Mac's resource forks, are no part."""
    if path.is_dir():
        return [Source(file) for file in sorted(_walk(path)) if not file.name.startswith(".")]
    if path.suffix.lower() != ".zip":
        return [Source(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except PermissionError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CaseRefused("file_truncated", f"the zip cannot be read ({reason(error)})") from error
    if any(member.flag_bits & 1 for member in members):
        raise CaseRefused("input_unreadable", "the zip is encrypted", _UNPACK)
    names = sorted(member.filename for member in members)
    return [Source(path, name) for name in names if not name.rpartition("/")[2].startswith(".")]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder; one that cannot be entered is an error, not an omission."""

    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            if (Path(parent) / name).is_file():
                yield Path(parent) / name


def read_headers(path: Path) -> tuple[list[tuple[Source, Any]], int]:
    """Return the headers of all DICOM images below ``path`` and the count of other files.

    Raises:
        CaseRefused: ``file_truncated`` when a file is damaged: an image that is not whole, a
            ``.dcm`` file that is no DICOM, an empty file beside images. ``no_image`` or
            ``input_unreadable``.
    """
    headers, damaged, blank, ignored = [], [], [], 0
    with access_refused(), Files() as files:
        for source in _sources(path):
            try:
                start = _start(files, source)
                header = _header(files, source) if start[_PREAMBLE:] == _MARK else None
            except CaseRefused as refusal:
                if refusal.code != "file_truncated":
                    raise
                damaged.append(refusal.message)
                continue
            if header is not None:
                headers.append((source, header))
            elif start[_PREAMBLE:] == _MARK:
                ignored += 1
            elif source.name.lower().endswith(".dcm"):
                damaged.append("a .dcm file is no DICOM")
            elif start[:_PREAMBLE].strip(b"\0"):
                ignored += 1
            else:
                blank.append(source)
    with_images = {source.folder for source, _ in headers}
    damaged += ["a file is empty" for source in blank if source.folder in with_images]
    if damaged:
        raise CaseRefused(
            "file_truncated",
            f"{len(damaged)} of {len(damaged) + len(headers)} DICOM files are damaged; "
            f"the first: {damaged[0]}",
        )
    if not headers:
        raise CaseRefused("no_image", f"no DICOM image among {ignored + len(blank)} files")
    return headers, ignored + len(blank)


def read_tags(files: Files, source: Source, tags: Sequence[str]) -> Any:
    """Return some tags of a file whose header could be read before."""
    import pydicom

    with access_refused(), quiet_pydicom(), files.open(source) as file:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags))


def _start(files: Files, source: Source) -> bytes:
    try:
        return files.start(source)
    except PermissionError:
        raise
    except NotImplementedError as error:
        raise CaseRefused(
            "input_unreadable", "the zip is packed in a way that cannot be read", _UNPACK
        ) from error
    except Exception as error:  # unpacking and parsing damaged bytes raises anything
        raise _damaged(error) from error


def _header(files: Files, source: Source) -> Any | None:
    """Return the header of an image; None for another DICOM object, such as a report."""
    import pydicom

    try:
        with quiet_pydicom(), files.open(source) as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
            for _ in header:  # turns every value from bytes, so that later use finds none damaged
                pass
            if "Rows" in header:
                _check_complete(file, header)
                return header
            announced = str(header.file_meta.get("MediaStorageSOPClassUID", ""))
            kind = str(header.get("SOPClassUID", ""))
    except (CaseRefused, PermissionError):
        raise
    except Exception as error:
        raise _damaged(error) from error
    cut = not kind or (announced != kind and announced.startswith(kind))
    if announced != _DICOMDIR and (cut or kind in _CT_CLASSES):
        raise CaseRefused("file_truncated", "a DICOM file ends within its header")
    return None


def _damaged(error: Exception) -> CaseRefused:
    return CaseRefused("file_truncated", f"a DICOM file cannot be read ({reason(error)})")


_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
_TAIL = 4096  # bytes at a file's end; a little may follow the pixel data


def _check_complete(file: BinaryIO, header: Any) -> None:
    """Compare the bytes that remain behind the header with the pixels it announces."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    here = file.tell()
    remaining = file.seek(0, io.SEEK_END) - here
    if syntax is not None and not syntax.is_transfer_syntax:
        return  # what it announces cannot be known; the series will be refused for it
    if syntax is not None and syntax.is_deflated:
        return  # inflated as a whole when the header was read
    if syntax is not None and syntax.is_encapsulated:
        expected = 1
        file.seek(max(here, here + remaining - _TAIL))
        if _SEQUENCE_END not in file.read():
            raise CaseRefused("file_truncated", "compressed pixel data have no end mark")
    else:
        pixels = int(header.get("Rows", 0) or 0) * int(header.get("Columns", 0) or 0)
        frames = int(header.get("NumberOfFrames", 1) or 1) * int(
            header.get("SamplesPerPixel", 1) or 1
        )
        expected = pixels * frames * int(header.get("BitsAllocated", 16) or 16) // 8
        # Reading stopped before the element: tag, VR and length come first (PS3.5, 7.1).
        remaining -= 8 if syntax is not None and syntax.is_implicit_VR else 12
    if remaining < expected:
        raise CaseRefused(
            "file_truncated",
            f"pixel data end after {max(remaining, 0)} of {expected} bytes",
        )
