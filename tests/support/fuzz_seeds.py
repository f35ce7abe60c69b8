"""Good inputs of every kind, small, from which the fuzz run makes bad ones."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import pydicom
from itk_files import UPRIGHT, write_itk
from mask_forms import write_rtstruct
from pydicom.fileset import FileSet
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_variants import to_enhanced
from monai_vfx.io.volume import open_volume
from monai_vfx.outputs.hospital.dicom_seg import write_segmentation
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import LEVELS, Phantom, grid, make_phantom, nifti

PATIENT = "Xanthippe^Quirina"
"""Must never show in a message."""
_EARLY = (2020, 1, 1, 0, 0, 0)  # archives must not depend on the time they are made at


@dataclass(frozen=True)
class Seed:
    """One good input.

    Attributes:
        name: of its folder.
        image: path below the folder; of a table, the table.
        mask: likewise; empty for a table.
        targets: pattern of the files that are damaged, below the folder.
        form: of these files: which mutations beside those of bytes apply.
    """

    name: str
    image: str
    mask: str
    targets: str
    form: str


Builder = Callable[[Path, Phantom], None]


def phantom() -> Phantom:
    """As coarse as the checks allow, so that a case takes a twentieth of a second."""
    return make_phantom(*grid((3.4, 3.4, 9.0), (165.0, 170.0, 236.0)))


def _series(folder: Path, made: Phantom, syntax: str | None = None) -> None:
    facts = SeriesFacts("fuzz", patient_id="XQ-1", patient_name=PATIENT, age_years=61)
    files = write_ct_series(folder / "ct", np.rint(made.hu).astype(np.int16), made.affine, facts)
    for file in files if syntax else ():
        dataset = pydicom.dcmread(file)
        if syntax in (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian):
            dataset.file_meta.TransferSyntaxUID = syntax
        else:
            dataset.compress(syntax)
        dataset.save_as(file)


def _compressed(syntax: str) -> Builder:
    return lambda folder, made: _series(folder, made, syntax)


def _zip(folder: Path, made: Phantom) -> None:
    _series(folder, made)
    with zipfile.ZipFile(folder / "ct.zip", "w") as archive:
        for file in sorted((folder / "ct").iterdir()):
            member = zipfile.ZipInfo(f"study/{file.name}", _EARLY)
            archive.writestr(member, file.read_bytes(), zipfile.ZIP_DEFLATED)
    shutil.rmtree(folder / "ct")


def _tar(suffix: str) -> Builder:
    def build(folder: Path, made: Phantom) -> None:
        _series(folder, made)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for file in sorted((folder / "ct").iterdir()):
                member = tarfile.TarInfo(f"study/{file.name}")
                member.size = file.stat().st_size
                archive.addfile(member, io.BytesIO(file.read_bytes()))
        content = buffer.getvalue()
        packed = gzip.compress(content, 1, mtime=0) if suffix == ".tar.gz" else content
        (folder / f"ct{suffix}").write_bytes(packed)
        shutil.rmtree(folder / "ct")

    return build


def _disc(folder: Path, made: Phantom) -> None:
    _series(folder, made)
    files = FileSet()
    files.UID = pydicom.uid.UID("1.2.3.4")
    for file in sorted((folder / "ct").iterdir()):
        files.add(file)
    files.write(folder / "disc")
    files._stage["t"].cleanup()  # or its end would be a warning
    shutil.rmtree(folder / "ct")


def _nifti(suffix: str) -> Builder:
    def build(folder: Path, made: Phantom) -> None:
        voxels = np.rint(made.hu).astype(np.int16)
        if suffix == ".img":
            pair = nib.Nifti1Pair(voxels, made.affine)  # type: ignore[no-untyped-call]
            pair.set_sform(made.affine, code=1)
            nib.save(pair, folder / "ct.img")
        else:
            nib.save(nifti(voxels, made.affine), folder / f"ct{suffix}")

    return build


def _itk(suffix: str, compressed: bool = False, mask: bool = False) -> Builder:
    def build(folder: Path, made: Phantom) -> None:
        voxels = made.labels if mask else np.rint(made.hu).astype(np.int16)
        write_itk(
            folder / f"{'labels' if mask else 'ct'}{suffix}",
            voxels,
            spacing=np.abs(np.diag(made.affine)[:3]),
            direction=UPRIGHT,
            origin=made.affine[:3, 3] * [-1, -1, 1],
            compress=compressed,
        )

    return build


def _mask_folder(folder: Path, made: Phantom) -> None:
    (folder / "labels").mkdir()
    for level, value in {"T12": 19, "L1": 20, "L2": 21, "L3": 22, "L4": 23}.items():
        voxels = (made.labels == value).astype(np.uint8)
        nib.save(nifti(voxels, made.affine), folder / "labels" / f"vertebrae_{level}.nii")


def _mask(suffix: str, dtype: type = np.uint8) -> Builder:
    return lambda folder, made: nib.save(
        nifti(made.labels.astype(dtype), made.affine), folder / f"labels{suffix}"
    )


def _with_ct(build: Builder) -> Builder:
    def both(folder: Path, made: Phantom) -> None:
        _nifti(".nii")(folder, made)
        build(folder, made)

    return both


def _fixed_uids(module: str) -> Any:
    """Give a module UIDs that are the same at each run."""
    return mock.patch(f"{module}.generate_uid", side_effect=map("1.2.3.{}".format, count(1)))


def _enhanced(folder: Path, made: Phantom) -> None:
    _series(folder, made)
    headers = [pydicom.dcmread(file) for file in sorted((folder / "ct").iterdir())]
    with _fixed_uids("dicom_variants"):
        to_enhanced(headers, folder / "enhanced")
    shutil.rmtree(folder / "ct")


def _seg(folder: Path, made: Phantom) -> None:
    _series(folder, made)
    write_segmentation(folder / "labels.dcm", made.labels, folder / "ct")


def _rtstruct(folder: Path, made: Phantom) -> None:
    _series(folder, made)
    frame = open_volume(folder / "ct").frame_of_reference
    with _fixed_uids("mask_forms"):
        write_rtstruct(folder / "labels.dcm", made.labels, made.affine, str(frame))


def _mapping(folder: Path, made: Phantom) -> None:
    _mask(".nii")(folder, made)
    lines = [f"  {value}: {name}" for name, value in LEVELS.items()]
    text = "\n".join(["content: body", "labels:", *lines, "  psoas left: psoas", ""])
    (folder / "labels.yaml").write_text(text, encoding="utf-8")


def _table(header: str, row: Callable[[int], str]) -> Builder:
    def build(folder: Path, _: Phantom) -> None:
        (folder / "scan.nii").touch()
        lines = [header, *(row(n) for n in range(12))]
        (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    return build


_cohort = _table(
    "case_id,image,mask,fracture,patient_id,pair_id,age,sex,height_cm,weight_kg",
    lambda n: f"c{n},scan.nii,,{n % 2},p{n // 2},,{60 + n},{'FM'[n % 2]},{160 + n}.5,{70.25 + n}",
)
_scores = _table("case_id,fracture,A,B", lambda n: f"c{n},{n % 2},{n / 12:.3f},{1 - n / 12:.3f}")
_heights = _table(
    "case_id,level,anterior_mm,middle_mm,posterior_mm",
    lambda n: f"c{n},{('T12', 'L1', 'L2')[n % 3]},25.1,24.{n},26.0",
)

_SEEDS: list[tuple[Seed, Builder]] = [
    (Seed("series", "ct", "mask.nii", "ct/*", "dicom"), _series),
    (Seed("implicit", "ct", "mask.nii", "ct/*", "dicom"), _compressed(ImplicitVRLittleEndian)),
    (
        Seed("deflated", "ct", "mask.nii", "ct/*", "bytes"),
        _compressed(DeflatedExplicitVRLittleEndian),
    ),
    (Seed("rle", "ct", "mask.nii", "ct/*", "dicom"), _compressed(RLELossless)),
    (Seed("jpeg_ls", "ct", "mask.nii", "ct/*", "dicom"), _compressed(JPEGLSLossless)),
    (Seed("jpeg_2000", "ct", "mask.nii", "ct/*", "dicom"), _compressed(JPEG2000Lossless)),
    (Seed("zip", "ct.zip", "mask.nii", "ct.zip", "bytes"), _zip),
    (Seed("nifti", "ct.nii", "mask.nii", "ct.nii", "nifti"), _nifti(".nii")),
    (Seed("nifti_gz", "ct.nii.gz", "mask.nii", "ct.nii.gz", "nifti"), _nifti(".nii.gz")),
    (Seed("nifti_pair", "ct.hdr", "mask.nii", "ct.*", "nifti"), _nifti(".img")),
    (Seed("nrrd", "ct.nrrd", "mask.nii", "ct.nrrd", "text"), _itk(".nrrd")),
    (Seed("nrrd_gz", "ct.nrrd", "mask.nii", "ct.nrrd", "text"), _itk(".nrrd", compressed=True)),
    (Seed("nhdr", "ct.nhdr", "mask.nii", "ct.*", "text"), _itk(".nhdr")),
    (Seed("mha", "ct.mha", "mask.nii", "ct.mha", "text"), _itk(".mha")),
    (Seed("mha_gz", "ct.mha", "mask.nii", "ct.mha", "text"), _itk(".mha", compressed=True)),
    (Seed("mhd", "ct.mhd", "mask.nii", "ct.*", "text"), _itk(".mhd")),
    (Seed("mask_nii", "ct.nii", "labels.nii", "labels.nii", "nifti"), _with_ct(_mask(".nii"))),
    (
        Seed("mask_gz", "ct.nii", "labels.nii.gz", "labels.nii.gz", "nifti"),
        _with_ct(_mask(".nii.gz", np.float32)),
    ),
    (
        Seed("mask_nrrd", "ct.nii", "labels.nrrd", "labels.nrrd", "text"),
        _with_ct(_itk(".nrrd", mask=True)),
    ),
    (
        Seed("mask_mha", "ct.nii", "labels.mha", "labels.mha", "text"),
        _with_ct(_itk(".mha", mask=True)),
    ),
    (Seed("mask_folder", "ct.nii", "labels", "labels/*", "nifti"), _with_ct(_mask_folder)),
    (Seed("enhanced", "enhanced", "mask.nii", "enhanced/*", "dicom"), _enhanced),
    (Seed("mask_seg", "ct", "labels.dcm", "labels.dcm", "dicom"), _seg),
    (Seed("mask_rtstruct", "ct", "labels.dcm", "labels.dcm", "dicom"), _rtstruct),
    (Seed("mapping", "ct.nii", "labels.nii", "labels.yaml", "text"), _with_ct(_mapping)),
    (Seed("cohort", "table.csv", "", "table.csv", "table"), _cohort),
    (Seed("scores", "table.csv", "", "table.csv", "table"), _scores),
    (Seed("heights", "table.csv", "", "table.csv", "table"), _heights),
    (Seed("tar", "ct.tar", "mask.nii", "ct.tar", "bytes"), _tar(".tar")),
    (Seed("tar_gz", "ct.tar.gz", "mask.nii", "ct.tar.gz", "bytes"), _tar(".tar.gz")),
    (Seed("dicomdir", "disc/DICOMDIR", "mask.nii", "disc/DICOMDIR", "dicom"), _disc),
    (Seed("disc", "disc", "mask.nii", "disc/DICOMDIR", "dicom"), _disc),
]

SEEDS: tuple[Seed, ...] = tuple(seed for seed, _ in _SEEDS)


def build_seeds(root: Path) -> None:
    """Write every good input below a folder; the same bytes at every call."""
    made = phantom()
    for seed, build in _SEEDS:
        folder = root / seed.name
        folder.mkdir(parents=True)
        build(folder, made)
        if seed.mask == "mask.nii":
            nib.save(nifti(made.labels, made.affine), folder / "mask.nii")
