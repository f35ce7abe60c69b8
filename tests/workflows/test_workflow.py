"""The bundle through the Python API: one case from paths to files, on phantoms and on real CT."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner

from monai_vfx.analysis.calibration.model import Calibration
from monai_vfx.analysis.calibration.outliers import OutlierDetector
from monai_vfx.analysis.calibration.terms import Term
from monai_vfx.case.case import load_case
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.geometry import world_positions
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.schemas import violations
from monai_vfx.model.bundle.overlays import config_files
from monai_vfx.model.checkpoint import write_sidecar
from monai_vfx.workflows.predictor import predict, read_prediction
from monai_vfx.workflows.run_bundle import preprocessing
from monai_vfx.workflows.train import train
from phantoms import SIDECAR, Phantom


def untrained(folder: Path, seed: int) -> Path:
    """An untrained network: these tests are about the way of a case, not about scores."""
    from monai_vfx.model.network import AttentionCNNRNN

    torch.manual_seed(seed)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    torch.save({"network": network.state_dict()}, folder / "model.pt")
    write_sidecar(folder / "model.pt", SIDECAR)
    return folder / "model.pt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("weights"), seed=0)


@dataclass(frozen=True)
class Ensemble:
    """A case, three networks, and the score of each."""

    image: Path
    mask: Path
    weights: list[Path]
    scores: list[float]

    def predict(self, out: Path, **settings: Any) -> dict[str, Any]:
        document = predict(
            self.image,
            self.mask,
            compare_mask=False,
            **{"weights": self.weights, "out": out, **settings},
        ).to_json()
        assert document == json.loads((out / "prediction.json").read_text())
        return document


@pytest.fixture(scope="module")
def ensemble(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    image, mask = phantom.save(tmp_path_factory.mktemp("case_id"))
    members = [untrained(tmp_path_factory.mktemp("member"), seed=seed) for seed in (1, 2, 3)]
    out = tmp_path_factory.mktemp("out")
    scores = [
        predict(image, mask, compare_mask=False, weights=member, out=out).score
        for member in members
    ]
    assert len(set(scores)) == 3
    return Ensemble(image, mask, members, [float(score) for score in scores if score])


def calibration_file(folder: Path, *terms: Term, **facts: Any) -> Path:
    """The study's offset for random controls, and 0.1 for each unit of a term."""
    width = 2 + len(terms)
    calibration = Calibration(
        kind="matched_controls" if terms else "random_controls",
        terms=terms,
        coefficients=(-3.25, 1.0, *(0.1 for _ in terms)),
        covariance=tuple(tuple(0.01 * (i == j) for i in range(width)) for j in range(width)),
        n=1216,
        events=608,
        population_n=16279,
        population_events=608,
    )
    write_json(folder / "calibration.json", calibration.to_json() | facts)
    return folder / "calibration.json"


def odds(p: float) -> float:
    return p / (1 - p)


def test_an_ensemble_scores_with_its_mean(ensemble: Ensemble, tmp_path: Path) -> None:
    document = ensemble.predict(tmp_path)
    assert document["score"] == pytest.approx(np.mean(ensemble.scores), abs=1e-9)
    assert document["model"]["members"] == [sha256_of(member) for member in ensemble.weights]
    assert document["risk_5y"] is document["calibration"] is None
    codes = [warning["code"] for warning in document["warnings"]]
    assert len(codes) == len(set(codes))
    inputs = json.loads((tmp_path / "run.json").read_text())["inputs_sha256"]
    assert inputs["weights_3"] == sha256_of(ensemble.weights[2])
    assert {path.name for path in tmp_path.iterdir()} == {"prediction.json", "run.json", "mask.png"}
    single = ensemble.predict(tmp_path, weights=ensemble.weights[1])
    assert single["score"] == pytest.approx(ensemble.scores[1], abs=1e-9)
    assert single["model"]["members"] == []


