from __future__ import annotations

import gzip
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from itk_files import UPRIGHT, write_itk

from monai_vfx.case.mask.load import Masks, load_masks
from monai_vfx.case.mask.schemes import find_structures
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.label_map import LabelFile, read_label_file
from monai_vfx.io.nifti import names_of_xml

SHAPE = (31, 37, 90)
AFFINE = np.array([[2.0, 0, 0, -30], [0, 2.5, 0, -40], [0, 0, 3.0, 700], [0, 0, 0, 1]])
VERSE = {"T11": 18, "T12": 19, "L1": 20, "L2": 21, "L3": 22, "L4": 23, "L5": 24}
V1 = {"T11": 24, "T12": 23, "L1": 22, "L2": 21, "L3": 20, "L4": 19, "L5": 18}
V2 = {"T11": 33, "T12": 32, "L1": 31, "L2": 30, "L3": 29, "L4": 28, "L5": 27}


def spine(ids: dict[str, int] = VERSE, dtype: type = np.uint8) -> np.ndarray:
    """Blocks of 34 x 30 x 24 mm, one every 36 mm, T11 on top; erector and psoas left out."""
    labels: np.ndarray = np.zeros(SHAPE, dtype=dtype)
    for number, level in enumerate(("T11", "T12", "L1", "L2", "L3", "L4", "L5")):
        top = 86 - 12 * number
        labels[7:24, 10:22, top - 8 : top] = ids[level]
    return labels


def save(path: Path, labels: np.ndarray, affine: np.ndarray = AFFINE, names: str = "") -> Path:
    image = nib.Nifti1Image(labels, affine)
    if names:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, names.encode()))
    nib.save(image, path)
    return path


def load(path: Path, **options: object) -> Masks:
    return load_masks(path, SHAPE, AFFINE, **options)  # type: ignore[arg-type]


def refusal(path: Path, **options: object) -> CaseRefused:
    with pytest.raises(CaseRefused) as caught:
        load(path, **options)
    return caught.value


def xml(names: dict[int, str]) -> str:
    rows = "".join(f'<Label Key="{k}" Red="0"><![CDATA[{v}]]></Label>' for k, v in names.items())
    return f"<CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>"


# -- which number means what -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "scheme"),
    [(VERSE, "verse"), (V1, "totalsegmentator_v1"), (V2, "totalsegmentator_v2")],
)
@pytest.mark.parametrize("told", [True, False])
def test_schemes_are_told_apart_by_order(
    tmp_path: Path, ids: dict[str, int], scheme: str, told: bool
) -> None:
    path = save(tmp_path / "labels.nii.gz", spine(ids))
    masks = load(path, scheme=scheme if told else None)
    assert masks.scheme == scheme
    assert masks.body_source == "given"
    assert masks.levels == ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
    assert masks.cut == ()
    assert masks.warnings == ()
    np.testing.assert_array_equal(masks.labels, spine())


def test_names_outweigh_numbers(tmp_path: Path) -> None:
    # The numbers are VerSe's, one level off; two muscles and an organ are named as well.
    ids = {level: value + 1 for level, value in VERSE.items()}
    labels = spine(ids)
    labels[0:2, 1:4, 20:60], labels[28:31, 1:4, 20:60], labels[2:4, 30:36, 5:9] = 7, 8, 9
    names = xml({value: f"vertebrae_{level}" for level, value in ids.items()})
    names = names.replace("</LabelTable>", xml({7: "autochthon_left", 8: "iliopsoas_left"}))
    masks = load(save(tmp_path / "a.nii.gz", labels, names=names), scheme="totalsegmentator_v1")
    expected = spine()
    expected[0:2, 1:4, 20:60], expected[28:31, 1:4, 20:60] = 101, 102
    assert masks.scheme == "names"
    np.testing.assert_array_equal(masks.labels, expected)


def test_slicer_segmentation(tmp_path: Path) -> None:
    # Slicer crops its files to the segments and counts segments from 1.
    levels = ("L5", "L4", "L3", "L2", "L1", "T12", "T11")
    labels = spine({level: number for number, level in enumerate(levels, start=1)})
    path = tmp_path / "spine.seg.nrrd"
    keys = {}
    for number, level in enumerate(levels):
        keys[f"Segment{number}_Name"] = f"{level} vertebra"
        keys[f"Segment{number}_LabelValue"] = str(number + 1)
    write_itk(
        path,
        labels[7:24, 10:22, 6:86],
        spacing=(2.0, 2.5, 3.0),
        direction=UPRIGHT,
        origin=(AFFINE @ [7, 10, 6, 1])[:3] * [-1, -1, 1],
        compress=True,
        keys=keys,
    )
    masks = load(path)
    assert (masks.scheme, masks.cut, masks.warnings) == ("names", (), ())
    np.testing.assert_array_equal(masks.labels, spine())


