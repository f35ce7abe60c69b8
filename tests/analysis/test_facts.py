"""Facts of a case: what headers, masks and voxels say, and that an absence stays one."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from monai_vfx.analysis.measures.aorta import aorta_hu, phase_of_aorta
from monai_vfx.analysis.measures.implants import find_implants
from monai_vfx.analysis.measures.measured import measured_facts, noise_sd, study_exclusions
from monai_vfx.analysis.measures.suspicion import ratio_sd, suspect_fracture
from monai_vfx.case.case import header_facts, load_case
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.schemas import schema, violations
from monai_vfx.io.dicom.archives import Source
from monai_vfx.io.dicom.candidates import describe
from monai_vfx.io.dicom.contrast import read_contrast, words_of
from monai_vfx.io.dicom.facts import Expected, check_expected
from monai_vfx.io.volume import open_volume
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from monai_vfx.workflows.check.case import check_one
from monai_vfx.workflows.manifest import CaseInput
from phantoms import LEVELS, Phantom, grid, make_phantom, nifti

STATED = SeriesFacts(
    "facts",
    patient_id="ID-4711",
    patient_name="Doe^Jane",
    sex="F",
    age_years=63,
    height_cm=165.0,
    weight_kg=70.5,
    date="20190405",
    series_description="DOE JANE ABD",
    study_description="",
    contrast_agent="",
    kernel="B30f",
    manufacturer="SIEMENS",
)


def _series(folder: Path, phantom: Phantom, **edits: Any) -> Path:
    """Write the phantom as a series; edits set tags of every slice, None deletes one."""
    files = write_ct_series(folder, phantom.hu.astype(np.int16), phantom.affine, STATED)
    for file in files if edits else ():
        dataset = pydicom.dcmread(file)
        for name, value in edits.items():
            if value is not None:
                setattr(dataset, name, value)
            elif name in dataset:
                delattr(dataset, name)
        dataset.save_as(file)
    return folder


@pytest.fixture(scope="module")
def small() -> Phantom:
    """A coarse phantom: headers are read in no time."""
    return make_phantom(*grid((3.0, 3.5, 5.0), (190.0, 170.0, 236.0)))


@pytest.fixture(scope="module")
def fine() -> Phantom:
    """One with slices thin enough for heights."""
    return make_phantom(*grid((1.4, 1.2, 1.0), (150.0, 150.0, 236.0)))


def test_the_header_is_read_as_it_stands(small: Phantom, tmp_path: Path) -> None:
    facts = header_facts(open_volume(_series(tmp_path, small, Exposure=210, KVP=100)))
    assert facts["age_years"] == 63
    assert facts["age_source"] == "PatientAge"
    assert (facts["sex"], facts["height_cm"], facts["weight_kg"]) == ("F", 165.0, 70.5)
    assert (facts["kernel"], facts["kernel_class"]) == ("B30f", "soft")
    assert (facts["kvp"], facts["exposure_mas"], facts["scan_year"]) == (100.0, 210.0, 2019)
    assert (facts["thickness_mm"], facts["slice_distance_mm"]) == (5.0, 5.0)
    assert facts["pixel_mm"] == 3.5
    assert facts["manufacturer"] == "SIEMENS"
    assert facts["lossy"] is None


def test_an_absence_stays_one(small: Phantom, tmp_path: Path) -> None:
    gone = (
        *("PatientAge", "PatientSex", "PatientSize", "PatientWeight", "KVP", "ConvolutionKernel"),
        *("Manufacturer", "ManufacturerModelName", "StudyDate", "SeriesDate", "AcquisitionDate"),
        *("PatientPosition", "SliceThickness", "ContrastBolusAgent", "SeriesDescription"),
    )
    facts = header_facts(open_volume(_series(tmp_path, small, **dict.fromkeys(gone))))
    known = {name for name, value in facts.items() if value not in (None, [], False)}
    assert known == {"series_uid", "slice_distance_mm", "pixel_mm"}


def test_a_nifti_has_no_facts_but_its_grid(small: Phantom, tmp_path: Path) -> None:
    facts = header_facts(open_volume(small.save(tmp_path)[0]))
    known = {name for name, value in facts.items() if value not in (None, [], False)}
    assert known == {"slice_distance_mm", "pixel_mm"}


def test_age_from_the_birth_date_says_so(small: Phantom, tmp_path: Path) -> None:
    folder = _series(tmp_path, small, PatientAge=None, PatientBirthDate="19500706")
    facts = header_facts(open_volume(folder))
    assert (facts["age_years"], facts["age_source"]) == (68.7, "birth_date")


@pytest.mark.parametrize(
    ("edits", "phase", "source", "given", "contradictory"),
    [
        ({}, None, None, None, False),
        ({"ContrastBolusAgent": "Ultravist"}, None, None, True, False),
        ({"ContrastBolusAgent": "NONE"}, "none", "tag", False, False),
        (
            {"ContrastBolusAgent": "Telebrix", "ContrastBolusRoute": "ORAL"},
            *(None, None, None, False),
        ),
        ({"SeriesDescription": "Abd portalvenoes 5mm"}, "portal_venous", "text", True, False),
        ({"StudyDescription": "CT w/o contrast"}, "none", "text", False, False),
        ({"ProtocolName": "arterial and venous"}, None, None, True, False),
        (
            {"ContrastBolusStartTime": "115850", "SeriesDescription": "venous"},
            *("portal_venous", "timing", True, False),
        ),
        (
            {"ContrastBolusStartTime": "115930", "SeriesDescription": "venous"},
            *(None, None, True, True),
        ),
        (
            {"ContrastBolusAgent": "Ultravist", "StudyDescription": "unenhanced"},
            *(None, None, None, True),
        ),
    ],
)
def test_contrast_phase(
    small: Phantom,
    tmp_path: Path,
    edits: dict[str, str],
    phase: str | None,
    source: str | None,
    given: bool | None,
    contradictory: bool,
) -> None:
    facts = header_facts(open_volume(_series(tmp_path, small, **edits)))
    assert facts["contrast_phase"] == phase
    assert facts["contrast_phase_source"] == source
    assert facts["contrast_given"] == given
    assert facts["contrast_contradictory"] == contradictory


def _coded(agent: str, route: str = "") -> Dataset:
    """An Enhanced object's way to name an agent."""
    header, item, way = Dataset(), Dataset(), Dataset()
    item.CodeMeaning, way.CodeMeaning = agent, route
    item.ContrastBolusAdministrationRouteSequence = [way] if route else []
    header.ContrastBolusAgentSequence = [item]
    return header


