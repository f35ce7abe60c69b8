"""Measuring a segmentation: cases small enough to be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from benchmarks.segmentation.assessment import (
    acceptance,
    body_agreement,
    by_convention,
    calibration_error,
    choose_threshold,
    clopper_pearson,
    label_centres,
    levels_at_edge,
    named_as,
    names_right,
    overlap_table,
    reliability_table,
)
from monai_vfx.core.anatomy import LEVELS, VERTEBRAE

STUDY = [VERTEBRAE[level] for level in LEVELS]


def chain(names, *, height=3, gap=1, shape=(6, 8)):
    """Label boxes on top of each other, the first name uppermost, background around all."""
    size = len(names) * (height + gap) + 3
    labels = np.zeros((*shape, size), np.uint8)
    for place, name in enumerate(reversed(names)):
        low = 2 + place * (height + gap)
        labels[1:-1, 2:-2, low : low + height] = VERTEBRAE[name]
    return labels


def oblique_affine():
    turn = np.deg2rad(20)
    rotation = np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-0.7, 0.8, 5.0])  # flipped, anisotropic, oblique
    affine[:3, 3] = [10, -200, 1500]
    return affine


def test_dice_and_centre_error_of_a_body_moved_by_one_slice():
    truth = np.zeros((6, 6, 12), np.uint8)
    truth[1:5, 1:5, 2:8] = VERTEBRAE["L2"]
    found = np.roll(truth, 1, axis=2)
    measured = body_agreement(truth, found, oblique_affine(), VERTEBRAE)
    assert set(measured) == {"L2"}
    assert measured["L2"].dice == pytest.approx(5 / 6)
    assert measured["L2"].centre_error_mm == pytest.approx(5.0)  # one slice, however it lies
    assert measured["L2"].volume_ratio == 1


def test_a_body_missed_or_made_up_scores_nothing():
    truth, found = chain(["L1", "L2"]), chain(["L1", "L2"])
    found[found == VERTEBRAE["L2"]] = VERTEBRAE["L3"]
    measured = body_agreement(truth, found, np.eye(4), VERTEBRAE)
    assert (measured["L1"].dice, measured["L2"].dice, measured["L3"].dice) == (1, 0, 0)
    assert np.isnan(measured["L2"].centre_error_mm)
    assert measured["L2"].volume_ratio == 0
    assert measured["L3"].volume_ratio == np.inf


def test_muscles_take_no_part():
    truth, found = chain(["L1"]), chain(["L1"])
    found[found == 0] = 101
    found[1, 2, 2] = 102  # one voxel of the body lost to the psoas
    body = int((truth != 0).sum())
    table = overlap_table(truth, found)
    assert table.sum() == body
    assert table[VERTEBRAE["L1"], 0] == 1
    assert body_agreement(truth, found, np.eye(4), VERTEBRAE)["L1"].dice == pytest.approx(
        2 * (body - 1) / (2 * body - 1)
    )


def test_maps_of_two_grids_are_not_compared():
    with pytest.raises(ValueError, match="one shape"):
        overlap_table(chain(["L1"]), chain(["L1", "L2"]))


def test_centres_are_in_the_world():
    labels = np.zeros((4, 4, 6), np.uint8)
    labels[2, 1, 3:5] = 20
    affine = oblique_affine()
    assert_allclose(label_centres(labels, affine)[20], affine[:3] @ [2, 1, 3.5, 1])


def test_names_off_by_one_are_wrong_at_every_level():
    names = ["T11", "T12", "L1", "L2", "L3", "L4", "L5"]
    truth = chain(names)
    assert names_right(truth, truth, STUDY)
    shifted = chain(["T12", "L1", "L2", "L3", "L4", "L5", "L6"])
    assert not names_right(truth, shifted, STUDY)
    assert named_as(truth, shifted)[VERTEBRAE["L1"]] == VERTEBRAE["L2"]
    # Bodies are at hand in both maps, yet not one lies where its name says.
    compared = body_agreement(truth, shifted, np.eye(4), VERTEBRAE)
    assert all(compared[level].dice == 0 for level in LEVELS)


def test_levels_beyond_the_study_may_be_wrong():
    truth, found = chain(["T12", *LEVELS[1:], "L5"]), chain(["T12", *LEVELS[1:], "L6"])
    assert names_right(truth, found, STUDY)


def test_a_level_that_is_not_in_the_image_must_not_be_found():
    truth = chain(["T10", "T11", "T12", "L1", "L2"])
    found = chain(["T12", "L1", "L2", "L3", "L4"])
    assert not names_right(truth, found, STUDY)
    # A body painted beside the spine, where there is none.
    truth, beside = chain(list(LEVELS)), chain([*LEVELS])
    truth[truth == VERTEBRAE["T12"]] = 0
    assert not names_right(truth, beside, STUDY)
    assert names_right(truth, beside, STUDY, sides=False)


def test_a_sliver_of_a_body_is_not_found():
    truth = chain(["L1"], height=10)
    found = np.zeros_like(truth)
    found[1:-1, 2:-2, 2:4] = VERTEBRAE["L1"]  # a fifth of it
    assert named_as(truth, found) == {VERTEBRAE["L1"]: None}
    found[1:-1, 2:-2, 2:5] = VERTEBRAE["L1"]  # three tenths
    assert named_as(truth, found) == {VERTEBRAE["L1"]: VERTEBRAE["L1"]}


def test_the_body_above_l1_is_t12_by_convention():
    thirteen = chain(["T11", "T12", "T13", "L1", "L2"])
    assert np.array_equal(by_convention(thirteen), chain(["T10", "T11", "T12", "L1", "L2"]))
    eleven = chain(["T10", "T11", "L1", "L2"])
    assert np.array_equal(by_convention(eleven), chain(["T11", "T12", "L1", "L2"]))
    for same in (["T11", "T12", "L1"], ["T10", "T11"], ["L1", "L2"]):
        assert np.array_equal(by_convention(chain(same)), chain(same))


def test_levels_at_the_edge_of_the_image():
    labels = chain(["T12", "L1", "L2"])
    assert levels_at_edge(labels) == set()
    assert levels_at_edge(labels[:, :, 3:]) == {VERTEBRAE["L2"]}
    assert levels_at_edge(labels[:, 2:]) == {VERTEBRAE[n] for n in ("T12", "L1", "L2")}


def test_exact_intervals_as_published():
    # Agresti and Coull 1998, Am Stat 52:119, for 5 of 10: 0.187 to 0.813.
    share = clopper_pearson(5, 10)
    assert (round(share.low, 3), round(share.high, 3)) == (0.187, 0.813)
    assert clopper_pearson(0, 30).high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_a_refusal_is_neither_right_nor_wrong():
    table = acceptance([1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert (table.n, table.accepted, table.right) == (5, 3, 2)
    assert table.share_right.value == pytest.approx(2 / 3)
    assert 0 < table.share_right.low < table.right_lower_bound < 2 / 3
    none = acceptance([0, 0], [1, 1])
    assert none.share_right is None
    assert none.right_lower_bound is None
    with pytest.raises(ValueError, match="above 0"):
        acceptance([], [])


def test_one_sided_bound_is_that_of_the_rule_of_three():
    bound = acceptance(np.ones(299), np.ones(299)).right_lower_bound
    assert bound == pytest.approx(0.05 ** (1 / 299))
    assert bound > 0.99


def test_reliability_groups_take_their_lower_bound_and_one():
    rows = reliability_table([0.0, 0.9, 0.95, 1.0, np.nan], [0, 1, 1, 1, 0], (0, 0.5, 0.9, 0.95, 1))
    assert [(row.low, row.high, row.right.n) for row in rows] == [
        (0, 0.5, 1),
        (0.9, 0.95, 1),
        (0.95, 1, 2),
    ]
    assert rows[-1].confidence == pytest.approx(0.975)
    assert calibration_error([0.6, 0.6, 0.6, 0.6], [1, 1, 0, 0], (0, 1)) == pytest.approx(0.1)
    assert np.isnan(calibration_error([np.nan], [0]))
    with pytest.raises(ValueError, match="grow from 0 to 1"):
        reliability_table([0.5], [1], (0, 0.5))
    with pytest.raises(ValueError, match="must lie in"):
        reliability_table([1.5], [1])


def test_the_threshold_lies_above_the_last_wrong_case_that_it_cannot_afford():
    confidence = np.concatenate([np.linspace(0.90, 0.999, 400), [0.92, 0.3, np.nan]])
    right = np.concatenate([np.ones(400), [0, 0, 0]])
    chosen = choose_threshold(confidence, right)
    assert chosen.met
    assert chosen.value > 0.92  # with it the bound of 1 error in 320 stays below 0.99
    assert chosen.acceptance.right == chosen.acceptance.accepted >= 299
    share_only = choose_threshold(confidence, right, target=0.997, bounded=False)
    assert share_only.value == pytest.approx(0.90)
    assert share_only.acceptance.share_right.value == pytest.approx(400 / 401)
    # What has no confidence is never accepted.
    assert share_only.acceptance.n == 403


def test_too_few_cases_are_said_not_to_reach_the_target():
    chosen = choose_threshold([0.5, 0.9, 0.99], [0, 1, 1])
    assert not chosen.met
    assert chosen.value == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no case has one"):
        choose_threshold([np.nan], [1])
    with pytest.raises(ValueError, match="target"):
        choose_threshold([0.5], [1], target=1.0)
