"""The table of codes in ``docs/inputs.md``: each code, its rule and what to do.

``python -m monai_vfx.workflows.codes_page docs/inputs.md`` writes it anew, with the tolerances that
the code uses. It lies here because the rules name constants of any room below.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_vfx.core.codes import CODES

BEGIN = "<!-- codes: written by `make docs` -->"
END = "<!-- end of codes -->"
_HEAD = "| code | kind | rule and tolerance | what to do; of a warning: what it means |"
_CONSTANT = re.compile(r"\{(?P<path>[\w.]+)(?:\[(?P<key>\w+)\])?(?::(?P<format>[^}]+))?\}")


def rule_of(code: str) -> str:
    """Return the rule of a code with its constants replaced by their values.

    >>> rule_of("gantry_tilt")
    "The line through the slices' corners lies at most 0.5 degrees off the slice normal."
    """
    return _CONSTANT.sub(_value, CODES[code].rule)


def table() -> str:
    """Return the table of all codes in Markdown."""
    rows = [
        f"| `{code}` | {row.kind} | {rule_of(code)} | {row.remedy} |" for code, row in CODES.items()
    ]
    return "\n".join([_HEAD, "|---|---|---|---|", *rows])


def with_table(page: str) -> str:
    r"""Return a page with the table between its two marks.

    Raises:
        ValueError: the page does not hold the two marks once, in this order.

    >>> text = with_table(f"Codes.\n{BEGIN}\nOLD ROWS\n{END}\nMore.\n")
    >>> "OLD ROWS" in text, "| `gantry_tilt` | refusal |" in text, text.endswith(f"{END}\nMore.\n")
    (False, True, True)
    """
    new = f"{BEGIN}\n{table()}\n{END}"
    text, count = re.subn(f"{BEGIN}.*?{END}", lambda _: new, page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page must hold {BEGIN!r} and then {END!r}, each once")
    return text


def _value(found: re.Match[str]) -> str:
    """Return the value of ``{module.CONSTANT}`` or, picking one of several, ``{…[key]}``."""
    module, _, name = found["path"].rpartition(".")
    value = getattr(import_module(f"monai_vfx.{module}"), name)
    if key := found["key"]:
        value = value[int(key) if key.isdecimal() else key]
    return _spelled(value, found["format"] or "")


def _spelled(value: Any, spec: str) -> str:
    """Spell numbers without trailing digits, two as a range, more as a list."""
    if isinstance(value, tuple):
        return (" to " if len(value) == 2 else ", ").join(_spelled(part, spec) for part in value)
    plain = not spec and isinstance(value, int | float)
    return f"{value:.6g}" if plain else format(value, spec)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_table(target.read_text(encoding="utf-8")), encoding="utf-8")
