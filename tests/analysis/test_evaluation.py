from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from monai_vfx.analysis.evaluation.bootstrap import auroc_samples, draw_counts, percentile_interval
from monai_vfx.analysis.evaluation.discrimination import (
    auroc,
    auroc_json,
    delong_test,
    hanley_mcneil_variance,
    roc_curve,
)
from monai_vfx.analysis.evaluation.estimates import wilson_interval


def mann_whitney(y, score):
    """Count the pairs one by one: the definition of AUROC, ties half."""
    pairs = [
        (s > t) + 0.5 * (s == t)
        for (a, s), (b, t) in itertools.product(zip(y, score, strict=True), repeat=2)
        if a == 1 and b == 0
    ]
    return sum(pairs) / len(pairs)


def delong_variance(y, score):
    """DeLong's formula written out with loops over structural components."""
    events = [s for a, s in zip(y, score, strict=True) if a == 1]
    others = [s for a, s in zip(y, score, strict=True) if a == 0]

    def psi(s, t):
        return (s > t) + 0.5 * (s == t)

    v10 = [sum(psi(s, t) for t in others) / len(others) for s in events]
    v01 = [sum(psi(s, t) for s in events) / len(events) for t in others]
    mean = sum(v10) / len(v10)
    s10 = sum((v - mean) ** 2 for v in v10) / (len(v10) - 1)
    s01 = sum((v - mean) ** 2 for v in v01) / (len(v01) - 1)
    return s10 / len(v10) + s01 / len(v01)


tables = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=4, max_size=25).filter(
    lambda rows: 1 < sum(a for a, _ in rows) < len(rows) - 1
)


@given(tables)
@settings(max_examples=150, deadline=None)
def test_auroc_and_variance_equal_the_pair_counts(rows):
    y, score = zip(*rows, strict=True)
    result = auroc(y, score)
    assert result.value == pytest.approx(mann_whitney(y, score), abs=1e-12)
    if result.method == "delong_logit":
        assert result.variance == pytest.approx(delong_variance(y, score), abs=1e-12)
    assert (result.n, result.events) == (len(y), sum(y))
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert result.low < result.high


@given(tables)
@settings(max_examples=60, deadline=None)
def test_reversing_the_score_mirrors_everything(rows):
    y, score = zip(*rows, strict=True)
    forward = auroc(y, score)
    back = auroc(y, [-s for s in score])
    assert back.value == pytest.approx(1 - forward.value, abs=1e-12)
    assert back.low == pytest.approx(1 - forward.high, abs=1e-9)
    assert back.method == forward.method


def test_hand_computed_case_with_a_tie():
    # Events .35 .8 .4 have 1, 2 and 1.5 of two non-events below them: 4.5 / 6.
    # V10 = (.5, 1, .75), V01 = (1, .5): variance .0625/3 + .125/2 = 1/12.
    result = auroc([0, 0, 1, 1, 1], [0.1, 0.4, 0.35, 0.8, 0.4])
    assert result.value == 0.75
    assert result.variance == pytest.approx(1 / 12)
    half = norm.ppf(0.975) * math.sqrt(1 / 12) / (0.75 * 0.25)
    assert result.low == pytest.approx(1 / (1 + math.exp(half) / 3))
    assert result.high == pytest.approx(1 / (1 + math.exp(-half) / 3))


def test_score_scale_does_not_matter():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 60)
    score = rng.normal(size=60) + y
    assert auroc(y, score) == auroc(y, np.exp(score))


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, 0.0)])
def test_separable_classes_have_an_exact_bound(sign, value):
    y = [0] * 5 + [1] * 3
    result = auroc(y, sign * np.arange(8.0))
    bound = 0.025 ** (1 / 3)  # three of three successes, Clopper and Pearson
    expected = (bound, 1.0) if value else (0.0, 1 - bound)
    assert result.value == value
    assert (result.low, result.high) == pytest.approx(expected)
    assert result.method == "exact_extreme"


def test_equal_scores_fall_back_on_hanley_mcneil():
    # At A = 1/2 Hanley and McNeil's variance is Wilcoxon's, (m + k + 1) / (12 m k).
    result = auroc([0, 0, 0, 1, 1], [7, 7, 7, 7, 7])
    assert result.value == 0.5
    assert result.variance == pytest.approx(6 / (12 * 2 * 3))
    assert result.method == "hanley_mcneil_logit"
    assert result.low < 0.5 < result.high


