"""The MONAI Bundle: its metadata, its configs, and each of its jobs on phantoms."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    verify_metadata,
    verify_net_in_out,
)
from packaging.version import Version
from torchvision import models

from monai_vfx import data_schemas
from monai_vfx.core.errors import SettingError, find_cause
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.schemas import schema, violations
from monai_vfx.model.bundle import results
from monai_vfx.model.bundle.cohort import split_cohort
from monai_vfx.model.checkpoint import TrainedModel, bundle_root, read_sidecar
from monai_vfx.model.gradcam import to_ct_grid
from monai_vfx.outputs.report.slice_montage import montage
from monai_vfx.vertebrae.training.checkpoints import load_state
from phantoms import grid, make_phantom, nifti

ROOT = bundle_root()
CONFIGS = ROOT / "configs"
META = CONFIGS / "metadata.json"
SCHEMA = Path(data_schemas.__file__).parent / "monai_bundle_metadata.schema.json"
SMALL: dict[str, Any] = {"crop_size": [32, 48], "pixel_mm": 3.0, "rnn_hidden": 8, "workers": 0}


def files(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def workflow(*names: str, kind: str = "train", **overrides: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        files(*names), str(META), logging_file=False, workflow_type=kind, **overrides
    )


def run(*names: str, **overrides: Any) -> ConfigWorkflow:
    job = workflow(*names, **overrides)
    job.initialize()
    job.run()
    job.finalize()
    return job


@pytest.fixture(autouse=True)
def _unseeded() -> Iterator[None]:
    yield
    from monai.utils import set_determinism

    set_determinism(None)


# --- metadata ---------------------------------------------------------------------------------


def read_meta() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(META.read_text())
    return content


def verify(document: Path) -> None:
    verify_metadata(*(str(document), str(SCHEMA)), hash_val=sha256_of(SCHEMA), hash_type="sha256")


def test_metadata_fulfils_the_specification() -> None:
    assert violations(read_meta(), "monai_bundle_metadata") == []
    verify(META)


def required_paths() -> list[tuple[str, ...]]:
    tensor = schema("monai_bundle_metadata")["$defs"]["tensor"]["required"]
    return [
        *((key,) for key in schema("monai_bundle_metadata")["required"]),
        ("network_data_format", "inputs"),
        ("network_data_format", "outputs"),
        *(("network_data_format", "inputs", "image", key) for key in tensor),
        *(("network_data_format", "outputs", "pred", key) for key in tensor),
    ]


@pytest.mark.parametrize("path", required_paths(), ids="/".join)
def test_metadata_without_a_required_key_is_rejected(path: tuple[str, ...], tmp_path: Path) -> None:
    document = copy.deepcopy(read_meta())
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    write_json(tmp_path / "metadata.json", document)
    with pytest.raises(ValueError, match="schema"):
        verify(tmp_path / "metadata.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), "one"),
        (("network_data_format", "inputs", "image", "spatial_shape"), [96, 144, 14, 1]),
        (("network_data_format", "inputs", "image", "value_range"), [-1]),
        (("network_data_format", "inputs", "image", "num_channels"), 0),
        (("network_data_format", "outputs", "pred", "dtype"), "float"),
        (("network_data_format", "outputs", "pred", "channel_def"), {"fracture": "1"}),
    ],
)
def test_metadata_of_a_wrong_kind_is_rejected(path: tuple[str, ...], value: Any) -> None:
    document = read_meta()
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    assert len(violations(document, "monai_bundle_metadata")) >= 1


def test_versions_are_the_package_s_and_are_met_here() -> None:
    meta = read_meta()
    assert meta["version"] in meta["changelog"]
    needed = {
        "monai": meta["monai_version"],
        "torch": meta["pytorch_version"],
        "numpy": meta["numpy_version"],
        **meta["required_packages_version"],
    }
    for package, version in needed.items():
        assert Version(metadata.version(package)) >= Version(version), package


# --- files ------------------------------------------------------------------------------------


def test_the_bundle_has_the_zoo_s_files_and_nothing_heavy_or_absolute() -> None:
    assert (ROOT / "LICENSE").read_text() == Path("LICENSE").read_text()
    assert (ROOT / "docs" / "README.md").is_file()
    assert (ROOT / "docs" / "data_license.txt").is_file()
    for path in ROOT.rglob("*"):
        assert not path.is_file() or path.stat().st_size < 25 * 2**20
        if path.suffix in (".yaml", ".json", ".conf"):
            assert not re.search(r"['\" ](/[a-z]|[A-Z]:\\)", path.read_text()), path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_keeps_the_one_order(path: Path) -> None:
    order = ("constants", "hyper-parameters", "paths", "network", "data", "engine")
    headings = re.findall(r"^# (\S+?)(?::| *$)", path.read_text(), flags=re.MULTILINE)
    known = [order.index(name) for name in headings if name in order]
    assert known
    assert known == sorted(known)


@pytest.mark.parametrize(
    "overlay",
    ["bone_only", "cpu_small", "clinical", "hazard", "three_windows", "recommended"],
)
def test_overlays_change_settings_that_exist(overlay: str) -> None:
    parser = ConfigParser()
    parser.read_config(files("common", "train"))
    changed = yaml.safe_load((CONFIGS / f"{overlay}.yaml").read_text())
    assert changed
    assert set(changed) <= set(parser.get())


def test_preprocessing_is_written_in_common_only() -> None:
    for path in CONFIGS.glob("*.yaml"):
        names = re.findall(r"LocateSpined|Spacingd|ScaleWindowsd|Crop\w*d", path.read_text())
        assert bool(names) == (path.stem == "common"), path


def test_bone_only_masks_and_centres() -> None:
    parser = ConfigParser()
    parser.read_config(files("common", "bone_only"))
    crop = parser.get_parsed_content("deterministic_transforms")[-2].cropper
    assert (crop.size, crop.posterior_mm, crop.masked) == ((96, 96), 0.0, True)
    parser = ConfigParser()
    parser.read_config(files("common"))
    crop = parser.get_parsed_content("deterministic_transforms")[-2].cropper
    assert (crop.size, crop.posterior_mm, crop.masked) == ((96, 144), 24.0, False)


def test_three_windows_are_three_channels_of_one_crop(tmp_path: Path) -> None:
    phantom = make_phantom(*grid((2.5, 2.5, 5.0), (190.0, 170.0, 236.0)))
    image, mask = phantom.save(tmp_path)
    chains = {}
    for name in ("common", "three_windows"):
        parser = ConfigParser()
        parser.read_config(files("common", name))
        chains[name] = parser.get_parsed_content("preprocessing")
    case = {"image": str(image), "mask": str(mask)}
    one, three = (chains[name](case) for name in ("common", "three_windows"))
    assert set(three) == set(one) == {"image"}
    assert three["image"].shape == (3, 96, 144, 14)
    torch.testing.assert_close(three["image"][:1].as_tensor(), one["image"].as_tensor())
    hu = (three["image"][0].as_tensor() + 1) / 2 * 1200 - 200  # of the first window, where inside
    for channel, (low, high) in ((1, (-160, 240)), (2, (-1000, 2000))):
        values = three["image"][channel].as_tensor()
        seen = (hu > max(low, -200) + 1) & (hu < min(high, 1000) - 1)
        assert seen.any()
        expected = 2 * (hu - low) / (high - low) - 1
        torch.testing.assert_close(values[seen], expected[seen], atol=1e-4, rtol=0)
    heat = torch.rand(1, 96, 144, 14)
    found = [
        to_ct_grid(heat, x["image"], chains[n]) for n, x in zip(chains, (one, three), strict=True)
    ]
    np.testing.assert_array_equal(*found)
    parser.update({"backbone": "resnet18"})
    assert parser.get_parsed_content("network_def").in_channels == 3


@pytest.mark.parametrize("names", [("common",), ("common", "train"), ("common", "inference")])
def test_network_fits_the_metadata_without_a_download(names: tuple[str, ...]) -> None:
    verify_net_in_out("network_def", meta_file=str(META), config_file=files(*names), device="cpu")


# --- the jobs, on phantoms --------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A cohort of phantoms, and what one epoch on it left."""

    cohort: Path
    out: Path

    @property
    def weights(self) -> Path:
        return self.out / "model.pt"

    def case(self, number: int) -> dict[str, str]:
        name = f"p{number}"
        folder = self.cohort.parent
        return {
            "case_id": name,
            "image": str(folder / f"{name}_ct.nii.gz"),
            "mask": str(folder / f"{name}_mask.nii.gz"),
        }


