"""Which series of an input is taken, and that nothing else in it goes unsaid."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_variants import edit, in_order, put, to_enhanced
from monai_vfx.case.case import check_report
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.schemas import violations
from monai_vfx.io.dicom import archives
from monai_vfx.io.dicom.candidates import Candidate, SeriesRefused
from monai_vfx.io.dicom.kernels import KERNELS, kernel_kind
from monai_vfx.io.volume import Volume, open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series

ROOT = Path(__file__).parents[2]
LENGTH_MM = 160.0
PDF = UID("1.2.840.10008.5.1.4.1.1.104.1")
DOSE_REPORT = UID("1.2.840.10008.5.1.4.1.1.88.67")
BASE = SeriesFacts(uid_seed="base", patient_id="Doe-1", patient_name="Doe^Jane", simulated=False)


def write(
    folder: Path,
    facts: SeriesFacts = BASE,
    *,
    step_mm: float = 5.0,
    length_mm: float = LENGTH_MM,
    plane: str = "axial",
    **tags: Any,
) -> str:
    """Write a small series and return its UID; ``tags`` are set in every slice."""
    count = round(length_mm / step_mm)
    axes = np.diag([40.0, 50.0, step_mm])
    if plane == "coronal":  # columns across, rows down, slices to the front
        axes = np.array([[40.0, 0, 0], [0, 0, step_mm], [0, -length_mm / 6, 0]])
    affine = np.eye(4)
    affine[:3, :3] = axes
    hu = np.random.default_rng(1).integers(-900, 900, size=(5, 6, count)).astype(np.int16)
    write_ct_series(folder, hu, affine, facts)
    for file in folder.iterdir() if tags else ():
        header = pydicom.dcmread(file)
        for tag, value in tags.items():
            setattr(header, tag, value)
        header.save_as(file)
    return str(facts.uid("series"))


def other_object(path: Path, sop_class: UID, modality: str, patient: str = "Doe-1") -> None:
    """Write a DICOM object without pixels."""
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = sop_class
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{len(path.name)}")
    item.SeriesInstanceUID, item.StudyInstanceUID = "1.2.3.9", "1.2.3.8"
    item.Modality, item.PatientID = modality, patient
    item.save_as(path, enforce_file_format=True)


def localizer(path: Path, like: Path) -> None:
    """Write a scout view in a series of its own."""
    header = pydicom.dcmread(like)
    header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    header.SeriesInstanceUID, header.SOPInstanceUID = "1.2.3.10", "1.2.3.11"
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.save_as(path)


def by_uid(volume: Volume) -> dict[str, Candidate]:
    return {candidate.series_uid: candidate for candidate in volume.candidates}


# -- the rule --------------------------------------------------------------------------------

BETTER_AND_WORSE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a gap": ({}, {"gap": True}, "slices_missing"),
    "too thick": ({}, {"step_mm": 12.0}, "slices_too_thick"),
    "short": ({"kernel": "BONE", "simulated": True}, {"length_mm": 100.0, "step_mm": 4.0}, "cover"),
    "a head": ({"kernel": "BONE"}, {"body_part": "HEAD"}, "cover"),
    "coronal": ({"simulated": True}, {"plane": "coronal"}, "axial"),
    "derived": ({}, {"step_mm": 4.0, "simulated": True}, "original"),
    "no image type": ({}, {"ImageType": None, "step_mm": 4.0}, "original"),
    "derived after none": ({"ImageType": None}, {"simulated": True, "step_mm": 4.0}, "original"),
    "a sharp kernel": ({"kernel": "Br40d"}, {"kernel": "Br64d", "step_mm": 4.0}, "kernel"),
    "an unknown kernel": ({"kernel": "FC13"}, {"kernel": "FC64", "step_mm": 4.0}, "kernel"),
    "sharp after unknown": ({"kernel": ""}, {"kernel": "YC", "step_mm": 4.0}, "kernel"),
    "thicker": ({"step_mm": 4.0}, {"step_mm": 5.0}, "thickness"),
    "thick though close": ({"step_mm": 4.0}, {"step_mm": 3.0, "SliceThickness": 5}, "thickness"),
    "both above 5 mm": ({"step_mm": 6.0}, {"step_mm": 8.0}, "thickness"),
    "shorter": ({"length_mm": 200.0}, {}, "length"),
    "wider apart": ({"step_mm": 4.0, "SliceThickness": 5}, {"step_mm": 5.0}, "spacing"),
}


def _write_as(folder: Path, seed: str, **settings: Any) -> str:
    names = ("kernel", "simulated", "body_part", "patient_id", "contrast_agent", "time")
    facts = replace(BASE, uid_seed=seed, **{n: settings.pop(n) for n in names if n in settings})
    gap = settings.pop("gap", False)
    uid = write(folder, facts, **settings)
    if gap:
        in_order(folder)[9].unlink()
    return uid


@pytest.mark.parametrize("case_id", BETTER_AND_WORSE)
def test_each_criterion_decides(tmp_path: Path, case_id: str) -> None:
    better, worse, lost_by = BETTER_AND_WORSE[case_id]
    best = _write_as(tmp_path / "in" / "a", "better", **better)
    other = _write_as(tmp_path / "in" / "b", "worse", **worse)
    for name in ("a", "c"):  # the order of names plays no part
        (tmp_path / "in" / "a").rename(tmp_path / "in" / name)
        volume = open_volume(tmp_path / "in")
        assert volume.series_uid == best
        assert volume.shape == open_volume(tmp_path / "in", best).shape
        first, second = volume.candidates
        assert (first.series_uid, first.chosen, first.lost_by) == (best, True, None)
        assert (second.series_uid, second.chosen) == (other, False)
        assert second.lost_by is not None
        assert second.lost_by.startswith(f"{lost_by}: ")
        assert [w.code for w in volume.warnings if "series" in w.code] == ["other_series_ignored"]


def test_an_earlier_criterion_outweighs_all_later_ones(tmp_path: Path) -> None:
    soft = _write_as(tmp_path / "in" / "a", "soft", step_mm=5.0)
    _write_as(tmp_path / "in" / "b", "bone", step_mm=4.0, length_mm=300.0, kernel="BONEPLUS")
    assert open_volume(tmp_path / "in").series_uid == soft


def test_a_series_that_nothing_outdoes_is_taken_whatever_it_is(tmp_path: Path) -> None:
    uid = _write_as(tmp_path / "in", "only", kernel="BONE", simulated=True, length_mm=60.0)
    assert open_volume(tmp_path / "in").series_uid == uid


def test_two_phases_alike_are_not_told_apart_by_chance(tmp_path: Path) -> None:
    early = _write_as(tmp_path / "in" / "a", "arterial", time="120000")
    late = _write_as(tmp_path / "in" / "b", "portal", time="120045", length_mm=LENGTH_MM + 5)
    with pytest.raises(CaseRefused) as refused:
        open_volume(tmp_path / "in")
    assert refused.value.code == "several_series"
    for words in (early, late, "12:00:00", "12:00:45", "kernel STANDARD", "32 slices", "33 slices"):
        assert words in refused.value.message
    assert "Doe" not in refused.value.message
    assert open_volume(tmp_path / "in", late).series_uid == late


def test_all_refused_for_one_reason_is_that_reason(tmp_path: Path) -> None:
    for name in ("soft", "bone"):
        _write_as(tmp_path / "in" / name, name, gap=True, kernel=name.upper())
    with pytest.raises(SeriesRefused) as refused:
        open_volume(tmp_path / "in")
    assert refused.value.code == "slices_missing"
    assert [c.chosen for c in refused.value.finding.candidates] == [False, False]


def test_a_short_monitoring_series_does_not_hide_why_the_other_is_refused(tmp_path: Path) -> None:
    _write_as(tmp_path / "in" / "a", "gap", gap=True)
    _write_as(tmp_path / "in" / "b", "few", length_mm=20.0)
    with pytest.raises(CaseRefused, match="slices_missing"):
        open_volume(tmp_path / "in")


def test_a_localizer_within_the_series_is_left_aside(tmp_path: Path) -> None:
    uid = write(tmp_path / "in")
    edit(
        tmp_path / "in",
        lambda h: setattr(h, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        slice(0, 1),
    )
    volume = open_volume(tmp_path / "in")
    assert (volume.series_uid, volume.shape[2]) == (uid, 31)
    assert volume.finding is not None
    assert volume.finding.other_files == {"localizer": 1}


def _as_words(whole: Any) -> None:
    whole["PixelData"].VR = "OW"


def test_an_enhanced_object_competes_by_what_its_frames_say(tmp_path: Path) -> None:
    thick = _write_as(tmp_path / "in" / "thick", "thick")
    thin = _write_as(tmp_path / "thin", "thin", step_mm=4.0)
    headers = [pydicom.dcmread(file) for file in in_order(tmp_path / "thin")]
    to_enhanced(headers, tmp_path / "in" / "thin", change=_as_words)
    volume = open_volume(tmp_path / "in")
    assert (volume.series_uid, volume.shape[2]) == (thin, 40)
    assert by_uid(volume)[thin].slices == 40
    assert by_uid(volume)[thick].lost_by == "thickness: slices of 5 mm"


# -- kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("soft", "B20f B30s B31f B40f B45f Br36d Br40f Bv40 I30f I31f\\3 Qr40 H30s Sa40 STANDARD"),
        ("soft", "soft STND A B UB XCA FC01 FC08 FC13 FC18-H FC19"),
        ("sharp", "B50f B60f B70f B80s Br59f Br69 Bl57f Bl64 I70f Qr59 H70h U90u BONE BONEPLUS"),
        ("sharp", "LUNG EDGE ULTRA D E L YA YC FC30 FC51 FC52 FC81 BoneDetail"),
        (None, "DETAIL C FC64 T20f custom 7 UNKNOWN"),
    ],
)
def test_kernels_mean_what_their_vendors_say(kind: str | None, names: str) -> None:
    assert {name: kernel_kind(name) for name in names.split(" ")} == dict.fromkeys(
        names.split(" "), kind
    )


def test_the_page_lists_every_row_of_kernels() -> None:
    page = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    for vendor, names, kind, _ in KERNELS:
        assert f"| {vendor} | {names} | {kind or 'neither'} |" in page


# -- several patients, other files -----------------------------------------------------------


def test_several_patients_are_said(tmp_path: Path) -> None:
    one = _write_as(tmp_path / "in" / "a", "one", step_mm=4.0)
    two = _write_as(tmp_path / "in" / "b", "two", patient_id="Roe-2")
    volume = open_volume(tmp_path / "in")
    warning = next(w for w in volume.warnings if w.code == "several_patients")
    assert "2 patients" in warning.message
    assert one in warning.message
    assert "patient 1" in warning.message
    assert (by_uid(volume)[one].patient, by_uid(volume)[two].patient) == (1, 2)
    assert "Roe" not in repr(volume.finding) + warning.message


def test_equal_series_of_two_patients_are_refused(tmp_path: Path) -> None:
    _write_as(tmp_path / "in" / "a", "one")
    _write_as(tmp_path / "in" / "b", "two", patient_id="Roe-2")
    with pytest.raises(SeriesRefused, match="several_series") as refused:
        open_volume(tmp_path / "in")
    assert refused.value.finding.patients == 2


def test_studies_without_patient_ids_are_not_taken_for_one_patient(tmp_path: Path) -> None:
    _write_as(tmp_path / "in" / "a", "one", patient_id="", step_mm=4.0)
    _write_as(tmp_path / "in" / "b", "two", patient_id="")
    assert "several_patients" in [w.code for w in open_volume(tmp_path / "in").warnings]


def mixed(folder: Path) -> tuple[str, str, str]:
    """Write 3 series of 2 patients, and all that lies beside them; return the series' UIDs."""
    best = _write_as(folder / "PAT0" / "STU" / "1", "best", step_mm=4.0)
    bone = _write_as(folder / "PAT0" / "STU" / "2", "bone", step_mm=2.5, kernel="BONE")
    roe = _write_as(
        folder / "PAT1" / "STU" / "1", "roe", step_mm=2.0, simulated=True, patient_id="Roe-2"
    )
    for file in (folder / "PAT0" / "STU" / "1").iterdir():
        file.rename(file.with_suffix(""))
    localizer(folder / "PAT0" / "scout", next((folder / "PAT1" / "STU" / "1").iterdir()))
    other_object(folder / "PAT0" / "consent form", PDF, "DOC")
    other_object(folder / "PAT0" / "dose", DOSE_REPORT, "SR")
    (folder / "letter.pdf").write_bytes(b"%PDF-1.7" + bytes(300))
    with zipfile.ZipFile(folder / "older.zip", "w") as archive:
        archive.writestr("x", b"x")
    return best, bone, roe