def test_one_event_still_has_an_interval():
    result = auroc([0, 0, 1], [1.0, 3.0, 2.0])
    assert (result.value, result.method) == (0.5, "hanley_mcneil_logit")
    assert result.low < 0.2
    assert result.high > 0.8


def test_interval_covers_the_truth_as_often_as_it_says():
    # Two normals one SD apart: the true AUROC is Φ(1/√2).
    rng = np.random.default_rng(11)
    truth = norm.cdf(1 / math.sqrt(2))
    y = np.repeat([0, 1], [60, 25])
    hits = 0
    for _ in range(600):
        result = auroc(y, rng.normal(size=y.size) + y)
        hits += result.low <= truth <= result.high
    assert 0.925 < hits / 600 < 0.975


def test_hanley_mcneil_golden_figure():
    half = norm.ppf(0.975) * math.sqrt(hanley_mcneil_variance(0.827, events=61, nonevents=434))
    assert (round(0.827 - half, 3), round(0.827 + half, 3)) == (0.762, 0.892)


def test_delong_test_of_identical_predictions():
    y = [0, 1, 0, 1, 1]
    score = [0.2, 0.3, 0.6, 0.7, 0.9]
    for other in (score, [10 * s for s in score]):
        result = delong_test(y, score, other)
        assert (result.difference, result.z, result.p) == (0.0, 0.0, 1.0)


def test_delong_test_equals_the_formula_written_out():
    rng = np.random.default_rng(5)
    y = np.repeat([0, 1], [17, 9])
    a = np.round(rng.normal(size=26) + y, 1)
    b = np.round(0.5 * a + rng.normal(size=26), 1)
    result = delong_test(y, a, b)
    components = []
    for score in (a, b):
        psi = (score[y == 1][:, None] > score[y == 0]) + 0.5 * (
            score[y == 1][:, None] == score[y == 0]
        )
        components.append((psi.mean(1), psi.mean(0)))
    (a10, a01), (b10, b01) = components
    covariance = np.cov(a10, b10) / 9 + np.cov(a01, b01) / 17
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert result.variance == pytest.approx(variance)
    assert result.difference == pytest.approx(mann_whitney(y, a) - mann_whitney(y, b))
    assert result.p == pytest.approx(2 * norm.sf(abs(result.difference) / math.sqrt(variance)))
    swapped = delong_test(y, b, a)
    assert (swapped.z, swapped.p) == pytest.approx((-result.z, result.p))


def test_delong_test_holds_its_level():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], [50, 50])
    shared = rng.normal(size=(1500, 100)) + y
    p = [delong_test(y, s + rng.normal(size=100), s + rng.normal(size=100)).p for s in shared]
    assert 0.033 < np.mean(np.array(p) < 0.05) < 0.067  # three standard errors


def test_delong_test_without_variance_does_not_claim_certainty():
    y = [0, 0, 0, 1, 1, 1]
    result = delong_test(y, [1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3])
    assert (result.auroc_a, result.auroc_b) == (1.0, 0.0)
    assert result.p == pytest.approx(2 * 0.5**3)
    assert result.z == pytest.approx(norm.isf(0.125))


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 1, 1], [0.1, math.nan, 0.2], "score holds nan at position 1"),
        ([0, 1, 1], [0.1, 0.2, math.inf], "score holds inf at position 2"),
        ([0, math.nan, 1], [0.1, 0.2, 0.3], "y holds nan at position 1"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "y holds 2.0 at position 2"),
        ([1, 1], [0.1, 0.2], "y holds 2 fractures among 2"),
        ([0, 0], [0.1, 0.2], "y holds 0 fractures among 2"),
        ([0, 1], [0.1, 0.2, 0.3], "score has 3 values but y has 2"),
        ([0, 1], [[0.1], [0.2]], r"score has the shape \(2, 1\)"),
        ([], [], r"y has the shape \(0,\)"),
        (["yes", "no"], [0.1, 0.2], "y must hold numbers only"),
        ([0, 1], ["a", "b"], "score must hold numbers only"),
    ],
)
def test_the_gate_names_what_is_wrong(y, score, message):
    for measure in (auroc, roc_curve):
        with pytest.raises(ValueError, match=message):
            measure(y, score)


