"""What the columns of a patient table mean: label, unit, kind and range of each.

The only source is ``data_schemas/cohort.schema.json``; nothing is written down twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monai_vfx.core.arrays import Json
from monai_vfx.core.schemas import schema

Kind = Literal["continuous", "binary", "category", "whole", "date", "text", "path"]


@dataclass(frozen=True)
class Variable:
    """A column of the patient table.

    Args:
        name: of the column.
        title: what it is, without its unit.
        unit: such as ``years``, ``cm``, ``kg``, ``kg/m²`` or ``%``; None where there is none.
        kind: ``continuous``, ``binary`` (0 or 1), ``category``; or, for what is no clinical
            variable, ``whole`` (number), ``date``, ``text`` or ``path``.
        low: least value allowed, in ``unit``; None where there is no bound. ``high`` likewise.
        categories: of a ``category``, in the schema's order.
        required: whether an empty cell is a fault.
    """

    name: str
    title: str
    unit: str | None
    kind: Kind
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    required: bool = False

    @property
    def label(self) -> str:
        """The heading of tables and axes, such as ``Age, years``."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def range(self) -> tuple[float | None, float | None]:
        """Least and greatest value allowed, in ``unit``."""
        return self.low, self.high


def _variable(name: str, rule: Json, required: bool) -> Variable:
    values = [value for value in rule.get("enum", ()) if value is not None]
    kind: Kind
    if values:
        kind = "binary" if values == [0, 1] else "category"
    elif "number" in rule["type"] or "integer" in rule["type"]:
        kind = "continuous" if "number" in rule["type"] else "whole"
    elif rule.get("format") == "date":
        kind = "date"
    else:
        kind = "path" if rule.get("x-path") else "text"
    return Variable(
        name=name,
        title=rule["title"],
        unit=rule.get("x-unit"),
        kind=kind,
        low=rule.get("minimum"),
        high=rule.get("maximum"),
        categories=tuple(values) if kind == "category" else (),
        required=required,
    )


_SCHEMA = schema("cohort")

COLUMNS: dict[str, Variable] = {
    name: _variable(name, rule, name in _SCHEMA["required"])
    for name, rule in _SCHEMA["properties"].items()
}
"""Name → column, all that the schema knows, in its order."""

VARIABLES: dict[str, Variable] = {
    name: column
    for name, column in COLUMNS.items()
    if column.kind in ("continuous", "binary", "category")
} | {"scan_year": Variable("scan_year", "Year of the CT", None, "continuous")}
"""Name → variable that tables and models may use; ``scan_year`` is derived from ``scan_date``."""

EARLIEST_SCAN: str = _SCHEMA["properties"]["scan_date"]["x-earliest"]
"""The earliest date of a CT that is accepted, YYYY-MM-DD."""

CLINICAL: tuple[str, ...] = (
    *("age", "sex", "height_cm", "weight_kg", "bmi", "smoker", "drinker", "glucocorticoids"),
    *("secondary_osteoporosis", "type2_diabetes", "hiv", "hepatitis_c", "renal_failure"),
)
"""The clinical variables in the order of the study's Tables 1 and 2."""


def label(name: str) -> str:
    """Return the heading of a variable; a column that is not registered is its own heading.

    >>> label("age"), label("bmi"), label("site_code")
    ('Age, years', 'BMI, kg/m²', 'site_code')
    """
    known = VARIABLES.get(name) or COLUMNS.get(name)
    return known.label if known else name
