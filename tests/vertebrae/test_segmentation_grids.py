"""The vertebra segmentation's grids: positions in the world, whatever the axes of the file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

from monai_vfx.io.volume import open_volume
from monai_vfx.vertebrae.segmentation import grids

SLOPE = np.array([1.5, -0.8, 0.6])  # HU per mm of the world


def _ramp(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values that are linear in the world: every mean and interpolation gives them exactly."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    return (index @ affine[:3, :3].T + affine[:3, 3]) @ SLOPE


def _turned(degrees: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _affine(spacing: tuple[float, float, float], degrees: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = _turned(degrees) * np.array(spacing)
    affine[:3, 3] = (-60.0, -50.0, -70.0)
    return affine


def _write(folder: Path, values: np.ndarray, affine: np.ndarray, codes: str = "RAS") -> Path:
    """Write a CT, its axes turned and flipped to ``codes`` of the array's own."""
    turn = axcodes2ornt(codes)
    # axcodes2ornt: file axis → world axis; apply_orientation wants the inverse.
    back = np.empty_like(turn)
    for file_axis, (axis, flip) in enumerate(turn):
        back[int(axis)] = (file_axis, flip)
    data = apply_orientation(values.astype(np.float32), back)
    image = nib.Nifti1Image(data, affine @ inv_ornt_aff(back, values.shape))
    image.set_qform(None)
    image.set_sform(image.affine, 1)
    path = folder / f"{codes}.nii"
    nib.save(image, path)
    return path


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 5.0), (0.9, 0.8, 2.5), (0.6, 0.6, 0.6)])
@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (12.0, -8.0, 20.0)])
def test_a_world_ramp_stays_where_it_is(
    tmp_path: Path, spacing: tuple[float, float, float], degrees: tuple[float, float, float]
) -> None:
    shape = tuple(int(110 / step) for step in spacing)
    affine = _affine(spacing, degrees)
    volume = open_volume(_write(tmp_path, _ramp(affine, shape), affine))
    located = grids.locator_image(grids.read_image(volume))
    expected = _ramp(located.affine, located.values.shape)
    assert np.allclose(np.linalg.norm(located.affine[:3, :3], axis=0), (4, 4, 3))
    assert np.array_equal(located.affine[:3, :3], np.diag((4.0, 4.0, 3.0)))
    # Compare where the CT reaches and a whole voxel is inside; whole numbers are kept.
    to_ct = np.linalg.inv(affine) @ located.affine
    index = np.stack(np.meshgrid(*(np.arange(n) for n in expected.shape), indexing="ij"), -1)
    place = index @ to_ct[:3, :3].T + to_ct[:3, 3]
    edge = 5.0 / np.array(spacing)
    inside = ((place > edge) & (place < np.array(shape) - 1 - edge)).all(axis=-1)
    assert inside.sum() > 1000
    assert np.abs(located.values - expected)[inside].max() < 0.8
    beyond = np.maximum(2.0 / np.array(spacing), 0.6)  # the last block of voxels may stick out
    far = ((place < -beyond) | (place > np.array(shape) - 1 + beyond)).any(axis=-1)
    assert far.sum() > 1000
    assert (located.values[far] == grids.MIN_HU).all()


@pytest.mark.parametrize("codes", ["LPS", "ASR", "SLP", "PIR"])
def test_the_order_of_the_files_axes_changes_nothing(tmp_path: Path, codes: str) -> None:
    rng = np.random.default_rng(3)
    affine = _affine((0.55, 0.7, 2.2), (6.0, 4.0, -9.0))
    values = np.rint(rng.normal(40, 80, (121, 95, 33)))
    upright = grids.locator_image(grids.read_image(open_volume(_write(tmp_path, values, affine))))
    path = _write(tmp_path, values, affine, codes)
    assert "".join(nib.aff2axcodes(nib.load(path).affine)) == codes
    turned = grids.locator_image(grids.read_image(open_volume(path)))
    assert turned.values.shape == upright.values.shape
    assert np.allclose(turned.affine, upright.affine, atol=1e-3)
    # Directions lose their last digits in a file: hence not equal to the bit.
    assert np.abs(turned.values - upright.values).max() < 2.0