def test_the_gate_of_the_paired_test_names_the_score():
    with pytest.raises(ValueError, match="score_b holds nan"):
        delong_test([0, 1, 0, 1], [1, 2, 3, 4], [1, 2, math.nan, 4])
    with pytest.raises(ValueError, match="two of each are needed"):
        delong_test([0, 1, 0, 0], [1, 2, 3, 4], [1, 2, 3, 4])


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=80, deadline=None)
def test_wilson_bounds_solve_the_score_equation(counts):
    successes, n = counts
    share = wilson_interval(successes, n)
    assert share.low <= share.value <= share.high
    for bound in (share.low, share.high):
        if 0 < bound < 1:
            z = (share.value - bound) / math.sqrt(bound * (1 - bound) / n)
            assert abs(z) == pytest.approx(norm.ppf(0.975), rel=1e-6)


def test_wilson_golden_values():
    # z² / (n + z²) is the upper bound when nothing was counted.
    square = norm.ppf(0.975) ** 2
    assert wilson_interval(0, 20).high == pytest.approx(square / (20 + square))
    half = wilson_interval(5, 10)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4), (0, 0), (1.5, 4), (1, 4.5)])
def test_wilson_rejects_what_is_no_count(successes, n):
    with pytest.raises(ValueError, match="whole number"):
        wilson_interval(successes, n)


def test_roc_curve_encloses_the_auroc():
    rng = np.random.default_rng(8)
    y = np.repeat([0, 1], [40, 20])
    score = np.round(rng.normal(size=60) + y, 1)
    false_positive, true_positive, thresholds = roc_curve(y, score)
    area = np.trapezoid(true_positive, false_positive)
    assert area == pytest.approx(auroc(y, score).value)
    assert thresholds[0] == math.inf


def test_json_entry_has_the_contract_keys():
    entry = auroc_json(auroc([0, 1, 0, 1], [0.2, 0.3, 0.4, 0.9]))
    assert entry["n"] == 4
    assert entry["events"] == 2
    assert entry["auroc"] == 0.75
    assert len(entry["auroc_ci"]) == 2


# R's pROC is the reference. Stored numbers: data/proc_reference.json beside this file, made by
# R 4.2.2 with pROC 1.18.0 and the script beside it.
DATA = Path(__file__).parent / "data"
PROC = json.loads((DATA / "proc_reference.json").read_text(encoding="utf-8"))


def check_area(y, score, theirs):
    """AUROC, variance and pROC's own plain interval, and ours from the same two numbers."""
    ours = auroc(y, score)
    assert ours.value == pytest.approx(theirs["auroc"], abs=1e-8)
    if ours.method != "delong_logit":
        # Here pROC gives a variance of 0 and an interval of no width: we differ on purpose.
        assert theirs["variance"] == 0
        assert theirs["ci"] == [theirs["auroc"]] * 2
        assert ours.high - ours.low > 0.1
        return ours.method
    assert ours.variance == pytest.approx(theirs["variance"], abs=1e-8)
    half = norm.ppf(0.975) * math.sqrt(ours.variance)
    plain = [max(0.0, ours.value - half), min(1.0, ours.value + half)]  # pROC clips likewise
    assert plain == pytest.approx(theirs["ci"], abs=1e-8)
    area = theirs["auroc"]
    half /= area * (1 - area)
    closed = [1 / (1 + (1 / area - 1) * math.exp(s * half)) for s in (1, -1)]
    assert [ours.low, ours.high] == pytest.approx(closed, abs=1e-8)
    return ours.method


@pytest.mark.parametrize("theirs", PROC["sets"], ids=lambda theirs: theirs["name"])
def test_auroc_interval_and_paired_test_equal_proc(theirs):
    y, a, b = theirs["y"], theirs["a"], theirs["b"]
    check_area(y, a, theirs["area_a"])
    check_area(y, b, theirs["area_b"])
    test = delong_test(y, a, b)
    assert test.z == pytest.approx(theirs["z"], abs=1e-8)
    assert test.p == pytest.approx(theirs["p"], abs=1e-8)


def test_the_reference_holds_what_it_should():
    sets = {entry["name"]: entry for entry in PROC["sets"]}
    assert len(sets) >= 20
    sizes = [len(entry["y"]) for entry in sets.values()]
    assert (min(sizes), max(sizes)) == (12, 800)
    tied = [entry for entry in sets.values() if len(set(entry["a"])) < len(entry["a"])]
    assert len(tied) == len(sets)
    assert sets["identical predictions"]["p"] == 1
    kinds = {name: auroc(s["y"], s["a"]).method for name, s in sets.items()}
    assert kinds["perfect separation"] == kinds["perfectly wrong"] == "exact_extreme"
    assert kinds["constant"] == "hanley_mcneil_logit"
    assert list(kinds.values()).count("delong_logit") == len(sets) - 3


