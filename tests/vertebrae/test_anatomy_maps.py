"""Random bodies and their label maps: facts and pictures agree, wherever the box lies."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from monai_vfx.core.anatomy import STRUCTURES
from monai_vfx.vertebrae.training.anatomy.body_plan import (
    BodyPlan,
    draw_body_plan,
    draw_counts,
    draw_ribs,
    paint_label_map,
)
from monai_vfx.vertebrae.training.anatomy.findings import draw_findings
from monai_vfx.vertebrae.training.anatomy.label_map import (
    AnatomyMap,
    Blob,
    Frame,
    Painter,
    Rod,
    Solid,
)
from monai_vfx.vertebrae.training.anatomy.skeleton import LEVEL_NUMBERS, level_names, rotation
from monai_vfx.vertebrae.training.anatomy.tissues import STRUCTURE_OF, Tissue

Mask = npt.NDArray[np.bool_]
BONE = ("BODY", "POSTERIOR", "SACRUM", "RIB", "PELVIS", "LIMB")
LOW, HIGH = (-144.0, -129.0, -168.0), (144.0, 120.0, 150.0)
SPACING = (2.4, 3.0, 2.0)
LUMBAR = ("T11", "T12", "L1", "L2", "L3")


def plan_of(seed: int, *, variants: bool = False) -> BodyPlan:
    return draw_body_plan(np.random.default_rng(seed), variants=variants)


def fractured(kind: str, levels: Sequence[str] = LUMBAR) -> BodyPlan:
    """Draw the first person with such a fracture."""
    names = level_names(12, 5)
    for seed in range(1000):
        kinds = draw_findings(np.random.default_rng(seed), names).kinds
        if len(kinds) == 1 and any(kinds.get(level) == kind for level in levels):
            plan = plan_of(seed)
            assert plan.fractured == kinds
            return plan
    raise AssertionError(kind)


@pytest.fixture(scope="module")
def plan() -> BodyPlan:
    return plan_of(8)


@pytest.fixture(scope="module")
def whole(plan: BodyPlan) -> AnatomyMap:
    return paint_label_map(plan, LOW, HIGH, SPACING)


def centre(anatomy: AnatomyMap, mask: Mask) -> npt.NDArray[np.float64]:
    index = np.argwhere(mask).mean(axis=0)
    return np.asarray(anatomy.affine[:3, :3] @ index + anatomy.affine[:3, 3])


def tissue(anatomy: AnatomyMap, *names: str) -> Mask:
    wanted = [t for t in Tissue if any(t.name.startswith(name) for name in names)]
    return np.isin(anatomy.tissues, wanted)


def inside(anatomy: AnatomyMap, level: str) -> bool:
    """Whether the whole body lies in the box."""
    mask = anatomy.vertebrae == LEVEL_NUMBERS[level]
    faces = [np.take(mask, end, axis) for axis in range(3) for end in (0, -1)]
    return bool(mask.any()) and not any(face.any() for face in faces)


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [("wedge", (2.0, 2.0, 1.5)), ("biconcave", (4.0, 4.0, 3.0)), ("crush", (1.3, 2.5, 3.0))],
)
def test_bodies_lie_where_the_plan_says(kind: str, spacing: tuple[float, float, float]) -> None:
    plan = fractured(kind)
    anatomy = paint_label_map(plan, (-60, -70, -130), (60, 50, 200), spacing)
    checked = 0
    for level, expected in zip(plan.levels, plan.centres, strict=True):
        if inside(anatomy, level):
            found = centre(anatomy, anatomy.vertebrae == LEVEL_NUMBERS[level])
            assert np.linalg.norm(found - expected) < 2.0, level
            checked += 1
    assert checked >= 9


def test_a_small_box_shows_the_same_as_the_whole(plan: BodyPlan, whole: AnatomyMap) -> None:
    low, high = (-48.0, -69.0, -20.0), (72.0, 51.0, 70.0)  # on the voxels of the whole
    part = paint_label_map(plan, low, high, SPACING)
    start = np.round((part.affine[:3, 3] - whole.affine[:3, 3]) / SPACING).astype(int)
    cut = tuple(slice(s, s + n) for s, n in zip(start, part.tissues.shape, strict=True))
    for small, large in ((part.tissues, whole.tissues), (part.vertebrae, whole.vertebrae)):
        assert np.mean(small == large[cut]) > 0.999


def test_the_map_is_right_way_round(plan: BodyPlan, whole: AnatomyMap) -> None:
    spine = plan.centres[plan.levels.index("L3")]
    assert np.abs(spine).max() < 3
    heights = plan.centres[:, 2]
    assert plan.levels[0] == "C3"
    assert np.all(np.diff(heights) < 0)  # from the head down
    assert plan.sacrum[0, 2] < heights[-1]
    assert centre(whole, tissue(whole, "LIVER"))[0] > 20  # the patient's right
    assert centre(whole, tissue(whole, "SPLEEN"))[0] < -20
    assert centre(whole, tissue(whole, "STOMACH"))[0] < 0
    z = whole.affine[2, 3] + SPACING[2] * np.arange(whole.tissues.shape[2])
    level = np.abs(z) < 20  # of L3
    assert centre(whole, tissue(whole, "AORTA") & level)[1] > 15
    assert centre(whole, tissue(whole, "ERECTOR") & level)[1] < -35
    assert centre(whole, tissue(whole, "LUNG"))[2] > centre(whole, tissue(whole, "BLADDER"))[2]


def test_neighbours_touch_as_in_a_body(plan: BodyPlan, whole: AnatomyMap) -> None:
    """Discs lie between bodies, arches on bodies, psoas beside them, alae at the hip bones."""
    near = ndimage.generate_binary_structure(3, 3)

    def touch(a: Mask, b: Mask, steps: int = 1) -> int:
        return int((ndimage.binary_dilation(a, near, iterations=steps) & b).sum())

    for level in ("T12", "L1", "L3", "L5"):
        body = whole.vertebrae == LEVEL_NUMBERS[level]
        assert touch(body, tissue(whole, "DISC")) > 100
        assert touch(body, tissue(whole, "POSTERIOR")) > 10
    for level in ("T11", "T12"):
        body = whole.vertebrae == LEVEL_NUMBERS[level]
        ribs = ndimage.binary_dilation(body, near) & tissue(whole, "RIB")
        columns = np.argwhere(ribs)[:, 0]
        middle = np.argwhere(body)[:, 0].mean()
        assert (columns > middle).any()  # a head on each side
        assert (columns < middle).any()
    lumbar = whole.vertebrae == LEVEL_NUMBERS["L4"]
    assert touch(lumbar, tissue(whole, "PSOAS"), 2) > 50
    assert touch(tissue(whole, "SACRUM"), tissue(whole, "PELVIS"), 3) > 100
    assert touch(lumbar, tissue(whole, "RIB"), 3) == 0
    _, pieces = ndimage.label(tissue(whole, "SACRUM"), near)
    assert pieces <= 3
    assert not (tissue(whole, "BOWEL", "GAS", "FAECES") & (whole.vertebrae > 0)).any()


def test_each_body_is_one_piece_in_its_own_cortex(plan: BodyPlan, whole: AnatomyMap) -> None:
    for level in ("T11", "L1", "L4"):
        point = plan.centres[plan.levels.index(level)]
        corners = (point + [sign * v for v in (35, 30, 25)] for sign in (-1, 1))
        anatomy = paint_label_map(plan, *corners, (1, 1, 1))
        body = anatomy.vertebrae == LEVEL_NUMBERS[level]
        pieces, _ = ndimage.label(body)
        assert np.bincount(pieces.ravel())[1:].max() > 0.995 * body.sum()  # but for spurs' tips
        core = body & tissue(anatomy, "BODY_TRABECULAR")
        outside = ndimage.binary_dilation(core) & ~body
        assert outside.sum() < 0.02 * core.sum()
        assert 0.4 < core.sum() / body.sum() < 0.85
    assert set(np.unique(whole.tissues[whole.vertebrae > 0])) <= {
        *(Tissue.BODY_CORTEX, Tissue.BODY_TRABECULAR, Tissue.CEMENT, Tissue.METAL),
    }


def test_variants_are_as_frequent_as_stated() -> None:
    rng = np.random.default_rng(0)
    counts = collections.Counter(draw_counts(rng) for _ in range(3000))
    assert counts[12, 5] / 3000 == pytest.approx(0.83, abs=0.02)
    assert (counts[13, 4] + counts[13, 5]) / 3000 == pytest.approx(0.03, abs=0.01)
    assert counts[12, 6] / 3000 == pytest.approx(0.05, abs=0.015)
    assert counts[12, 4] / 3000 == pytest.approx(0.05, abs=0.015)
    assert (counts[11, 5] + counts[11, 6]) / 3000 == pytest.approx(0.04, abs=0.015)
    assert len(counts) == 7
    found: collections.Counter[str] = collections.Counter()
    for _ in range(1000):
        findings = draw_findings(rng, level_names(12, 5))
        found.update(findings.variants | set(findings.kinds.values()))
        for loss in findings.collapse.values():
            assert 0.19 < max(loss.anterior, loss.middle, loss.posterior) < 0.8
        ribs = draw_ribs(rng, 12, 1.0, True)
        found["lumbar ribs"] += "L1" in ribs
        found["no rib"] += 0.0 in ribs["T12"]
    wanted = {"wedge", "biconcave", "crush", "sacralised", "lumbarised", "listhesis"}
    assert set(found) == wanted | {"instrumented", "lumbar ribs", "no rib"}
    assert min(found.values()) >= 8
    assert max(found.values()) < 250


def test_facts_name_what_was_drawn() -> None:
    for seed in range(8):
        plan = plan_of(seed, variants=seed % 2 == 0)
        names = [f"T{n + 1}" for n in range(plan.thoracic)]
        names += [f"L{n + 1}" for n in range(plan.lumbar)]
        assert list(plan.levels[5:]) == names
        assert set(plan.fractured) <= set(names)
        assert plan.centres.shape == plan.axes.shape == plan.sizes.shape == (len(plan.levels), 3)
        assert np.linalg.norm(plan.axes, axis=1) == pytest.approx(1.0)
        steps = np.linalg.norm(np.diff(plan.centres, axis=0), axis=1)
        assert np.all((steps > 10) & (steps < 50))
        assert set(plan.ribs) <= set(names)
        if seed % 2:
            assert (plan.thoracic, plan.lumbar) == (12, 5)
            assert 15 < min(plan.ribs["T12"]) < max(plan.ribs["T12"]) < 300
            assert "L1" not in plan.ribs
            assert not plan.variants & {"sacralised", "lumbarised"}


def test_ribs_are_painted_as_long_as_the_facts_say() -> None:
    """The last rib's ends, found in the picture, lie as far apart as its length allows."""
    lengths: list[float] = []
    for seed in (3, 8, 39):  # none, the usual ones, one stump
        plan = plan_of(seed, variants=True)
        lengths += plan.ribs["T12"]
        level = plan.centres[plan.levels.index("T12")]
        low, high = level + np.array([[-150, -80, -100], [150, 60, 14]])
        anatomy = paint_label_map(plan, low, high, (2, 2, 2))
        ribs, _ = ndimage.label(tissue(anatomy, "RIB"), np.ones((3, 3, 3)))
        body = ndimage.binary_dilation(anatomy.vertebrae == LEVEL_NUMBERS["T12"], iterations=2)
        for side, length in zip((1, -1), plan.ribs["T12"], strict=True):
            x = anatomy.affine[0, 3] + 2 * np.arange(ribs.shape[0]) - level[0]
            here = ribs[body & (side * x > 0)[:, None, None]]
            if length == 0:
                assert not here.any()
                continue
            rib = np.argwhere(ribs == np.bincount(here[here > 0]).argmax()) * 2.0
            extent = np.linalg.norm(rib.max(axis=0) - rib.min(axis=0))
            assert 0.6 * length < extent < length + 25
    assert lengths.count(0.0) == 2
    assert min(length for length in lengths if length) < 40 < 80 < max(lengths)


