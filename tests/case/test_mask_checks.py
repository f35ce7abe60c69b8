"""Can a mask be right: sizes, gaps, counts, and its place along the spine."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_vfx.case.checks.body_size import NEIGHBOUR_RATIO, measure_bodies
from monai_vfx.case.checks.craniocaudal_shift import check_craniocaudal_shift
from monai_vfx.case.mask.load import Masks, load_masks
from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import open_volume
from phantoms import Phantom, grid, make_phantom, nifti

# A spine of blocks: 40 mm wide, 32 deep, 26 high, one every 36 mm.
AFFINE = np.array([[2.0, 0, 0, -60], [0, 2.0, 0, -50], [0, 0, 2.0, 300], [0, 0, 0, 1]])
SHAPE = (60, 50, 150)
NAMES = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")


def spine(skip: str = "", taller: dict[str, int] | None = None) -> np.ndarray:
    """Return blocks; ``taller``: level → voxels that its height has more or less."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for number, level in enumerate(NAMES):
        top = 140 - 18 * number
        if level != skip:
            low = top - 13 - (taller or {}).get(level, 0)
            labels[20:40, 17:33, low:top] = VERTEBRAE[level]
    return labels


def load(folder: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> Masks:
    nib.save(nifti(labels, affine), folder / "mask.nii.gz")
    return load_masks(folder / "mask.nii.gz", labels.shape, affine, scheme="verse", bodies="given")


def refusal(folder: Path, labels: np.ndarray, affine: np.ndarray = AFFINE) -> CaseRefused:
    with pytest.raises(CaseRefused) as caught:
        load(folder, labels, affine)
    return caught.value


@pytest.mark.parametrize("flip", list(product((1, -1), repeat=3)))
def test_measures_know_nothing_of_the_grid(flip: tuple[int, int, int]) -> None:
    spacing = (0.9, 1.3, 2.0)
    shape, affine, middle = grid(spacing, (90.0, 90.0, 240.0))
    a = np.radians(8)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turned = np.eye(4)
    turned[:3, :3] = turn @ affine[:3, :3] @ np.diag(flip)
    turned[:3, 3] = middle - turned[:3, :3] @ ((np.array(shape) - 1) / 2)
    made = make_phantom(shape, turned, middle)
    present = {v: np.argwhere(made.labels == v) for v in VERTEBRAE.values() if v > 17}
    for body in measure_bodies({v: at for v, at in present.items() if len(at)}, turned).values():
        # 21 mm high, 30 deep, 40 wide, elliptic; the spine's line is inclined by up to 8 degrees.
        assert body.height_mm == pytest.approx(21, abs=4.0)
        assert body.depth_mm == pytest.approx(30, abs=2.5)
        assert body.width_mm == pytest.approx(40, abs=2.5)
        assert body.volume_ml == pytest.approx(np.pi * 20 * 15 * 21 / 1000, rel=0.04)


def test_a_plausible_spine_passes_in_silence(tmp_path: Path) -> None:
    assert load(tmp_path, spine()).warnings == ()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (spine(taller={"L2": -12}), "L2 has a height of"),  # 2 mm of it are left
        (spine(skip="L2", taller={"L1": 18}), "L1 has a height of"),  # two under one label
    ],
    ids=["a plate", "two in one"],
)
def test_what_no_body_can_be_is_refused(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    if not (labels == VERTEBRAE["L2"]).any():
        for level in ("L3", "L4", "L5"):  # those below move up by one
            labels[labels == VERTEBRAE[level]] -= 1
    found = refusal(tmp_path, labels)
    if found.code == "level_missing":  # far smaller than its neighbours: an older rule
        assert "L2 has" in found.message
        return
    assert found.code in ("body_impossible", "levels_gap")
    if found.code == "body_impossible":
        assert words in found.message


def test_a_wrong_voxel_size_is_impossible(tmp_path: Path) -> None:
    found = refusal(tmp_path, spine(), np.diag([0.2, 0.2, 0.2, 1.0]))
    assert found.code == "body_impossible"
    assert "T12 has a height of" in found.message


def test_an_unusual_size_is_a_warning(tmp_path: Path) -> None:
    masks = load(tmp_path, spine(taller={"L3": -8}))
    assert [w.code for w in masks.warnings] == ["body_unusual"]
    assert "L3 has a height of" in masks.warnings[0].message
    assert f"(usual {1 / NEIGHBOUR_RATIO:.1f}" in masks.warnings[0].message


def test_a_cut_body_has_no_size(tmp_path: Path) -> None:
    labels = spine()
    labels[:, :, 119:] = 0  # of T12 three slices are left
    masks = load(tmp_path, labels[:, :, :119], AFFINE)
    assert masks.cut == ("T12",)
    assert [w.code for w in masks.warnings] == ["level_cut"]


def test_a_vertebra_without_label_between_two(tmp_path: Path) -> None:
    labels = spine(skip="L2")
    for level in ("L3", "L4", "L5"):
        labels[labels == VERTEBRAE[level]] -= 1
    labels[20:40, 17:33, 1:13] = VERTEBRAE["L5"]
    found = refusal(tmp_path, labels)
    assert (found.code, found.message.split(",")[0]) == (
        "levels_gap",
        "the centres of L1 and L2 are 72 mm apart",
    )


@pytest.mark.parametrize(("skip", "warned"), [("L5", True), ("", False), ("T11", False)])
def test_four_lumbar_vertebrae_above_the_sacrum(tmp_path: Path, skip: str, warned: bool) -> None:
    labels = spine(skip=skip)
    labels[15:45, 10:30, 2:16] = 26  # the sacrum
    masks = load(tmp_path, labels)
    codes = [w.code for w in masks.warnings]
    assert codes == (["lumbar_count"] if warned else [])
    assert 26 not in masks.labels
    if warned:
        assert "4 lumbar vertebrae are labelled above the sacrum (L1-L4)" in (
            masks.warnings[0].message
        )


# Along the spine

SPACING = (1.5, 2.0, 2.5)


def column(
    inside: float, endplate: float, disc: float, noise: float = 15.0
) -> tuple[np.ndarray, np.ndarray]:
    """Five bodies 26 mm high with endplates of 3 mm and discs of 8 mm, in a tilted column."""
    shape = (70, 60, 80)
    x, y, z = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(shape, SPACING, strict=True)), indexing="ij"
    )
    across = np.hypot(x - 52, y - 60 - 0.1 * (z - 100))
    hu = np.where(across < 24, 40.0, -90.0)
    labels = np.zeros(shape, dtype=np.uint8)
    for number, level in enumerate(LEVELS):
        off = np.abs(z - (168 - 34 * number))
        near = across < 19
        hu[near & (off < 17)] = disc
        hu[near & (off < 13)] = endplate
        hu[near & (off < 10)] = inside
        labels[near & (off < 13)] = VERTEBRAE[level]
    hu += np.random.default_rng(5).normal(0, noise, shape)
    return hu.astype(np.float32), labels


