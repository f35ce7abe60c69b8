"""Volumes: one geometry whatever the file, and a code for every fault."""

from __future__ import annotations

import gzip
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
from itk_files import convert, read_series, write_itk

from monai_vfx.case.case import MAX_SLICE_SPACING_MM
from monai_vfx.core.codes import REFUSALS
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.hashing import content_hash
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import Phantom, grid, make_phantom, nifti


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DICOM series of 12 slices with an asymmetric picture."""
    folder = tmp_path_factory.mktemp("series")
    shape, affine, _ = grid((2.0, 3.0, 5.0), (40.0, 48.0, 60.0))
    rng = np.random.default_rng(3)
    hu = rng.integers(-1000, 1500, size=shape).astype(np.int16)
    write_ct_series(folder, hu, affine, SeriesFacts(uid_seed="a"))
    return folder


@pytest.fixture
def copied(series: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(series, tmp_path / "series"))


def _files(folder: Path) -> list[Path]:
    """The files from the first slice to the last; their names follow no order."""
    return sorted(folder.iterdir(), key=lambda f: float(pydicom.dcmread(f).ImagePositionPatient[2]))


def _edit(folder: Path, change: Callable[[Any], None], count: int | None = None) -> None:
    for file in _files(folder)[:count]:
        header = pydicom.dcmread(file)
        change(header)
        header.save_as(file)


def test_dicom_geometry_is_that_of_itk(series: Path) -> None:
    image = read_series(series)
    volume = open_volume(series)
    assert volume.shape == tuple(image.GetLargestPossibleRegion().GetSize())
    for index in ((0, 0, 0), (19, 0, 3), (4, 15, 11)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ras = (volume.affine @ [*index, 1])[:3]
        np.testing.assert_allclose(ras, lps * [-1, -1, 1], atol=1e-4)
    np.testing.assert_array_equal(volume.read(), itk.array_from_image(image).T)


def test_a_region_is_the_same_box_of_the_whole(series: Path) -> None:
    volume = open_volume(series)
    box = (slice(3, 9), slice(2, 15), slice(5, 8))
    np.testing.assert_array_equal(volume.read(box), volume.read()[box])


@pytest.mark.parametrize("turn", ["z", "x"])
def test_oblique_series_keeps_world_positions(tmp_path: Path, turn: str) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    rotation = {
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
    }[turn]
    affine = np.eye(4)
    affine[:3, :3] = rotation * [1.5, 2.0, 4.0]
    affine[:3, 3] = (10, -20, 30)
    hu = np.arange(8 * 6 * 11, dtype=np.int16).reshape(8, 6, 11)
    write_ct_series(tmp_path / "s", hu, affine, SeriesFacts(uid_seed="b"))
    volume = open_volume(tmp_path / "s")
    read = volume.read()
    for value in (0, 17, 8 * 6 * 11 - 1):
        written = (affine @ [*np.argwhere(hu == value)[0], 1])[:3]
        found = (volume.affine @ [*np.argwhere(read == value)[0], 1])[:3]
        np.testing.assert_allclose(found, written, atol=1e-3)


def test_zip_and_folder_are_one(series: Path, tmp_path: Path) -> None:
    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in series.iterdir():
            target.write(file, f"deep/{file.name}")
        target.writestr("readme.txt", "no DICOM")
    zipped, plain = open_volume(archive), open_volume(series)
    np.testing.assert_array_equal(zipped.affine, plain.affine)
    np.testing.assert_array_equal(zipped.read(), plain.read())


def test_nifti_and_nrrd_share_the_geometry(tmp_path: Path) -> None:
    affine = np.diag([-1.5, 2.0, 4.0, 1.0])
    affine[:3, 3] = (5, 6, 7)
    voxels = np.arange(4 * 5 * 12, dtype=np.int16).reshape(4, 5, 12)
    nib.save(nifti(voxels, affine), tmp_path / "a.nii.gz")
    convert(tmp_path / "a.nii.gz", tmp_path / "a.nrrd")
    one, other = open_volume(tmp_path / "a.nii.gz"), open_volume(tmp_path / "a.nrrd")
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-6)
    box = (slice(1, 3), slice(0, 5), slice(4, 9))
    np.testing.assert_array_equal(one.read(box), voxels[box])
    np.testing.assert_array_equal(other.read(box), voxels[box])


def test_slices_are_counted_from_the_feet_in_any_order(phantom: Phantom, tmp_path: Path) -> None:
    upright = open_volume(phantom.save(tmp_path / "up")[0])
    turned = Phantom(
        np.transpose(phantom.hu, (2, 0, 1))[::-1],
        phantom.labels,
        phantom.affine @ _permuted(phantom.hu.shape[2]),
        phantom.centre,
    )
    nib.save(nifti(turned.hu.astype(np.int16), turned.affine), tmp_path / "t.nii.gz")
    other = open_volume(tmp_path / "t.nii.gz")
    last = phantom.hu.shape[2] - 1
    assert (upright.slice_axis, upright.index_from_feet(0)) == (2, 0)
    assert (other.slice_axis, other.index_from_feet(0)) == (0, last)


def _permuted(slices: int) -> np.ndarray:
    """(k', i, j) → (i, j, k) with k' = slices - 1 - k."""
    matrix = np.zeros((4, 4))
    matrix[0, 1] = matrix[1, 2] = matrix[3, 3] = 1
    matrix[2, 0], matrix[2, 3] = -1, slices - 1
    return matrix


FAULTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a slice is missing": ("slices_missing", lambda d: _files(d)[5].unlink()),
    "a slice is there twice": (
        "slices_duplicated",
        lambda d: _edit(d, _same_place, count=2),
    ),
    "too few slices": (
        "too_few_slices",
        lambda d: [f.unlink() for f in _files(d)[1:]],  # type: ignore[func-returns-value]
    ),
    "an MR series": ("not_ct", lambda d: _edit(d, lambda h: setattr(h, "Modality", "MR"))),
    "positions are absent": (
        "geometry_missing",
        lambda d: _edit(d, lambda h: h.pop("ImagePositionPatient"), count=1),
    ),
    "two patients": (
        "identity_conflict",
        lambda d: _edit(d, lambda h: setattr(h, "PatientID", "other"), count=3),
    ),
    "two pixel sizes": (
        "series_mixed",
        lambda d: _edit(d, lambda h: setattr(h, "PixelSpacing", [1, 1]), count=3),
    ),
    "no rescale": (
        "not_hounsfield",
        lambda d: _edit(d, lambda h: h.pop("RescaleSlope"), count=1),
    ),
    "a .dcm file that is none": (
        "file_truncated",
        lambda d: _files(d)[-1].write_bytes(b""),
    ),
    "a cut file": (
        "file_truncated",
        lambda d: _cut(_files(d)[4], 0.7),
    ),
    "a file cut in its header": (
        "file_truncated",
        lambda d: _cut(_files(d)[4], 0.2),
    ),
    "two series": (
        "several_series",
        lambda d: _edit(d, lambda h: setattr(h, "SeriesInstanceUID", "1.2.3"), count=6),
    ),
    "a sheared stack": ("gantry_tilt", lambda d: _edit(d, _shear)),
    "only text": (
        "no_image",
        lambda d: [f.rename(f.with_suffix(".txt")).write_text("x") for f in _files(d)],
    ),
}


def _set(tag: str, value: Any, count: int | None = 1) -> Callable[[Path], None]:
    """Return what writes a tag's value into files, however wrong."""
    return lambda folder: _edit(folder, lambda h: setattr(h, tag, value), count)


def _in_bytes(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))