@pytest.mark.slow
def test_r_gives_the_stored_numbers():
    if shutil.which("Rscript") is None:
        pytest.skip("no Rscript")
    done = subprocess.run(
        ["Rscript", DATA / "proc_reference.R"], capture_output=True, check=True, text=True
    )
    fresh = json.loads(done.stdout)
    assert len(fresh["sets"]) == len(PROC["sets"])
    for now, stored in zip(fresh["sets"], PROC["sets"], strict=True):
        assert (now["name"], now["y"], now["a"]) == (stored["name"], stored["y"], stored["a"])
        for key in ("z", "p"):
            assert now[key] == pytest.approx(stored[key], abs=1e-12)
        for side in ("area_a", "area_b"):
            assert now[side]["variance"] == pytest.approx(stored[side]["variance"], abs=1e-12)


def repeated(y, score, count):
    """A bootstrap sample written out: each patient as often as it was drawn."""
    return np.repeat(y, count), np.repeat(score, count)


def test_bootstrap_auroc_equals_that_of_the_patients_written_out():
    rng = np.random.default_rng(2)
    y = np.repeat([0, 1], [18, 11])
    score = rng.integers(0, 6, 29).astype(float)
    counts = draw_counts(y, samples=120, seed=7)
    fast = auroc_samples(y, score, counts)
    slow = [mann_whitney(*repeated(y, score, count)) for count in counts[:40]]
    assert fast[:40] == pytest.approx(slow, abs=1e-12)
    assert fast.shape == (120,)


def test_a_large_cohort_is_worked_on_in_parts(monkeypatch):
    rng = np.random.default_rng(2)
    y, score = rng.integers(0, 2, 30), rng.normal(size=30)
    counts = draw_counts(y, samples=101, seed=7)
    whole = auroc_samples(y, score, counts)
    monkeypatch.setattr(
        "monai_vfx.analysis.evaluation.bootstrap._CELLS", 70
    )  # two samples at a time
    assert (auroc_samples(y, score, counts) == whole).all()


def test_bootstrap_keeps_both_classes_and_repeats_with_its_seed():
    y = np.array([0, 1, 1, 0, 0, 1, 0])
    counts = draw_counts(y, samples=300, seed=3)
    assert (counts[:, y == 1].sum(axis=1) == 3).all()
    assert (counts[:, y == 0].sum(axis=1) == 4).all()
    assert (counts == draw_counts(y, samples=300, seed=3)).all()
    assert (counts != draw_counts(y, samples=300, seed=4)).any()
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)


def test_bootstrap_draws_pairs_whole_and_pairs_for_pairs():
    y = np.array([1, 0, 1, 0, 1, 0, 1, 0, 0])
    pair = np.array([0, 0, 1, 1, 2, 2, 3, 4, 5])  # three pairs, one case and two controls alone
    counts = draw_counts(y, groups=pair, samples=200, seed=1)
    for number in range(3):
        assert (counts[:, 2 * number] == counts[:, 2 * number + 1]).all()
    assert (counts[:, :6].sum(axis=1) == 6).all()
    assert (counts[:, 6] == 1).all()  # the only one of its kind
    assert (counts[:, 7:].sum(axis=1) == 2).all()


def test_bootstrap_interval_agrees_with_delong():
    rng = np.random.default_rng(4)
    y = np.repeat([0, 1], [300, 200])
    score = rng.normal(size=500) + 0.8 * y
    samples = auroc_samples(y, score, draw_counts(y, seed=5))
    assert samples.var() == pytest.approx(auroc(y, score).variance, rel=0.12)
    low, high = percentile_interval(samples)
    known = auroc(y, score)
    assert (low, high) == pytest.approx((known.low, known.high), abs=0.01)


def test_ignoring_strong_pairs_would_widen_the_difference_of_pairs():
    # Case and control of a pair share most of their score. The AUROC's spread over samples of
    # pairs must then be smaller than over samples of single patients.
    rng = np.random.default_rng(6)
    shared = np.repeat(rng.normal(size=150), 2)
    y = np.tile([1, 0], 150)
    score = 3 * shared + rng.normal(size=300) + y
    alone = auroc_samples(y, score, draw_counts(y, seed=1)).std()
    pairs = auroc_samples(y, score, draw_counts(y, groups=np.repeat(np.arange(150), 2), seed=1))
    assert pairs.std() < 0.6 * alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"samples": 99}, "at least 100"), ({"groups": [1, 2]}, "one entry a patient")],
)
def test_bootstrap_names_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        draw_counts([0, 1, 1], **settings)