def test_a_calibration_gives_a_risk_and_an_ensemble_its_interval(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    path = calibration_file(tmp_path)
    document = ensemble.predict(tmp_path / "out", calibration=path)
    risk, (low, high) = document["risk_5y"], document["risk_5y_interval"]
    assert odds(risk) == pytest.approx(odds(np.mean(ensemble.scores)) * np.exp(-3.25), rel=1e-9)
    assert low < risk < high
    assert document["calibration"] == {
        "method": "random_controls",
        "prevalence": pytest.approx(0.03735, abs=1e-5),
        "source": f"calibration.json sha256:{sha256_of(path)}",
    }
    single = ensemble.predict(tmp_path / "out", weights=ensemble.weights[0], calibration=path)
    assert odds(single["risk_5y"]) == pytest.approx(odds(ensemble.scores[0]) * np.exp(-3.25))
    assert single["risk_5y_interval"] is None


def test_a_calibration_s_variables_come_from_the_row(ensemble: Ensemble, tmp_path: Path) -> None:
    path = calibration_file(tmp_path, Term("age", centre=65.0, scale=1.0))
    (tmp_path / "row.csv").write_text("age,sex\n72,F\n")
    settings = {"calibration": path, "weights": ensemble.weights[0]}
    document = ensemble.predict(tmp_path / "out", clinical=tmp_path / "row.csv", **settings)
    expected = odds(ensemble.scores[0]) * np.exp(-3.25 + 0.1 * 7)
    assert odds(document["risk_5y"]) == pytest.approx(expected)
    with pytest.raises(CaseRefused, match="the calibration takes age") as refused:
        ensemble.predict(tmp_path / "out", **settings)
    assert refused.value.code == "clinical_invalid"
    (tmp_path / "row.csv").write_text("age,sex\n,F\n")
    unknown = ensemble.predict(tmp_path / "out", clinical=tmp_path / "row.csv", **settings)
    assert unknown["risk_5y"] is unknown["calibration"] is None
    messages = {warning["code"]: warning["message"] for warning in unknown["warnings"]}
    assert messages["clinical_missing"] == "no absolute risk without age"


def test_a_calibration_that_is_none_is_wrong_use(ensemble: Ensemble, tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(SettingError, match="calibration breaks its schema"):
        ensemble.predict(tmp_path / "out", calibration=tmp_path / "calibration.json")
    assert not (tmp_path / "out" / "prediction.json").exists()


@pytest.mark.parametrize(("far", "flagged"), [(0, False), (1, False), (2, True), (3, True)])
def test_most_members_must_find_a_case_strange(
    ensemble: Ensemble, tmp_path: Path, far: int, flagged: bool
) -> None:
    """Detectors lie beside the weights; ``far`` of three were fitted far from the case."""
    rng = np.random.default_rng(0)
    copies = []
    for number, member in enumerate(ensemble.weights):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("model.pt", "model.json"):
            (folder / name).symlink_to(member.with_name(name))
        # A GRU's states lie in (-1, 1): 0 ± 1 holds all of them, 9 ± 1 none.
        detector = OutlierDetector.fit(rng.normal(9.0 * (number < far), 1.0, size=(200, 16)))
        write_json(folder / "outliers.json", detector.to_json())
        copies.append(folder / "model.pt")
    document = ensemble.predict(tmp_path / "out", weights=copies)
    codes = [warning["code"] for warning in document["warnings"]]
    assert ("out_of_distribution" in codes) is flagged
    assert document["score"] == pytest.approx(np.mean(ensemble.scores), abs=1e-9)


def test_a_detector_of_other_features_is_wrong_use(ensemble: Ensemble, tmp_path: Path) -> None:
    for name in ("model.pt", "model.json"):
        (tmp_path / name).symlink_to(ensemble.weights[0].with_name(name))
    detector = OutlierDetector.fit(np.random.default_rng(0).normal(size=(40, 5)))
    write_json(tmp_path / "outliers.json", detector.to_json())
    with pytest.raises(SettingError, match=r"outliers\.json beside model\.pt: .* 5 are needed"):
        ensemble.predict(tmp_path / "out", weights=tmp_path / "model.pt")


def test_the_command_takes_an_ensemble_a_row_and_a_calibration(
    ensemble: Ensemble, tmp_path: Path
) -> None:
    path = calibration_file(tmp_path, Term("age", centre=65.0), simulated=True)
    (tmp_path / "row.csv").write_text("age\n72\n")
    arguments = ["predict", str(ensemble.image), "--mask", str(ensemble.mask), "--no-compare-mask"]
    for member in ensemble.weights[:2]:
        arguments += ["--weights", str(member)]
    arguments += ["--clinical", str(tmp_path / "row.csv"), "--calibration", str(path)]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert document["score"] == pytest.approx(np.mean(ensemble.scores[:2]), abs=1e-9)
    assert document["risk_5y_interval"][0] < document["risk_5y"]
    (tmp_path / "row.csv").write_text("sex\nF\n")
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "refused")])
    assert result.exit_code == 3
    refused = json.loads((tmp_path / "refused" / "prediction.json").read_text())
    assert refused["refusal"]["code"] == "clinical_invalid"


