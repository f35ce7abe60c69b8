"""What a user's overlay of training must leave alone."""

from __future__ import annotations

from pathlib import Path

from monai.bundle import ConfigParser

from monai_vfx.errors import SettingError

FIXED_PARTS = (
    *("network_def", "resampled", "deterministic_transforms", "fixed_transforms"),
    *("preprocessing", "train::preprocessing", "validate::preprocessing", "model_settings"),
)
"""Parts of the configs that prediction rebuilds from the bundle's own text."""


def check_overlay(path: str | Path) -> None:
    """Refuse an overlay of training that changes network or preprocessing by other than settings.

    The sidecar of the weights records settings, no text of a config: prediction would rebuild the
    bundle's own chain and network, and score images that the weights were not trained on.

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
