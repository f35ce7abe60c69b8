from __future__ import annotations

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from monai_vfx.analysis.evaluation.comparisons import mcnemar_tests
from monai_vfx.analysis.evaluation.discrimination import auroc, delong_test
from monai_vfx.analysis.evaluation.score_table import Columns, check_table, read_score_table
from monai_vfx.analysis.evaluation.summary import evaluate_scores
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.schemas import violations


def holm(p):
    return multipletests(p, method="holm")[1].tolist()


def cohort(n=160, seed=0):
    """A table with two scores, an absolute risk, gaps, follow-up and covariates."""
    rng = np.random.default_rng(seed)
    age = rng.normal(70, 8, n).round(1)
    risk = 1 / (1 + np.exp(-(-1.0 + (age - 70) / 10 + rng.normal(size=n))))
    y = (rng.random(n) < risk).astype(int)
    frame = pd.DataFrame(
        {
            "case_id": [f"P{row:03d}" for row in range(n)],
            "fracture": y,
            "image": rng.normal(size=n).round(1) + y,  # any scale
            "clinical": rng.integers(0, 100, n) / 100,
            "risk": risk,
            "age": age,
            "sex": rng.choice(["F", "M"], n),
            "years": np.where(y == 1, rng.uniform(0.1, 5, n), rng.uniform(2, 9, n)),
        }
    )
    frame["event"] = np.where(y == 1, 1, np.where(rng.random(n) < 0.1, 2, 0))
    frame.loc[[3, 10, 11], "clinical"] = math.nan
    frame.loc[[7, 10], "image"] = math.nan
    return frame


SCORES = ["image", "clinical", "risk"]
FULL = {
    "subgroups": ["sex", "age"],
    "adjust_for": ["age", "sex"],
    "time": "years",
    "event": "event",
    "risk_scores": ["risk"],
    "bootstrap": 150,
}


@pytest.fixture(scope="module")
def full():
    return evaluate_scores(cohort(), "fracture", SCORES, **FULL)


def test_the_document_keeps_its_schema_and_is_json(full):
    assert violations(json.loads(json.dumps(full, allow_nan=False)), "evaluation") == []


def places(node, path=()):
    """Every object of the document, with the keys that lead to it."""
    if isinstance(node, dict):
        yield path
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list) and node:
        yield from places(node[0], (*path, 0))


def test_the_schema_misses_every_key_that_is_dropped_or_added(full):
    plain = json.loads(json.dumps(full))
    plain["scores"] = {"risk": plain["scores"]["risk"]}
    plain["comparisons"] = [plain["comparisons"][0], plain["comparisons"][-1]]
    curve = plain["cumulative_incidence"]
    for key in ("times", "fracture", "ci", "death", "at_risk"):
        curve[key] = curve[key][:2]
    for key in ("decision_curve", "subgroups", "operating_points"):
        plain["scores"]["risk"][key] = plain["scores"]["risk"][key][:1]
    del plain["scores"]["risk"]["calibration"]["bins"][1:]
    assert violations(plain, "evaluation") == []
    checked = 0
    paths = [*places(plain), ("comparisons", 1)]  # one of each test
    for path in paths:
        if path == ("scores",):  # its keys are the scores' names
            continue
        for key in (*_at(plain, path), "stranger"):
            broken = copy.deepcopy(plain)
            place = _at(broken, path)
            if key == "stranger":
                place[key] = 1
            else:
                del place[key]
            assert violations(broken, "evaluation"), (path, key)
            checked += 1
    assert checked > 110


def _at(node, path):
    for key in path:
        node = node[key]
    return node


