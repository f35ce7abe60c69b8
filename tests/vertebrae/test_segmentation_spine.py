"""The spine's curve and the cutting of its bodies, on anatomies with known truth."""

from __future__ import annotations

import numpy as np
import pytest
import segmentation_truth as truth
from scipy import ndimage

from monai_vfx.core.anatomy import STRUCTURES, VERTEBRAE
from monai_vfx.core.errors import CaseRefused
from monai_vfx.vertebrae.segmentation import chain as spine
from monai_vfx.vertebrae.segmentation.grids import Probabilities
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap

BODY, DISC, SACRUM = (STRUCTURES.index(name) for name in ("body", "disc", "sacrum"))


@pytest.fixture(scope="module")
def anatomy() -> AnatomyMap:
    """A person with a scoliosis and a fracture."""
    return truth.paint(
        truth.draw_plan(5, wanted=lambda plan: plan.scoliosis > 15 and bool(plan.fractured))
    )


@pytest.fixture(scope="module")
def probabilities(anatomy: AnatomyMap) -> Probabilities:
    return truth.locator_truth(anatomy)


def _check(chain: spine.SpineChain, anatomy: AnatomyMap, error_mm: float) -> None:
    """Each whole body is found once, in order, and nothing else."""
    known = truth.centroids(anatomy)
    nearest = []
    for body in chain.bodies:
        apart = {value: np.linalg.norm(body.centre - at) for value, at in known.items()}
        best = min(apart, key=lambda value: apart[value])
        if apart[best] < error_mm:
            nearest.append(best)
    assert nearest == sorted(known)
    assert len(chain.bodies) <= len(known) + 1  # one may be cut by the box


def test_every_body_is_found_once(anatomy: AnatomyMap, probabilities: Probabilities) -> None:
    chain = spine.find_chain(probabilities)
    _check(chain, anatomy, 7.0)
    assert chain.sacrum > 0.95
    for body in chain.bodies:
        assert np.linalg.norm(body.up) == pytest.approx(1)
        assert body.up[2] > 0.5


def test_directions_follow_the_spine(anatomy: AnatomyMap, probabilities: Probabilities) -> None:
    chain = spine.find_chain(probabilities)
    centres = np.array([at for _, at in sorted(truth.centroids(anatomy).items())])
    for before, at, after in zip(centres, centres[1:], centres[2:], strict=False):
        body = min(chain.bodies, key=lambda each: float(np.linalg.norm(each.centre - at)))
        along = before - after
        assert body.up @ along / np.linalg.norm(along) > np.cos(np.deg2rad(15))


def test_the_curve_is_even_and_starts_at_the_head(probabilities: Probabilities) -> None:
    curve = spine.find_curve(probabilities)
    steps = np.linalg.norm(np.diff(curve.points, axis=0), axis=1)
    assert np.allclose(steps, spine.STEP_MM, atol=0.05)
    assert (np.diff(curve.points[:, 2]) < 0).all()
    seen = spine.profile(probabilities, curve)
    assert np.allclose(seen.sum(axis=0), 1, atol=1e-3)


def test_left_and_right_are_alike(anatomy: AnatomyMap, probabilities: Probabilities) -> None:
    """The mirrored spine gives the mirrored chain."""
    affine = probabilities.affine.copy()
    size = probabilities.values.shape[1]
    affine[0, 3] = -(affine[0, 3] + affine[0, 0] * (size - 1))
    mirrored = Probabilities(np.ascontiguousarray(probabilities.values[:, ::-1]), affine)
    here, there = spine.find_chain(probabilities), spine.find_chain(mirrored)
    assert len(here.bodies) == len(there.bodies)
    for one, other in zip(here.bodies, there.bodies, strict=True):
        assert np.linalg.norm(one.centre - other.centre * [-1, 1, 1]) < 2