def training(cohort: Path, out: Path, **overrides: Any) -> dict[str, Any]:
    settings = {"cohort": str(cohort), "output_dir": str(out), "folds": 2, "max_epochs": 1}
    return {**SMALL, **settings, "batch_size": 4, "micro_batch": 2, **overrides}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Eight phantoms, the fractured ones with bone of lower density, and one that is refused."""
    folder = tmp_path_factory.mktemp("cohort")
    phantom = make_phantom(*grid((2.5, 2.5, 5.0), (190.0, 170.0, 236.0)))
    rows = ["case_id,image,mask,fracture,simulated"]
    for number in range(9):
        fractured = number % 2
        labels = phantom.labels * (number < 8)  # the last case has an empty mask
        hu = phantom.hu - 60 * fractured * (phantom.labels > 0) + number
        nib.save(nifti(hu.astype(np.int16), phantom.affine), folder / f"p{number}_ct.nii.gz")
        nib.save(nifti(labels, phantom.affine), folder / f"p{number}_mask.nii.gz")
        rows.append(f"p{number},p{number}_ct.nii.gz,p{number}_mask.nii.gz,{fractured},1")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path_factory.mktemp("training")
    run("common", "train", "cpu_small", **training(folder / "cohort.csv", out))
    return Trained(folder / "cohort.csv", out)


def history(out: Path) -> list[dict[str, str]]:
    with (out / "metrics_history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_leaves_weights_sidecar_curve_and_refusals(trained: Trained) -> None:
    names = {path.name for path in trained.out.iterdir()}
    assert {
        *("model.pt", "model.json", "last_checkpoint_epoch=1.pt", "metrics_history.csv"),
        *("tensorboard", "refused.jsonl", "settings.json", "split.json"),
    } == names
    (row,) = history(trained.out)
    assert row["epoch"] == "1"
    assert 0.1 < float(row["train_loss"]) < 3
    sidecar = read_sidecar(trained.weights)
    assert sidecar["simulated"] is True
    assert sidecar["calibration"] is None
    assert sidecar["image_class"] == "bone_muscle"
    assert sidecar["config"]["backbone"] == "resnet18"
    assert sidecar["config"]["crop_size"] == [32, 48]
    assert sidecar["training"]["learning_rate"] == 0.0003
    assert sidecar["validation"]["auroc"] == pytest.approx(float(row["val_auroc"]), abs=1e-6)
    patients = [sidecar[part]["patients"] for part in ("trained_on", "validation")]
    assert sum(patients) == 8
    (line,) = (trained.out / "refused.jsonl").read_text().splitlines()
    assert json.loads(line)["case_id"] == "p8"
    assert json.loads(line)["code"] == "mask_empty"


def test_training_resumes_where_it_stopped(trained: Trained, tmp_path: Path) -> None:
    settings = training(trained.cohort, tmp_path, max_epochs=1)
    run("common", "train", "cpu_small", **settings)
    first = torch.load(tmp_path / "last_checkpoint_epoch=1.pt", weights_only=True)
    for change, reason in (
        ({}, "holds an earlier training"),
        ({"resume": True, "fold": 1, "dropout": 0.1}, "with another dropout, fold:"),
    ):
        with pytest.raises(RuntimeError) as refused:
            workflow("common", "train", "cpu_small", **{**settings, **change}).initialize()
        assert reason in str(refused.value.__cause__)
    job = run("common", "train", "cpu_small", **{**settings, "max_epochs": 2, "resume": True})
    trainer = job.trainer
    assert (trainer.state.epoch, trainer.state.iteration) == (2, 2 * trainer.state.epoch_length)
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2"]
    second = torch.load(tmp_path / "last_checkpoint_epoch=2.pt", weights_only=True)
    moved = [
        k for k in first["network"] if not torch.equal(first["network"][k], second["network"][k])
    ]
    assert any(k.startswith("stages.layer3") for k in moved)
    best = max(float(row["val_auroc"]) for row in history(tmp_path))
    assert read_sidecar(tmp_path / "model.pt")["validation"]["auroc"] == pytest.approx(
        best, abs=1e-6
    )


def test_pretrained_weights_are_loaded_unless_there_is_something_to_resume(
    trained: Trained, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    encoder = models.resnet18(weights=None)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    settings = training(trained.cohort, tmp_path / "run", pretrained=str(tmp_path / "encoder.pth"))
    job = workflow("common", "train", "cpu_small", **settings, resume=True, learning_rate=0.0)
    job.initialize()
    job.run()
    state = load_state(tmp_path / "run" / "model.pt")
    assert torch.equal(state["stem.0.weight"], encoder.conv1.weight)
    sidecar = read_sidecar(tmp_path / "run" / "model.pt")
    assert sidecar["training"]["pretrained"] == "encoder.pth"  # the name, not the path
    (tmp_path / "encoder.pth").unlink()
    job = workflow(
        *("common", "train", "cpu_small"),
        **{**settings, "resume": True, "learning_rate": 0.0, "max_epochs": 2},
    )
    job.initialize()
    job.run()
    assert job.trainer.state.epoch == 2


def resumed(trained: Trained, out: Path, **overrides: Any) -> ConfigWorkflow:
    settings = training(trained.cohort, out, **overrides)
    return run("common", "train", "cpu_small", **settings, resume=True)


@pytest.fixture
def finished(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the folder that the training of one epoch left."""
    return Path(shutil.copytree(trained.out, tmp_path / "finished"))