def test_each_score_is_judged_on_the_patients_that_have_it(full):
    frame = cohort()
    assert (full["n"], full["events"]) == (160, int(frame["fracture"].sum()))
    assert full["complete_cases"] is False
    for name, missing in (("image", 2), ("clinical", 3), ("risk", 0)):
        there = frame[frame[name].notna()]
        known = auroc(there["fracture"], there[name])
        entry = full["scores"][name]
        assert (entry["n"], entry["missing"]) == (160 - missing, missing)
        assert entry["events"] == int(there["fracture"].sum())
        assert entry["auroc"] == known.value
        assert entry["auroc_ci"] == [known.low, known.high]
        low, high = entry["bootstrap_ci"]
        assert low < entry["auroc"] < high


def test_comparisons_use_the_patients_that_have_both(full):
    frame = cohort().dropna(subset=["image", "clinical"])
    delong = [entry for entry in full["comparisons"] if entry["test"] == "delong"]
    assert [(entry["a"], entry["b"], entry["n"]) for entry in delong] == [
        ("image", "clinical", 156),  # 2 + 3 gaps, one patient has both
        ("image", "risk", 158),
        ("clinical", "risk", 157),
    ]
    known = delong_test(frame["fracture"], frame["image"], frame["clinical"])
    assert (delong[0]["z"], delong[0]["p"]) == (known.z, known.p)
    low, high = delong[0]["bootstrap_ci"]
    assert low < known.difference < high
    assert [entry["p_holm"] for entry in delong] == holm([entry["p"] for entry in delong])


def test_mcnemar_families_are_corrected_on_their_own(full):
    tests = [entry for entry in full["comparisons"] if entry["test"] == "mcnemar"]
    families = {entry["family"] for entry in tests}
    assert len(tests) == 3 * 2 * 3  # pairs, rules, quantities
    assert len(families) == 6
    for family in families:
        members = [entry for entry in tests if entry["family"] == family]
        assert [entry["p_holm"] for entry in members] == holm([entry["p"] for entry in members])


def test_mcnemar_counts_those_whom_one_score_alone_calls_rightly(full):
    frame = cohort().dropna(subset=["image", "clinical"])
    cuts = {
        name: full["scores"][name]["operating_points"][0]["threshold"]
        for name in ("image", "clinical")
    }
    known = mcnemar_tests(
        frame["fracture"],
        frame["image"] >= cuts["image"],
        frame["clinical"] >= cuts["clinical"],
    )
    found = [e for e in full["comparisons"] if e["test"] == "mcnemar" and e["rule"] == "youden"]
    for test, entry in zip(known, found[:3], strict=True):
        assert (entry["a"], entry["b"]) == ("image", "clinical")
        assert (entry["only_a"], entry["only_b"], entry["p"]) == (test.only_a, test.only_b, test.p)


def test_thresholds_chosen_here_say_so(full):
    for entry in full["scores"].values():
        assert {point["chosen_on"] for point in entry["operating_points"]} == {"same rows"}


def test_calibration_and_decisions_only_where_they_mean_something(full):
    image, clinical, risk = (full["scores"][name] for name in SCORES)
    assert image["calibration"] is None  # not within 0-1
    assert clinical["calibration"]["kind"] == "score"
    assert risk["calibration"]["kind"] == "risk"
    assert (image["decision_curve"], clinical["decision_curve"]) == (None, None)
    assert risk["decision_curve"][0]["threshold"] == 0.01
    assert image["time"]["brier"] is None
    assert risk["time"]["brier"] > 0


def test_the_decision_curve_takes_the_stated_prevalence():
    found = evaluate_scores(
        cohort(), "fracture", ["risk"], risk_scores=["risk"], prevalence=0.04, bootstrap=100
    )
    first = found["scores"]["risk"]["decision_curve"][0]
    assert first["treat_all"] == pytest.approx(0.04 - 0.96 * 0.01 / 0.99)


def test_subgroups_state_n_and_events_and_add_up(full):
    for entry in full["scores"].values():
        for variable, count in (("sex", 2), ("age", 3)):
            rows = [row for row in entry["subgroups"] if row["variable"] == variable]
            assert len(rows) == count
            assert sum(row["n"] for row in rows) == entry["n"]
            assert sum(row["events"] for row in rows) == entry["events"]


