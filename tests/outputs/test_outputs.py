"""What a hospital's systems are given: whose it is, what it says, what it must not say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner
from exported import (
    ABSENT_IN_THE_CT,
    IDENTITY,
    KINDS,
    PEAK,
    SPACING,
    Exported,
    check_conformance,
    read_segmentation,
)
from fhir.resources.R4B.riskassessment import RiskAssessment
from matplotlib.image import imread
from pydicom.config import disable_value_validation
from pydicom.sr.codedict import codes

from monai_vfx.cli import main
from monai_vfx.core.anatomy import SNOMED_CT, VERTEBRAE
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.geometry import world_positions
from monai_vfx.core.results import Prediction
from monai_vfx.io.dicom.reading import read_series
from monai_vfx.model.checkpoint import write_sidecar
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier, NotDerivable, source_headers
from monai_vfx.outputs.hospital.export import Export
from monai_vfx.outputs.hospital.terms import OWN_CODES, SCHEME
from phantoms import SIDECAR

DICOM = ("capture.dcm", "gradcam.dcm", "mask.dcm", "report.dcm")


@pytest.fixture(scope="module")
def exported(kinds: Callable[[str], tuple[Exported, Path]]) -> Exported:
    return kinds("plain")[0]


@pytest.fixture(scope="module")
def turned(kinds: Callable[[str], tuple[Exported, Path]]) -> Exported:
    return kinds("oblique")[0]


@pytest.fixture(scope="module")
def enhanced(kinds: Callable[[str], tuple[Exported, Path]]) -> Exported:
    return kinds("enhanced")[0]


@pytest.fixture(scope="module")
def written(kinds: Callable[[str], tuple[Exported, Path]]) -> Path:
    return kinds("plain")[1]


@pytest.mark.parametrize("kind", KINDS)
def test_objects_belong_to_the_patient_and_study_of_the_ct(
    kind: str, kinds: Callable[[str], tuple[Exported, Path]]
) -> None:
    exported, folder = kinds(kind)
    with disable_value_validation():
        _check_identity(folder, exported)


def _check_identity(folder: Path, exported: Exported) -> None:
    header, uids = exported.header, set()
    for name in DICOM:
        made = pydicom.dcmread(folder / name)
        for tag in ("PatientID", "StudyInstanceUID", "PatientAge", "StudyDescription"):
            assert made[tag].value == header[tag].value, (name, tag)
        assert str(made.PatientName) == str(header.PatientName), name
        assert str(made.PatientName.ideographic) == str(header.PatientName.ideographic), name
        assert made.StudyDate == str(header.StudyDate).replace(".", "")
        assert made.PatientBirthDate == header.get("PatientBirthDate", "")
        assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID
        uids |= {made.SeriesInstanceUID, made.SOPInstanceUID}
        assert made.SeriesDescription.endswith("not for clinical use")
        assert len(made.SeriesDescription) <= 64
        assert 9101 <= made.SeriesNumber <= 9104
        assert _referenced(made, _sources(exported.series)) == set(), name
        if "FrameOfReferenceUID" in made:
            assert made.FrameOfReferenceUID == header.FrameOfReferenceUID
    assert len(uids) == 8
    assert header.SeriesInstanceUID not in uids


def _sources(folder: Path) -> dict[str, int]:
    """Return UID → frames of the objects of a CT."""
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
    return {str(h.SOPInstanceUID): int(h.get("NumberOfFrames", 0)) for h in headers}


def _referenced(item: Any, known: dict[str, int]) -> set[str]:
    """Return references that lead neither to a CT's object nor to the SEG, or to no frame of it."""
    wrong: set[str] = set()
    uid = str(item.get("ReferencedSOPInstanceUID", ""))
    frame = int(item.get("ReferencedFrameNumber", 0))
    if uid in known and not 0 <= frame <= known[uid]:
        wrong.add(f"{uid} frame {frame}")
    if uid and uid not in known and not str(item.ReferencedSOPClassUID).endswith(".66.4"):
        wrong.add(uid)
    for element in item:
        if element.VR == "SQ":
            uids = [c.get("ReferencedSOPInstanceUID") for c in element.value]
            if element.keyword == "ReferencedInstanceSequence" and len(set(uids)) < len(uids):
                wrong.add("an object is listed twice")
            wrong.update(*(_referenced(child, known) for child in element.value))
    return wrong


