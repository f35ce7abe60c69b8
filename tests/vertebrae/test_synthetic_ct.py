"""Synthetic CT from label maps: geometry, order of tissues, slices, shares, repeatability."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.spatial.transform import Rotation

from monai_vfx.core.anatomy import PATCH_STRUCTURES, STRUCTURES, VERTEBRAE
from monai_vfx.core.errors import CaseRefused
from monai_vfx.vertebrae.training.anatomy.attenuation import RANGES, draw_attenuation
from monai_vfx.vertebrae.training.anatomy.deformation import OUTSIDE, SampleAnatomyd
from monai_vfx.vertebrae.training.anatomy.grid_operators import (
    random_field,
    slab_kernel,
    slice_matrix,
)
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap
from monai_vfx.vertebrae.training.anatomy.real_label_map import real_anatomy
from monai_vfx.vertebrae.training.anatomy.synthetic_ct import (
    SoftTargetsd,
    TissuesToCTd,
    synthetic_ct,
)
from monai_vfx.vertebrae.training.anatomy.tissues import STRUCTURE_OF, Tissue

Array = npt.NDArray[Any]

L2, L3 = VERTEBRAE["L2"], VERTEBRAE["L3"]


def affine_of(kind: str) -> Array:
    """Map affines: along the axes, flipped and anisotropic with permuted axes, oblique."""
    affine = np.eye(4)
    if kind == "straight":
        affine[:3, :3] = np.diag([2.0, 2.0, 1.5])
    elif kind == "flipped":
        affine[:3, :3] = np.array([[0, -2.5, 0], [1.5, 0, 0], [0, 0, -2.0]])
    else:
        turn = Rotation.from_euler("xyz", [25, -15, 35], degrees=True).as_matrix()
        affine[:3, :3] = turn @ np.diag([-2.0, 1.5, 2.5])
    affine[:3, 3] = 17.0, -240.0, 900.0
    return affine


def item_of(tissues: Array, vertebrae: Array | None = None, affine: Array | None = None) -> dict:
    vertebrae = np.zeros_like(tissues) if vertebrae is None else vertebrae
    lies = torch.from_numpy(affine_of("straight") if affine is None else affine)
    maps = {"tissues": tissues, "vertebrae": vertebrae}
    return {k: MetaTensor(torch.from_numpy(v)[None], affine=lies) for k, v in maps.items()}


def still(**settings: Any) -> dict[str, Any]:
    """Settings of a sampling that moves and bends nothing, unless told."""
    none = {"shift_mm": (0, 0, 0), "rotation_deg": (0, 0, 0), "scale": (1, 1), "stretch": 0.0}
    return {**none, "elastic_mm": 0.0, "flip": 0.0, "cut": 0.0, "circle": 0.0, **settings}


def marked(affine: Array, points_mm: dict[Tissue, Array], shape: tuple[int, int, int]) -> Array:
    """A map of muscle with balls of 5 mm radius around world points."""
    world = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    tissues = np.full(shape, Tissue.MUSCLE, np.uint8)
    for tissue, point in points_mm.items():
        tissues[np.linalg.norm(world - point, axis=-1) < 5] = tissue
    return tissues


def centre_mm(labels: MetaTensor, value: int) -> Array:
    """World centre of a label by the map's own affine."""
    index = np.argwhere(labels[0].numpy() == value)
    assert len(index) > 20
    affine = np.asarray(labels.affine)
    return np.asarray(affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3])


@pytest.fixture(scope="module")
def spine() -> AnatomyMap:
    """Boxes of bodies and discs in muscle and fat, 2 x 2 x 1.5 mm."""
    tissues = np.full((80, 70, 140), Tissue.SUBCUTANEOUS_FAT, np.uint8)
    vertebrae = np.zeros_like(tissues)
    tissues[10:70, 10:60] = Tissue.MUSCLE
    tissues[30:50, 30:45, 10:130] = Tissue.DISC
    for number, start in ((L3, 30), (L2, 75)):
        box = np.s_[30:50, 30:45, start : start + 30]
        tissues[box] = Tissue.BODY_CORTEX
        vertebrae[box] = number
        tissues[31:49, 31:44, start + 1 : start + 29] = Tissue.BODY_TRABECULAR
    tissues[34:46, 20:30] = Tissue.CANAL
    tissues[36:44, 12:20, 20:120] = Tissue.POSTERIOR_CORTEX
    return AnatomyMap(tissues, vertebrae, affine_of("straight"))


