"""The audit page says what the functions say: derived cells are recomputed from their rows."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path

import pytest
from scipy.special import logit
from scipy.stats import chi2_contingency, fisher_exact

from benchmarks.paper_audit.published import (
    Summary,
    best_auroc,
    concave_auroc_bounds,
    implied_accuracy,
    min_correlation,
    min_mcnemar_p,
    possible_count,
    t_test_p,
    t_test_p_range,
)
from monai_vfx.analysis.cohort.baseline_tables import contingency_test
from monai_vfx.analysis.evaluation.discrimination import auroc, hanley_mcneil_variance
from monai_vfx.analysis.evaluation.estimates import wilson_interval

PAGE = (Path(__file__).parents[2] / "docs" / "paper-audit.md").read_text(encoding="utf-8")
SIZES = {"development": (608, 606), "external": (61, 434)}


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_tables():
    """{heading: rows as {column: cell}} of every table under a third-level heading"""
    tables = {}
    for part in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        head, _, *rows = [line for line in lines[1:] if line.startswith("|")]
        tables[lines[0]] = [dict(zip(cells(head), cells(row), strict=True)) for row in rows]
    return tables


TABLES = read_tables()
ALL_MODELS = 12


def show_p(p):
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def number(printed):
    """The largest p that a printed one can stand for"""
    return 0.001 if printed == "<0.001" else float(printed) + 0.0005


def summary(text, n):
    mean, sd = text.split(" ± ")
    steps = [10.0 ** -len(value.split(".")[1]) for value in (mean, sd)]
    return Summary(float(mean), float(sd), n, *steps)


def count(text):
    """422 of "422 (69.6)" """
    return int(text.split()[0])


def groups(row):
    """[(column, patients)] of the columns whose heading ends in the patients of the group"""
    found = [(name, re.search(r"\(([\d,]+)\)$", name)) for name in row]
    return [(name, int(hit.group(1).replace(",", ""))) for name, hit in found if hit]


def test_every_table_is_there_and_checked():
    assert {name: len(rows) for name, rows in TABLES.items()} == {
        "Table 1, means": 4,
        "Table 1, counts": 6,
        "Table 2, means": 4,
        "Table 2, counts": 5,
        "Percentages that are off": 3,
        "Table 2 pooled against Table 1": 4,
        "Intervals of the AUROC": 20,
        "Correlation that an external p-value needs": 6,
        "Least p of a paired test": 6,
        "Accuracy, development": ALL_MODELS,
        "Accuracy, external": ALL_MODELS,
        "External shares as counts": ALL_MODELS,
        "AUROC that one point allows": 4,
        "AUROC that Table 2 allows": 3,
        "Case-control sampling": 5,
    }


@pytest.mark.parametrize("name", ["Table 1, means", "Table 2, means"])
def test_means(name):
    for row in TABLES[name]:
        a, b = (summary(row[column], n) for column, n in groups(row))
        p, (low, high) = t_test_p(a, b), t_test_p_range(a, b)
        printed = row["printed p"]
        within = low < 0.001 if printed[0] == "<" else low <= number(printed) <= high + 0.001
        verdict = "agree" if show_p(p) == printed else "possible" if within else "disagree"
        assert row["recomputed p"] == show_p(p)
        assert row["range by rounding"] == f"{show_p(low)} to {show_p(high)}"
        assert row["verdict"] == verdict


@pytest.mark.parametrize("name", ["Table 1, counts", "Table 2, counts"])
def test_counts(name):
    for row in TABLES[name]:
        table = [[count(row[column]), n - count(row[column])] for column, n in groups(row)]
        p, test = contingency_test(table)
        assert test == "chi-square"
        assert row["recomputed p"] == show_p(p)
        assert row["verdict"] == ("agree" if show_p(p) == row["printed p"] else "disagree")
        if row["verdict"] == "disagree":  # neither does any other usual test give it
            assert show_p(chi2_contingency(table).pvalue) != row["printed p"]
            assert show_p(fisher_exact(table).pvalue) != row["printed p"]


def test_the_number_of_p_values_that_disagree_is_as_the_text_says():
    rows = [row for name in TABLES for row in TABLES[name] if re.match(r"Table \d, ", name)]
    assert sum(row["verdict"] == "disagree" for row in rows) == 8
    assert "Eight p-values" in PAGE


@pytest.mark.parametrize(
    ("table", "variable", "p"),
    [
        ("Table 2, means", "age, y", "0.048"),
        ("Table 2, counts", "female", "0.692"),
        ("Table 2, means", "height, cm", "0.678"),
        ("Table 2, means", "weight, kg", "0.753"),
        ("Table 2, counts", "drinker", "0.486"),
        ("Table 1, means", "BMI, kg/m²", "0.111"),
        ("Table 1, counts", "glucocorticoids", "0.326"),
    ],
)
def test_known_recomputed_p_values(table, variable, p):
    row = next(row for row in TABLES[table] if row["variable"] == variable)
    assert row["recomputed p"] == p


def test_percentages():
    off = []
    for name in ("Table 1, counts", "Table 2, counts"):
        for row in TABLES[name]:
            for column, n in groups(row):
                share = 100 * count(row[column]) / n
                printed = re.search(r"\(([\d.]+)\)", row[column]).group(1)
                if abs(share - float(printed)) > 0.05 + 1e-9:  # 18.75 may be printed as 18.8
                    patients = f"{count(row[column])} of {n}"
                    group = column.split(" (")[0]
                    cells_of_row = [name[6], f"{row['variable']}, {group}", patients, printed]
                    off.append([*cells_of_row, f"{share:.3f}"])
    assert [list(row.values()) for row in TABLES["Percentages that are off"]] == off


def test_table_2_pools_to_table_1():
    for row in TABLES["Table 2 pooled against Table 1"]:
        (a, n), (b, m) = [(summary(row[column], size), size) for column, size in groups(row)]
        mean = (n * a.mean + m * b.mean) / (n + m)
        squares = (n - 1) * a.sd**2 + (m - 1) * b.sd**2 + n * m * (a.mean - b.mean) ** 2 / (n + m)
        assert row["pooled"] == f"{mean:.1f} ± {math.sqrt(squares / (n + m - 1)):.1f}"
        same = row["pooled"] == row["Table 1, development"]
        assert row["verdict"] == ("agree" if same else "disagree")
    both, whole = TABLES["Table 2, counts"], TABLES["Table 1, counts"]
    for row, pooled in zip(both, whole, strict=False):
        assert sum(count(row[column]) for column, _ in groups(row)) == count(
            pooled["development (1,214)"]
        )


def test_bmi_fits_height_and_weight():
    for name in ("Table 1, means", "Table 2, means"):
        rows = {row["variable"]: row for row in TABLES[name]}
        for column, n in groups(rows["age, y"]):
            height, weight, bmi = (
                summary(rows[v][column], n).mean for v in ("height, cm", "weight, kg", "BMI, kg/m²")
            )
            assert abs(weight / (height / 100) ** 2 - bmi) < 0.1


def test_intervals_of_the_auroc():
    for row in TABLES["Intervals of the AUROC"]:
        value, low, high = map(float, re.findall(r"0\.\d+", row["printed"]))
        events, others = SIZES[row["set"]]
        variance = hanley_mcneil_variance(value, events=events, nonevents=others)
        half = 1.959964 * math.sqrt(variance)
        assert row["Hanley-McNeil"] == f"{value - half:.3f}-{value + half:.3f}"
        assert row["times as wide"] == f"{2 * half / (high - low):.0f}"
        assert 5 <= int(row["times as wide"]) <= 14
        assert low <= value <= high
    best = next(r for r in TABLES["Intervals of the AUROC"] if "0.827" in r["printed"])
    assert best["Hanley-McNeil"] == "0.762-0.892"


def test_correlations_that_p_values_need():
    for row in TABLES["Correlation that an external p-value needs"]:
        p = 0.001 if row["printed p"] == "<0.001" else float(row["printed p"])
        a, b = float(row["first AUROC"]), float(row["second AUROC"])
        needed = min_correlation(a, b, p, events=61, nonevents=434)
        assert row["least correlation"] == f"{needed:.3f}"


def test_smallest_p_of_a_paired_test():
    for row in TABLES["Least p of a paired test"]:
        difference = float(row["bone + muscle"]) - float(row["bone-only"])
        least = min_mcnemar_p(difference, int(row["patients"]))
        assert row["least p"] == show_p(least)
        possible = least < number(row["printed p"])
        assert row["verdict"] == ("possible" if possible else "impossible")


@pytest.mark.parametrize("name", list(SIZES))
def test_accuracy(name):
    events, others = SIZES[name]
    for row in TABLES[f"Accuracy, {name}"]:
        sensitivity, specificity = float(row["sensitivity"]), float(row["specificity"])
        printed = float(row["printed accuracy"])
        implied = implied_accuracy(sensitivity, specificity, events / (events + others))
        between = min(sensitivity, specificity) <= printed <= max(sensitivity, specificity)
        close = abs(implied - printed) <= 0.001
        assert row["implied accuracy"] == f"{implied:.3f}"
        assert row["verdict"] == ("agree" if close else "disagree" if between else "outside")
    outside = [row["model"] for row in TABLES[f"Accuracy, {name}"] if row["verdict"] == "outside"]
    assert outside == (["A", "B", "C", "D"] if name == "external" else [])


def test_external_shares_as_counts():
    for row in TABLES["External shares as counts"]:
        for share, count, wilson, n in (
            ("sensitivity", "fractures found", "Wilson", 61),
            ("specificity", "others left alone", "Wilson, specificity", 434),
        ):
            value = float(row[share])
            found = possible_count(value, n)
            assert row[count] == ("none" if found is None else f"{found} of {n}")
            interval = wilson_interval(round(value * n), n)
            assert row[wilson] == f"{interval.low:.3f}-{interval.high:.3f}"


def test_auroc_that_one_point_allows():
    for row in TABLES["AUROC that one point allows"]:
        low, high = concave_auroc_bounds(float(row["sensitivity"]), float(row["specificity"]))
        assert (row["least"], row["greatest"]) == (f"{low:.3f}", f"{high:.3f}")
        fits = low - 0.001 <= float(row["printed AUROC"]) <= high + 0.001
        assert row["verdict"] == ("possible" if fits else "impossible")


def test_auroc_that_table_2_allows():
    means = {row["variable"]: row for row in TABLES["Table 2, means"]}
    counts = {row["variable"]: row for row in TABLES["Table 2, counts"]}

    def pair(variable):
        return tuple(summary(means[variable][c], n) for c, n in groups(means[variable]))

    def shares(variable):
        return tuple(count(counts[variable][c]) / n for c, n in groups(counts[variable]))

    age, bmi, sex = pair("age, y"), pair("BMI, kg/m²"), shares("female")
    more = [shares(name) for name in counts if name != "female"]
    found = [
        best_auroc([age], [sex]),
        best_auroc([age, bmi], [sex]),
        best_auroc([age, bmi], [sex, *more]),
    ]
    rows = TABLES["AUROC that Table 2 allows"]
    assert [row["best AUROC"] for row in rows] == [f"{value:.3f}" for value in found]
    assert [f"{value:.2f}" for value in found] == ["0.54", "0.54", "0.62"]
    assert all(float(row["printed AUROC"]) > value for row, value in zip(rows, found, strict=True))


def test_case_control_sampling():
    cohort = 608 / 16279
    assert [row["value"] for row in TABLES["Case-control sampling"]] == [
        f"{cohort:.4f}",
        f"{logit(cohort) - logit(0.5):.2f}",
        f"{15671 / 606:.1f}",
        f"{454 / 1214:.3f}",
        f"{608 / 1214:.3f}",
    ]
    assert f"{logit(cohort):.2f}" == "-3.25"
    assert f"{100 * cohort:.2f} %" in PAGE


def test_sums_in_the_text():
    assert 32435 - 2643 - 8029 - 3258 == 18505 == 693 + 17812
    assert (693 - 85, 17812 - 2141, 608 + 606, 608 + 15671) == (608, 15671, 1214, 16279)
    rows = {row["model"]: row for row in TABLES["Accuracy, development"]}
    for model, percent in (("image (bone + muscle)", 67), ("bone-only", 47)):
        accuracy, sensitivity, specificity = (
            float(rows[model][c]) for c in ("printed accuracy", "sensitivity", "specificity")
        )
        assert round(100 * (accuracy - specificity) / (sensitivity - specificity)) == percent
        assert f"{percent} %" in PAGE
    assert f"{(16 + 385) / 495:.3f}" == "0.810"
    variance = sum(
        hanley_mcneil_variance(value, events=events, nonevents=others)
        for value, (events, others) in ((0.739, SIZES["development"]), (0.827, SIZES["external"]))
    )
    assert f"{(0.827 - 0.739) / math.sqrt(variance):.1f} standard errors" in PAGE


def test_examples_of_the_page_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        test = doctest.DocTestParser().get_doctest(block, {}, "paper-audit", None, 0)
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


# The functions themselves, against independent answers.


def test_t_range_holds_all_unrounded_values():
    import itertools

    from scipy.stats import ttest_ind_from_stats

    a, b = Summary(10.0, 2.0, 30), Summary(10.3, 1.5, 50)
    low, high = t_test_p_range(a, b)
    corners = [
        ttest_ind_from_stats(10.0 + i, 2.0 + j, 30, 10.3 + k, 1.5 + m, 50).pvalue
        for i, j, k, m in itertools.product((-0.05, 0, 0.05), repeat=4)
    ]
    assert low == pytest.approx(min(corners))
    assert high == pytest.approx(max(corners))
    assert t_test_p_range(Summary(1.0, 1.0, 9), Summary(1.1, 1.0, 9))[1] == pytest.approx(1)


def test_welch_from_summaries_is_that_of_the_data():
    import numpy as np
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 20), rng.normal(0.5, 3, 30)
    a, b = (Summary(v.mean(), v.std(ddof=1), v.size, 0, 0) for v in (x, y))
    assert t_test_p(a, b) == pytest.approx(ttest_ind(x, y).pvalue)
    assert t_test_p(a, b, welch=True) == pytest.approx(ttest_ind(x, y, equal_var=False).pvalue)


@pytest.mark.parametrize(
    ("sensitivity", "specificity"), [(0.262, 0.887), (0.705, 0.682), (0.9, 0.2), (0.6, 0.6)]
)
def test_concave_bounds_are_reached_and_never_passed(sensitivity, specificity):
    import numpy as np

    low, high = concave_auroc_bounds(sensitivity, specificity)
    x, y = 1 - specificity, sensitivity
    slopes = np.linspace((1 - y) / (1 - x), y / x, 2001)
    grid = np.linspace(0, 1, 4001)
    areas = [np.trapezoid(np.minimum(1, y + m * (grid - x)), grid) for m in slopes]
    assert max(areas) == pytest.approx(high, abs=2e-4)
    assert low == pytest.approx(np.trapezoid([0, y, 1], [0, x, 1]))
    assert low < high


def test_concave_bounds_at_the_edges():
    assert concave_auroc_bounds(0.5, 1.0) == (0.75, 1.0)
    assert concave_auroc_bounds(1.0, 0.5) == (0.75, 1.0)
    with pytest.raises(ValueError, match="diagonal"):
        concave_auroc_bounds(0.3, 0.7)
    with pytest.raises(ValueError, match="specificity"):
        concave_auroc_bounds(0.3, 1.7)


def test_possible_counts_are_all_those_that_round_to_the_share():
    for n in (7, 61, 434):
        printed = {f"{k / n:.3f}" for k in range(n + 1)}
        for thousandth in range(1001):
            share = thousandth / 1000
            assert (possible_count(share, n) is not None) == (f"{share:.3f}" in printed)


def test_min_mcnemar_p_is_that_of_the_binomial_test():
    from scipy.stats import binomtest

    for k in (1, 4, 9):
        least = min(
            binomtest(b, 2 * b - k, 0.5).pvalue
            for b in range(k, 40)  # b - c = k patients more
        )
        assert min_mcnemar_p(k / 100, 100) == pytest.approx(least)
    assert min_mcnemar_p(0.0, 50) == 1


def test_best_auroc_is_that_of_drawn_patients():
    import numpy as np
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    n = 200_000
    y = np.repeat([0, 1], n)
    x = rng.normal(np.where(y == 1, 1.0, 0.0), np.where(y == 1, 2.0, 1.0))
    b = rng.random(2 * n) < np.where(y == 1, 0.5, 0.2)
    ratio = norm.logpdf(x, 1, 2) - norm.logpdf(x, 0, 1)
    ratio += np.where(b, np.log(0.5 / 0.2), np.log(0.5 / 0.8))
    exact = best_auroc([(Summary(0, 1, 9), Summary(1, 2, 9))], [(0.2, 0.5)])
    assert exact == pytest.approx(auroc(y, ratio).value, abs=2e-3)
    assert best_auroc([], [(0.2, 0.5)]) == pytest.approx(0.5 + (0.5 - 0.2) / 2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Summary(1, 0.04, 9), "sd"),
        (lambda: Summary(1, 1, 1), "n"),
        (lambda: implied_accuracy(0.5, 1.1, 0.5), "specificity"),
        (lambda: possible_count(0.5, 0), "n"),
        (lambda: min_correlation(0.7, 0.8, 0, events=5, nonevents=5), "p"),
        (lambda: best_auroc([(Summary(0, 1, 9),) * 2] * 3, []), "3"),
    ],
)
def test_what_cannot_be_is_refused(call, named):
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        call()
