"""Eligibility: the study's counts, each rule alone, the order of the rules, what is not known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from monai_vfx.analysis.cohort.flow import Eligibility, Flow, select_eligible, with_adequate_images
from monai_vfx.core.errors import SettingError
from monai_vfx.simulation.study_flow import draw_study_flow

ELIGIBLE: dict[str, Any] = {
    "patient_id": None,
    "fracture": 0,
    "age": 65.0,
    "follow_up_years": 6.0,
    "baseline_fracture": 0.0,
    "spinal_surgery": 0.0,
    "image_adequate": 1.0,
    "scan_date": "2012-05-01",
}


def _frame(*changes: dict[str, Any]) -> pd.DataFrame:
    rows = [
        ELIGIBLE | {"case_id": f"c{n}", "patient_id": f"c{n}"} | c for n, c in enumerate(changes)
    ]
    frame = pd.DataFrame(rows)
    frame["scan_date"] = pd.to_datetime(frame["scan_date"])
    return frame


def _reasons(frame: pd.DataFrame, rules: Eligibility) -> dict[str, str]:
    return {case: reason for case, _, reason in select_eligible(frame, rules)[1].excluded}


@pytest.mark.parametrize("repeated", [0, 700])
def test_the_studys_counts(repeated: int) -> None:
    frame = draw_study_flow(seed=3, repeated_scans=repeated)
    frame["scan_date"] = pd.to_datetime(frame["scan_date"])
    analysed, flow = select_eligible(frame, Eligibility())
    assert [(s.name, sum(n for _, n, _ in s.excluded), s.n) for s in flow.steps] == [
        ("all", 0, 32_435 + repeated),
        ("first_scan", repeated, 32_435),
        ("age", 2_643, 29_792),
        ("follow_up", 8_029, 21_763),
        ("baseline", 3_258, 18_505),
        ("image_quality", 85 + 2_141, 608 + 15_671),
    ]
    assert (len(analysed), int(analysed["fracture"].sum())) == (18_505, 693)
    assert [events for _, _, events in flow.steps[-1].excluded] == [85]
    pool = with_adequate_images(analysed, Eligibility())
    assert (len(pool), int(pool["fracture"].sum())) == (608 + 15_671, 608)
    listed = {case for case, _, _ in flow.excluded}
    assert len(listed) == len(flow.excluded) == len(frame) - len(pool)
    assert listed.isdisjoint(pool["case_id"])


def test_in_the_registry_rows_break_several_rules() -> None:
    frame = draw_study_flow(seed=3)
    old, short = frame["age"] > 80, frame["follow_up_years"] < 1
    assert (old & short).sum() > 100
    assert (short & (frame["baseline_fracture"] == 1)).sum() > 100
    assert draw_study_flow(seed=3).equals(frame)
    assert not draw_study_flow(seed=4).equals(frame)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age": 49.9}, "Younger than 50 years"),
        ({"age": 80.1}, "Older than 80 years"),
        ({"age": np.nan}, "Age not known"),
        ({"follow_up_years": 0.99}, "Followed for less than 1 year"),
        ({"follow_up_years": np.nan}, "Follow-up not known"),
        ({"baseline_fracture": 1}, "Compression fracture at baseline"),
        ({"baseline_fracture": np.nan}, "Compression fracture at baseline not known"),
        ({"spinal_surgery": 1}, "Spinal surgery at baseline"),
        ({"spinal_surgery": np.nan}, "Spinal surgery at baseline not known"),
        # What is known to exclude goes before what is not known.
        ({"baseline_fracture": np.nan, "spinal_surgery": 1}, "Spinal surgery at baseline"),
        ({"image_adequate": 0}, "Image quality or protocol inadequate"),
        ({"image_adequate": np.nan}, "Image quality not known"),
        # The first rule that a row breaks counts it.
        ({"age": 30, "follow_up_years": 0.2, "image_adequate": 0}, "Younger than 50 years"),
        ({"follow_up_years": 0.2, "spinal_surgery": 1}, "Followed for less than 1 year"),
    ],
)
def test_each_rule_counts_its_rows(change: dict[str, Any], reason: str) -> None:
    assert _reasons(_frame({}, change), Eligibility()) == {"c1": reason}


@pytest.mark.parametrize("change", [{"age": 50}, {"age": 80}, {"follow_up_years": 1.0}])
def test_limits_belong_to_the_range(change: dict[str, Any]) -> None:
    assert _reasons(_frame(change), Eligibility()) == {}


def test_the_earliest_ct_of_a_patient_is_taken() -> None:
    frame = _frame(
        {"patient_id": "p", "scan_date": "2013-01-01"},
        {"patient_id": "p", "scan_date": "2011-01-01"},
        {"patient_id": "p", "scan_date": None},
        {"patient_id": "q", "scan_date": None},
        {"patient_id": "r", "scan_date": "2012-01-01"},
        {"patient_id": "r", "scan_date": "2012-01-01"},  # the same day: the first row stays
    )
    assert _reasons(frame, Eligibility()) == {
        "c0": "Later CT of the same patient",
        "c2": "Several CTs, date of this one not known",
        "c5": "Later CT of the same patient",
    }


def test_an_early_ct_that_is_not_eligible_does_not_make_room_for_a_later_one() -> None:
    frame = _frame(
        {"patient_id": "p", "scan_date": "2011-01-01", "age": 49.0},
        {"patient_id": "p", "scan_date": "2013-01-01", "age": 51.0},
    )
    assert len(select_eligible(frame, Eligibility())[0]) == 0


OFF = Eligibility(
    min_age=None,
    max_age=None,
    min_follow_up_years=None,
    exclude_baseline_fracture=False,
    exclude_spinal_surgery=False,
    first_scan_only=False,
    need_image_quality=False,
)


def test_rules_switched_off_need_no_column() -> None:
    frame = _frame({"patient_id": "p"}, {"patient_id": "p"})[["case_id", "patient_id", "fracture"]]
    analysed, flow = select_eligible(frame, OFF)
    assert len(analysed) == 2
    assert [step.name for step in flow.steps] == ["all"]


def test_rules_that_cannot_be_applied_are_all_named_with_the_way_out() -> None:
    frame = _frame({"patient_id": "p"}, {"patient_id": "p"})[["case_id", "patient_id", "fracture"]]
    with pytest.raises(SettingError) as refused:
        select_eligible(frame, Eligibility())
    for words in (
        "needs the column age (or switch it off: min_age=null and max_age=null)",
        "needs the column follow_up_years (or switch it off: min_follow_up_years=null)",
        "needs the column baseline_fracture (or switch it off: exclude_baseline_fracture=false)",
        "needs the column spinal_surgery (or switch it off: exclude_spinal_surgery=false)",
        "needs the column image_adequate (or switch it off: need_image_quality=false)",
        "needs the column scan_date (or switch it off: first_scan_only=false)",
    ):
        assert words in str(refused.value)


def test_one_ct_a_patient_needs_no_date() -> None:
    frame = _frame({}, {}).drop(columns="scan_date")
    assert len(select_eligible(frame, Eligibility())[0]) == 2


@pytest.mark.parametrize(
    ("rules", "label"),
    [
        ({"max_age": None}, "Age 50 years or more"),
        ({"min_age": None}, "Age 80 years or less"),
        ({"min_follow_up_years": 2.5}, "Followed for at least 2.5 years"),
        ({"exclude_spinal_surgery": False}, "No compression fracture at baseline"),
    ],
)
def test_labels_say_the_rules(rules: dict[str, Any], label: str) -> None:
    _, flow = select_eligible(_frame({}), Eligibility(**rules))
    assert label in [step.label for step in flow.steps]


@pytest.mark.parametrize(
    "settings",
    [
        {"min_age": "fifty"},
        {"min_age": -1},
        {"max_age": True},
        {"min_age": 81},
        {"min_follow_up_years": float("inf")},
        {"first_scan_only": 1},
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        Eligibility(**settings)


def test_the_flow_as_json() -> None:
    frame = _frame({"fracture": 1}, {"fracture": 1, "age": 40}, {"age": 85})
    assert select_eligible(frame, Eligibility())[1].to_json()["steps"][2] == {
        "name": "age",
        "label": "Age 50 to 80 years",
        "excluded": [
            {"reason": "Younger than 50 years", "n": 1, "events": 1},
            {"reason": "Older than 80 years", "n": 1, "events": 0},
        ],
        "n": 1,
        "events": 1,
    }


def test_a_row_counts_at_the_first_reason_that_holds() -> None:
    frame = _frame({}, {}, {})
    first = pd.Series([True, False, False])
    second = pd.Series([True, True, False])
    left, flow = Flow.start(frame).leave_out("x", "X", frame, [("a", first), ("b", second)])
    assert list(left["case_id"]) == ["c2"]
    assert flow.excluded == (("c0", "x", "a"), ("c1", "x", "b"))


@pytest.mark.parametrize(
    ("simulated", "label"), [(1, "Abdominal CT (simulated patients)"), (0, "Abdominal CT")]
)
def test_simulated_patients_are_called_so(simulated: int, label: str) -> None:
    assert Flow.start(_frame({"simulated": simulated})).steps[0].label == label


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"repeated_scans": -1}])
def test_a_registry_that_cannot_be_drawn(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        draw_study_flow(**arguments)