def test_collapse_takes_the_height_it_states() -> None:
    """The middle of a crushed body is lower than its neighbours' by what the kind demands."""
    plan = fractured("crush", ("L1", "L2"))
    level = next(iter(plan.fractured))
    place = plan.levels.index(level)
    heights = []
    for index in (place - 1, place, place + 1):
        point = plan.centres[index]
        corners = (point + [sign * v for v in (20, 25, 25)] for sign in (-1, 1))
        anatomy = paint_label_map(plan, *corners, (1, 1, 1))
        body = anatomy.vertebrae == LEVEL_NUMBERS[plan.levels[index]]
        heights.append(float(np.median(body[16:24, 20:30].sum(axis=2))))
    assert heights[1] < 0.85 * min(heights[0], heights[2])


def test_every_class_of_the_network_occurs(whole: AnatomyMap) -> None:
    assert set(STRUCTURE_OF) == set(Tissue)
    table = np.array([STRUCTURE_OF[Tissue(i)] for i in range(len(Tissue))])
    assert set(np.unique(table[whole.tissues])) == set(range(len(STRUCTURES)))
    assert all(
        STRUCTURES[STRUCTURE_OF[t]] == "background"
        for t in Tissue
        if not t.name.startswith(BONE)
        and not t.name.startswith(("DISC", "CEMENT", "ERECTOR", "PSOAS"))
    )