def test_a_finished_training_ends_well_when_run_again(trained: Trained, finished: Path) -> None:
    before = {p.name: p.read_bytes() for p in finished.iterdir() if p.is_file()}
    job = resumed(trained, finished)
    assert job.trainer.state.epoch == 1
    assert {p.name: p.read_bytes() for p in finished.iterdir() if p.is_file()} == before


def test_fewer_epochs_than_a_training_has_are_refused(trained: Trained, finished: Path) -> None:
    resumed(trained, finished, max_epochs=2)
    record = (finished / "settings.json").read_bytes()
    with pytest.raises(RuntimeError) as refused:
        workflow(
            *("common", "train", "cpu_small"), **training(trained.cohort, finished), resume=True
        ).initialize()
    assert "max_epochs (1) must be at least 2" in str(find_cause(refused.value, SettingError))
    assert (finished / "settings.json").read_bytes() == record


@pytest.mark.parametrize("killed", ["before the sidecar", "while writing", "after a first one"])
def test_a_best_checkpoint_without_its_sidecar_is_begun_anew(
    trained: Trained, finished: Path, killed: str, caplog: pytest.LogCaptureFixture
) -> None:
    if killed == "before the sidecar":
        (finished / "model.json").unlink()
    elif killed == "while writing":
        (finished / "model.pt").write_bytes((finished / "model.pt").read_bytes()[:1000])
    else:
        torch.save({"network": {}}, finished / "model.pt")
    resumed(trained, finished, max_epochs=2)
    assert "the best checkpoint so far is not used" in caplog.text
    assert read_sidecar(finished / "model.pt")["validation"]["epoch"] == 2
    assert TrainedModel(finished / "model.pt").network_def is not None


