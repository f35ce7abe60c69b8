"""Read the user's own table of what the labels of a mask mean (``--labels FILE``).

The file is JSON or YAML (``data_schemas/label_mapping.schema.json``)::

    content: vertebra          # or body; found from the shape where it is left out
    labels:
      7: T12                   # a label value, or the number of a segment
      Lumbar 1: L1             # a name as the mask carries it
      left psoas: psoas
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from monai_vfx.core.errors import SettingError
from monai_vfx.core.schemas import violations

ENDINGS = (".json", ".yaml", ".yml")
"""Endings of the files that :func:`read_mapping` reads."""


@dataclass(frozen=True)
class LabelMapping:
    """The meaning of labels by number and by name.

    Attributes:
        by_value: label value or number of a segment → level or muscle.
        by_name: name in lower case → level or muscle.
        content: whether a vertebra's label covers its body or all of it; None: not stated.
    """

    by_value: Mapping[int, str]
    by_name: Mapping[str, str]
    content: Literal["body", "vertebra"] | None

    def structure(self, value: int | None, name: str) -> str | None:
        """Return the meaning of a label with this value and name; the name takes precedence.

        >>> LabelMapping({1: "L1"}, {"second": "L2"}, None).structure(1, "Second ")
        'L2'
        """
        named = self.by_name.get(name.strip().lower())
        return named if named is not None or value is None else self.by_value.get(value)


def is_mapping_file(scheme: str) -> bool:
    """Return whether the value of ``--labels`` is the path of a mapping.

    >>> is_mapping_file("verse"), is_mapping_file("site.yaml")
    (False, True)
    """
    return scheme.lower().endswith(ENDINGS)


def read_mapping(path: str | Path) -> LabelMapping:
    """Read and check a label mapping.

    Args:
        path: ending in ``.json``, ``.yaml`` or ``.yml``.

    Raises:
        SettingError: the file cannot be read, or an entry is repeated or breaks the schema; the
            message names the entry.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"label mapping: cannot be read ({type(error).__name__})") from error
    document = _parse(text, path.suffix.lower() == ".json")
    if isinstance(document, dict) and isinstance(document.get("labels"), dict):
        keys = [str(key).strip() for key in document["labels"]]
        _refuse_twice(keys)
        document["labels"] = dict(zip(keys, document["labels"].values(), strict=True))
    broken = violations(document, "label_mapping")
    if broken:
        raise SettingError("label mapping: " + "; ".join(broken))
    labels: dict[str, str] = document["labels"]
    numbers = {int(key): value for key, value in labels.items() if key.isdecimal()}
    names = {key.lower(): value for key, value in labels.items() if not key.isdecimal()}
    if len(numbers) + len(names) < len(labels):
        raise SettingError("label mapping: a number or name is repeated in labels")
    return LabelMapping(numbers, names, document.get("content"))


def _refuse_twice(keys: list[Any]) -> None:
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise SettingError(f"label mapping: {', '.join(twice)} is repeated")


def _parse(text: str, as_json: bool) -> Any:
    """Parse JSON or YAML and refuse repeated keys, of which both parsers keep the last."""
    import yaml

    class Once(yaml.SafeLoader):
        """Load plain values only, each key once."""

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        _refuse_twice([key for key, _ in entries])
        return dict(entries)

    def mapping(loader: Once, node: yaml.MappingNode) -> dict[Hashable, Any]:
        _refuse_twice([key.value for key, _ in node.value])
        return loader.construct_mapping(node, deep=True)

    Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        if as_json:
            return json.loads(text, object_pairs_hook=pairs)
        return yaml.load(text, Loader=Once)
    except SettingError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "JSON" if as_json else "YAML"
        raise SettingError(f"label mapping: the file is not valid {kind}") from error