OTHERS = {"localizer": 1, "report": 1, "document": 1, "not_dicom": 1, "nested_archive": 1}


def test_three_series_of_two_patients_a_localizer_and_a_pdf(tmp_path: Path) -> None:
    best, bone, roe = mixed(tmp_path / "in")
    volume = open_volume(tmp_path / "in")
    assert volume.series_uid == best
    assert volume.shape == (5, 6, 40)
    found = by_uid(volume)
    assert set(found) == {best, bone, roe}
    assert found[bone].lost_by == "kernel: BONE (sharp)"
    assert found[roe].lost_by == "original: ImageType is DERIVED, another's ORIGINAL"
    assert [found[uid].patient for uid in (best, bone, roe)] == [1, 1, 2]
    assert volume.finding is not None
    assert volume.finding.other_files == OTHERS
    assert [w.code for w in volume.warnings] == ["other_series_ignored", "several_patients"]
    assert volume.warnings[0].message == "3 other series were left aside"


def test_vfx_check_tells_of_all_of_it(tmp_path: Path) -> None:
    best, bone, roe = mixed(tmp_path / "in")
    result = CliRunner().invoke(main, ["check", str(tmp_path / "in"), "--mask", str(ROOT)])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["status"]) == (3, "refused")  # that mask is none
    assert violations(report, "check") == []
    assert report["series"]["chosen"] == best
    assert report["series"]["other_files"] == OTHERS
    assert [c["chosen"] for c in report["series"]["candidates"]] == [True, False, False]
    assert f"series {best} (number 1, patient 1, 40 slices): taken" in result.stderr
    assert (
        f"series {bone} (number 1, patient 1, 64 slices): not taken (kernel: BONE" in result.stderr
    )
    assert "1 localizer, 1 report, 1 document, 1 not_dicom, 1 nested_archive" in result.stderr
    assert "warning several_patients" in result.stderr
    assert "Doe" not in result.output + result.stderr
    assert roe in result.stderr