def test_chance_is_the_generators_alone() -> None:
    box = ((-60.0, -60.0, -60.0), (60.0, 60.0, 60.0), (3.0, 3.0, 3.0))
    first, again, other = (paint_label_map(plan_of(seed), *box) for seed in (5, 5, 6))
    assert np.array_equal(first.tissues, again.tissues)
    assert not np.array_equal(first.tissues, other.tissues)


def test_a_box_without_volume_is_refused(plan: BodyPlan) -> None:
    with pytest.raises(ValueError, match="not a volume"):
        paint_label_map(plan, (0, 0, 0), (10, 0, 10))
    with pytest.raises(ValueError, match="not a volume"):
        paint_label_map(plan, (0, 0, 0), (10, 10, 10), (1, -1, 1))


def test_a_box_beside_the_body_is_air(plan: BodyPlan) -> None:
    anatomy = paint_label_map(plan, (900, 0, 0), (920, 20, 20))
    assert not anatomy.tissues.any()


def test_shapes_have_the_volume_of_their_formula() -> None:
    turned = Frame(np.array([1.0, 2.0, 3.0]), rotation(0.3, 0.4, 0.5))
    rod = Rod(turned.world(0, 0, -10), turned.world(0, 0, 10), 5.0)
    flat = Rod(rod.start, rod.end, 5.0, flat=turned.axes[:, 0], ratio=2.0)
    cases = (
        (Blob(turned, (10.0, 6.0, 8.0)), 4 / 3 * np.pi * 480),
        (rod, np.pi * 25 * 20 + 4 / 3 * np.pi * 125),
        (flat, np.pi * 12.5 * 20 + 4 / 3 * np.pi * 62.5),
    )
    for shape, volume in cases:
        painter = Painter((-25, -25, -25), (25, 25, 25), (0.5, 0.5, 0.5))
        painter.paint(Solid((shape,), ((Tissue.CYST, 0.0),)))
        assert (painter.tissues > 0).sum() / 8 == pytest.approx(volume, rel=0.02)


