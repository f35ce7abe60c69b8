from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_vfx.analysis.cohort.baseline_tables import baseline_table, contingency_test
from monai_vfx.core.errors import CaseRefused

CONTROLS, CASES = 606, 608
MEANS = {  # the study's Table 2: mean and SD without and with a fracture
    "age": ((72.0, 7.6), (72.9, 8.2)),
    "height_cm": ((156.9, 8.5), (157.1, 8.3)),
    "weight_kg": ((58.29, 9.47), (58.11, 10.4)),
    "bmi": ((23.7, 3.4), (23.5, 3.5)),
}
COUNTS = {
    "smoker": (115, 169),
    "drinker": (113, 123),
    "glucocorticoids": (47, 114),
    "secondary_osteoporosis": (45, 77),
}


def exactly(mean, sd, n, seed):
    """n values with just this mean and SD"""
    values = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


@pytest.fixture(scope="module")
def table_2():
    frame = pd.DataFrame({"fracture": [0] * CONTROLS + [1] * CASES})
    for seed, (name, (controls, cases)) in enumerate(MEANS.items()):
        frame[name] = np.r_[exactly(*controls, CONTROLS, seed), exactly(*cases, CASES, seed + 9)]
    for name, (controls, cases) in COUNTS.items():
        frame[name] = np.r_[np.arange(CONTROLS) < controls, np.arange(CASES) < cases].astype(float)
    women = np.r_[np.arange(CONTROLS) < 422, np.arange(CASES) < 417]
    frame["sex"] = np.where(women, "F", "M")
    return frame


def line(table, variable):
    return table[table["variable"] == variable].iloc[0]


def test_table_2_of_the_study_comes_back_from_patients_like_its_own(table_2):
    table = baseline_table(table_2, "fracture")
    assert table["label"].tolist()[:4] == ["Participants", "Age, years", "Female", "Height, cm"]
    assert table.loc[0, ["0", "1"]].tolist() == ["606", "608"]
    assert line(table, "age")[["0", "1"]].tolist() == ["72.0 ± 7.6", "72.9 ± 8.2"]
    assert line(table, "sex")[["0", "1"]].tolist() == ["422 (69.6)", "417 (68.6)"]
    assert line(table, "smoker")[["0", "1"]].tolist() == ["115 (19.0)", "169 (27.8)"]
    assert line(table, "glucocorticoids")[["0", "1"]].tolist() == ["47 (7.8)", "114 (18.8)"]


def test_p_values_are_those_of_student_and_pearson(table_2):
    table = baseline_table(table_2, "fracture")
    for name, ((m0, s0), (m1, s1)) in MEANS.items():
        pooled = ((CONTROLS - 1) * s0**2 + (CASES - 1) * s1**2) / (CONTROLS + CASES - 2)
        t = (m1 - m0) / math.sqrt(pooled * (1 / CONTROLS + 1 / CASES))
        assert line(table, name)["p"] == f"{2 * stats.t.sf(abs(t), CONTROLS + CASES - 2):.3f}"
        assert line(table, name)["test"] == "Student t"
    for name, (a, b) in {**COUNTS, "sex": (422, 417)}.items():
        c, d = CONTROLS - a, CASES - b
        chi = (CONTROLS + CASES) * (a * d - b * c) ** 2
        chi /= (a + b) * (c + d) * CONTROLS * CASES
        p = stats.chi2.sf(chi, 1)
        assert line(table, name)["p"] == ("<0.001" if p < 0.001 else f"{p:.3f}")
        assert line(table, name)["test"] == "chi-square"
    # As worked out in docs/paper-audit.md, unlike the printed <0.001 and 0.957.
    assert (line(table, "age")["p"], line(table, "sex")["p"]) == ("0.048", "0.692")


def test_welch_is_another_test(table_2):
    apart = table_2.copy()
    apart.loc[apart["fracture"] == 1, "age"] = exactly(73, 14, CASES, 3)
    apart = pd.concat([apart, apart[apart["fracture"] == 0].iloc[:300]])
    welch = line(baseline_table(apart, "fracture", ["age"], welch=True), "age")
    groups = [g.to_numpy() for _, g in apart.groupby("fracture")["age"]]
    assert welch["p"] == f"{stats.ttest_ind(*groups, equal_var=False).pvalue:.3f}"
    assert welch["test"] == "Welch t"


def test_standardised_differences(table_2):
    table = baseline_table(table_2, "fracture")
    assert float(line(table, "age")["smd"]) == pytest.approx(
        0.9 / math.sqrt((7.6**2 + 8.2**2) / 2), abs=5e-4
    )
    p0, p1 = 115 / 606, 169 / 608
    scale = math.sqrt((p0 * (1 - p0) + p1 * (1 - p1)) / 2)
    assert float(line(table, "smoker")["smd"]) == pytest.approx((p1 - p0) / scale, abs=5e-4)
    assert "smd" not in baseline_table(table_2, "fracture", smd=False)