def test_a_lost_vertebra_is_bridged(anatomy: AnatomyMap, probabilities: Probabilities) -> None:
    """Metal may blind the network for a whole level: its neighbours are still counted right."""
    at = truth.centroids(anatomy)[VERTEBRAE["L2"]]
    index = (at - probabilities.affine[:3, 3]) / np.diag(probabilities.affine)[:3]
    values = probabilities.values.copy()
    low, high = int(index[2]) - 4, int(index[2]) + 5
    values[:, :, :, low:high] = 0.02
    values[0, :, :, low:high] = 0.86
    _check(spine.find_chain(Probabilities(values, probabilities.affine)), anatomy, 10.0)


def test_a_fused_disc_still_parts_two_bodies(
    anatomy: AnatomyMap, probabilities: Probabilities
) -> None:
    known = truth.centroids(anatomy)
    middle = (known[VERTEBRAE["L1"]] + known[VERTEBRAE["L2"]]) / 2
    index = (middle - probabilities.affine[:3, 3]) / np.diag(probabilities.affine)[:3]
    values = probabilities.values.copy()
    around = (slice(None), slice(None), slice(int(index[2]) - 4, int(index[2]) + 5))
    values[BODY][around] += values[DISC][around]
    values[DISC][around] = 0
    _check(spine.find_chain(Probabilities(values, probabilities.affine)), anatomy, 10.0)


def test_errors_all_over_are_borne(anatomy: AnatomyMap, probabilities: Probabilities) -> None:
    rng = np.random.default_rng(8)
    noise = ndimage.gaussian_filter(rng.normal(size=probabilities.values.shape), (0, 1.5, 1.5, 1.5))
    logits = np.log(probabilities.values + 0.02) + 0.8 * noise / noise.std()
    values = np.exp(logits) / np.exp(logits).sum(axis=0)
    chain = spine.find_chain(Probabilities(values.astype(np.float32), probabilities.affine))
    known = truth.centroids(anatomy)
    lumbar = [known[VERTEBRAE[f"L{n}"]] for n in range(1, 6)]
    found = [body.centre for body in chain.bodies[-5:]]
    assert np.linalg.norm(np.array(found) - lumbar, axis=1).max() < 10
    assert chain.sacrum > 0.6


def test_no_sacrum_where_there_is_none(probabilities: Probabilities, anatomy: AnatomyMap) -> None:
    at = truth.centroids(anatomy)[VERTEBRAE["L4"]]
    cut = int((at[2] - probabilities.affine[2, 3]) / probabilities.affine[2, 2])
    affine = probabilities.affine.copy()
    affine[:3, 3] += affine[:3, 2] * cut
    chain = spine.find_chain(Probabilities(probabilities.values[..., cut:], affine))
    assert chain.sacrum < 0.05


@pytest.mark.parametrize(
    "kind", ["nothing", "noise", "sacrum alone", "two bodies", "a speck beside"]
)
def test_no_spine_no_chain(kind: str, probabilities: Probabilities, anatomy: AnatomyMap) -> None:
    values = np.zeros((len(STRUCTURES), 40, 40, 60), dtype=np.float32)
    if kind == "noise":
        values[:] = np.random.default_rng(2).uniform(size=values.shape)
        values[0] += 2
    if kind == "sacrum alone":
        values[SACRUM, 15:25, 15:25, 10:45] = 1
    if kind == "a speck beside":  # more evidence at one place than along the best path
        values[BODY, 5:10, 5:10, 30:33] = 1
        values[BODY, 30:36, 30:36] = 0.18
    if kind == "two bodies":
        values[BODY, 15:25, 15:25, 20:29] = 1
        values[DISC, 15:25, 15:25, 29:31] = 1
        values[BODY, 15:25, 15:25, 31:40] = 1
    values[0] += 1e-3 + np.clip(1 - values.sum(axis=0), 0, 1)
    values /= values.sum(axis=0)
    with pytest.raises(CaseRefused) as refused:
        spine.find_chain(Probabilities(values, np.diag([4.0, 4.0, 3.0, 1.0])))
    assert refused.value.code == "spine_not_found"


