from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from monai_vfx.analysis.evaluation.decisions import decide
from monai_vfx.analysis.evaluation.score_table import Columns, check_table
from monai_vfx.analysis.evaluation.thresholds import (
    choose_thresholds,
    operating_point,
    parse_rule,
    point_json,
)
from monai_vfx.core.errors import SettingError

tables = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=30).filter(
    lambda rows: 0 < sum(a for a, _ in rows) < len(rows)
)


def shares(y, score, cut):
    """Sensitivity and specificity by counting."""
    events = [s >= cut for a, s in zip(y, score, strict=True) if a]
    others = [s < cut for a, s in zip(y, score, strict=True) if not a]
    return sum(events) / len(events), sum(others) / len(others)


@given(tables)
@settings(max_examples=150, deadline=None)
def test_youden_is_the_best_of_all_cuts_and_the_lowest_of_equals(rows):
    y, score = zip(*rows, strict=True)
    (chosen,) = choose_thresholds(y, score, ["youden"])
    index = {cut: round(sum(shares(y, score, cut)), 9) for cut in set(score)}
    best = max(index.values())
    assert chosen.threshold == min(cut for cut, value in index.items() if value == best)
    assert (chosen.n, chosen.events) == (len(y), sum(y))


@given(tables, st.sampled_from(["0.5", "0.80", "0.90", "0.333"]))
@settings(max_examples=150, deadline=None)
def test_fixed_sensitivity_is_the_highest_cut_that_reaches_it(rows, share):
    y, score = zip(*rows, strict=True)
    (chosen,) = choose_thresholds(y, score, [f"sensitivity_{share}"])
    reached = [c for c in set(score) if shares(y, score, c)[0] >= float(share) - 1e-9]
    assert chosen.threshold == max(reached)


def test_eighty_percent_of_ten_is_eight():
    y = [1] * 10 + [0]
    (chosen,) = choose_thresholds(y, [*range(10), 0], ["sensitivity_0.80"])
    assert chosen.threshold == 2  # 2..9 are eight patients


def test_fixed_risk_is_the_risk_itself():
    (chosen,) = choose_thresholds([0, 1, 1], [0.1, 0.2, 0.9], ["risk_0.20"])
    assert chosen.threshold == 0.2
    with pytest.raises(ValueError, match=r"risk_0.20 needs risks in \[0, 1\]; found 0.1 to 20"):
        choose_thresholds([0, 1, 1], [0.1, 0.2, 20], ["risk_0.20"])


@pytest.mark.parametrize("rule", ["Youden", "sensitivity", "sensitivity_80", "risk_0", "best", ""])
def test_unknown_rules_are_named(rule):
    with pytest.raises(ValueError, match="is unknown"):
        parse_rule(rule)


