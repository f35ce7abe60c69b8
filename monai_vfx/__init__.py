"""Five-year vertebral fracture risk (T12-L4) from a routine abdominal CT, built on MONAI.

The public names are loaded when they are first used, so that importing the package costs nothing:

>>> import monai_vfx
>>> monai_vfx.CaseRefused.__module__
'monai_vfx.core.errors'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_vfx.case.case import load_case
    from monai_vfx.core.errors import CaseRefused
    from monai_vfx.core.results import Prediction
    from monai_vfx.io.volume import open_volume
    from monai_vfx.model.network import AttentionCNNRNN
    from monai_vfx.workflows.predictor import Predictor, predict
    from monai_vfx.workflows.train import train

_HOME = {
    "AttentionCNNRNN": "model.network",
    "CaseRefused": "core.errors",
    "Prediction": "core.results",
    "load_case": "case.case",
    "open_volume": "io.volume",
    "Predictor": "workflows.predictor",
    "predict": "workflows.predictor",
    "train": "workflows.train",
}

__all__ = [
    "AttentionCNNRNN",
    "CaseRefused",
    "Prediction",
    "Predictor",
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
