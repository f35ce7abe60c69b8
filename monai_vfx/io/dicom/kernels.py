"""What the names of reconstruction kernels mean: soft tissue, sharp (bone, lung), or neither.

The names are the vendors' own (ConvolutionKernel, DICOM PS3.3, C.8.2.1). Each vendor's differ from
the others' in form, so the name alone is enough; what no row of :data:`KERNELS` matches is unknown.
"""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["soft", "sharp"]

KERNELS: tuple[tuple[str, str, Kind | None, str], ...] = (
    # vendor, names, kind, pattern of the name in capitals without blanks
    ("Siemens", "Bl (lung) with any number", "sharp", r"BL\d\d[A-Z]?"),
    (
        "Siemens",
        "B, Br, Bf, Bv, Bm, Bn, Bb, I, Q, Qr, H, Hr, Hc, Hv, J, D, Sa with a number below 50",
        "soft",
        r"(B[RFVMNB]?|I|QR?|H[RCV]?|[DJ]|SA)[0-4]\d[A-Z]?",
    ),
    (
        "Siemens",
        "the same with a number of 50 or more; U, Ur, Uh",
        "sharp",
        r"((B[RFVMNB]?|I|QR?|H[RCV]?|[DJ]|SA)[5-9]\d|U[RH]?\d\d)[A-Z]?",
    ),
    (
        "GE",
        "STANDARD, STND, STAN, STD, SOFT, also behind HD",
        "soft",
        r"(HD)?(STANDARD|STND|STAN|STD|SOFT)",
    ),
    (
        "GE",
        "LUNG, BONE, BONEPLUS, EDGE, ULTRA, also behind HD",
        "sharp",
        r"(HD)?(LUNG|BONE|BONE\+|BONEPLUS|EDGE|ULTRA)",
    ),
    ("GE", "DETAIL: between the two", None, r"(HD)?DETAIL"),
    ("Philips", "A, B, SB; CA, CB, XCA, XCB; UA, UB", "soft", r"S?B|A|X?C[AB]|U[AB]"),
    ("Philips", "C, CC, XCC, UC: between the two", None, r"C|X?CC|UC"),
    ("Philips", "D, E, F, L; CD, XCD; YA to YE", "sharp", r"[DEFL]|X?CD|Y[A-E]"),
    ("Canon, Toshiba", "FC01 to FC29", "soft", r"FC(0[1-9]|[12]\d)(-?[A-Z])?"),
    ("Canon, Toshiba", "FC30 to FC39, FC50 to FC59, FC80 to FC89", "sharp", r"FC[358]\d(-?[A-Z])?"),
    (
        "any",
        "words: soft, body, routine, smooth",
        "soft",
        r"(BODY|ROUTINE|SOFT|SMOOTH|TISSUE|[-_ ])+",
    ),
    ("any", "words with bone, lung or sharp", "sharp", r".*(BONE|LUNG|SHARP).*"),
)
"""Vendor, names in words, what they are good for, pattern. The first row that matches holds."""


def kernel_kind(name: str) -> Kind | None:
    r"""Return what a kernel shows best; None where it is unknown or between the two.

    >>> [kernel_kind(name) for name in ("B30f", "Br69", "Bl57f", "Qr40d", "I31f\\3", "I31f/3")]
    ['soft', 'sharp', 'sharp', 'soft', 'soft', 'soft']
    >>> [kernel_kind(name) for name in ("STANDARD", "BONEPLUS", "DETAIL", "B", "YC", "FC13")]
    ['soft', 'sharp', None, 'soft', 'sharp', 'soft']
    >>> kernel_kind("") is kernel_kind("FC64") is None
    True
    """
    first = re.split(r"[\\/]", name)[0]  # what follows is the strength of an iteration
    plain = re.sub(r"\s+", "", first).upper()
    for _, _, kind, pattern in KERNELS:
        if re.fullmatch(pattern, plain):
            return kind
    return None