def test_operating_point_by_hand():
    # Called positive: 3 of 4 with, 2 of 6 without a fracture.
    y = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    point = operating_point(y, [1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    found = {
        name: (share["successes"], share["n"], share["value"])
        for name, share in point_json(point).items()
    }
    assert found == {
        "accuracy": (7, 10, 0.7),
        "sensitivity": (3, 4, 0.75),
        "specificity": (4, 6, 4 / 6),
        "ppv": (3, 5, 0.6),
        "npv": (4, 5, 0.8),
    }
    wilson = binomtest(3, 4).proportion_ci(method="wilson")
    assert point_json(point)["sensitivity"]["ci"] == pytest.approx([wilson.low, wilson.high])


def test_predictive_values_without_a_call_are_none():
    nobody = operating_point([0, 1], [0, 0])
    assert nobody["ppv"] is None
    assert nobody["npv"].value == 0.5
    everybody = operating_point([0, 1], [1, 1])
    assert everybody["npv"] is None
    with pytest.raises(ValueError, match="0 and 1 only"):
        operating_point([0, 1], [0.5, 1])


def table_of(**columns):
    frame = pd.DataFrame({"fracture": [0, 1, 0, 1], "s": [1.0, 2.0, 3.0, 4.0], **columns})
    return check_table(frame, Columns("fracture", ("s",)))


def cuts(*rows):
    return pd.DataFrame(rows, columns=["score", "fold", "rule", "threshold", "chosen_on"])


def decide_s(table, thresholds, rules=("youden",), is_risk=False):
    return decide(table, "fracture", "s", thresholds, rules, is_risk=is_risk)


def test_each_patient_takes_the_threshold_of_its_own_fold():
    rows = [("s", fold, "youden", cut, "inner folds") for fold, cut in ((0, 0), (1, 9))]
    (found,) = decide_s(table_of(fold=[0, 0, 1, 1]), cuts(*rows))
    assert found.positive.tolist() == [1, 1, 0, 0]
    assert (found.threshold, found.chosen_on) == (None, "inner folds")


@pytest.mark.parametrize("fold", [None, ["", "", "", ""], [math.nan] * 4])
def test_patients_outside_the_folds_take_the_frozen_threshold(fold):
    rows = [("s", "0", "youden", "0", "inner folds"), ("s", "frozen", "youden", "3", "training")]
    columns = {} if fold is None else {"fold": fold}
    (found,) = decide_s(table_of(**columns), cuts(*rows))
    assert found.positive.tolist() == [0, 0, 1, 1]
    assert (found.threshold, found.chosen_on) == (3.0, "training")


def test_a_cut_chosen_here_is_never_called_frozen():
    (youden,) = decide_s(table_of(), None)
    assert (youden.threshold, youden.chosen_on) == (2.0, "same rows")  # as good as 4, and lower
    other = cuts(("another score", "frozen", "youden", 3, "training"))
    (youden,) = decide_s(table_of(), other)
    assert youden.chosen_on == "same rows"


def test_a_fixed_risk_is_for_risks_only():
    table = table_of()
    table["s"] /= 10
    rules = ("youden", "risk_0.30")
    assert [found.rule for found in decide_s(table, None, rules)] == ["youden"]
    risk = decide_s(table, None, rules, is_risk=True)[1]
    assert (risk.chosen_on, risk.threshold) == ("fixed in advance", 0.3)
    assert risk.positive.tolist() == [0, 0, 1, 1]


def test_a_patient_without_score_has_no_call():
    table = table_of()
    table.loc[1, "s"] = math.nan
    (found,) = decide_s(table, cuts(("s", "frozen", "youden", 3, "training")))
    assert math.isnan(found.positive[1])
    assert found.positive[[0, 2, 3]].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("s", 0, "youden", 1, "x")], "none by the rule youden for the folds 1"),
        ([("s", 0, "youden", 1, "x"), ("s", 0, "youden", 2, "x")], "two for one fold"),
        ([("s", 0, "youden", "low", "x"), ("s", 1, "youden", 2, "x")], "'low' of s is no finite"),
        ([("s", 0, "youden", math.inf, "x"), ("s", 1, "youden", 2, "x")], "no finite"),
    ],
)
def test_faulty_thresholds_are_named(rows, message):
    with pytest.raises(SettingError, match=message):
        decide_s(table_of(fold=[0, 0, 1, 1]), cuts(*rows))


def test_missing_columns_of_thresholds_are_named():
    with pytest.raises(SettingError, match="lack the columns rule, chosen_on; there are: score"):
        decide_s(table_of(), cuts().drop(columns=["rule", "chosen_on"]))


def test_thresholds_move_with_the_scale():
    rng = np.random.default_rng(9)
    y = rng.integers(0, 2, 50)
    score = rng.normal(size=50) + y
    rules = ["youden", "sensitivity_0.80"]
    one, other = (choose_thresholds(y, s, rules) for s in (score, np.exp(score)))
    for a, b in itertools.zip_longest(one, other):
        assert math.exp(a.threshold) == pytest.approx(b.threshold)