def test_slabs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    affine = _affine((0.8, 0.8, 0.5), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(5)
    values = np.rint(rng.normal(0, 200, (60, 50, 77)))
    path = _write(tmp_path, values, affine, "LAI")
    at_once = grids.read_image(open_volume(path))
    monkeypatch.setattr(grids, "_SLAB_VOXELS", 60 * 50 * 9)
    in_slabs = grids.read_image(open_volume(path))
    assert np.array_equal(at_once.values, in_slabs.values)
    assert at_once.values.shape == (60, 50, 39)
    # Independent: the mean of two slices from the feet up, clipped to CT's range.
    expected = np.rint((values[:, :, 0] + values[:, :, 1]) / 2)
    assert np.abs(at_once.values[:, :, 0] - expected).max() <= 1
    assert np.allclose(at_once.affine[:3, 3], affine[:3, 3] + [0, 0, 0.25])


def test_fine_detail_is_averaged_not_aliased() -> None:
    """A pattern of one voxel's width must vanish, not appear as broad stripes."""
    values = np.zeros((200, 200, 200), dtype=np.int16)
    values[::2] = 1000
    image = grids.Image(values, np.diag((1.0, 1.0, 1.0, 1.0)))
    located = grids.locator_image(image).values
    inner = located[8:-8, 8:-8, 8:-8]
    assert np.abs(inner - 500).max() < 1


def test_a_patch_lies_in_the_vertebras_frame() -> None:
    centre, up = np.array([3.0, -40.0, 12.0]), np.array([0.1, 0.6, 0.8])
    affine = grids.patch_affine(centre, up)
    axes = affine[:3, :3] / grids.PATCH_SPACING_MM
    assert np.allclose(axes.T @ axes, np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1)
    assert np.allclose(axes[:, 2], up / np.linalg.norm(up))
    assert axes[0, 0] > 0.99  # x: the patient's right
    assert axes[1, 1] > 0.7  # y: to the front
    middle = affine @ [*((np.array(grids.PATCH_SHAPE) - 1) / 2), 1]
    assert np.allclose(middle[:3], centre)
    shape = (150, 150, 120)
    source = np.diag((0.9, 1.1, 1.4, 1.0))
    source[:3, 3] = (-65, -120, -70)
    image = grids.Image(np.rint(_ramp(source, shape) * 10), source)
    found = grids.sample_means(image, grids.PATCH_SHAPE, affine)
    expected = _ramp(affine, grids.PATCH_SHAPE) * 10
    inside = found != grids.MIN_HU
    assert inside.mean() > 0.9
    inner = inside[2:-2, 2:-2, 2:-2]
    assert np.abs(found - expected)[2:-2, 2:-2, 2:-2][inner].max() < 10


def test_the_body_box_leaves_air_out() -> None:
    hu = np.full((100, 90, 40), -1000.0)
    hu[20:70, 30:60, 5:] = 40.0
    hu[90, 3, 7] = 500.0  # a speck of noise
    assert grids.body_box(hu) == (slice(20, 70), slice(30, 60), slice(5, 40))
    assert grids.body_box(np.full((4, 5, 6), -1000.0)) == (slice(0, 4), slice(0, 5), slice(0, 6))


def test_interpolation_back_onto_the_ct() -> None:
    affine = _affine((2.0, 2.0, 2.0), (10.0, 20.0, -15.0))
    patch = _ramp(affine, (40, 40, 40)).astype(np.float32)
    target = np.diag((-0.8, 0.7, 2.5, 1.0))  # flipped and anisotropic
    centre = affine[:3, :3] @ [20, 20, 20] + affine[:3, 3]
    target[:3, 3] = centre + np.array([8.0, -7.0, -10.0])
    box = (slice(2, 18), slice(1, 19), slice(1, 7))
    found = grids.on_grid(patch, affine, box, target)
    expected = _ramp(target, (20, 20, 10))[box]
    assert np.abs(found - expected).max() < 1e-2
    points = np.array([[*centre], [1e4, 0, 0]])
    values = grids.sample_at(patch, affine, points, outside=-7.0)
    assert values == pytest.approx([centre @ SLOPE, -7.0], abs=1e-3)
    around = grids.box_around(centre + np.array([[-3.0, -3, -3], [3, 3, 3]]), target, (20, 20, 10))
    assert around is not None
    low, high = ([side.start for side in around], [side.stop - 1 for side in around])
    ends = np.array([low, high]) @ target[:3, :3].T + target[:3, 3]
    assert (ends.min(axis=0) <= centre - 3).all()
    assert (ends.max(axis=0) >= centre + 3).all()
    assert grids.box_around(np.array([[1e4, 0, 0]]), target, (20, 20, 10)) is None