def test_the_list_of_refused_cases_is_written_anew(trained: Trained, tmp_path: Path) -> None:
    """It holds those of both halves of the cohort, and none of an earlier run."""
    table = trained.cohort.with_name("more_refused.csv")
    rows = trained.cohort.read_text().splitlines()
    rows += [rows[-1].replace("p8,", f"q{number},") for number in range(3)]
    table.write_text("\n".join(rows) + "\n")
    split = split_cohort(table, fold=0, folds=2, seed=0)
    halves = (split["train"], split["validate"])
    unusable = [{str(i["case_id"]) for i in half} & {"p8", "q0", "q1", "q2"} for half in halves]
    assert all(unusable)
    (tmp_path / "refused.jsonl").write_text('{"case_id": "long ago"}\n')
    run("common", "train", "cpu_small", **training(table, tmp_path))
    lines = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["case_id"] for line in lines) == ["p8", "q0", "q1", "q2"]


def test_training_leaves_no_writer_open(trained: Trained, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    run("common", "train", "cpu_small", **training(trained.cohort, tmp_path))
    assert [t for t in threading.enumerate() if t not in before and t.is_alive()] == []
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_paths_may_be_objects_with_any_name(trained: Trained, tmp_path: Path) -> None:
    """Text that MONAI would run or rewrite is safe in what is not text."""
    odd = tmp_path / "$1 #2 @x %y"
    odd.mkdir()
    for source in trained.cohort.parent.glob("p*.nii.gz"):
        (odd / source.name).symlink_to(source)
    shutil.copy(trained.cohort, odd / "cohort.csv")
    torch.save(models.resnet18(weights=None).state_dict(), odd / "encoder.pth")
    settings = {**training(odd / "cohort.csv", odd / "run"), "pretrained": odd / "encoder.pth"}
    settings |= {"cohort": odd / "cohort.csv", "output_dir": odd / "run"}
    run("common", "train", "cpu_small", **settings)
    run("common", "train", "cpu_small", **{**settings, "resume": True, "max_epochs": 2})
    assert read_sidecar(odd / "run" / "model.pt")["training"]["pretrained"] == "encoder.pth"
    paths = {"output_dir": odd / "out", "weights": odd / "run" / "model.pt"}
    names = [f"p{number}" for number in (0, 1)]
    cases = tuple(
        {"case_id": name, "image": odd / f"{name}_ct.nii.gz", "mask": odd / f"{name}_mask.nii.gz"}
        for name in names
    )
    run("common", "inference", "gradcam", kind="infer", **paths, cases=cases)
    for name in names:
        document = json.loads((odd / "out" / name / "prediction.json").read_text())
        assert document["status"] == "ok"
        assert (odd / "out" / name / "gradcam.png").is_file()
    evaluated = {**paths, "cohort": odd / "cohort.csv"}
    run("common", "inference", "evaluate", kind="infer", **evaluated)
    assert json.loads((odd / "out" / "metrics.json").read_text())["n"] == 8


def test_training_repeats_itself_with_one_seed(trained: Trained, tmp_path: Path) -> None:
    run("common", "train", "cpu_small", **training(trained.cohort, tmp_path))
    first, second = (load_state(folder / "model.pt") for folder in (trained.out, tmp_path))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_gradients_accumulate_to_the_whole_batch(trained: Trained, tmp_path: Path) -> None:
    job = workflow("common", "train", "cpu_small", **training(trained.cohort, tmp_path))
    job.initialize()
    assert job.trainer.accumulation_steps == 2  # 4 patients in micro-batches of 2
    parser = ConfigParser()
    parser.read_config(files("common", "train"))
    settings = {key: parser.get(key) for key in ("batch_size", "learning_rate", "pretrained")}
    assert settings == {"batch_size": 128, "learning_rate": 1e-5, "pretrained": "imagenet"}
    assert isinstance(job.parser.get_parsed_content("optimizer"), torch.optim.Adam)


def test_only_the_random_part_runs_again(trained: Trained, tmp_path: Path) -> None:
    job = workflow("common", "train", "cpu_small", **training(trained.cohort, tmp_path))
    job.initialize()
    dataset = job.train_dataset
    for path in trained.cohort.parent.glob("*.nii.gz"):
        path.rename(path.with_suffix(".away"))
    try:
        draws = [dataset[0]["image"] for _ in range(8)]
    finally:
        for path in trained.cohort.parent.glob("*.away"):
            path.rename(path.with_suffix(".gz"))
    assert draws[0].shape == (1, 32, 48, 14)
    assert any(not torch.equal(draws[0], other) for other in draws[1:])
    held_out = job.val_dataset
    assert torch.equal(held_out[0]["image"], held_out[0]["image"])


def test_required_properties_are_there(trained: Trained, tmp_path: Path) -> None:
    job = workflow("common", "train", "cpu_small", **training(trained.cohort, tmp_path))
    job.initialize()
    assert job.check_properties() == []
    job = workflow(
        *("common", "inference"),
        kind="infer",
        **{"output_dir": str(tmp_path), "weights": str(trained.weights), "cases": []},
    )
    job.initialize()
    assert job.check_properties() == []
    assert job.version == read_meta()["version"]


def predict(trained: Trained, out: Path, *overlays: str, **overrides: Any) -> None:
    run(
        *("common", "inference", *overlays),
        kind="infer",
        output_dir=str(out),
        weights=str(trained.weights),
        **overrides,
    )


def test_prediction_takes_its_settings_from_the_sidecar(trained: Trained, tmp_path: Path) -> None:
    predict(trained, tmp_path, **trained.case(0))
    result = json.loads((tmp_path / "p0" / "prediction.json").read_text())
    assert violations(result, "prediction") == []
    assert result["status"] == "ok"
    assert result["levels"] == ["T12", "L1", "L2", "L3", "L4"]
    assert len(result["slices"]) == 14
    heights = [entry["index"] for entry in result["slices"]]
    assert heights == sorted(heights, reverse=True)  # cranial to caudal, counted from the feet
    assert result["simulated_weights"] is True
    assert "simulated_weights" in [warning["code"] for warning in result["warnings"]]
    model = TrainedModel(trained.weights)
    image = model.preprocessing({**trained.case(0)})["image"].as_tensor()[None]
    with torch.no_grad():
        score = model.network_def(image).softmax(1)[0, 1].item()
    assert image.shape == (1, 1, 32, 48, 14)
    assert result["score"] == pytest.approx(score, abs=1e-6)


def test_one_refused_case_stops_no_other(trained: Trained, tmp_path: Path) -> None:
    nowhere = {"case_id": "lost", "image": str(tmp_path / "nowhere.nii.gz"), "mask": None}
    predict(trained, tmp_path, "gradcam", cases=[nowhere, trained.case(8), trained.case(1)])
    documents = {
        path.parent.name: json.loads(path.read_text())
        for path in tmp_path.glob("*/prediction.json")
    }
    assert {case: document["status"] for case, document in documents.items()} == {
        "lost": "refused",
        "p8": "refused",
        "p1": "ok",
    }
    assert documents["p8"]["refusal"]["code"] == "mask_empty"
    assert documents["lost"]["refusal"]["remedy"]
    assert not (tmp_path / "p8" / "gradcam.png").exists()


def test_heat_map_lies_on_the_ct_s_own_grid(trained: Trained, tmp_path: Path) -> None:
    predict(trained, tmp_path, "gradcam", show_attention=True, **trained.case(1))
    names = {path.name for path in (tmp_path / "p1").iterdir()}
    assert names == {
        *("prediction.json", "gradcam.nii.gz", "gradcam.png"),
        *(f"attention_{s}.{e}" for s in ("layer2", "layer3") for e in ("nii.gz", "png")),
    }
    ct = nib.load(trained.case(1)["image"])
    for name in ("gradcam", "attention_layer3"):
        heat = nib.load(tmp_path / "p1" / f"{name}.nii.gz")
        assert heat.shape == ct.shape
        np.testing.assert_allclose(heat.affine, ct.affine, atol=1e-5)
        values = heat.get_fdata()
        assert values.min() >= 0
        assert 0.3 < values.max() <= 1.0 + 1e-6
    assert "simulated" in str(heat.header["descrip"])


def test_a_layer_without_influence_is_refused_before_the_run(
    trained: Trained, tmp_path: Path
) -> None:
    for layer in ("layer4", "layer9"):
        with pytest.raises(RuntimeError) as refused:
            predict(trained, tmp_path, "gradcam", layer=layer, **trained.case(1))
        cause = find_cause(refused.value, SettingError)
        assert layer in str(cause)
        assert "['layer1', 'layer2', 'layer3']" in str(cause)
    assert list(tmp_path.iterdir()) == []


def test_pictures_take_the_window_of_the_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(trained.weights, tmp_path / "model.pt")
    sidecar = read_sidecar(trained.weights)
    sidecar["config"]["window_hu"] = [-900.0, 1500.0]
    write_json(tmp_path / "model.json", sidecar)
    windows = []

    def note(*arguments: Any, **settings: Any) -> Path:
        windows.append(settings["window_hu"])
        return montage(*arguments, **settings)

    monkeypatch.setattr(results, "montage", note)
    case = {**trained.case(1), "weights": str(tmp_path / "model.pt")}
    run("common", "inference", "gradcam", kind="infer", output_dir=str(tmp_path), **case)
    assert windows == [(-900.0, 1500.0)]


def test_prediction_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as refused:
        run("common", "inference", kind="infer", output_dir=str(tmp_path), cases=[])
    assert "no weights were given" in str(refused.value.__cause__)


def test_evaluation_scores_a_cohort(trained: Trained, tmp_path: Path) -> None:
    predict(trained, tmp_path, "evaluate", cohort=str(trained.cohort))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case_id"] for row in rows] == [f"p{n}" for n in range(8)]
    assert [row["label"] for row in rows] == ["0", "1"] * 4
    score = {label: [float(r["score"]) for r in rows if r["label"] == label] for label in "01"}
    pairs = [(a > b) + 0.5 * (a == b) for a in score["1"] for b in score["0"]]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["auroc"] == pytest.approx(np.mean(pairs))
    assert (metrics["n"], metrics["events"], metrics["refused"]) == (8, 4, 1)
    assert metrics["weights_sha256"] == sha256_of(trained.weights)
    assert json.loads((tmp_path / "refused.jsonl").read_text())["case_id"] == "p8"


def test_an_evaluation_that_fails_leaves_no_earlier_numbers(
    trained: Trained, tmp_path: Path
) -> None:
    names = {"predictions.csv", "metrics.json", "refused.jsonl"}
    for name in names:
        (tmp_path / name).write_text("{}")
    (tmp_path / "other.txt").touch()
    one_class = trained.cohort.with_name("one_class.csv")
    header, *rows = trained.cohort.read_text().splitlines()
    one_class.write_text("\n".join([header, *(r for r in rows if ",0,1" in r)]) + "\n")
    with pytest.raises(RuntimeError) as failed:
        predict(trained, tmp_path, "evaluate", cohort=str(one_class))
    assert "both outcomes must occur" in str(failed.value.__cause__)
    assert not (tmp_path / "metrics.json").exists()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 4
    assert json.loads((tmp_path / "refused.jsonl").read_text())["case_id"] == "p8"
    assert (tmp_path / "other.txt").exists()


def test_evaluation_of_a_fold_scores_what_training_held_out(
    trained: Trained, tmp_path: Path
) -> None:
    predict(trained, tmp_path, "evaluate", cohort=str(trained.cohort), fold=0, folds=2)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    validation = read_sidecar(trained.weights)["validation"]
    assert metrics["n"] == validation["patients"]
    assert metrics["auroc"] == pytest.approx(validation["auroc"], abs=1e-6)


def test_outputs_never_lie_in_the_bundle(trained: Trained) -> None:
    with pytest.raises(RuntimeError) as refused:
        predict(trained, ROOT / "results", **trained.case(0))
    assert "must not lie in the bundle" in str(refused.value.__cause__)
    assert not (ROOT / "results").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # the zoo's format all the same
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_ckpt_export_equals_the_network(trained: Trained, tmp_path: Path) -> None:
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained.weights),
        meta_file=str(META),
        config_file=files("common", "inference"),
        key_in_ckpt="network",
        weights=str(trained.weights),
    )
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    x = torch.rand(2, 1, 32, 48, 14)
    with torch.no_grad():
        torch.testing.assert_close(exported(x), TrainedModel(trained.weights).network_def(x))


