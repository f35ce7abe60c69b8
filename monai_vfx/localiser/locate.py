"""The whole way from a CT to named vertebrae: networks, chain, patches, names, label map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from monai_vfx.localiser.result import Localisation
from monai_vfx.volumes import Volume

if TYPE_CHECKING:
    import torch


def localise(
    volume: Volume,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Localisation:
    """Find and name the vertebral bodies of a CT, and the muscles beside them.

    Args:
        volume: a checked CT; it is read a slab of slices at a time.
        weights: folder with the two networks' weights; those of the package by default.
        device: where the networks compute; the CPU by default.

    Raises:
        CaseRefused: ``spine_not_found``, ``level_uncertain``, ``level_missing``;
            ``weights_unreadable`` or ``weights_mismatch``; what reading the CT raises.
    """
    from monai_vfx.localiser.weights import load_networks

    networks = load_networks(weights, device)
    raise NotImplementedError(f"in the making; {sorted(networks.sha256)} are loaded")
