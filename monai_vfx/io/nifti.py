"""A CT as NIfTI: where its header says it lies, and its voxels a region at a time."""

from __future__ import annotations

import gzip
import zlib
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.core.arrays import Affine, HUVolume, OpenedImage, Region
from monai_vfx.core.errors import CaseRefused, access_refused, reason

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")
"""Files read through nibabel."""
FORMS_TOLERANCE_MM = 1.0
"""How far apart sform and qform may place a corner of the volume; float32 and shear removed from
the qform leave less than 0.1 mm."""
LARGEST_OFFSET = 1 << 40
"""A file whose voxels begin later is damaged; more is no place in a file."""
_UNITS = {1: "metre", 2: "mm", 3: "micron"}
"""NIfTI's codes of the units of space; 0 states none and is taken for mm, as by all readers."""


def load_nifti(path: Path) -> Any:
    """Return a NIfTI image by its header; nibabel would take Analyze files and others as well.

    Raises:
        EOFError, zlib.error: when the header is cut.
        OSError, ValueError: when this is no NIfTI image.
    """
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        image: Any = nib.load(path)
    except (ImageFileError, HeaderDataError, WrapStructError) as error:
        raise ValueError("no NIfTI image") from error
    except (EOFError, OSError, zlib.error):
        raise
    except Exception as error:  # what a damaged header makes nibabel raise is not to be foreseen
        raise ValueError("no NIfTI image") from error
    if not isinstance(
        image, nib.Nifti1Pair
    ):  # what NIfTI-1 and -2, one file or two, have in common
        raise ValueError("no NIfTI image")
    voxels: Any = image.dataobj
    if not 0 <= voxels.offset <= LARGEST_OFFSET:
        raise ValueError("no NIfTI image: its voxels begin at no place in a file")
    return image


def check_units(image: Any) -> None:
    """Refuse a NIfTI image whose header counts in other units than mm.

    Raises:
        CaseRefused: ``units_not_mm``.
    """
    code = int(image.header["xyzt_units"]) & 0b111
    if code not in (0, 2):
        raise CaseRefused(
            "units_not_mm", f"the header's unit of space is {_UNITS.get(code, code)}, not mm"
        )


def open_nifti(path: Path) -> OpenedImage:
    """Open a CT by its header.

    Raises:
        CaseRefused: with the code of the rule that the header breaks.
    """
    _check_partner(path)
    try:
        image = load_nifti(path)
    except PermissionError:
        raise
    except (EOFError, zlib.error) as error:
        raise CaseRefused(
            "file_truncated", f"the NIfTI header cannot be read ({reason(error)})"
        ) from error
    except (OSError, ValueError) as error:
        raise CaseRefused("input_unreadable", "the file is no NIfTI image") from error
    shape = tuple(int(n) for n in image.shape)
    if image.dataobj.dtype.kind not in "uif":
        raise CaseRefused("not_volume", f"voxels are {image.dataobj.dtype}, not single numbers")
    if len(shape) < 3 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
        raise CaseRefused("not_volume", f"the image has shape {shape}")
    _check_forms(image)
    check_units(image)
    trailing = (0,) * (len(shape) - 3)

    def read(region: Region) -> HUVolume:
        with access_refused():
            try:
                _check_whole(path, image)
                return np.asarray(image.dataobj[(*region, *trailing)], dtype=np.float32)
            except PermissionError:
                raise
            except (EOFError, OSError, zlib.error, ValueError) as error:
                raise CaseRefused(
                    "file_truncated", f"voxels cannot be read ({reason(error)})"
                ) from error

    i, j, k = shape[:3]
    return (i, j, k), _affine(image), read


def _affine(image: Any) -> Affine:
    """Return the affine with the digits that were meant, not those of float32.

    NIfTI-1 keeps 1.03 mm as 1.0299999713897705; the shortest number that float32 cannot tell from
    it is 1.03 again, and the volume lies exactly where the DICOM series lies that it was made from.
    """
    if int(image.header["sform_code"]) <= 0:
        return np.asarray(image.affine, dtype=float)
    affine = np.eye(4)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        affine[row] = [float(str(value)) for value in image.header[name]]
    return affine


def _check_partner(path: Path) -> None:
    """Refuse one half of a pair of header and voxels."""
    other = {".hdr": ".img", ".img": ".hdr"}.get(path.suffix.lower())
    if other is None:
        return
    names = {other, other.upper()}
    if not any(path.with_suffix(name).exists() for name in names):
        raise CaseRefused("file_missing", f"the {other} file that belongs to this one is not there")


def _check_forms(image: Any) -> None:
    """Refuse a header whose two statements of place are absent or contradict each other.

    Where both are set, the sform is taken, as by nibabel; the qform must agree with it.
    """
    sform, qform = (int(image.header[name]) for name in ("sform_code", "qform_code"))
    if (sform, qform) == (0, 0):
        # nibabel would make an affine up from the voxel sizes; orientation would be a guess.
        raise CaseRefused("geometry_missing", "sform and qform codes are both 0")
    if not (sform > 0 and qform > 0):
        return
    try:
        qform_affine = image.get_qform()
    except ValueError as error:
        raise CaseRefused("geometry_invalid", "the qform's quaternion is no rotation") from error
    corners = np.array([[*c, 1] for c in product(*[(0, n - 1) for n in image.shape[:3]])]).T
    apart = (image.get_sform() - qform_affine) @ corners
    farthest = float(np.linalg.norm(apart[:3], axis=0).max())
    if np.isfinite(apart).all() and farthest > FORMS_TOLERANCE_MM:
        raise CaseRefused(
            "forms_disagree",
            f"sform and qform place a corner of the volume {farthest:.1f} mm apart, the rule is at "
            f"most {FORMS_TOLERANCE_MM} mm",
        )


def _check_whole(path: Path, image: Any) -> None:
    """Read a gzip to its end, which checks its sum; compare another file's size with its header.

    Raises:
        EOFError, OSError, zlib.error: the file is not whole.
    """
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(1 << 22):
                pass
        return
    data = Path(image.file_map["image"].filename)
    proxy = image.dataobj
    needed = proxy.offset + proxy.dtype.itemsize * int(np.prod(proxy.shape, dtype=np.int64))
    if data.stat().st_size < needed:
        raise EOFError
