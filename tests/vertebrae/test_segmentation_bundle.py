"""The segmentation's bundle: metadata, bank, samples, training that resumes, and its other jobs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import (
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    verify_metadata,
    verify_net_in_out,
)
from packaging.version import Version

from monai_vfx import data_schemas
from monai_vfx.core.anatomy import PATCH_STRUCTURES, STRUCTURES, VERTEBRAE
from monai_vfx.core.errors import SettingError, find_cause
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.schemas import violations
from monai_vfx.vertebrae.segmentation.grids import (
    LOCATOR_SPACING_MM,
    PATCH_SHAPE,
    PATCH_SPACING_MM,
)
from monai_vfx.vertebrae.segmentation.networks import NETWORKS, bundle_root, load_networks
from monai_vfx.vertebrae.training.bank import HELD_OUT, AnatomyBank, BankItem, RealAnatomy
from monai_vfx.vertebrae.training.checkpoints import load_state
from monai_vfx.vertebrae.training.synthetic_training import (
    SyntheticSamples,
    hardest_class,
    publish,
    save_half,
)

ROOT = bundle_root()
CONFIGS = ROOT / "configs"
META = CONFIGS / "metadata.json"
SCHEMA = Path(data_schemas.__file__).parent / "monai_bundle_metadata.schema.json"
SMALL: dict[str, Any] = {
    "crop_size": [32, 24, 16],
    "spacing_mm": [4.0, 4.0, 4.0],
    "bank_spacing_mm": [3.0, 3.0, 3.0],
    "bank_size": 3,
    "held_out": 2,
    "device": torch.device("cpu"),
}
"""A refiner's training of patches 4 mm coarse, a few seconds long."""


