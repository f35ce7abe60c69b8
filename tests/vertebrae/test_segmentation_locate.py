"""From what the networks say to named levels, and from files to the networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import segmentation_truth as truth
import torch
from monai.bundle import ConfigParser
from safetensors.torch import save_file
from scipy import ndimage

from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.errors import CaseRefused
from monai_vfx.io.volume import open_volume
from monai_vfx.vertebrae.segmentation.grids import Image
from monai_vfx.vertebrae.segmentation.locate import segment, segment_structures
from monai_vfx.vertebrae.segmentation.naming import THRESHOLD
from monai_vfx.vertebrae.segmentation.networks import NETWORKS, bundle_root, load_networks
from monai_vfx.vertebrae.segmentation.result import VertebraSegmentation
from monai_vfx.vertebrae.training.anatomy.body_plan import paint_label_map
from monai_vfx.vertebrae.training.anatomy.label_map import AnatomyMap
from monai_vfx.vertebrae.training.anatomy.synthetic_ct import synthetic_ct


def _segmented(anatomy: AnatomyMap, flip: tuple[int, int, int] = (1, 1, 1)) -> VertebraSegmentation:
    """Segment with perfect networks, on the anatomy's grid with some axes turned round."""
    shape = anatomy.tissues.shape
    affine = anatomy.affine @ np.diag([*flip, 1.0])
    affine[:3, 3] += anatomy.affine[:3, :3] @ [
        (n - 1) if f < 0 else 0 for f, n in zip(flip, shape, strict=True)
    ]
    return segment_structures(
        truth.locator_truth(anatomy),
        truth.refiner_truth(anatomy),
        Image(anatomy.tissues, anatomy.affine),
        shape,
        affine,
    )


@pytest.fixture(scope="module")
def anatomy() -> AnatomyMap:
    return truth.paint(truth.draw_plan(5, wanted=lambda plan: not plan.fractured), highest="T10")


def test_names_labels_and_evidence(anatomy: AnatomyMap) -> None:
    found = _segmented(anatomy)
    names = [level.name for level in found.levels]
    assert names[-6:] == ["T12", "L1", "L2", "L3", "L4", "L5"]
    assert found.confidence > 0.99 > found.threshold == THRESHOLD
    centres = truth.centroids(anatomy)
    for level in found.levels:
        if not level.complete:
            continue
        value = VERTEBRAE[level.name]
        assert np.linalg.norm(centres[value] - level.centre_mm) < 1.5
        overlap = (found.labels == value) & (anatomy.vertebrae == value)
        assert overlap.sum() > 0.9 * (anatomy.vertebrae == value).sum()
        assert level.probability > 0.99
    assert {VERTEBRAE[name] for name in LEVELS} | {101, 102} <= set(np.unique(found.labels))
    evidence = found.evidence
    assert evidence["sacrum_in_view"] is True
    assert (evidence["last_rib"], evidence["lumbar_count"]) == ("T12", 5)
    assert evidence["hypotheses"][0]["lowest"] == "L5"
    assert evidence["confidence_counted_from_neck"] < found.confidence
    assert found.levels[-1].ribs[0] < 0.1 < 0.9 < found.levels[-6].ribs[1]


@pytest.mark.parametrize("flip", [(-1, 1, 1), (1, -1, -1)])
def test_a_flipped_file_has_the_same_world(anatomy: AnatomyMap, flip: tuple[int, int, int]) -> None:
    upright, turned = _segmented(anatomy), _segmented(anatomy, flip)
    assert turned.levels == upright.levels
    back = turned.labels[tuple(slice(None, None, f) for f in flip)]
    assert (back != upright.labels).mean() < 1e-4  # ties of the interpolation


@pytest.mark.parametrize("lumbar", [4, 6])
def test_an_unusual_count_is_refused_with_the_count(lumbar: int) -> None:
    anatomy = truth.paint(truth.draw_plan(lumbar), highest="T10")
    with pytest.raises(CaseRefused) as refused:
        _segmented(anatomy)
    assert refused.value.code == "level_uncertain"
    assert f"{lumbar} bodies lie between the last one with ribs and the sacrum" in str(
        refused.value
    )


def test_a_level_at_the_edge_is_missing() -> None:
    anatomy = truth.paint(truth.draw_plan(5), highest="T9", lowest="L4", beyond_mm=4)
    with pytest.raises(CaseRefused) as refused:
        _segmented(anatomy)
    assert refused.value.code == "level_missing"
    assert "L4 at the edge of the image" in str(refused.value)


def test_a_chest_has_no_lumbar_levels() -> None:
    anatomy = truth.paint(truth.draw_plan(5), highest="T5", lowest="T11", beyond_mm=12)
    with pytest.raises(CaseRefused) as refused:
        _segmented(anatomy)
    assert refused.value.code == "level_missing"
    assert "vertebral bodies are in view" in str(refused.value)


@pytest.mark.parametrize(("missed", "view"), [("T12", "L1 to L5"), ("L2", "L3 to L5")])
def test_a_vertebra_that_is_missed_shifts_no_name(
    anatomy: AnatomyMap, missed: str, view: str
) -> None:
    """Its patch outlines a neighbour instead, as a weak network's may."""
    without = np.where(anatomy.vertebrae == VERTEBRAE[missed], 0, anatomy.vertebrae)
    with pytest.raises(CaseRefused) as refused:
        segment_structures(
            truth.locator_truth(anatomy),
            truth.refiner_truth(replace(anatomy, vertebrae=without), reach_mm=30),
            Image(anatomy.tissues, anatomy.affine),
            anatomy.tissues.shape,
            anatomy.affine,
        )
    assert refused.value.code == "level_missing"
    assert view in refused.value.message


