from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from monai_vfx.case.mask.bodies import bodies_if_whole, derive_bodies
from monai_vfx.core.anatomy import LEVEL_NAMES, VERTEBRAE

VALUES = (18, 19, 20, 21, 22, 23, 24)
PITCH_MM = 34.0


def frames() -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Centre, cranial and posterior direction of seven levels on a lordotic curve, world mm."""
    found = {}
    for number, value in enumerate(VALUES):
        tilt = np.radians(15.0 - 5.0 * number)
        up = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
        back = np.array([0.0, -np.cos(tilt), -np.sin(tilt)])
        drop = PITCH_MM * (number - 3)
        centre = np.array([4.0, 20.0 - 0.0013 * drop**2, 500.0 - drop])
        found[value] = (centre, up, back)
    return found


def is_body(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Elliptic cylinder 44 x 32 x 26 mm whose posterior wall is flat at y = 14 mm."""
    return (np.hypot(x / 22, y / 16) <= 1) & (y <= 14) & (np.abs(z) <= 13)


def is_arch(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Pedicles, lamina with a canal 20 mm wide, spinous and transverse processes."""
    wide = np.abs(x)
    pedicle = (wide >= 10) & (wide <= 17) & (y > 10) & (y <= 30) & (z >= -3) & (z <= 11)
    lamina = (wide <= 17) & (y >= 30) & (y <= 36) & (z >= -12) & (z <= 6)
    sunk = z + 0.6 * (y - 30)  # spinous processes hang down
    spinous = (wide <= 3.5) & (y >= 30) & (y <= 64) & (sunk >= -18) & (sunk <= 0)
    transverse = (wide >= 12) & (wide <= 42) & (y >= 18) & (y <= 26) & (z >= 0) & (z <= 8)
    return pedicle | lamina | spinous | transverse


def rasterise(affine: np.ndarray, shape: tuple[int, int, int], whole: bool) -> np.ndarray:
    index = np.indices(shape).reshape(3, -1).T
    world = index @ affine[:3, :3].T + affine[:3, 3]
    labels = np.zeros(len(world), dtype=np.uint8)
    for value, (centre, up, back) in frames().items():
        offset = world - centre
        x, y, z = offset @ np.cross(up, back), offset @ back, offset @ up
        inside = is_body(x, y, z) | (is_arch(x, y, z) if whole else False)
        labels[inside & (labels == 0)] = value
    return labels.reshape(shape)


def oblique(degrees: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """A grid turned about all three axes, around the phantom's middle."""
    a, b = np.radians(degrees), np.radians(-0.7 * degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(spacing)
    return affine


def centred(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] = [4.0, 10.0, 500.0] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return moved


GRIDS = {
    "isotropic 2 mm": (np.diag([2.0, 2.0, 2.0, 1.0]), (50, 64, 140)),
    "thin pixels, 5 mm slices": (np.diag([1.2, 1.2, 5.0, 1.0]), (84, 106, 56)),
    "LPS-like flips, 3 mm": (np.diag([-1.5, -1.5, 3.0, 1.0]), (67, 85, 93)),
    "oblique 15 degrees": (oblique(15.0, (2.0, 1.6, 2.5)), (62, 90, 120)),
    "sagittal stack": (
        np.array([[0, 0, 3.0, 0], [-1.5, 0, 0, 0], [0, -1.5, 0, 0], [0, 0, 0, 1.0]]),
        (86, 187, 33),
    ),
}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("name", GRIDS)
def test_bodies_of_a_known_spine(name: str) -> None:
    affine, shape = GRIDS[name]
    affine = centred(affine, shape)
    whole = rasterise(affine, shape, whole=True)
    truth = rasterise(affine, shape, whole=False)
    assert bodies_if_whole(whole, affine) is not None
    assert bodies_if_whole(truth, affine) is None
    found = derive_bodies(whole, affine)
    for value in VALUES:
        a, b = found == value, truth == value
        apart = np.argwhere(a).mean(axis=0) - np.argwhere(b).mean(axis=0)
        assert dice(a, b) > 0.95, LEVEL_NAMES[value]
        assert np.linalg.norm(affine[:3, :3] @ apart) < 1.0, LEVEL_NAMES[value]


def test_turning_the_array_turns_the_result() -> None:
    affine, shape = GRIDS["LPS-like flips, 3 mm"]
    affine = centred(affine, shape)
    whole = rasterise(affine, shape, whole=True)
    turned = whole.transpose(2, 0, 1)[:, ::-1]
    to_old = np.zeros((4, 4))
    to_old[2, 0], to_old[0, 1], to_old[1, 2], to_old[3, 3] = 1, -1, 1, 1
    to_old[0, 3] = shape[0] - 1
    expected = derive_bodies(whole, affine).transpose(2, 0, 1)[:, ::-1]
    found = derive_bodies(np.ascontiguousarray(turned), affine @ to_old)
    assert dice(found > 0, expected > 0) > 0.995


def test_body_masks_hardly_change_and_other_labels_not_at_all() -> None:
    affine, shape = GRIDS["isotropic 2 mm"]
    affine = centred(affine, shape)
    bodies = rasterise(affine, shape, whole=False)
    bodies[2:4, 2:6, 10:50] = 101
    assert bodies_if_whole(bodies, affine) is None
    found = derive_bodies(bodies, affine)
    np.testing.assert_array_equal(found == 101, bodies == 101)
    for value in VALUES:
        assert dice(found == value, bodies == value) > 0.97


def test_levels_cut_by_the_field_of_view() -> None:
    affine, shape = GRIDS["isotropic 2 mm"]
    affine = centred(affine, shape)
    whole = rasterise(affine, shape, whole=True)
    truth = rasterise(affine, shape, whole=False)
    # The volume now ends near the centre of T12: T11 is out but for its spinous process.
    top = int(np.flatnonzero((truth == 19).any(axis=(0, 1))).mean()) + 4
    whole, truth = whole[..., :top], truth[..., :top]
    assert (whole == 18).any()
    assert not (truth == 18).any()
    found = derive_bodies(whole, affine)
    assert not (found == 18).any()
    assert dice(found == 19, truth == 19) > 0.85
    assert bodies_if_whole(whole, affine) is not None


def test_crushed_body_is_still_found() -> None:
    affine, shape = GRIDS["isotropic 2 mm"]
    affine = centred(affine, shape)
    whole = rasterise(affine, shape, whole=True)
    centre, up, back = frames()[21]
    world = np.argwhere(whole == 21) @ affine[:3, :3].T + affine[:3, 3] - centre
    lost = (world @ up > 0) & (world @ back < 14)  # the upper half of the body
    whole[tuple(np.argwhere(whole == 21)[lost].T)] = 0
    found = np.argwhere(derive_bodies(whole, affine) == 21) @ affine[:3, :3].T + affine[:3, 3]
    offset = found - centre
    assert (offset @ back).max() < 18.0
    assert len(found) * 8 == pytest.approx(44 * 32 * 13 * np.pi / 4, rel=0.15)  # mm3


def test_single_level_and_empty_map() -> None:
    affine, shape = GRIDS["isotropic 2 mm"]
    affine = centred(affine, shape)
    whole = rasterise(affine, shape, whole=True)
    truth = rasterise(affine, shape, whole=False)
    one = np.where(whole == 21, whole, 0).astype(np.uint8)
    assert dice(derive_bodies(one, affine) == 21, truth == 21) > 0.9
    nothing = np.zeros((4, 5, 6), dtype=np.uint8)
    assert not derive_bodies(nothing, np.eye(4)).any()
    assert bodies_if_whole(nothing, np.eye(4)) is None


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def whole_vertebrae(folder: Path, form: str) -> np.ndarray:
    ids = {f"T{n}": 44 - n for n in (11, 12)} | {f"L{n}": 32 - n for n in range(1, 6)}
    labels = np.zeros((122, 101, 112), dtype=np.uint8)
    for level, number in ids.items():
        if form == "v1_masks":
            inside = load(folder / form / f"vertebrae_{level}.nii.gz") > 0.5
        else:
            inside = load(folder / form) == number
        labels[inside] = VERTEBRAE[level]
    return labels


@pytest.mark.parametrize(
    "form", ["v1_masks", "seg_v2_117class_fast.nii.gz", "seg_v2_vertebrae.nii.gz"]
)
def test_real_case_against_a_body_segmentation(real_data: Path, form: str) -> None:
    folder = real_data / "totalseg_example"
    affine = nib.load(folder / "ct.nii.gz").affine
    body = load(folder / "seg_vertebrae_body.nii.gz") == 1
    whole = whole_vertebrae(folder, form)
    # The body map knows no levels: each of its voxels takes that of the nearest vertebra.
    labelled = np.argwhere(whole)
    distance, nearest = cKDTree(labelled).query(np.argwhere(body))
    reference = np.zeros_like(whole)
    near = distance <= 2
    reference[tuple(np.argwhere(body)[near].T)] = whole[tuple(labelled[nearest[near]].T)]
    found = derive_bodies(whole, affine)
    assert not (found == VERTEBRAE["T11"]).any()  # only its arch is in view
    for level in ("T12", "L1", "L2", "L3", "L4"):
        a, b = found == VERTEBRAE[level], reference == VERTEBRAE[level]
        apart = np.argwhere(a).mean(axis=0) - np.argwhere(b).mean(axis=0)
        assert dice(a, b) > 0.94, level
        assert np.linalg.norm(3.0 * apart) < 3.0, level
        assert ndimage.label(a)[1] == 1, level


def test_real_body_annotation_is_left_alone(real_data: Path) -> None:
    image = nib.load(real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz")
    labels = np.asarray(image.dataobj)[180:330, 180:380, 40:130]
    assert bodies_if_whole(labels, image.affine) is None
    derived = derive_bodies(labels, image.affine)
    for value in VALUES:
        assert dice(derived == value, labels == value) > 0.93