def test_folder_of_structures(tmp_path: Path) -> None:
    labels = spine()
    for level, value in VERSE.items():
        inside = (labels == value) * 0.9  # a probability; float64 as some tools write it
        save(tmp_path / f"vertebrae_{level}.nii.gz", inside)
    save(tmp_path / "autochthon_left.nii.gz", np.eye(31, 37)[..., None] * np.ones(90))
    save(tmp_path / "psoas_right.nii", np.zeros(SHAPE, dtype=np.uint8))
    (tmp_path / "liver.nii.gz").write_bytes(b"not needed, so never opened")
    (tmp_path / "report.json").write_text("{}")
    masks = load(tmp_path)
    assert masks.scheme == "files"
    diagonal = np.eye(31, 37, dtype=bool)[..., None] & (labels == 0)
    np.testing.assert_array_equal(masks.labels, np.where(diagonal, 101, labels))


def label_file(centroids: dict[int, float]) -> LabelFile:
    """One voxel a label at the height (mm) that is given for it."""
    values = np.zeros((3, 1, 1000), dtype=np.uint8)
    for value, height in centroids.items():
        values[1, 0, round(height)] = value
    return LabelFile(values, (0, 0, 0), (3, 1, 1000), np.eye(4), {}, cropped=False)


def test_detection_by_hand() -> None:
    organs = {18: 300.0, 19: 420.0, 20: 330.0, 21: 90.0, 22: 80.0, 104: 500.0}
    lumbar = {number: 150.0 + 35 * (number - 26) for number in range(26, 34)}
    whole_v1 = {number: 100.0 + 30 * (number - 18) for number in range(18, 42)}
    whole_verse = {number: 950.0 - 30 * number for number in range(1, 25)}
    found = [find_structures(label_file(c))[0] for c in (organs | lumbar, whole_v1, whole_verse)]
    assert found == ["totalsegmentator_v2", "totalsegmentator_v1", "verse"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({1: 100.0, 2: 130.0}, "do not distinguish the levels"),
        ({5: 100.0, 6: 130.0}, "5, 6 in their order fit no label scheme"),
        ({19: 100.0, 20: 230.0, 21: 160.0, 22: 190.0}, "19, 20, 21, 22 in their order"),
        (
            {n: 600.0 - 30 * (n - 19) for n in range(19, 24)}
            | {n: 30.0 * n for n in range(28, 33)},
            "fit more than one",
        ),
    ],
)
def test_labels_that_cannot_be_understood(values: dict[int, float], words: str) -> None:
    with pytest.raises(CaseRefused, match=words) as caught:
        find_structures(label_file(values))
    assert caught.value.code == "mask_labels_unknown"


def test_body_map_with_names_carries_no_levels(tmp_path: Path) -> None:
    labels = (spine() > 0).astype(np.uint8)
    path = save(tmp_path / "a.nii.gz", labels, names=xml({1: "vertebrae_body"}))
    found = refusal(path)
    assert found.code == "mask_labels_unknown"
    assert "vertebrae_body" in found.message
    assert "distinguishes the levels" in found.remedy


def test_label_table_is_parsed_without_expanding_anything() -> None:
    assert names_of_xml('<Label Key="3" x="y">A &amp; B</Label>') == {3: "A & B"}
    with pytest.raises(CaseRefused, match="entities"):
        names_of_xml('<!DOCTYPE x [<!ENTITY a "b">]><Label Key="3">&a;</Label>')


