"""One checked CT: its geometry from the headers, its voxels a region at a time.

>>> from monai_vfx.volumes import open_volume
>>> open_volume("nowhere")
Traceback (most recent call last):
...
monai_vfx.errors.CaseRefused: input_unreadable: nothing is found at this path. Give ...
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from monai_vfx.dicom.archives import access_refused, reason
from monai_vfx.dicom.candidates import Candidate, Finding, SeriesRefused
from monai_vfx.dicom.reading import read_series
from monai_vfx.dicom.stack import LPS_TO_RAS, SHORTEST_SERIES
from monai_vfx.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.shapes import Affine, HUVolume, Points, Region

NRRD_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
"""Files read through SimpleITK."""
NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")
"""Files read through nibabel."""
NRRD_WORLDS = {
    "left-posterior-superior": "lps",
    "right-anterior-superior": "ras",
    "left-anterior-superior": "las",
}
"""NRRD's names of the worlds that SimpleITK turns to LPS, and their short forms. It would take any
other for LPS."""
_LONGEST_HEADER = 1 << 20
LARGEST_TURN_DEG = 40.0
"""Beyond this angle it is not sure which axis is which."""
MOST_VOXELS = 4e9
"""A header that speaks of more is taken for a damaged one."""
LEAST_SPACING_MM = 1e-3
"""Voxels nearer than this are no CT's."""
SKEW_TOLERANCE = 2e-3
"""Largest cosine between two axes: 0.15 mm over the length of T12-L4."""


