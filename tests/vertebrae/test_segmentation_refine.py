"""Outlines, sizes, ribs and muscles, from patches with known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import segmentation_truth as truth
from nibabel.affines import apply_affine
from scipy import ndimage

from monai_vfx.core.anatomy import LEVEL_NAMES, MUSCLES, STRUCTURES, VERTEBRAE
from monai_vfx.vertebrae.segmentation import chain as spine
from monai_vfx.vertebrae.segmentation import refine
from monai_vfx.vertebrae.segmentation.grids import Probabilities
from monai_vfx.vertebrae.training.anatomy.body_plan import BodyPlan
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap


@dataclass(frozen=True)
class _Case:
    plan: BodyPlan
    anatomy: AnatomyMap
    probabilities: Probabilities
    chain: spine.SpineChain
    bodies: list[refine.RefinedBody]


@pytest.fixture(scope="module")
def case() -> _Case:
    plan = truth.draw_plan(5, wanted=lambda p: p.scoliosis > 12 and bool(p.fractured))
    anatomy = truth.paint(plan, highest="T10")
    probabilities = truth.locator_truth(anatomy)
    chain = spine.find_chain(probabilities)
    found = refine.refine_bodies(
        chain.bodies, truth.refiner_truth(anatomy), anatomy.tissues.shape, anatomy.affine
    )
    bodies = [body for body in found if body is not None]
    assert len(bodies) == len(found)
    return _Case(plan, anatomy, probabilities, chain, bodies)


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _true_names(case: _Case) -> list[str]:
    """The level that lies at each body's centre."""
    inverse = np.linalg.inv(case.anatomy.affine)
    values = []
    for body in case.bodies:
        i, j, k = np.rint(apply_affine(inverse, body.centre)).astype(int)
        values.append(LEVEL_NAMES[int(case.anatomy.vertebrae[i, j, k])])
    return values


def test_outlines_sizes_and_ribs(case: _Case) -> None:
    names = _true_names(case)
    assert names[-6:] == ["T12", "L1", "L2", "L3", "L4", "L5"]
    painted = refine.paint_bodies(case.bodies, case.anatomy.tissues.shape, case.anatomy.affine)
    for n, (name, body) in enumerate(zip(names, case.bodies, strict=True)):
        if refine.touches_edge(painted, n + 1):
            continue
        true = case.anatomy.vertebrae == VERTEBRAE[name]
        assert _dice(painted == n + 1, true) > 0.93, name
        millilitres = true.sum() * abs(np.linalg.det(case.anatomy.affine[:3, :3])) / 1000
        assert body.volume_ml == pytest.approx(millilitres, rel=0.05)
        height, depth, width = case.plan.sizes[case.plan.levels.index(name)]
        if name not in case.plan.fractured:  # the plan's sizes are those before a fracture
            assert body.height_mm == pytest.approx(height, rel=0.2)
            assert body.depth_mm == pytest.approx(depth, rel=0.15)
            assert body.width_mm == pytest.approx(width, rel=0.1)
        lengths = case.plan.ribs.get(name, (0.0, 0.0))
        for chance, length in zip(body.ribs, lengths, strict=True):
            assert chance is None or (chance > 0.9 if length > 15 else chance < 0.1)