def _without_suffix(number: int, content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return what damages one slice and takes its ending away."""

    def spoil(folder: Path) -> None:
        file = _files(folder)[number]
        kept = content(file.read_bytes())
        file.unlink()
        file.with_name("slice").write_bytes(kept)

    return spoil


FAULTS |= {
    "one pixel size": ("geometry_invalid", _set("PixelSpacing", [2.0], None)),
    "no pixel size": ("geometry_missing", _set("PixelSpacing", None)),
    "a position of two values": ("geometry_invalid", _set("ImagePositionPatient", [0.0, 1.0])),
    "an orientation of five": (
        "geometry_invalid",
        _set("ImageOrientationPatient", [1, 0, 0, 0, 1]),
    ),
    "an orientation of letters": (
        "geometry_invalid",
        lambda d: _in_bytes(_files(d)[3], b"-1.0\\0.0\\0.0", b"-1.h\\0.0\\0.0"),
    ),
    "pixels that lack their last bytes": (
        "file_truncated",
        lambda d: _files(d)[-1].write_bytes(_files(d)[-1].read_bytes()[:-4]),
    ),
    "two slopes": ("not_hounsfield", _set("RescaleSlope", [1.0, 2.0])),
    "an empty last slice": ("file_truncated", _without_suffix(-1, lambda content: b"")),
    "a last slice cut in its preamble": ("file_truncated", _without_suffix(-1, lambda c: c[:90])),
    "a last slice cut behind its mark": ("file_truncated", _without_suffix(-1, lambda c: c[:132])),
    "a first slice cut in its meta header": (
        "file_truncated",
        _without_suffix(0, lambda content: content[:180]),
    ),
    "a first slice of other bytes": (
        "file_truncated",
        _without_suffix(0, lambda content: content[:132] + b"\xff" * 400),
    ),
}


def _same_place(header: Any) -> None:
    header.ImagePositionPatient = [0, 0, 0]


def _shear(header: Any) -> None:
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    header.ImagePositionPatient = [x, y + 0.2 * z, z]


def _cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_series_has_its_code(fault: str, copied: Path) -> None:
    open_volume(copied)  # good before the one change
    code, spoil = FAULTS[fault]
    spoil(copied)
    with pytest.raises(CaseRefused) as refused:
        open_volume(copied)
    assert refused.value.code == code
    assert refused.value.remedy


def test_a_slice_cut_anywhere_is_never_left_aside(copied: Path) -> None:
    last = _files(copied)[-1]
    content = last.read_bytes()
    for length in [*range(0, 500, 3), *range(500, len(content), 97)]:
        last.with_name("slice").write_bytes(content[:length])
        last.unlink(missing_ok=True)
        with pytest.raises(CaseRefused) as refused:
            open_volume(copied)
        assert refused.value.code == "file_truncated", length


def test_the_named_series_is_taken(copied: Path) -> None:
    _edit(copied, lambda h: setattr(h, "SeriesInstanceUID", "1.2.3"), count=11)
    volume = open_volume(copied, series_uid="1.2.3")
    assert volume.shape[2] == 11
    assert [w.code for w in volume.warnings] == ["other_series_ignored"]


def test_nifti_without_orientation_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 12), dtype=np.int16), None)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(CaseRefused, match="geometry_missing"):
        open_volume(tmp_path / "a.nii.gz")


def test_four_dimensions_are_refused_unless_one_frame(tmp_path: Path) -> None:
    frames = np.zeros((4, 5, 12, 2), dtype=np.int16)
    nib.save(nifti(frames, np.eye(4)), tmp_path / "two.nii.gz")
    nib.save(nifti(frames[..., :1], np.eye(4)), tmp_path / "one.nii.gz")
    with pytest.raises(CaseRefused, match="not_volume"):
        open_volume(tmp_path / "two.nii.gz")
    assert open_volume(tmp_path / "one.nii.gz").read().shape == (4, 5, 12)


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_truncated_nifti_is_refused(tmp_path: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    nib.save(
        nifti(rng.integers(-900, 900, (30, 30, 30)).astype(np.int16), np.eye(4)),
        tmp_path / "a.nii.gz",
    )
    _cut(tmp_path / "a.nii.gz", share)
    with pytest.raises(CaseRefused) as refused:
        open_volume(tmp_path / "a.nii.gz").read()
    assert refused.value.code in ("file_truncated", "input_unreadable")


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"no image"))
    with pytest.raises(CaseRefused, match="input_unreadable"):
        open_volume(tmp_path / "a.nii.gz")


def test_content_hash_ignores_names(series: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for number, file in enumerate(sorted(series.iterdir())):
        shutil.copy(file, renamed / f"{99 - number}")
    assert content_hash(renamed) == content_hash(series)
    _cut(next(renamed.iterdir()), 0.9)
    assert content_hash(renamed) != content_hash(series)


def test_the_real_series(tcga_series: Path) -> None:
    volume = open_volume(tcga_series)
    assert volume.shape == (512, 512, 160)
    assert (volume.age_years, volume.sex) == (69.0, "F")
    # Origin and orientation as its annotation states them (LPS).
    origin = volume.affine[:3, 3] * [-1, -1, 1]
    np.testing.assert_allclose(origin, (-276.3671, -263.6718, 1055.0), atol=1e-3)
    assert volume.feet_first
    assert volume.sop_instance_uids is not None
    assert len(set(volume.sop_instance_uids)) == 160


def test_phantom_fixture_is_what_it_says(phantom: Phantom) -> None:
    turned = make_phantom(phantom.hu.shape, phantom.affine, phantom.centre)
    np.testing.assert_array_equal(turned.labels, phantom.labels)
    assert set(np.unique(phantom.labels)) == {0, 18, 19, 20, 21, 22, 23, 24}


# -- zips ------------------------------------------------------------------------------------


def _zipped(series: Path, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in _files(series):
            archive.write(file, f"Doe_Jane/{file.name}")
    return path


def _encrypted(content: bytes) -> bytes:
    """Set the flag of encryption in all headers."""
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        parts = content.split(mark)
        flagged = [p[: at - 4] + bytes([p[at - 4] | 1]) + p[at - 3 :] for p in parts[1:]]
        content = mark.join([parts[0], *flagged])
    return content


def _method(content: bytes) -> bytes:
    """Name an unknown compression method."""
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        parts = content.split(mark)
        content = mark.join([parts[0], *(p[: at - 4] + b"\x63\0" + p[at - 2 :] for p in parts[1:])])
    return content


def _damaged_stream(content: bytes) -> bytes:
    """Overwrite bytes of the first member's packed stream."""
    start = 30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")
    return content[:start] + b"\xff" * 40 + content[start + 40 :]


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (_encrypted, "input_unreadable", "encrypted"),
        (_method, "input_unreadable", "packed in a way"),
        (_damaged_stream, "file_truncated", "cannot be read"),
        (lambda content: content[:900], "file_truncated", "zip cannot be read"),
    ],
    ids=["encrypted", "unknown compression", "damaged stream", "cut"],
)
def test_zips_that_cannot_be_unpacked(
    series: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], code: str, words: str
) -> None:
    archive = _zipped(series, tmp_path / "Doe_Jane.zip", zipfile.ZIP_DEFLATED)
    open_volume(archive)
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(CaseRefused, match=words) as refused:
        open_volume(archive)
    assert refused.value.code == code
    assert "Doe" not in str(refused.value)


