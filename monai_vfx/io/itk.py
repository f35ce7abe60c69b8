"""NRRD and MetaImage files by ITK: CT and masks alike, each header checked before ITK sees it.

ITK fills in what a header lacks, and some damaged headers end the process. So
:mod:`monai_vfx.io.itk_headers` reads them first.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.core.arrays import Affine, Region
from monai_vfx.core.errors import CaseRefused, access_refused, reason
from monai_vfx.core.geometry import LPS_TO_RAS
from monai_vfx.io.itk_headers import (
    TextHeader,
    check_voxels_whole,
    missing_world,
    read_text_header,
)


@dataclass(frozen=True)
class ItkFile:
    """A file whose header says where its voxels lie.

    Attributes:
        path: of the header.
        subject: how messages call the file; never by its name, which may be a patient's.
        unreadable: refusal code for what is no such file.
        header: as it stands there.
    """

    path: Path
    subject: str
    unreadable: str
    header: TextHeader

    @classmethod
    def of(cls, path: Path, subject: str, unreadable: str) -> ItkFile:
        """Read the header.

        Raises:
            CaseRefused: ``file_missing``, ``geometry_missing`` or the code ``unreadable``.
        """
        try:
            header = read_text_header(path)
        except FileNotFoundError as error:
            raise CaseRefused(
                "file_missing", f"{subject}: the file of voxels that the header names is not there"
            ) from error
        except ValueError as error:
            raise CaseRefused(unreadable, f"{subject}: {error}") from error
        lack = missing_world(header)
        if lack is not None:
            raise CaseRefused("geometry_missing", f"{subject}: {lack}")
        return cls(path, subject, unreadable, header)

    def open(self) -> Any:
        """Return SimpleITK's reader of the file, its header read.

        Raises:
            CaseRefused: the code ``unreadable``.
        """
        # Imported by name, as its stubs leave every call untyped.
        reader = import_module("SimpleITK").ImageFileReader()
        reader.SetImageIO(self.header.image_io)
        reader.SetFileName(str(self.path))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise CaseRefused(
                self.unreadable, f"{self.subject}: the header cannot be read"
            ) from error
        return reader

    def read(self, reader: Any, region: Region | None = None) -> Any:
        """Return voxels, the slowest axis first, as ITK has them.

        Args:
            reader: of :meth:`open`.
            region: (i, j, k) of a volume; None: all.

        Raises:
            CaseRefused: ``file_truncated``.
        """
        if region is not None:
            reader.SetExtractIndex([axis.start for axis in region])
            reader.SetExtractSize([axis.stop - axis.start for axis in region])
        with access_refused(self.unreadable):
            try:
                check_voxels_whole(self.header)
                return import_module("SimpleITK").GetArrayFromImage(reader.Execute())
            except PermissionError:
                raise
            except ValueError as error:
                raise CaseRefused("file_truncated", f"{self.subject}: {error}") from error
            except (EOFError, OSError, RuntimeError, zlib.error) as error:
                raise CaseRefused(
                    "file_truncated", f"{self.subject}: voxels cannot be read ({reason(error)})"
                ) from error


def affine_of(reader: Any) -> Affine:
    """Return (4, 4): index of the first three axes → world mm, RAS+."""
    size = reader.GetDimension()
    affine = np.eye(4)
    directions = np.array(reader.GetDirection()).reshape(size, size)[:3, :3]
    affine[:3, :3] = directions * np.array(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    return LPS_TO_RAS @ affine
