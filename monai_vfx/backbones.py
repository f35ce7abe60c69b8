"""The encoders: torchvision's residual networks by name, with weights where asked for.

Weights are only ever read as plain tensors; nothing in a file is executed.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision import models
from torchvision.models.resnet import ResNet

from monai_vfx.errors import SettingError

BACKBONES: tuple[str, ...] = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
"""Encoders that may be named: torchvision's residual networks, which share stages layer1-layer4."""

STAGES: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
"""The encoder's stages, fine to coarse; a cell of them spans 4, 8, 16 and 32 pixels."""


def load_backbone(name: str, pretrained: str | Path | None = None) -> ResNet:
    """Build a torchvision residual network, with weights where asked for.

    Args:
        name: one of :data:`BACKBONES`.
        pretrained: as in :class:`~monai_vfx.networks.AttentionCNNRNN`.

    Raises:
        ValueError: the name is unknown, or the weights do not fit the encoder.
        SettingError: the weights are neither cached nor reachable, or no such file exists.
    """
    one_of("backbone", name, BACKBONES)
    network: ResNet = models.get_model(name, weights=None)
    if pretrained is None:
        return network
    pretrained = str(pretrained)
    known = models.get_model_weights(name)
    key = "IMAGENET1K_V1" if pretrained == "imagenet" else pretrained
    state = _download(known[key]) if key in known.__members__ else _read_weights(Path(pretrained))
    # The classifier is not used: weights may come without it.
    encoder = {k: v for k, v in state.items() if not k.startswith("fc.")}
    try:
        missing, unexpected = network.load_state_dict(encoder, strict=False)
    except RuntimeError as error:
        raise SettingError(f"pretrained ({pretrained!r}) does not fit {name}: {error}") from error
    missing = [k for k in missing if not k.startswith("fc.")]
    if missing or unexpected:
        raise SettingError(
            f"pretrained ({pretrained!r}) does not fit {name}: "
            f"{len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unexpected)} are unknown {unexpected[:3]}"
        )
    return network


def _download(weights: models.WeightsEnum) -> dict[str, Tensor]:
    """Fetch torchvision's weights or take them from torch.hub's cache."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20.0)  # a silent firewall must not hold the user for minutes
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except OSError as error:  # URLError, timeouts and full disks alike
        raise SettingError(
            f"the ImageNet weights {weights} could not be downloaded from {weights.url} ({error}). "
            "Without a network, copy that file here from another machine and give its path as "
            "pretrained='…/file.pth', or start from random weights with pretrained=None"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return state


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dictionary from a local file without running any code in it."""
    if not path.is_file():
        raise SettingError(
            f"pretrained ({str(path)!r}) must be None, 'imagenet', a name of torchvision's weights "
            "or an existing file"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise SettingError(f"pretrained ({str(path)!r}) is not a file of plain tensors") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SettingError(f"pretrained ({str(path)!r}) must hold a plain state dictionary")
    return state


def one_of(argument: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a ValueError that names the argument, its value and the rule, unless it is allowed."""
    if value not in allowed:
        raise SettingError(f"{argument} ({value!r}) must be one of {', '.join(map(repr, allowed))}")


def at_least(argument: str, value: int, least: int) -> None:
    """Raise a ValueError that names the argument, its value and the rule, if it is smaller."""
    if value < least:
        raise SettingError(f"{argument} ({value!r}) must be at least {least}")


def checked_stages(names: Sequence[str]) -> tuple[str, ...]:
    """Return the attended stages, all but the last may be named, in the encoder's order."""
    if isinstance(names, str) or not names:
        raise ValueError(f"attention_layers ({names!r}) must be a list of stages of {STAGES}")
    for name in names:
        one_of("attention_layers", name, STAGES[:-1])
    return tuple(stage for stage in STAGES if stage in names)