def test_the_real_series_is_found_among_others(tcga_series: Path, tmp_path: Path) -> None:
    best, bone, _ = mixed(tmp_path / "in")
    shutil.copytree(tcga_series, tmp_path / "in" / "real")
    real = open_volume(tcga_series)
    volume = open_volume(tmp_path / "in")
    assert volume.series_uid == real.series_uid
    assert volume.shape == (512, 512, 160)
    assert volume.sop_instance_uids == real.sop_instance_uids
    assert by_uid(volume)[best].lost_by == "thickness: slices of 4 mm"
    assert (by_uid(volume)[best].patient, volume.candidates[0].patient) == (1, 3)
    facts = volume.candidates[0]
    assert (facts.kernel, facts.kernel_kind, facts.contrast_agent) == ("FC13", "soft", True)
    assert facts.origin == "ORIGINAL"
    assert bone in by_uid(volume)


# -- damage ----------------------------------------------------------------------------------


def _cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def test_damage_of_the_chosen_series_refuses_and_of_another_is_counted(tmp_path: Path) -> None:
    _write_as(tmp_path / "in" / "a", "good", step_mm=5.0)
    thin = _write_as(tmp_path / "in" / "b", "thin", step_mm=4.0)
    _cut(in_order(tmp_path / "in" / "b")[4], 0.97)
    volume = open_volume(tmp_path / "in")
    assert volume.shape[2] == 32
    assert str(by_uid(volume)[thin].lost_by).startswith("file_truncated: 1 of 40")
    assert volume.finding is not None
    assert volume.finding.other_files == {"damaged": 1}
    with pytest.raises(SeriesRefused, match="file_truncated"):
        open_volume(tmp_path / "in", thin)


