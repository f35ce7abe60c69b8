"""Results hold to their schemas, and nothing half-written stays behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.files import write_json
from monai_vfx.core.results import ModelFacts, Prediction, SliceRecord, run_record
from monai_vfx.core.schemas import violations

GOOD = Prediction(
    case_id="a",
    status="ok",
    score=0.61,
    simulated_weights=True,
    model=ModelFacts("vertebral_fracture_risk_ct_classification", "0.1.0", "0" * 64),
    levels=("T12", "L1"),
    spacing_mm=(1.0, 1.0, 5.0),
    slices=(SliceRecord(87, "1.2.3", "T12", (1.0, 2.0, 3.0)),),
    warnings=(CaseWarning("level_cut", "T12"),),
)


def test_good_and_refused_predictions_fit_the_schema() -> None:
    assert GOOD.to_json()["slices"][0]["index"] == 87
    refused = Prediction.refused("a", CaseRefused("mask_empty", "no label")).to_json()
    assert refused["refusal"]["code"] == "mask_empty"
    assert refused["score"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"score": 1.2},
        {"score": None},
        {"slices": ()},
        {"levels": ("C1",)},
        {"model": None},
        {"model": ModelFacts("b", "1", "nothex")},
        {"spacing_mm": (1.0, 0.0, 5.0)},
    ],
)
def test_what_breaks_the_schema_is_not_written(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="schema"):
        replace(GOOD, **change).to_json()  # type: ignore[arg-type]


@pytest.mark.parametrize("key", sorted(GOOD.to_json()))
def test_every_key_of_a_prediction_is_required(key: str) -> None:
    document = GOOD.to_json()
    del document[key]
    assert violations(document, "prediction")


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.json"
    write_json(target, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(target, {"x": float("nan")})
    assert json.loads(target.read_text()) == {"x": 1}
    assert [f.name for f in target.parent.iterdir()] == ["a.json"]


def test_a_run_record_names_versions_and_hashes() -> None:
    record = run_record("predict", {"seed": 0}, {"image": "f" * 64})
    assert record["versions"]["monai"].startswith("1.")
    assert record["inputs_sha256"] == {"image": "f" * 64}
