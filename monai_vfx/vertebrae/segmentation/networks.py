"""The vertebra segmentation's two networks: defined in its bundle, weights in safetensors files.

``bundles/vertebrae_ct_segmentation/configs/common.yaml`` defines them. The weights come with the
package (``models/`` of the bundle), so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.hashing import sha256_of
from monai_vfx.vertebrae.segmentation.grids import PATCH_SHAPE, Image, Probabilities, sample_means

if TYPE_CHECKING:
    import torch
    from torch import nn

    from monai_vfx.core.arrays import Affine

BUNDLE = "vertebrae_ct_segmentation"
NETWORKS = ("locator", "refiner")
"""Names of the networks: ``models/NAME.safetensors``, and ``NAME_def`` in the bundle's config."""

WINDOWS_HU = ((-150.0, 350.0), (-1000.0, 1500.0))
"""Lower and upper HU of each input channel: soft tissue with spongy bone, and everything."""

_OVERLAP = 0.25  # of neighbouring windows of the locator
_PATCHES = 4  # at a time


@dataclass(frozen=True)
class Networks:
    """Both networks in evaluation mode, and which weights they carry."""

    locator: nn.Module  # (B, 2, x, y, z) → logits (B, 8, x, y, z) of STRUCTURES
    refiner: nn.Module  # (B, 2, x, y, z) → logits (B, 7, x, y, z) of PATCH_STRUCTURES
    window: tuple[int, int, int]  # voxels of the locator's window, as in training
    device: torch.device  # where both compute
    sha256: dict[str, str]  # of the weights' files, by network

    def locate(self, image: Image) -> Probabilities:
        """Run the locator over an image on its grid, HU, window by window."""
        import torch
        from monai.inferers import sliding_window_inference

        with torch.inference_mode(), _fast_arithmetic(self.device):
            logits = sliding_window_inference(
                channels(torch.from_numpy(image.values[None])),
                roi_size=self.window,
                sw_batch_size=1,
                predictor=self.locator,
                overlap=_OVERLAP,
                mode="gaussian",
                cval=-1.0,  # air
                sw_device=self.device,
                device="cpu",
            )
            values: npt.NDArray[np.float32] = torch.softmax(logits[0].float(), dim=0).numpy()
        return Probabilities(values, image.affine)

    def refine(self, image: Image, affines: Sequence[Affine]) -> npt.NDArray[np.float32]:
        """Run the refiner on patches of a CT in HU, given by their affines.

        Returns:
            (n, 7, 64, 48, 32) probabilities of :data:`anatomy.PATCH_STRUCTURES`.
        """
        import torch

        found = []
        with torch.inference_mode(), _fast_arithmetic(self.device):
            for start in range(0, len(affines), _PATCHES):
                some = affines[start : start + _PATCHES]
                hu = np.stack([sample_means(image, PATCH_SHAPE, affine) for affine in some])
                logits = self.refiner(channels(torch.from_numpy(hu)).to(self.device))
                found.append(torch.softmax(logits.float(), dim=1).cpu().numpy())
        return np.concatenate(found)


def _fast_arithmetic(device: torch.device) -> torch.autocast:
    """Return the context in which convolutions are in bfloat16 where the processor computes it.

    The networks were trained so. Beside float32 it takes a quarter of the time, and 1 voxel in
    10,000 changes its structure; a processor that can only emulate it stays with float32.
    """
    import torch

    # The oldest supported torch has no such function.
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    on = device.type == "cpu" and native
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=on)


def channels(hu: torch.Tensor) -> torch.Tensor:
    """Return images (B, x, y, z) in HU as the networks take them, (B, 2, x, y, z) float32.

    There is one channel a window, scaled to [-1, 1].

    >>> import torch
    >>> channels(torch.tensor([[-1024.0, 100.0, 3000.0]]))
    tensor([[[-1.0000,  0.0000,  1.0000],
             [-1.0000, -0.1200,  1.0000]]])
    """
    import torch

    windows = [hu.float().clamp(low, high) for low, high in WINDOWS_HU]
    return torch.stack(
        [
            window.sub_((low + high) / 2).div_((high - low) / 2)
            for window, (low, high) in zip(windows, WINDOWS_HU, strict=True)
        ],
        dim=1,
    )


def bundle_root() -> Path:
    """Return the folder of the segmentation's bundle that is installed with the package."""
    from monai_vfx import bundles

    return Path(bundles.__file__).parent / BUNDLE


def load_networks(
    weights: str | Path | None = None, device: str | torch.device | None = None
) -> Networks:
    """Build both networks and load their weights, on a GPU where there is one by default.

    ``weights`` is a folder with ``locator.safetensors`` and ``refiner.safetensors``; by default
    the one that comes with the package.

    Raises:
        CaseRefused: ``weights_unreadable`` where a file is absent or no safetensors file;
            ``weights_mismatch`` where it does not fit the network of this version.
    """
    import torch
    from monai.bundle import ConfigParser

    root = bundle_root()
    folder = root / "models" if weights is None else Path(weights)
    files = {name: folder / f"{name}.safetensors" for name in NETWORKS}
    for path in files.values():
        if not path.is_file():
            raise CaseRefused(
                "weights_unreadable",
                f"{path.name} of the vertebra segmentation does not exist",
                "Install the package again, or give a mask with --mask.",
            )
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "common.yaml"))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    built = {
        name: _loaded(parser.get_parsed_content(f"{name}_def"), path, place)
        for name, path in files.items()
    }
    x, y, z = parser.get_parsed_content("crop_size")
    digests = {name: sha256_of(path) for name, path in files.items()}
    return Networks(**built, window=(x, y, z), device=place, sha256=digests)


def _loaded(network: nn.Module, path: Path, device: torch.device) -> nn.Module:
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
    return network.to(device).eval()