def test_the_same_result_is_the_same_object_and_another_is_not(
    exported: Exported, written: Path, tmp_path: Path
) -> None:
    exported.write(tmp_path / "again")
    exported.write(tmp_path / "other", score=0.5)

    def uid(path: Path) -> str:
        return str(pydicom.dcmread(path).SOPInstanceUID)

    for name in DICOM:
        assert uid(tmp_path / "again" / name) == uid(written / name)
        same = uid(tmp_path / "other" / name) == uid(written / name)
        assert same is (name == "mask.dcm"), name  # the mask has nothing to do with the score


@pytest.mark.parametrize("which", ["exported", "turned", "enhanced"])
def test_the_mask_used_is_written_voxel_by_voxel(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported: Exported = request.getfixturevalue(which)
    exported.write(tmp_path, "dicom", heat=False)
    found = read_segmentation(tmp_path / "mask.dcm")
    labels, affine = exported.case.masks.labels, exported.case.volume.affine
    for name, places in found.items():
        true = world_positions(affine, np.argwhere(labels == VERTEBRAE[name]))
        order, wanted = (np.lexsort(np.rint(p * 20).astype(int).T) for p in (places, true))
        np.testing.assert_allclose(places[order], true[wanted], atol=0.02, err_msg=name)
    assert set(found) >= {"T12", "L1", "L2", "L3", "L4"}
    segments = pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence
    assert {s.SegmentAlgorithmType for s in segments} == {"SEMIAUTOMATIC"}  # a file was given
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mask.dcm", "capture.dcm", "report.dcm"),
    }