def test_wrong_use(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", spine())
    with pytest.raises(ValueError, match="scheme"):
        load(path, scheme="V1")
    with pytest.raises(ValueError, match="bodies"):
        load(path, bodies="yes")


# -- on the CT's grid ------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", list(product((1, -1), repeat=3)))
def test_turned_and_flipped_masks_are_reindexed(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    labels = spine()
    labels[8, 11, 50] = 0  # no symmetry
    turned = labels.transpose(order)[tuple(slice(None, None, f) for f in flips)]
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = flip
        to_old[old, 3] = 0 if flip > 0 else SHAPE[old] - 1
    masks = load(save(tmp_path / "a.nii", turned, AFFINE @ to_old))
    np.testing.assert_array_equal(masks.labels, labels)
    assert masks.warnings == ()


def test_rounding_of_the_affine_is_tolerated(tmp_path: Path) -> None:
    near = AFFINE.copy()
    near[:3, 3] += 0.1  # 0.17 mm in all, at most 0.2 mm is allowed
    assert load(save(tmp_path / "near.nii", spine(), near)).warnings == ()
    far = AFFINE.copy()
    far[:3, 3] += 0.2
    assert [w.code for w in load(save(tmp_path / "far.nii", spine(), far)).warnings] == [
        "mask_resampled"
    ]


def test_a_finer_oblique_mask_is_resampled(tmp_path: Path) -> None:
    angle = np.radians(9.0)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 1.25, 1.5])
    shape = (90, 84, 190)
    affine[:3, 3] = AFFINE[:3] @ [15, 18, 45, 1] - affine[:3, :3] @ (np.array(shape) / 2)
    index = np.indices(shape).reshape(3, -1)
    in_ct = np.linalg.inv(AFFINE) @ affine @ np.vstack([index, np.ones(index.shape[1])])
    nearest = np.rint(in_ct[:3]).astype(int)
    inside = ((nearest >= 0) & (nearest < np.array(SHAPE)[:, None])).all(axis=0)
    fine = np.zeros(index.shape[1], dtype=np.uint8)
    fine[inside] = spine()[tuple(nearest[:, inside])]
    masks = load(save(tmp_path / "a.nii.gz", fine.reshape(shape), affine))
    assert [warning.code for warning in masks.warnings] == ["mask_resampled"]
    assert (masks.labels != spine()).sum() < 0.02 * (spine() > 0).sum()


def test_mask_of_a_longer_scan(tmp_path: Path) -> None:
    """The CT is the mask's without its upper and lower slices."""
    path = save(tmp_path / "a.nii.gz", spine())
    for first, last, cut in ((10, 76, ()), (10, 72, ("T12",)), (24, 76, ("L4",))):
        affine = AFFINE.copy()
        affine[2, 3] += 3.0 * first
        masks = load_masks(path, (31, 37, last - first), affine)
        np.testing.assert_array_equal(masks.labels, spine()[..., first:last])
        assert masks.cut == cut
        assert {w.code for w in masks.warnings} == {"mask_partial", "level_cut"} - (
            set() if cut else {"mask_partial", "level_cut"}
        )
    affine = AFFINE.copy()
    affine[2, 3] += 3.0 * 34
    with pytest.raises(CaseRefused, match="L4 lies outside the CT") as caught:
        load_masks(path, (31, 37, 50), affine)
    assert caught.value.code == "level_missing"


