"""Five-year vertebral fracture risk (T12-L4) from a routine abdominal CT, built on MONAI.

The public names are loaded when they are first used, so that importing the package costs nothing:

>>> import monai_vfx
>>> monai_vfx.CaseRefused.__module__
'monai_vfx.errors'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_vfx.errors import CaseRefused
    from monai_vfx.networks import AttentionCNNRNN
    from monai_vfx.preflight import load_case
    from monai_vfx.results import Prediction
    from monai_vfx.volumes import open_volume
    from monai_vfx.workflow import predict, train

_HOME = {
    "AttentionCNNRNN": "networks",
    "CaseRefused": "errors",
    "Prediction": "results",
    "load_case": "preflight",
    "open_volume": "volumes",
    "predict": "workflow",
    "train": "workflow",
}

__all__ = [
    "AttentionCNNRNN",
    "CaseRefused",
    "Prediction",
    "load_case",
    "open_volume",
    "predict",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
