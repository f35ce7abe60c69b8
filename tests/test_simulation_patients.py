"""The simulated table: the study's distributions, matching, risk and attainable AUROC."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from monai_vfx.simulation.patients import (
    COHORT_COLUMNS,
    TRUTH_COLUMNS,
    attainable_auroc,
    draw_patients,
    draw_population,
)


def table(*arguments, **settings) -> pd.DataFrame:
    return pd.DataFrame([asdict(p) for p in draw_patients(*arguments, **settings)])


@pytest.fixture(scope="module")
def development() -> pd.DataFrame:
    return table(1214, 0, "development", "paper")


@pytest.fixture(scope="module")
def external() -> pd.DataFrame:
    return table(4000, 0, "external", "paper")


def test_development_is_matched_one_to_one(development):
    groups = development.groupby("fracture")
    assert groups.size().tolist() == [607, 607]
    female = groups["sex"].apply(lambda s: (s == "F").mean())
    assert female[0] == female[1]
    assert abs(groups["age"].mean().diff().iloc[1]) < 0.3
    assert abs(groups["bmi"].mean().diff().iloc[1]) < 0.2


@pytest.mark.parametrize(
    ("column", "mean", "tolerance"),
    # Table 1 of the study, development set; the shares of steroids etc. within 4 points
    [
        ("age", 72.5, 1.5),
        ("height_cm", 157.0, 1.0),
        ("weight_kg", 58.2, 1.5),
        ("bmi", 23.6, 0.5),
        ("smoker", 0.234, 0.04),
        ("drinker", 0.194, 0.04),
        ("glucocorticoids", 0.133, 0.04),
        ("secondary_osteoporosis", 0.101, 0.04),
    ],
)
def test_development_follows_table_1(development, column, mean, tolerance):
    assert development[column].mean() == pytest.approx(mean, abs=tolerance)


@pytest.mark.parametrize(
    ("column", "mean", "tolerance"),
    [
        ("age", 67.6, 1.0),
        ("height_cm", 155.2, 1.0),
        ("bmi", 23.9, 0.5),
        ("smoker", 0.057, 0.02),
        ("glucocorticoids", 0.115, 0.02),
        ("fracture", 0.123, 0.02),
    ],
)
def test_external_follows_table_1(external, column, mean, tolerance):
    assert external[column].mean() == pytest.approx(mean, abs=tolerance)


def test_true_risk_is_calibrated_in_the_unsampled_hospital(external):
    third = pd.qcut(external["five_year_risk"], 3, labels=False)
    for _, group in external.groupby(third):
        expected = group["five_year_risk"].mean()
        spread = np.sqrt(expected * (1 - expected) / len(group))
        assert abs(group["fracture"].mean() - expected) < 4 * spread


def test_values_keep_their_ranges(development):
    assert development["age"].between(50, 80).all()
    assert development["fat_fraction"].between(0.02, 0.5).all()
    assert development["trabecular_hu"].between(45, 260).all()
    assert set(development["sex"]) == {"F", "M"}
    cases = development[development["fracture"] == 1]
    assert cases["follow_up_years"].between(1, 5).all()
    others = development.drop(cases.index)
    assert others["follow_up_years"].between(1, 9).all()
    assert (others["follow_up_years"] >= 5).mean() > 0.8


@pytest.mark.parametrize(("signal", "image"), [("paper", 0.75), ("strong", 0.90)])
def test_attainable_auroc_is_as_documented_and_needs_both_tissues(signal, image):
    found = attainable_auroc(draw_patients(2000, 0, "development", signal), signal)
    assert found["image"] == pytest.approx(image, abs=0.03)
    assert found["bone"] < found["image"] - 0.03
    assert found["muscle"] < found["image"] - 0.03


def test_auroc_of_four_patients_by_hand():
    people = draw_patients(4, seed=0)
    risks = (0.1, 0.4, 0.35, 0.8)
    labelled = [
        replace(p, five_year_risk=risk, fracture=event)
        for p, risk, event in zip(people, risks, (0, 0, 1, 1), strict=True)
    ]
    assert attainable_auroc(labelled, "paper")["risk"] == 0.75
    with pytest.raises(ValueError, match="both are needed"):
        attainable_auroc([replace(p, fracture=0) for p in people], "paper")


def test_table_and_truth_share_no_column_and_draws_repeat():
    assert not set(COHORT_COLUMNS) & set(TRUTH_COLUMNS)
    assert draw_patients(5, 3) == draw_patients(5, 3)
    assert draw_patients(5, 3) != draw_patients(5, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0), "count"),
        ((4, -1), "seed"),
        ((4, 0, "elsewhere"), "hospital"),
        ((4, 0, "external", "weak"), "signal"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_patients(*arguments)


# ---------------------------------------------------------------- what records add


def test_some_are_censored_or_die_early_but_never_a_case(external):
    early = external[external["follow_up_years"] < 5]
    others = early[early["fracture"] == 0]
    assert 0.06 < (others["death"] == 0).sum() / (external["fracture"] == 0).sum() < 0.10
    assert 0.01 < external["death"].mean() < 0.06
    assert (external.loc[external["death"] == 1, "follow_up_years"] < 5).all()
    assert external.loc[external["fracture"] == 1, "death"].sum() == 0


def test_frax_stand_in_is_in_percent_and_ranks_somewhat(external):
    for column in ("frax_major", "frax_hip"):
        assert external[column].between(0, 100).all()
        groups = external.groupby("fracture")[column].mean()
        assert groups[1] > groups[0] * 1.1
    assert (external["frax_hip"] <= external["frax_major"]).all()


def test_selected_hospitals_hold_eligible_patients_only(development, external):
    for frame, first, last in (
        (development, "2010-01-01", "2019-12-31"),
        (external, "2012-01-01", "2013-12-31"),
    ):
        assert frame["scan_date"].between(first, last).all()
        assert frame["patient"].tolist() == frame["case"].tolist()
        assert frame[["baseline_fracture", "spinal_surgery", "traumatic_fracture"]].sum().sum() == 0
        assert frame["image_adequate"].all()


def test_registry_breaks_rules_whatever_the_outcome_and_some_come_twice():
    registry = draw_population(20000, 3, "registry")
    kept = (
        registry["age"].between(50, 80)
        & (registry["follow_up_years"] >= 1)
        & (registry[["baseline_fracture", "spinal_surgery"]].sum(axis=1) == 0)
        & (registry["image_adequate"] == 1)
    )
    assert 0.10 < 1 - kept.mean() < 0.16
    assert registry["fracture"].mean() == pytest.approx(0.25, abs=0.01)
    eligible = registry[kept]
    assert eligible["fracture"].mean() == pytest.approx(eligible["five_year_risk"].mean(), abs=0.01)
    twice = registry[registry.duplicated("patient")]
    assert len(twice) == 600
    first = registry.set_index("case").loc[twice["patient"]]
    assert (twice["scan_date"].to_numpy() > first["scan_date"].to_numpy()).all()
    assert (twice["follow_up_years"].to_numpy() < first["follow_up_years"].to_numpy()).all()
    assert (twice["bone_z"].to_numpy() == first["bone_z"].to_numpy()).all()
    assert ((registry["traumatic_fracture"] == 1) & (registry["fracture"] == 1)).sum() == 0


def test_population_is_the_unsampled_hospital(external):
    pd.testing.assert_frame_equal(draw_population(4000, 0, "external"), external)
    whole = draw_population(20000, 0, "development")
    assert whole["fracture"].mean() == pytest.approx(0.0374, abs=0.005)
    assert whole["five_year_risk"].mean() == pytest.approx(0.0374, abs=1e-4)


def test_first_patient_of_a_seed_is_kept_for_ever():
    # Images of existing hospitals hang on these values: they were there before the records.
    person = draw_patients(6, seed=1)[0]
    assert (person.age, person.sex, person.bmi, person.bone_z, person.lean_hu) == (
        76.0,
        "F",
        19.3,
        -0.9037,
        54.9863,
    )
