"""Images after the deterministic part of the chain, kept on disk for many trainings of one study.

Folds, models and seeds of a study take the same images through the same chain. What it gives
depends on the files and on a few settings; a name is made of both, and an image that was prepared
once is read back. Plain tensors, read without un-pickling objects. Files are named by a hash and
hold no path and no name of a case.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.transforms.traits import RandomizableTrait

from monai_vfx.core.arrays import Json
from monai_vfx.transforms.slices import PER_SLICE_META

_LOG = logging.getLogger(__name__)
NETWORK_SETTINGS = frozenset(
    {
        *("backbone", "attention", "attention_layers", "include_global", "decoder", "rnn_hidden"),
        *("feature_norm", "bidirectional", "slice_pooling", "dropout", "slices", "input_range"),
        *("clinical_model", "clinical", "hazard_years"),
    }
)
"""Of the settings that weights carry, those that the deterministic part does not depend on."""


class PreparedImages:
    """Run the deterministic part of a chain, or read what it gave before.

    Args:
        folder: for the files; None prepares every time.
        settings: the ``model_settings`` of the configs, plain values.
    """

    def __init__(self, folder: str | Path | None, settings: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.settings = {k: v for k, v in settings.items() if k not in NETWORK_SETTINGS}
        self.settings["version"] = metadata.version("monai_vfx")

    def __call__(self, item: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """Return an item after the deterministic part of its chain.

        Args:
            item: with ``image`` and ``mask``, paths; what else it holds stays as it is.
            run: does that part for real.
        """
        if self.folder is None:
            return run()
        path = self.folder / f"{self._name(item)}.pt"
        kept = _read(path)
        if kept is not None:
            meta = {name: kept[name].numpy() for name in PER_SLICE_META}
            image = MetaTensor(kept["image"], affine=kept["affine"], meta=meta)
            return {**{k: v for k, v in item.items() if k != "mask"}, "image": image}
        done = run()
        image = done["image"]
        kept = {name: torch.as_tensor(image.meta[name]) for name in PER_SLICE_META}
        kept |= {"image": image.as_tensor(), "affine": image.affine}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        torch.save(kept, partial)
        partial.replace(path)
        return done

    def _name(self, item: Mapping[str, Any]) -> str:
        files = [_state(Path(item[key])) for key in ("image", "mask") if item.get(key)]
        text = json.dumps([files, item.get("scheme"), self.settings], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Json | None:
    """Return what a file holds; None where there is none, or one that is damaged."""
    if not path.is_file():
        return None
    try:
        kept: Json = torch.load(path, weights_only=True)
    except Exception:  # what damage makes torch raise is not to be foreseen; it is made anew
        _LOG.warning("a prepared image is damaged and is made anew")
        return None
    return kept


def first_random(chain: Compose) -> int:
    """Return the place of the first random transform of a chain, its length without one."""
    place = chain.get_index_of_first(lambda t: isinstance(t, RandomizableTrait))
    return len(chain.transforms) if place is None else int(place)


def _state(path: Path) -> Json:
    """Return what tells whether a file, or any in a folder, is still the one it was."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file, file.stat()) for file in files]
    return {
        "path": str(path.resolve()),
        "files": [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in stats],
    }