def test_damage_that_no_header_attributes_refuses(tmp_path: Path) -> None:
    good = _write_as(tmp_path / "in" / "a", "good")
    _write_as(tmp_path / "in" / "b", "other", step_mm=4.0)
    stray = in_order(tmp_path / "in" / "b")[4]
    content = stray.read_bytes()
    uid = content.index(b"\x20\x00\x0e\x00UI") + 8 + 20  # within the series' UID
    for length in (200, uid, uid + 20):
        stray.write_bytes(content[:length])
        with pytest.raises(CaseRefused, match="file_truncated"):
            open_volume(tmp_path / "in", good)
    stray.write_bytes(content[: content.index(b"\x20\x00\x13\x00IS") + 8])
    assert open_volume(tmp_path / "in", good).series_uid == good


# -- the UID that is asked for ---------------------------------------------------------------


def test_the_uid_of_a_study_is_called_one(tmp_path: Path) -> None:
    uid = write(tmp_path / "in")
    with pytest.raises(CaseRefused) as refused:
        open_volume(tmp_path / "in", str(BASE.uid("study")))
    assert refused.value.code == "no_image"
    assert "is the UID of a study" in refused.value.message
    assert uid in refused.value.message
    with pytest.raises(CaseRefused, match="not among the 1 found"):
        open_volume(tmp_path / "in", "1.2.3")