@pytest.mark.parametrize("which", ["exported", "turned", "enhanced"])
def test_heat_lies_where_the_network_looked(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    exported: Exported = request.getfixturevalue(which)
    exported.write(tmp_path, "dicom")
    made = pydicom.dcmread(tmp_path / "gradcam.dcm")
    warm = [k for k in range(exported.heat.shape[2]) if exported.heat[:, :, k].any()]
    assert made.NumberOfFrames == len(warm) == 14
    frames = made.pixel_array
    series = read_series(exported.series)
    numbers = series.frame_numbers or (None,) * len(series.sources)
    places = list(zip(series.sop_instance_uids, numbers, strict=True))
    sources = [
        group.DerivationImageSequence[0].SourceImageSequence[0]
        for group in made.PerFrameFunctionalGroupsSequence
    ]
    shown = [
        places.index((s.ReferencedSOPInstanceUID, s.get("ReferencedFrameNumber"))) for s in sources
    ]
    assert sorted(shown) == warm
    for frame, k in zip(frames, shown, strict=True):
        np.testing.assert_array_equal(frame, exported.heat[:, :, k].T)
    # The peak through the object's own geometry, against the CT's affine.
    peak, row, column = np.unravel_index(frames.argmax(), frames.shape)
    shared = made.SharedFunctionalGroupsSequence[0]
    own = made.PerFrameFunctionalGroupsSequence[int(peak)]
    corner = np.array(own.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    lps = corner + column * between_columns * cosines[:3] + row * between_rows * cosines[3:]
    true = world_positions(exported.case.volume.affine, [PEAK])[0]
    np.testing.assert_allclose(lps * [-1, -1, 1], true, atol=1e-3)
    mapping = shared.RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130403"
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
    assert made.ContentQualification == "RESEARCH"


def test_a_heat_of_another_grid_or_without_any_is_an_error(
    exported: Exported, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="heat"):
        replace(exported, heat=exported.heat[1:]).write(tmp_path)
    replace(exported, heat=exported.heat * 0).write(tmp_path / "cold", "dicom")
    assert not (tmp_path / "cold" / "gradcam.dcm").exists()


def test_the_capture_shows_the_montage_and_names_its_slices(
    exported: Exported, written: Path
) -> None:
    made = pydicom.dcmread(written / "capture.dcm")
    picture = np.rint(imread(exported.picture)[..., :3] * 255)
    np.testing.assert_array_equal(made.pixel_array, picture)
    assert made.PhotometricInterpretation == "RGB"
    assert made.BurnedInAnnotation == "NO"  # nothing in it tells the patient
    assert "SIMULATED" in made.DerivationDescription
    named = [item.ReferencedSOPInstanceUID for item in made.SourceImageSequence]
    assert named == [record.sop_instance_uid for record in exported.prediction.slices]


def test_what_is_burned_into_the_ct_is_burned_into_the_capture(
    exported: Exported, tmp_path: Path
) -> None:
    for file in exported.series.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.BurnedInAnnotation = "YES"
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = "12"
        dataset.LossyImageCompressionMethod = "ISO_15444_1"
        (tmp_path / "ct").mkdir(exist_ok=True)
        dataset.save_as(tmp_path / "ct" / file.name)
    replace(exported, series=tmp_path / "ct").write(tmp_path / "out", "dicom")
    made = pydicom.dcmread(tmp_path / "out" / "capture.dcm")
    assert made.BurnedInAnnotation == "YES"
    for name in ("capture.dcm", "gradcam.dcm", "mask.dcm"):
        assert pydicom.dcmread(tmp_path / "out" / name).LossyImageCompression == "01", name


def test_frames_have_a_thickness_also_where_the_ct_states_none(
    kinds: Callable[[str], tuple[Exported, Path]],
) -> None:
    _, folder = kinds("bare")
    for name in ("mask.dcm", "gradcam.dcm"):
        shared = pydicom.dcmread(folder / name).SharedFunctionalGroupsSequence[0]
        assert float(shared.PixelMeasuresSequence[0].SliceThickness) == SPACING[2]
    report = hd.sr.srread(folder / "report.dcm")
    stated = [i for i in _items(report) if i.ValueType == "NUM" and "Thick" in i.name.meaning]
    assert stated == []  # a report of the CT must not say what the CT does not


def _items(item: Any) -> list[Any]:
    children = [c for child in item.get("ContentSequence", ()) for c in _items(child)]
    return [item, *children]


def _text(report: Any, code: str) -> list[str]:
    return [
        item.TextValue
        for item in _items(report)
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == code
    ]


def test_the_report_holds_result_model_levels_and_standing(
    exported: Exported, written: Path
) -> None:
    report = hd.sr.srread(written / "report.dcm")
    groups = report.content.get_image_measurement_groups()
    assert len(groups) == 1
    score, risk = groups[0].get_measurements()
    assert (score.name.value, score.name.scheme_designator) == ("SCORE", SCHEME)
    assert score.value == pytest.approx(0.612345)
    assert risk.name.value == "RISK5Y"
    assert risk.value == pytest.approx(0.1234)
    assert risk.unit == codes.UCUM.NoUnits
    spread = {
        item.ConceptNameCodeSequence[0].CodeValue: float(item.MeasuredValueSequence[0].NumericValue)
        for item in risk[0].ContentSequence
        if item.ValueType == "NUM"
    }
    assert risk.value + spread["371886008"] == pytest.approx(0.1987)
    assert risk.value - spread["371885007"] == pytest.approx(0.0712)
    sites = [site.value.value for site in groups[0].finding_sites]
    assert sites == [SNOMED_CT[level] for level in exported.prediction.levels]
    sources = [image.referenced_sop_instance_uid for image in groups[0].source_images]
    assert sources == [record.sop_instance_uid for record in exported.prediction.slices]
    assert _text(report, "111001") == ["vertebral_fracture_risk_ct_classification"]
    assert f"weights sha256:{'cd' * 32}" in _text(report, "111002")
    assert _text(report, "STANDING") == ["SIMULATED weights: not a clinical result"]
    assert _text(report, "WARNING") == ["simulated_weights: trained on simulated patients"]
    assert _text(report, "CALIBRATION") == ["random_controls, prevalence 0.037, calibration.json"]
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    schemes = {s.CodingSchemeDesignator for s in report.CodingSchemeIdentificationSequence}
    assert SCHEME in schemes
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    mask = pydicom.dcmread(written / "mask.dcm")
    assert evidence == {*sources, mask.SOPInstanceUID}


def test_each_body_of_the_report_is_a_segment_with_its_volume(
    exported: Exported, written: Path
) -> None:
    report = hd.sr.srread(written / "report.dcm")
    mask = pydicom.dcmread(written / "mask.dcm")
    labels = {int(s.SegmentNumber): s.SegmentLabel for s in mask.SegmentSequence}
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 5
    for group, level in zip(groups, exported.prediction.levels, strict=True):
        assert group.finding_sites[0].value.value == SNOMED_CT[level]
        assert group.referenced_segment is not None
        image = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == mask.SOPInstanceUID
        assert labels[int(image.ReferencedSegmentNumber)] == level
        voxels = (exported.case.masks.labels == VERTEBRAE[level]).sum()
        (volume,) = group.get_measurements()
        assert volume.value == pytest.approx(voxels * np.prod(SPACING), abs=0.2)


def test_no_image_of_a_coronal_series_is_called_a_slice_that_the_network_saw(
    kinds: Callable[[str], tuple[Exported, Path]],
) -> None:
    from monai_vfx.transforms import LocateSpined

    exported, folder = kinds("coronal")
    item = LocateSpined(("image", "mask"))({"image": exported.series, "mask": exported.mask})
    facts = json.loads(item["image"].meta["case_facts"])
    assert facts["sop_instance_uids"] is None
    # The report says what is true: all of them went into what it saw.
    report = hd.sr.srread(folder / "report.dcm")
    (group,) = report.content.get_image_measurement_groups()
    named = {image.referenced_sop_instance_uid for image in group.source_images}
    assert named == set(exported.case.volume.sop_instance_uids or ())


def test_no_risk_is_reported_without_a_calibration(exported: Exported, tmp_path: Path) -> None:
    nothing = {"risk_5y": None, "risk_5y_interval": None, "calibration": None}
    exported.write(tmp_path, simulated_weights=False, warnings=(), **nothing)
    report = hd.sr.srread(tmp_path / "report.dcm")
    (score,) = report.content.get_image_measurement_groups()[0].get_measurements()
    assert score.name.value == "SCORE"
    assert _text(report, "STANDING")[0].startswith("Research software, not a medical device")
    document = json.loads((tmp_path / "risk_assessment.fhir.json").read_text())
    resource = RiskAssessment.model_validate(document)
    assert resource.prediction[0].probabilityDecimal is None
    assert resource.prediction[0].probabilityRange is None
    assert float(resource.contained[0].valueQuantity.value) == pytest.approx(0.612345)


def test_every_own_code_is_in_the_documents_and_in_use(written: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    report = hd.sr.srread(written / "report.dcm")
    used = {
        code.CodeValue
        for item in _items(report)
        for code in item.get("ConceptNameCodeSequence", ())
        if code.CodingSchemeDesignator == SCHEME
    }
    assert used == set(OWN_CODES)
    for code, meaning in OWN_CODES.items():
        assert f"| `{code}` | {meaning} |" in page


def test_the_fhir_resource_is_one_and_counts_in_percent(exported: Exported, written: Path) -> None:
    document = json.loads((written / "risk_assessment.fhir.json").read_text())
    resource = RiskAssessment.model_validate(document)
    risk, interval = resource.prediction
    assert float(risk.probabilityDecimal) == pytest.approx(12.34)
    assert float(interval.probabilityRange.low.value) == pytest.approx(7.12)
    assert float(interval.probabilityRange.high.value) == pytest.approx(19.87)
    assert interval.probabilityRange.low.code == "%"
    assert (str(risk.whenPeriod.start), str(risk.whenPeriod.end)) == ("2019-12-31", "2024-12-31")
    assert resource.status == "preliminary"
    assert resource.subject.identifier.value == "PID-4711"
    assert resource.subject.identifier.assigner.display == "LaManchaGeneral"
    assert resource.basis[0].identifier.value == f"urn:oid:{exported.header.StudyInstanceUID}"
    references = {r.reference for r in (*resource.basis, resource.performer) if r.reference}
    assert references == {f"#{part.id}" for part in resource.contained}
    assert any("SIMULATED" in note.text for note in resource.note)
    assert "ab" * 32 in resource.method.text


def test_a_fhir_resource_of_a_nifti_names_no_patient(exported: Exported, tmp_path: Path) -> None:
    nifti = tmp_path / "ct.nii.gz"
    Export(("fhir",), nifti).write(
        tmp_path, exported.prediction, exported.case.masks.labels, exported.picture
    )
    document = json.loads((tmp_path / "risk_assessment.fhir.json").read_text())
    resource = RiskAssessment.model_validate(document)
    assert resource.subject.identifier is None
    assert [basis.reference for basis in resource.basis] == ["#score"]


def test_a_refused_case_leaves_no_report(exported: Exported, tmp_path: Path) -> None:
    refused = Prediction.refused("one", CaseRefused("mask_empty", "no label"))
    Export(("dicom", "fhir"), exported.series).write(
        tmp_path, refused, exported.case.masks.labels, exported.picture
    )
    assert list(tmp_path.iterdir()) == []


def _uids(folder: Path) -> set[str]:
    return {
        str(element.value)
        for file in folder.iterdir()
        for element in pydicom.dcmread(file, stop_before_pixels=True)
        if element.VR == "UI" and element.keyword not in ("SOPClassUID", "TransferSyntaxUID")
    }


def check_hidden(folder: Path, exported: Exported, *more: str) -> None:
    """Search every byte of every file for what tells the patient or leads to the archive."""
    secrets = {*_uids(exported.series), *more}
    today = datetime.now(UTC)  # of a patient who is seen today, a date like any other
    secrets |= {today.strftime("%Y%m%d"), today.strftime("%Y-%m-%d")}
    for value in IDENTITY.values():
        secrets |= {value, *(part for part in value.split("^") if len(part) > 4)}
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        if file.name.endswith(".gz"):
            content = gzip.decompress(content)
        found = [s for s in secrets if s.encode() in content or s.encode("utf-16-le") in content]
        assert found == [], (file.name, found)


def test_nothing_of_the_patient_is_left_when_that_is_asked_for(
    exported: Exported, tmp_path: Path
) -> None:
    hide = Deidentifier()
    document = hide.document(exported.prediction.to_json())
    hidden = replace(exported, prediction=Prediction.from_json(document))
    assert hidden.write(tmp_path, hide=hide) == ()
    check_hidden(tmp_path, exported)
    made = {name: pydicom.dcmread(tmp_path / name) for name in DICOM}
    for dataset in made.values():
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.DeidentificationMethod
        assert dataset.PatientID == made["mask.dcm"].PatientID != ""
        assert dataset.StudyInstanceUID == made["mask.dcm"].StudyInstanceUID
    # The objects still belong together, and to the JSON.
    report = made["report.dcm"]
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in _items(report)
        if item.ValueType == "IMAGE"
    }
    slices = {record["sop_instance_uid"] for record in document["slices"]}
    assert named == slices | {made["mask.dcm"].SOPInstanceUID}
    resource = json.loads((tmp_path / "risk_assessment.fhir.json").read_text())
    RiskAssessment.model_validate(resource)
    assert resource["subject"] == {"type": "Patient", "display": "de-identified"}


def test_nothing_of_the_patient_is_left_of_an_enhanced_object(
    enhanced: Exported, tmp_path: Path
) -> None:
    hide = Deidentifier()
    document = hide.document(enhanced.prediction.to_json())
    hidden = replace(enhanced, prediction=Prediction.from_json(document))
    assert hidden.write(tmp_path, hide=hide) == ()
    check_hidden(tmp_path, enhanced)
    uid = document["slices"][0]["sop_instance_uid"]
    known = {uid: int(enhanced.header.NumberOfFrames)}
    for name in DICOM:
        assert _referenced(pydicom.dcmread(tmp_path / name), known) == set(), name


def test_two_runs_cannot_be_linked(exported: Exported, tmp_path: Path) -> None:
    for name in ("a", "b"):
        exported.write(tmp_path / name, hide=Deidentifier(), heat=False)
    first, second = (
        {str(e.value) for e in pydicom.dcmread(tmp_path / n / "report.dcm") if e.VR == "UI"}
        for n in ("a", "b")
    )
    assert {uid for uid in first & second if not uid.startswith("1.2.840.10008")} == set()


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "FrameOfReferenceUID", "charset"])
def test_headers_that_do_not_allow_it_are_a_warning(
    exported: Exported, tmp_path: Path, missing: str
) -> None:
    (tmp_path / "ct").mkdir()
    for file in exported.series.iterdir():
        dataset = pydicom.dcmread(file)
        if missing == "charset":
            dataset.PatientName = "Quixáno^Alonso"
            dataset.SpecificCharacterSet = "ISO_IR 192"
            dataset.save_as(tmp_path / "ct" / file.name)
            raw = (tmp_path / "ct" / file.name).read_bytes()
            (tmp_path / "ct" / file.name).write_bytes(raw.replace(b"\xc3\xa1", b"\xe1\xff"))
            continue
        delattr(dataset, missing)
        dataset.save_as(tmp_path / "ct" / file.name)
    bad = replace(exported, series=tmp_path / "ct")
    (warning,) = bad.write(tmp_path / "out")
    assert warning.code == "export_not_written"
    assert "Quix" not in warning.message
    if missing != "charset":
        assert missing in warning.message
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"risk_assessment.fhir.json"}
    with pytest.raises(NotDerivable):
        source_headers(tmp_path / "ct")