def test_a_zip_is_not_opened_again_to_read_voxels(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = open_volume(_zipped(series, tmp_path / "a.zip"))
    opened: list[Any] = []
    initialise = zipfile.ZipFile.__init__

    def counted(self: zipfile.ZipFile, *args: Any, **options: Any) -> None:
        opened.append(args)
        initialise(self, *args, **options)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", counted)
    np.testing.assert_array_equal(volume.read(), open_volume(series).read())
    assert opened == []


def test_other_files_are_left_aside(copied: Path, tmp_path: Path) -> None:
    (copied / "notes.txt").write_text("text")
    (copied / "report.pdf").write_bytes(b"%PDF-1.7" + bytes(300))
    (copied / ".DS_Store").write_bytes(b"")
    (copied / "papers").mkdir()
    (copied / "papers" / "empty").touch()
    report = pydicom.dcmread(_files_of(copied)[0])
    for tag in ("Rows", "Columns", "PixelData"):
        del report[tag]
    report.SOPClassUID = pydicom.uid.BasicTextSRStorage
    report.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    report.save_as(copied / "report")
    assert open_volume(copied).shape[2] == 12
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in _files_of(copied):
            archive.write(file, file.name)
            archive.writestr(f"__MACOSX/._{file.name}", b"resource fork")
    assert open_volume(tmp_path / "a.zip").shape[2] == 12


def _files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


# -- names and rights ------------------------------------------------------------------------


def _raising(error: OSError) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("where", ["header", "pixels", "folder"])
def test_denied_access_is_no_damage(
    copied: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    volume = open_volume(copied)
    next(copied.iterdir()).touch()  # or the headers would not be read again
    denied = _raising(PermissionError(13, "Permission denied", "/scans/Doe_Jane"))
    if where == "folder":
        monkeypatch.setattr(os, "scandir", denied)
    else:
        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CaseRefused, match="denies access") as refused:
        _ = volume.read() if where == "pixels" else open_volume(copied)
    assert refused.value.code == "input_unreadable"
    assert "read access" in refused.value.remedy
    assert "Doe" not in str(refused.value)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_denied_access_to_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).touch()
    denied = _raising(PermissionError(13, "Permission denied", "/scans/Doe_Jane"))
    monkeypatch.setattr(nib, "load", denied)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CaseRefused, match="denies access") as refused:
        open_volume(tmp_path / name)
    assert (refused.value.code, "Doe" in str(refused.value)) == ("input_unreadable", False)