def test_a_case_leaves_its_files_in_the_folder(
    phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    image, mask = phantom.save(tmp_path / "Doe^Jane")
    out = tmp_path / "out"
    prediction = predict(
        image, mask, compare_mask=False, weights=weights, out=out, explain=True, beside=weights
    )
    assert {file.name for file in out.iterdir()} == {
        "prediction.json",
        "run.json",
        "mask.png",
        "gradcam.nii.gz",
        "gradcam.png",
        "gradcam_beside.png",
        "attention_layer2.nii.gz",
        "attention_layer2.png",
        "attention_layer3.nii.gz",
        "attention_layer3.png",
    }
    assert read_prediction(out / "prediction.json") == prediction
    assert "simulated_weights" in [warning.code for warning in prediction.warnings]
    for file in out.glob("*.json"):
        assert "Doe" not in file.read_text()
    heat = nib.load(out / "gradcam.nii.gz")
    assert heat.shape == phantom.hu.shape
    np.testing.assert_allclose(heat.affine, phantom.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["CT#1", "$x", "@image", "%a", "5"])
def test_names_are_data_not_configuration(
    phantom: Phantom, weights: Path, tmp_path: Path, name: str
) -> None:
    image, mask = phantom.save(tmp_path / name)
    prediction = predict(
        image, mask, compare_mask=False, weights=weights, out=tmp_path / f"{name}#out", case_id=name
    )
    assert prediction.case_id == name
    assert (tmp_path / f"{name}#out" / "prediction.json").is_file()


@pytest.mark.parametrize("case_id", ["", "..", "/tmp/x", "a/b", "a\\b", "a\nb", ".hidden"])
def test_a_case_name_cannot_lead_out_of_the_folder(
    phantom: Phantom, weights: Path, tmp_path: Path, case_id: str
) -> None:
    image, mask = phantom.save(tmp_path)
    with pytest.raises(SettingError, match="case_id"):
        predict(
            image, mask, compare_mask=False, weights=weights, out=tmp_path / "out", case_id=case_id
        )
    arguments = [
        "check",
        str(image),
        "--mask",
        str(mask),
        "--no-compare-mask",
        "--case-id",
        case_id,
    ]
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_results_of_two_cases_never_mix(phantom: Phantom, weights: Path, tmp_path: Path) -> None:
    image, mask = phantom.save(tmp_path / "good")
    flat = Phantom(phantom.hu * 0, phantom.labels, phantom.affine, phantom.centre)
    bad_image, bad_mask = flat.save(tmp_path / "bad")
    out = tmp_path / "out"
    predict(image, mask, compare_mask=False, weights=weights, out=out, case_id="a", explain=True)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    arguments = [
        "predict",
        str(bad_image),
        "--mask",
        str(bad_mask),
        "--no-compare-mask",
        "--weights",
        str(weights),
    ]
    result = CliRunner().invoke(main, [*arguments, "--out", str(out), "--case-id", "b"])
    assert result.exit_code == 3
    after = {file.name: file.read_bytes() for file in out.iterdir()}
    assert json.loads(after.pop("refused.json"))["case_id"] == "b"
    assert after == before  # a refusal removes nothing
    predict(image, mask, compare_mask=False, weights=weights, out=out, case_id="c")
    assert {file.name for file in out.iterdir()} == {"prediction.json", "run.json", "mask.png"}


def test_an_overlay_that_needs_many_processes_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="torchrun"):
        train(tmp_path / "none.csv", out=tmp_path, overlays=["multi_gpu"])
    (tmp_path / "broken.yaml").write_text("a: [1, {")
    with pytest.raises(SettingError, match="is not YAML"):
        train(tmp_path / "none.csv", out=tmp_path, overlays=[str(tmp_path / "broken.yaml")])
    with pytest.raises(SettingError, match="neither a file nor one of"):
        train(tmp_path / "none.csv", out=tmp_path, overlays=["inference"])


