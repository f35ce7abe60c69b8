"""The patient table: more than forty kinds of faults, each planted alone and then all at once."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_vfx.analysis.cohort.patients_csv import (
    find_faults,
    outcome_times,
    read_patients,
    write_patients,
)
from monai_vfx.analysis.cohort.variables import CLINICAL, COLUMNS, VARIABLES, label
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.schemas import schema, violations
from monai_vfx.core.tables import Fault

GOOD = {
    "case_id": "c{n}",
    "patient_id": "p{n}",
    "scan_date": "2012-03-0{n}",
    "scanner": "Brilliance 64",
    "contrast_phase": "portal_venous",
    "age": "6{n}.5",
    "sex": "F",
    "height_cm": "160",
    "weight_kg": "6{n}",
    "bmi": "",
    "smoker": "0",
    "glucocorticoids": "1",
    "frax_major": "8.5",
    "frax_hip": "2.5",
    "fracture": "0",
    "follow_up_years": "6.{n}",
    "death": "0",
    "traumatic_fracture": "0",
    "image": "i{n}.nii",
    "mask": "m{n}.nii",
    "fold": "{n}",
    "site_code": "00{n}",
}


def _rows(count: int = 3) -> list[dict[str, str]]:
    return [{k: v.format(n=n) for k, v in GOOD.items()} for n in range(1, count + 1)]


def _write(folder: Path, rows: list[dict[str, str]], columns: list[str] | None = None) -> Path:
    for row in rows:
        for name in ("image", "mask"):
            text = row.get(name, "").strip()
            if text and len(text) < 100 and "gone" not in text:
                (folder / text).touch()
    target = io.StringIO()
    writer = csv.DictWriter(target, columns or list(GOOD), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    table = folder / "table.csv"
    table.write_text(target.getvalue(), encoding="utf-8")
    return table


NEED = ("image", "mask")

ONE_CELL = [
    ("height_cm", "1.6", "metres? cm are needed"),
    ("height_cm", "5.3", "feet?"),
    ("height_cm", "63", "inches, or swapped with the weight?"),
    ("height_cm", "1600", "mm?"),
    ("height_cm", "99.9", "must lie in 100 to 220 cm"),
    ("weight_kg", "300", "pounds?"),
    ("weight_kg", "62000", "grams?"),
    ("age", "780", "months?"),
    ("age", "1948", "a year of birth?"),
    ("age", "17", "must lie in 18 to 110 years"),
    ("age", "-65", "it is negative"),
    ("age", "999", "a code for 'not known'?"),
    ("follow_up_years", "72", "months?"),
    ("follow_up_years", "1826", "days?"),
    ("follow_up_years", "-1", "a code for 'not known'?"),
    ("frax_major", "101", "must lie in 0 to 100 %"),
    ("bmi", "inf", "it must be finite"),
    ("weight_kg", "63,5", "a decimal comma?"),
    ("weight_kg", "62.000,5", "a decimal comma?"),
    ("weight_kg", "63 kg", "without its unit"),
    ("frax_major", "12%", "without its unit"),
    ("frax_major", "<1", "a bound is no value"),
    ("age", "60-65", "a range is no value"),
    ("age", "2012-03-04", "looks like a date"),
    ("age", "sixty", "must be a number"),
    ("age", "６５", "write plain digits"),  # full-width digits, which float() would take
    ("age", "6_5", "must be a number"),  # so would it these
    ("age", "'65", "remove the apostrophe"),
    ("age", "=B2+1", "spreadsheet's formula"),
    ("age", "#N/A", "leave the cell empty"),
    ("age", "NA", "leave the cell empty"),
    ("age", "nan", "leave the cell empty"),
    ("age", "-", "leave the cell empty"),
    ("age", "unknown", "leave the cell empty"),
    ("scanner", "unknown", "leave the cell empty"),
    ("age", " 65", "blanks around it"),
    ("scanner", "   ", "only blanks"),
    ("age", "65\u00a0", "cannot be printed"),
    ("scanner", "Brilliance\t64", "cannot be printed"),
    ("scanner", "two\nlines", "cannot be printed"),
    ("smoker", "yes", "write 1"),
    ("smoker", "No", "write 0"),
    ("smoker", "TRUE", "write 1"),
    ("smoker", "2", "coded as 1 and 2?"),
    ("smoker", "9", "a code for 'not known'?"),
    ("smoker", "0.5", "must be 0 or 1"),
    ("fracture", "", "must not be empty"),
    ("fracture", "maybe", "must be 0 or 1"),
    ("sex", "f", "write F"),
    ("sex", "Male", "write M"),
    ("sex", "1", "a number does not say which"),
    ("sex", "X", "must be one of F, M"),
    ("contrast_phase", "portal venous", "write portal_venous"),
    ("contrast_phase", "early", "must be one of none, arterial, portal_venous, delayed"),
    ("scan_date", "04.03.2012", "YYYY-MM-DD"),
    ("scan_date", "03/04/12", "YYYY-MM-DD"),
    ("scan_date", "20120304", "as in DICOM?"),
    ("scan_date", "41000", "a spreadsheet's day number?"),
    ("scan_date", "2012-03-04 10:15", "leave out the time of day"),
    ("scan_date", "2012-02-30", "no day of the calendar"),
    ("scan_date", "2999-01-01", "in the future"),
    ("scan_date", "1912-03-04", "must not be before 1975-01-01"),
    ("case_id", "", "must not be empty"),
    ("case_id", "a/b", "can serve as a folder's"),
    ("case_id", "1.23E+10", "a spreadsheet shortened this number"),
    ("case_id", "c2", "also in row 3, must be unique"),
    ("case_id", "C2", "differs from row 3 only in capital letters"),
    ("fold", "1.5", "whole number"),
    ("fold", "-1", "must lie in 0"),
    ("image", "gone.nii", "must be a path that exists"),
    ("image", "", "must not be empty"),
    ("image", "a" * 5000, "must be a path that exists"),
    ("mask", "gone\\m1.nii", "write / between folders"),
    ("mask", "i4.nii", "is the same file as the image"),
    ("image", "i2.nii", "also in row 3"),
    ("bmi", "31", "contradicts weight_kg 64 and height_cm 160, which give 25.0"),
    ("weight_kg", "200", "gives a BMI outside 10 to 70"),
    ("frax_hip", "9", "contradicts frax_major"),
    ("follow_up_years", "30", "would end in the future"),
]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    ONE_CELL,
    ids=[f"{name}:{value[:20]}" for name, value, _ in ONE_CELL],
)
def test_a_bad_cell_is_named(tmp_path: Path, column: str, value: str, words: str) -> None:
    rows = _rows(4)
    rows[3][column] = value
    found = find_faults(_write(tmp_path, rows), NEED)
    assert [(f.row, f.column) for f in found] == [(5, column)], found
    assert words in found[0].rule
    assert found[0].value == value


ROWS = [
    ({"fracture": "1"}, "follow_up_years", "a fracture counts within 5 years"),
    ({"fracture": "1", "follow_up_years": "2", "death": "1"}, "death", "contradicts fracture 1"),
    (
        {"fracture": "1", "follow_up_years": "2", "traumatic_fracture": "1"},
        "traumatic_fracture",
        "a fracture by trauma is no event",
    ),
    ({"patient_id": "p1", "sex": "M", "age": "61.5"}, "sex", "one patient, two sexes"),
    (
        {"patient_id": "p1", "age": "61.5", "height_cm": "180"},
        "height_cm",
        "one patient, two heights",
    ),
    ({"patient_id": "p1", "age": "70"}, "age", "years of birth differ by more than 1"),
]


@pytest.mark.parametrize(("change", "column", "words"), ROWS)
def test_a_contradiction_is_named(
    tmp_path: Path, change: dict[str, str], column: str, words: str
) -> None:
    rows = _rows(4)
    rows[3] |= change
    found = find_faults(_write(tmp_path, rows), NEED)
    assert [(f.row, f.column) for f in found] == [(5, column)], found
    assert words in found[0].rule


def test_ages_of_one_patient_may_differ_as_time_passes(tmp_path: Path) -> None:
    rows = _rows(2)
    rows[0] |= {"patient_id": "p", "scan_date": "2011-12-30", "age": "61"}
    rows[1] |= {"patient_id": "p", "scan_date": "2015-01-02", "age": "65"}
    assert find_faults(_write(tmp_path, rows), NEED) == []


def test_a_repeated_row_is_named(tmp_path: Path) -> None:
    rows = _rows(2)
    rows.append({**rows[0], "case_id": "c9", "fold": "3"})
    text = [str(fault) for fault in find_faults(_write(tmp_path, rows))]
    assert "row 4: the same as row 2 in all but the case's name" in text


def test_a_row_with_several_faults_gets_all(tmp_path: Path) -> None:
    rows = _rows(1)
    rows[0] |= {"height_cm": "1.6 ", "sex": "male", "smoker": "ja", "age": "NA", "fracture": ""}
    found = find_faults(_write(tmp_path, rows), NEED)
    assert [f.column for f in found] == [
        "age",
        "sex",
        "height_cm",
        "height_cm",
        "smoker",
        "fracture",
    ]


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    rows = _rows(1) * (len(ONE_CELL) + 1)
    rows = [{**row, "case_id": f"k{n}", "patient_id": f"q{n}"} for n, row in enumerate(rows)]
    for n, row in enumerate(rows):
        row |= {"image": f"x{n}.nii", "mask": f"y{n}.nii", "weight_kg": f"{50 + n / 10:.1f}"}
    wanted = set()
    for n, (column, value, _) in enumerate(ONE_CELL):
        if value not in ("c2", "C2", "i2.nii", "i4.nii", "31"):
            rows[n][column] = value
            wanted.add((n + 2, column))
    found = {(f.row, f.column) for f in find_faults(_write(tmp_path, rows), NEED)}
    assert found == wanted


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Case,fracture", "the column is missing: is it 'Case'?"),
        ("case_id,fractur", "the column is missing: is it 'fractur'?"),
        ("case_id,age", "row 1, fracture: the column is missing"),
        ("case_id,fracture,height", "is height_cm meant? rename it"),
        ("case_id,fracture,wieght_kg", "is weight_kg meant? rename it"),
        ("case_id,fracture,Follow-up years", "is follow_up_years meant? rename it"),
        ("case_id,fracture,age,age", "columns occur twice: age"),
        ("case_id,fracture,", "column 3 has no name"),
        (
            "case_id,fracture,age\u200b",
            "the column's name holds a character that cannot be printed",
        ),
    ],
)
def test_a_bad_header_is_named(tmp_path: Path, header: str, words: str) -> None:
    table = tmp_path / "t.csv"
    cells = ["a", "0", "", ""][: header.count(",") + 1]
    table.write_text(f"{header}\n{','.join(cells)}\n", encoding="utf-8")
    found = [str(f) for f in find_faults(table)]
    assert any(words in fault for fault in found), found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the table is empty"),
        (b"case_id,fracture\n", "the table has no rows"),
        (b"case_id,fracture\n,\n", "the table has no rows"),
        (b"case_id;fracture\na;0\n", "separated by ';', not by commas"),
        (b"case_id\tfracture\na\t0\n", "separated by tabs"),
        (b"case_id,fracture\n\xe9,0\n", "row 2: the table is not in UTF-8"),
        ("case_id,fracture\na,0\n".encode("utf-16"), "not in UTF-8"),
        (b"case_id,fracture\na,0,1\n", "row 2: 3 cells, the header has 2"),
        (b"case_id,fracture,age\na,0\n", "row 2: 2 cells, the header has 3"),
        (
            b'case_id,fracture\n"a,0\nb,1\n',
            "row 2: the table is not a CSV (unexpected",
        ),  # quote left open
        (b"case_id,fracture\n" + b"a" * 200_000 + b",0\n", "the table is not a CSV"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    found = [str(f) for f in find_faults(table)]
    assert any(words in fault for fault in found), found
    with pytest.raises(CaseRefused) as refused:
        read_patients(table)
    assert refused.value.code == "cohort_invalid"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot be read" in find_faults(tmp_path / "none.csv")[0].rule


def test_bad_cells_are_named_beside_a_wrong_delimiter_and_encoding(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes("case_id;fracture;sex;scanner\na;2;male;Gerät\n".encode("latin-1"))
    found = find_faults(table)
    assert [f.column for f in found] == ["", "", "fracture", "sex", "scanner"]


def test_a_whole_column_of_fractions_is_named(tmp_path: Path) -> None:
    text = "".join(f"c{n},0,0.{n + 10}\n" for n in range(25))
    table = tmp_path / "t.csv"
    table.write_text("case_id,fracture,frax_major\n" + text)
    assert "fractions? percent is needed" in str(find_faults(table)[0])


def test_needed_columns_and_paths(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("case_id,fracture,image\na,0,gone.nii\n")
    assert find_faults(table) == []
    assert find_faults(table, ("age", "image")) == [
        Fault(1, "age", "", "the column is missing"),
        Fault(2, "image", "gone.nii", "must be a path that exists"),
    ]
    assert [f.column for f in find_faults(table, check_paths=True)] == ["image"]
    table.write_text("case_id,fracture,image\na,0,\n")  # an image that is not named is no fault
    assert find_faults(table, check_paths=True) == []


def test_a_patients_name_is_never_shown(tmp_path: Path) -> None:
    rows = _rows(1)
    rows[0]["patient_id"] = " Doe^Jane"
    found = find_faults(_write(tmp_path, rows))
    assert [str(f) for f in found] == [
        "row 2, patient_id: (not shown), has blanks around it: remove them"
    ]


def test_the_message_names_the_first_faults_and_counts_the_rest(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("case_id,fracture\n" + "".join(f"c{n},x\n" for n in range(70)))
    with pytest.raises(CaseRefused, match=r"row 51, fracture: 'x'.* and 20 more"):
        read_patients(table)


def test_a_good_table_becomes_typed_columns(tmp_path: Path) -> None:
    rows = _rows(3)
    rows[1] |= {"patient_id": "", "age": "", "smoker": "", "scan_date": "", "sex": "", "image": ""}
    rows[2] |= {"smoker": "1.0", "contrast_phase": "none"}
    frame = read_patients(_write(tmp_path, rows))
    assert list(frame.columns) == list(GOOD)
    assert list(frame["patient_id"]) == ["p1", "c2", "p3"]
    np.testing.assert_array_equal(frame["age"], [61.5, np.nan, 63.5])
    np.testing.assert_array_equal(frame["smoker"], [0.0, np.nan, 1.0])
    assert frame["fracture"].dtype == np.int64
    assert frame["scan_date"].dtype.kind == "M"
    assert frame["scan_date"].isna().tolist() == [False, True, False]
    assert frame["image"][0] == str(tmp_path / "i1.nii")
    assert pd.isna(frame["image"][1])
    assert pd.isna(frame["sex"][1])
    assert frame["contrast_phase"][2] == "none"
    assert list(frame["site_code"]) == ["001", "002", "003"]  # unknown columns stay text


def test_patients_default_to_cases(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("case_id,fracture\na,0\nb,1\n")
    frame = read_patients(table)
    assert list(frame["patient_id"]) == ["a", "b"]


def test_a_written_table_reads_back_and_repeats_its_bytes(tmp_path: Path) -> None:
    rows = _rows(3)
    rows[1] |= {"smoker": "", "scan_date": "", "fold": ""}
    frame = read_patients(_write(tmp_path, rows))
    write_patients(frame, tmp_path / "a" / "one.csv")
    again = read_patients(tmp_path / "a" / "one.csv", NEED)
    pd.testing.assert_frame_equal(again, frame)
    write_patients(again, tmp_path / "a" / "two.csv")
    assert (tmp_path / "a" / "one.csv").read_bytes() == (tmp_path / "a" / "two.csv").read_bytes()
    assert "0,1,8.5,2.5,0,6.1,0,0," in (tmp_path / "a" / "one.csv").read_text()  # no 0.0, no 1.0


def test_times_and_events() -> None:
    frame = pd.DataFrame(
        {
            "fracture": [1, 0, 0, 0],
            "death": [0.0, 1.0, np.nan, 0.0],
            "follow_up_years": [1.5, 2.5, 3.5, np.nan],
        }
    )
    time, event = outcome_times(frame)
    np.testing.assert_array_equal(time, [1.5, 2.5, 3.5, np.nan])
    assert event.tolist() == [1, 2, 0, 0]
    assert outcome_times(frame.drop(columns="death"))[1].tolist() == [1, 0, 0, 0]
    with pytest.raises(SettingError, match="follow_up_years"):
        outcome_times(frame[["fracture"]])


def test_the_schema_and_the_table_agree_on_each_bound(tmp_path: Path) -> None:
    for name, column in COLUMNS.items():
        if column.low is None or column.high is None:
            continue
        for value, good in (
            (column.low, True),
            (column.high, True),
            (column.low - 0.5, False),
            (column.high + 0.5, False),
        ):
            table = tmp_path / "t.csv"
            table.write_text(f"case_id,fracture,{name}\na,0,{value:g}\n")
            row = {"case_id": "a", "fracture": 0, name: value}
            assert (violations(row, "cohort") == []) is good, (name, value)
            assert (find_faults(table) == []) is good, (name, value)


def test_every_category_of_the_schema_is_accepted(tmp_path: Path) -> None:
    for name, rule in schema("cohort")["properties"].items():
        for value in rule.get("enum", ()):
            table = tmp_path / "t.csv"
            other = "" if name == "fracture" else "fracture"
            cells = {"case_id": "a", other: "0", name: "" if value is None else str(value)}
            cells.pop("", None)
            table.write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n")
            assert find_faults(table) == [], (name, value)


def test_labels_and_kinds() -> None:
    assert label("height_cm") == "Height, cm"
    assert label("smoker") == "Current smoker"
    assert [VARIABLES[name].kind for name in CLINICAL] == [
        *("continuous", "category", *["continuous"] * 3),
        *["binary"] * 8,
    ]
    assert VARIABLES["sex"].categories == ("F", "M")
    assert "case_id" not in VARIABLES
    assert (VARIABLES["age"].low, VARIABLES["age"].high) == (18, 110)


CELLS = st.sampled_from(["", "0", "1", "F", "65", "170", "2012-01-01", "2.5", "none", "p"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_table_it_is_read_or_its_faults_are_named(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = tmp_path_factory.getbasetemp() / "any.csv"
    names = data.draw(st.lists(st.sampled_from([*COLUMNS, "other"]), unique=True, max_size=8))
    columns = ["case_id", "fracture", *(n for n in names if n not in ("case_id", "fracture"))]
    cells = st.one_of(CELLS, CELLS, CELLS, st.text(st.characters(codec="utf-8"), max_size=6))
    rows = data.draw(st.lists(st.tuples(*[cells] * len(columns)), max_size=4))
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    found = find_faults(table)
    if found:
        with pytest.raises(CaseRefused):
            read_patients(table)
    else:
        frame = read_patients(table)
        assert len(frame) == sum(any(cell.strip() for cell in row) for row in rows)
        for row in frame.to_dict("records"):
            cells_of = {k: None if pd.isna(v) else v for k, v in row.items() if k in COLUMNS}
            if cells_of.get("scan_date") is not None:
                cells_of["scan_date"] = f"{cells_of['scan_date']:%Y-%m-%d}"
            assert violations(cells_of, "cohort") == []
