"""Names of a chain of bodies: the posterior, checked against enumeration by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from monai_vfx.vertebrae.segmentation.naming import (
    THRESHOLD,
    VARIANTS,
    WIDTHS_MM,
    Body,
    Chain,
    Rates,
    conventional_names,
    name_bodies,
    spine_names,
)

RIB, NONE = 0.97, 0.03
SEEN, UNSEEN = 0.999, 0.001


def _chain(ribs: list[float | None], sacrum: float, widths: list[float] | None = None) -> Chain:
    bodies = tuple(
        Body(ribs=(p, p), width_mm=None if widths is None else widths[n])
        for n, p in enumerate(ribs)
    )
    return Chain(bodies, sacrum)


def test_the_variants_are_shares_of_all_people() -> None:
    assert sum(VARIANTS.values()) == pytest.approx(1.0)
    assert spine_names(12, 5)[7:19] == tuple(f"T{n}" for n in range(1, 13))
    assert spine_names(12, 5)[-6:] == ("L1", "L2", "L3", "L4", "L5", "S1")
    assert {name for variant in VARIANTS for name in spine_names(*variant)} == set(WIDTHS_MM)


def _ribs_by_enumeration(
    shares: tuple[float, float, float], seen: tuple[float, float], rates: Rates
) -> float:
    """Sum out what is hidden: whether the body is seen at all, its ribs, the detector's words."""
    both, one, none = shares
    prior = {(1, 1): both, (1, 0): one / 2, (0, 1): one / 2, (0, 0): none}
    total = 0.0
    for truth, said in itertools.product(prior, itertools.product((0, 1), repeat=2)):
        blind, seeing = rates.rib_failure / 4, 1 - rates.rib_failure
        for there, word, value in zip(truth, said, seen, strict=True):
            hit = rates.rib_sensitivity if there else 1 - rates.rib_specificity
            seeing *= 2 * (hit if word else 1 - hit) * (value if word else 1 - value)
        total += prior[truth] * (blind + seeing)
    return total


def _shares(name: str, thoracic: int, rates: Rates) -> tuple[float, float, float]:
    if name in (f"T{thoracic}", "L1"):
        return rates.lumbar_rib if name == "L1" else rates.last_rib
    return (0.998, 0.001, 0.001) if name[0] == "T" else (0.0005, 0.0005, 0.999)


def test_against_enumeration_of_every_cause() -> None:
    rates = Rates(width_weight=0.0)
    seen = [(0.9, 0.8), (0.6, 0.2), (0.1, 0.3), (0.05, 0.4)]
    sacrum = 0.7
    wrong = (1 - rates.sacrum_right) / 2
    joint: dict[tuple[int, int, tuple[str, ...]], float] = {}
    for (thoracic, lumbar), share in VARIANTS.items():
        spine = spine_names(thoracic, lumbar)
        places = len(spine) - len(seen) + 1
        for start in range(places):
            names = spine[start : start + len(seen)]
            total = share / places
            for name, sides in zip(names, seen, strict=True):
                total *= _ribs_by_enumeration(_shares(name, thoracic, rates), sides, rates)
            shown, hidden = {
                f"L{lumbar}": (rates.sacrum_right, rates.sacrum_missed),
                f"L{lumbar - 1}": (wrong, 1.0),
                "S1": (wrong, 1e-5),
            }.get(names[-1], (1e-5, 1.0))
            joint[thoracic, lumbar, names] = total * (sacrum * shown + (1 - sacrum) * hidden)
    everything = sum(joint.values())
    found = name_bodies(Chain(tuple(Body(ribs=sides) for sides in seen), sacrum), rates)
    assert sum(each.probability for each in found.hypotheses) >= 0.999
    for each in found.hypotheses:
        expected = joint[each.thoracic, each.lumbar, each.names] / everything
        assert each.probability == pytest.approx(expected, rel=1e-9)
    assert found.names == max(joint, key=lambda key: joint[key])[2]


def test_ribs_and_sacrum_agree_on_five() -> None:
    for thoracic in (1, 3, 8):
        naming = name_bodies(_chain([RIB] * thoracic + [NONE] * 5, SEEN))
        assert naming.confidence > 0.99
        assert naming.names[-6:] == ("T12", "L1", "L2", "L3", "L4", "L5")
        # The count from the neck is not seen, which is said apart.
        assert 0.93 < naming.strict < 0.97


