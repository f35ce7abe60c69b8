"""DICOM SEG and RTSTRUCT as masks: the same labels as the map that they were made of."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from mask_forms import CODES, TISSUE, VERTEBRA, bridged, trace, write_rtstruct, write_seg
from matplotlib.path import Path as Outline
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pack_bits

from monai_vfx.case.mask.dicom_objects import structure_of_item
from monai_vfx.case.mask.dicom_rtstruct import fill
from monai_vfx.case.mask.load import Masks, load_masks
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import Volume, open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import LEVELS, Phantom, make_phantom, nifti

KINDS = ("BINARY", "LABELMAP", "FRACTIONAL")
RULES = ("half way", "edges", "centres")


def turned_phantom() -> Phantom:
    """A phantom on an oblique, flipped grid of 1.1 × 1.3 × 2.5 mm, of unequal sides."""
    spacing = np.array([1.1, 1.3, 2.5])
    a, b = np.radians([9.0, 5.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    shape = (150, 132, 100)
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing * [-1, 1, 1])
    middle = np.array([4.0, -31.0, 210.0])
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return make_phantom(shape, affine, middle)


class Hospital:
    """A series on disk, the CT as it is opened, and its labels on that grid."""

    def __init__(self, folder: Path, made: Phantom, seed: str = "masks") -> None:
        self.series = folder / seed
        facts = SeriesFacts(uid_seed=seed, patient_name="Doe^Jane", patient_id="SECRET7")
        write_ct_series(self.series, np.rint(made.hu).astype(np.int16), made.affine, facts)
        self.volume: Volume = open_volume(self.series)
        nib.save(nifti(made.labels, made.affine), folder / f"{seed}.nii.gz")
        self.nifti = folder / f"{seed}.nii.gz"
        self.labels = self.load(self.nifti).labels

    @property
    def frame(self) -> str:
        assert self.volume.frame_of_reference is not None
        return self.volume.frame_of_reference

    def load(self, mask: Path, **options: object) -> Masks:
        return load_masks(
            mask,
            self.volume.shape,
            self.volume.affine,
            frame_of_reference=self.volume.frame_of_reference,
            **options,  # type: ignore[arg-type]
        )

    def refusal(self, mask: Path, **options: object) -> CaseRefused:
        with pytest.raises(CaseRefused) as caught:
            self.load(mask, **options)
        assert "SECRET" not in str(caught.value)
        assert "Doe" not in str(caught.value)
        return caught.value

    def contours(self, path: Path, labels: np.ndarray | None = None, **options: object) -> Path:
        return write_rtstruct(
            path,
            self.labels if labels is None else labels,
            self.volume.affine,
            self.frame,
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return Hospital(tmp_path_factory.mktemp("hospital"), turned_phantom())


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# SEG


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_seg_gives_the_labels_it_was_made_of(
    hospital: Hospital, tmp_path: Path, kind: str, shuffle: bool
) -> None:
    path = write_seg(tmp_path / "seg", hospital.labels, hospital.series, kind, shuffle=shuffle)
    frames = int(dcmread(path).NumberOfFrames)
    assert frames < (7 if kind != "LABELMAP" else 1) * hospital.volume.shape[2]  # sparse
    masks = hospital.load(path)
    assert masks.scheme == "dicom_seg"
    assert (masks.warnings, masks.cut) == ((), ())
    np.testing.assert_array_equal(masks.labels, hospital.labels)


def test_codes_outweigh_names_that_say_nothing(hospital: Hospital, tmp_path: Path) -> None:
    numbers = {level: f"Segment {n}" for n, level in enumerate(LEVELS, start=12)}
    path = write_seg(tmp_path / "a.dcm", hospital.labels, hospital.series, names=numbers)
    np.testing.assert_array_equal(hospital.load(path).labels, hospital.labels)


@pytest.mark.parametrize("code", [VERTEBRA, TISSUE])
def test_names_speak_where_codes_do_not(
    hospital: Hospital, tmp_path: Path, code: tuple[str, str, str]
) -> None:
    path = write_seg(
        tmp_path / "a.dcm", hospital.labels, hospital.series, codes=dict.fromkeys(CODES, code)
    )
    np.testing.assert_array_equal(hospital.load(path).labels, hospital.labels)


def test_code_and_name_that_differ_are_refused(hospital: Hospital, tmp_path: Path) -> None:
    path = write_seg(tmp_path / "a.dcm", hospital.labels, hospital.series, names={"L2": "L3"})
    found = hospital.refusal(path)
    assert found.code == "mask_labels_unknown"
    assert "coded L2 and named L3" in found.message


def test_bare_numbers_are_no_levels(hospital: Hospital, tmp_path: Path) -> None:
    numbers = {level: str(n) for n, level in enumerate(LEVELS, start=18)}
    path = write_seg(
        tmp_path / "a.dcm",
        hospital.labels,
        hospital.series,
        codes=dict.fromkeys(CODES, VERTEBRA),
        names=numbers,
    )
    assert hospital.refusal(path).code == "mask_labels_unknown"


def code(value: str, scheme: str = "SCT", meaning: str = "as stated") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


@pytest.mark.parametrize(
    ("codes", "regions", "name", "structure"),
    [
        ([code("T-11910", "SRT")], [], "", "L1"),  # the older codes of the same concepts
        ([code("T-117C0", "SNM3")], [], "", "T12"),
        ([code("51282000"), code("14293000")], [], "", "L2"),  # a modifier says the level
        ([code("51282000")], [code("36470004")], "", "L3"),  # so does the region of a vertebra
        ([code("85756007")], [code("36470004")], "", None),  # but not that of some tissue
        (
            [code("67459009", meaning="Intervertebral disc of second lumbar vertebra")],
            [],
            "L2",
            None,
        ),
        ([code("51282000")], [], "vertebrae_L4", "L4"),
        ([], [], "17", None),
    ],
)
def test_what_a_segment_is(
    codes: list[Dataset], regions: list[Dataset], name: str, structure: str | None
) -> None:
    assert structure_of_item(1, [name], codes, regions) == structure


def test_seg_of_another_patient_is_refused(hospital: Hospital, tmp_path: Path) -> None:
    other = Hospital(tmp_path, turned_phantom(), "other")
    for path in (
        write_seg(tmp_path / "seg.dcm", other.labels, other.series),
        other.contours(tmp_path / "rt.dcm"),
    ):
        found = hospital.refusal(path)
        assert found.code == "mask_grid_mismatch"
        assert "frame of reference" in found.message
        assert other.load(path).levels == tuple(LEVELS)


def test_a_ct_without_frame_of_reference_is_compared_by_its_grid(
    hospital: Hospital, tmp_path: Path
) -> None:
    path = write_seg(tmp_path / "seg.dcm", hospital.labels, hospital.series)
    masks = load_masks(path, hospital.volume.shape, hospital.volume.affine)
    np.testing.assert_array_equal(masks.labels, hospital.labels)


@pytest.mark.parametrize(("layers", "refused"), [(1, False), (4, True)])
def test_overlaps(hospital: Hospital, tmp_path: Path, layers: int, refused: bool) -> None:
    labels = hospital.labels
    both = np.stack([labels == value for value in LEVELS.values()], axis=-1)
    # L1 reaches down into L2: a part of its uppermost slice, or the upper slices altogether.
    top = np.flatnonzero(both[..., 3].any(axis=(0, 1)))[::-1]
    if hospital.volume.affine[2, 2] < 0:  # the first slice lies uppermost
        top = top[::-1]
    top = top[:layers]
    shared = both[:, :, top, 3].copy()
    if not refused:
        shared[: shared.shape[0] // 2] = False
        shared[:, : int(np.argwhere(shared)[:, 1].mean())] = False
    both[:, :, top, 2] |= shared
    path = tmp_path / "seg.dcm"
    write_overlapping(path, both, hospital)
    if refused:
        found = hospital.refusal(path)
        assert found.code == "mask_overlaps"
        assert "L1 and L2 must share at most 5%" in found.message
        return
    expected = labels.copy()
    # What is shared goes to the upper one, where it is a stray piece.
    expected[:, :, top[0]][shared[..., 0]] = 0
    np.testing.assert_array_equal(hospital.load(path).labels, expected)


def write_overlapping(path: Path, both: np.ndarray, hospital: Hospital) -> None:
    """Write a binary SEG whose segments (…, T11-L5) may overlap."""
    write_seg(path, hospital.labels, hospital.series, omit_empty_frames=False)
    seg = dcmread(path)
    frames = seg.pixel_array
    at = {}
    for n, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        at.setdefault(number, []).append(
            (float(group.PlanePositionSequence[0].ImagePositionPatient[2]), n)
        )
    for number, places in at.items():
        down = bool(hospital.volume.affine[2, 2] < 0)
        for k, (_, n) in enumerate(sorted(places, reverse=down)):
            frames[n] = both[:, :, k, number - 1].T
    seg.PixelData = pack_bits(frames)
    seg.save_as(path)


def test_only_object_in_a_folder_or_archive(hospital: Hospital, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(hospital.series, folder / "ct")  # a study: the CT beside its mask
    write_seg(folder / "IM0001", hospital.labels, hospital.series)
    np.testing.assert_array_equal(hospital.load(folder).labels, hospital.labels)
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(folder / "IM0001", "a/IM0001")
        zipped.writestr("readme.txt", "no DICOM")
    np.testing.assert_array_equal(hospital.load(archive).labels, hospital.labels)
    with tarfile.open(tmp_path / "export.tar.gz", "w:gz") as packed:
        packed.add(folder / "IM0001", "a/IM0001")
    tarred = hospital.load(tmp_path / "export.tar.gz")
    np.testing.assert_array_equal(tarred.labels, hospital.labels)
    hospital.contours(folder / "IM0002")
    assert hospital.refusal(folder).code == "several_masks"


def test_damaged_and_foreign_objects(hospital: Hospital, tmp_path: Path) -> None:
    whole = write_seg(tmp_path / "seg.dcm", hospital.labels, hospital.series).read_bytes()
    for length in (140, 3000, len(whole) // 2):
        (tmp_path / "cut.dcm").write_bytes(whole[:length])
        assert hospital.refusal(tmp_path / "cut.dcm").code in (
            "file_truncated",
            "mask_unreadable",
        )
    slice_ = next(hospital.series.iterdir())
    assert hospital.refusal(slice_).code == "mask_unreadable"
    assert hospital.refusal(hospital.series).code == "mask_labels_unknown"
    seg = dcmread(tmp_path / "seg.dcm")
    seg.TotalPixelMatrixRows = 10
    seg.save_as(tmp_path / "tiled.dcm")
    assert "tiled" in hospital.refusal(tmp_path / "tiled.dcm").message


def _without(group: str, name: str) -> Callable[[Dataset], None]:
    """Take an element out of the group that one frame states."""

    def change(seg: Dataset) -> None:
        del seg.PerFrameFunctionalGroupsSequence[5][group].value[0][name]

    return change


def _of_a_strange_segment(seg: Dataset) -> None:
    frame = seg.PerFrameFunctionalGroupsSequence[5]
    frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 77


INCOMPLETE: dict[str, tuple[Callable[[Dataset], object], str]] = {
    "no index": (lambda seg: delattr(seg, "DimensionIndexSequence"), "DimensionIndexSequence is"),
    "an empty index": (
        lambda seg: setattr(seg, "DimensionIndexSequence", []),
        "does not list ReferencedSegmentNumber",
    ),
    "no groups": (
        lambda seg: delattr(seg, "PerFrameFunctionalGroupsSequence"),
        "lacks PerFrameFunctionalGroupsSequence",
    ),
    "a group too few": (
        lambda seg: seg.PerFrameFunctionalGroupsSequence.pop(),
        "PerFrameFunctionalGroupsSequence describes",
    ),
    "no shared groups": (
        lambda seg: delattr(seg, "SharedFunctionalGroupsSequence"),
        "lacks SharedFunctionalGroupsSequence",
    ),
    "no frame content": (
        lambda seg: [
            delattr(frame, "FrameContentSequence") for frame in seg.PerFrameFunctionalGroupsSequence
        ],
        r"\d+ of \d+ frames of the SEG lack DimensionIndexValues \(FrameContentSequence\)",
    ),
    "a frame without index": (
        _without("FrameContentSequence", "DimensionIndexValues"),
        "1 of .* lack DimensionIndexValues",
    ),
    "a frame without place": (
        _without("PlanePositionSequence", "ImagePositionPatient"),
        "1 of .* lack ImagePositionPatient",
    ),
    "a frame without segment": (
        _without("SegmentIdentificationSequence", "ReferencedSegmentNumber"),
        "1 of .* lack ReferencedSegmentNumber",
    ),
    "a frame of a strange segment": (_of_a_strange_segment, "belong to the segments 77"),
    "no number of frames": (lambda seg: delattr(seg, "NumberOfFrames"), "lacks NumberOfFrames"),
}


@pytest.mark.parametrize("name", INCOMPLETE)
def test_an_incomplete_seg_is_refused_by_what_it_lacks(
    hospital: Hospital, tmp_path: Path, name: str
) -> None:
    change, message = INCOMPLETE[name]
    seg = dcmread(write_seg(tmp_path / "seg.dcm", hospital.labels, hospital.series))
    change(seg)
    seg.save_as(tmp_path / "seg.dcm")
    refusal = hospital.refusal(tmp_path / "seg.dcm")
    assert refusal.code == "mask_unreadable"
    assert re.search(message, refusal.message)
    assert "label map" in refusal.remedy


def test_a_label_map_needs_no_index_of_segments(hospital: Hospital, tmp_path: Path) -> None:
    seg = dcmread(write_seg(tmp_path / "seg.dcm", hospital.labels, hospital.series, "LABELMAP"))
    del seg.DimensionIndexSequence
    seg.save_as(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(hospital.load(tmp_path / "seg.dcm").labels, hospital.labels)


def test_frames_at_uneven_places(hospital: Hospital, tmp_path: Path) -> None:
    seg = dcmread(write_seg(tmp_path / "seg.dcm", hospital.labels, hospital.series))
    place = seg.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    place.ImagePositionPatient = [v + 0.7 for v in place.ImagePositionPatient]
    seg.save_as(tmp_path / "seg.dcm")
    assert hospital.refusal(tmp_path / "seg.dcm").code == "geometry_invalid"


# RTSTRUCT


@pytest.mark.parametrize("convention", RULES)
def test_contours_give_the_labels_they_were_drawn_from(
    hospital: Hospital, tmp_path: Path, convention: str
) -> None:
    masks = hospital.load(hospital.contours(tmp_path / "rt", convention=convention))
    assert masks.scheme == "rtstruct"
    assert masks.warnings == ()
    for value in LEVELS.values():
        assert dice(masks.labels == value, hospital.labels == value) > 0.995


@pytest.mark.parametrize("keyhole", [False, True])
@pytest.mark.parametrize("convention", RULES)
def test_holes(hospital: Hospital, tmp_path: Path, convention: str, keyhole: bool) -> None:
    labels = hospital.labels.copy()
    middle = np.argwhere(labels == LEVELS["L2"]).mean(axis=0).astype(int)
    i, j, k = middle.tolist()
    labels[i - 4 : i + 3, j - 3 : j + 5, k - 3 : k + 4] = 0
    path = hospital.contours(tmp_path / "rt", labels, convention=convention, keyhole=keyhole)
    masks = hospital.load(path, bodies="given")
    assert not masks.labels[i - 2 : i + 1, j - 1 : j + 3, k - 3 : k + 4].any()
    assert dice(masks.labels == LEVELS["L2"], labels == LEVELS["L2"]) > 0.99


def test_filling_agrees_with_matplotlib_off_the_line() -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(1, 28, (9, 2))
    points = np.stack(np.meshgrid(np.arange(30), np.arange(26), indexing="ij"), axis=-1)
    star = np.concatenate([corners, corners[:1]])
    known = Outline(star).contains_points(points.reshape(-1, 2)).reshape(30, 26)
    # matplotlib counts by winding where a star crosses itself: compare a simple polygon.
    centre = corners.mean(axis=0)
    turn = np.argsort(np.arctan2(*(corners - centre).T))
    simple = corners[turn]
    known = Outline(simple).contains_points(points.reshape(-1, 2)).reshape(30, 26)
    np.testing.assert_array_equal(fill([simple], (30, 26)), known)
    np.testing.assert_array_equal(fill([simple[::-1]], (30, 26)), known)


def test_two_pieces_and_a_hole_in_one_slice() -> None:
    inside = np.zeros((20, 16), dtype=bool)
    inside[2:9, 2:14] = True
    inside[4:6, 5:9] = False
    inside[12:17, 3:8] = True
    for convention in RULES:
        lines = trace(inside, convention)
        assert len(lines) == 3
        np.testing.assert_array_equal(fill(lines, inside.shape), inside)
    ring = inside.copy()
    ring[12:17] = False
    np.testing.assert_array_equal(fill([bridged(trace(ring, "half way"))], ring.shape), ring)


def test_a_slice_without_contours_is_refused(hospital: Hospital, tmp_path: Path) -> None:
    slices = np.flatnonzero((hospital.labels == LEVELS["L3"]).any(axis=(0, 1)))
    path = hospital.contours(tmp_path / "rt", skip=(int(slices[4]),))
    found = hospital.refusal(path)
    assert found.code == "contours_missing"
    assert "L3 has no contour in 1 of" in found.message


def test_contours_off_the_slices_go_to_the_nearest(hospital: Hospital, tmp_path: Path) -> None:
    masks = hospital.load(hospital.contours(tmp_path / "rt", off_mm=0.8))
    assert [w.code for w in masks.warnings] == ["mask_resampled"]
    for value in LEVELS.values():
        assert dice(masks.labels == value, hospital.labels == value) > 0.99


def test_contours_across_the_slices_are_refused(hospital: Hospital, tmp_path: Path) -> None:
    plan = dcmread(hospital.contours(tmp_path / "rt"))
    contour = plan.ROIContourSequence[2].ContourSequence[0]
    contour.ContourData = [*contour.ContourData[:-1], float(contour.ContourData[-1]) + 5]
    plan.save_as(tmp_path / "rt")
    found = hospital.refusal(tmp_path / "rt")
    assert found.code == "mask_grid_mismatch"
    assert "each contour must lie in one slice" in found.message


def test_contours_denser_than_the_slices_are_refused(hospital: Hospital, tmp_path: Path) -> None:
    path = hospital.contours(tmp_path / "rt")
    plan = dcmread(path)
    sequence = plan.ROIContourSequence[2].ContourSequence
    half = hospital.volume.affine[:3, 2] * 0.45 * np.array([-1, -1, 1])
    for contour in list(sequence)[:3]:
        copy = Dataset()
        copy.update(contour)
        copy.ContourData = (np.reshape(contour.ContourData, (-1, 3)) + half).ravel().tolist()
        sequence.append(copy)
    plan.save_as(path)
    assert "closer than the slices" in hospital.refusal(path).message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ContourGeometricType", "OPEN_PLANAR", "OPEN_PLANAR"),
        ("ContourData", [1.0, 2.0, 3.0], "3 coordinates"),
    ],
)
def test_contours_that_enclose_nothing(
    hospital: Hospital, tmp_path: Path, name: str, value: object, words: str
) -> None:
    path = hospital.contours(tmp_path / "rt")
    plan = dcmread(path)
    setattr(plan.ROIContourSequence[3].ContourSequence[2], name, value)
    plan.save_as(path)
    found = hospital.refusal(path)
    assert found.code == "mask_unreadable"
    assert words in found.message


def test_a_region_marked_by_a_point_is_not_there(hospital: Hospital, tmp_path: Path) -> None:
    path = hospital.contours(tmp_path / "rt")
    plan = dcmread(path)
    for contour in plan.ROIContourSequence[2].ContourSequence:
        contour.ContourGeometricType = "POINT"
    plan.save_as(path)
    assert hospital.refusal(path).code == "level_missing"


# On the command line


@pytest.mark.parametrize("form", ["seg", "rtstruct"])
def test_check_takes_them(hospital: Hospital, tmp_path: Path, form: str) -> None:
    path = tmp_path / "mask.dcm"
    if form == "seg":
        write_seg(path, hospital.labels, hospital.series)
    else:
        hospital.contours(path)
    words = ["check", str(hospital.series), "--mask", str(path), "--no-compare-mask"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert '"label_scheme": "dicom_seg"' in result.stdout or form == "rtstruct"


# Real CT


@pytest.fixture(scope="module")
def real_case(tcga_series: Path, real_data: Path) -> tuple[Path, Volume, np.ndarray, Path]:
    volume = open_volume(tcga_series)
    given = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    labels = load_masks(given, volume.shape, volume.affine, scheme="verse").labels
    return tcga_series, volume, labels, given


@pytest.mark.parametrize(
    "kind", ["BINARY", "LABELMAP", pytest.param("FRACTIONAL", marks=pytest.mark.slow)]
)
def test_real_mask_as_seg(
    real_case: tuple[Path, Volume, np.ndarray, Path], tmp_path: Path, kind: str
) -> None:
    series, volume, labels, _ = real_case
    path = write_seg(tmp_path / "seg.dcm", labels, series, kind)
    masks = load_masks(
        path, volume.shape, volume.affine, frame_of_reference=volume.frame_of_reference
    )
    np.testing.assert_array_equal(masks.labels, labels)


@pytest.mark.parametrize("convention", RULES)
def test_real_mask_as_contours(
    real_case: tuple[Path, Volume, np.ndarray, Path], tmp_path: Path, convention: str
) -> None:
    _, volume, labels, _ = real_case
    frame = volume.frame_of_reference
    assert frame is not None
    path = write_rtstruct(tmp_path / "rt", labels, volume.affine, frame, convention=convention)
    masks = load_masks(path, volume.shape, volume.affine, frame_of_reference=frame)
    for value in LEVELS.values():
        assert dice(masks.labels == value, labels == value) >= 0.98