def test_matched_pairs_and_patients_are_drawn_together():
    frame = cohort()
    alone = evaluate_scores(frame, "fracture", ["risk"], bootstrap=100)
    frame["patient_id"] = ["" if row > 79 else f"p{row % 40}" for row in range(160)]
    tied = evaluate_scores(frame, "fracture", ["risk"], bootstrap=100)
    assert alone["notes"] == []
    assert "several rows" in tied["notes"][0]
    assert alone["scores"]["risk"]["bootstrap_ci"] != tied["scores"]["risk"]["bootstrap_ci"]
    assert alone["scores"]["risk"]["auroc_ci"] == tied["scores"]["risk"]["auroc_ci"]


def test_order_of_scores_and_repetition_change_no_number(full):
    again = evaluate_scores(cohort(), "fracture", SCORES[::-1], **FULL)
    assert again["scores"] == full["scores"]
    other = evaluate_scores(cohort(), "fracture", SCORES, **FULL, seed=1)
    assert other["scores"]["risk"]["bootstrap_ci"] != full["scores"]["risk"]["bootstrap_ci"]


def test_comparisons_with_a_reference_or_named_pairs():
    def pairs(comparisons):
        found = evaluate_scores(
            cohort(), "fracture", SCORES, comparisons=comparisons, bootstrap=100
        )
        return [(e["a"], e["b"]) for e in found["comparisons"] if e["test"] == "delong"]

    assert pairs("reference") == [("image", "clinical"), ("image", "risk")]
    assert pairs([("risk", "image")]) == [("risk", "image")]
    assert pairs([]) == []


def frozen(*scores):
    rows = [(name, "frozen", "youden", 0.5, f"origin of {name}") for name in scores]
    return pd.DataFrame(rows, columns=["score", "fold", "rule", "threshold", "chosen_on"])


def test_a_frozen_cut_is_not_compared_with_one_chosen_on_the_same_rows():
    settings = {"rules": ["youden"], "bootstrap": 100}
    found = evaluate_scores(
        cohort(), "fracture", SCORES[:2], thresholds=frozen("image"), **settings
    )
    origins = [found["scores"][name]["operating_points"][0]["chosen_on"] for name in SCORES[:2]]
    assert origins == ["origin of image", "same rows"]
    assert [entry["test"] for entry in found["comparisons"]] == ["delong"]
    assert "Decisions of image and clinical by youden are not compared" in found["notes"][0]
    both = evaluate_scores(
        cohort(), "fracture", SCORES[:2], thresholds=frozen(*SCORES[:2]), **settings
    )
    assert [e["test"] for e in both["comparisons"]] == ["delong", *["mcnemar"] * 3]
    assert both["notes"] == []


def test_an_incidence_that_ends_at_one_stays_a_share():
    # The last one at risk fractures, and the rounded steps add up to 1 + 2e-16.
    frame = pd.DataFrame({"t": [4, 1, 1, 2, 5, 3, 4], "e": [1, 0, 1, 1, 1, 0, 1], "s": range(7)})
    frame["y"] = frame["e"]
    found = evaluate_scores(frame, "y", ["s"], time="t", event="e", bootstrap=100)
    assert found["cumulative_incidence"]["fracture"][-1] <= 1
    assert violations(json.loads(json.dumps(found)), "evaluation") == []


