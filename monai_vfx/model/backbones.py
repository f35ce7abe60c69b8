"""The encoders: networks of torchvision and timm by name, taken apart into four stages.

A stage is what works at one stride: a cell of layer1 spans 4 pixels, of layer2 8, of layer3 16, of
layer4 32. Any network that is a chain of modules down to stride 32 can be an encoder; what branches
over its whole depth or leaves the grid, as vision transformers do, cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import ResNet

from monai_vfx.core.errors import MissingDependencyError, SettingError
from monai_vfx.model.pretrained import (
    PACKAGE,
    TIMM,
    packaged_file,
    read_first_weights,
    torchvision_weights,
    unknown_weights,
)

_FAMILIES = ("convnext", "densenet", "efficientnet", "mnasnet", "mobilenet", "regnet")
RESIDUAL: tuple[str, ...] = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
"""torchvision's residual networks, which share stages layer1-layer4."""
BACKBONES: tuple[str, ...] = (
    *RESIDUAL,
    *(name for name in models.list_models(models) if name.startswith(_FAMILIES)),
)
"""torchvision's encoders; besides them timm's, as ``timm/NAME``."""

STAGES: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
"""The encoder's stages, fine to coarse; a cell of them spans 4, 8, 16 and 32 pixels."""
STRIDES: tuple[int, ...] = (4, 8, 16, 32)
_PROBE = (64, 96)
"""Sides of an image whose way through a network shows the strides."""


