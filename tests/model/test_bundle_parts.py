"""The bundle's own parts, each by itself."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Lambdad, RandLambdad

from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.model.bundle.cohort import cohort_cases, split_cohort
from monai_vfx.model.bundle.datasets import (
    CaseDataset,
    CohortCache,
    append_refusals,
    collate_cases,
    evaluate_accepted,
    fracture_score,
    score_and_label,
)
from monai_vfx.model.bundle.overlays import check_overlay
from monai_vfx.model.bundle.results import prediction_of
from monai_vfx.model.bundle.training import RiskHistoryWriter
from monai_vfx.model.checkpoint import bundle_root
from monai_vfx.vertebrae.training.checkpoints import check_output_dir, newest_checkpoint


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    rows = ["case_id,image,mask,fracture"]
    for number in range(12):
        (tmp_path / f"{number}.nii").touch()
        rows.append(f"c{number},{number}.nii,{number}.nii,{number % 2}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "cohort.csv"


@pytest.mark.parametrize("inside", ["", "out", "configs/out"])
def test_outputs_in_the_bundle_are_refused(tmp_path: Path, inside: str) -> None:
    with pytest.raises(ValueError, match="must not lie in the bundle"):
        check_output_dir(tmp_path / "bundle" / inside, tmp_path / "bundle")
    check_output_dir(tmp_path / "bundle_results" / "a", tmp_path / "bundle")
    assert (tmp_path / "bundle_results" / "a").is_dir()


def test_a_fold_and_what_it_holds_out_are_the_whole_cohort(cohort: Path) -> None:
    held_out = []
    for fold in range(3):
        split = split_cohort(cohort, fold, 3, seed=0)
        cases = {part: {item["case_id"] for item in split[part]} for part in split}
        assert cases["train"] & cases["validate"] == set()
        assert len(cases["train"] | cases["validate"]) == 12
        held_out += [item["case_id"] for item in cohort_cases(cohort, fold, 3)]
    assert sorted(held_out) == sorted(item["case_id"] for item in cohort_cases(cohort))
    with pytest.raises(ValueError, match=r"fold \(3\) must lie in 0 … 2"):
        split_cohort(cohort, 3, 3, seed=0)


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for epoch in (2, 9, 10):
        torch.save({}, tmp_path / f"last_checkpoint_epoch={epoch}.pt")
    torch.save({}, tmp_path / "model.pt")
    assert newest_checkpoint(tmp_path) == tmp_path / "last_checkpoint_epoch=10.pt"
    whole = (tmp_path / "last_checkpoint_epoch=10.pt").read_bytes()
    (tmp_path / "last_checkpoint_epoch=10.pt").write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(tmp_path) == tmp_path / "last_checkpoint_epoch=9.pt"


def items(count: int) -> list[Any]:
    return [{"case_id": f"c{n}", "image": n, "label": n % 2} for n in range(count)]


def refuse_multiples_of_three(value: int) -> int:
    if value % 3 == 0:
        raise CaseRefused("mask_empty", f"value {value}")
    return value * 10


def chain(calls: list[int]) -> Compose:
    def count(value: int) -> int:
        calls.append(value)
        return value + 1

    return Compose([Lambdad("image", refuse_multiples_of_three), RandLambdad("image", count)])


def test_the_cache_leaves_refused_cases_out_and_repeats_the_random_part(tmp_path: Path) -> None:
    calls: list[int] = []
    path = tmp_path / "refused.jsonl"
    cache = CohortCache(items(6), chain(calls), refusals=path, progress=False)
    assert [item["case_id"] for item in cache.data] == ["c1", "c2", "c4", "c5"]
    assert calls == []
    assert [cache[n]["image"] for n in (0, 2, 2)] == [11, 41, 41]
    assert calls == [10, 40, 40]
    assert [cache[n]["case_id"] for n in range(len(cache))] == ["c1", "c2", "c4", "c5"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["case_id"], line["code"]) for line in lines] == [
        ("c0", "mask_empty"),
        ("c3", "mask_empty"),
    ]


def test_the_cache_needs_both_classes() -> None:
    patients = [{**item, "label": 0} for item in items(5)]
    with pytest.raises(ValueError, match=r"3 of 5 patients were accepted.*labels \[0\]"):
        CohortCache(patients, chain([]), progress=False)  # type: ignore[arg-type]


def test_the_cache_does_not_hide_defects() -> None:
    with pytest.raises(RuntimeError):
        CohortCache(items(4), Compose([Lambdad("image", lambda v: 1 / 0)]), progress=False)


def test_a_refused_case_comes_as_a_refusal_and_a_defect_as_internal() -> None:
    data = CaseDataset(items(4), Compose([Lambdad("image", refuse_multiples_of_three)]))
    assert data[1]["image"] == 10
    assert data[0]["refusal"].code == "mask_empty"
    broken = CaseDataset(items(1), Compose([Lambdad("image", lambda v: 1 / 0)]))
    assert broken[0]["refusal"].code == "internal"
    assert "Traceback" not in broken[0]["refusal"].message


def test_a_batch_keeps_accepted_and_refused_apart() -> None:
    image = MetaTensor(torch.ones(1, 2, 3, 4))
    refusal = CaseRefused("mask_empty", "no label")
    batch = collate_cases(
        [{"case_id": "a", "image": image, "label": 1}, {"case_id": "b", "refusal": refusal}]
    )
    assert batch["image"].shape == (1, 1, 2, 3, 4)
    assert type(batch["image"]) is torch.Tensor
    assert batch["label"].tolist() == [1]
    assert [item["case_id"] for item in batch["refused"]] == ["b"]
    nobody = collate_cases([{"case_id": "b", "refusal": refusal}])
    output = evaluate_accepted(SimpleNamespace(), nobody)  # type: ignore[arg-type]
    assert output["pred"].shape == (0, 2)


def test_scores_are_probabilities_of_class_one() -> None:
    logits = torch.tensor([[0.0, float(np.log(3.0))], [1.0, 1.0]])
    torch.testing.assert_close(fracture_score(logits), torch.tensor([0.75, 0.5]))
    score, label = score_and_label({"pred": logits, "label": torch.tensor([1, 0])})
    assert score.shape == label.shape == (2, 1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("deterministic_transforms: []", "deterministic_transforms"),
        ("+deterministic_transforms: [{_target_: Flipd, keys: image}]", "deterministic_transforms"),
        ("deterministic_transforms::3::pixdim: [2, 2, 2]", "deterministic_transforms"),
        ("'deterministic_transforms#3#pixdim': [2, 2, 2]", "deterministic_transforms"),
        ("fixed_transforms: []", "fixed_transforms"),
        ("preprocessing: {_target_: Compose}", "preprocessing"),
        ("network_def: {_target_: monai.networks.nets.DenseNet121}", "network_def"),
        ("network_def::num_classes: 3", "network_def"),
        ("+train: {preprocessing: {_target_: Compose}}", "train::preprocessing"),
        ("model_settings: {}", "model_settings"),
        ("clinical: {names: [age]}", "clinical"),
    ],
)
def test_an_overlay_must_leave_network_and_chain_alone(
    tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "mine.yaml").write_text(f"dropout: 0.2\n{text}\n")
    with pytest.raises(SettingError, match=rf"mine\.yaml must not change {named}: "):
        check_overlay(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "dropout: 0.2\nbackbone: resnet34\ncrop_size: [64, 64]",
        "+random_transforms: [{_target_: RandGaussianNoised, keys: image}]",
        "train::trainer::accumulation_steps: 3\noptimizer::weight_decay: 0.1",
        "network_definition: 1",
    ],
)
def test_an_overlay_may_change_settings_and_training(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    check_overlay(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "name", ["bone_only", "cpu_small", "clinical", "hazard", "three_windows", "multi_gpu"]
)
def test_the_bundle_s_own_overlays_pass(name: str) -> None:
    check_overlay(bundle_root() / "configs" / f"{name}.yaml")


def test_refusals_are_noted_once(tmp_path: Path) -> None:
    path = tmp_path / "refused.jsonl"
    append_refusals(path, {})
    assert not path.exists()
    for cases in (("a",), ("a", "b")):
        append_refusals(path, {case: CaseRefused("mask_empty", "no label") for case in cases})
    assert [json.loads(line)["case_id"] for line in path.read_text().splitlines()] == ["a", "b"]


def item_of(indices: list[int]) -> dict[str, Any]:
    facts = {
        "spacing_mm": [0.9, 0.9, 5.0],
        "sop_instance_uids": ["1.0", "1.1", "1.2", "1.3"],
        "warnings": [{"code": "level_cut", "message": "T12 is cut"}],
        "mask_levels": ["T12", "L1", "L2", "L3", "L4"],
    }
    meta = {
        "case_facts": json.dumps(facts),
        "slice_index": np.array(indices),
        "slice_level": np.array([19, 20, 20]),
        "centre_mm": np.array([[1.0, 2.0, 30.0], [1.5, 2.5, 25.0], [2.0, 3.0, 20.0]]),
    }
    return {"case_id": "p", "image": MetaTensor(torch.zeros(1, 4, 4, 3), meta=meta)}


def sidecar(simulated: bool) -> dict[str, Any]:
    return {"bundle": "b", "version": "1.2.3", "weights_sha256": "a" * 64, "simulated": simulated}


def test_a_prediction_names_its_slices() -> None:
    result = prediction_of(item_of([3, 2, 0]), 0.25, sidecar(simulated=False)).to_json()
    assert [entry["sop_instance_uid"] for entry in result["slices"]] == ["1.3", "1.2", "1.0"]
    assert [entry["level"] for entry in result["slices"]] == ["T12", "L1", "L1"]
    assert result["slices"][1]["centre_mm"] == [1.5, 2.5, 25.0]
    assert result["levels"] == ["T12", "L1"]
    assert result["score"] == 0.25
    assert [warning["code"] for warning in result["warnings"]] == ["level_cut"]
    assert result["simulated_weights"] is False


def test_a_prediction_warns_of_repeats_and_of_simulated_weights() -> None:
    result = prediction_of(item_of([3, 3, 0]), 0.25, sidecar(simulated=True)).to_json()
    codes = [warning["code"] for warning in result["warnings"]]
    assert codes == ["level_cut", "slices_repeated", "simulated_weights"]
    assert "2 slices fill 3 places" in result["warnings"][1]["message"]


def test_the_curve_weighs_losses_by_patients(tmp_path: Path) -> None:
    validator = SimpleNamespace(state=SimpleNamespace(epoch=1, metrics={"val_auroc": 0.625}))
    writer = RiskHistoryWriter(tmp_path / "history.csv", validator)  # type: ignore[arg-type]
    for epoch, batches in ((1, [(1.0, 3), (2.0, 1)]), (2, [(0.5, 2)])):
        engine: Any = SimpleNamespace(state=SimpleNamespace(epoch=epoch, output=None))
        writer._start(engine)
        for loss, patients in batches:
            engine.state.output = {"loss": torch.tensor(loss), "label": torch.zeros(patients)}
            writer._add(engine)
        writer._write(engine)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines == ["epoch,train_loss,val_auroc", "1,1.250000,0.625000", "2,0.500000,"]