def test_only_a_scout_view_is_no_ct(tmp_path: Path) -> None:
    write(tmp_path / "series")
    (tmp_path / "in").mkdir()
    localizer(tmp_path / "in" / "scout", next((tmp_path / "series").iterdir()))
    with pytest.raises(CaseRefused, match="localizer images, but no CT") as refused:
        open_volume(tmp_path / "in")
    assert refused.value.code == "not_ct"


# -- archives --------------------------------------------------------------------------------

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda content: content,
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.xz": lzma.compress,
    "tar.bz2": bz2.compress,
    "study": gzip.compress,  # a name that says nothing
}


def _tarred(folder: Path, extra: Callable[[tarfile.TarFile], None] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, arcname="../Doe_Jane")
        if extra is not None:
            extra(archive)
    return buffer.getvalue()


def _special(archive: tarfile.TarFile) -> None:
    for name, kind in (
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("p", tarfile.FIFOTYPE),
    ):
        item = tarfile.TarInfo(f"/etc/{name}")
        item.type, item.linkname = kind, "/etc/passwd"
        archive.addfile(item)
    for name, content in (("inner.tgz", b"\x1f\x8b"), ("._fork", b"fork"), ("read.me", b"text")):
        item = tarfile.TarInfo(name)
        item.size = len(content)
        archive.addfile(item, io.BytesIO(content))


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_tar_is_read_like_its_folder(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "in")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(PACKERS[suffix](_tarred(tmp_path / "in", _special)))
    before = sorted(tmp_path.rglob("*"))
    volume, plain = open_volume(path), open_volume(tmp_path / "in")
    assert volume.sop_instance_uids == plain.sop_instance_uids
    np.testing.assert_array_equal(volume.affine, plain.affine)
    np.testing.assert_array_equal(volume.read(), plain.read())
    assert volume.finding is not None
    assert volume.finding.other_files == {"not_dicom": 1, "nested_archive": 1, "link": 3}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in")
    path = tmp_path / "a.tar.xz"
    path.write_bytes(lzma.compress(_tarred(tmp_path / "in")))
    opened = []
    unpack = archives._PACKED[b"\xfd7zXZ\0"]

    def counted(*args: Any) -> Any:
        opened.append(args)
        return unpack(*args)

    monkeypatch.setitem(archives._PACKED, b"\xfd7zXZ\0", counted)
    volume = open_volume(path)
    volume.read()
    open_volume(path, volume.series_uid).read()
    assert len(opened) == 1


