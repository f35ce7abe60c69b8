"""Each code, provoked by one change to a good case; ``vfx check`` then names exactly that code.

Codes that ``vfx check`` cannot meet (weights, tables, the segmentation's opinion, what shows at
prediction only) stand in :data:`ELSEWHERE` with the test that provokes them. A code in neither
table fails :func:`test_each_code_is_provoked`.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from one_change import CHANGES, Good

from monai_vfx.case.case import check_report
from monai_vfx.cli import main
from monai_vfx.core.codes import CODES, REFUSALS, WARNINGS, Code
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.schemas import violations
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.workflows.codes_page import rule_of, with_table
from phantoms import SIDECAR, Phantom, grid, make_phantom

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made() -> Phantom:
    return make_phantom(*grid((1.5, 1.4, 5.0), (165.0, 154.0, 240.0)))


@pytest.fixture(scope="module")
def original(made: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    made.save(folder)
    facts = SeriesFacts("codes", patient_name="Doe^Jane", patient_id="SECRET7", age_years=63)
    write_ct_series(folder / "ct", made.hu.astype(np.int16), made.affine, facts)
    return folder


@pytest.fixture
def good(original: Path, tmp_path: Path) -> Good:
    folder = Path(shutil.copytree(original, tmp_path / "good"))
    return Good(folder, folder / "ct", folder / "mask.nii.gz")


ELSEWHERE: dict[str, tuple[str, str]] = {
    # Python only: the command line makes a mask where none is given
    "mask_required": ("test_auto_mask", "test_a_row_without_mask_is_refused_where_none_is_made"),
    # vfx check --mask MASK or auto: the segmentation has to see, or not to see, a whole trunk
    "mask_disagrees": (
        "test_auto_mask",
        "test_a_mask_moved_by_one_level_is_an_error_to_be_looked_at",
    ),
    "mask_not_compared": (
        "test_auto_mask",
        "test_a_comparison_that_finds_too_few_bodies_is_a_warning",
    ),
    "spine_not_found": ("test_auto_mask", "test_nothing_like_a_spine_is_refused_in_the_report"),
    "level_uncertain": (
        "test_segmentation_locate",
        "test_an_unusual_count_is_refused_with_the_count",
    ),
    "segmentation_not_written": ("test_auto_mask", "test_dicom_seg_of_a_deidentified_series"),
    # vfx check --mask totalsegmentator
    "mask_not_made": ("test_auto_mask", "test_a_failing_totalsegmentator_is_a_refusal"),
    # vfx check: archives, DICOMDIR and folders of several patients
    "archive_too_large": ("test_finding", "test_an_archive_made_to_fill_the_disk_is_refused"),
    "files_missing": ("test_finding", "test_files_that_the_dicomdir_names_must_be_there"),
    "several_patients": ("test_finding", "test_several_patients_are_said"),
    # vfx check --mask with a DICOM SEG or RTSTRUCT, or with a mask that cannot be right
    "several_masks": ("test_dicom_masks", "test_only_object_in_a_folder_or_archive"),
    "mask_overlaps": ("test_dicom_masks", "test_overlaps"),
    "contours_missing": ("test_dicom_masks", "test_a_slice_without_contours_is_refused"),
    "mask_shifted": ("test_mask_checks", "test_a_shift_of_10_to_15_mm_is_refused"),
    "body_impossible": ("test_mask_checks", "test_a_wrong_voxel_size_is_impossible"),
    "body_unusual": ("test_mask_checks", "test_an_unusual_size_is_a_warning"),
    "lumbar_count": ("test_mask_checks", "test_four_lumbar_vertebrae_above_the_sacrum"),
    # vfx check: more than one thing changes in the header, or the whole stack
    "position_conflict": (
        "test_series_checks",
        "test_rows_that_run_front_to_back_fit_a_patient_on_the_side",
    ),
    "lossy_compression": (
        "test_transfer_syntaxes",
        "test_a_loss_of_the_past_is_warned_of_with_its_ratio",
    ),
    "contrast_contradictory": (
        "test_facts",
        "test_an_aorta_that_contradicts_the_header_is_warned_of",
    ),
    # vfx check of many studies, and the commands that take its table
    "header_conflict": ("test_check_many", "test_a_clinical_row_of_another_patient_is_refused"),
    "gate_stale": ("test_check_many", "test_a_gate_of_other_images_is_an_error"),
    "gate_excluded": (
        "test_check_many",
        "test_the_gate_leaves_out_who_was_refused_or_warned_of",
    ),
    "fracture_unclear": ("test_codes", "test_check_names_exactly_this_code"),
    "metal_or_cement": ("test_facts", "test_exclusions_are_warned_of_at_prediction"),
    # vfx predict dicomweb://..., --store
    "pacs_unreachable": ("test_pacs", "test_nobody_answers"),
    "pacs_denied": ("test_pacs", "test_the_command_says_why_and_ends_with_3"),
    "not_in_pacs": ("test_pacs", "test_a_study_without_ct_and_one_that_is_not_there"),
    "retrieval_incomplete": ("test_pacs", "test_what_breaks_off_is_incomplete"),
    "pacs_error": ("test_pacs", "test_an_answer_that_is_not_dicomweb"),
    "store_failed": ("test_pacs", "test_a_store_is_checked_object_by_object"),
    # vfx morphometry
    "heights_too_coarse": ("test_codes", "test_codes_of_other_commands"),
    "heights_coarse": (
        "test_morphometry_job",
        "test_thick_slices_are_refused_unless_told_otherwise",
    ),
    "normal_values_crude": ("test_morphometry_job", "test_the_paper_preset_is_warned_of"),
    # vfx predict
    "weights_unreadable": ("test_codes", "test_codes_of_other_commands"),
    "weights_mismatch": ("test_codes", "test_codes_of_other_commands"),
    "clinical_invalid": (
        "test_workflow",
        "test_the_command_takes_an_ensemble_a_row_and_a_calibration",
    ),
    "slices_repeated": (
        "test_bundle_parts",
        "test_a_prediction_warns_of_repeats_and_of_simulated_weights",
    ),
    "crop_padded": ("test_transforms", "test_crop_beyond_the_field_of_view_is_padded"),
    "simulated_weights": ("test_workflow", "test_a_case_leaves_its_files_in_the_folder"),
    "clinical_missing": ("test_workflow", "test_a_calibration_s_variables_come_from_the_row"),
    "out_of_distribution": ("test_workflow", "test_most_members_must_find_a_case_strange"),
    "fracture_suspected": ("test_facts", "test_exclusions_are_warned_of_at_prediction"),
    "export_not_written": ("test_outputs", "test_headers_that_do_not_allow_it_are_a_warning"),
    # vfx cohort and all commands that take a table
    "cohort_invalid": ("test_codes", "test_codes_of_other_commands"),
    # vfx train: a failure that no rule foresees
    "internal": (
        "test_bundle_parts",
        "test_a_refused_case_comes_as_a_refusal_and_a_defect_as_internal",
    ),
}
"""Code → module and name of the test that provokes it."""


FOLLOWS = {"slice_thickness": ["fracture_unclear"], "mask_resampled": ["fracture_unclear"]}
"""Warning → what is then true by its own rule as well."""


def _parse(result: Any) -> dict[str, Any]:
    line = result.stdout.strip().splitlines()[-1]
    document: dict[str, Any] = json.loads(line)
    return document


def _assert_code(code: str, status: int, report: dict[str, Any]) -> None:
    """One code and no other, with its exit status."""
    assert violations(report, "check") == []
    if code in REFUSALS:
        assert (report["refusal"] or {}).get("code") == code, report
        assert (status, report["status"]) == (3, "refused")
    else:
        told = [warning["code"] for warning in report["warnings"]]
        assert told == [code, *FOLLOWS.get(code, [])], report
        assert (status, report["status"]) == (0, "accepted")


def test_the_good_case_is_accepted_without_a_warning(good: Good) -> None:
    for image in (good.image, good.folder / "ct.nii.gz"):
        result = CliRunner().invoke(main, replace(good, image=image).words())
        assert result.exit_code == 0, result.output
        assert _parse(result)["warnings"] == []


@pytest.mark.parametrize("code", CHANGES)
def test_check_names_exactly_this_code(code: str, good: Good) -> None:
    CHANGES[code](good)
    result = CliRunner().invoke(main, good.words())
    _assert_code(code, result.exit_code, _parse(result))
    told = result.output.lower()
    assert not any(secret in told for secret in ("jane", "secret7", str(good.folder).lower()))


@pytest.mark.parametrize("code", ["slices_missing", "level_missing", "position_unusual"])
def test_the_installed_program_says_the_same(code: str, good: Good) -> None:
    CHANGES[code](good)
    program = Path(sys.executable).with_name("vfx")
    done = subprocess.run([program, *good.words()], capture_output=True, text=True, check=False)
    _assert_code(code, done.returncode, _parse(done))
    assert f"{'refused' if code in REFUSALS else 'warning'} {code}: " in done.stderr
    assert "Traceback" not in done.stderr


def _weights(good: Good, sha256: str | None) -> list[str]:
    """``vfx predict`` with a checkpoint whose sidecar names another one, or that has none."""
    path = good.folder / "w.pt"
    path.write_bytes(b"weights")
    if sha256 is not None:
        sidecar = {**SIDECAR, "weights_sha256": sha256}
        path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    words = ["predict", str(good.image), "--mask", str(good.mask), "--weights", str(path)]
    return [*words, "--out", str(good.folder / "out")]


def _cohort(good: Good) -> list[str]:
    table = good.folder / "table.csv"
    table.write_text("case_id,image,fracture\na,ct.nii.gz,2\n", encoding="utf-8")
    return ["cohort", str(table), "--out", str(good.folder / "out")]


OTHER_COMMANDS: dict[str, Callable[[Good], list[str]]] = {
    "heights_too_coarse": lambda good: [
        *("morphometry", str(good.image), "--mask", str(good.mask)),
        *("--out", str(good.folder / "out")),
    ],
    "weights_unreadable": lambda good: _weights(good, None),
    "weights_mismatch": lambda good: _weights(good, "0" * 64),
    "cohort_invalid": _cohort,
}


@pytest.mark.parametrize("code", OTHER_COMMANDS)
def test_codes_of_other_commands(code: str, good: Good) -> None:
    result = CliRunner().invoke(main, OTHER_COMMANDS[code](good))
    assert result.exit_code == 3, result.output
    assert _parse(result)["refusal"]["code"] == code
    assert f"refused {code}: " in result.stderr


def _defined(module: str) -> dict[str, str]:
    """Return the tests of a module and its whole text, where tables of codes stand."""
    text = next(Path(__file__).parents[1].rglob(f"{module}.py")).read_text(encoding="utf-8")
    return {node.name: text for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def test_each_code_is_provoked() -> None:
    assert not set(CHANGES) & set(ELSEWHERE)
    assert set(CHANGES) | set(ELSEWHERE) == set(CODES)
    for code, (module, test) in ELSEWHERE.items():
        tests = _defined(module)
        assert test in tests, (code, module, test)
        assert f'"{code}"' in tests[test], (code, module)
        if module == "test_codes":
            assert code in OTHER_COMMANDS or [code] in FOLLOWS.values()


# -- the table -------------------------------------------------------------------------------


def test_the_table_of_codes_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    assert page == with_table(page), "run `make docs`"
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", page, flags=re.MULTILINE))
    assert listed == {code: row.remedy for code, row in CODES.items()}


@pytest.mark.parametrize("code", CODES)
def test_each_code_has_a_rule_and_a_remedy_that_fit_the_page(code: str) -> None:
    row = CODES[code]
    assert row.kind in ("refusal", "warning")
    assert not set("|{}\n") & set(f"{rule_of(code)}{row.remedy}")
    assert row.rule.endswith(".")
    assert row.remedy


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("at most {io.dicom.stack.TILT_TOLERANCE_DEG} degrees", "at most 0.5 degrees"),
        ("{io.dicom.stack.SPACING_TOLERANCE:.0%}", "3%"),
        ("{case.mask.schemes.STEP_MM} mm", "4 to 80 mm"),
        ("{case.mask.schemes.STEP_MM[1]} mm", "80 mm"),
        ("{core.anatomy.LEVELS}", "T12, L1, L2, L3, L4"),
    ],
)
def test_constants_of_a_rule_are_looked_up(
    monkeypatch: pytest.MonkeyPatch, rule: str, text: str
) -> None:
    monkeypatch.setitem(CODES, "gantry_tilt", Code("refusal", rule, ""))
    assert rule_of("gantry_tilt") == text


@pytest.mark.parametrize("name", ["io.volume.NO_SUCH_CONSTANT", "no_such_module.SIZE", "SIZE"])
def test_a_rule_with_an_unknown_constant_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(CODES, "gantry_tilt", Code("refusal", f"at most {{{name}}}", ""))
    with pytest.raises((AttributeError, ImportError)):
        rule_of("gantry_tilt")


def test_the_numbers_of_all_rules_come_without_torch() -> None:
    words = (
        "import sys; from monai_vfx.workflows.codes_page import table; "
        "table(); print('torch' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "False"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _nodes() -> list[ast.AST]:
    texts = (file.read_text(encoding="utf-8") for file in (ROOT / "monai_vfx").rglob("*.py"))
    return [node for text in texts for node in ast.walk(ast.parse(text))]


RAISING = {
    "CaseRefused": REFUSALS,
    "refusing": REFUSALS,
    "access_refused": REFUSALS,
    "CaseWarning": WARNINGS,
}
"""What takes a code as its first argument → the codes it may take."""


def test_codes_in_the_source_are_those_of_the_table() -> None:
    nodes = _nodes()
    for call in nodes:
        if isinstance(call, ast.Call) and call.args and _name(call.func) in RAISING:
            code = call.args[0]
            for part in (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,):
                if isinstance(part, ast.Constant):
                    assert part.value in RAISING[_name(call.func)], ast.unparse(call)
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert set(CODES) <= texts, "a code is used nowhere"


@pytest.mark.parametrize("code", ["no_such_code", "level_cut"])
def test_an_unknown_code_cannot_be_raised(code: str) -> None:
    with pytest.raises(KeyError, match=code):
        CaseRefused(code, "found", "do")


def test_an_unknown_warning_cannot_be_given() -> None:
    with pytest.raises(KeyError, match="level_missing"):
        CaseWarning("level_missing", "found")


# -- real CT ---------------------------------------------------------------------------------

REAL: dict[str, tuple[str, str, list[str]]] = {
    "annotated": ("series", "tcga_ov_abdomen/vertebral_bodies.nii.gz", ["contrast_contradictory"]),
    "v1": (
        "totalseg_example/ct.nii.gz",
        "totalseg_example/v1_masks",
        ["resolution_coarse", "level_cut", "body_derived"],
    ),
    "v2": (
        "totalseg_example/ct.nii.gz",
        "totalseg_example/seg_v2_117class_fast.nii.gz",
        ["resolution_coarse", "level_cut", "body_derived"],
    ),
    "v2 vertebrae": (
        "totalseg_example/ct.nii.gz",
        "totalseg_example/seg_v2_vertebrae.nii.gz",
        ["resolution_coarse", "level_cut", "body_derived"],
    ),
}
"""Form → image, mask, and the warnings that are true of it."""


@pytest.mark.parametrize("form", REAL)
def test_good_real_ct_is_accepted_with_its_true_warnings(
    form: str, real_data: Path, tcga_series: Path
) -> None:
    image, mask, expected = REAL[form]
    path = tcga_series if image == "series" else real_data / image
    report, refusal = check_report(path, real_data / mask, case_id="a")
    assert refusal is None
    assert sorted(warning["code"] for warning in report["warnings"]) == sorted(expected)
