"""The table of codes in ``docs/inputs.md``: each code, its rule and what to do.

``python -m monai_vfx.workflows.codes_page docs/inputs.md`` writes it anew. The numbers come from
the constants that the code uses, so the page cannot say another tolerance than the one that is
applied.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_vfx.core.errors import REFUSALS, WARNINGS
from monai_vfx.core.rules import RULES

BEGIN = "<!-- codes: written by `make docs` -->"
END = "<!-- end of codes -->"
_HEAD = "| code | kind | rule and tolerance | what to do; of a warning: what it means |"


class _Constants(string.Formatter):
    """Fills ``{module.CONSTANT}`` (a path below the package) with the constant's value."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the constant; an index or key picks one of several: ``{on_bone.RING_MM[0]}``."""
        path, bracket, index = field_name.partition("[")
        module, _, name = path.rpartition(".")
        value = getattr(import_module(f"monai_vfx.{module}"), name)
        key = index.rstrip("]")
        picked = value[int(key) if key.isdecimal() else key] if bracket else value
        return picked, field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        """Spell numbers without idle digits, two as a range, more as a list."""
        if isinstance(value, tuple):
            parts = [self.format_field(part, format_spec) for part in value]
            return " to ".join(parts) if len(parts) == 2 else ", ".join(parts)
        plain = not format_spec and isinstance(value, int | float)
        return f"{value:.6g}" if plain else format(value, format_spec)


def rule_of(code: str) -> str:
    """Return the rule behind a code with the numbers in place.

    Args:
        code: a key of :data:`monai_vfx.core.rules.RULES`.

    Raises:
        KeyError: there is no rule.
        ImportError, AttributeError: the rule names a constant that does not exist.

    >>> rule_of("gantry_tilt")
    "The line through the slices' corners lies at most 0.5 degrees off the slice normal."
    """
    return _Constants().vformat(RULES[code], (), {})


def table() -> str:
    """Return the table of all codes in Markdown."""
    rows = [_HEAD, "|---|---|---|---|"]
    for kind, codes in (("refusal", REFUSALS), ("warning", WARNINGS)):
        rows += [f"| `{code}` | {kind} | {rule_of(code)} | {codes[code]} |" for code in codes]
    return "\n".join(rows)


def with_table(page: str) -> str:
    r"""Return a page with the table between its two marks.

    Raises:
        ValueError: the page does not hold each mark once, in this order.

    >>> text = with_table(f"Codes.\n{BEGIN}\nOLD ROWS\n{END}\nMore.\n")
    >>> "OLD ROWS" in text, "| `gantry_tilt` | refusal |" in text, text.endswith(f"{END}\nMore.\n")
    (False, True, True)
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"page: must hold {BEGIN!r} and then {END!r}, each once")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_table(target.read_text(encoding="utf-8")), encoding="utf-8")
