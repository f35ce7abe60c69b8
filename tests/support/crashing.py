"""What processes of a pool are given to do: it must be importable by its name."""

from __future__ import annotations

import os


def halve(number: int) -> int:
    """Return the half of an even number; an odd one kills the process."""
    if number % 2:
        os._exit(1)
    return number // 2
