"""Overlays of training: the bundle's own by name, and what a user's must leave alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from monai.bundle import ConfigParser
from yaml import YAMLError

from monai_vfx.analysis.clinical.variables import MODELS
from monai_vfx.analysis.cohort.training_items import read_cohort
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.model.checkpoint import bundle_root

OVERLAYS = ("bone_only", "cpu_small", "clinical", "hazard", "three_windows", "recommended")
"""The bundle's overlays for training in one process."""
CLINICAL = {f"clinical_{model}": model for model in MODELS}
"""Further names of the overlay ``clinical``, each with its clinical model."""

FIXED_PARTS = (
    *("network_def", "resampled", "deterministic_transforms", "fixed_transforms"),
    *("preprocessing", "train::preprocessing", "validate::preprocessing", "model_settings"),
    "clinical",
)
"""Parts of the configs that prediction rebuilds from the bundle's own text."""


def config_files(names: Iterable[str]) -> list[str]:
    """Return the paths of the bundle's configs of these names; a path to a YAML file stays.

    Raises:
        SettingError: a name that is neither, with the names there are.

    >>> [Path(p).name for p in config_files(["common", "bone_only"])]
    ['common.yaml', 'bone_only.yaml']
    """
    folder = bundle_root() / "configs"
    paths = []
    for name in names:
        path = folder / f"{name}.yaml"
        if not path.is_file():
            path = Path(name)
        if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise SettingError(f"overlay {name!r} is neither a file nor one of: {known}")
        paths.append(str(path))
    return paths


def default_folds(overlays: Sequence[str], cohort: str | Path) -> int:
    """Return the number of folds of a table that names them, else that of the configs."""
    given = {item["fold"] for item in read_cohort(cohort)} - {None}
    if given:
        return len(given)
    names, _ = training_configs(overlays)
    return int(ConfigParser.load_config_files(config_files(names))["folds"])


def training_configs(overlays: Sequence[str]) -> tuple[list[str], Json]:
    """Return the configs of a training and the settings that names of overlays stand for.

    Raises:
        SettingError: for what is no overlay of training in one process, with what to do.
    """
    names, settings = ["common", "train"], {}
    for name in overlays:
        _check_name(name)
        if name in CLINICAL:
            settings["clinical_model"] = CLINICAL[name]
        names.append("clinical" if name in CLINICAL else name)
    return names, settings


def _check_name(name: str) -> None:
    if name == "multi_gpu":
        raise SettingError(
            "overlay 'multi_gpu' needs a process a GPU: torchrun --nproc_per_node=N -m "
            "monai.bundle run training …, see the bundle's README"
        )
    known = (*OVERLAYS, *CLINICAL)
    if name in known:
        return
    if not Path(name).is_file():
        raise SettingError(f"overlay {name!r} is neither a file nor one of {known}")
    try:
        check_overlay(name)
    except (YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"overlay {name!r} is not YAML") from error


def check_overlay(path: str | Path) -> None:
    """Refuse an overlay of training that changes network or preprocessing by other than settings.

    The sidecar of the weights records settings, no text of a config: prediction would rebuild the
    bundle's own pipeline and network, and score images that the weights were not trained on.

    Args:
        path: YAML or JSON file, merged over ``common.yaml`` and ``train.yaml``.

    Raises:
        SettingError: names the parts that the overlay must not change.
    """
    content = ConfigParser.load_config_file(str(path))
    changed = sorted(
        {part for part in FIXED_PARTS if any(_touches(n, part) for n in _ids(content))}
    )
    if changed:
        raise SettingError(
            f"overlay {Path(path).name} must not change {', '.join(changed)}: weights carry "
            "settings only, and prediction would not know; change the settings of common.yaml"
        )


def _ids(content: object, above: str = "") -> list[str]:
    """List the identifiers of a config's dictionaries, such as ``train::preprocessing``."""
    if not isinstance(content, dict):
        return []
    ids = []
    for key, value in content.items():
        name = above + str(key).lstrip("+~").replace("#", "::")
        ids += [name, *_ids(value, f"{name}::")]
    return ids


def _touches(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}::")