@pytest.mark.parametrize(
    ("inside", "endplate", "disc"),
    [(170, 260, 80), (110, 180, 85), (25, 110, 90), (60, 60, 90), (180, 180, 180)],
    ids=["healthy", "osteopenic", "osteoporotic", "inverted", "fused"],
)
def test_a_mask_in_its_place_passes(inside: float, endplate: float, disc: float) -> None:
    hu, labels = column(inside, endplate, disc)
    check_craniocaudal_shift(hu, labels, SPACING)
    check_craniocaudal_shift(hu, np.roll(labels, 1, axis=2), SPACING)


@pytest.mark.parametrize("voxels", [-6, -5, -4, 4, 5, 6])
@pytest.mark.parametrize("flip", [1, -1])
def test_a_shift_of_10_to_15_mm_is_refused(voxels: int, flip: int) -> None:
    hu, labels = column(150, 240, 80)
    moved = np.roll(labels, voxels, axis=2)
    with pytest.raises(CaseRefused) as caught:
        check_craniocaudal_shift(hu[:, :, ::flip], moved[:, :, ::flip], SPACING)
    assert caught.value.code == "mask_shifted"
    assert ("to the head" if voxels < 0 else "to the feet") in caught.value.message


def test_few_bodies_say_nothing() -> None:
    hu, labels = column(150, 240, 80)
    labels[labels > VERTEBRAE["L1"]] = 0
    check_craniocaudal_shift(hu, np.roll(labels, 5, axis=2), SPACING)
    check_craniocaudal_shift(hu, np.zeros_like(labels), SPACING)


@pytest.mark.parametrize("case_id", ["totalseg", "tcga"])
def test_real_masks_along_the_spine(
    request: pytest.FixtureRequest, real_data: Path, case_id: str
) -> None:
    if case_id == "tcga":
        image = request.getfixturevalue("tcga_series")
        mask = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    else:
        image = real_data / "totalseg_example" / "ct.nii.gz"
        mask = real_data / "totalseg_example" / "v1_masks"
    volume = open_volume(image)
    masks = load_masks(
        mask, volume.shape, volume.affine, scheme="verse" if case_id == "tcga" else None
    )
    labels = np.where((masks.labels > 18) & (masks.labels < 24), masks.labels, 0).astype(np.uint8)
    hu = volume.read()
    check_craniocaudal_shift(hu, labels, volume.spacing_mm)
    for voxels in (-5, 5):  # 15 mm
        with pytest.raises(CaseRefused, match="mask_shifted"):
            check_craniocaudal_shift(hu, np.roll(labels, voxels, axis=2), volume.spacing_mm)


def test_the_phantom_of_other_tests_passes(phantom: Phantom) -> None:
    spacing = tuple(np.linalg.norm(phantom.affine[:3, :3], axis=0).tolist())
    check_craniocaudal_shift(phantom.hu, phantom.labels, spacing)  # type: ignore[arg-type]
