"""Sample size: published examples, closed forms, simulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import expit, logit

from monai_vfx.analysis.evaluation.discrimination import hanley_mcneil_variance
from monai_vfx.analysis.evaluation.sample_size import (
    auroc_precision_size,
    cox_snell_r_squared,
    events_per_parameter,
    expected_shrinkage,
    minimum_size,
)
from monai_vfx.cli import main


def test_published_example_of_pmsampsize():
    size = minimum_size(24, 0.174, 0.288)
    assert (size.shrinkage, size.optimism, size.overall_risk, size.n) == (623, 662, 221, 662)
    assert size.events_per_parameter == pytest.approx(4.80, abs=0.005)


def test_criteria_by_hand():
    # R²max at φ = 0.5 is 1 - 0.5² = 0.75; S of criterion 2: 0.3 / (0.3 + 0.0375) = 8/9.
    size = minimum_size(10, 0.5, 0.3)
    assert size.shrinkage == np.ceil(10 / (-0.1 * np.log(2 / 3)))
    assert size.optimism == np.ceil(10 / (-1 / 9 * np.log(1 - 0.3375)))
    assert size.overall_risk == 385  # the pollsters' number: (1.96 / 0.05)² / 4
    assert size.events == 193
    assert size.n == 385


@pytest.mark.parametrize(("n", "parameters", "r_squared"), [(100, 10, 0.1), (5000, 3, 0.02)])
def test_shrinkage_solves_van_houwelingens_equation(n, parameters, r_squared):
    factor = expected_shrinkage(n, parameters, r_squared)
    likelihood_ratio = -n * np.log(1 - r_squared / factor)
    assert factor == pytest.approx(1 - parameters / likelihood_ratio, abs=1e-9)
    assert r_squared < factor < 1


def test_more_patients_shrink_less():
    factors = [expected_shrinkage(n, 24, 0.288) for n in (100, 623, 5000)]
    assert factors == sorted(factors)
    assert factors[1] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(("area", "prevalence"), [(0.7, 0.1), (0.827, 61 / 495), (0.95, 0.5)])
def test_r_squared_equals_a_simulation(area, prevalence):
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    n = 1_000_000
    sick = rng.random(n) < prevalence
    distance = np.sqrt(2) * norm.ppf(area)
    x = rng.normal(size=n) + distance * sick
    risk = expit(logit(prevalence) + distance * x - distance**2 / 2)
    gain = np.log(np.where(sick, risk / prevalence, (1 - risk) / (1 - prevalence))).mean()
    assert cox_snell_r_squared(area, prevalence) == pytest.approx(1 - np.exp(-2 * gain), abs=2e-3)


def test_r_squared_stays_below_its_maximum_and_vanishes_without_discrimination():
    assert cox_snell_r_squared(0.99999, 0.5) == pytest.approx(0.75, abs=1e-2)
    assert cox_snell_r_squared(0.5001, 0.1) == pytest.approx(0, abs=1e-6)


def test_precision_of_an_auroc_is_reached_and_not_overdone():
    n = auroc_precision_size(0.75, 0.25, half_width=0.04)

    def half(patients):
        events = patients / 4
        variance = hanley_mcneil_variance(0.75, events=events, nonevents=patients - events)
        return 1.959963984540054 * variance**0.5

    assert half(n) <= 0.04 < half(n - 1)


def test_events_per_parameter():
    assert events_per_parameter(61, 2) == 30.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: events_per_parameter(10, 0), "parameters"),
        (lambda: minimum_size(0, 0.1, 0.1), "parameters"),
        (lambda: minimum_size(5, 1.2, 0.1), "prevalence"),
        (lambda: minimum_size(5, 0.1, 0.6), "between 0 and 0.4780"),
        (lambda: expected_shrinkage(0, 5, 0.1), r"n \(0\)"),
        (lambda: cox_snell_r_squared(0.4, 0.1), "auroc"),
        (lambda: auroc_precision_size(0.8, 0.1, half_width=0), "half_width"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_command_plans_a_study(tmp_path):
    options = ["--plan", "--prevalence", "0.174", "--auroc", "0.8", "--parameters", "24"]
    done = CliRunner().invoke(main, ["evaluate", *options, "--patients", "623", "--out", tmp_path])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    r_squared = cox_snell_r_squared(0.8, 0.174)
    assert document["development"]["n"] == minimum_size(24, 0.174, r_squared).n
    assert document["external"]["n"] == auroc_precision_size(0.8, 0.174)
    assert document["given"]["events_per_parameter"] == pytest.approx(623 * 0.174 / 24)
    assert document["given"]["shrinkage"] == expected_shrinkage(623, 24, r_squared)
    assert "to develop a model" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "--auroc", "0.8"], "--plan needs --prevalence, --auroc and --parameters"),
        (["--plan", "--prevalence", "0.1", "--auroc", "0.4", "--parameters", "3"], "auroc (0.4)"),
        (["--label", "y"], "missing TABLE, --score, --out"),
    ],
)
def test_the_command_names_what_is_missing(options, message):
    done = CliRunner().invoke(main, ["evaluate", *options])
    assert done.exit_code == 2
    assert message in done.stderr