def _named(agent: str, route: str = "") -> Dataset:
    header = Dataset()
    header.ContrastBolusAgent, header.ContrastBolusRoute = agent, route
    return header


def _empty() -> Dataset:
    header = Dataset()
    header.ContrastBolusAgentSequence = []
    return header


@pytest.mark.parametrize(
    ("header", "given"),
    [
        (Dataset(), None),
        (_empty(), None),
        (_named("Ultravist"), True),
        (_named("non-ionic"), True),
        (_named("NON IONIC 100 ML"), True),
        (_named("Omnipaque", "IV and oral"), True),
        (_named("IV & oral"), True),
        (_named("Telebrix", "PO"), None),
        (_named("oral"), None),
        (_named("no contrast"), False),
        (_named("None given"), False),
        (_coded("Iohexol", "Intravenous route"), True),
        (_coded("Diatrizoate", "Oral route"), None),
    ],
)
def test_one_rule_says_whether_an_agent_was_given(header: Dataset, given: bool | None) -> None:
    assert read_contrast([header]).given == given
    described = describe("1.2", [(Source(Path("a")), header)], None, 1, 1)
    assert described.contrast_agent == (given is True)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("ABDOMEN NATIV", {"none"}),
        ("Abd ohne KM", {"none"}),
        ("Abd mit KM venös", {"given", "portal_venous"}),
        ("TAP +C PORTAL", {"given", "portal_venous"}),
        ("CT Abdomen delayed", {"delayed"}),
        ("CTA aorta", {"arterial"}),
        ("Abdomen  WITH ROI IN AORTA", set()),
        ("Venezia Center PLAINVIEW", set()),
        ("", set()),
    ],
)
def test_words_mean(text: str, meaning: set[str]) -> None:
    assert words_of(text) == meaning