def _cut_bytes(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def _without_end(content: bytes) -> bytes:
    return content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512)


def _bad_member(content: bytes) -> bytes:
    """Spoil a header in the middle: tarfile alone would take it for the end."""
    at = content.index(b"../Doe_Jane/CT", len(content) // 2)
    return content[:at] + b"\xff" * 20 + content[at + 20 :]


@pytest.mark.parametrize(
    ("suffix", "spoil", "code"),
    [
        ("tar", _cut_bytes(0.6), "file_truncated"),
        ("tar", _without_end, "file_truncated"),
        ("tar", _bad_member, "file_truncated"),
        ("tar.gz", lambda c: _cut_bytes(0.6)(gzip.compress(c)), "file_truncated"),
        ("tar.xz", lambda c: _cut_bytes(0.6)(lzma.compress(c)), "file_truncated"),
        ("tar.bz2", lambda c: _cut_bytes(0.6)(bz2.compress(c)), "file_truncated"),
        ("tgz", lambda c: gzip.compress(b"no tar" * 200), "input_unreadable"),
        ("zip", lambda c: b"no zip", "file_truncated"),
    ],
)
def test_archives_that_are_not_whole(
    tmp_path: Path, suffix: str, spoil: Callable[[bytes], bytes], code: str
) -> None:
    write(tmp_path / "in")
    path = tmp_path / f"Doe_Jane.{suffix}"
    path.write_bytes(spoil(_tarred(tmp_path / "in")))
    with pytest.raises(CaseRefused) as refused:
        open_volume(path)
    assert refused.value.code == code
    assert "Doe" not in str(refused.value)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_an_archive_made_to_fill_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "zeros").write_bytes(bytes(1 << 22))
    if suffix == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "in" / "zeros")
    else:
        path.write_bytes(gzip.compress(_tarred(tmp_path / "in")))
    with pytest.raises(CaseRefused, match="no_image"):
        open_volume(path)
    path.touch()
    archives._members.cache_clear()
    monkeypatch.setattr(archives, "SAFE_SIZE", 1 << 20)
    with pytest.raises(CaseRefused, match="archive_too_large"):
        open_volume(path)