def test_messages_hold_no_path(tmp_path: Path, series: Path) -> None:
    folder = Path(shutil.copytree(series, tmp_path / "Doe_Jane"))
    volume = open_volume(folder)
    for file in folder.iterdir():
        file.unlink()
    nib.save(nifti(np.ones((4, 5, 12), dtype=np.int16), np.eye(4)), tmp_path / "Doe_Jane.nii.gz")
    image = open_volume(tmp_path / "Doe_Jane.nii.gz")
    (tmp_path / "Doe_Jane.nii.gz").unlink()
    for gone in (volume, image):
        with pytest.raises(CaseRefused, match="No such file") as refused:
            gone.read()
        assert "Doe" not in str(refused.value)


# -- NIfTI and NRRD --------------------------------------------------------------------------


def test_analyze_files_are_no_nifti(tmp_path: Path) -> None:
    voxels = np.zeros((4, 5, 12), dtype=np.int16)
    nib.save(nib.AnalyzeImage(voxels, np.eye(4)), tmp_path / "a.hdr")
    with pytest.raises(CaseRefused, match="no NIfTI") as refused:
        open_volume(tmp_path / "a.hdr")
    assert refused.value.code == "input_unreadable"
    for kind in (nib.Nifti1Pair, nib.Nifti2Pair):
        pair: Any = kind(voxels, np.eye(4))  # type: ignore[no-untyped-call]
        pair.set_sform(np.eye(4), code=1)
        nib.save(pair, tmp_path / "b.img")
        assert open_volume(tmp_path / "b.hdr").shape == (4, 5, 12)