def test_layers_cuts_and_limits_of_a_solid() -> None:
    painter = Painter((-20, -20, -20), (20, 20, 20), (1, 1, 1))
    ball = Blob(Frame(np.zeros(3)), (15.0, 15.0, 15.0))
    core = Blob(Frame(np.zeros(3)), (5.0, 5.0, 5.0))
    layers = ((Tissue.BODY_CORTEX, 0.0), (Tissue.BODY_TRABECULAR, 3.0))
    painter.paint(Solid((ball,), layers, minus=(core,), level=22))
    assert painter.tissues[20, 20, 20] == 0  # cut out
    assert painter.tissues[20, 20, 29] == Tissue.BODY_TRABECULAR
    assert painter.tissues[20, 20, 33] == Tissue.BODY_CORTEX
    assert set(np.unique(painter.vertebrae)) == {0, 22}
    bones = frozenset((Tissue.BODY_TRABECULAR,))
    painter.paint(Solid((ball,), ((Tissue.CEMENT, 0.0),), over=bones, level=None))
    assert painter.tissues[20, 20, 29] == Tissue.CEMENT
    assert painter.vertebrae[20, 20, 29] == 22  # kept
    assert painter.tissues[20, 20, 33] == Tissue.BODY_CORTEX


def test_painting_time(plan: BodyPlan) -> None:
    start = time.process_time()
    paint_label_map(plan, (-150, -115, -190), (150, 115, 190))  # at 2 x 2 x 1.5 mm
    middle = time.process_time()
    paint_label_map(plan, (-75, -60, -45), (75, 60, 45), (1, 1, 1))
    print(f"large box {middle - start:.2f} s, small box {time.process_time() - middle:.2f} s")