# -- DICOMDIR --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def new_disc(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("discs")
    thin = _write_as(folder / "thin", "thin", step_mm=4.0)
    thick = _write_as(folder / "thick", "thick")
    files = FileSet()
    for name in ("thin", "thick"):
        for file in (folder / name).iterdir():
            files.add(file)
    files.write(folder / "disc")
    files._stage["t"].cleanup()  # or its end would be a warning
    (folder / "disc" / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    return folder / "disc", thin, thick


@pytest.fixture
def disc(new_disc: tuple[Path, str, str], tmp_path: Path) -> tuple[Path, str, str]:
    """A disc with two series; its folder and the series' UIDs."""
    return Path(shutil.copytree(new_disc[0], tmp_path / "disc")), *new_disc[1:]


def _files_of(disc: Path, uid: str) -> list[Path]:
    files = [f for f in disc.rglob("*") if f.is_file() and f.name.startswith("IM")]
    return [f for f in files if pydicom.dcmread(f).SeriesInstanceUID == uid]


def test_a_dicomdir_leads_to_its_files(disc: tuple[Path, str, str]) -> None:
    folder, thin, thick = disc
    for path, others in (
        (folder / "DICOMDIR", {"dicomdir": 1}),
        (folder, {"dicomdir": 1, "not_dicom": 1}),
    ):
        volume = open_volume(path)
        assert (volume.series_uid, volume.shape[2]) == (thin, 40)
        assert set(by_uid(volume)) == {thin, thick}
        assert volume.finding is not None
        assert volume.finding.other_files == others
    (folder / "beside").mkdir()
    _write_as(folder / "beside" / "thinner", "thinner", step_mm=2.5)
    assert open_volume(folder / "DICOMDIR").series_uid == thin
    assert open_volume(folder).shape[2] == 64


def test_a_disc_copied_in_small_letters_or_into_an_archive(
    disc: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, thin, _ = disc
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(_tarred(folder)))
    assert open_volume(tmp_path / "a.tar.gz").series_uid == thin
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    assert open_volume(folder / "dicomdir").series_uid == thin
    assert open_volume(folder).series_uid == thin


@pytest.mark.parametrize("name", ["DICOMDIR", "."])
def test_files_that_the_dicomdir_names_must_be_there(
    disc: tuple[Path, str, str], name: str
) -> None:
    folder, thin, thick = disc
    for file in _files_of(folder, thick)[:3]:
        file.unlink()
    with pytest.raises(SeriesRefused, match="3 files that the DICOMDIR names") as refused:
        open_volume(folder / name)
    assert refused.value.code == "files_missing"
    assert refused.value.finding.other_files["missing"] == 3
    volume = open_volume(folder / name, thin)
    assert str(by_uid(volume)[thick].lost_by).startswith("files_missing: ")
    with pytest.raises(SeriesRefused, match="files_missing"):
        open_volume(folder / name, thick)


def test_a_damaged_dicomdir(disc: tuple[Path, str, str]) -> None:
    folder, thin, _ = disc
    _cut(folder / "DICOMDIR", 0.5)
    with pytest.raises(CaseRefused, match="DICOMDIR cannot be read"):
        open_volume(folder / "DICOMDIR")
    volume = open_volume(folder)
    assert volume.series_uid == thin
    assert volume.finding is not None
    assert volume.finding.other_files["damaged"] == 1


def test_records_that_run_in_a_circle_end(disc: tuple[Path, str, str]) -> None:
    folder, thin, _ = disc
    directory = pydicom.dcmread(folder / "DICOMDIR")
    first = directory.DirectoryRecordSequence[0]
    first.OffsetOfTheNextDirectoryRecord = first.seq_item_tell
    directory.save_as(folder / "DICOMDIR")
    assert open_volume(folder / "DICOMDIR").series_uid == thin


# -- the report ------------------------------------------------------------------------------


def test_a_refused_input_is_reported_as_far_as_it_was_found_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write_as(tmp_path / "in" / name, name)
    report, refusal = check_report(tmp_path / "in", None, case_id="a")
    assert violations(report, "check") == []
    assert refusal is not None
    assert report["refusal"]["code"] == "several_series"
    assert report["series"]["chosen"] is None
    assert [c["lost_by"][:4] for c in report["series"]["candidates"]] == ["tie:", "tie:"]
    again = pickle.loads(pickle.dumps(refusal))
    assert (again.code, again.finding) == (refusal.code, refusal.finding)  # type: ignore[attr-defined]


def test_no_free_text_of_a_header_reaches_the_report(tmp_path: Path) -> None:
    write(tmp_path / "in")
    for tag in ("SeriesDescription", "BodyPartExamined", "ConvolutionKernel", "ContrastBolusAgent"):
        put(tag, "Doe^Jane")(tmp_path / "in")
    put("ImageType", ["ORIGINAL", "Doe^Jane"])(tmp_path / "in")
    report, _ = check_report(tmp_path / "in", None, case_id="a")
    facts = report.pop("facts")
    assert "Doe" not in json.dumps(report).title()
    facts.pop("kernel")  # a vendor's word, stated on purpose: it decides what a CT can be used for
    assert "Doe" not in json.dumps(facts).title()


def test_headers_are_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in")
    reads = []
    read = pydicom.filereader.read_partial

    def counted(*args: Any, **options: Any) -> Any:
        reads.append(args)
        return read(*args, **options)

    monkeypatch.setattr(pydicom.filereader, "read_partial", counted)
    for _ in range(3):
        open_volume(tmp_path / "in")
    assert len(reads) == 32
    in_order(tmp_path / "in")[0].unlink()
    reads.clear()
    assert open_volume(tmp_path / "in").shape[2] == 31
    assert len(reads) == 31