def files(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def parsed(*names: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(files(*names))
    parser.update(overrides)
    return parser


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
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    from monai.utils import set_determinism

    set_determinism(None)
    torch.set_num_threads(threads)


def read_meta() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(META.read_text())
    return content


# --- metadata and files -----------------------------------------------------------------------


def test_metadata_fulfils_the_specification() -> None:
    assert violations(read_meta(), "monai_bundle_metadata") == []
    verify_metadata(str(META), str(SCHEMA), hash_val=sha256_of(SCHEMA), hash_type="sha256")


def test_metadata_names_the_classes_in_the_order_of_the_channels() -> None:
    output = read_meta()["network_data_format"]["outputs"]["pred"]
    named = [output["channel_def"][str(n)] for n in range(output["num_channels"])]
    for structure, text in zip(STRUCTURES, named, strict=True):
        assert text.replace("vertebral ", "") == f"logit of {structure.replace('_', ' ')}"


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


def test_the_bundle_has_the_zoo_s_files_and_nothing_absolute() -> None:
    assert (ROOT / "LICENSE").read_text() == Path("LICENSE").read_text()
    assert (ROOT / "docs" / "data_license.txt").is_file()
    table = (ROOT / "docs" / "README.md").read_text()
    for path in sorted(CONFIGS.glob("*.yaml")):
        assert f"| `{path.name}` |" in table
        assert not re.search(r"['\" ](/[a-z]|[A-Z]:\\)", path.read_text()), path


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_keeps_the_one_order(path: Path) -> None:
    order = ("constants", "hyper-parameters", "paths", "network", "data", "samples", "engine")
    headings = re.findall(r"^# (\S+?)(?::| *$)", path.read_text(), flags=re.MULTILINE)
    known = [order.index(name) for name in headings if name in order]
    assert known
    assert known == sorted(known)


def test_the_shipped_weights_are_those_of_the_metadata_and_small() -> None:
    shipped = {path.stem: path for path in (ROOT / "models").glob("*.safetensors")}
    stated = read_meta().get("weights", {})
    assert set(shipped) == set(stated)
    for name, path in shipped.items():
        assert stated[name]["sha256"] == sha256_of(path)
    assert sum(path.stat().st_size for path in shipped.values()) < 10 * 2**20


def test_the_locator_fits_the_metadata() -> None:
    verify_net_in_out("network_def", meta_file=str(META), config_file=files("common"), device="cpu")


@pytest.mark.parametrize(
    ("overlay", "structures", "most"),
    [([], STRUCTURES, 3_000_000), (["refiner"], PATCH_STRUCTURES, 1_000_000)],
    ids=NETWORKS,
)
def test_networks_are_small_and_have_a_channel_a_structure(
    overlay: list[str], structures: tuple[str, ...], most: int
) -> None:
    network = parsed("common", *overlay).get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) < most
    with torch.no_grad():
        assert network(torch.zeros(1, 2, 16, 24, 8)).shape == (1, len(structures), 16, 24, 8)


def test_the_samples_grids_are_inference_s() -> None:
    for overlay, spacing in (([], LOCATOR_SPACING_MM), (["refiner"], (PATCH_SPACING_MM,) * 3)):
        sampling = parsed("common", *overlay).get_parsed_content("sampling")
        assert tuple(sampling.spacing_mm) == spacing
    assert sampling.shape == PATCH_SHAPE


# --- bank -------------------------------------------------------------------------------------


def small_bank(folder: Path, kind: str = "refiner", **settings: Any) -> AnatomyBank:
    box = (128.0, 96.0, 64.0) if kind == "refiner" else (120.0, 120.0, 200.0)
    return AnatomyBank(folder, 3, kind, **{"spacing_mm": (4.0,) * 3, "box_mm": box, **settings})


def assert_same(one: BankItem, other: BankItem) -> None:
    assert one.level == other.level
    for name in ("tissues", "vertebrae", "affine", "pose"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_map_depends_on_seed_and_number_alone(kind: str, tmp_path: Path) -> None:
    bank = small_bank(tmp_path / "a", kind)
    assert bank.fill(held_out=1) == 4
    kept = [bank[n] for n in (0, 1, HELD_OUT)]
    other = small_bank(tmp_path / "b", kind)
    for item, number in zip(kept, (0, 1, HELD_OUT), strict=True):
        assert_same(item, other.draw(number))
    assert not np.array_equal(kept[0].tissues.shape, 0)
    assert any(
        a.tissues.shape != b.tissues.shape or (a.tissues != b.tissues).any()
        for a, b in pairwise(kept)
    )
    changed = small_bank(tmp_path / "c", kind, seed=1).draw(0)
    same_shape = changed.tissues.shape == kept[0].tissues.shape
    assert not same_shape or (changed.tissues != kept[0].tissues).any()


def test_a_bank_is_completed_and_mended(tmp_path: Path) -> None:
    bank = small_bank(tmp_path)
    first = bank[0]
    assert bank.fill() == 2  # the one that is there is not drawn again
    bank.path(0).write_bytes(bank.path(0).read_bytes()[:200])
    assert_same(bank[0], first)
    assert_same(small_bank(tmp_path)[0], first)  # and was kept anew
    assert bank.fill() == 0


def test_processes_draw_the_same_maps(tmp_path: Path) -> None:
    bank = small_bank(tmp_path / "a")
    assert bank.fill(workers=2) == 3
    for number in range(3):
        assert_same(bank[number], small_bank(tmp_path / "b").draw(number))


def test_banks_are_not_mixed(tmp_path: Path) -> None:
    small_bank(tmp_path)
    small_bank(tmp_path)  # with the same settings it is the same bank
    with pytest.raises(SettingError, match="another seed"):
        small_bank(tmp_path, seed=4)
    with pytest.raises(SettingError, match=r"kind \('both'\) must be one of locator, refiner"):
        small_bank(tmp_path / "b", "both")


def at(item: BankItem, points: np.ndarray) -> list[int]:
    """Return the levels at RAS points."""
    inverse = np.linalg.inv(item.affine)
    index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    return [int(item.vertebrae[tuple(i)]) for i in index]


def test_patches_lie_round_their_vertebra_with_the_head_up(tmp_path: Path) -> None:
    bank = small_bank(tmp_path, spacing_mm=(2.0, 2.0, 2.0))
    levels = []
    for number in range(12):
        item = bank.draw(number)
        levels.append(item.level)
        assert item.pose is not None
        axes, centre = item.pose[:3, :3], item.pose[:3, 3]
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
        assert np.linalg.det(axes) > 0
        assert axes[0, 0] > 0.8  # x to the right
        assert axes[2, 2] > 0.5  # z to the head
        column = [n for n in at(item, centre + np.outer(np.arange(-30, 31, 2), axes[:, 2])) if n]
        if item.level == 0:  # round S1: bodies lie above the centre only
            assert at(item, centre[None])[0] == 0
            assert at(item, centre - np.outer(np.arange(0, 30, 2), axes[:, 2])) == [0] * 15
            continue
        assert item.level in (*range(VERTEBRAE["T9"], VERTEBRAE["L6"] + 1), VERTEBRAE["T13"])
        assert item.level in column
        order = [VERTEBRAE["T12"] + 0.5 if n == VERTEBRAE["T13"] else n for n in column]
        assert order == sorted(order, reverse=True)  # numbers fall towards the head
    assert len(set(levels)) > 4


def real_folder(folder: Path) -> Path:
    """Write a trunk of cubes as TotalSegmentator labels it: L1 to L4, discs between them."""
    folder.mkdir()
    shape, step = (40, 40, 60), 3.0
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = (-60, -60, 10)
    ct = np.full(shape, -1000, dtype=np.int16)
    ct[4:36, 4:36] = 40
    seg, parts = (np.zeros(shape, dtype=np.uint8) for _ in range(2))
    for n, number in enumerate((28, 29, 30, 31)):  # L4, L3, L2, L1 from below
        low = 4 + 13 * n
        seg[14:26, 12:24, low : low + 10] = number
        parts[14:26, 12:24, low : low + 10] = 1
        parts[14:26, 12:24, low + 10 : low + 13] = 2
        ct[14:26, 12:24, low : low + 10] = 180
    named = {"ct": ct, "seg_v2_117class_fast": seg, "seg_vertebrae_body": parts}
    for name, values in named.items():
        nib.save(nib.nifti1.Nifti1Image(values, affine), folder / f"{name}.nii.gz")
    return folder


def test_boxes_of_a_real_label_map_are_the_bank_s_kind(tmp_path: Path) -> None:
    folder = real_folder(tmp_path / "real")
    patches = RealAnatomy(folder, small_bank(tmp_path / "refiner"))
    assert patches.levels == [VERTEBRAE[name] for name in ("L1", "L2", "L3", "L4")]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(8):
        item = patches.draw(rng)
        assert item.pose is not None
        assert at(item, item.pose[:3, 3][None]) == [item.level]
        np.testing.assert_allclose(item.pose[:3, 2], (0, 0, 1), atol=0.05)
        seen.add(item.level)
    assert len(seen) > 1
    box = RealAnatomy(folder, small_bank(tmp_path / "locator", "locator")).draw(rng)
    assert box.pose is None
    assert (np.array(box.tissues.shape) * (2, 2, 1.5) < 121).tolist()[:2] == [True, True]
    assert set(np.unique(box.vertebrae)) <= {0, *patches.levels}
    nib.save(
        nib.nifti1.Nifti1Image(
            np.zeros((40, 40, 60), np.uint8), nib.load(folder / "ct.nii.gz").affine
        ),
        folder / "seg_vertebrae_body.nii.gz",
    )
    with pytest.raises(SettingError, match="shows no vertebral body"):
        RealAnatomy(folder, small_bank(tmp_path / "refiner"))


# --- samples ----------------------------------------------------------------------------------


def samples(tmp_path: Path, **settings: Any) -> SyntheticSamples:
    parser = parsed("common", "train", "refiner", **SMALL, cache_dir=str(tmp_path / "bank"))
    return SyntheticSamples(
        parser.get_parsed_content("bank"),
        parser.get_parsed_content("train::preprocessing"),
        **{"samples": 6, **settings},
    )


def test_samples_depend_on_their_number_alone(tmp_path: Path) -> None:
    whole, rest = samples(tmp_path), samples(tmp_path, samples=3, first=3)
    for index in (2, 0, 1):  # in any order
        for key in ("image", "label"):
            torch.testing.assert_close(rest[index][key], whole[index + 3][key], rtol=0, atol=0)
    assert not torch.equal(whole[0]["image"], whole[1]["image"])
    assert not torch.equal(samples(tmp_path, seed=1)[0]["image"], whole[0]["image"])
    held_out = samples(tmp_path, held_out=True)
    assert not torch.equal(held_out[0]["image"], whole[0]["image"])
    with pytest.raises(IndexError):
        whole[6]


def test_a_sample_is_an_image_and_shares_that_sum_to_one(tmp_path: Path) -> None:
    data = samples(tmp_path)
    for index in range(3):
        sample = data[index]
        assert set(sample) == {"image", "label"}
        assert all(type(value) is torch.Tensor for value in sample.values())
        assert sample["image"].shape == (2, 32, 24, 16)
        assert sample["label"].shape == (len(PATCH_STRUCTURES), 32, 24, 16)
        assert sample["image"].abs().max() <= 1
        torch.testing.assert_close(sample["label"].sum(0), torch.ones(32, 24, 16))


def test_training_and_held_out_maps_are_apart(tmp_path: Path) -> None:
    data = samples(tmp_path, samples=8)
    _ = (
        [data[n] for n in range(8)],
        [samples(tmp_path, samples=2, held_out=True)[n] for n in (0, 1)],
    )
    numbers = sorted(int(path.stem) for path in data.bank.folder.glob("*.npz"))
    assert [n for n in numbers if n >= HELD_OUT] == [HELD_OUT, HELD_OUT + 1]
    assert set(numbers) - {HELD_OUT, HELD_OUT + 1} <= set(range(3))


def test_a_real_map_takes_its_share_of_the_samples(tmp_path: Path) -> None:
    bank = samples(tmp_path).bank
    real = RealAnatomy(real_folder(tmp_path / "real"), bank)
    drawn = []
    real.draw = lambda rng, draw=real.draw: drawn.append(1) or draw(rng)  # type: ignore[method-assign,misc,assignment]
    for share, count in ((0.0, 0), (1.0, 5)):
        data = samples(tmp_path, real=real, real_share=share)
        drawn.clear()
        assert [data[n]["image"].shape for n in range(5)]
        assert len(drawn) == count


# --- training ---------------------------------------------------------------------------------


def training(tmp_path: Path, out: str, **overrides: Any) -> dict[str, Any]:
    paths = {"cache_dir": str(tmp_path / "bank"), "output_dir": str(tmp_path / out)}
    rest = {"iterations": 6, "epoch_length": 2, "val_interval": 1, "warm_up": 1, "threads": 1}
    rest |= {"learning_rate": 0.01, "bfloat16": False}
    return {**SMALL, **paths, **rest, **overrides}


def train(tmp_path: Path, out: str, **overrides: Any) -> ConfigWorkflow:
    return run("common", "train", "refiner", **training(tmp_path, out, **overrides))


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics_history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bank`` and the finished training ``run``."""
    folder = tmp_path_factory.mktemp("segmentation")
    train(folder, "run")
    return folder


def test_training_leaves_weights_curve_and_checkpoints(trained: Path) -> None:
    out = trained / "run"
    assert {path.name for path in out.iterdir()} == {
        *("refiner.safetensors", "metrics_history.csv", "settings.json"),
        *("last_checkpoint_epoch=2.pt", "last_checkpoint_epoch=3.pt"),
    }
    rows = history(out)
    assert [row["iteration"] for row in rows] == ["2", "4", "6"]
    assert list(rows[0])[3:] == ["train_loss", "mean_dice", *PATCH_STRUCTURES[1:]]
    assert all(0.5 < float(row["train_loss"]) < 6 for row in rows)
    assert all(0 <= float(row["mean_dice"]) <= 1 for row in rows)
    network = parsed("common", "refiner").get_parsed_content("network_def")
    save_half(network, trained / "untrained.safetensors")
    assert (trained / "untrained.safetensors").stat().st_size == (
        out / "refiner.safetensors"
    ).stat().st_size


def test_the_learning_rate_ends_at_zero(trained: Path) -> None:
    state = torch.load(trained / "run" / "last_checkpoint_epoch=3.pt", weights_only=True)
    assert state["schedule"]["_last_lr"][0] == pytest.approx(0, abs=1e-9)
    half = torch.load(trained / "run" / "last_checkpoint_epoch=2.pt", weights_only=True)
    assert 0 < half["schedule"]["_last_lr"][0] < 0.01


def test_a_resumed_training_ends_as_one_that_never_stopped(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    job = workflow("common", "train", "refiner", **training(tmp_path, "run"))
    job.initialize()
    job.parser.get_parsed_content("train::trainer").state.max_epochs = 1  # stopped after an epoch
    job.run()
    with pytest.raises(RuntimeError) as refused:
        train(tmp_path, "run")
    assert "holds an earlier training" in str(find_cause(refused.value, SettingError))
    with pytest.raises(RuntimeError) as refused:
        train(tmp_path, "run", resume=True, learning_rate=1.0)
    assert "another learning_rate" in str(find_cause(refused.value, SettingError))
    train(tmp_path, "run", resume=True)
    one, other = (
        load_state(folder / "run" / "last_checkpoint_epoch=3.pt") for folder in (trained, tmp_path)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    kept = ("epoch", "iteration", "train_loss", "mean_dice")
    assert [[row[key] for key in kept] for row in history(trained / "run")] == [
        [row[key] for key in kept] for row in history(tmp_path / "run")
    ]


def test_training_learns(tmp_path: Path) -> None:
    """On images without noise or deformation it soon finds the body of one patch."""
    plain = {"sampling::prob": 0.0, "sample_transforms::1::prob": 0.0, "bfloat16": False}
    settings = {"bank_size": 1, "held_out": 1, "iterations": 60, "epoch_length": 30, **plain}
    train(tmp_path, "run", **settings, val_interval=2)
    first, last = history(tmp_path / "run")
    assert float(last["train_loss"]) < 0.8 * float(first["train_loss"])


def test_an_unfinished_training_s_weights_can_be_had(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained / "run", out)
    (out / "refiner.safetensors").unlink()
    run("common", "export", "refiner", output_dir=str(out))
    assert sha256_of(out / "refiner.safetensors") == sha256_of(trained / "run/refiner.safetensors")
    with pytest.raises(RuntimeError) as refused:
        run("common", "export", "refiner", output_dir=str(tmp_path / "empty"))
    assert "holds no checkpoint" in str(find_cause(refused.value, SettingError))


def test_weights_beyond_half_precision_are_not_written(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    network.weight.data[0, 0] = 1e6
    with pytest.raises(SettingError, match="weight of the network holds values beyond half"):
        save_half(network, tmp_path / "network.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_published_weights_are_stated_in_the_metadata(trained: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(ROOT / "configs", root / "configs")
    publish({"refiner": trained / "run"}, root)
    meta = json.loads((root / "configs" / "metadata.json").read_text())
    assert violations(meta, "monai_bundle_metadata") == []
    stated = meta["weights"]["refiner"]
    assert stated["sha256"] == sha256_of(root / "models" / "refiner.safetensors")
    assert (stated["iterations"], stated["real_share"], stated["bank_size"]) == (6, 0.0, 3)
    last = history(trained / "run")[-1]
    assert meta["eval_metrics"]["refiner_mean_dice"] == float(last["mean_dice"])
    for name, folder in (("locator", trained / "run"), ("other", trained / "run")):
        with pytest.raises(SettingError, match=f"holds no {name}.safetensors"):
            publish({name: folder}, root)


def test_required_properties_are_there(tmp_path: Path) -> None:
    job = workflow("common", "train", "refiner", **training(tmp_path, "run"))
    job.initialize()
    assert job.check_properties() == []
    job = workflow("common", "inference", kind="infer", output_dir=str(tmp_path), cases=[])
    job.initialize()
    assert job.check_properties() == []
    assert job.version == read_meta()["version"]


def test_outputs_never_lie_in_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as refused:
        train(tmp_path, "run", output_dir=str(ROOT / "results"))
    assert "must not lie in the bundle" in str(find_cause(refused.value, SettingError))
    assert not (ROOT / "results").exists()


# --- evaluation, inference, export ------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(trained: Path) -> Path:
    """A folder with the refiner of the training and a locator without any."""
    folder = trained / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    save_half(parsed("common").get_parsed_content("locator_def"), folder / "locator.safetensors")
    shutil.copy(trained / "run" / "refiner.safetensors", folder)
    return folder


def test_evaluation_measures_the_last_validation_s_dice(trained: Path, weights: Path) -> None:
    settings = {"cache_dir": str(trained / "bank"), "output_dir": str(trained / "evaluated")}
    run("common", "evaluate", "refiner", kind="infer", **SMALL, **settings, weights=str(weights))
    found = json.loads((trained / "evaluated" / "refiner_metrics.json").read_text())
    assert found["samples"] == 2
    assert found["weights_sha256"] == sha256_of(weights / "refiner.safetensors")
    last = history(trained / "run")[-1]  # of weights before they were halved
    for name in ("mean_dice", "this_body", "other_body", "disc"):
        assert found[name] == pytest.approx(float(last[name]), abs=0.005)


def test_classes_are_compared_by_their_largest_share() -> None:
    label = torch.tensor([[0.2, 0.7], [0.5, 0.1], [0.3, 0.2]]).reshape(1, 3, 2, 1, 1)
    logits = torch.tensor([[0.0, 3.0], [-1.0, 4.0], [2.0, 1.0]]).reshape(1, 3, 2, 1, 1)
    pred, truth = hardest_class({"pred": logits, "label": label})
    assert truth.flatten(1).tolist() == [[0, 1, 1, 0, 0, 0]]
    assert pred.flatten(1).tolist() == [[0, 0, 0, 1, 1, 0]]


def test_inference_refuses_case_by_case(weights: Path, tmp_path: Path) -> None:
    water = np.zeros((40, 40, 40), dtype=np.int16)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    nib.save(nib.nifti1.Nifti1Image(water, affine), tmp_path / "water.nii.gz")
    cases = [
        {"case_id": "lost", "image": str(tmp_path / "nowhere")},
        {"case_id": "water", "image": str(tmp_path / "water.nii.gz")},
    ]
    out = tmp_path / "out"
    settings = {"output_dir": str(out), "weights": str(weights), "cases": cases}
    run("common", "inference", kind="infer", **settings)
    codes = {}
    for case in cases:
        document = json.loads((out / case["case_id"] / "segmentation.json").read_text())
        assert violations(document, "segmentation") == []
        codes[case["case_id"]] = document["refusal"]["code"]
        assert not (out / case["case_id"] / "mask.nii.gz").exists()
    assert codes["lost"] == "input_unreadable"
    assert codes["water"] != "internal"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # the zoo's format all the same
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_ckpt_export_equals_the_network(trained: Path, weights: Path, tmp_path: Path) -> None:
    ckpt_export(
        "refiner_def",
        filepath=str(tmp_path / "refiner.ts"),
        ckpt_file=str(trained / "run" / "last_checkpoint_epoch=3.pt"),
        meta_file=str(META),
        config_file=files("common"),
        key_in_ckpt="network",
    )
    exported = torch.jit.load(str(tmp_path / "refiner.ts")).eval()
    x = torch.rand(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected = load_networks(weights).refiner(x)
        torch.testing.assert_close(exported(x), expected, atol=0.02, rtol=0.02)  # half precision
