"""The JSON Schemas of ``data_schemas/``: checks for every document that people exchange."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import cast

from monai_vfx.core.arrays import Json


@cache
def schema(name: str) -> Json:
    """Return the schema ``data_schemas/<name>.schema.json``."""
    from monai_vfx import data_schemas

    folder = Path(data_schemas.__file__).parent
    return cast(Json, json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8")))


def violations(document: Json, name: str) -> list[str]:
    """List every place where a document breaks a schema, each as ``path: rule``."""
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema(name))
    return [
        f"{'/'.join(str(step) for step in error.absolute_path) or '(top)'}: {error.message}"
        for error in sorted(validator.iter_errors(document), key=lambda e: list(e.absolute_path))
    ]
