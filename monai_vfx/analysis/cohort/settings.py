"""Settings of eligibility and matching, from a file and from ``NAME=VALUE`` words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from monai_vfx.analysis.cohort.flow import Eligibility
from monai_vfx.analysis.cohort.matching import Matching
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

Section = TypeVar("Section")


def read_settings(
    path: str | Path | None = None, assignments: Sequence[str] = ()
) -> tuple[Eligibility, Matching]:
    """Return the rules that a file and ``NAME=VALUE`` words set; the study's where they do not.

    Args:
        path: YAML with the sections ``eligibility`` and ``matching``, either or both.
        assignments: words such as ``min_age=55``; the value is YAML. They win over the file.

    Raises:
        SettingError: an unknown section or name, or a value that cannot be used.

    >>> read_settings(None, ["min_age=55", "ratio=2"])[1].ratio
    2
    >>> read_settings(None, ["min_aeg=55"])
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.SettingError: there is no setting min_aeg; eligibility has min_age, ...
    """
    kinds: dict[str, type[Any]] = {"eligibility": Eligibility, "matching": Matching}
    known = {name: [field.name for field in fields(kind)] for name, kind in kinds.items()}
    listed = "; ".join(f"{name} has {', '.join(names)}" for name, names in known.items())
    sections: dict[str, Json] = {name: {} for name in kinds}
    for name, section in (_load_yaml(path) if path else {}).items():
        if name not in sections or not isinstance(section, dict | None):
            raise SettingError(f"there is no section {name} of settings; {listed}")
        sections[name] |= section or {}
    for word in assignments:
        key, sign, value = word.partition("=")
        where = next((name for name, names in known.items() if key in names), None)
        if where is None or not sign:
            raise SettingError(f"there is no setting {word if not sign else key}; {listed}")
        sections[where][key] = yaml.safe_load(value)
    eligibility, matching = (read_section(n, kinds[n], sections[n]) for n in kinds)
    return eligibility, matching


def read_section(name: str, kind: type[Section], settings: Json) -> Section:
    """Return settings as a data class, lists as tuples; ``name`` is what messages call them."""
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = [str(key) for key in settings if key not in known]
    if unknown:
        raise SettingError(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    except (TypeError, ValueError) as error:  # such as a word where a number belongs
        given = ", ".join(f"{key}: {value!r}" for key, value in settings.items())
        raise SettingError(f"{name} ({given}) cannot be used: {error}") from error


def _load_yaml(path: str | Path) -> Json:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingError(f"the settings cannot be read as YAML ({error})") from error
    if not isinstance(content, dict | None):
        raise SettingError("the settings must be sections: eligibility, matching")
    return content or {}
