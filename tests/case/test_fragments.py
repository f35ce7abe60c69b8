"""Strays and specks among the labelled bodies."""

from __future__ import annotations

import numpy as np
import pytest

from monai_vfx.case.checks.fragments import check_volumes, remove_fragments
from monai_vfx.case.mask.load import load_masks
from monai_vfx.core.errors import CaseRefused
from phantoms import Phantom


def test_stray_pieces_are_left_out_and_named(phantom: Phantom) -> None:
    labels = phantom.labels.copy()
    labels[2:12, 2:12, :3] = 20
    warnings = remove_fragments(labels)
    np.testing.assert_array_equal(labels, phantom.labels)
    assert [w.code for w in warnings] == ["label_fragments"]
    assert "L1 (1)" in warnings[0].message


def test_a_single_stray_voxel_goes_without_a_word(phantom: Phantom) -> None:
    labels = phantom.labels.copy()
    labels[0, 0, 0] = 21
    assert remove_fragments(labels) == []
    np.testing.assert_array_equal(labels, phantom.labels)


def test_a_speck_is_no_body_unless_the_field_of_view_cuts_it(phantom: Phantom) -> None:
    labels = np.where(phantom.labels == 21, 0, phantom.labels).astype(np.uint8)
    labels[tuple(np.argwhere(phantom.labels == 21).mean(axis=0).astype(int))] = 21
    with pytest.raises(CaseRefused, match="L2 has 1 voxels"):
        check_volumes(labels, cut=())
    check_volumes(labels, cut=("L2",))
    check_volumes(phantom.labels, cut=())


def test_masks_go_through_both(phantom: Phantom, tmp_path: object) -> None:
    labels = phantom.labels.copy()
    labels[2:12, 2:12, :3] = 20
    stray = Phantom(phantom.hu, labels, phantom.affine, phantom.centre)
    _, mask = stray.save(tmp_path)  # type: ignore[arg-type]
    found = load_masks(mask, labels.shape, phantom.affine, scheme="verse", bodies="given")
    assert "label_fragments" in [w.code for w in found.warnings]
    assert not found.labels[2:12, 2:12, :3].any()