def test_dicom_of_a_nifti_is_wrong_use_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="export"):
        Export(("dicm",), tmp_path)
    image, weights = tmp_path / "ct.nii.gz", tmp_path / "model.pt"
    image.write_bytes(b"")
    weights.write_bytes(b"")
    for command in ("predict", "explain"):
        arguments = [command, str(image), "--weights", str(weights), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(main, [*arguments, "--export", "dicom"])
        assert result.exit_code == 2, result.output
        assert "needs a DICOM series" in result.output
        assert not (tmp_path / "out").exists()


def untrained(folder: Path) -> Path:
    """An untrained network: these tests are about the way of a result, not about scores."""
    from monai_vfx.model.network import AttentionCNNRNN

    torch.manual_seed(0)
    network = AttentionCNNRNN(backbone="resnet18", rnn_hidden=16)
    torch.save({"network": network.state_dict()}, folder / "model.pt")
    write_sidecar(folder / "model.pt", SIDECAR)
    return folder / "model.pt"


def test_the_command_exports_and_hides(exported: Exported, tmp_path: Path) -> None:
    weights = untrained(tmp_path)
    series = str(exported.header.SeriesInstanceUID)
    arguments = ["predict", str(exported.series), "--mask", str(exported.mask), "--series", series]
    arguments += ["--no-compare-mask", "--weights", str(weights), "--export", "dicom"]
    arguments += ["--export", "fhir", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--deidentify"])
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        *("prediction.json", "run.json", "mask.dcm", "mask.png", "capture.dcm", "report.dcm"),
        "risk_assessment.fhir.json",
    }
    check_hidden(out, exported)
    document = json.loads((out / "prediction.json").read_text())
    assert json.loads(result.stdout) == document
    assert series not in result.stdout
    report = hd.sr.srread(out / "report.dcm")
    (score,) = report.content.get_image_measurement_groups()[0].get_measurements()
    assert score.value == pytest.approx(document["score"])
    run = json.loads((out / "run.json").read_text())
    assert run["inputs_sha256"]["image"] is run["inputs_sha256"]["mask"] is run["time"] is None


@pytest.mark.slow
def test_a_real_patient_is_left_out_of_the_segmentation_s_files(
    tcga_series: Path, tmp_path: Path
) -> None:
    arguments = ["segment", str(tcga_series), "--out", str(tmp_path), "--deidentify"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    header = pydicom.dcmread(max(tcga_series.rglob("*.dcm")), stop_before_pixels=True)
    uids = (header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID)
    told = (*uids, header.SOPInstanceUID, str(header.PatientID), str(header.StudyDate))
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        content = gzip.decompress(content) if file.name.endswith(".gz") else content
        assert [secret for secret in told if secret.encode() in content] == [], file.name
    assert pydicom.dcmread(tmp_path / "mask.dcm").PatientIdentityRemoved == "YES"


@pytest.mark.slow
def test_a_real_series_series_is_explained_and_exported(tcga_series: Path, tmp_path: Path) -> None:
    """The segmentation's mask of a real CT; the folder held another case's objects before."""
    weights = untrained(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "gradcam.dcm").write_bytes(b"of another case")
    arguments = ["predict", str(tcga_series), "--weights", str(weights), "--explain"]
    arguments += ["--export", "dicom", "--export", "fhir", "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    heat = pydicom.dcmread(out / "gradcam.dcm")
    assert heat.PatientID == "TCGA-09-2043"
    grid = nib.load(out / "gradcam.nii.gz").get_fdata()
    assert heat.NumberOfFrames == sum(grid[:, :, k].any() for k in range(grid.shape[2]))
    np.testing.assert_allclose(heat.pixel_array.sum(), grid.sum(), rtol=1e-4)
    assert pydicom.dcmread(out / "capture.dcm").Rows == imread(out / "gradcam.png").shape[0]
    document = json.loads((out / "prediction.json").read_text())
    report = hd.sr.srread(out / "report.dcm")
    (score,) = report.content.get_image_measurement_groups()[0].get_measurements()
    assert score.value == pytest.approx(document["score"])
    (origin,) = _text(report, "MASK")
    assert origin.startswith("auto, confidence")
    RiskAssessment.model_validate_json((out / "risk_assessment.fhir.json").read_bytes())
    own_scheme = r"Unrecognized defined term <SYN99> for value 1 .*"  # of the study's procedure
    check_conformance(*out.glob("*.dcm"), allowed=(*ABSENT_IN_THE_CT, own_scheme))


@pytest.mark.parametrize(
    "uid",
    ["1.2.840.113619.2.55", "2.25.329800735698586629295641978511506172918", "1.2.840.08.1.010"],
)
def test_uids_of_any_form_are_hidden_in_json(uid: str) -> None:
    document = {"sop_instance_uid": uid, "message": f"series {uid}.", "versions": ["0.10.1", 0.25]}
    hide = Deidentifier()
    assert hide.document(document) == {
        "sop_instance_uid": hide.uid(uid),
        "message": f"series {hide.uid(uid)}.",
        "versions": ["0.10.1", 0.25],
    }
