"""Values of a DICOM header, as numbers where they must be numbers.

Hospital files hold text where numbers belong, commas for points and one value for three: what comes
out here is a list of numbers, NaN for what is none, never an exception.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np


def numbers(header: Any, tag: str) -> list[float]:
    """Return all values of a numeric tag; none where it is absent or empty."""
    value = header.get(tag)
    if value is None or value == "":
        return []
    if isinstance(value, str | int | float):
        value = [value]
    return [number(x) for x in value]


def number(value: Any) -> float:
    """Return a number; NaN for an empty value or text that is none.

    >>> number("1.5"), number("1,5"), number(None)
    (1.5, nan, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def whole(header: Any, tag: str) -> int | None:
    """Return the one whole number of a tag; None where it is absent or something else."""
    found = numbers(header, tag)
    return int(found[0]) if len(found) == 1 and found[0].is_integer() else None


def text(header: Any, tag: str) -> str:
    """Return a text without the blanks around it; empty where the tag is absent."""
    return str(header.get(tag, "") or "").strip()


def items(header: Any, tag: str) -> tuple[Any, ...]:
    """Return the items of a sequence; none where it is absent or no sequence.

    >>> items({}, "ContrastBolusAgentSequence"), items({"A": "text"}, "A")
    ((), ())
    """
    from pydicom.sequence import Sequence

    value = header.get(tag)
    return tuple(value) if isinstance(value, Sequence) else ()


def terms(header: Any, tag: str) -> tuple[str, ...]:
    r"""Return the values of a coded text, such as ImageType, in capitals.

    >>> terms({"ImageType": ["ORIGINAL", "primary"]}, "ImageType"), terms({}, "ImageType")
    (('ORIGINAL', 'PRIMARY'), ())
    """
    value = header.get(tag)
    if value is None or value == "":
        return ()
    parts = [value] if isinstance(value, str) else value
    return tuple(str(part).strip().upper() for part in parts)


def plain(value: Any) -> Any:
    """Return a header's value so that equal numbers are equal however they are written.

    >>> plain(["1.50", 2]), plain("1.2.840")
    ((1.5, 2.0), '1.2.840')
    """
    if isinstance(value, str | int | float) or value is None:
        return str(value)
    return tuple(number(part) for part in value)


def thickness_mm(header: Any) -> float | None:
    """Return the nominal slice thickness; None where the tag states none."""
    found = numbers(header, "SliceThickness")
    return found[0] if len(found) == 1 and np.isfinite(found[0]) and found[0] > 0 else None


def age_years(header: Any) -> float | None:
    """Return the age (DICOM VR AS) in years; None where it is absent or malformed.

    >>> [age_years({"PatientAge": age}) for age in ("069Y", "018M", "69", "")]
    [69.0, 1.5, None, None]
    """
    found = re.fullmatch(r"(\d{3})([DWMY])", text(header, "PatientAge"))
    if found is None:
        return None
    return int(found.group(1)) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[found.group(2)]