def test_a_refusal_in_the_chain_reaches_the_caller(
    phantom: Phantom, weights: Path, tmp_path: Path
) -> None:
    flat = Phantom(phantom.hu * 0, phantom.labels, phantom.affine, phantom.centre)
    image, mask = flat.save(tmp_path)
    with pytest.raises(CaseRefused) as refused:
        predict(image, mask, compare_mask=False, weights=weights, out=tmp_path / "out")
    assert refused.value.code == "not_hounsfield"
    arguments = ["predict", str(image), "--mask", str(mask), "--no-compare-mask"]
    arguments += ["--weights", str(weights), "--out", str(tmp_path / "cli")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    document = json.loads((tmp_path / "cli" / "prediction.json").read_text())
    assert document["refusal"]["code"] == "not_hounsfield"


def test_unknown_settings_and_overlays_are_named() -> None:
    with pytest.raises(KeyError, match="crop_sise"):
        preprocessing(crop_sise=[1, 1])
    with pytest.raises(ValueError, match="bone_only"):
        config_files(["bone_onyl"])


def _check_slices(document: dict[str, Any], image: Path, mask: Path) -> None:
    """The promises of a prediction, worked out from the label map itself."""
    assert violations(document, "prediction") == []
    assert len(document["slices"]) == 14
    indices = [record["index"] for record in document["slices"]]
    assert indices == sorted(indices, reverse=True)
    assert document["levels"] == ["T12", "L1", "L2", "L3", "L4"]
    case = load_case(image, mask)
    for record in document["slices"]:
        k = case.volume.index_from_feet(record["index"])
        plane = np.take(case.masks.labels, k, axis=case.volume.slice_axis)
        inside = np.argwhere((plane >= 19) & (plane <= 23))
        places = np.insert(inside.mean(axis=0), case.volume.slice_axis, k)
        centroid = world_positions(case.volume.affine, places[None])[0] * [-1, -1, 1]
        assert np.linalg.norm(centroid - record["centre_mm"]) < 5.0


def test_the_real_dicom_series(
    real_data: Path, tcga_series: Path, weights: Path, tmp_path: Path
) -> None:
    mask = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    predict(tcga_series, mask, compare_mask=False, weights=weights, out=tmp_path, explain=True)
    document = json.loads((tmp_path / "prediction.json").read_text())
    _check_slices(document, tcga_series, mask)
    heights = {
        str(header.SOPInstanceUID): float(header.ImagePositionPatient[2])
        for header in (
            pydicom.dcmread(file, stop_before_pixels=True) for file in tcga_series.glob("*.dcm")
        )
    }
    for record in document["slices"]:
        assert heights[record["sop_instance_uid"]] == pytest.approx(record["centre_mm"][2])
    labels, heat = nib.load(mask), nib.load(tmp_path / "gradcam.nii.gz")
    assert heat.shape == labels.shape
    np.testing.assert_allclose(heat.affine, labels.affine, atol=1e-3)
    values = np.asarray(heat.dataobj)
    assert 0 <= values.min() <= values.max() <= 1
    rows = np.flatnonzero((np.asarray(labels.dataobj) == 20).any(axis=(0, 1)))
    assert values[..., rows].any()


def test_two_forms_of_one_mask_give_the_same_slices(
    real_data: Path, weights: Path, tmp_path: Path
) -> None:
    folder = real_data / "totalseg_example"
    heights = []
    for name in ("v1_masks", "seg_v2_117class_fast.nii.gz"):
        out = tmp_path / name
        predict(folder / "ct.nii.gz", folder / name, compare_mask=False, weights=weights, out=out)
        document = json.loads((out / "prediction.json").read_text())
        _check_slices(document, folder / "ct.nii.gz", folder / name)
        assert "level_cut" in [warning["code"] for warning in document["warnings"]]
        heights.append([record["centre_mm"][2] for record in document["slices"]])
    assert np.abs(np.subtract(*heights)).max() <= 6.0
