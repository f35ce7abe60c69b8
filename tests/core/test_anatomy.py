from __future__ import annotations

import pytest

from monai_vfx.core.anatomy import (
    LEVELS,
    MUSCLES,
    SCHEMES,
    SNOMED_CT,
    TOTALSEGMENTATOR_V1,
    TOTALSEGMENTATOR_V2,
    VERSE,
    label_value,
    structure_of_name,
)


def test_numbers_of_the_published_tables() -> None:
    assert [VERSE[n] for n in (8, 18, 19, 20, 24, 25, 28)] == [
        *("T1", "T11", "T12", "L1", "L5", "L6", "T13")
    ]
    assert [TOTALSEGMENTATOR_V1[n] for n in (18, 19, 22, 23, 24, 34)] == [
        *("L5", "L4", "L1", "T12", "T11", "T1")
    ]
    assert [TOTALSEGMENTATOR_V2[n] for n in (27, 28, 31, 32, 33, 43)] == [
        *("L5", "L4", "L1", "T12", "T11", "T1")
    ]
    assert TOTALSEGMENTATOR_V1[100] == TOTALSEGMENTATOR_V2[86] == "erector_spinae"
    assert TOTALSEGMENTATOR_V1[103] == TOTALSEGMENTATOR_V2[89] == "psoas"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_the_levels_in_one_run(scheme: str) -> None:
    numbers = {name: value for value, name in SCHEMES[scheme].items()}
    run = [numbers[level] for level in LEVELS]
    step = 1 if scheme == "verse" else -1
    assert run == list(range(run[0], run[0] + 5 * step, step))
    assert set(MUSCLES) <= set(numbers)


def test_values_are_one_to_one() -> None:
    values = [label_value(name) for name in (*LEVELS, *MUSCLES)]
    assert values == [19, 20, 21, 22, 23, 101, 102]
    assert set(SNOMED_CT) == {"T11", *LEVELS, "L5"}
    assert len(set(SNOMED_CT.values())) == len(SNOMED_CT)
    with pytest.raises(KeyError):
        label_value("C1")


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("vertebrae_T12.nii.gz", "T12"),
        ("vertebrae_L1", "L1"),
        ("Th12", "T12"),
        ("T07 vertebra", "T7"),
        ("vertebra-l4.seg.nrrd", "L4"),
        ("autochthon_right.nii.gz", "erector_spinae"),
        ("Left Psoas", "psoas"),
        ("vertebrae_S1", "S1"),
        ("sacrum.nii.gz", "S1"),
        ("sacral nerve S1", None),
        ("L5/S1", "L5"),
        ("L5-S1 disc", None),
        ("DS12 s10", None),
        ("vertebrae_L7", None),
        ("rib_left_12", None),
        ("disc_T12_L1", None),
        ("L4/L5 disc", None),
        ("T12 L1", None),
        ("IVD L3", None),
        ("L2 nerve root", None),
        ("SALT1", None),
        ("", None),
    ],
)
def test_structure_of_name(name: str, structure: str | None) -> None:
    assert structure_of_name(name) == structure
