"""Image and clinical variables in one network; folds that are left out; what the head sees."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out

from cohorts import CONFIGS, META, SMALL, files, make_cohort, run
from monai_vfx.analysis.clinical.variables import MODELS
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, SettingError, find_cause, find_refusal
from monai_vfx.core.schemas import violations
from monai_vfx.model.bundle.cohort import (
    Standardiser,
    clinical_values,
    cohort_cases,
    fit_clinical,
    row_values,
    split_cohort,
)
from monai_vfx.model.bundle.datasets import prepare_batch
from monai_vfx.model.checkpoint import TrainedModel, read_sidecar
from monai_vfx.model.gradcam import gradcam
from monai_vfx.model.network import AttentionCNNRNN
from monai_vfx.workflows.scoring import input_and_heat
from monai_vfx.workflows.train import evaluate

AGES = [55, 62, 71, "", 66, 78, 59, 80, 64, 70, 52, 74]
SEXES = ["F", "M", "F", "F", "M", "F", "M", "F", "M", "F", "F", "M"]
BMIS = [22.5, 27.0, "", 31.2, 24.4, 19.9, 26.1, 23.3, 28.8, 21.0, "", 25.5]
FOLDS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
COLUMNS: dict[str, Sequence[object]] = {"age": AGES, "sex": SEXES, "bmi": BMIS, "fold": FOLDS}


@pytest.fixture(autouse=True)
def _unseeded() -> Iterator[None]:
    yield
    from monai.utils import set_determinism

    set_determinism(None)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("cohort"), [0, 1] * 6, COLUMNS)


@dataclass(frozen=True)
class Fused:
    """A network of model B, validated on fold 0, with fold 2 left out."""

    cohort: Path
    out: Path

    @property
    def weights(self) -> Path:
        return self.out / "model.pt"

    def case(self, number: int) -> dict[str, Any]:
        folder = self.cohort.parent
        return {
            "case_id": f"p{number}",
            "image": str(folder / f"p{number}_ct.nii.gz"),
            "mask": str(folder / f"p{number}_mask.nii.gz"),
        }


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "tiny.json"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.fixture(scope="module")
def fused(cohort: Path, overlay: Path, tmp_path_factory: pytest.TempPathFactory) -> Fused:
    out = tmp_path_factory.mktemp("fused")
    arguments = ["train", str(cohort), "--out", str(out), "--epochs", "1", "--pretrained", "none"]
    arguments += ["--fold", "0", "--test-fold", "2"]
    for name in ("cpu_small", "clinical_B", str(overlay)):
        arguments += ["--overlay", name]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return Fused(cohort, out)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- folds ------------------------------------------------------------------------------------


def test_the_test_fold_is_neither_trained_nor_validated_on(cohort: Path, fused: Fused) -> None:
    split = split_cohort(cohort, 0, 3, seed=0, test_fold=2)
    cases = {part: [item["case_id"] for item in items] for part, items in split.items()}
    assert cases == {
        "train": ["p4", "p5", "p6", "p7"],
        "validate": ["p0", "p1", "p2", "p3"],
        "test": ["p8", "p9", "p10", "p11"],
    }
    written = json.loads((fused.out / "split.json").read_text())
    assert written == {
        **{"folds": 3, "fold": 0, "test_fold": 2, "seed": 0, "refused": []},
        **{"train": cases["train"], "validation": cases["validate"], "test": cases["test"]},
    }
    sidecar = read_sidecar(fused.weights)
    assert sidecar["trained_on"]["patients"] == sidecar["validation"]["patients"] == 4
    assert sidecar["training"]["test_fold"] == 2


def test_without_folds_of_the_table_the_seed_decides(cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    lines = [line.rsplit(",", 1)[0] for line in cohort.read_text().splitlines()]
    folder = str(cohort.parent)
    lines[1:] = [line.replace(",p", f",{folder}/p") for line in lines[1:]]
    table.write_text("\n".join(lines) + "\n")
    parts = [split_cohort(table, 0, 3, seed, test_fold=1) for seed in (0, 0, 1)]
    names = [{p: [i["case_id"] for i in items] for p, items in part.items()} for part in parts]
    assert names[0] == names[1] != names[2]
    assert sorted(c for cases in names[0].values() for c in cases) == sorted(
        f"p{n}" for n in range(12)
    )
    assert names[0]["test"] == [item["case_id"] for item in cohort_cases(table, 1, 3, 0)]


@pytest.mark.parametrize(
    ("fold", "test_fold", "message"),
    [
        (0, 0, r"test_fold \(0\) must differ from fold"),
        (0, 3, r"test_fold \(3\) must lie in 0 … 2"),
        (-1, 1, r"fold \(-1\) must lie in 0 … 2"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    cohort: Path, fold: int, test_fold: int, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        split_cohort(cohort, fold, 3, 0, test_fold)


def test_an_evaluation_scores_exactly_the_fold_left_out(fused: Fused, tmp_path: Path) -> None:
    metrics = evaluate(fused.cohort, weights=fused.weights, out=tmp_path, fold=2)
    rows = rows_of(tmp_path / "predictions.csv")
    assert [row["case_id"] for row in rows] == ["p8", "p9", "p10", "p11"]
    assert (metrics["n"], metrics["events"], metrics["clinical_missing"]) == (4, 2, 1)
    with pytest.raises(SettingError, match=r"fold \(1\) is one that these weights were trained on"):
        evaluate(fused.cohort, weights=fused.weights, out=tmp_path, fold=1)


# --- what the head sees -----------------------------------------------------------------------


def test_features_are_the_head_s_input_of_the_same_pass(fused: Fused, tmp_path: Path) -> None:
    evaluate(fused.cohort, weights=fused.weights, out=tmp_path)
    features, scores = rows_of(tmp_path / "features.csv"), rows_of(tmp_path / "predictions.csv")
    assert list(features[0]) == ["case_id", *(f"f{n}" for n in range(8 + 3))]
    assert [row["case_id"] for row in features] == [row["case_id"] for row in scores]
    head = TrainedModel(fused.weights).network_def.head
    for row, scored in zip(features, scores, strict=True):
        vector = torch.tensor([float(row[f"f{n}"]) for n in range(11)])
        with torch.no_grad():
            score = head(vector).softmax(0)[1].item()
        assert float(scored["score"]) == pytest.approx(score, abs=1e-6)
    assert len({row["f0"] for row in features}) > 1


# --- standardiser -----------------------------------------------------------------------------


def test_statistics_come_from_the_training_part_alone(cohort: Path, fused: Fused) -> None:
    expected = {
        "names": ["age", "sex", "bmi"],
        "mean": [np.mean([66, 78, 59, 80]), 0.5, np.mean([24.4, 19.9, 26.1, 23.3])],
        "sd": [np.std([66, 78, 59, 80]), 0.5, np.std([24.4, 19.9, 26.1, 23.3])],
        "missing": [0, 0, 0],
    }
    found = read_sidecar(fused.weights)["config"]["clinical"]
    assert found["names"] == expected["names"]
    assert found["missing"] == expected["missing"]
    for name in ("mean", "sd"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-12)
    other = fit_clinical("B", cohort, fold=1, folds=3, seed=0, test_fold=2)
    assert other is not None
    assert other["mean"][0] == pytest.approx(np.mean([55, 62, 71]))
    assert other["missing"] == [1, 0, 1]


def test_items_carry_standardised_values_and_the_mean_for_missing_ones(cohort: Path) -> None:
    clinical = fit_clinical("B", cohort, 1, 3, 0, 2)
    split = split_cohort(cohort, 1, 3, 0, 2, clinical)
    values = {i["case_id"]: i["clinical"] for part in split.values() for i in part}  # type: ignore[typeddict-item]
    ages = np.array([55, 62, 71])
    np.testing.assert_allclose(values["p1"][0], (62 - ages.mean()) / ages.std(), rtol=1e-6)
    assert values["p3"][0] == 0.0  # age missing
    assert values["p2"][2] == 0.0  # BMI missing
    np.testing.assert_allclose(values["p7"][0], (80 - ages.mean()) / ages.std(), rtol=1e-6)
    assert values["p7"].dtype == np.float32


def test_a_constant_variable_is_centred_and_an_empty_one_refused() -> None:
    rows = [{"hiv": 0.0, "bmi": float("nan")}, {"hiv": 0.0, "bmi": float("nan")}]
    constant = Standardiser.fit(rows, ["hiv"])
    assert constant({"hiv": 1.0})[0].tolist() == [1.0]
    with pytest.raises(SettingError, match="no training patient has bmi"):
        Standardiser.fit(rows, ["hiv", "bmi"])


def test_a_table_without_a_column_is_refused(cohort: Path) -> None:
    with pytest.raises(CaseRefused, match="glucocorticoids") as refused:
        fit_clinical("C", cohort, 0, 3, 0)
    with pytest.raises(SettingError, match="'E'"):
        fit_clinical("E", cohort, 0, 3, 0)
    assert refused.value.code == "cohort_invalid"
    assert clinical_values(cohort, ("sex",))["p0"] == {"sex": 1.0}


def test_the_network_gets_what_the_batch_holds() -> None:
    batch = {
        "image": torch.zeros(2, 1, 2, 2, 2),
        "label": torch.tensor([1, 0]),
        "clinical": torch.ones(2, 3),
    }
    image, target, others, named = prepare_batch(batch, device="cpu")
    assert torch.equal(target, batch["label"])
    assert (image.shape, others, list(named)) == ((2, 1, 2, 2, 2), (), ["clinical"])


# --- prediction -------------------------------------------------------------------------------


def row_file(folder: Path, text: str) -> Path:
    path = folder / "row.csv"
    path.write_text(text)
    return path


def predicted(fused: Fused, out: Path, **case: Any) -> dict[str, Any]:
    cases = ({**fused.case(6), **case},)
    run(
        *("common", "inference"),
        kind="infer",
        output_dir=str(out),
        weights=str(fused.weights),
        cases=cases,
    )
    document: dict[str, Any] = json.loads((out / "p6" / "prediction.json").read_text())
    assert violations(document, "prediction") == []
    return document


def test_a_row_gives_the_score_that_the_table_gives(fused: Fused, tmp_path: Path) -> None:
    evaluate(fused.cohort, weights=fused.weights, out=tmp_path / "table")
    scores = {
        r["case_id"]: float(r["score"]) for r in rows_of(tmp_path / "table" / "predictions.csv")
    }
    row = row_file(tmp_path, "age,sex,bmi\n59,M,26.1\n")
    document = predicted(fused, tmp_path, clinical=row)
    assert document["score"] == pytest.approx(scores["p6"], abs=1e-6)
    model = TrainedModel(fused.weights)
    image = model.preprocessing(fused.case(6))["image"].as_tensor()[None]
    statistics = Standardiser.from_settings(model.clinical)
    assert statistics is not None
    clinical = torch.tensor(statistics({"age": 59.0, "sex": 0.0, "bmi": 26.1})[0])[None]
    with torch.no_grad():
        direct = model.network_def(image, clinical).softmax(1)[0, 1].item()
    assert document["score"] == pytest.approx(direct, abs=1e-6)
    other = predicted(fused, tmp_path, clinical=row_file(tmp_path, "age,sex,bmi\n79,F,18.0\n"))
    assert other["score"] != document["score"]


def test_a_missing_value_is_filled_and_said(fused: Fused, tmp_path: Path) -> None:
    empty = predicted(fused, tmp_path, clinical=row_file(tmp_path, "sex,age,bmi\nM,59,\n"))
    codes = {w["code"]: w["message"] for w in empty["warnings"]}
    assert codes["clinical_missing"].endswith(": bmi")
    mean = np.mean([24.4, 19.9, 26.1, 23.3])
    row = row_file(tmp_path, f"sex,age,bmi\nM,59,{mean}\n")
    filled = predicted(fused, tmp_path, clinical=row)
    assert "clinical_missing" not in [w["code"] for w in filled["warnings"]]
    assert empty["score"] == pytest.approx(filled["score"], abs=1e-7)


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (None, "clinical_invalid", "age, sex, bmi"),
        ("age,sex\n59,M\n", "clinical_invalid", "bmi"),
        ("age,sex,bmi\n", "clinical_invalid", "one row"),
        ("age,sex,bmi\n59,M,20\n60,M,21\n", "clinical_invalid", "the table has 2"),
        ("age,sex,bmi\n590,M,20\n", "cohort_invalid", "age"),
        ("age,sex,bmi\n59,male,20\n", "cohort_invalid", "sex"),
    ],
)
def test_a_row_that_cannot_be_used_refuses_the_case(
    fused: Fused, tmp_path: Path, text: str | None, code: str, named: str
) -> None:
    row = None if text is None else row_file(tmp_path, text)
    document = predicted(fused, tmp_path, clinical=row)
    assert document["status"] == "refused"
    assert document["refusal"]["code"] == code
    assert named in document["refusal"]["message"]


def test_a_row_of_a_whole_table_may_hold_more(tmp_path: Path) -> None:
    row = row_file(
        tmp_path, "case_id,image,fracture,follow_up_years,age,sex,bmi\nx,a.nii,1,9,59,M,\n"
    )
    values = row_values(row, ("age", "sex", "bmi"))
    assert values["age"] == 59.0
    assert np.isnan(values["bmi"])


def test_heat_maps_of_a_fusion_network(fused: Fused, tmp_path: Path) -> None:
    row = row_file(tmp_path, "age,sex,bmi\n59,M,26.1\n")
    cases = ({**fused.case(6), "clinical": row},)
    settings = {"output_dir": str(tmp_path), "weights": str(fused.weights), "cases": cases}
    run("common", "inference", "gradcam", kind="infer", show_attention=True, **settings)
    names = {path.name for path in (tmp_path / "p6").iterdir()}
    assert {"gradcam.nii.gz", "gradcam.png", "attention_layer3.png"} <= names
    model = TrainedModel(fused.weights)
    image = model.preprocessing(fused.case(6))["image"].as_tensor()[None]
    heats = [gradcam(model.network_def, image, clinical=torch.full((1, 3), v)) for v in (0.0, 9.0)]
    torch.testing.assert_close(*heats)  # the clinical variables add to the logit, no more
    drawn, heat = input_and_heat(cases[0], fused.weights)
    np.testing.assert_array_equal(drawn, image[0, 0].numpy())
    np.testing.assert_allclose(heat, heats[0][0].numpy(), atol=1e-5)
    with pytest.raises(CaseRefused, match="need clinical data: age, sex, bmi"):
        input_and_heat(fused.case(6), fused.weights)


# --- MONAI's tools ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # the zoo's format all the same
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_ckpt_export_of_a_fusion_network(fused: Fused, tmp_path: Path) -> None:
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(fused.weights),
        meta_file=META,
        config_file=files("common", "inference"),
        key_in_ckpt="network",
        weights=str(fused.weights),
    )
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    x, clinical = torch.rand(2, 1, 32, 48, 14), torch.rand(2, 3)
    with torch.no_grad():
        expected = TrainedModel(fused.weights).network_def(x, clinical)
        torch.testing.assert_close(exported(x, clinical), expected)


def test_a_fusion_network_fits_the_metadata(fused: Fused) -> None:
    verify_net_in_out(
        "network_def",
        meta_file=META,
        config_file=files("common", "inference"),
        device="cpu",
        extra_forward_args={"clinical": torch.zeros(1, 3)},
        weights=str(fused.weights),
    )


@pytest.mark.parametrize("model", ["A", "B", "C", "D"])
def test_each_model_has_its_width(model: str) -> None:
    names = MODELS[model]
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "common.yaml"))
    parser["clinical"] = {"names": list(names)}
    parser["backbone"] = "resnet18"
    network = parser.get_parsed_content("network_def")
    assert isinstance(network, AttentionCNNRNN)
    assert network.clinical_features == len(names) == {"A": 2, "B": 3, "C": 7, "D": 11}[model]


def test_an_unknown_model_is_named_before_the_training(cohort: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "cohort": str(cohort), "folds": 3, "output_dir": str(tmp_path / "run")}
    for model, kind in (("E", SettingError), ("D", CaseRefused)):
        with pytest.raises(RuntimeError) as failed:
            run("common", "train", "cpu_small", clinical_model=model, **settings)
        assert find_cause(failed.value, kind) is not None
    assert find_refusal(failed.value).code == "cohort_invalid"  # type: ignore[union-attr]
