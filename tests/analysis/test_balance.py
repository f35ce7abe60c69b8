from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from monai_vfx.analysis.cohort.balance import balance
from monai_vfx.analysis.cohort.matching import Matching, match
from monai_vfx.core.errors import CaseRefused

BEFORE = pd.DataFrame(
    {
        "fracture": [1, 1, 1, 0, 0, 0, 0],
        "age": [70.0, 75.0, 80.0, 60.0, 64.0, 68.0, np.nan],
        "sex": ["F", "F", "M", "F", "M", "M", "M"],
        "smoker": [1, 0, 1, 0, 0, 0, 1],
        "contrast_phase": ["none", "arterial", "none", "none", "none", "arterial", None],
        "scan_date": ["2010-01-01", "2011-12-31", "2012-01-01"] + ["2011-05-05"] * 4,
        "site_code": [7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0],
    }
)
AFTER = BEFORE.iloc[[0, 1, 4, 5]]


def row(table, variable, level=""):
    found = table[(table["variable"] == variable) & (table["level"] == level)]
    assert len(found) == 1
    return found.iloc[0]


def test_continuous_by_hand():
    # Cases 70 75 80: mean 75, variance 25. Others 60 64 68: mean 64, variance 16.
    found = row(balance(BEFORE, AFTER, ["age"]), "age")
    assert found["label"] == "Age, years"
    assert (found["n_before"], found["missing_before"], found["n_after"]) == (6, 1, 4)
    assert (found["cases_before"], found["others_before"]) == (75, 64)
    assert found["smd_before"] == pytest.approx(11 / math.sqrt(20.5))
    assert found["variance_ratio_before"] == pytest.approx(25 / 16)
    # Afterwards 70 75 against 64 68, on the scale of before.
    assert found["smd_after"] == pytest.approx(6.5 / math.sqrt(20.5))
    assert found["variance_ratio_after"] == pytest.approx(12.5 / 8)


def test_binary_by_hand():
    # Shares 2/3 and 1/4: variances 2/9 and 3/16.
    found = row(balance(BEFORE, AFTER, ["smoker"]), "smoker")
    scale = math.sqrt((2 / 9 + 3 / 16) / 2)
    assert found["smd_before"] == pytest.approx((2 / 3 - 1 / 4) / scale)
    assert found["smd_after"] == pytest.approx((1 / 2 - 0) / scale)
    assert math.isnan(found["variance_ratio_before"])


def test_sex_is_the_share_of_women():
    table = balance(BEFORE, AFTER, ["sex"])
    found = row(table, "sex", "F")
    assert len(table) == 1
    assert "female" in found["label"]
    assert (found["cases_before"], found["others_before"]) == (pytest.approx(2 / 3), 0.25)


def test_a_category_has_a_row_a_level():
    table = balance(BEFORE, BEFORE.iloc[[0, 3]], ["contrast_phase"])
    assert table["level"].tolist() == ["arterial", "none"]
    arterial = row(table, "contrast_phase", "arterial")
    assert (arterial["cases_before"], arterial["missing_before"]) == (pytest.approx(1 / 3), 1)
    assert (arterial["cases_after"], arterial["smd_after"]) == (0, 0)


def test_scan_year_comes_from_the_date():
    found = row(balance(BEFORE, AFTER, ["scan_year"]), "scan_year")
    assert (found["cases_before"], found["others_before"]) == (2011, 2011)
    assert found["smd_before"] == 0


def test_what_has_no_scale_is_not_a_number_and_equality_is_zero():
    assert row(balance(BEFORE, AFTER, ["site_code"]), "site_code")["smd_before"] == 0
    apart = BEFORE.assign(site_code=BEFORE["fracture"] + 3.0)
    found = row(balance(apart, apart, ["site_code"]), "site_code")
    assert math.isnan(found["smd_before"])
    nobody = row(balance(BEFORE, BEFORE.iloc[:0], ["age"]), "age")
    assert nobody["n_after"] == 0
    assert math.isnan(nobody["smd_after"])


def test_numbers_agree_with_tableone():
    from tableone import TableOne

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "fracture": rng.permutation([0] * 60 + [1] * 40),
            "age": rng.normal(65, 8, 100),
            "smoker": rng.integers(0, 2, 100),
        }
    )
    table = balance(frame, frame, ["age", "smoker"])
    other = TableOne(
        frame, columns=["age", "smoker"], categorical=["smoker"], groupby="fracture", smd=True
    )
    smd = other.tableone["Grouped by fracture"]["SMD (0,1)"]
    printed = [float(value) for value in smd if value]
    # tableone takes the second group minus the first, and the size only for categories.
    assert printed[0] == pytest.approx(row(table, "age")["smd_before"], abs=5e-4)
    assert abs(printed[1]) == pytest.approx(abs(row(table, "smoker")["smd_before"]), abs=5e-4)


def test_matching_balances_what_it_matched_on():
    rng = np.random.default_rng(1)
    fracture = np.repeat([1, 0], [150, 1500])
    frame = pd.DataFrame(
        {
            "case_id": [f"P{k}" for k in range(1650)],
            "fracture": fracture,
            "age": rng.normal(66 + 4 * fracture, 7),
            "sex": np.where(rng.random(1650) < 0.6 + 0.2 * fracture, "F", "M"),
        }
    )
    matched = match(frame, Matching(variables=("age", "sex")))
    table = balance(frame, matched.expanded(), ["age", "sex"])
    assert (table["smd_before"].abs() > 0.3).all()
    assert (table["smd_after"].abs() < 0.1).all()


def test_an_unknown_column_is_named():
    with pytest.raises(CaseRefused, match="bmi"):
        balance(BEFORE, AFTER, ["bmi"])
    with pytest.raises(CaseRefused, match="scan_date"):
        balance(BEFORE.drop(columns="scan_date"), AFTER, ["scan_year"])