def _itk(path: Path, old: str, new: str) -> Path:
    """Write an image and change its header's text."""
    write_itk(path, np.zeros((4, 5, 12), dtype=np.int16))
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))
    return path


WORLD = "left-posterior-superior"


@pytest.mark.parametrize(
    ("world", "signs"),
    [
        (WORLD, (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_worlds_of_nrrd(tmp_path: Path, world: str, signs: tuple[int, int, int]) -> None:
    affine = open_volume(_itk(tmp_path / "a.nrrd", WORLD, world)).affine
    np.testing.assert_array_equal(affine, np.diag([*signs, 1.0]))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.nrrd", f"space: {WORLD}", "space: scanner-xyz"),
        ("a.nrrd", f"space: {WORLD}", "space: 3D-right-handed"),
        ("a.nhdr", f"space: {WORLD}", "space: scanner-xyz"),
        ("a.nrrd", "space directions: (1,0,0) (0,1,0) (0,0,1)", "spacings: 1 1 1"),
        ("a.nrrd", f"space: {WORLD}\n", "# no world\n"),
        ("a.mha", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n", ""),
        ("a.mhd", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n", ""),
    ],
)
def test_an_unknown_world_is_not_guessed(tmp_path: Path, name: str, old: str, new: str) -> None:
    with pytest.raises(CaseRefused, match="geometry_missing"):
        open_volume(_itk(tmp_path / name, old, new))


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_meta_images_with_their_matrix(tmp_path: Path, name: str) -> None:
    assert open_volume(_itk(tmp_path / name, "NDims", "NDims")).shape == (4, 5, 12)


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd"])
def test_a_series_of_a_file_without_series_is_wrong_use(tmp_path: Path, name: str) -> None:
    nib.save(nifti(np.zeros((4, 5, 12), dtype=np.int16), np.eye(4)), tmp_path / "a.nii")
    _itk(tmp_path / "a.nrrd", "NRRD", "NRRD")
    assert open_volume(tmp_path / name).shape == (4, 5, 12)
    with pytest.raises(SettingError, match=r"series \(1.2.3\)"):
        open_volume(tmp_path / name, series_uid="1.2.3")


def test_remedy_and_rule_of_thick_slices_agree() -> None:
    assert f"at most {MAX_SLICE_SPACING_MM:.0f} mm" in REFUSALS["slices_too_thick"].remedy


def test_slices_beside_the_line_are_refused(copied: Path) -> None:
    def aside(header: Any) -> None:
        x, y, z = (float(v) for v in header.ImagePositionPatient)
        header.ImagePositionPatient = [x + 20, y, z]

    files = _files(copied)
    for file in files[4:7]:
        header = pydicom.dcmread(file)
        aside(header)
        header.save_as(file)
    with pytest.raises(CaseRefused, match="beside the line"):
        open_volume(copied)


def test_equal_spacing_written_in_two_ways_is_equal(copied: Path) -> None:
    _edit(copied, lambda h: setattr(h, "PixelSpacing", ["3.00", "2.0"]), count=1)
    assert open_volume(copied).shape[2] == 12


def test_a_slope_of_zero_is_refused(copied: Path) -> None:
    _edit(copied, lambda h: setattr(h, "RescaleSlope", 0), count=1)
    with pytest.raises(CaseRefused, match="not_hounsfield"):
        open_volume(copied)


def test_a_dose_sheet_beside_the_series_is_left_aside(copied: Path) -> None:
    sheet = pydicom.dcmread(_files(copied)[0])
    sheet.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    sheet.SeriesInstanceUID = "1.2.3.4"
    sheet.save_as(copied / "sheet.dcm")
    volume = open_volume(copied)
    assert volume.shape[2] == 12
    assert [w.code for w in volume.warnings] == ["other_series_ignored"]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"])
def test_compressed_series_are_read_and_their_cut_ends_found(
    series: Path, copied: Path, syntax: str
) -> None:
    for file in copied.iterdir():
        header = pydicom.dcmread(file)
        if syntax.endswith(".5"):
            header.compress(syntax)
        else:
            header.file_meta.TransferSyntaxUID = syntax
        header.save_as(file)
    np.testing.assert_array_equal(open_volume(copied).read(), open_volume(series).read())
    if syntax.endswith(".5"):
        _cut(_files(copied)[-1], 0.95)
        with pytest.raises(CaseRefused, match="file_truncated"):
            open_volume(copied)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_cut_beyond_the_region_is_found(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a{suffix}"
    nib.save(nifti(rng.integers(-900, 900, (40, 40, 60)).astype(np.int16), np.eye(4)), path)
    box = (slice(0, 40), slice(0, 40), slice(0, 5))
    open_volume(path).read(box)
    _cut(path, 0.98)
    with pytest.raises(CaseRefused, match="file_truncated"):
        open_volume(path).read(box)


def test_a_wrong_byte_in_a_gzip_is_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.nii.gz"
    nib.save(nifti(rng.integers(-900, 900, (40, 40, 60)).astype(np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 0x55
    path.write_bytes(bytes(content))
    with pytest.raises(CaseRefused, match="file_truncated"):
        open_volume(path).read((slice(0, 40), slice(0, 40), slice(0, 5)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axes_far_off_the_patients_are_refused(tmp_path: Path, axis: int) -> None:
    for degrees, refused in ((35, False), (46, True), (50, True)):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn = np.roll(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), axis, axis=(0, 1))
        affine = np.eye(4)
        affine[:3, :3] = turn
        path = tmp_path / f"{degrees}.nii"
        nib.save(nifti(np.zeros((12, 13, 14), dtype=np.int16), affine), path)
        if refused:
            with pytest.raises(CaseRefused, match="degrees off"):
                open_volume(path)
        else:
            open_volume(path)