def _profile(pieces: list[tuple[str, int]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return a profile of body, disc, sacrum and nothing, and where its bodies are."""
    rows = ("body", "disc", "sacrum", "nothing")
    columns = [rows.index(name) for name, length in pieces for _ in range(length)]
    seen = np.full((4, len(columns)), 0.05)
    seen[columns, np.arange(len(columns))] = 0.85
    ends = np.cumsum([length for _, length in pieces])
    bodies = [
        (int(end) - length, int(end))
        for (name, length), end in zip(pieces, ends, strict=True)
        if name == "body"
    ]
    return seen, bodies


def test_a_known_profile_is_cut_where_it_should_be() -> None:
    pieces = [("nothing", 9), ("body", 21), ("disc", 4), ("body", 24), ("disc", 6), ("body", 9)]
    pieces += [("disc", 9), ("body", 28), ("disc", 11), ("body", 27), ("disc", 8), ("sacrum", 40)]
    seen, bodies = _profile(pieces)
    found, sacrum = spine.cut_profile(seen)
    assert found == bodies  # the third is crushed to 9 mm
    assert sacrum == sum(length for _, length in pieces[:-1])
    seen, bodies = _profile([*pieces[:-2], ("nothing", 14)])
    assert spine.cut_profile(seen) == (bodies, None)
    seen, bodies = _profile(pieces[1:-1])  # begins in a body, ends in a disc
    assert spine.cut_profile(seen) == (bodies, None)


def test_nothing_is_cut_from_nothing() -> None:
    seen, _ = _profile([("nothing", 90)])
    assert spine.cut_profile(seen) == ([], None)
    seen, _ = _profile([("nothing", 5)])
    assert spine.cut_profile(seen) == ([], None)


def _score(seen: np.ndarray, pieces: list[tuple[int, int]]) -> float:
    """Score a chain that ends in nothing by the model's own words, without a programme."""
    logs = np.log((seen + 0.05) / 1.2)
    total, at, last = 0.0, 0, None
    for start, stop in pieces:
        height = stop - start
        if last is None:
            total += logs[3, at:start].sum()
        else:
            gap = start - at
            total += logs[1, at:start].sum() - min(((gap - 7) / 4) ** 2 / 2, 3)
            mean = (height + last) / 2
            total -= min(((height - last) / (0.1 * mean + 1)) ** 2 / 2, 5)
        total += logs[0, start:stop].sum() - min(((height - 26) / 7) ** 2 / 2, 3)
        at, last = stop, height
    return float(total + logs[3, at:].sum())


@pytest.mark.parametrize("seed", range(4))
def test_no_other_cut_is_more_likely(seed: int) -> None:
    """On a noisy profile, many cuts near the best one are all worse."""
    rng = np.random.default_rng(seed)
    pieces = [("nothing", 6), ("body", 24), ("disc", 6), ("body", 26), ("disc", 8), ("body", 27)]
    seen, bodies = _profile([*pieces, ("nothing", 9)])
    seen = np.exp(np.log(seen) + rng.normal(0, 1.0, seen.shape))
    seen /= seen.sum(axis=0)
    found, sacrum = spine.cut_profile(seen)
    assert sacrum is None
    assert len(found) == len(bodies)
    best = _score(seen, found)
    for _ in range(500):
        moved = np.array(found) + rng.integers(-2, 3, (len(found), 2))
        heights = moved[:, 1] - moved[:, 0]
        gaps = moved[1:, 0] - moved[:-1, 1]
        allowed = heights.min() >= 8 and heights.max() <= 42 and gaps.min() >= 1
        if allowed and moved.min() >= 0 and moved.max() <= seen.shape[1]:
            assert _score(seen, [(int(a), int(b)) for a, b in moved]) <= best + 1e-9