@pytest.mark.parametrize(
    ("expected", "named"),
    [
        (Expected(), None),
        (Expected(64.0, "F", date(2019, 4, 6)), None),
        (Expected(62.0, None, None), None),
        (Expected(64.1, None, None), "age is 64.1 in the table and 63 in the header"),
        (Expected(None, "M", None), "sex is M in the table and F in the header"),
        (Expected(None, None, date(2019, 4, 7)), "scan_date in the table lies 2 days off"),
    ],
)
def test_a_table_that_contradicts_the_header_is_refused(
    small: Phantom, tmp_path: Path, expected: Expected, named: str | None
) -> None:
    facts = open_volume(_series(tmp_path, small)).facts
    if named is None:
        check_expected(facts, expected)
        return
    with pytest.raises(CaseRefused, match=named) as caught:
        check_expected(facts, expected)
    assert caught.value.code == "header_conflict"
    assert "2019" not in caught.value.message


def test_what_is_in_either_alone_is_not_compared(small: Phantom, tmp_path: Path) -> None:
    facts = open_volume(_series(tmp_path, small, PatientAge=None, PatientSex="O")).facts
    check_expected(facts, Expected(20.0, "M", None))
    check_expected(None, Expected(20.0, "M", date(2000, 1, 1)))


def test_no_name_and_no_text_of_the_header_gets_into_the_report(
    small: Phantom, tmp_path: Path
) -> None:
    folder = _series(tmp_path / "ct", small, ImageComments="seen by Dr Smith, portal")
    _, mask = small.save(tmp_path / "mask")
    report, refusal = check_one(
        CaseInput("a", folder, mask), tmp_path, scheme="verse", compare_mask=False
    )
    assert refusal is None, refusal
    text = json.dumps(report).lower()
    assert not any(word in text for word in ("doe", "jane", "4711", "smith", "0405"))
    assert report["facts"]["contrast_hints"] == ["image_comments: portal_venous"]
    assert violations(report, "check") == []
    assert violations(report["facts"], "case_facts") == []
    assert list(report["facts"]) == list(schema("case_facts")["properties"])


@pytest.mark.parametrize(("age", "warned"), [(49, True), (50, False), (80, False), (81, True)])
def test_age_outside_the_study_is_warned_of(
    small: Phantom, tmp_path: Path, age: int, warned: bool
) -> None:
    folder = _series(tmp_path / "ct", small, PatientAge=f"{age:03d}Y")
    _, mask = small.save(tmp_path / "mask")
    codes = [warning.code for warning in load_case(folder, mask, scheme="verse").warnings]
    assert ("age_outside_study" in codes) == warned


def _wedged(phantom: Phantom, level: str, share: float) -> np.ndarray:
    """Return labels whose body lacks a share of its front height, evenly down to the back."""
    labels = phantom.labels.copy()
    index = np.argwhere(labels == LEVELS[level])
    place = index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]
    front = (place[:, 1] - place[:, 1].min()) / np.ptp(place[:, 1])
    top = place[:, 2].max() - 21.0 * share * front
    labels[tuple(index[place[:, 2] > top].T)] = 0
    return labels


def test_whole_bodies_are_normal(fine: Phantom) -> None:
    found = suspect_fracture(fine.labels, fine.affine, (), 1.0)
    assert found.status == "normal"
    assert found.lowest == pytest.approx(1.0, abs=0.03)


def test_a_wedge_is_suspected_as_far_as_the_slices_allow(fine: Phantom) -> None:
    labels = _wedged(fine, "L2", 0.30)
    thin = suspect_fracture(labels, fine.affine, (), 1.0)
    assert (thin.status, thin.levels) == ("fractured", ("L2",))
    assert thin.at == "L2 Ha/Hp"
    assert thin.lowest == pytest.approx(0.73, abs=0.03)  # the outer 15 % keep a little more
    thick = suspect_fracture(labels, fine.affine, (), 5.0)
    assert (thick.status, thick.below) == ("unclear", True)
    assert "± 0.13 at slices of 5.0 mm" in thick.text
    for told in (
        suspect_fracture(labels, fine.affine, (), 6.0),
        suspect_fracture(labels, fine.affine, (), 1.0, resampled=True),
    ):
        assert (told.status, told.sd) == ("not_assessable", None)
        assert "cannot be determined" in told.text


