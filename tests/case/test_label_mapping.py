"""A person's own mapping of labels to structures."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from itk_files import UPRIGHT, write_itk

from monai_vfx.case.mask.load import load_masks
from monai_vfx.case.mask.mapping import read_mapping
from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, SettingError
from phantoms import LEVELS, Phantom, nifti

OWN = {level: number for number, level in enumerate(LEVELS, start=41)}
"""Numbers that no scheme knows."""


def own_map(phantom: Phantom, path: Path) -> Path:
    labels = np.zeros(phantom.labels.shape, dtype=np.uint16)
    for level, value in LEVELS.items():
        labels[phantom.labels == value] = OWN[level] + 900
    labels[2:6, 2:6, 2:6] = 7  # something that the mapping leaves out
    nib.save(nifti(labels, phantom.affine), path)
    return path


def written(path: Path, document: object) -> Path:
    text = json.dumps(document) if path.suffix == ".json" else str(document)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    labels = {str(number + 900): level for level, number in OWN.items()}
    return written(tmp_path / "site.json", {"content": "body", "labels": labels})


def test_numbers(phantom: Phantom, tmp_path: Path, mapping: Path) -> None:
    mask = own_map(phantom, tmp_path / "own.nii.gz")
    shape, affine = phantom.labels.shape, phantom.affine
    with pytest.raises(CaseRefused, match="mask_labels_unknown"):
        load_masks(mask, shape, affine)
    masks = load_masks(mask, shape, affine, scheme=str(mapping))
    assert (masks.scheme, masks.body_source) == ("mapping", "given")
    np.testing.assert_array_equal(masks.labels, phantom.labels)


def test_names_outweigh_numbers_and_those_in_the_file(phantom: Phantom, tmp_path: Path) -> None:
    keys = {}
    for number, value in enumerate(LEVELS.values()):
        keys[f"Segment{number}_Name"] = f"Wirbel {number}"
        keys[f"Segment{number}_LabelValue"] = str(value)
    write_itk(
        tmp_path / "own.seg.nrrd",
        phantom.labels,
        spacing=(0.9, 1.1, 4.0),
        direction=UPRIGHT,
        origin=phantom.affine[:3, 3] * [-1, -1, 1],
        keys=keys,
    )
    lines = [f"  wirbel {n}: {level}" for n, level in enumerate(LEVELS)]
    path = written(tmp_path / "site.yaml", "\n".join(["labels:", *lines, "  18: L5"]))
    masks = load_masks(
        tmp_path / "own.seg.nrrd", phantom.labels.shape, phantom.affine, scheme=str(path)
    )
    np.testing.assert_array_equal(masks.labels, phantom.labels)


def test_names_of_files_in_a_folder(phantom: Phantom, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for level, value in LEVELS.items():
        nib.save(
            nifti((phantom.labels == value).astype(np.uint8), phantom.affine),
            folder / f"wk_{level.lower()}_final.nii.gz",
        )
    labels = {f"wk_{level.lower()}_final": level for level in LEVELS}
    path = written(tmp_path / "site.json", {"labels": labels})
    masks = load_masks(folder, phantom.labels.shape, phantom.affine, scheme=str(path))
    assert masks.scheme == "mapping"
    np.testing.assert_array_equal(masks.labels, phantom.labels)


def test_content_decides_whether_bodies_are_derived(phantom: Phantom, tmp_path: Path) -> None:
    mask = own_map(phantom, tmp_path / "own.nii.gz")
    labels = {str(number + 900): level for level, number in OWN.items()}
    path = written(tmp_path / "site.json", {"content": "vertebra", "labels": labels})
    masks = load_masks(mask, phantom.labels.shape, phantom.affine, scheme=str(path))
    assert masks.body_source == "derived"


def test_a_mapping_that_fits_nothing(phantom: Phantom, tmp_path: Path) -> None:
    mask = own_map(phantom, tmp_path / "own.nii.gz")
    path = written(tmp_path / "site.json", {"labels": {"1": "L1", "2": "L2"}})
    with pytest.raises(CaseRefused, match=r"none of the mask's labels \(7, 941, 942"):
        load_masks(mask, phantom.labels.shape, phantom.affine, scheme=str(path))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"labels": {"9": "L9"}}', "labels/9: 'L9' is not one of"),
        ("a.json", '{"labels": {"9": "L1", "9": "L2"}}', "9 is repeated"),
        ("a.yaml", "labels: {9: L1, 9: L2}", "9 is repeated"),
        ("a.yaml", "labels: {9: L1, '9': L2}", "9 is repeated"),
        ("a.yaml", "labels: {One: L1, one: L2}", "is repeated"),
        ("a.yaml", "labels: [L1, L2]", "labels: ['L1', 'L2'] is not of type 'object'"),
        ("a.yaml", "labels: {}", "labels: {} should be non-empty"),
        ("a.yaml", "content: arch\nlabels: {1: L1}", "content: 'arch' is not one of"),
        ("a.yaml", "levels: {1: L1}", "(top):"),
        ("a.yaml", "- 1", "(top): [1] is not of type 'object'"),
        ("a.yaml", "{", "not valid YAML"),
        ("a.yaml", "a: !!python/object:os.system x", "not valid YAML"),
        ("a.json", "[", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
    ],
)
def test_errors_name_the_entry(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingError) as caught:
        read_mapping(tmp_path / name)
    assert words in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="FileNotFoundError"):
        read_mapping(tmp_path / "absent.json")


def test_on_the_command_line(phantom: Phantom, tmp_path: Path, mapping: Path) -> None:
    image, _ = phantom.save(tmp_path)
    mask = own_map(phantom, tmp_path / "own.nii.gz")
    words = ["check", str(image), "--mask", str(mask), "--no-compare-mask", "--labels"]
    result = CliRunner().invoke(main, [*words, str(mapping)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["label_scheme"] == "mapping"
    for bad in ("no_scheme", str(tmp_path / "absent.yaml")):
        assert CliRunner().invoke(main, [*words, bad]).exit_code == 2
    written(mapping, {"labels": {"941": "T99"}})
    result = CliRunner().invoke(main, [*words, str(mapping)])
    assert result.exit_code == 2
    assert "labels/941" in result.output