def test_unknown_values_are_counted_and_left_out():
    frame = pd.DataFrame(
        {
            "fracture": [0, 0, 0, 0, 1, 1, 1, 1],
            "age": [60.0, 62.0, 64.0, np.nan, 70.0, 72.0, 74.0, np.nan],
            "smoker": [1.0, 0.0, np.nan, np.nan, 1.0, 1.0, 0.0, 0.0],
            "sex": ["F", "F", "M", None, "M", "M", "M", "M"],
        }
    )
    table = baseline_table(frame, "fracture")
    age, smoker, sex = (line(table, name) for name in ("age", "smoker", "sex"))
    assert (age["missing"], age["0"], age["1"]) == ("2", "62.0 ± 2.0", "72.0 ± 2.0")
    assert (smoker["missing"], smoker["0"], smoker["1"]) == ("2", "1 (50.0)", "2 (50.0)")
    assert (sex["missing"], sex["0"], sex["1"]) == ("1", "2 (66.7)", "0 (0.0)")
    assert sex["test"] == "Fisher exact"
    assert sex["p"] == f"{stats.fisher_exact([[2, 1], [0, 4]]).pvalue:.3f}"


def test_what_nobody_has_or_all_have_is_shown_without_a_test():
    frame = pd.DataFrame(
        {
            "fracture": [0, 0, 1, 1],
            "hiv": 0.0,
            "hepatitis_c": np.nan,
            "bmi": [20.0, 22.0, np.nan, np.nan],
            "weight_kg": 60.0,
            "drinker": [1.0, 0.0, np.nan, np.nan],
        }
    )
    table = baseline_table(frame, "fracture")
    assert line(table, "hiv")[["0", "1"]].tolist() == ["0 (0.0)", "0 (0.0)"]
    assert line(table, "hepatitis_c")[["missing", "0", "1"]].tolist() == ["4"] + ["not known"] * 2
    assert line(table, "bmi")[["missing", "0", "1"]].tolist() == ["2", "21.0 ± 1.4", "not known"]
    assert line(table, "drinker")[["0", "1"]].tolist() == ["1 (50.0)", "not known"]
    assert (table[["p", "test", "smd"]] == "").all(axis=None)


def test_categories_and_named_groups():
    frame = pd.DataFrame(
        {
            "hospital": ["development"] * 60 + ["external"] * 60,
            "contrast_phase": ["none", "arterial", "delayed"] * 20
            + ["none", "none", "arterial"] * 20,
            "scan_date": ["2012-03-01"] * 60 + ["2013-03-01"] * 60,
            "fracture": [0, 1] * 60,
        }
    )
    table = baseline_table(frame, "hospital", ["contrast_phase", "scan_year", "fracture"])
    phase = table[table["variable"] == "contrast_phase"]
    assert phase["level"].tolist() == ["arterial", "delayed", "none"]
    assert phase["development"].tolist() == ["20 (33.3)"] * 3
    assert phase["external"].tolist() == ["20 (33.3)", "0 (0.0)", "40 (66.7)"]
    assert phase["p"].tolist() == ["<0.001", "", ""]
    assert line(table, "fracture")["external"] == "30 (50.0)"
    assert line(table, "fracture")["p"] == "1.000"
    assert line(baseline_table(frame, "hospital"), "fracture")["development"] == "30 (50.0)"


def test_the_csv_is_the_same_whatever_the_order_of_rows(table_2):
    first = baseline_table(table_2, "fracture").to_csv(index=False)
    other = table_2.sample(frac=1, random_state=1)
    assert baseline_table(other, "fracture").to_csv(index=False) == first
    read = pd.read_csv(io.StringIO(first), dtype=str, keep_default_na=False)
    assert read.equals(baseline_table(table_2, "fracture"))


def test_contingency_test_from_counts():
    p, test = contingency_test([[10, 20, 30], [30, 20, 10]])
    assert (p, test) == (pytest.approx(stats.chi2.sf(20, 2)), "chi-square")  # Σ(o - e)²/e = 20
    p, test = contingency_test([[3, 1], [1, 3]])
    assert (p, test) == (pytest.approx(34 / 70), "Fisher exact")  # 2 (C(4,1)C(4,3)+1)/C(8,4)
    assert contingency_test([[5, 0], [9, 0]])[1] == ""
    assert contingency_test([[0, 0], [9, 3]])[1] == ""


def test_faulty_groups_are_refused(table_2):
    with pytest.raises(CaseRefused, match="no column hospital"):
        baseline_table(table_2, "hospital")
    with pytest.raises(CaseRefused, match="1 groups"):
        baseline_table(table_2[:600], "fracture")
    with pytest.raises(CaseRefused, match="unknown for 1"):
        baseline_table(table_2.assign(sex=["F", "M"] * 606 + ["F", None]), "sex")
    with pytest.raises(CaseRefused, match="no column hiv"):
        baseline_table(table_2, "fracture", ["hiv"])
