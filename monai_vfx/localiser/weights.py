"""The localiser's two networks: defined in its bundle, weights in safetensors files.

The definitions stand in ``bundles/vertebra_localiser/configs/common.yaml`` and nowhere else. The
weights come with the package (``models/`` of the bundle), so nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monai_vfx.errors import CaseRefused
from monai_vfx.weights import sha256_of

if TYPE_CHECKING:
    import torch
    from torch import nn

BUNDLE = "vertebra_localiser"
NETWORKS = ("locator", "refiner")
"""Names of the networks: ``models/NAME.safetensors``, and ``NAME_def`` in the bundle's config."""


@dataclass(frozen=True)
class Networks:
    """Both networks in evaluation mode, and which weights they carry.

    Attributes:
        locator: (B, 2, x, y, z) → logits (B, 8, x, y, z) of :data:`anatomy.STRUCTURES`.
        refiner: (B, 2, x, y, z) → logits (B, 7, x, y, z) of :data:`anatomy.PATCH_STRUCTURES`.
        sha256: of the weights' files, by network.
    """

    locator: nn.Module
    refiner: nn.Module
    sha256: dict[str, str]


def bundle_root() -> Path:
    """Return the folder of the localiser's bundle that is installed with the package."""
    from monai_vfx import bundles

    return Path(bundles.__file__).parent / BUNDLE


def load_networks(
    weights: str | Path | None = None, device: str | torch.device | None = None
) -> Networks:
    """Build both networks and load their weights.

    Args:
        weights: folder with ``locator.safetensors`` and ``refiner.safetensors``; by default the
            one that comes with the package.
        device: where they compute; the CPU by default.

    Raises:
        CaseRefused: ``weights_unreadable`` where a file is absent or no safetensors file;
            ``weights_mismatch`` where it does not fit the network of this version.
    """
    from monai.bundle import ConfigParser

    root = bundle_root()
    folder = root / "models" if weights is None else Path(weights)
    files = {name: folder / f"{name}.safetensors" for name in NETWORKS}
    for path in files.values():
        if not path.is_file():
            raise CaseRefused(
                "weights_unreadable",
                f"{path.name} of the vertebra localiser does not exist",
                "Install the package again, or give a mask with --mask.",
            )
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "common.yaml"))
    built = {
        name: _loaded(parser.get_parsed_content(f"{name}_def"), path, device)
        for name, path in files.items()
    }
    return Networks(
        locator=built["locator"],
        refiner=built["refiner"],
        sha256={name: sha256_of(path) for name, path in files.items()},
    )


def _loaded(network: nn.Module, path: Path, device: str | torch.device | None) -> nn.Module:
    """Load a state dictionary; half precision in the file becomes the network's own."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CaseRefused("weights_unreadable", f"{path.name} is no safetensors file") from error
    if not all(bool(torch.isfinite(values).all()) for values in state.values()):
        raise CaseRefused("weights_unreadable", f"{path.name} holds values not finite")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CaseRefused("weights_mismatch", f"{path.name}: {reason}") from error
    return network.to(device or "cpu").eval()
