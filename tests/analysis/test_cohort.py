"""A cohort table: every fault named, folds that keep patients and pairs whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vfx.analysis.cohort.training_items import CohortItem, read_cohort, split_folds
from monai_vfx.core.errors import CaseRefused, SettingError


def _write(folder: Path, text: str) -> Path:
    for name in ("a.nii", "b.nii", "m.nii"):
        (folder / name).touch()
    table = folder / "cohort.csv"
    table.write_text(text, encoding="utf-8")
    return table


def test_paths_start_at_the_table(tmp_path: Path) -> None:
    table = _write(
        tmp_path,
        "case_id,image,mask,fracture,simulated,pair_id\nx,a.nii,m.nii,1,1,p\ny,b.nii,m.nii,0,,\n\n",
    )
    first, second = read_cohort(table)
    assert first == {
        "case_id": "x",
        "image": str(tmp_path / "a.nii"),
        "mask": str(tmp_path / "m.nii"),
        "label": 1,
        "simulated": True,
        "pair_id": "x",
        "fold": None,
    }
    assert (second["label"], second["simulated"], second["pair_id"]) == (0, False, "y")


def test_every_fault_is_named_with_its_row_and_column(tmp_path: Path) -> None:
    table = _write(
        tmp_path,
        "case_id,image,mask,fracture\nx,a.nii,m.nii,1\nx,gone.nii,lost.nii,maybe\n../z,a.nii,,0\n",
    )
    with pytest.raises(CaseRefused) as refused:
        read_cohort(table)
    message = refused.value.message
    assert refused.value.code == "cohort_invalid"
    for words in (
        "row 3, image: 'gone.nii'",
        "row 3, mask: 'lost.nii'",
        "row 3, fracture: 'maybe'",
        "row 3, case_id: 'x', also in row 2",
        "row 4, case_id: '../z'",
    ):
        assert words in message


def test_a_table_names_no_series(tmp_path: Path) -> None:
    head = "case_id,image,mask,fracture,series_uid\n"
    assert read_cohort(_write(tmp_path, f"{head}x,a.nii,m.nii,1,\n"))[0]["case_id"] == "x"
    with pytest.raises(CaseRefused, match="row 2, series_uid: must be empty"):
        read_cohort(_write(tmp_path, f"{head}x,a.nii,m.nii,1,1.2.3\n"))


def test_missing_columns_and_empty_tables(tmp_path: Path) -> None:
    with pytest.raises(CaseRefused, match="row 1, fracture: the column is missing"):
        read_cohort(_write(tmp_path, "case_id,image\nx,a.nii\n"))
    with pytest.raises(CaseRefused, match="no rows"):
        read_cohort(_write(tmp_path, "case_id,image,mask,fracture\n"))


HEAD = "case_id,image,mask,fracture,pair_id,patient_id\n"


def test_patients_and_pairs_tie_scans_together(tmp_path: Path) -> None:
    # a and c are one patient, c and d a pair, d and f one patient; b shares a name in the other
    # column only, which ties nothing.
    rows = ("a,,P1", "b,P1,", "c,m,P1", "d,m,P2", "e,,", "f,,P2")
    text = "".join(f"{r[0]},a.nii,m.nii,{n % 2},{r[2:]}\n" for n, r in enumerate(rows))
    items = read_cohort(_write(tmp_path, HEAD + text))
    assert [item["pair_id"] for item in items] == ["a", "b", "a", "a", "e", "a"]


def test_scans_of_one_patient_stay_in_one_fold(tmp_path: Path) -> None:
    text = "".join(f"{n},a.nii,m.nii,{n % 2},,P{n // 4}\n" for n in range(48))
    for training, validation in split_folds(read_cohort(_write(tmp_path, HEAD + text)), 4):
        held_out = {int(item["case_id"]) // 4 for item in validation}
        assert held_out
        assert not held_out & {int(item["case_id"]) // 4 for item in training}


def test_more_folds_than_patients_are_refused(tmp_path: Path) -> None:
    text = "".join(f"{n},a.nii,m.nii,{n % 2},,P{n // 4}\n" for n in range(12))
    with pytest.raises(SettingError, match="3 patients"):
        split_folds(read_cohort(_write(tmp_path, HEAD + text)), 4)


@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "utf-16-le"])
def test_a_table_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    table = _write(tmp_path, "")
    text = "case_id,image,mask,fracture\n환자,a.nii,m.nii,1\n"
    table.write_text(text, encoding=encoding)
    with pytest.raises(CaseRefused, match="save as UTF-8") as refused:
        read_cohort(table)
    assert refused.value.code == "cohort_invalid"
    table.write_text(text, encoding="utf-8")
    assert read_cohort(table)[0]["case_id"] == "환자"


@pytest.mark.parametrize(("sign", "name"), [(";", "';'"), ("\t", "tabs")])
def test_another_delimiter_is_named(tmp_path: Path, sign: str, name: str) -> None:
    text = "case_id,image,mask,fracture\nx,a.nii,m.nii,1\n".replace(",", sign)
    with pytest.raises(CaseRefused, match=f"separated by {name}, not by commas"):
        read_cohort(_write(tmp_path, text))


def test_rows_of_another_length_are_named(tmp_path: Path) -> None:
    text = "case_id,image,mask,fracture,pair_id\nx,a.nii,m.nii\n\ny,a.nii,m.nii,1,p,more\n"
    with pytest.raises(CaseRefused) as refused:
        read_cohort(_write(tmp_path, text))
    assert refused.value.message == (
        "row 2: 3 cells, the header has 5; row 4: 6 cells, the header has 5"
    )
    with pytest.raises(CaseRefused, match="occur twice: case_id"):
        read_cohort(_write(tmp_path, "case_id,image,mask,fracture,case_id\n"))


@pytest.mark.parametrize("case_id", ["", "a/b", "a\\b", ".a", "a\x07b"])
def test_cases_must_be_able_to_name_a_folder(tmp_path: Path, case_id: str) -> None:
    table = _write(tmp_path, f"case_id,image,mask,fracture\n{case_id},a.nii,m.nii,1\n")
    with pytest.raises(CaseRefused, match="row 2, case_id"):
        read_cohort(table)


def test_a_path_too_long_for_the_system_is_a_fault(tmp_path: Path) -> None:
    table = _write(tmp_path, f"case_id,image,mask,fracture\nx,{'a' * 5000},m.nii,1\n")
    with pytest.raises(CaseRefused, match="row 2, image"):
        read_cohort(table)


def _items(
    labels: list[int], pairs: list[str] | None = None, folds: list[int | None] | None = None
) -> list[CohortItem]:
    return [
        CohortItem(
            case_id=str(n),
            image="i",
            mask="m",
            label=label,
            simulated=True,
            pair_id=pairs[n] if pairs else str(n),
            fold=folds[n] if folds else None,
        )
        for n, label in enumerate(labels)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_folds_partition_patients_and_keep_pairs(seed: int, folds: int) -> None:
    labels = [0, 1] * 15
    pairs = [str(n // 2) for n in range(30)]
    split = split_folds(_items(labels, pairs), folds, seed)
    held_out = [item["case_id"] for _, validation in split for item in validation]
    assert sorted(held_out, key=int) == [str(n) for n in range(30)]
    for training, validation in split:
        assert not {i["pair_id"] for i in training} & {i["pair_id"] for i in validation}
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


def test_the_tables_own_folds_are_read(tmp_path: Path) -> None:
    text = "case_id,image,mask,fracture,fold\na,a.nii,m.nii,1,3\nb,b.nii,m.nii,0,\n"
    assert [item["fold"] for item in read_cohort(_write(tmp_path, text))] == [3, None]
    for value in ("1.5", "-1", "one", "²"):
        text = f"case_id,image,mask,fracture,fold\na,a.nii,m.nii,1,{value}\n"
        with pytest.raises(CaseRefused, match=r"row 2, fold: .* must (be a|lie in)"):
            read_cohort(_write(tmp_path, text))


def test_the_tables_own_folds_are_kept_whatever_the_seed() -> None:
    items = _items([1, 0, 1, 0, 1, 0], folds=[2, 0, 1, 1, 0, 2])
    split = split_folds(items, 3, seed=5)
    assert [[i["case_id"] for i in held_out] for _, held_out in split] == [
        ["1", "4"],
        ["2", "3"],
        ["0", "5"],
    ]
    assert [i["case_id"] for i in split[0][0]] == ["0", "2", "3", "5"]
    assert split == split_folds(items, 3, seed=6)


@pytest.mark.parametrize(
    ("numbers", "pairs", "words"),
    [
        ([0, 1, 0, None], None, "1 of 4 rows have none"),
        ([0, 1, 0, 1], None, r"folds \(3\) does not match .* which holds 0, 1"),
        ([0, 1, 3, 2], None, "which holds 0, 1, 2, 3"),
        ([0, 1, 2, 2], ["p", "q", "p", "r"], "1 groups .* lie in several folds.* case p"),
    ],
)
def test_folds_that_cannot_be_kept_are_refused(
    numbers: list[int | None], pairs: list[str] | None, words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        split_folds(_items([1, 0, 1, 0], pairs, numbers), 3)
