"""Columns of a table, and the check of one cell: its value, or what is wrong with it and why.

Types, ranges and categories come from a JSON Schema of ``data_schemas``. The messages say what to
write instead; here are the ways in which people get cells wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.results import check_case_name
from monai_vfx.core.schemas import schema

Value = str | float | date | None
Kind = Literal["continuous", "binary", "category", "whole", "date", "text", "path"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: in the table's header.
        title: what it is, without its unit.
        unit: such as ``years``, ``cm``, ``kg``, ``kg/m²`` or ``%``; None where there is none.
        kind: ``continuous``, ``binary`` (0 or 1) or ``category``; or, for what is no clinical
            variable, ``whole`` (number), ``date``, ``text`` or ``path``.
        low: smallest value allowed, in ``unit``; None for no bound. ``high`` likewise.
        categories: of a ``category``, in the schema's order.
        required: whether an empty cell is a fault.
        earliest: first date allowed, YYYY-MM-DD.
    """

    name: str
    title: str
    unit: str | None
    kind: Kind
    low: float | None = None
    high: float | None = None
    categories: tuple[str, ...] = ()
    required: bool = False
    earliest: str | None = None

    @property
    def label(self) -> str:
        """The heading of tables and axes, such as ``Age, years``."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def columns_of(name: str) -> dict[str, Column]:
    """Return the columns that a JSON Schema of ``data_schemas`` describes, in its order."""
    return {column: _column(column, rule) for column, rule in schema(name)["properties"].items()}


def _column(name: str, rule: Json) -> Column:
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
    return Column(
        name=name,
        title=rule["title"],
        unit=rule.get("x-unit"),
        kind=kind,
        low=rule.get("minimum"),
        high=rule.get("maximum"),
        categories=tuple(values) if kind == "category" else (),
        required="null" not in rule.get("type", ()) and None not in rule.get("enum", ()),
        earliest=rule.get("x-earliest"),
    )


_NOT_KNOWN = frozenset(
    (
        *("na", "n/a", "n.a.", "nan", "none", "null", "nil", "nat", "<na>", "unknown", "unk"),
        *("not known", "not available", "not done", "missing", "tbd", "pending"),
        *("-", "--", "---", "–", "?", "??", ".", "..", "…"),
        *("#n/a", "#na", "#ref!", "#value!", "#div/0!", "#name?", "#num!", "#null!"),
    )
)
_MISSING_CODES = frozenset({-1, -9, -99, -999, -9999, 9, 88, 99, 888, 999, 8888, 9999, 99999})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_SHORTENED = re.compile(r"\d([.,]\d+)?[eE]\+\d+", re.ASCII)

_NUMBER_HINTS: tuple[tuple[str, str], ...] = (
    (r"[+-]?\d+,\d+|[+-]?\d{1,3}(\.\d{3})+,\d+", "a decimal comma? write a point"),
    (r"\d{1,3}(,\d{3})+(\.\d+)?", "no sign between thousands"),
    (r"[+-]?inf(inity)?", "it must be finite"),
    (r"[<>≤≥~≈].*|.*\+", "a bound is no value: write the value or leave the cell empty"),
    (r"[\d.]+\s*(-|–|to|/)\s*[\d.]+", "a range is no value"),
    (r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}", "this looks like a date"),
    (r"'.*", "remove the apostrophe"),
    (r"[+-]?[\d.,]+\s*[^\d\s].*", "write the number alone, without its unit"),
)
_UNIT_HINTS: dict[str, tuple[tuple[float, float, str], ...]] = {
    "height_cm": (
        (1.0, 2.3, "metres? cm are needed"),
        (3.0, 7.5, "feet? cm are needed"),
        (25.0, 99.99, "inches, or swapped with the weight? cm are needed"),
        (1000.0, 2200.0, "mm? cm are needed"),
    ),
    "weight_kg": (
        (250.0, 550.0, "pounds? kg are needed"),
        (25_000.0, 250_000.0, "grams? kg are needed"),
    ),
    "age": (
        (216.0, 1320.0, "months? years are needed"),
        (1850.0, 2100.0, "a year of birth? the age at the CT is needed"),
    ),
    "follow_up_years": (
        (40.0, 480.0, "months? years are needed"),
        (480.0, 15_000.0, "days? years are needed"),
    ),
}
_YES_NO = {
    **dict.fromkeys(("yes", "y", "true", "t", "present", "positive", "+", "예", "ja", "oui"), "1"),
    **dict.fromkeys(("no", "n", "false", "f", "absent", "negative", "아니오", "nein", "non"), "0"),
}
_CATEGORY_HINTS: dict[str, dict[str, str]] = {
    "sex": {
        **dict.fromkeys(("f", "female", "w", "woman", "여", "여자"), "write F"),
        **dict.fromkeys(("m", "male", "man", "남", "남자"), "write M"),
        **dict.fromkeys(("0", "1", "2"), "a number does not say which: write F or M"),
    },
    "contrast_phase": {
        **dict.fromkeys(("portal", "portal-venous", "venous", "pv"), "write portal_venous"),
        **dict.fromkeys(("non-contrast", "native", "plain", "pre", "0"), "write none"),
    },
}
_BLANKS = "has blanks around it: remove them"


def check_cell(column: Column, raw: str) -> tuple[Value, list[str]]:
    """Return what a cell means (None where it is empty or unusable), and the rules it breaks.

    >>> height = columns_of("cohort")["height_cm"]
    >>> check_cell(height, "163.5")
    (163.5, [])
    >>> check_cell(height, "1.6")
    (None, ['must lie in 100 to 220 cm (metres? cm are needed)'])
    """
    rules = []
    if raw.isprintable():
        if raw != raw.strip():
            rules.append(_BLANKS if raw.strip() else "holds only blanks: leave the cell empty")
    else:
        rules.append(
            "holds a character that cannot be printed (tab, line break, odd blank): remove it"
        )
        raw = "".join(c if c.isprintable() else " " for c in raw)
    text = raw.strip()
    if not text:
        if column.required:
            rules.append("must not be empty")
        return None, rules
    value, rule = _meaning(column, text)
    return (value, rules) if rule is None else (None, [*rules, rule])


def _meaning(column: Column, text: str) -> tuple[Value, str | None]:
    if text in column.categories:  # "none" is a contrast phase
        return text, None
    if text.casefold() in _NOT_KNOWN:
        return None, "is no value: leave the cell empty where it is not known"
    if text[0] in "=@" and len(text) > 1:
        return None, "is a spreadsheet's formula: write its value"
    if "�" in text:
        return None, "holds a letter that was lost in another encoding"
    check = {
        "continuous": _number,
        "whole": _whole,
        "binary": _binary,
        "category": _category,
        "date": _date,
    }.get(column.kind, _text)
    return check(column, text)


def _number(column: Column, text: str) -> tuple[Value, str | None]:
    if not _NUMBER.fullmatch(text):
        folded = text.casefold()
        hint = next((h for pattern, h in _NUMBER_HINTS if re.fullmatch(pattern, folded)), None)
        if hint is None and not text.isascii() and any(c.isdigit() for c in text):
            hint = "write plain digits"
        return None, "must be a number" + (f" ({hint})" if hint else "")
    value = float(text)
    low, high = column.low or 0.0, column.high or 0.0
    if low <= value <= high:
        return value, None
    unit = f" {column.unit}" if column.unit else ""
    hint = _range_hint(column, value)
    return None, f"must lie in {low:g} to {high:g}{unit}" + (f" ({hint})" if hint else "")


def _range_hint(column: Column, value: float) -> str | None:
    if value in _MISSING_CODES:
        return "a code for 'not known'? leave the cell empty"
    if value < 0:
        return "it is negative"
    hints = _UNIT_HINTS.get(column.name, ())
    return next((hint for low, high, hint in hints if low <= value <= high), None)


def _whole(column: Column, text: str) -> tuple[Value, str | None]:
    value, rule = _number(column, text)
    if isinstance(value, float) and not value.is_integer():
        return None, "must be a whole number"
    return value, rule


def _binary(_: Column, text: str) -> tuple[Value, str | None]:
    # "1.0" is how pandas writes a column of 0 and 1 that has empty cells.
    if text in ("0", "1", "0.0", "1.0"):
        return float(text), None
    word = _YES_NO.get(text.casefold())
    if word:
        return None, f"must be 0 or 1 (write {word})"
    if text == "2":
        return None, "must be 0 or 1 (coded as 1 and 2?)"
    if _NUMBER.fullmatch(text) and float(text) in _MISSING_CODES:
        return None, "must be 0 or 1 (a code for 'not known'? leave the cell empty)"
    return None, "must be 0 or 1"


def _category(column: Column, text: str) -> tuple[Value, str | None]:
    folded = text.casefold()
    hint = _CATEGORY_HINTS.get(column.name, {}).get(folded)
    plain = re.sub(r"[\s-]+", "_", folded)
    if hint is None and plain in column.categories:
        hint = f"write {plain}"
    allowed = ", ".join(column.categories)
    return None, f"must be one of {allowed}" + (f" ({hint})" if hint else "")


def _date(column: Column, text: str) -> tuple[Value, str | None]:
    if not _ISO_DATE.fullmatch(text):
        if re.fullmatch(r"(19|20)\d{6}", text):
            hint = " (as in DICOM? put hyphens in)"
        elif re.fullmatch(r"[2-5]\d{4}(\.\d+)?", text):
            hint = " (a spreadsheet's day number? format the column as text)"
        elif re.match(r"\d{4}-\d{2}-\d{2}[T ]", text):
            hint = " (leave out the time of day)"
        else:
            hint = ""
        return None, f"must be a date as YYYY-MM-DD{hint}"
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None, "is no day of the calendar"
    if day > today():
        return None, "lies in the future"
    if column.earliest and day < date.fromisoformat(column.earliest):
        return None, f"must not be before {column.earliest}"
    return day, None


def today() -> date:
    """Return today's date (UTC); a CT or a follow-up after it cannot be true."""
    return datetime.now(UTC).date()


def _text(column: Column, text: str) -> tuple[Value, str | None]:
    if column.name in ("case_id", "patient_id", "pair_id") and _SHORTENED.fullmatch(text):
        return None, "a spreadsheet shortened this number: format the column as text"
    if column.name == "case_id":
        try:
            check_case_name(text)
        except SettingError:
            return None, "must be a name that can serve as a folder's"
    return text, None