def test_what_cannot_be_computed_is_noted():
    frame = cohort()
    frame["years"] = frame["years"].clip(upper=3.0)
    found = evaluate_scores(frame, "fracture", ["risk"], time="years", event="event", bootstrap=100)
    assert found["scores"]["risk"]["time"] is None
    assert "No time-dependent AUROC of risk" in found["notes"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "outcome"}, "columns are missing: outcome; there are: case_id, fracture, image"),
        ({"scores": []}, "scores is empty"),
        ({"scores": ["image", "image"]}, "each score must be named once"),
        ({"scores": ["fracture"]}, "the label is none"),
        ({"risk_scores": ["clinical"]}, "risk_scores must be among the scores: clinical"),
        ({"time": "years"}, "time and event"),
        ({"bootstrap": 10}, "bootstrap"),
        ({"seed": -1}, "seed"),
        ({"horizon_years": 0}, "horizon_years"),
        ({"prevalence": 4}, "prevalence"),
        ({"rules": ["best"]}, "rule 'best' is unknown"),
        ({"rules": ["risk_0.20"]}, "needs a score that is one"),
        ({"comparisons": "some"}, "must be all, reference or pairs"),
        ({"comparisons": [("image", "age")]}, "pairs of two different scores among image"),
        ({"subgroups": ["case_id"]}, "case_id has 160 different entries"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    given = {"label": "fracture", "scores": ["image"], **settings}
    with pytest.raises(SettingError, match=message):
        evaluate_scores(cohort(), given.pop("label"), given.pop("scores"), **given)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def refusal_of(table, columns):
    with pytest.raises(CaseRefused) as caught:
        check_table(table, columns)
    assert caught.value.code == "cohort_invalid"
    return str(caught.value)


def test_all_bad_cells_are_named_at_once(tmp_path):
    table = read_score_table(
        write(
            tmp_path / "t.csv",
            "y,a,r,t,e\nyes,1,0.2,1,0\n1,high,20,-1,3\n\n,inf,0.5,,1\n0,,NA,2,0\n1,2,0.1,3,2\n",
        )
    )
    message = refusal_of(table, Columns("y", ("a", "r"), ("r",), "t", "e"))
    for part in (
        "row 2, y: 'yes', must be 0 or 1",
        "row 3, a: 'high', must be a number or empty",
        "row 3, r: '20', must be a risk in 0-1 (divide percent by 100) or empty",
        "row 3, t: '-1', must be years of at least 0",
        "row 3, e: '3', must be 0 (censored), 1 (fracture) or 2 (death)",
        "row 5, y: empty, must be 0 or 1",
        "row 5, a: 'inf', must be a number or empty",
        "row 5, t: empty, must be years",
    ):
        assert part in message
    assert message.count("row ") == 8  # empty and NA scores are no faults


def test_many_faults_are_counted():
    table = pd.DataFrame({"y": ["?"] * 70, "a": range(70)})
    assert "and 20 more" in refusal_of(table, Columns("y", ("a",)))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], ["0", "0", "1", "1"], [False, False, True, True]])
def test_labels_may_be_numbers_text_or_booleans(labels):
    found = check_table(pd.DataFrame({"y": labels, "a": [1, 2, 3, 4]}), Columns("y", ("a",)))
    assert found["y"].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_score_without_both_outcomes_is_refused():
    table = pd.DataFrame({"y": [0, 1, 0], "a": [1, None, 2], "b": [1, 2, 3]})
    message = refusal_of(table, Columns("y", ("a", "b")))
    assert "a: 0 fractures among 2 patients with this score. Both outcomes must occur." in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the table is empty"),
        (b"y,a\n", "the table has no rows"),
        (b"y,a,a\n1,2,3\n", "columns occur twice: a"),
        (b"y,a\n1,2,3\n0\n", "row 2: 3 cells, the header has 2; row 3: 1 cells"),
        ("y,a\n1,ü\n".encode("latin-1"), "not in UTF-8"),
        (b'y,a\n1,"2\n', "the table is not a CSV"),
    ],
)
def test_unreadable_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(CaseRefused, match=message):
        read_score_table(path)


def test_a_missing_file_is_refused_without_its_path(tmp_path):
    with pytest.raises(CaseRefused, match="No such file") as caught:
        read_score_table(tmp_path / "Jane_Doe.csv")
    assert "Jane_Doe" not in str(caught.value)