def test_mask_of_a_shorter_scan(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[2, 3] += 3.0 * 20
    masks = load(save(tmp_path / "a.nii.gz", spine()[..., 20:70], affine))
    assert masks.cut == ("T12", "L4")
    np.testing.assert_array_equal(masks.labels[..., 20:70], spine()[..., 20:70])
    assert not masks.labels[..., 70:].any()


def test_mask_beside_the_ct(tmp_path: Path) -> None:
    for shift, code in ((8.0, None), (18.0, "mask_grid_mismatch"), (500.0, "mask_grid_mismatch")):
        affine = AFFINE.copy()
        affine[0, 3] += shift  # the blocks end 14 mm from the CT's edge
        path = save(tmp_path / f"{shift}.nii.gz", spine(), affine)
        if code is None:
            load(path)
        else:
            assert refusal(path).code == code


def test_level_touching_the_last_slice_is_cut(tmp_path: Path) -> None:
    top = np.roll(spine(), 4, axis=2)
    top[..., :2], top[top == VERSE["T11"]] = 0, 0
    up = np.roll(top, 12, axis=2)
    up[..., :6] = 0
    masks = load(save(tmp_path / "a.nii.gz", up))
    assert masks.levels == ("T12", "L1", "L2", "L3", "L4", "L5")
    assert masks.cut == ("T12",)
    assert [warning.code for warning in masks.warnings] == ["level_cut"]


@settings(max_examples=25, deadline=None)
@given(
    start=st.tuples(st.integers(-40, 40), st.integers(-40, 40), st.integers(-60, 60)),
    flip=st.booleans(),
)
def test_shifted_grids_never_move_a_label(
    tmp_path_factory: pytest.TempPathFactory, start: tuple[int, int, int], flip: bool
) -> None:
    """Whatever part of the mask the CT holds, each label stays at its world position."""
    path = tmp_path_factory.getbasetemp() / "fixed.nii.gz"
    if not path.exists():
        save(path, spine())
    step = np.eye(4)
    step[:3, 3] = start
    if flip:
        step[0, 0] = -1
    try:
        masks = load_masks(path, SHAPE, AFFINE @ step)
    except CaseRefused as found:
        code = found.code
    else:
        code = ""
    assert code in ("", "level_missing", "mask_grid_mismatch")
    if code:
        return
    index = np.argwhere(masks.labels)
    origin = index @ step[:3, :3].T + step[:3, 3]
    assert (spine()[tuple(origin.astype(int).T)] == masks.labels[tuple(index.T)]).all()


# -- bodies ----------------------------------------------------------------------------------


def with_arches() -> np.ndarray:
    """The blocks with two pedicles and a spinous process at each level."""
    labels = spine()
    for number, value in enumerate(VERSE.values()):
        top = 86 - 12 * number
        labels[8:11, 3:10, top - 5 : top - 1] = value
        labels[20:23, 3:10, top - 5 : top - 1] = value
        labels[8:23, 1:3, top - 7 : top - 3] = value
    return labels


def test_bodies_are_derived_only_where_there_are_arches(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", with_arches())
    masks = load(path)
    assert masks.body_source == "derived"
    assert [warning.code for warning in masks.warnings] == ["body_derived"]
    difference = (masks.labels != spine()).sum() / (spine() > 0).sum()
    assert difference < 0.05
    as_given = load(path, bodies="given")
    assert as_given.body_source == "given"
    np.testing.assert_array_equal(as_given.labels, with_arches())
    assert load(save(tmp_path / "b.nii.gz", spine()), bodies="derive").body_source == "derived"


# -- refusals --------------------------------------------------------------------------------


def test_missing_levels_are_named(tmp_path: Path) -> None:
    labels = spine()
    labels[(labels == VERSE["L2"]) | (labels == VERSE["T12"])] = 0
    found = refusal(save(tmp_path / "a.nii.gz", labels))
    assert found.code == "level_missing"
    assert "T12 has no voxel in the mask; L2 has no voxel in the mask" in found.message


def test_empty_masks(tmp_path: Path) -> None:
    nothing = np.zeros(SHAPE, dtype=np.uint8)
    assert refusal(save(tmp_path / "a.nii.gz", nothing)).code == "mask_empty"
    neck = np.where(spine() == 18, 5, 0).astype(np.uint8)
    assert refusal(save(tmp_path / "b.nii.gz", neck), scheme="verse").code == "mask_empty"
    folder = tmp_path / "folder"
    folder.mkdir()
    assert refusal(folder).code == "mask_labels_unknown"
    save(folder / "vertebrae_L1.nii.gz", nothing)
    assert refusal(folder).code == "mask_empty"


def test_levels_out_of_order(tmp_path: Path) -> None:
    swapped = VERSE | {"L1": VERSE["L2"], "L2": VERSE["L1"]}
    found = refusal(save(tmp_path / "a.nii.gz", spine(swapped)), scheme="verse")
    assert found.code == "levels_out_of_order"
    assert "L1 is not above L2" in found.message


@pytest.mark.parametrize(
    ("value", "name", "top"), [(28, "T13", 67), (25, "L6", 7)], ids=["T13", "L6"]
)
@pytest.mark.parametrize("named", [False, True])
def test_an_extra_vertebra_is_warned_of(
    tmp_path: Path, value: int, name: str, top: int, named: bool
) -> None:
    labels = spine()
    labels[7:24, 10:22, top - 5 : top] = value
    names = xml({n: level for level, n in (VERSE | {name: value}).items()}) if named else ""
    masks = load(save(tmp_path / "a.nii.gz", labels, names=names))
    assert [warning.code for warning in masks.warnings] == ["level_extra"]
    assert f"labels {name}; " in masks.warnings[0].message
    assert f"{5 + (name == 'L6')} lumbar vertebrae are labelled" in masks.warnings[0].message
    assert masks.levels == ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
    np.testing.assert_array_equal(masks.labels, np.where(labels == value, 0, labels))


def test_an_extra_vertebra_out_of_place(tmp_path: Path) -> None:
    labels = spine()
    labels[7:24, 10:22, 2:7] = 28  # T13 below L5
    found = refusal(save(tmp_path / "a.nii.gz", labels))
    assert (found.code, found.message) == ("levels_out_of_order", "T13 is not above L1")


@pytest.mark.parametrize("value", [1e30, 3e18])
def test_a_value_that_is_no_label(tmp_path: Path, value: float) -> None:
    labels = spine(dtype=np.float32)
    labels[0, 0, 0] = value
    found = refusal(save(tmp_path / "a.nii.gz", labels))
    assert found.code == "mask_fractional"
    assert f"holds the value {value:.0e}, which is no label" in found.message


def test_denied_access_to_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/scans/Doe_Jane")

    path = save(tmp_path / "Doe_Jane.nii.gz", spine())
    monkeypatch.setattr(nib, "load", denied)
    found = refusal(path)
    assert found.code == "mask_unreadable"
    assert "read access" in found.remedy
    assert "Doe" not in str(found)


def test_an_unknown_world_is_not_guessed(tmp_path: Path) -> None:
    for name, old, new, code in (
        ("a.nrrd", b"left-posterior-superior", b"scanner-xyz", "geometry_missing"),
        ("a.mha", b"TransformMatrix = 1 0 0 0 1 0 0 0 1\n", b"", "geometry_missing"),
    ):
        write_itk(tmp_path / name, spine())
        content = (tmp_path / name).read_bytes()
        read_label_file(tmp_path / name)
        (tmp_path / name).write_bytes(content.replace(old, new))
        assert refusal(tmp_path / name).code == code


def test_values_of_a_label_map(tmp_path: Path) -> None:
    whole = load(save(tmp_path / "a.nii.gz", spine(dtype=np.float64)))
    np.testing.assert_array_equal(whole.labels, spine())
    scaled = nib.Nifti1Image(spine().astype(np.int16), AFFINE)
    scaled.header.set_slope_inter(1.0, 0.0)
    nib.save(scaled, tmp_path / "b.nii")
    np.testing.assert_array_equal(load(tmp_path / "b.nii").labels, spine())
    smooth = spine(dtype=np.float32)
    smooth[10, 12, 30] = 20.5
    found = refusal(save(tmp_path / "c.nii.gz", smooth))
    assert found.code == "mask_fractional"
    assert "20.5" in found.message
    smooth[10, 12, 30] = np.nan
    assert refusal(save(tmp_path / "d.nii.gz", smooth)).code == "mask_fractional"


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    stored = (spine().astype(np.int16) + 10) * 2
    image = nib.Nifti1Image(stored, AFFINE)
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.5, -10.0], dtype="<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / "a.nii").write_bytes(raw)
    np.testing.assert_array_equal(load(tmp_path / "a.nii").labels, spine())


def test_axes(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        load(save(tmp_path / "a.nii.gz", spine()[..., None])).labels, spine()
    )
    two = np.stack([spine(), spine()], axis=-1)
    assert refusal(save(tmp_path / "b.nii.gz", two)).code == "not_volume"
    assert refusal(save(tmp_path / "c.nii.gz", spine()[0])).code == "not_volume"
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert refusal(save(tmp_path / "d.nii.gz", colour)).code == "not_volume"


def test_layers_of_overlapping_segments(tmp_path: Path) -> None:
    write_itk(tmp_path / "a.seg.nrrd", np.stack([spine()] * 2, axis=-1))
    found = refusal(tmp_path / "a.seg.nrrd")
    assert found.code == "not_volume"
    assert "2 values a voxel" in found.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = save(tmp_path / "a.nii.gz", rng.integers(0, 9, SHAPE, dtype=np.uint8)).read_bytes()
    cut = tmp_path / "cut.nii.gz"
    for length in (len(noisy) // 2, len(noisy) - 5):
        cut.write_bytes(noisy[:length])
        assert refusal(cut).code == "file_truncated"
    damaged = bytearray(noisy)
    damaged[-6] ^= 1  # the checksum
    cut.write_bytes(damaged)
    assert refusal(cut).code == "file_truncated"
    plain = tmp_path / "cut.nii"
    plain.write_bytes(gzip.decompress(noisy)[:-1])
    assert refusal(plain).code == "file_truncated"
    for name in ("text.nii.gz", "text.nii", "text.nrrd", "text.txt"):
        (tmp_path / name).write_bytes(b"no image at all")
        assert refusal(tmp_path / name).code == "mask_unreadable"
    assert refusal(tmp_path / "absent.nii.gz").code == "mask_unreadable"
    write_itk(tmp_path / "b.nrrd", rng.integers(0, 9, (7, 8, 9), dtype=np.uint8))
    (tmp_path / "b.nrrd").write_bytes((tmp_path / "b.nrrd").read_bytes()[:-20])
    assert refusal(tmp_path / "b.nrrd").code == "file_truncated"


def test_geometry_that_is_absent_or_impossible(tmp_path: Path) -> None:
    image = nib.Nifti1Image(spine(), AFFINE)
    image.set_sform(AFFINE, code=0)
    image.set_qform(AFFINE, code=0)
    nib.save(image, tmp_path / "a.nii")
    assert refusal(tmp_path / "a.nii").code == "geometry_missing"
    flat = AFFINE.copy()
    flat[:, 2] = flat[:, 1]
    image = nib.Nifti1Image(spine(), None)
    image.header.set_sform(flat, code=1)
    nib.save(image, tmp_path / "b.nii")
    assert refusal(tmp_path / "b.nii").code == "geometry_invalid"


def test_big_endian_file_and_box(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(spine().astype(">i2"), AFFINE, header), tmp_path / "a.nii")
    found = read_label_file(tmp_path / "a.nii")
    assert found.start == (7, 10, 6)
    assert found.values.shape == (17, 12, 80)
    assert found.values.dtype == np.uint8
    np.testing.assert_allclose(found.box_affine[:3, 3], AFFINE[:3] @ [7, 10, 6, 1])


# -- real cases ------------------------------------------------------------------------------


def test_real_body_annotation(real_data: Path) -> None:
    path = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    image: Any = nib.load(path)
    masks = load_masks(path, image.shape, image.affine)
    assert (masks.scheme, masks.body_source, masks.cut) == ("verse", "given", ())
    np.testing.assert_array_equal(masks.labels, np.asarray(image.dataobj))


def test_real_whole_vertebrae_in_two_forms(real_data: Path) -> None:
    folder = real_data / "totalseg_example"
    ct: Any = nib.load(folder / "ct.nii.gz")
    ends = {}
    for form in ("v1_masks", "seg_v2_117class_fast.nii.gz"):
        masks = load_masks(folder / form, ct.shape, ct.affine)
        assert masks.body_source == "derived"
        assert masks.levels == ("T12", "L1", "L2", "L3", "L4", "L5")
        assert masks.cut == ("T12",)
        assert {w.code for w in masks.warnings} == {"body_derived", "level_cut"}
        areas = [(masks.labels == value).sum(axis=(0, 1)) for value in (19, 23)]
        upper, lower = (np.flatnonzero(area >= 0.25 * area.max()) for area in areas)
        ends[form] = (upper[-1], lower[0])
    first, second = ends.values()
    assert abs(first[0] - second[0]) <= 1
    assert abs(first[1] - second[1]) <= 1
    with pytest.raises(CaseRefused) as caught:
        load_masks(folder / "seg_vertebrae_body.nii.gz", ct.shape, ct.affine)
    assert caught.value.code == "mask_labels_unknown"


def test_real_mask_of_another_patient(real_data: Path) -> None:
    ct: Any = nib.load(real_data / "totalseg_example" / "ct.nii.gz")
    path = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    with pytest.raises(CaseRefused) as caught:
        load_masks(path, ct.shape, ct.affine)
    assert caught.value.code == "mask_grid_mismatch"


@pytest.mark.parametrize("degrees", [5.0, 10.0, 20.0])
def test_derived_bodies_do_not_depend_on_a_turn_of_the_header(
    real_data: Path, tmp_path: Path, degrees: float
) -> None:
    folder = real_data / "totalseg_example"
    source = folder / "seg_v2_117class_fast.nii.gz"
    image = nib.load(folder / "ct.nii.gz")
    upright = load_masks(source, image.shape, image.affine)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    for axis in range(3):
        turn = np.eye(4)
        turn[:3, :3] = np.roll(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), axis, axis=(0, 1))
        labels = nib.load(source)
        turned = nib.Nifti1Image(np.asarray(labels.dataobj), None, labels.header)
        turned.set_sform(turn @ image.affine, code=1)
        nib.save(turned, tmp_path / f"{axis}.nii.gz")
        affine = np.asarray(nib.load(tmp_path / f"{axis}.nii.gz").affine)
        found = load_masks(tmp_path / f"{axis}.nii.gz", image.shape, affine)
        np.testing.assert_array_equal(found.labels, upright.labels)