def test_levels_that_are_cut_leave_it_open(fine: Phantom) -> None:
    assert suspect_fracture(fine.labels, fine.affine, ("L1",), 1.0).status == "not_assessable"


def test_the_sd_of_a_ratio_grows_with_the_slices() -> None:
    assert ratio_sd(1.0) == 0.008
    assert ratio_sd(3.0) == 0.027
    assert ratio_sd(5.0) == 0.063
    assert ratio_sd(5.2) is None


Painter = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _painted(phantom: Phantom, where: Painter, value: float) -> np.ndarray:
    """Return voxels with what lies somewhere, in mm from the middle of L2, set to a value."""
    index = np.stack(np.meshgrid(*map(np.arange, phantom.hu.shape), indexing="ij"), axis=-1)
    place = index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3] - phantom.centre
    x, y, z = np.moveaxis(place, -1, 0)
    return np.where(where(x, y, z), value, phantom.hu).astype(np.float32)


def _screw(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return ((x - 12) ** 2 + z**2 < 9) & (np.abs(y + 15) < 25)


def _drop(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return x**2 + (y - 8) ** 2 + (z - 30) ** 2 < 49


def _stent(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (np.abs(np.hypot(x, y - 42) - 8) < 1.5) & (np.abs(z) < 50)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("where", "value", "kind", "levels", "volume"),
    [
        (_screw, 2900.0, "metal", ("L2",), 28.27 * 50),
        (_drop, 1700.0, "cement", ("L1",), 4 / 3 * np.pi * 343),
        (_stent, 3000.0, "no", (), 0.0),
        (_drop, 900.0, "no", (), 0.0),
    ],
)
def test_metal_and_cement(
    fine: Phantom,
    flipped: bool,
    where: Painter,
    value: float,
    kind: str,
    levels: tuple[str, ...],
    volume: float,
) -> None:
    hu, labels, affine = _painted(fine, where, value), fine.labels, fine.affine
    if flipped:  # other axes, the same places
        turn = np.array([[0, -1, 0, hu.shape[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        affine = affine @ turn
        hu, labels = (a[::-1].transpose(1, 0, 2) for a in (hu, labels))
    found = find_implants(hu, labels, affine)
    assert (found.kind, found.levels) == (kind, levels)
    assert found.volume_mm3 == pytest.approx(volume, rel=0.25)  # a screw's tip is in no class


def test_noise_is_that_of_soft_tissue(fine: Phantom) -> None:
    rng = np.random.default_rng(0)
    quiet = _painted(fine, lambda x, y, z: fine.hu < 1e9, 50.0)
    noisy = quiet + rng.normal(0, 15, quiet.shape)
    assert noise_sd(noisy.astype(np.float32), fine.affine) == pytest.approx(15, abs=1.5)
    assert noise_sd(np.full((20, 20, 20), -1000, np.float32), fine.affine) is None


def _with_aorta(folder: Path, phantom: Phantom, hu: float) -> tuple[Path, Path]:
    """Write a CT with a tube in front of the spine, and a mask of a file a structure."""

    def tube(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.hypot(x, y - 35) < 11

    filled = _painted(phantom, tube, hu)
    inside = (_painted(phantom, tube, 5000.0) == 5000.0).astype(np.uint8)
    mask = folder / "mask"
    mask.mkdir(parents=True)
    for name, value in LEVELS.items():
        body = (phantom.labels == value).astype(np.uint8)
        nib.save(nifti(body, phantom.affine), mask / f"vertebrae_{name}.nii.gz")
    nib.save(nifti(inside[::-1], phantom.affine @ _mirror(inside)), mask / "aorta.nii.gz")
    image = Phantom(filled, phantom.labels, phantom.affine, phantom.centre)
    return _series(folder / "ct", image), mask


def _mirror(array: np.ndarray) -> np.ndarray:
    turn = np.diag([-1.0, 1.0, 1.0, 1.0])
    turn[0, 3] = array.shape[0] - 1
    return turn


def test_the_aorta_tells_the_phase_that_the_header_does_not(small: Phantom, tmp_path: Path) -> None:
    image, mask = _with_aorta(tmp_path, small, 150.0)
    case = load_case(image, mask)
    assert aorta_hu(case.volume, mask, case.masks.scheme) == pytest.approx(150, abs=1)
    facts, warnings = measured_facts(case, mask)
    assert (facts["contrast_phase"], facts["contrast_phase_source"]) == ("portal_venous", "aorta")
    assert "contrast_contradictory" not in [warning.code for warning in warnings]


def test_an_aorta_that_contradicts_the_header_is_warned_of(small: Phantom, tmp_path: Path) -> None:
    image, mask = _with_aorta(tmp_path, small, 40.0)
    for file in image.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.ContrastBolusAgent = "Ultravist"
        dataset.save_as(file)
    facts, warnings = measured_facts(load_case(image, mask), mask)
    assert facts["contrast_contradictory"] is True
    assert facts["contrast_phase"] is None
    assert [w.code for w in warnings if w.code.startswith("contrast")] == ["contrast_contradictory"]


def test_between_phases_nothing_is_said() -> None:
    assert phase_of_aorta(None, 120.0) is None
    assert phase_of_aorta(78.0, 120.0) is None
    assert phase_of_aorta(300.0, 80.0) is None
    assert phase_of_aorta(40.0, 80.0) == "none"


def test_exclusions_are_warned_of_at_prediction(fine: Phantom, tmp_path: Path) -> None:
    from monai_vfx.model.bundle.datasets import with_exclusions
    from monai_vfx.workflows.run_bundle import preprocessing

    hu = _painted(fine, _drop, 1700.0)
    labels = _wedged(fine, "L3", 0.4)
    image, mask = Phantom(hu, labels, fine.affine, fine.centre).save(tmp_path)
    facts, found = study_exclusions(load_case(image, mask, scheme="verse"))
    codes = {"fracture_suspected", "metal_or_cement"}
    assert {warning.code for warning in found} == codes
    assert (facts["dense_kind"], facts["fracture_levels"]) == ("cement", ["L3"])
    plain = preprocessing()
    item = {"image": str(image), "mask": str(mask), "scheme": "verse"}
    out = with_exclusions(plain)(dict(item))["image"]
    told = [w["code"] for w in json.loads(out.meta["case_facts"])["warnings"]]
    assert codes <= set(told)
    assert (out.as_tensor() == plain(dict(item))["image"].as_tensor()).all()


def test_the_real_series_says_two_things_of_contrast(
    real_data: Path, tcga_series: Path, tmp_path: Path
) -> None:
    mask = real_data / "tcga_ov_abdomen" / "vertebral_bodies.nii.gz"
    report, refusal = check_one(CaseInput("a", tcga_series, mask), tmp_path, compare_mask=False)
    assert refusal is None
    assert [warning["code"] for warning in report["warnings"]] == ["contrast_contradictory"]
    facts = report["facts"]
    assert facts["contrast_hints"] == [
        *("agent: given", "series_description: given", "image_comments: given"),
        "study_description: none",
    ]
    assert (facts["contrast_phase"], facts["contrast_given"]) == (None, None)
    assert (facts["age_years"], facts["sex"], facts["patient_position"]) == (69.0, "F", "FFS")
    assert (facts["kernel"], facts["kernel_class"], facts["kvp"]) == ("FC13", "soft", 120.0)
    assert (facts["fracture_status"], facts["dense_kind"]) == ("normal", "no")
    assert facts["l1_trabecular_hu"] == pytest.approx(191, abs=1)


def test_the_native_aorta_of_a_real_ct(real_data: Path) -> None:
    folder = real_data / "totalseg_example"
    mask = folder / "seg_v2_117class_fast.nii.gz"
    facts, _ = measured_facts(load_case(folder / "ct.nii.gz", mask), mask)
    assert (facts["contrast_phase"], facts["contrast_phase_source"]) == ("none", "aorta")
    assert 30 <= facts["aorta_hu"] <= 60