class StagedEncoder(nn.Module):
    """A network without its classifier: a stem and four stages.

    Args:
        stem: (N, 3, H, W) → (N, c, h, w) of the first stage's input.
        stages: by the names of :data:`STAGES`.
    """

    def __init__(self, stem: nn.Sequential, stages: dict[str, nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleDict(stages)

    @torch.no_grad()
    def widths(self) -> dict[str, int]:
        """Return the channels of each stage."""
        was_training = self.training
        self.eval()
        x, widths = self.stem(torch.zeros(1, 3, *_PROBE)), {}
        for name, stage in self.stages.items():
            x = stage(x)
            widths[name] = x.shape[1]
        self.train(was_training)
        return widths


def load_backbone(
    name: str, pretrained: str | Path | None = None, sha256: str | None = None
) -> StagedEncoder:
    """Build an encoder, with weights where asked for.

    Args:
        name: one of :data:`BACKBONES`, or ``timm/NAME`` of a network of timm.
        pretrained: as in :class:`~monai_vfx.model.network.AttentionCNNRNN`.
        sha256: what the SHA-256 of a local file of weights must begin with.

    Raises:
        SettingError: the name is unknown, the network is no chain down to stride 32, or the
            weights are neither cached nor reachable, do not exist or do not fit.
        MissingDependencyError: timm, or the package with the weights, is not installed.
    """
    if name.startswith(TIMM):
        network = _timm_network(name)
    else:
        one_of("backbone", name, BACKBONES)
        network = models.get_model(name, weights=None)
    if pretrained is not None:
        _load(network, name, str(pretrained), sha256)
    if isinstance(network, ResNet):
        stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        return StagedEncoder(stem, {stage: getattr(network, stage) for stage in STAGES})
    return _by_stride(name, _chain(name, network))


def check_first_weights(name: str, pretrained: str | Path | None) -> None:
    """Refuse first weights that a backbone cannot have, before anything is built or fetched.

    Args:
        name: as in :func:`load_backbone`.
        pretrained: as in :class:`~monai_vfx.model.network.AttentionCNNRNN`.

    Raises:
        SettingError: the backbone or the weights are unknown, or do not go together.
        MissingDependencyError: timm, or the package with the weights, is not installed.

    >>> check_first_weights("resnet18", "imagenet")
    """
    if name.startswith(TIMM):
        if not _timm_for(name).is_model(name.removeprefix(TIMM)):
            raise SettingError(f"backbone ({name!r}) must be a network of timm")
    else:
        one_of("backbone", name, BACKBONES)
    if pretrained is None:
        return
    text = str(pretrained)
    if text == PACKAGE:
        packaged_file(name)
    elif text.startswith(TIMM):
        if not (name.startswith(TIMM) and _timm_for(name).is_model(text.removeprefix(TIMM))):
            raise SettingError(
                f"pretrained ({text!r}) must be a network of timm, and goes with a backbone of "
                f"timm; backbone is {name!r}"
            )
    elif not (
        (name.startswith(TIMM) and text == "imagenet")
        or torchvision_weights(name, text) is not None
        or Path(text).is_file()
    ):
        raise unknown_weights(text)


def _timm_for(name: str) -> ModuleType:
    """Import timm, which is optional."""
    try:
        import timm
    except ImportError as error:
        raise MissingDependencyError("timm", "timm", f"for backbone {name!r}") from error
    module: ModuleType = timm
    return module


def _timm_network(name: str) -> nn.Module:
    """Build timm's network without the parts after its last stage."""
    timm = _timm_for(name)
    try:
        network: nn.Module = timm.create_model(
            name.removeprefix(TIMM), pretrained=False, features_only=True, scriptable=True
        )
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise SettingError(
            f"backbone ({name!r}) must be a network of timm with stages: {error}"
        ) from error
    return network


def _load(network: nn.Module, name: str, pretrained: str, sha256: str | None) -> None:
    """Copy first weights into a network; its classifier is not used and may be missing."""
    if name.startswith(TIMM) and pretrained == "imagenet":
        state = _timm_download(name)
    elif pretrained.startswith(TIMM):
        check_first_weights(name, pretrained)
        state = _timm_download(pretrained)
    else:
        state = read_first_weights(name, pretrained, sha256)
    state = _renamed(state, network)
    wanted = network.state_dict()
    classifier = ("fc.", "classifier.", "head.", "head_", "conv_head.")
    encoder = {k: v for k, v in state.items() if not k.startswith(classifier)}
    if name.startswith(TIMM):  # what timm left out of the network, such as norms behind the head
        encoder = {k: v for k, v in encoder.items() if k in wanted or not k.startswith("bn2.")}
    try:
        missing, unexpected = network.load_state_dict(encoder, strict=False)
    except RuntimeError as error:
        raise SettingError(f"pretrained ({pretrained!r}) does not fit {name}: {error}") from error
    missing = [k for k in missing if not k.startswith(classifier)]
    if missing or unexpected:
        raise SettingError(
            f"pretrained ({pretrained!r}) does not fit {name}: "
            f"{len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unexpected)} are unknown {unexpected[:3]}"
        )


def _timm_download(name: str) -> dict[str, Tensor]:
    """Fetch the weights that timm names first for a network, or take them from its cache."""
    timm = _timm_for(name)
    try:
        whole: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=True)
    except (OSError, RuntimeError, ImportError) as error:
        raise SettingError(
            f"the weights of {name} could not be downloaded ({error}). Without a network give a "
            "local file as pretrained, or start from random weights with pretrained=None"
        ) from error
    return whole.state_dict()


def _renamed(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Rename tensors as timm does when it lifts the members of a sequence (stages.0 → stages_0)."""
    wanted = network.state_dict().keys()
    lifted = {key: key.replace(".", "_", 1) for key in state}
    return {
        lifted[key] if key not in wanted and lifted[key] in wanted else key: value
        for key, value in state.items()
    }


def _chain(name: str, network: nn.Module) -> list[nn.Module]:
    """Return the modules that a network without classifier runs through, in order."""
    kind = type(network).__name__
    if name.startswith(TIMM):
        if kind == "FeatureListNet":
            return list(network.children())
        if kind in ("EfficientNetFeatures", "MobileNetV3Features"):
            first = [m for part, m in network.named_children() if part != "blocks"]
            return [*first, *network.get_submodule("blocks").children()]
        raise SettingError(f"backbone ({name!r}) does not come apart into stages in order")
    if kind == "RegNet":
        stem, trunk = network.get_submodule("stem"), network.get_submodule("trunk_output")
        return [stem, *trunk.children()]
    if kind == "MNASNet":
        return list(network.get_submodule("layers").children())
    last = [nn.ReLU()] if kind == "DenseNet" else []  # torchvision keeps it outside the features
    return [*network.get_submodule("features").children(), *last]


@torch.no_grad()
def _by_stride(name: str, chain: Sequence[nn.Module]) -> StagedEncoder:
    """Sort the members of a chain into the stem and the stages, by the stride they leave."""
    parts: dict[int, list[nn.Module]] = {stride: [] for stride in (0, *STRIDES)}
    x = torch.zeros(1, 3, *_PROBE)
    for module in chain:
        x = module.eval()(x)
        module.train()
        stride = _PROBE[0] // x.shape[2] if x.dim() == 4 and x.shape[2] else 0
        if x.shape[2:] != (_PROBE[0] // max(stride, 1), _PROBE[1] // max(stride, 1)):
            raise SettingError(f"backbone ({name!r}) does not keep the grid of the image")
        parts.setdefault(0 if stride < STRIDES[0] else stride, []).append(module)
    if set(parts) != {0, *STRIDES} or not all(parts[stride] for stride in STRIDES):
        found = sorted(stride for stride, members in parts.items() if stride and members)
        raise SettingError(f"backbone ({name!r}) has strides {found}, not {list(STRIDES)}")
    stages: dict[str, nn.Module] = {
        stage: nn.Sequential(*parts[stride]) for stage, stride in zip(STAGES, STRIDES, strict=True)
    }
    return StagedEncoder(nn.Sequential(*parts[0]), stages)


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