@dataclass(frozen=True)
class Volume:
    """A CT that can be read a region at a time.

    Attributes:
        file_format: ``dicom``, ``nifti`` or ``nrrd``.
        shape: voxels along the file's axes (i, j, k).
        affine: (i, j, k) → mm, RAS+.
        sop_instance_uids: of the slices' objects along k (DICOM), else None.
        frame_numbers: of the slices within their object, from 1 (Enhanced DICOM), else None.
        thickness_mm: nominal slice thickness of the header, None where it is not stated.
        age_years, sex: of the header, None where absent. Never guessed.
        warnings: what a reader of the result must know.
        series_uid: SeriesInstanceUID (DICOM), else None.
        finding: all series and other files of the input (DICOM), else None.
    """

    file_format: str
    shape: tuple[int, int, int]
    affine: Affine
    _read: Callable[[Region], HUVolume] = field(repr=False)
    sop_instance_uids: tuple[str, ...] | None = field(default=None, repr=False)
    frame_numbers: tuple[int, ...] | None = field(default=None, repr=False)
    thickness_mm: float | None = None
    age_years: float | None = None
    sex: str | None = None
    warnings: tuple[CaseWarning, ...] = ()
    series_uid: str | None = None
    finding: Finding | None = field(default=None, repr=False)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The CT series of the input, the chosen one first; none where the file is no DICOM."""
        return self.finding.candidates if self.finding is not None else ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along (i, j, k), mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def slice_axis(self) -> int:
        """The array axis that runs nearest to feet-head."""
        from nibabel.orientations import io_orientation

        return int(np.flatnonzero(io_orientation(self.affine)[:, 0] == 2)[0])

    @property
    def feet_first(self) -> bool:
        """Whether the index along :attr:`slice_axis` grows from the feet to the head."""
        return bool(self.affine[2, self.slice_axis] > 0)

    def index_from_feet(self, k: int) -> int:
        """Return the number of a slice counted from the feet, from its index along the axis."""
        return k if self.feet_first else self.shape[self.slice_axis] - 1 - k

    def read(self, region: Region | None = None) -> HUVolume:
        """Read voxels.

        Args:
            region: box of voxels; the whole volume by default.

        Returns:
            (i, j, k) float32 in HU, in the file's axis order.

        Raises:
            CaseRefused: ``file_truncated`` or ``not_hounsfield``.
        """
        box = region or (slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2]))
        hu = self._read(box)
        if not np.isfinite(hu).all():
            raise CaseRefused("not_hounsfield", "voxels are infinite or not a number")
        return hu


def open_volume(path: str | PathLike[str], series_uid: str | None = None) -> Volume:
    """Open a CT by its headers; no voxel is read.

    Args:
        path: a folder, zip or tar with DICOM files, a DICOMDIR, a DICOM file, NIfTI or NRRD.
        series_uid: SeriesInstanceUID to take; by default the rule of
            :mod:`monai_vfx.dicom.choosing` decides.

    Raises:
        CaseRefused: with the code of the rule that the file breaks.
        SettingError: when ``series_uid`` is given for a file that holds no series.
    """
    path = Path(path)
    name = path.name.lower()
    with access_refused():
        if not path.exists():
            raise CaseRefused("input_unreadable", "nothing is found at this path")
        if path.is_dir() or not name.endswith(NIFTI_SUFFIXES + NRRD_SUFFIXES):
            return _open_dicom(path, series_uid)
        if series_uid is not None:
            raise SettingError(
                f"series ({series_uid}) must be left out: only DICOM holds series, "
                "this is a NIfTI or NRRD file"
            )
        return _checked(_open_nifti(path) if name.endswith(NIFTI_SUFFIXES) else _open_nrrd(path))


def world_positions(affine: Affine, indices: Any) -> Points:
    """Return world positions (n, 3) in mm of voxel indices (n, 3).

    >>> import numpy as np
    >>> world_positions(np.diag([2.0, 3.0, 4.0, 1.0]), [[1, 1, 1]])
    array([[2., 3., 4.]])
    """
    return np.asarray(indices, dtype=float) @ affine[:3, :3].T + affine[:3, 3]


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
    if not isinstance(
        image, nib.Nifti1Pair
    ):  # what NIfTI-1 and -2, one file or two, have in common
        raise ValueError("no NIfTI image")
    return image


def missing_world(path: Path) -> str | None:
    """Say what a NRRD or MetaImage header lacks to place its voxels in a patient; None if nothing.

    ITK would fill in what is absent, and so guess an orientation. A file that is neither of the
    two lacks nothing here: ITK will refuse it.

    Raises:
        OSError: when the file cannot be read.
    """
    fields = _text_header(path)
    if not {"sizes", "dimsize"} & set(fields):
        return None
    if "dimsize" in fields:
        if not {"transformmatrix", "orientation", "rotation"} & set(fields):
            return "the header has no field 'TransformMatrix'"
        return None
    world = fields.get("space", "")
    if world.lower() not in {*NRRD_WORLDS, *NRRD_WORLDS.values()}:
        return f"the header's field 'space' is {world!r}, the rule is {', '.join(NRRD_WORLDS)}"
    return None if "space directions" in fields else "the header has no field 'space directions'"


def _text_header(path: Path) -> dict[str, str]:
    """Return the fields of a NRRD or MetaImage header, names in small letters."""
    meta = path.name.lower().endswith((".mha", ".mhd"))
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for raw in file.read(_LONGEST_HEADER).split(b"\n"):
            line = raw.decode("utf-8", errors="replace").rstrip("\r")
            name, _, value = line.partition("=" if meta else ":")
            if not line or "elementdatafile" in fields:
                break  # voxels follow
            if not line.startswith("#"):
                fields[name.strip().lower()] = value.strip()
    return fields


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files in the order of their own hashes.

    File names take no part: they may carry a patient's name.
    """
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if path.is_file():
        return digests[0]
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _open_dicom(path: Path, series_uid: str | None) -> Volume:
    series = read_series(path, series_uid)
    volume = Volume(
        file_format="dicom",
        shape=series.shape,
        affine=series.affine,
        _read=series.read,
        sop_instance_uids=series.sop_instance_uids,
        frame_numbers=series.frame_numbers,
        thickness_mm=series.thickness_mm,
        age_years=series.age_years,
        sex=series.sex,
        warnings=series.warnings,
        series_uid=series.series_uid,
        finding=series.finding,
    )
    try:
        return _checked(volume)
    except CaseRefused as refusal:
        if series.finding is None:
            raise
        raise SeriesRefused(refusal, series.finding) from refusal