def test_a_crushed_body_is_lower_than_its_neighbours(case: _Case) -> None:
    names = _true_names(case)
    for name in case.plan.fractured:
        if name in names[1:-1]:
            n = names.index(name)
            true = [
                (case.anatomy.vertebrae == VERTEBRAE[each]).sum()
                / np.prod(case.plan.sizes[case.plan.levels.index(each)][1:])
                for each in names[n - 1 : n + 2]
            ]
            found = [body.height_mm for body in case.bodies[n - 1 : n + 2]]
            assert (found[1] < np.mean(found[::2])) == (true[1] < np.mean(true[::2]))


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_any_grid_of_a_ct_gets_the_same_bodies(case: _Case, flip: tuple[int, int, int]) -> None:
    """Oblique, anisotropic and flipped: compared with the truth sampled on that grid."""
    turn = np.deg2rad(11)
    axes = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    shape = np.array((120, 130, 70))
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array((0.9, 0.8, 3.0))
    middle = case.bodies[len(case.bodies) // 2].centre
    affine[:3, 3] = middle - affine[:3, :3] @ ((shape - 1) / 2)
    flipped = affine @ np.diag([*flip, 1.0])
    flipped[:3, 3] += affine[:3, :3] @ [
        (n - 1) if f < 0 else 0 for f, n in zip(flip, shape, strict=True)
    ]
    painted = refine.paint_bodies(case.bodies, tuple(int(n) for n in shape), flipped)
    upright = painted[tuple(slice(None, None, f) for f in flip)]
    matrix = np.linalg.inv(case.anatomy.affine) @ affine
    true = ndimage.affine_transform(
        case.anatomy.vertebrae,
        matrix[:3, :3],
        offset=matrix[:3, 3],
        output_shape=tuple(shape),
        order=0,
        mode="grid-constant",
    )
    compared = 0
    for n, name in enumerate(_true_names(case)):
        wanted = true == VERTEBRAE[name]
        if wanted.sum() > 4000 and not refine.touches_edge(painted, n + 1):
            assert _dice(upright == n + 1, wanted) > 0.92
            compared += 1
    assert compared >= 3


def test_a_patch_beside_the_body_is_taken_again(case: _Case) -> None:
    shifted = [
        spine.ChainBody(each.centre + np.array([5.0, -4, 3]), each.up, each.height_mm, 1.0)
        for each in case.chain.bodies[-4:]
    ]
    found = refine.refine_bodies(
        shifted,
        truth.refiner_truth(case.anatomy),
        case.anatomy.tissues.shape,
        case.anatomy.affine,
    )
    assert len(found) == 4
    for one, other, start in zip(found, case.bodies[-4:], shifted, strict=True):
        assert one is not None
        assert np.linalg.norm(one.centre - other.centre) < 1.0
        middle = apply_affine(one.affine, (np.array(one.inside.shape) - 1) / 2)
        assert np.linalg.norm(middle - one.centre) < 1.0  # the patch moved to the body
        assert np.linalg.norm(middle - start.centre) > 5.0


def test_a_body_cut_in_two_comes_once_and_nothing_gives_none(case: _Case) -> None:
    last = case.chain.bodies[-2:]
    up = last[1].up
    split = [
        last[0],
        spine.ChainBody(last[1].centre + 5 * up, up, 10.0, 1.0),
        spine.ChainBody(last[1].centre - 5 * up, up, 10.0, 1.0),
        spine.ChainBody(last[1].centre + np.array([0, 0, 4000.0]), up, 25.0, 1.0),
    ]
    found = refine.refine_bodies(
        split, truth.refiner_truth(case.anatomy), case.anatomy.tissues.shape, case.anatomy.affine
    )
    assert [body is None for body in found] == [False, False, True]


def test_beyond_the_image_nothing_is_known_of_ribs(case: _Case) -> None:
    """A field of view as narrow as the spine shows no joint at one side."""
    names = _true_names(case)
    at = names.index("T12")
    predict = truth.refiner_truth(case.anatomy)
    edge = case.bodies[at].centre[0] + 10  # mm to the right of the middle
    affine = case.anatomy.affine
    shape = list(case.anatomy.tissues.shape)
    shape[0] = int((edge - affine[0, 3]) / affine[0, 0])
    right, left = refine.refine_bodies(
        case.chain.bodies[at : at + 1], predict, tuple(shape), affine
    )[0].ribs
    assert right is None
    assert left is not None


def test_muscles_lie_beside_the_bodies_and_not_on_them(case: _Case) -> None:
    shape, affine = case.anatomy.tissues.shape, case.anatomy.affine
    painted = refine.paint_bodies(case.bodies, shape, affine)
    labels = painted.copy()
    low, high = case.bodies[-1].centre[2], case.bodies[1].centre[2]
    refine.paint_muscles(labels, affine, case.probabilities, (low, high))
    assert np.array_equal(labels[painted > 0], painted[painted > 0])
    structures = truth.structures(case.anatomy)
    heights = affine[2, 3] + affine[2, 2] * np.arange(shape[2])
    inner = (heights > low + 6) & (heights < high - 6)
    for name, value in MUSCLES.items():
        found = (labels == value)[:, :, inner]
        assert _dice(found, (structures == STRUCTURES.index(name))[:, :, inner]) > 0.85
        assert not (labels == value)[:, :, (heights < low - 6) | (heights > high + 6)].any()