# --- as a user calls it -----------------------------------------------------------------------


def command(*launcher: str) -> Callable[..., None]:
    def call(*arguments: str) -> None:
        subprocess.run([*launcher, *arguments], check=True, timeout=300)

    return call


@pytest.mark.slow
def test_the_readme_s_commands_run(trained: Trained, tmp_path: Path) -> None:
    bundle = command(sys.executable, "-m", "monai.bundle")
    small = [f"--{key}={value}" for key, value in SMALL.items()]
    lists = {k: str(files(*k.split("+"))) for k in ("common+train+cpu_small", "common+inference")}
    bundle(
        *("run", "training", "--config_file", lists["common+train+cpu_small"]),
        *("--meta_file", str(META), "--cohort", str(trained.cohort), "--folds", "2"),
        *("--max_epochs", "1", "--output_dir", str(tmp_path / "run"), *small),
    )
    case = [f"--{key}={value}" for key, value in trained.case(0).items()]
    bundle(
        *("run", "--config_file", lists["common+inference"], "--meta_file", str(META), *case),
        *("--weights", str(tmp_path / "run" / "model.pt"), "--output_dir", str(tmp_path)),
    )
    assert json.loads((tmp_path / "p0" / "prediction.json").read_text())["status"] == "ok"
    bundle("verify_metadata", "--meta_file", str(META), "--filepath", str(SCHEMA))
    bundle(
        *("verify_net_in_out", "network_def", "--meta_file", str(META)),
        *("--config_file", files("common")[0]),
    )


@pytest.mark.slow
def test_two_processes_train_as_one(trained: Trained, tmp_path: Path) -> None:
    settings = training(trained.cohort, tmp_path, micro_batch=1)
    launch = command(sys.executable, "-m", "torch.distributed.run", "--standalone")
    launch(
        *("--nproc_per_node=2", "-m", "monai.bundle", "run", "training"),
        *("--config_file", str(files("common", "train", "cpu_small", "multi_gpu"))),
        *("--meta_file", str(META), *(f"--{key}={value}" for key, value in settings.items())),
    )
    sidecar = read_sidecar(tmp_path / "model.pt")
    (row,) = history(tmp_path)
    assert sidecar["validation"]["auroc"] == pytest.approx(float(row["val_auroc"]), abs=1e-6)
    assert len((tmp_path / "refused.jsonl").read_text().splitlines()) == 1
