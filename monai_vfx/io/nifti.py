"""NIfTI files, CT and masks alike: geometry from the header, voxels by region or slab by slab."""

from __future__ import annotations

import gzip
import html
import re
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from monai_vfx.core.arrays import Affine, HUVolume, Region
from monai_vfx.core.errors import CaseRefused, reason
from monai_vfx.io.image_file import three_axes, voxel_errors

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")
"""Files read through nibabel."""
FORMS_TOLERANCE_MM = 1.0
"""How far apart sform and qform may place a corner of the volume; float32 and shear removed from
the qform leave less than 0.1 mm."""
MAX_OFFSET = 1 << 40
"""Byte at which the voxels begin; a header that states more is damaged."""
_UNITS = {1: "metre", 2: "mm", 3: "micron"}
"""NIfTI's codes of the units of space; 0 states none and is taken for mm, as by all readers."""
_SLAB_BYTES = 1 << 23
_MAX_NAME_TABLE = 1 << 22  # bytes
_LABEL_TAG = re.compile(
    r'<Label\b[^>]*?\bKey="(\d+)"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>', re.DOTALL
)


class NiftiFile:
    """A NIfTI file opened by its header.

    Args:
        path: of the file, or of one half of a pair of header and voxels.
        subject: how messages call the file; never by its name, which may be a patient's.
        unreadable: refusal code for a file that is no NIfTI image.

    Attributes:
        shape: voxels along (i, j, k).
        affine: (4, 4) index → world mm, RAS+.

    Raises:
        CaseRefused: ``file_missing``, ``file_truncated``, ``not_volume``, ``geometry_missing``,
            ``units_not_mm`` or the code ``unreadable``.
    """

    kind = "nifti"

    def __init__(self, path: Path, subject: str, unreadable: str) -> None:
        _check_partner(path)
        self._path, self._subject, self._unreadable = path, subject, unreadable
        self._image = image = _load(path, subject, unreadable)
        self.shape = three_axes(subject, image.shape)
        if image.dataobj.dtype.kind not in "uif":
            raise CaseRefused(
                "not_volume", f"{subject}: voxels are {image.dataobj.dtype}, not single numbers"
            )
        if self._form_codes == (0, 0):
            # nibabel would derive an affine from the voxel sizes; orientation would be a guess.
            raise CaseRefused("geometry_missing", f"{subject}: sform and qform codes are both 0")
        unit = int(image.header["xyzt_units"]) & 0b111
        if unit not in (0, 2):
            raise CaseRefused(
                "units_not_mm", f"{subject}: the unit of space is {_UNITS.get(unit, unit)}, not mm"
            )
        self.affine: Affine = np.asarray(image.affine, dtype=np.float64)

    @property
    def _form_codes(self) -> tuple[int, int]:
        header = self._image.header
        return int(header["sform_code"]), int(header["qform_code"])

    def check_ct(self) -> Affine:
        """Refuse forms that contradict each other; return the affine with the digits meant.

        NIfTI-1 keeps 1.03 mm as 1.0299999713897705; the shortest number that float32 cannot tell
        from it is 1.03 again, and the volume lies exactly where the DICOM series lies that it was
        made from. Where both forms are set, the sform is taken, as by nibabel.

        Raises:
            CaseRefused: ``geometry_invalid`` or ``forms_disagree``.
        """
        sform, qform = self._form_codes
        if sform > 0 and qform > 0:
            self._check_forms_agree()
        if sform <= 0:
            return self.affine
        affine = np.eye(4)
        for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
            affine[row] = [float(str(value)) for value in self._image.header[name]]
        return affine

    def _check_forms_agree(self) -> None:
        try:
            qform = self._image.get_qform()
        except ValueError as error:
            raise CaseRefused(
                "geometry_invalid", "the qform's quaternion is no rotation"
            ) from error
        corners = np.array([[*c, 1] for c in product(*[(0, n - 1) for n in self.shape])]).T
        apart = (self._image.get_sform() - qform) @ corners
        farthest = float(np.linalg.norm(apart[:3], axis=0).max())
        if np.isfinite(apart).all() and farthest > FORMS_TOLERANCE_MM:
            raise CaseRefused(
                "forms_disagree",
                f"sform and qform place a corner of the volume {farthest:.1f} mm apart; at most "
                f"{FORMS_TOLERANCE_MM} mm is allowed",
            )

    def read_hu(self, region: Region) -> HUVolume:
        """Read a box of voxels."""
        trailing = (0,) * (len(self._image.shape) - 3)
        with voxel_errors(self._subject, self._unreadable):
            self._check_whole()
            return np.asarray(self._image.dataobj[(*region, *trailing)], dtype=np.float32)

    def _check_whole(self) -> None:
        """Read a gzip to its end, which checks its sum; compare another file's size."""
        if self._path.name.lower().endswith(".gz"):
            with gzip.open(self._path) as stream:
                while stream.read(1 << 22):
                    pass
            return
        data, proxy = Path(self._image.file_map["image"].filename), self._image.dataobj
        needed = proxy.offset + proxy.dtype.itemsize * int(np.prod(proxy.shape, dtype=np.int64))
        if data.stat().st_size < needed:
            raise EOFError

    def slabs(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield (first k, (i, j, some k)) of the voxels in order, to the file's end."""
        proxy, (columns, rows, slices) = self._image.dataobj, self.shape
        dtype = np.dtype(proxy.dtype)
        plane = columns * rows * dtype.itemsize
        step = max(1, _SLAB_BYTES // plane)
        opener = gzip.open if self._path.name.lower().endswith(".gz") else open
        with (
            voxel_errors(self._subject, self._unreadable),
            cast(BinaryIO, opener(self._path, "rb")) as stream,
        ):
            stream.seek(proxy.offset)
            for begin in range(0, slices, step):
                planes = min(step, slices - begin)
                raw = stream.read(planes * plane)
                if len(raw) < planes * plane:
                    raise CaseRefused(
                        "file_truncated",
                        f"{self._subject}: voxels end at slice {begin} of {slices}",
                    )
                slab = np.frombuffer(raw, dtype=dtype).reshape((columns, rows, planes), order="F")
                if (proxy.slope, proxy.inter) != (1, 0):
                    slab = slab * np.float64(proxy.slope) + np.float64(proxy.inter)
                yield begin, slab
            stream.read(1)  # the end of a gzip stream holds its checksum

    def names(self) -> dict[int, str]:
        """Return the label names of the first label table among the header's extensions."""
        for extension in self._image.header.extensions:
            if extension.get_code() not in (0, 30):  # unspecified and Caret; others are not text
                continue
            content = extension.get_content()
            if isinstance(content, bytes):
                content = content[:_MAX_NAME_TABLE].decode("utf-8", errors="replace")
            if isinstance(content, str) and "<LabelTable" in content:
                return names_of_xml(content)
        return {}


def names_of_xml(text: str) -> dict[int, str]:
    """Return the label names of a Caret label table, as TotalSegmentator v2 writes it into NIfTI.

    Only ``Label`` elements are looked for; nothing is expanded or fetched.

    Raises:
        CaseRefused: ``mask_unreadable`` when the text declares a document type or entities.

    >>> names_of_xml('<LabelTable><Label Key="32"><![CDATA[vertebrae_T12]]></Label></LabelTable>')
    {32: 'vertebrae_T12'}
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CaseRefused("mask_unreadable", "the label table declares XML entities")
    return {
        int(key): (verbatim or html.unescape(plain)).strip()
        for key, verbatim, plain in _LABEL_TAG.findall(text)
    }


def _load(path: Path, subject: str, unreadable: str) -> Any:
    """Return a NIfTI image by its header; nibabel would take Analyze files and others as well."""
    import nibabel as nib

    try:
        image: Any = nib.load(path)
    except PermissionError:
        raise
    except (EOFError, zlib.error) as error:
        raise CaseRefused(
            "file_truncated", f"{subject}: the header cannot be read ({reason(error)})"
        ) from error
    except Exception as error:  # a damaged header makes nibabel raise anything
        raise CaseRefused(unreadable, f"{subject} is no NIfTI image") from error
    # Nifti1Pair is what NIfTI-1 and -2, one file or two, have in common.
    voxels: Any = getattr(image, "dataobj", None)
    if not isinstance(image, nib.Nifti1Pair) or not 0 <= voxels.offset <= MAX_OFFSET:
        raise CaseRefused(unreadable, f"{subject} is no NIfTI image")
    return image


def _check_partner(path: Path) -> None:
    """Refuse one half of a pair of header and voxels."""
    other = {".hdr": ".img", ".img": ".hdr"}.get(path.suffix.lower())
    if other and not any(path.with_suffix(s).exists() for s in (other, other.upper())):
        raise CaseRefused("file_missing", f"the {other} file that belongs to this one is missing")