# sampling


@pytest.mark.parametrize("kind", ["straight", "flipped", "oblique"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_marker_ends_where_the_affine_says(kind: str, seed: int) -> None:
    affine, shape = affine_of(kind), (60, 62, 64)
    centre = (affine @ [*(np.array(shape) - 1) / 2, 1])[:3]
    points = {
        Tissue.LIVER: centre + np.array([14, 6, -9]),
        Tissue.SPLEEN: centre + np.array([-11, -8, 12]),
    }
    sample = SampleAnatomyd(
        spacing_mm=(3, 3, 2), shape=(36, 36, 48), elastic_mm=0, cut=0, circle=0, shift_mm=(5, 5, 5)
    )
    sample.set_random_state(seed)
    sampled = sample(item_of(marked(affine, points, shape), affine=affine))
    for tissue, point in points.items():
        assert np.linalg.norm(centre_mm(sampled["tissues"], tissue) - point) < 0.7
    assert sampled["tissues"].shape == (1, 72, 72, 96)
    torch.testing.assert_close(sampled["tissues"].affine, sampled["vertebrae"].affine)


@pytest.mark.parametrize("kind", ["straight", "flipped", "oblique"])
def test_axes_of_the_box_are_right_front_and_up_whatever_the_file(kind: str) -> None:
    affine, shape = affine_of(kind), (60, 62, 64)
    centre = (affine @ [*(np.array(shape) - 1) / 2, 1])[:3]
    ways = np.eye(3) * 16
    points = dict(zip((Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY), centre + ways, strict=True))
    sample = SampleAnatomyd(spacing_mm=(2, 2, 2), shape=(28, 28, 28), prob=0.0)
    found = sample(item_of(marked(affine, points, shape), affine=affine))["tissues"][0].numpy()
    for axis, tissue in enumerate(points):
        offset = np.argwhere(found == tissue).mean(axis=0) - 27.5
        assert offset[axis] == pytest.approx(16, abs=0.7)  # in mm, as the fine grid's step is 1
        assert np.abs(np.delete(offset, axis)).max() < 0.7


def test_a_pose_puts_a_point_in_the_middle_and_turns_the_box() -> None:
    affine, shape = affine_of("flipped"), (60, 62, 64)
    middle = (affine @ [30.0, 25.0, 35.0, 1])[:3]
    axes = Rotation.from_euler("xyz", [20, 10, -30], degrees=True).as_matrix()
    points = {Tissue.LIVER: middle, Tissue.SPLEEN: middle + 15 * axes[:, 2]}
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = axes, middle
    item = {**item_of(marked(affine, points, shape), affine=affine), "pose": pose}
    sample = SampleAnatomyd(spacing_mm=(2, 2, 2), shape=(24, 24, 24), prob=0.0)
    found = sample(item)["tissues"][0].numpy()
    middle_index = np.argwhere(found == Tissue.LIVER).mean(axis=0)
    np.testing.assert_allclose(middle_index, [23.5] * 3, atol=0.6)
    above = np.argwhere(found == Tissue.SPLEEN).mean(axis=0) - middle_index
    np.testing.assert_allclose(above, [0, 0, 15], atol=0.7)


def test_flip_swaps_left_and_right_and_says_so_in_the_affine() -> None:
    affine, shape = affine_of("straight"), (60, 62, 64)
    centre = (affine @ [*(np.array(shape) - 1) / 2, 1])[:3]
    right = centre + np.array([20, 0, 0])
    item = item_of(marked(affine, {Tissue.LIVER: right}, shape), affine=affine)
    for flip in (0.0, 1.0):
        sample = SampleAnatomyd(spacing_mm=(2, 2, 2), shape=(36, 24, 24), **still(flip=flip))
        sampled = sample.set_random_state(0)(item)["tissues"]
        x = np.argwhere(sampled[0].numpy() == Tissue.LIVER)[:, 0].mean() - 35.5
        assert x == pytest.approx(-20 if flip else 20, abs=0.7)
        np.testing.assert_allclose(centre_mm(sampled, Tissue.LIVER), right, atol=0.7)


@pytest.mark.parametrize("seed", range(3))
def test_both_maps_are_deformed_alike(spine: AnatomyMap, seed: int) -> None:
    sample = SampleAnatomyd(shape=(40, 36, 60), elastic_mm=8.0, cut=0.5).set_random_state(seed)
    sampled = sample(item_of(spine.tissues, spine.vertebrae))
    bone = np.isin(sampled["tissues"].numpy(), (Tissue.BODY_CORTEX, Tissue.BODY_TRABECULAR))
    assert bone.any()
    np.testing.assert_array_equal(bone, sampled["vertebrae"].numpy() > 0)


def test_elastic_displacement_has_the_size_that_is_asked_for() -> None:
    # Columns of stripes: the shift of a stripe's edge is the displacement there.
    tissues = np.full((120, 60, 60), Tissue.MUSCLE, np.uint8)
    tissues[60:] = Tissue.LIVER
    sizes = []
    for seed in range(12):
        sample = SampleAnatomyd(spacing_mm=(2, 2, 2), shape=(48, 40, 28), **still(elastic_mm=6.0))
        sample.set_random_state(seed)
        edge = (sample(item_of(tissues))["tissues"][0].numpy() == Tissue.MUSCLE).sum(axis=0)
        sizes.append(np.std(edge - 48.0) + abs(np.mean(edge - 48.0)))
    assert 1.0 < np.mean(sizes) < 6.0
    assert np.ptp(sizes) > 0.5


def test_nothing_lies_outside_the_map_and_the_field_of_view() -> None:
    tissues = np.full((20, 20, 20), Tissue.MUSCLE, np.uint8)
    item = item_of(tissues, np.full_like(tissues, L2))
    sampled = SampleAnatomyd(spacing_mm=(4, 4, 3), shape=(16, 16, 16), prob=0.0)(item)
    seen = sampled["tissues"][0].numpy() == Tissue.MUSCLE
    assert seen.sum() == 20**3  # 40 x 40 x 30 mm in a box of 64 x 64 x 48 mm
    assert (sampled["tissues"][0].numpy()[~seen] == OUTSIDE).all()
    np.testing.assert_array_equal(sampled["vertebrae"][0].numpy() > 0, seen)
    cut = SampleAnatomyd(spacing_mm=(4, 4, 3), shape=(8, 8, 8), **still(cut=1.0))
    slices = (cut.set_random_state(3)(item)["tissues"][0].numpy() != OUTSIDE).any(axis=(0, 1))
    assert 0 < slices.sum() < 16
    assert np.abs(np.diff(slices.astype(int))).sum() == 1


def test_maps_that_do_not_belong_together_are_refused(spine: AnatomyMap) -> None:
    item = item_of(spine.tissues, spine.vertebrae)
    other = item_of(spine.tissues, affine=affine_of("oblique"))["vertebrae"]
    with pytest.raises(ValueError, match="one affine"):
        SampleAnatomyd()({**item, "vertebrae": other})
    with pytest.raises(ValueError, match="one shape"):
        SampleAnatomyd()({**item, "vertebrae": item["vertebrae"][:, :-1]})
    with pytest.raises(ValueError, match="whose affine"):
        SampleAnatomyd()({**item, "tissues": item["tissues"].as_tensor()})


# shares


@pytest.mark.parametrize("level", [None, L2, 0])
def test_shares_are_those_of_counting_one_by_one(spine: AnatomyMap, level: int | None) -> None:
    sample = SampleAnatomyd(shape=(20, 18, 40), spacing_mm=(6, 6, 4), cut=0.5).set_random_state(4)
    sampled = {**sample(item_of(spine.tissues, spine.vertebrae)), "level": level}
    names = STRUCTURES if level is None else PATCH_STRUCTURES
    shares = SoftTargetsd(level=None if level is None else "level")(sampled)["label"]
    assert shares.shape == (len(names), 20, 18, 40)
    torch.testing.assert_close(shares.sum(0).as_tensor(), torch.ones(20, 18, 40))

    fine = sampled["tissues"][0].numpy()
    numbers = sampled["vertebrae"][0].numpy()
    names_there = np.vectorize(lambda t: STRUCTURES[STRUCTURE_OF.get(t, 0)])(fine)
    if level is None:
        names_there[numbers > 0] = "body"
    else:
        names_there[numbers > 0] = "other_body"
        names_there[(numbers == level) & (numbers > 0)] = "this_body"
    for index, name in enumerate(names):
        expected = (names_there == name).reshape(20, 2, 18, 2, 40, 2).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(shares[index].numpy(), expected, atol=1e-6)
    # 0 stands for no vertebra: then none is this one.
    assert (float(shares[1].sum()) > 0) == (level != 0)


def test_metal_in_a_body_is_body(spine: AnatomyMap) -> None:
    tissues = spine.tissues.copy()
    tissues[38:42, 30:45, 85:90] = Tissue.METAL
    item = SampleAnatomyd(shape=(20, 18, 40), spacing_mm=(6, 6, 4), prob=0.0)(
        item_of(tissues, spine.vertebrae)
    )
    plain = SampleAnatomyd(shape=(20, 18, 40), spacing_mm=(6, 6, 4), prob=0.0)(
        item_of(spine.tissues, spine.vertebrae)
    )
    both = [SoftTargetsd()(each)["label"] for each in (item, plain)]
    torch.testing.assert_close(both[0], both[1])


def test_the_image_and_the_shares_lie_on_one_grid(spine: AnatomyMap) -> None:
    sample = SampleAnatomyd(shape=(20, 18, 40), spacing_mm=(6, 6, 4), prob=0.0)
    item = SoftTargetsd()(TissuesToCTd()(sample(item_of(spine.tissues, spine.vertebrae))))
    torch.testing.assert_close(item["image"].affine, item["label"].affine)
    np.testing.assert_allclose(np.diag(item["image"].affine)[:3], [6, 6, 4])
    fine, coarse = (np.asarray(item[key].affine) for key in ("tissues", "image"))
    np.testing.assert_allclose(fine @ [0.5, 0.5, 0.5, 1], coarse @ [0, 0, 0, 1])


# attenuation and scan


def test_every_tissue_has_its_range_and_outside_is_none() -> None:
    assert set(RANGES) == set(Tissue)
    assert OUTSIDE not in set(Tissue)
    assert max(Tissue) < OUTSIDE


def test_tissues_of_plausible_scans_are_ordered_as_on_ct() -> None:
    scans = [
        draw_attenuation(np.random.RandomState(seed)).mean.reshape(256, 64) for seed in range(300)
    ]

    def of(tissue: Tissue) -> Array:
        return np.array([scan[L2, tissue] for scan in scans])

    assert (of(Tissue.AIR) < of(Tissue.LUNG)).all()
    assert (of(Tissue.LUNG) < of(Tissue.SUBCUTANEOUS_FAT)).all()
    assert (of(Tissue.SUBCUTANEOUS_FAT) < of(Tissue.PSOAS)).all()
    assert (of(Tissue.BODY_CORTEX) > of(Tissue.DISC)).mean() > 0.99
    assert (of(Tissue.BODY_CORTEX) > of(Tissue.BODY_TRABECULAR)).mean() > 0.97
    # Mostly bone is brighter than the disc, but some scans of the osteoporotic show it darker.
    assert 0.75 < (of(Tissue.BODY_TRABECULAR) > of(Tissue.DISC)).mean() < 0.97
    assert 100 < np.median(of(Tissue.BODY_TRABECULAR)) < 200
    assert 60 < np.median(of(Tissue.DISC)) < 110
    assert 20 < np.median(of(Tissue.PSOAS)) < 75


def test_wild_scans_break_the_order_of_soft_tissues() -> None:
    plain, wild = (
        np.array(
            [
                draw_attenuation(np.random.RandomState(seed), share).mean[: OUTSIDE + 1]
                for seed in range(100)
            ]
        )
        for share in (0.0, 1.0)
    )
    for scans, least, most in ((plain, 0, 15), (wild, 50, 150)):
        assert least <= scans[:, Tissue.LIVER].std() - 15 <= most or scans is plain
    assert (wild[:, Tissue.SUBCUTANEOUS_FAT] > wild[:, Tissue.PSOAS]).mean() > 0.3
    around = np.max(wild[:, [Tissue.PSOAS, Tissue.ERECTOR_SPINAE, Tissue.CANAL]], axis=1)
    assert (wild[:, Tissue.POSTERIOR_CORTEX] > around).mean() > 0.8


def test_a_scan_shows_tissues_at_their_means(spine: AnatomyMap) -> None:
    sample = SampleAnatomyd(shape=(20, 18, 40), spacing_mm=(6, 6, 4), prob=0.0)
    sampled = sample(item_of(spine.tissues, spine.vertebrae))
    shares = SoftTargetsd()(sampled)["label"].numpy()
    for seed in range(4):
        scan = TissuesToCTd(wild=0.0, prob=0.0).set_random_state(seed)
        hu = scan(sampled)["image"][0].numpy()
        mean = scan._attenuation.mean.reshape(256, 64)
        disc = shares[STRUCTURES.index("disc")] > 0.99
        assert np.median(hu[disc]) == pytest.approx(mean[0, Tissue.DISC], abs=8)
        muscle = sampled["tissues"][0].numpy() == Tissue.MUSCLE
        muscle = muscle.reshape(20, 2, 18, 2, 40, 2).all(axis=(1, 3, 5))
        assert np.median(hu[muscle]) == pytest.approx(mean[0, Tissue.MUSCLE], abs=8)


def test_hu_stay_within_what_a_scanner_stores_and_outside_is_empty(spine: AnatomyMap) -> None:
    tissues = spine.tissues.copy()
    tissues[34:40, 32:40, 60:70] = Tissue.METAL
    for seed in range(6):
        sample = SampleAnatomyd(shape=(20, 18, 40), spacing_mm=(6, 6, 4), cut=1.0)
        scan = TissuesToCTd(wild=0.5, slice_mm=(1, 2), blur_mm=0.0, noise_hu=(1, 2), bias_hu=0)
        chain = Compose([sample, scan]).set_random_state(seed)
        hu = chain(item_of(tissues, spine.vertebrae))["image"]
        assert hu.dtype == torch.float32
        assert -1024 <= float(hu.min()) < -900
        assert float(hu.max()) <= 3071
        assert torch.isfinite(hu).all()


@pytest.mark.parametrize("noise", [4.0, 40.0])
def test_noise_has_the_sd_that_is_asked_for(noise: float) -> None:
    tissues = np.full((128, 96, 100), Tissue.BLOOD, np.uint8)
    found = []
    for seed in range(8):
        scan = TissuesToCTd(wild=0.0, noise_hu=(noise, noise), bias_hu=0.0, slice_mm=(1.5, 1.5))
        hu = scan.set_random_state(seed)(item_of(tissues))["image"][0].numpy()
        # Neighbours' differences leave out texture, which changes slowly.
        found.append(hu.std())
    assert np.mean(found) == pytest.approx(noise, rel=0.25, abs=3)


def edge_mm(profile: Array, step: float) -> float:
    """Width of an edge from 10 to 90 per cent, mm."""
    share = (profile - profile[0]) / (profile[-1] - profile[0])
    at = np.interp([0.1, 0.9], np.maximum.accumulate(share), np.arange(len(share)) * step)
    return float(at[1] - at[0])


def stepped(axis: int) -> Array:
    """Gas below, fluid above the middle of an axis."""
    tissues = np.full((48, 48, 48), Tissue.GAS, np.uint8)
    tissues[tuple(slice(24, None) if a == axis else slice(None) for a in range(3))] = Tissue.ASCITES
    return tissues


def thickness(slice_mm: float, axis: int, pose: Array | None = None) -> float:
    """Width of an edge across an axis, in mm, on images of 1 mm."""
    item = item_of(stepped(axis), affine=np.diag([0.5, 0.5, 0.5, 1.0]))
    scan = TissuesToCTd(
        wild=0.0, slice_mm=(slice_mm, slice_mm), blur_mm=0.0, noise_hu=(0.01, 0.01), bias_hu=0.0
    )
    posed = {} if pose is None else {"pose": pose}
    hu = scan.set_random_state(1)({**item, **posed})["image"][0].numpy()
    return edge_mm(np.moveaxis(hu, axis, 0).mean(axis=(1, 2)), 1.0)


def test_thick_slices_blur_along_z_only() -> None:
    thin, thick = thickness(1.0, 2), thickness(6.0, 2)
    assert thin < 2.5
    assert 4.0 < thick < 14.0  # slices of 6 mm, interpolated
    assert thickness(6.0, 0) < 2.0
    assert thickness(6.0, 1) < 2.0


def test_slices_of_a_posed_box_lie_across_the_scanners_z() -> None:
    """A box turned by 90 degrees about x is blurred along its own y, which is the scanner's z."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    settings = {"blur_mm": 0.0, "noise_hu": (0.01, 0.01), "bias_hu": 0.0, "wild": 0.0}
    widths = {}
    for axis in (1, 2):
        item = item_of(stepped(axis), affine=turn @ np.diag([0.5, 0.5, 0.5, 1.0]))
        scan = TissuesToCTd(slice_mm=(6, 6), **settings).set_random_state(1)
        hu = scan({**item, "pose": turn})["image"][0].numpy()
        widths[axis] = edge_mm(np.moveaxis(hu, axis, 0).mean(axis=(1, 2)), 1.0)
    assert widths[1] > 4.0
    assert widths[2] < 2.0
    assert 4.0 < thickness(6.0, 2, np.eye(4)) < 14.0


@pytest.mark.parametrize("phase", [0.0, 0.4])
def test_slice_profiles_keep_the_mean(phase: float) -> None:
    matrix = slice_matrix(60, 3.3, 4.1, phase)
    torch.testing.assert_close(matrix.sum(1), torch.ones(60))
    # A line stays one, away from the ends.
    line = torch.arange(60, dtype=torch.float32)
    torch.testing.assert_close((matrix @ line)[8:-8], line[8:-8], atol=0.05, rtol=0)
    kernel = slab_kernel(np.array([0.1, 0.3, 0.9]), 5.0, 5.0)
    assert float(kernel.sum()) == pytest.approx(1.0)
    assert all(n % 2 == 1 for n in kernel.shape)
    torch.testing.assert_close(kernel, kernel.flip(0, 1, 2), atol=1e-6, rtol=0)


def test_random_fields_have_mean_0_and_sd_1() -> None:
    generator = torch.Generator().manual_seed(5)
    fields = torch.stack([random_field((24, 20, 30), (3, 4, 5), generator) for _ in range(200)])
    assert float(fields.mean()) == pytest.approx(0, abs=0.05)
    assert float(fields.std()) == pytest.approx(1, abs=0.05)
    assert fields.std(0).min() > 0.8
    assert float((fields[:, 1:] - fields[:, :-1]).std()) < 0.6  # smooth


def chain(**settings: Any) -> Compose:
    return Compose(
        [
            SampleAnatomyd(shape=(32, 28, 48), **settings),
            TissuesToCTd(),
            SoftTargetsd(),
        ]
    )


def test_the_same_seed_makes_the_same_sample_and_another_another(spine: AnatomyMap) -> None:
    item = item_of(spine.tissues, spine.vertebrae)
    first, again, other = (chain().set_random_state(seed)(item) for seed in (7, 7, 8))
    assert torch.equal(first["image"].as_tensor(), again["image"].as_tensor())
    assert torch.equal(first["label"].as_tensor(), again["label"].as_tensor())
    assert not torch.equal(first["label"].as_tensor(), other["label"].as_tensor())
    assert not torch.equal(first["image"].as_tensor(), other["image"].as_tensor())
    going_on = chain().set_random_state(7)
    assert not torch.equal(going_on(item)["image"].as_tensor(), going_on(item)["image"].as_tensor())


def test_what_a_sample_costs(spine: AnatomyMap, capsys: pytest.CaptureFixture[str]) -> None:
    locator = Compose([SampleAnatomyd(), TissuesToCTd(), SoftTargetsd()]).set_random_state(1)
    item = item_of(spine.tissues, spine.vertebrae)
    locator(item)
    start = time.perf_counter()
    sample = locator(item)
    seconds = time.perf_counter() - start
    assert sample["image"].shape == (1, 64, 48, 104)
    with capsys.disabled():
        print(f"[a locator's sample: {seconds:.2f} s]", end=" ")


# whole scans


@pytest.mark.parametrize("kind", ["straight", "flipped", "oblique"])
def test_a_whole_scan_shows_the_anatomy_where_it_is(spine: AnatomyMap, kind: str) -> None:
    affine, shape = affine_of(kind), (90, 84, 92)
    inside = np.array([40.0, 37.0, 90.0])  # in L2, above the middle, off all symmetry
    affine[:3, 3] += (spine.affine @ [*inside, 1])[:3] - (affine @ [43, 44, 41, 1])[:3]
    hu, grid = synthetic_ct(
        spine, np.random.default_rng(2), affine=affine, shape=shape, noise_hu=(1, 1), bias_hu=0.0
    )
    np.testing.assert_allclose(grid, affine)
    assert hu.shape == shape
    assert hu.dtype == np.float32
    # Labels read through world space: cortex of the arch is the brightest, fat the darkest.
    index = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    back = np.linalg.inv(spine.affine)
    at = np.rint(index @ back[:3, :3].T + back[:3, 3]).astype(int)
    there = ((at >= 0) & (at < spine.tissues.shape)).all(axis=-1)
    truth = np.full(shape, OUTSIDE)
    truth[there] = spine.tissues[tuple(at[there].T)]
    means = [
        float(np.median(hu[truth == tissue]))
        for tissue in (OUTSIDE, Tissue.SUBCUTANEOUS_FAT, Tissue.MUSCLE, Tissue.POSTERIOR_CORTEX)
    ]
    assert means == sorted(means)
    assert means[0] < -900
    assert means[-1] > 200
    assert (hu[truth == Tissue.POSTERIOR_CORTEX] > means[2] + 60).mean() > 0.8


def test_a_whole_scan_covers_the_map_and_repeats(spine: AnatomyMap) -> None:
    scans = [
        synthetic_ct(spine, np.random.default_rng(seed), spacing_mm=(2, 2, 5)) for seed in (3, 3, 4)
    ]
    hu, affine = scans[0]
    assert hu.shape == (80, 70, 42)
    low = (affine @ [-0.5, -0.5, -0.5, 1])[:3]
    np.testing.assert_allclose(low, (spine.affine @ [-0.5, -0.5, -0.5, 1])[:3])
    np.testing.assert_array_equal(hu, scans[1][0])
    assert not np.array_equal(hu, scans[2][0])
    with pytest.raises(ValueError, match="together"):
        synthetic_ct(spine, np.random.default_rng(0), shape=(4, 4, 4))


# a real person's label map


def write(folder: Path, name: str, values: Array, affine: Array) -> None:
    nib.save(nib.Nifti1Image(values, affine), folder / name)


def example(folder: Path, affine: Array) -> Path:
    """A round trunk with a liver on the right and two bodies with a disc between."""
    x, y = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    trunk = np.broadcast_to(np.hypot(x - 20, y - 20)[..., None] < 16, (40, 40, 30))
    ct = np.where(trunk, -90, -1000).astype(np.int16)
    seg = np.zeros(ct.shape, np.uint8)
    parts = np.zeros(ct.shape, np.uint8)
    seg[25:31, 20:26, 10:20] = 5
    ct[25:31, 20:26, 10:20] = 55
    for number, start in ((29, 3), (30, 16)):  # L3 below, L2 above
        seg[15:24, 12:20, start : start + 10] = number
        parts[15:24, 12:20, start : start + 10] = 1
    parts[15:24, 12:20, 13:16] = 2
    ct[parts == 1] = 150
    ct[parts == 2] = 80
    for name, values in (
        ("ct", ct),
        ("seg_v2_117class_fast", seg),
        ("seg_vertebrae_body", parts),
    ):
        write(folder, f"{name}.nii.gz", values, affine)
    return folder


def test_a_label_map_is_read_with_its_sides_levels_and_tissues(tmp_path: Path) -> None:
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -60, 10, 100
    anatomy = real_anatomy(example(tmp_path, affine))
    np.testing.assert_allclose(np.diag(anatomy.affine), [2, 2, 1.5, 1])

    def centre(where: Array) -> Array:
        return np.asarray(
            anatomy.affine[:3, :3] @ np.argwhere(where).mean(axis=0) + anatomy.affine[:3, 3]
        )

    np.testing.assert_allclose(
        centre(anatomy.tissues == Tissue.LIVER),
        affine[:3, 3] + 3 * np.array([27.5, 22.5, 14.5]),
        atol=1,
    )
    for level, middle in ((L3, 7.5), (L2, 20.5)):
        where = affine[:3, 3] + 3 * np.array([19, 15.5, middle])
        np.testing.assert_allclose(centre(anatomy.vertebrae == level), where, atol=1)
        volume = (anatomy.vertebrae == level).sum() * 6 / (9 * 8 * 10 * 27)
        assert volume == pytest.approx(1, abs=0.15)
    disc = centre(anatomy.tissues == Tissue.DISC)
    np.testing.assert_allclose(disc, affine[:3, 3] + 3 * np.array([19, 15.5, 14]), atol=1)
    bone = np.isin(anatomy.tissues, (Tissue.BODY_CORTEX, Tissue.BODY_TRABECULAR))
    np.testing.assert_array_equal(bone, anatomy.vertebrae > 0)
    assert {Tissue.AIR, Tissue.SKIN, Tissue.SUBCUTANEOUS_FAT} <= set(np.unique(anatomy.tissues))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = example(tmp_path, np.diag([3.0, 3.0, 3.0, 1.0]))
    write(folder, "seg_vertebrae_body.nii.gz", np.zeros((40, 40, 30), np.uint8), np.eye(4))
    with pytest.raises(CaseRefused) as refused:
        real_anatomy(folder)
    assert refused.value.code == "mask_grid_mismatch"
    (folder / "seg_vertebrae_body.nii.gz").unlink()
    with pytest.raises(CaseRefused) as refused:
        real_anatomy(folder)
    assert refused.value.code == "mask_unreadable"
    with pytest.raises(CaseRefused, match="R, A and S"):
        real_anatomy(example(folder, np.diag([-3.0, 3.0, 3.0, 1.0])))


def test_the_real_example_has_its_levels_in_order(real_data: Path) -> None:
    anatomy = real_anatomy(real_data / "totalseg_example")
    heights = [
        np.argwhere(anatomy.vertebrae == VERTEBRAE[name])[:, 2].mean() * 1.5
        for name in ("L5", "L4", "L3", "L2", "L1", "T12")
    ]
    assert all(25 < step < 45 for step in np.diff(heights)[:-1])
    right = np.argwhere(anatomy.tissues == Tissue.LIVER)[:, 0].mean()
    left = np.argwhere(anatomy.tissues == Tissue.SPLEEN)[:, 0].mean()
    assert right > left + 40  # x grows to the right
    millilitres = (anatomy.vertebrae == VERTEBRAE["L3"]).sum() * 6e-3
    assert 25 < millilitres < 70
    sacrum = np.argwhere(anatomy.tissues == Tissue.SACRUM_TRABECULAR)[:, 2].mean() * 1.5
    assert sacrum < heights[0] - 20
