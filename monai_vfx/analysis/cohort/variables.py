"""What the columns of a patient table mean: label, unit, kind and range of each.

The only source is ``data_schemas/cohort.schema.json``; nothing is written down twice.
"""

from __future__ import annotations

from monai_vfx.core.cells import Column, columns_of

COLUMNS: dict[str, Column] = columns_of("cohort")
"""Name → column, all that the schema knows, in its order."""

VARIABLES: dict[str, Column] = {
    name: column
    for name, column in COLUMNS.items()
    if column.kind in ("continuous", "binary", "category")
} | {"scan_year": Column("scan_year", "Year of the CT", None, "continuous")}
"""Name → variable that tables and models may use; ``scan_year`` is derived from ``scan_date``."""

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