def test_five_by_hand() -> None:
    """With certain observations the posterior is the priors' share, worked out on paper."""
    sure = Rates(
        rib_sensitivity=1.0,
        rib_specificity=1.0,
        rib_failure=0.0,
        sacrum_right=1.0,
        last_rib=(1.0, 0.0, 0.0),
        lumbar_rib=(0.0, 0.0, 1.0),
    )
    naming = name_bodies(_chain([1.0] * 3 + [0.0] * 5, 1.0), sure)
    # Stretches of eight in spines of 7 + 12 + 5 + 1, 7 + 11 + 5 + 1 and 7 + 13 + 5 + 1 bodies.
    weights = {12: 0.880 / 18, 11: 0.030 / 17, 13: 0.010 / 19}
    expected = weights[12] / sum(weights.values())
    assert naming.strict == pytest.approx(expected, abs=2e-4)
    assert naming.confidence == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("free", [4, 6])
def test_four_or_six_without_ribs_are_uncertain(free: int) -> None:
    naming = name_bodies(_chain([RIB] * 3 + [NONE] * free, SEEN))
    assert naming.confidence < THRESHOLD


def test_the_sacrum_alone_is_limited_by_the_variants() -> None:
    naming = name_bodies(_chain([None] * 8, SEEN))
    five = sum(share for (_, lumbar), share in VARIANTS.items() if lumbar == 5)
    assert 0.8 < naming.confidence < five
    assert naming.confidence < THRESHOLD


def test_neither_ribs_nor_sacrum_say_nothing() -> None:
    naming = name_bodies(_chain([None] * 7, UNSEEN))
    assert naming.confidence < 0.2


def test_ribs_without_sacrum_go_by_the_prior() -> None:
    with_sacrum = name_bodies(_chain([RIB] * 3 + [NONE] * 5, SEEN)).confidence
    without = name_bodies(_chain([RIB] * 3 + [NONE] * 5, UNSEEN)).confidence
    assert 0.85 < without < with_sacrum


def test_too_few_bodies_do_not_hold_all_levels() -> None:
    lumbar = name_bodies(_chain([NONE] * 5, SEEN))
    assert lumbar.confidence == 0
    assert lumbar.in_chain < 0.1
    chest = name_bodies(_chain([RIB] * 8, UNSEEN))
    assert chest.in_chain < 0.05


def test_a_whole_spine_is_counted_from_the_neck() -> None:
    usual = name_bodies(_chain([NONE] * 3 + [RIB] * 12 + [NONE] * 5, SEEN))
    assert usual.strict > 0.99
    assert usual.names[:5] == ("C5", "C6", "C7", "T1", "T2")
    more = name_bodies(_chain([NONE] * 3 + [RIB] * 13 + [NONE] * 5, SEEN))
    assert more.names[15] == "T13"
    assert more.confidence < THRESHOLD


def test_widths_weigh_little_and_their_scale_nothing() -> None:
    names = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
    right = [WIDTHS_MM[name] for name in names]
    base = name_bodies(_chain([None] * 7, SEEN, right))
    larger = name_bodies(_chain([None] * 7, SEEN, [1.3 * w for w in right]))
    assert larger.confidence == pytest.approx(base.confidence)
    chest = [WIDTHS_MM[f"T{n}"] for n in range(3, 10)]
    assert name_bodies(_chain([None] * 7, UNSEEN, chest)).in_chain < 0.1
    against = name_bodies(_chain([RIB] * 2 + [NONE] * 5, SEEN, chest))
    assert against.names == names  # ribs and sacrum prevail


@pytest.mark.parametrize("seed", range(5))
def test_probabilities_are_probabilities(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 20))
    bodies = tuple(
        Body(tuple(rng.choice([None, *rng.uniform(size=3)], 2)), float(rng.uniform(20, 60)))
        for _ in range(count)
    )
    naming = name_bodies(Chain(bodies, float(rng.uniform())))
    for value in (*naming.probabilities, naming.confidence, naming.strict, naming.in_chain):
        assert 0 <= value <= 1
    assert naming.strict <= naming.confidence + 1e-9
    assert len(naming.names) == count
    assert all(len(conventional_names(each)) == count for each in naming.hypotheses)
    assert min(naming.probabilities) >= naming.hypotheses[0].probability - 1e-9


def test_sides_are_alike() -> None:
    sides = ((RIB, NONE), (NONE, RIB))
    one, other = (
        name_bodies(Chain((Body((RIB, RIB)), Body(each), *[Body((NONE, NONE))] * 5), SEEN))
        for each in sides
    )
    assert one.confidence == pytest.approx(other.confidence)
    assert 0.5 < one.confidence < name_bodies(_chain([RIB] * 2 + [NONE] * 5, SEEN)).confidence


def test_impossible_chains_are_an_error() -> None:
    for count in (0, 40):
        with pytest.raises(ValueError, match="cannot be named"):
            name_bodies(_chain([0.5] * count, 0.5))
