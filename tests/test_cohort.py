"""A cohort table: every fault named, folds that keep patients and pairs whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vfx.cohort import CohortItem, read_cohort, split_folds
from monai_vfx.errors import CaseRefused


def _write(folder: Path, text: str) -> Path:
    for name in ("a.nii", "b.nii", "m.nii"):
        (folder / name).touch()
    table = folder / "cohort.csv"
    table.write_text(text, encoding="utf-8")
    return table


def test_paths_start_at_the_table(tmp_path: Path) -> None:
    table = _write(
        tmp_path,
        "case,image,mask,fracture,simulated,pair\nx,a.nii,m.nii,1,1,p\ny,b.nii,m.nii,0,,\n",
    )
    first, second = read_cohort(table)
    assert first == {
        "case": "x",
        "image": str(tmp_path / "a.nii"),
        "mask": str(tmp_path / "m.nii"),
        "label": 1,
        "simulated": True,
        "pair": "p",
    }
    assert (second["label"], second["simulated"], second["pair"]) == (0, False, "y")


def test_every_fault_is_named_with_its_row_and_column(tmp_path: Path) -> None:
    table = _write(
        tmp_path,
        "case,image,mask,fracture\nx,a.nii,m.nii,1\nx,gone.nii,m.nii,maybe\n../z,a.nii,,0\n",
    )
    with pytest.raises(CaseRefused) as refused:
        read_cohort(table)
    message = refused.value.message
    assert refused.value.code == "cohort_invalid"
    for words in (
        "row 3, image: 'gone.nii'",
        "row 3, fracture: 'maybe'",
        "row 3, case: also in row 2",
        "row 4, case: '../z'",
        "row 4, mask: ''",
    ):
        assert words in message


def test_missing_columns_and_empty_tables(tmp_path: Path) -> None:
    with pytest.raises(CaseRefused, match="columns are missing: mask, fracture"):
        read_cohort(_write(tmp_path, "case,image\nx,a.nii\n"))
    with pytest.raises(CaseRefused, match="no rows"):
        read_cohort(_write(tmp_path, "case,image,mask,fracture\n"))


def _items(labels: list[int], pairs: list[str] | None = None) -> list[CohortItem]:
    return [
        CohortItem(
            case=str(n),
            image="i",
            mask="m",
            label=label,
            simulated=True,
            pair=pairs[n] if pairs else str(n),
        )
        for n, label in enumerate(labels)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_folds_partition_patients_and_keep_pairs(seed: int, folds: int) -> None:
    labels = [0, 1] * 15
    pairs = [str(n // 2) for n in range(30)]
    split = split_folds(_items(labels, pairs), folds, seed)
    held_out = [item["case"] for _, validation in split for item in validation]
    assert sorted(held_out, key=int) == [str(n) for n in range(30)]
    for training, validation in split:
        assert not {i["pair"] for i in training} & {i["pair"] for i in validation}
        assert len(training) + len(validation) == 30


def test_folds_are_stratified_and_seeded() -> None:
    items = _items([1] * 10 + [0] * 40)
    split = split_folds(items, 5, seed=3)
    assert [sum(i["label"] for i in validation) for _, validation in split] == [2] * 5
    assert split == split_folds(items, 5, seed=3)
    assert split != split_folds(items, 5, seed=4)


def test_more_folds_than_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="smaller class"):
        split_folds(_items([1, 0, 0, 0]), 2)
