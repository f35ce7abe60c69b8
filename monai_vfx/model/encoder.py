"""The encoders: networks of timm by name, taken apart into a stem and four stages.

A stage is what works at one stride: a cell of layer1 spans 4 pixels, of layer2 8, of layer3 16, of
layer4 32. Any network that is a sequence of modules down to stride 32 can be an encoder; networks
that branch over their whole depth or leave the grid, as vision transformers do, cannot.

Weights are only ever read as plain tensors; nothing in a file is executed.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from monai_vfx.core.errors import SettingError
from monai_vfx.core.hashing import sha256_of

State = dict[str, Tensor]
TIMM = "timm/"
"""Begins the name of weights that timm downloads."""
STAGES: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4")
"""The encoder's stages, fine to coarse; a cell of them spans 4, 8, 16 and 32 pixels."""
STRIDES: tuple[int, ...] = (4, 8, 16, 32)
_PROBE = (64, 96)
"""Sides of an image that is sent through a network to see its strides."""
_AFTER_THE_STAGES = ("fc.", "classifier.", "head.", "head_", "conv_head.", "bn2.")
"""Beginnings of the names of tensors that an encoder does not use."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|safetensors)$")


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
        """Return the number of channels of each stage."""
        was_training = self.training
        self.eval()
        x, widths = self.stem(torch.zeros(1, 3, *_PROBE)), {}
        for name, stage in self.stages.items():
            x = stage(x)
            widths[name] = x.shape[1]
        self.train(was_training)
        return widths


def load_encoder(
    backbone: str, pretrained: str | Path | None = None, sha256: str | None = None
) -> StagedEncoder:
    """Build an encoder, with pretrained weights where asked for.

    Args:
        backbone: name of a network of timm, such as ``resnext50_32x4d``.
        pretrained: None (weights at random); ``imagenet`` (torchvision's weights of the residual
            networks, ``tv_in1k``, or those that timm prefers); ``timm/NAME`` for other weights of
            timm, such as ``timm/resnext50_32x4d.a1h_in1k``; or a local file with the encoder's
            state dictionary by timm's names, as ``.pth`` (torchvision's residual networks have the
            same names) or ``.safetensors``.
        sha256: what the SHA-256 of a local file must begin with; by default the digits that its
            name ends in, as in ``resnet18-f37072fd.pth``.

    Raises:
        SettingError: the name is unknown, the network has no stages at all four strides, or the
            weights cannot be had or do not fit.
    """
    check_pretrained(backbone, pretrained)
    name = backbone.removeprefix(TIMM)
    # Weights at random as torchvision draws them: the last norm of a residual block begins at 1.
    residual = timm.models.model_entrypoint(name).__module__ == "timm.models.resnet"
    options: dict[str, Any] = {"zero_init_last": False} if residual else {}
    try:
        network: nn.Module = timm.create_model(name, features_only=True, scriptable=True, **options)
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise SettingError(f"backbone ({backbone!r}) has no stages: {error}") from error
    if pretrained is not None:
        _load(network, name, str(pretrained), sha256)
    parts = dict(network.named_children())
    if set(STAGES) <= set(parts):
        stem = nn.Sequential(*(part for key, part in parts.items() if key not in STAGES))
        return StagedEncoder(stem, {stage: parts[stage] for stage in STAGES})
    return _by_stride(backbone, network)


def check_pretrained(backbone: str, pretrained: str | Path | None) -> None:
    """Refuse a backbone or pretrained weights that do not exist, before anything is downloaded.

    Args:
        backbone: as for :func:`load_encoder`; ``timm/`` before the name is ignored, as sidecars
            of earlier versions have it.
        pretrained: as for :func:`load_encoder`.

    Raises:
        SettingError: the backbone or the weights are unknown, or do not go together.

    >>> check_pretrained("resnet18", "imagenet")
    """
    name = backbone.removeprefix(TIMM)
    if not timm.is_model(name):
        raise SettingError(f"backbone ({backbone!r}) must be a network of timm, such as resnet18")
    text = "" if pretrained is None else str(pretrained)
    if text.startswith(TIMM):
        if timm.models.get_arch_name(text.removeprefix(TIMM)) != timm.models.get_arch_name(name):
            raise SettingError(
                f"pretrained ({text!r}) must be weights of the backbone, {TIMM}{name}.…"
            )
    elif text not in ("", "imagenet") and not Path(text).is_file():
        raise SettingError(
            f"pretrained ({text!r}) must be None, 'imagenet', 'timm/NAME' or an existing file"
        )


def sha256_of_pretrained(pretrained: str | Path | None) -> str | None:
    """Return the SHA-256 of a local file of pretrained weights; None for any others."""
    return sha256_of(pretrained) if pretrained and Path(pretrained).is_file() else None


def name_of_pretrained(pretrained: str | Path | None) -> str | None:
    """Return how a record names pretrained weights: a file without the folder that it lies in.

    >>> name_of_pretrained("/data/encoder.pth"), name_of_pretrained("timm/resnet18.tv_in1k")
    ('encoder.pth', 'timm/resnet18.tv_in1k')
    """
    if pretrained is None or str(pretrained).startswith(TIMM):
        return None if pretrained is None else str(pretrained)
    return Path(pretrained).name


def _load(network: nn.Module, name: str, pretrained: str, sha256: str | None) -> None:
    """Copy pretrained weights into a network: all of its tensors, and none is left over."""
    if pretrained == "imagenet":
        state = _download(f"{name}.tv_in1k" if timm.list_pretrained(f"{name}.tv_in1k") else name)
    elif pretrained.startswith(TIMM):
        state = _download(pretrained.removeprefix(TIMM))
    else:
        state = _read(Path(pretrained), sha256)
    wanted = network.state_dict()
    encoder: State = {}
    for key, value in state.items():
        lifted = key.replace(".", "_", 1)  # timm lifts members of a sequence: stages.0 → stages_0
        key = lifted if key not in wanted and lifted in wanted else key
        if key in wanted or not key.startswith(_AFTER_THE_STAGES):
            encoder[key] = value
    try:
        missing, unexpected = network.load_state_dict(encoder, strict=False)
    except RuntimeError as error:
        raise SettingError(f"pretrained ({pretrained!r}) does not fit {name}: {error}") from error
    if missing or unexpected:
        raise SettingError(
            f"pretrained ({pretrained!r}) does not fit {name}: "
            f"{len(missing)} tensors are missing {missing[:3]}, "
            f"{len(unexpected)} are unknown {unexpected[:3]}"
        )


def _download(name: str) -> State:
    """Download weights of timm, or take them from its cache."""
    try:
        whole: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # each version of the hub's client has errors of its own
        raise SettingError(
            f"the weights of {name} could not be downloaded ({error}). Without a network, copy "
            "them here from another machine and give that file as pretrained, or start from random "
            "weights with pretrained=None"
        ) from error
    return whole.state_dict()


def _read(path: Path, sha256: str | None) -> State:
    """Read a state dictionary from a local file, once its hash is as expected."""
    in_name = _HASH_IN_NAME.search(path.name)
    expected = sha256 or (in_name[1] if in_name else "")
    if sha256 and not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise SettingError(
            f"pretrained_sha256 ({sha256!r}) must be 8 to 64 hexadecimal digits, in lower case"
        )
    found = sha256_of(path)
    if not found.startswith(expected):
        source = "pretrained_sha256 asks for" if sha256 else "its name says"
        raise SettingError(
            f"pretrained ({str(path)!r}) has the SHA-256 {found}, but {source} {expected}: "
            "copy the file anew from its source"
        )
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise SettingError(f"pretrained ({str(path)!r}) is not a file of plain tensors") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SettingError(f"pretrained ({str(path)!r}) must hold a plain state dictionary")
    return state


@torch.no_grad()
def _by_stride(backbone: str, network: nn.Module) -> StagedEncoder:
    """Sort the modules of a network into the stem and the stages, by the stride they leave."""
    kind, members = type(network).__name__, list(network.children())
    if kind in ("EfficientNetFeatures", "MobileNetV3Features"):
        last = network.get_submodule("blocks")
        members = [*(part for part in members if part is not last), *last.children()]
    elif kind != "FeatureListNet":
        raise SettingError(f"backbone ({backbone!r}) is not a sequence of stages")
    parts: dict[int, list[nn.Module]] = {stride: [] for stride in (0, *STRIDES)}
    x = torch.zeros(1, 3, *_PROBE)
    for module in members:
        x = module.eval()(x)
        module.train()
        stride = _PROBE[0] // x.shape[2] if x.dim() == 4 and x.shape[2] else 0
        if x.shape[2:] != (_PROBE[0] // max(stride, 1), _PROBE[1] // max(stride, 1)):
            raise SettingError(f"backbone ({backbone!r}) does not keep the grid of the image")
        parts.setdefault(0 if stride < STRIDES[0] else stride, []).append(module)
    found = [stride for stride, modules in sorted(parts.items()) if stride and modules]
    if found != list(STRIDES):
        raise SettingError(f"backbone ({backbone!r}) has strides {found}, not {list(STRIDES)}")
    stages: dict[str, nn.Module] = {
        stage: nn.Sequential(*parts[stride]) for stage, stride in zip(STAGES, STRIDES, strict=True)
    }
    return StagedEncoder(nn.Sequential(*parts[0]), stages)
