"""Prepared images: the same pixels as without, made once, and made anew when something changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_vfx.core.errors import CaseRefused
from monai_vfx.model.bundle.datasets import CaseDataset, PreparedImages
from monai_vfx.workflows.run_bundle import preprocessing
from phantoms import Phantom

SETTINGS = {"crop_size": [48, 72], "pixel_mm": 2.0}


@pytest.fixture
def item(phantom: Phantom, tmp_path: Path) -> dict[str, Any]:
    image, mask = phantom.save(tmp_path)
    return {"case_id": "a", "image": str(image), "mask": str(mask), "label": 1}


def _image(item: dict[str, Any], prepared: PreparedImages | None) -> dict[str, Any]:
    dataset = CaseDataset([item], preprocessing(**SETTINGS), prepared=prepared)
    prepared_item: dict[str, Any] = dataset[0]
    return prepared_item


def test_what_is_read_back_equals_what_was_prepared(item: dict[str, Any], tmp_path: Path) -> None:
    cache = PreparedImages(tmp_path / "cache", SETTINGS)
    plain, first, second = (_image(item, c) for c in (None, cache, cache))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for other in (first, second):
        assert torch.equal(plain["image"].as_tensor(), other["image"].as_tensor())
        for name in ("slice_index", "slice_level", "centre_mm", "corner_mm"):
            assert np.array_equal(plain["image"].meta[name], other["image"].meta[name])
        assert (other["case_id"], other["label"]) == ("a", 1)


def test_a_changed_file_or_setting_is_prepared_anew(item: dict[str, Any], tmp_path: Path) -> None:
    _image(item, PreparedImages(tmp_path / "cache", SETTINGS))
    os.utime(item["image"], ns=(1, 1))
    _image(item, PreparedImages(tmp_path / "cache", SETTINGS))
    _image(item, PreparedImages(tmp_path / "cache", {**SETTINGS, "masked": True}))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_settings_of_the_network_share_images(item: dict[str, Any], tmp_path: Path) -> None:
    for backbone in ("resnet18", "resnet50"):
        _image(item, PreparedImages(tmp_path / "cache", {**SETTINGS, "backbone": backbone}))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_names_of_files_tell_nothing(item: dict[str, Any], tmp_path: Path) -> None:
    _image(item, PreparedImages(tmp_path / "cache", SETTINGS))
    (file,) = (tmp_path / "cache").iterdir()
    assert len(file.stem) == 64
    assert str(tmp_path).encode() not in file.read_bytes()


def test_a_damaged_file_is_made_anew(item: dict[str, Any], tmp_path: Path) -> None:
    cache = PreparedImages(tmp_path / "cache", SETTINGS)
    plain = _image(item, cache)
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = _image(item, cache)
    assert torch.equal(plain["image"].as_tensor(), again["image"].as_tensor())
    assert len(file.read_bytes()) == len(whole)


def test_a_refusal_is_not_kept(item: dict[str, Any], tmp_path: Path) -> None:
    bad = {**item, "mask": str(tmp_path / "none.nii")}
    result = _image(bad, PreparedImages(tmp_path / "cache", SETTINGS))
    assert isinstance(result["refusal"], CaseRefused)
    assert not list(tmp_path.glob("cache/*"))