def _open_nifti(path: Path) -> Volume:
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
    codes = (int(image.header["sform_code"]), int(image.header["qform_code"]))
    if codes == (0, 0):
        # nibabel would make an affine up from the voxel sizes; orientation would be a guess.
        raise CaseRefused("geometry_missing", "sform and qform codes are both 0")
    shape = tuple(int(n) for n in image.shape)
    if image.dataobj.dtype.kind not in "uif":
        raise CaseRefused("not_volume", f"voxels are {image.dataobj.dtype}, not single numbers")
    if len(shape) < 3 or min(shape) < 1 or any(n != 1 for n in shape[3:]):
        raise CaseRefused("not_volume", f"the image has shape {shape}")
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
    affine = np.asarray(image.affine, dtype=float)
    return Volume(file_format="nifti", shape=(i, j, k), affine=affine, _read=read)


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


def _open_nrrd(path: Path) -> Volume:
    import SimpleITK as sitk  # noqa: N813 - the field's usual name

    lack = missing_world(path)
    if lack is not None:
        raise CaseRefused("geometry_missing", lack)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CaseRefused("input_unreadable", "the file's header cannot be read") from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise CaseRefused("not_volume", f"the image has size {reader.GetSize()}")
    affine = np.eye(4)
    directions = np.array(reader.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.array(reader.GetSpacing())
    affine[:3, 3] = reader.GetOrigin()

    def read(region: Region) -> HUVolume:
        reader.SetExtractIndex([axis.start for axis in region])
        reader.SetExtractSize([axis.stop - axis.start for axis in region])
        try:
            voxels = sitk.GetArrayFromImage(reader.Execute())  # (k, j, i)
        except RuntimeError as error:
            raise CaseRefused("file_truncated", "voxels cannot be read") from error
        return np.ascontiguousarray(voxels.T, dtype=np.float32)

    i, j, k = (int(n) for n in reader.GetSize())
    return Volume(file_format="nrrd", shape=(i, j, k), affine=LPS_TO_RAS @ affine, _read=read)


def _checked(volume: Volume) -> Volume:
    """Check the geometry and return the volume with axes at exactly right angles."""
    spacing = np.array(volume.spacing_mm)
    if not np.isfinite(volume.affine).all() or spacing.min() < LEAST_SPACING_MM:
        raise CaseRefused("geometry_invalid", f"voxel spacing is {spacing.tolist()} mm")
    cosines = volume.affine[:3, :3] / spacing
    skew = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
    if skew > SKEW_TOLERANCE:
        raise CaseRefused(
            "geometry_invalid",
            f"the axes are sheared (cosine {skew:.4f}, the rule is at most {SKEW_TOLERANCE})",
        )
    off = float(np.degrees(np.arccos(np.clip(np.abs(cosines).max(axis=0).min(), 0, 1))))
    if off > LARGEST_TURN_DEG:
        raise CaseRefused(
            "geometry_invalid",
            f"an image axis lies {off:.0f} degrees off the patient's nearest; the rule is at most "
            f"{LARGEST_TURN_DEG:.0f}",
        )
    if np.prod(volume.shape, dtype=float) > MOST_VOXELS:
        raise CaseRefused("geometry_invalid", f"the header speaks of {volume.shape} voxels")
    slices = volume.shape[volume.slice_axis]
    if slices < SHORTEST_SERIES:
        raise CaseRefused(
            "too_few_slices", f"{slices} slices, at least {SHORTEST_SERIES} are needed"
        )
    # Headers keep directions with 6 digits or so. Made orthonormal (the nearest such matrix, by
    # singular values), an oblique CT is resampled on the same grid as an upright one.
    left, _, right = np.linalg.svd(cosines)
    affine = volume.affine.copy()
    affine[:3, :3] = left @ right * spacing
    return replace(volume, affine=affine)
