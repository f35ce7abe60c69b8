"""Yearly hazards: the loss by hand, its gradient, a signal that it learns, and the bundle's way."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cohorts import SMALL, make_cohort, run
from monai_vfx.core.errors import CaseRefused, find_refusal
from monai_vfx.model.bundle.cohort import follow_up
from monai_vfx.model.bundle.datasets import prepare_batch, score_and_label
from monai_vfx.model.bundle.losses import JointLoss, hazard_loss, yearly_risk
from monai_vfx.model.checkpoint import TrainedModel, read_sidecar

HAZARD = (0.1, 0.2, 0.4)
LOGITS = torch.tensor([[math.log(h / (1 - h)) for h in HAZARD]])


@pytest.fixture(autouse=True)
def _unseeded() -> Iterator[None]:
    yield
    from monai.utils import set_determinism

    set_determinism(None)


@pytest.mark.parametrize(
    ("years", "event", "likelihood"),
    [
        (0.0, 1, 0.1),  # on the day of the CT: the first year
        (0.4, 1, 0.1),
        (1.0, 1, 0.1),  # a year holds its end
        (1.01, 1, 0.9 * 0.2),
        (2.5, 1, 0.9 * 0.8 * 0.4),
        (3.5, 1, 0.9 * 0.8 * 0.6),  # after the last year: survived all
        (0.99, 0, 1.0),  # no year was seen to its end
        (1.0, 0, 0.9),
        (1.7, 0, 0.9),
        (2.0, 0, 0.9 * 0.8),
        (9.0, 0, 0.9 * 0.8 * 0.6),
    ],
)
def test_the_likelihood_by_hand(years: float, event: int, likelihood: float) -> None:
    loss = hazard_loss(LOGITS, torch.tensor([years]), torch.tensor([float(event)]))
    assert loss.item() == pytest.approx(-math.log(likelihood), abs=1e-6)


def test_patients_are_averaged() -> None:
    years, event = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0])
    both = hazard_loss(LOGITS.expand(2, 3), years, event)
    assert both.item() == pytest.approx(-(math.log(0.1) + math.log(0.72)) / 2, abs=1e-6)


def test_the_joint_loss_adds_cross_entropy() -> None:
    pred = torch.cat([torch.tensor([[0.0, math.log(3.0)]]), LOGITS], dim=1)  # p(fracture) = 3/4
    target = torch.tensor([[1.0, 1.5, 1.0]])
    expected = -math.log(0.75) - math.log(0.9 * 0.2)
    assert JointLoss()(pred, target).item() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_is_that_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(4, 2 + 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(
        [[1, 0.3, 1], [1, 4.2, 1], [0, 2.5, 0], [0, 11.0, 0]], dtype=torch.float64
    )
    # JointLoss works in float32 for mixed precision; the likelihood itself is checked in float64.
    assert torch.autograd.gradcheck(
        lambda z: hazard_loss(z[:, 2:], target[:, 1], target[:, 2]), (pred,)
    )
    JointLoss()(pred, target).backward()
    assert pred.grad is not None
    gradient = pred.grad[:, 2:] * len(pred)
    h = torch.sigmoid(pred[:, 2:]).detach()
    expected = torch.zeros_like(h)  # d/dz of -log(1 - h) is h, of -log h it is h - 1
    expected[0, 0] = h[0, 0] - 1
    expected[1, :4], expected[1, 4] = h[1, :4], h[1, 4] - 1
    expected[2, :2] = h[2, :2]
    expected[3] = h[3]
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    pred = torch.tensor([[-90.0, 90.0, 90.0, -90.0]], requires_grad=True)
    loss = JointLoss()(pred, torch.tensor([[0.0, 1.5, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()


def test_risk_accumulates() -> None:
    risk = yearly_risk(LOGITS)
    expected = [0.1, 1 - 0.9 * 0.8, 1 - 0.9 * 0.8 * 0.6]
    torch.testing.assert_close(risk, torch.tensor([expected]))
    assert yearly_risk(torch.empty(2, 0)).shape == (2, 0)


def test_planted_hazards_are_found_through_censoring() -> None:
    """One binary risk factor; the maximum likelihood estimate is the share in those at risk."""
    rng = np.random.default_rng(5)
    exposed = np.repeat([0, 1], 4000)
    hazard = np.where(exposed == 1, 0.15, 0.05)
    fracture = rng.geometric(hazard) - rng.uniform(size=8000)  # in year k: (k - 1, k]
    end = rng.uniform(0.5, 8.0, size=8000)
    event = (fracture <= end) & (fracture <= 5)
    years = torch.tensor(np.where(event, fracture, end), dtype=torch.float32)
    layer = torch.nn.Linear(1, 5)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)
    x = torch.tensor(exposed, dtype=torch.float32)[:, None]
    happened = torch.tensor(event, dtype=torch.float32)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = hazard_loss(layer(x), years, happened)
        loss.backward()
        return loss

    optimizer.step(step)
    with torch.no_grad():
        found = torch.sigmoid(layer(torch.tensor([[0.0], [1.0]]))).numpy()
    time = years.numpy()
    for group in (0, 1):
        mine = exposed == group
        for k in range(1, 6):
            at_risk = mine & np.where(event, time > k - 1, time >= k)
            broke = mine & event & (np.ceil(time) == k)
            assert found[group, k - 1] == pytest.approx(broke.sum() / at_risk.sum(), abs=2e-3)
    assert abs(found[0].mean() - 0.05) < 0.01
    assert abs(found[1].mean() - 0.15) < 0.015


def test_the_dead_lower_the_risk_to_the_share_that_fractures(tmp_path: Path) -> None:
    # Nobody is censored: of 8 patients 3 fracture in five years, whatever the 2 deaths.
    times = [0.5, 1.5, 4.5, 0.2, 2.2, 9.0, 9.0, 9.0]
    labels = [1, 1, 1, 0, 0, 0, 0, 0]
    deaths = [0, 0, 0, 1, 1, 0, 0, 0]
    table = {"follow_up_years": times, "death": deaths}
    outcome = follow_up(make_cohort(tmp_path, labels, table))
    years, event = torch.tensor(list(outcome.values())).T
    hazard = torch.zeros(1, 5, requires_grad=True)
    optimizer = torch.optim.LBFGS([hazard], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = hazard_loss(hazard.expand(8, 5), years, event)
        loss.backward()
        return loss

    optimizer.step(step)
    assert yearly_risk(hazard)[0, 4].item() == pytest.approx(3 / 8, abs=1e-3)


def test_a_batch_with_an_outcome_gives_all_three_as_the_target() -> None:
    batch = {
        "image": torch.zeros(2, 1, 2, 2, 2),
        "label": torch.tensor([1, 0]),
        "outcome": torch.tensor([[0.5, 1.0], [6.0, 0.0]]),
    }
    _, target, _, named = prepare_batch(batch, device="cpu")
    assert target.tolist() == [[1.0, 0.5, 1.0], [0.0, 6.0, 0.0]]
    assert named == {}
    score, label = score_and_label({"pred": torch.zeros(2, 7), "label": target})
    assert score.tolist() == [[0.5], [0.5]]
    assert label.tolist() == [[1.0], [0.0]]


def test_the_bundle_trains_and_scores_hazards(tmp_path: Path) -> None:
    labels = [0, 1] * 4
    times = [7.0, 1.2, 2.5, 4.9, 6.0, 0.3, 1.0, 3.0]
    columns = {"follow_up_years": times, "death": [1, 0, 0, 0, 0, 0, 1, 0]}
    cohort = make_cohort(tmp_path / "cohort", labels, columns)
    settings = {**SMALL, "cohort": str(cohort), "folds": 2, "max_epochs": 1}
    out = tmp_path / "run"
    run("common", "train", "cpu_small", "hazard", output_dir=str(out), **settings)
    assert read_sidecar(out / "model.pt")["config"]["hazard_years"] == 5
    evaluation = {"weights": str(out / "model.pt"), "output_dir": str(tmp_path / "scores")}
    run("common", "inference", "evaluate", kind="infer", cohort=str(cohort), **evaluation)
    with (tmp_path / "scores" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case_id", "label", "score", *(f"risk_year_{k}" for k in range(1, 6))]
    model = TrainedModel(out / "model.pt")
    row = rows[3]
    paths = {
        n: str(cohort.parent / f"p3_{f}.nii.gz") for n, f in (("image", "ct"), ("mask", "mask"))
    }
    image = model.preprocessing(paths)["image"].as_tensor()[None]
    with torch.no_grad():
        pred = model.network_def(image)
    hazards = torch.sigmoid(pred[0, 2:]).numpy()
    risks = [float(row[f"risk_year_{k}"]) for k in range(1, 6)]
    np.testing.assert_allclose(risks, 1 - np.cumprod(1 - hazards), atol=1e-5)
    assert float(row["score"]) == pytest.approx(pred[0, :2].softmax(0)[1].item(), abs=1e-6)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({}, "follow_up_years"),
        ({"follow_up_years": ["7", "", "2", "3", "6", "1"]}, "follow_up_years is empty in 1 rows"),
    ],
)
def test_hazards_need_the_follow_up(
    tmp_path: Path, columns: dict[str, list[str]], named: str
) -> None:
    cohort = make_cohort(tmp_path / "cohort", [0, 1] * 3, columns)
    settings = {**SMALL, "cohort": str(cohort), "folds": 2, "output_dir": str(tmp_path / "run")}
    with pytest.raises(RuntimeError) as failed:
        run("common", "train", "cpu_small", "hazard", **settings)
    refusal = find_refusal(failed.value)
    assert isinstance(refusal, CaseRefused)
    assert refusal.code == "cohort_invalid"
    assert named in refusal.message