def test_without_ribs_in_view_names_are_uncertain(anatomy: AnatomyMap) -> None:
    """A reconstruction of the spine alone: the joints lie outside the image."""
    middle = truth.centroids(anatomy)[VERTEBRAE["L2"]][0]
    at = int((middle - anatomy.affine[0, 3]) / anatomy.affine[0, 0])
    narrow = slice(at - 7, at + 8)
    affine = anatomy.affine.copy()
    affine[:3, 3] += affine[:3, 0] * narrow.start
    with pytest.raises(CaseRefused) as refused:
        segment_structures(
            truth.locator_truth(anatomy),
            truth.refiner_truth(anatomy),
            Image(anatomy.tissues[narrow], affine),
            anatomy.tissues.shape,
            anatomy.affine,
        )
    assert refused.value.code == "level_uncertain"
    assert "no rib is seen" in str(refused.value)


def test_specks_of_noise_are_no_spine() -> None:
    """Three small bodies in a row, as a network may see them in noise."""
    plan = truth.draw_plan(5)
    anatomy = truth.paint(plan, highest="C4", lowest="C6", beyond_mm=7)
    with pytest.raises(CaseRefused) as refused:
        _segmented(anatomy)
    assert refused.value.code == "spine_not_found"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks in half precision."""
    folder = tmp_path_factory.mktemp("weights")
    parser = ConfigParser()
    parser.read_config(str(bundle_root() / "configs" / "common.yaml"))
    torch.manual_seed(0)
    for name in NETWORKS:
        state = parser.get_parsed_content(f"{name}_def").state_dict()
        save_file(
            {key: values.half().contiguous() for key, values in state.items()},
            folder / f"{name}.safetensors",
        )
    return folder


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("water") / "ct.nii.gz"
    hu = np.full((90, 80, 60), -1000, dtype=np.int16)
    hu[15:75, 15:65] = 0
    nib.save(nib.Nifti1Image(hu, np.diag([-2.0, -2.0, 3.0, 1.0])), path)
    return path


def test_shipped_networks_on_a_ct_of_an_unseen_person(tmp_path: Path) -> None:
    """From a file whose axes are flipped and oblique; with the package's own weights."""
    plan = truth.draw_plan(5, first=700_000, wanted=lambda p: not (p.fractured or p.variants))
    low, high = np.array([-150.0, -130, -190]), np.array([150.0, 110, 190])
    at = plan.centres[plan.levels.index("L1")]
    anatomy = paint_label_map(plan, at + low, at + high)
    turn = np.deg2rad(6.0)
    affine, shape = np.eye(4), (190, 150, 100)
    axes = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    affine[:3, :3] = np.array(axes) * (-1.5, -1.5, 3.5)
    affine[:3, 3] = at - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    hu, _ = synthetic_ct(anatomy, np.random.default_rng(4), affine=affine, shape=shape)
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16), affine), path)
    found = segment(open_volume(path))
    assert found.confidence >= found.threshold
    assert found.labels.shape == shape
    assert set(found.weights_sha256) == set(NETWORKS)
    assert found.seconds["total"] >= found.seconds["locator"] > 0
    matrix = np.linalg.inv(anatomy.affine) @ affine
    true = ndimage.affine_transform(
        anatomy.vertebrae,
        matrix[:3, :3],
        offset=matrix[:3, 3],
        output_shape=shape,
        order=0,
        mode="grid-constant",
    )
    for level in LEVELS:
        one, other = found.labels == VERTEBRAE[level], true == VERTEBRAE[level]
        assert 2 * (one & other).sum() > 0.8 * (one.sum() + other.sum()), level


def test_a_water_phantom_has_no_spine(weights: Path, water: Path) -> None:
    with pytest.raises(CaseRefused) as refused:
        segment(open_volume(water), weights=weights)
    assert refused.value.code == "spine_not_found"
    assert "--mask" in str(refused.value)


def test_networks_take_their_weights(weights: Path) -> None:
    networks = load_networks(weights)
    assert set(networks.sha256) == set(NETWORKS)
    assert all(len(digest) == 64 for digest in networks.sha256.values())
    assert not networks.locator.training
    assert all(each.dtype == torch.float32 for each in networks.refiner.state_dict().values())


def test_broken_weights_are_refused(weights: Path, water: Path, tmp_path: Path) -> None:
    volume = open_volume(water)

    def refusal() -> str:
        with pytest.raises(CaseRefused) as refused:
            segment(volume, weights=tmp_path)
        return refused.value.code

    assert refusal() == "weights_unreadable"
    for name in NETWORKS:
        (tmp_path / f"{name}.safetensors").write_bytes(b"nothing of the kind")
    assert refusal() == "weights_unreadable"
    for name in NETWORKS:
        save_file({"some.weight": torch.zeros(3)}, tmp_path / f"{name}.safetensors")
    assert refusal() == "weights_mismatch"
    for name in NETWORKS:
        save_file({"some.weight": torch.full((3,), torch.nan)}, tmp_path / f"{name}.safetensors")
    assert refusal() == "weights_unreadable"
