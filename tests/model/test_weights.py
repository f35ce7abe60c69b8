"""Weights and their sidecar: what belongs together, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.schemas import schema, violations
from monai_vfx.model.checkpoint import (
    TrainedModel,
    bundle_root,
    read_sidecar,
    sidecar_path,
    write_sidecar,
)
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.vertebrae.training.checkpoints import load_state
from phantoms import SIDECAR

SETTINGS: dict[str, Any] = {
    **SIDECAR["config"],
    "image_class": "bone",
    "crop_size": [32, 48],
    "pixel_mm": 3.0,
    "rnn_hidden": 8,
}


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "bundle": "vertebral_fracture_risk_ct_classification",
        "version": "0.1.0",
        "image_class": "bone",
        "config": SETTINGS,
        "training": {"learning_rate": 1e-5, "pretrained": None},
        "trained_on": {"cohort_sha256": "0" * 64, "patients": 9, "fractures": 4},
        "validation": {"epoch": 1, "auroc": 0.5, "patients": 3, "fractures": 1},
        "simulated": True,
        "calibration": None,
        **changes,
    }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = AttentionCNNRNN("resnet18", rnn_hidden=8).state_dict()
    torch.save({"network": state}, tmp_path / "model.pt")
    write_sidecar(tmp_path / "model.pt", facts())
    return tmp_path / "model.pt"


def refused(call: Any, *arguments: Any) -> CaseRefused:
    with pytest.raises(CaseRefused) as caught:
        call(*arguments)
    return caught.value


def test_the_sidecar_comes_back_as_written(weights: Path) -> None:
    assert read_sidecar(weights) == {**facts(), "weights_sha256": sha256_of(weights)}


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == expected


def test_the_weights_bring_network_and_preprocessing(weights: Path) -> None:
    model = TrainedModel(weights)
    expected = torch.load(weights, weights_only=True)["network"]
    state = model.network_def.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert not model.network_def.training
    crop = model.preprocessing.transforms[-3]
    assert crop.cropper.size == (32, 48)


def test_without_weights_the_bundle_s_defaults_come_untrained() -> None:
    model = TrainedModel(None)
    assert model.network_def.slice_features == 1536
    assert refused(model.require_weights).code == "weights_unreadable"


@pytest.mark.parametrize("missing", ["model.pt", "model.json"])
def test_half_a_pair_is_refused(weights: Path, missing: str) -> None:
    (weights.parent / missing).unlink()
    refusal = refused(read_sidecar, weights)
    assert refusal.code == "weights_unreadable"
    assert missing in refusal.message


def test_a_changed_file_is_refused(weights: Path) -> None:
    with weights.open("ab") as file:
        file.write(b"!")
    assert refused(read_sidecar, weights).code == "weights_mismatch"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps(facts()),  # no hash
        json.dumps(facts(weights_sha256="0" * 64, extra=1)),
    ],
)
def test_a_broken_sidecar_is_refused(weights: Path, text: str) -> None:
    sidecar_path(weights).write_text(text)
    assert refused(read_sidecar, weights).code == "weights_unreadable"


@pytest.mark.parametrize(
    "value", ["$__import__('os').getcwd()", "@bundle_root", "%x.json#y", ["$1"], {"_target_": "os"}]
)
def test_a_sidecar_cannot_run_code(weights: Path, value: Any) -> None:
    document = facts(config={**SETTINGS, "attention": value}, weights_sha256=sha256_of(weights))
    sidecar_path(weights).write_text(json.dumps(document))
    assert refused(TrainedModel, weights).code == "weights_unreadable"


@pytest.mark.parametrize("name", ["network_def", "preprocessing", "novelty"])
def test_a_sidecar_sets_settings_only(weights: Path, name: str) -> None:
    write_sidecar(weights, facts(config={**SETTINGS, name: "x"}))
    refusal = refused(TrainedModel, weights)
    assert refusal.code == "weights_mismatch"
    assert name in refusal.message


def test_settings_of_the_sidecar_are_those_of_the_bundle() -> None:
    common = yaml.safe_load((bundle_root() / "configs" / "common.yaml").read_text())
    rules = schema("model_settings")
    earlier = {"bidirectional", "slice_pooling"}  # in sidecars of earlier versions
    assert set(rules["properties"]) - earlier == set(common["model_settings"])
    later = {"clinical_model", "clinical", "hazard_years"}  # weights of before go on to work
    later |= {"in_channels", "window_2_hu", "window_3_hu", "input_range", "feature_norm"}
    assert set(rules["required"]) == set(common["model_settings"]) - later
    defaults = {name: common[name] for name in common["model_settings"]}
    assert violations(defaults, "model_settings") == []


@pytest.mark.parametrize("name", ["dropout", "masked", "posterior_mm"])
def test_a_missing_setting_is_refused_by_name(weights: Path, name: str) -> None:
    write_sidecar(weights, facts(config={k: v for k, v in SETTINGS.items() if k != name}))
    refusal = refused(TrainedModel, weights)
    assert refusal.code == "weights_mismatch"
    assert name in refusal.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone", "nonsense"),
        ("attention", "nonsense"),
        ("attention_layers", []),
        ("attention_layers", ["layer9"]),
        ("decoder", "mean"),  # has no states for the pooling below
        ("crop_size", [0, 1]),
        ("crop_size", [32]),
        ("window_hu", [1]),
        ("slices", "x"),
        ("slices", 0),
        ("pixel_mm", 0),
        ("min_area", 2),
        ("masked", 1),
    ],
)
def test_settings_that_build_nothing_are_refused(weights: Path, name: str, value: Any) -> None:
    config = {**SETTINGS, "slice_pooling": "attention" if name == "decoder" else "last"}
    write_sidecar(weights, facts(config={**config, name: value}))

    def build() -> None:
        model = TrainedModel(weights)
        assert model.preprocessing
        assert model.network_def

    refusal = refused(build)
    assert refusal.code == "weights_mismatch"
    assert "\n" not in refusal.message


STATISTICS: dict[str, Any] = {"names": ["age"], "mean": [66.0], "sd": [9.0], "missing": [0]}


def test_clinical_statistics_come_with_the_weights(weights: Path) -> None:
    state = AttentionCNNRNN("resnet18", rnn_hidden=8, clinical_features=1).state_dict()
    torch.save({"network": state}, weights)
    config = {**SETTINGS, "clinical_model": "A", "clinical": STATISTICS}
    write_sidecar(weights, facts(config=config))
    model = TrainedModel(weights)
    assert model.clinical == STATISTICS
    assert model.network_def.clinical_features == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"mean": [66.0, 1.0]}, "weights_mismatch"),
        ({"sd": [0.0]}, "weights_mismatch"),
        ({"names": []}, "weights_mismatch"),
        ({"missing": [-1]}, "weights_mismatch"),
        ({"mean": ["$1"]}, "weights_unreadable"),
        ({"names": ["@cohort"]}, "weights_unreadable"),
        ({"_target_": ["os.getcwd"]}, "weights_unreadable"),
        ({"mean": 66.0}, "weights_unreadable"),
    ],
)
def test_clinical_statistics_that_are_none_are_refused(
    weights: Path, change: dict[str, Any], code: str
) -> None:
    config = {**SETTINGS, "clinical": {**STATISTICS, **change}}
    document = facts(config=config, weights_sha256=sha256_of(weights))
    sidecar_path(weights).write_text(json.dumps(document))
    assert refused(TrainedModel, weights).code == code


@pytest.mark.parametrize("name", ["window_hu", "window_2_hu", "window_3_hu"])
def test_a_window_must_rise(weights: Path, name: str) -> None:
    write_sidecar(weights, facts(config={**SETTINGS, name: [100.0, 100.0]}))
    refusal = refused(TrainedModel, weights)
    assert f"{name}: must rise" in refusal.message


def test_a_chain_that_cannot_be_built_is_refused(weights: Path, tmp_path: Path) -> None:
    """Whatever gets past the rules for settings meets the same refusal."""
    root = tmp_path / "bundle"
    (root / "configs").mkdir(parents=True)
    text = (bundle_root() / "configs" / "common.yaml").read_text()
    assert "[:@in_channels]" in text
    changed = text.replace("[:@in_channels]", "[7]")
    (root / "configs" / "common.yaml").write_text(changed)
    refusal = refused(lambda: TrainedModel(weights, root).preprocessing)
    assert refusal.code == "weights_mismatch"
    with pytest.raises(RuntimeError):
        _ = TrainedModel(None, root).preprocessing  # a defect of the bundle, not of weights


def test_weights_of_another_shape_are_refused(weights: Path) -> None:
    write_sidecar(weights, facts(config={**SETTINGS, "rnn_hidden": 9}))
    assert refused(lambda: TrainedModel(weights).network_def).code == "weights_mismatch"


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert refused(load_state, tmp_path / "model.pt").code == "weights_unreadable"


def test_a_checkpoint_with_objects_is_refused(tmp_path: Path) -> None:
    torch.save({"network": Path("object")}, tmp_path / "model.pt")
    assert refused(load_state, tmp_path / "model.pt").code == "weights_unreadable"
    torch.save([torch.zeros(1)], tmp_path / "model.pt")
    assert refused(load_state, tmp_path / "model.pt").code == "weights_unreadable"


def test_a_sidecar_that_breaks_its_schema_is_not_written(weights: Path) -> None:
    before = sidecar_path(weights).read_text()
    with pytest.raises(ValueError, match="simulated"):
        write_sidecar(weights, facts(simulated="no"))
    assert sidecar_path(weights).read_text() == before
