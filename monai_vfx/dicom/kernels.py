"""Whether a reconstruction kernel is soft or sharp, from the names that makers give."""

from __future__ import annotations

import re

SOFTEST_SHARP = 50
"""A Siemens kernel of this number or more is sharp."""
HARDEST_SOFT = 45
"""One of this number or less is soft; between the two it is not called either."""

_NAMES = {
    "soft": ("soft", "standard", "stnd", "stan", "std", "detail", "a", "b", "sb"),
    "sharp": (
        *("bone", "boneplus", "lung", "edge", "ultra", "sharp", "hd bone", "hd lung"),
        *("d", "e", "l", "ya", "yb", "yc", "yd", "f"),
    ),
}
_CANON = {"soft": ((0, 19),), "sharp": ((30, 39), (50, 59), (80, 89))}


def kernel_class(kernel: str | None) -> str | None:
    """Return ``soft`` or ``sharp``; None for a name that is not known.

    Siemens counts sharpness in the name (B30f, Br36d, I70h), Canon numbers families (FC13, FC52),
    GE and Philips give words and letters.

    >>> [kernel_class(name) for name in ("B30f", "Br59d", "FC13", "FC52", "STANDARD", "BONEPLUS")]
    ['soft', 'sharp', 'soft', 'sharp', 'soft', 'sharp']
    >>> kernel_class("B48f"), kernel_class("mystery"), kernel_class(None)
    (None, None, None)
    """
    if not kernel:
        return None
    name = kernel.strip().lower()
    canon = re.fullmatch(r"fc(\d{2})\w*", name)
    if canon:
        number = int(canon.group(1))
        return next(
            (k for k, spans in _CANON.items() if any(a <= number <= b for a, b in spans)), None
        )
    siemens = re.fullmatch(r"(?:b|i|j|br|bv|bf|qr|hr|hv)(\d{2})[a-z]?(?:[\\/ _].*)?", name)
    if siemens:
        number = int(siemens.group(1))
        if number <= HARDEST_SOFT:
            return "soft"
        return "sharp" if number >= SOFTEST_SHARP else None
    return next((kind for kind, names in _NAMES.items() if name in names), None)
