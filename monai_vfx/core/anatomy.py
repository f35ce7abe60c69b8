"""Vertebral levels, the project's own label values, and the label tables of other tools.

Inside the project a vertebra carries its VerSe number (Sekuboyina et al. 2021, "VerSe"), whatever
the file it came from: T11 = 18, T12 = 19, L1-L5 = 20-24. Muscles follow from 101 on.
"""

from __future__ import annotations

import re

LEVELS: tuple[str, ...] = ("T12", "L1", "L2", "L3", "L4")
"""The levels of the study, cranial to caudal."""

VERTEBRAE: dict[str, int] = {
    **{f"T{n}": 7 + n for n in range(1, 13)},
    **{f"L{n}": 19 + n for n in range(1, 7)},
    "T13": 28,
}
"""Level name → label value (VerSe numbering; L6 = 25, T13 = 28)."""

LEVEL_NAMES: dict[int, str] = {value: name for name, value in VERTEBRAE.items()}
"""Label value → level name."""

STUDY_LABELS: tuple[int, ...] = tuple(VERTEBRAE[level] for level in LEVELS)
"""Label values of ``LEVELS``, cranial to caudal."""

MUSCLES: dict[str, int] = {"erector_spinae": 101, "psoas": 102}
"""Muscle name → label value (left and right together; erector spinae includes the multifidus)."""

SACRUM, SACRUM_LABEL = "S1", 26
"""Name and label value (VerSe numbering) of the sacrum, read to count the lumbar vertebrae."""

TOTALSEGMENTATOR_V2: dict[int, str] = {
    **{25: SACRUM, 26: SACRUM, 27: "L5", 28: "L4", 29: "L3", 30: "L2", 31: "L1"},
    **{44 - n: f"T{n}" for n in range(12, 0, -1)},
    **{86: "erector_spinae", 87: "erector_spinae", 88: "psoas", 89: "psoas"},
}
"""TotalSegmentator v2, task ``total``: id → structure (T12 = 32 … T1 = 43)."""

TOTALSEGMENTATOR_V1: dict[int, str] = {
    92: SACRUM,
    **{18: "L5", 19: "L4", 20: "L3", 21: "L2", 22: "L1"},
    **{35 - n: f"T{n}" for n in range(12, 0, -1)},
    **{100: "erector_spinae", 101: "erector_spinae", 102: "psoas", 103: "psoas"},
}
"""TotalSegmentator v1: id → structure (T12 = 23 … T1 = 34)."""

VERSE: dict[int, str] = {
    **{value: name for name, value in VERTEBRAE.items()},
    **{value: name for name, value in MUSCLES.items()},
    SACRUM_LABEL: SACRUM,
}
"""VerSe: id → vertebra, with the project's own values for the muscles."""

SCHEMES: dict[str, dict[int, str]] = {
    "verse": VERSE,
    "totalsegmentator_v1": TOTALSEGMENTATOR_V1,
    "totalsegmentator_v2": TOTALSEGMENTATOR_V2,
}
"""Name of a label scheme → its table."""

MADE_MASKS: tuple[str, ...] = ("auto", "totalsegmentator", "spine-segment")
"""What may be given instead of a mask's path: the tool that makes the mask."""

STRUCTURES: tuple[str, ...] = (
    *("background", "body", "disc", "sacrum", "posterior_elements", "rib"),
    *("erector_spinae", "psoas"),
)
"""Classes of the vertebra segmentation's network for the whole CT, in the order of its channels."""

PATCH_STRUCTURES: tuple[str, ...] = (
    *("background", "this_body", "other_body", "disc", "posterior_elements", "rib", "sacrum"),
)
"""Classes of the network for the neighbourhood of one vertebra, in the order of its channels."""

SNOMED_CT: dict[str, str] = {
    "T11": "12989004",
    "T12": "23215003",
    "L1": "66794005",
    "L2": "14293000",
    "L3": "36470004",
    "L4": "11994002",
    "L5": "49668003",
}
"""Level → SNOMED CT concept of the vertebra."""

SNOMED_CT_OTHERS: dict[str, str] = {
    "44947003": "erector_spinae",
    "68455001": "psoas",
    "54735007": SACRUM,
}
"""SNOMED CT concept → muscle or sacrum, for reading."""

SNOMED_CT_VERTEBRA: tuple[str, ...] = ("51282000", "272673000", "3138006")
"""SNOMED CT concepts of a vertebra or bone of which another code must say the level."""

_VERTEBRA_NAME = re.compile(r"(?:^|[^A-Za-z0-9])([TL])h?(\d{1,2})(?:[^A-Za-z0-9]|$)", re.IGNORECASE)
_SACRUM_NAME = re.compile(r"sacrum|(?<![a-z0-9])s1(?![a-z0-9])", re.IGNORECASE)
_OTHER_PARTS = re.compile(r"dis[ck]|ivd|rib|cost|nerve|root|cord|canal|foramen|artery|vein", re.I)
_MUSCLE_NAMES = {
    "erector_spinae": ("autochthon", "erector_spinae", "erector spinae"),
    "psoas": ("iliopsoas", "psoas"),
}


def is_other_part(words: str) -> bool:
    """Return whether words name a structure beside a vertebra at the same level.

    >>> is_other_part("Intervertebral disc of second lumbar vertebra"), is_other_part("L2 vertebra")
    (True, False)
    """
    return bool(_OTHER_PARTS.search(words))


def structure_of_name(name: str) -> str | None:
    """Return the level, muscle or sacrum (``S1``) that a file name or label name means, or None.

    >>> [structure_of_name(n) for n in ("vertebrae_T12.nii.gz", "L1 vertebra", "autochthon_left")]
    ['T12', 'L1', 'erector_spinae']

    Names of two levels or of another part at a level have no meaning here:

    >>> [structure_of_name(n) for n in ("rib_left_12", "disc_L1", "T12/L1", "vertebrae_body")]
    [None, None, None, None]
    """
    stem = name.split(".")[0]
    for muscle, words in _MUSCLE_NAMES.items():
        if any(word in stem.lower() for word in words):
            return muscle
    spaced = re.sub(r"[^A-Za-z0-9]", "  ", stem)  # two, as a match takes the one on each side
    found = set(_VERTEBRA_NAME.findall(spaced))
    if not found and _SACRUM_NAME.search(stem) and not is_other_part(stem):
        return SACRUM
    if len(found) != 1 or is_other_part(stem):
        return None
    region, number = found.pop()
    level = f"{region.upper()}{int(number)}"
    return level if level in VERTEBRAE else None


def label_value(structure: str) -> int:
    """Return the project's label value of a level, muscle or the sacrum.

    >>> label_value("T12"), label_value("psoas")
    (19, 102)
    """
    return {**VERTEBRAE, **MUSCLES, SACRUM: SACRUM_LABEL}[structure]
