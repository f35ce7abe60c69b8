"""One CT through the bundle's inference: score, pictures, record of the run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from monai_vfx.case.case import age_warnings, check_case, load_case
from monai_vfx.case.mask.mapping import is_mapping_file
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, CaseWarning
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash, sha256_of
from monai_vfx.core.results import Prediction, check_case_name, run_record
from monai_vfx.io.dicom.facts import Expected, check_expected
from monai_vfx.io.volume import open_volume
from monai_vfx.model.bundle import Standardiser
from monai_vfx.model.bundle.combining import calibrate, combine, judge_distance
from monai_vfx.model.bundle.covariates import read_row, row_values
from monai_vfx.model.bundle.exporting import export_case
from monai_vfx.model.checkpoint import TrainedModel, read_sidecar
from monai_vfx.model.gradcam import gradcam
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.outputs.hospital.export import FILES as EXPORTED
from monai_vfx.outputs.hospital.export import Export
from monai_vfx.outputs.report.montage import montage, score_caption, slice_titles
from monai_vfx.vertebrae.sources import MaskSource
from monai_vfx.vertebrae.sources.source import DISAGREEMENT, GIVEN_PICTURE, MADE_FILES
from monai_vfx.workflows.run_bundle import quiet, run_bundle

IMAGE_CLASSES = {
    "bone_muscle": "bone + muscle",
    "bone": "bone only",
    "bone_muscle_three_windows": "bone + muscle, three windows",
}
"""Image class of the configs → its name on figures."""
RESULTS = (
    *("prediction.json", "refused.json", "run.json", "gradcam*.*", "attention_*.*"),
    *(*MADE_FILES, GIVEN_PICTURE, DISAGREEMENT, *EXPORTED),
)
"""What a prediction leaves in its folder."""


def predict(
    image: str | Path,
    mask: str | Path | None = "auto",
    *,
    weights: str | Path | Sequence[str | Path],
    out: str | Path,
    case_id: str = "case",
    series_uid: str | None = None,
    scheme: str | None = None,
    clinical: str | Path | None = None,
    calibration: str | Path | None = None,
    explain: bool = False,
    beside: str | Path | None = None,
    layer: str = "layer3",
    compare_mask: bool = True,
    export: Sequence[str] = (),
    deidentify: bool = False,
    networks: dict[Path, TrainedModel] | None = None,
) -> Prediction:
    """Score one CT through the bundle's inference.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        mask: label map or folder of per-structure files; ``auto``: the segmentation makes one;
            ``totalsegmentator``, ``spine-segment``: that tool does.
        weights: checkpoint with its sidecar; of several the score is the mean probability. One
            with an ``outliers.json`` beside it says whether the case is unlike its training's.
        out: folder for ``prediction.json`` and ``run.json``; with ``explain`` also
            ``gradcam.nii.gz``, ``gradcam.png`` and the attention maps likewise. Of a mask that is
            made also ``mask.nii.gz``, ``mask.dcm`` (of a DICOM series) and ``segmentation.png``, of
            one that is given ``mask.png``.
        case_id: the caller's name for the case.
        series_uid: which series, where there are several.
        scheme: label scheme of the mask, or path of a label mapping, where it is not to be found
            out.
        clinical: table of one row, for weights or a calibration that take clinical variables.
        calibration: ``calibration.json`` that turns the score into an absolute five-year risk;
            with several weights also into its interval.
        explain: write heat maps, of the first weights.
        beside: a second checkpoint, drawn beside the first in ``gradcam_beside.png``.
        layer: encoder stage for GradCAM.
        compare_mask: whether the levels of a mask that the segmentation did not make are compared
            with what it finds.
        export: ``dicom`` and ``fhir``, see :mod:`monai_vfx.outputs.hospital`.
        deidentify: leave everything out of all files that leads back to the patient: identity,
            dates, UIDs and the digests of CT, mask and clinical row.
        networks: those that earlier cases loaded; further ones are added.

    Raises:
        CaseRefused: with the code of the rule that the case breaks, ``header_conflict`` where the
            clinical row contradicts the header among them; with ``mask_disagrees`` the
            picture ``mask_disagrees.png`` is left in ``out``.
        MissingDependencyError: a tool is asked for and not installed.
        SettingError: a calibration that cannot be used; an export of DICOM from another format.
    """
    out = Path(out)
    hide = Deidentifier() if deidentify else None
    exporter = Export(export, image, series_uid, hide)
    out.mkdir(parents=True, exist_ok=True)
    check_case_name(case_id)
    members = [weights] if isinstance(weights, str | Path) else list(weights)
    row_warnings = () if clinical is None else _compare_row(image, series_uid, clinical)
    with tempfile.TemporaryDirectory(dir=out, prefix=".run_") as scratch:
        source = MaskSource(
            image,
            mask,
            Path(scratch) / "mask",
            series_uid=series_uid,
            compare=compare_mask,
            hide=hide,
            picture=True,
        )
        _settle_mask(source, scheme, out)
        item: Json = {"case_id": case_id, "image": str(image)}
        item |= {"mask": None if source.path is None else str(source.path)}
        item |= {"series_uid": series_uid} if series_uid else {}
        item |= {"scheme": scheme} if scheme and source.kind == "given" else {}
        item |= {"clinical": str(clinical)} if clinical else {}
        mask_digest = None if source.path is None else content_hash(source.path)
        folders = [Path(scratch) / str(number) for number in range(len(members))]
        predictions = []
        for number, (member, folder) in enumerate(zip(members, folders, strict=True)):
            predictions.append(
                _score(item, member, folder, layer if explain and not number else "", networks)
            )
        prediction = judge_distance(
            combine(predictions), members, [folder / "features.csv" for folder in folders]
        )
        if calibration is not None:
            row = None if clinical is None else read_row(clinical)
            scores = [float(p.score) for p in predictions if p.score is not None]
            prediction = calibrate(prediction, scores, calibration, row)
        made = folders[0] / case_id
        if source.settled:
            prediction = replace(
                prediction,
                mask=source.record,
                warnings=tuple(dict.fromkeys((*prediction.warnings, *source.warnings))),
            )
        prediction = replace(prediction, warnings=(*prediction.warnings, *row_warnings))
        with quiet():
            prediction = export_case(exporter, prediction, item, members[0], made, source.folder)
        write_json(made / "prediction.json", prediction.to_json())
        if beside is not None:
            _draw_beside(item, members[0], beside, layer, made)
        kept = {Path(path).resolve() for path in (image, item["mask"]) if path is not None}
        for pattern in RESULTS:  # of an earlier case; a heat map must not outlive its score
            for file in out.glob(pattern):
                if file.resolve() not in kept:  # a mask of an earlier run may be given to this one
                    file.unlink()
        for file in (*made.iterdir(), *source.folder.glob("*")):
            shutil.move(file, out / file.name)
    mapping = Path(scheme) if scheme is not None and is_mapping_file(scheme) else None
    inputs = {
        "image": content_hash(Path(image)),
        "mask": mask_digest,
        "weights": read_sidecar(members[0])["weights_sha256"],
        **{f"weights_{n}": sha256_of(w) for n, w in enumerate(members[1:], start=2)},
        "beside": None if beside is None else read_sidecar(beside)["weights_sha256"],
        "clinical": None if clinical is None else content_hash(Path(clinical)),
        "calibration": None if calibration is None else content_hash(Path(calibration)),
    }
    if mapping is not None:
        inputs["labels"] = content_hash(mapping)
    facts = {
        "case_id": case_id,
        "labels": "mapping" if mapping is not None else scheme,
        "mask_source": source.kind,
        "compare_mask": compare_mask,
        "series_uid": series_uid,
        "explain": explain,
        "layer": layer if explain else None,
        "export": list(export),
        "deidentify": deidentify,
    }
    record = run_record("predict", facts, inputs)
    write_json(out / "run.json", record if hide is None else _without_origin(record))
    return prediction


def _without_origin(record: Json) -> Json:
    """Return the record of a run without what leads back to the patient.

    Whoever holds the input could know it again by its digest, and the run by the day.
    """
    inputs = record["inputs_sha256"] | {"image": None, "mask": None, "clinical": None}
    settings = record["settings"] | {"series_uid": None}
    return record | {"time": None, "inputs_sha256": inputs, "settings": settings}


def _compare_row(
    image: str | Path, series_uid: str | None, clinical: str | Path
) -> tuple[CaseWarning, ...]:
    """Compare a clinical row with the header; warn of its age where the header has none.

    Raises:
        CaseRefused: ``header_conflict``; what opening the CT or the row raises.
    """
    row = read_row(clinical).iloc[0]
    age, sex, scanned = (
        None if name not in row or pd.isna(row[name]) else row[name]
        for name in ("age", "sex", "scan_date")
    )
    facts = open_volume(image, series_uid).facts
    day = None if scanned is None else pd.Timestamp(scanned).date()
    check_expected(facts, Expected(None if age is None else float(age), sex, day))
    if age is None or (facts is not None and facts.age_years is not None):
        return ()
    return tuple(age_warnings(float(age)))


def _settle_mask(source: MaskSource, scheme: str | None, out: Path) -> None:
    """Make the mask that is asked for, compare and draw one that is given, before a network scores.

    Raises:
        CaseRefused: the CT, the segmentation or the comparison; a picture of a disagreement stays.
    """
    if source.path is None:
        return  # the preprocessing itself refuses what is to be refused
    case = load_case(
        source.image,
        source,
        series_uid=source.series_uid,
        scheme=scheme if source.kind == "given" else None,
    )
    check_case(case)
    try:
        source.review(case)
    except CaseRefused:
        for picture in source.folder.glob(DISAGREEMENT):
            shutil.move(picture, out / DISAGREEMENT)
        raise


def _score(
    item: Json,
    weights: str | Path,
    folder: Path,
    layer: str,
    networks: dict[Path, TrainedModel] | None,
) -> Prediction:
    """Run the bundle's inference of one case with one network; with a layer, draw heat maps.

    Raises:
        CaseRefused: as the preprocessing did.
    """
    names = ["common", "inference", *(["gradcam"] if layer else [])]
    settings: Json = {"layer": layer, "show_attention": True} if layer else {}
    if networks is not None:
        if Path(weights) not in networks:
            networks[Path(weights)] = TrainedModel(weights)
        settings["model"] = networks[Path(weights)]  # an object: the parser leaves it alone
    run_bundle(names, "infer", weights=Path(weights), cases=(item,), output_dir=folder, **settings)
    prediction = read_prediction(folder / item["case_id"] / "prediction.json")
    if prediction.refusal is not None:
        refusal = prediction.refusal
        raise CaseRefused(refusal.code, refusal.message, refusal.remedy)
    return prediction


def read_prediction(path: str | Path) -> Prediction:
    """Read a ``prediction.json``."""
    return Prediction.from_json(json.loads(Path(path).read_text(encoding="utf-8")))


def picture(
    item: Json, weights: str | Path, layer: str = "layer3"
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the network's input (H, W, slices) in [-1, 1] and its heat in [0, 1] for drawing.

    Args:
        item: ``image`` and ``mask``; for weights that take clinical variables also ``clinical``,
            the path of a one-row table.
        weights: checkpoint with its sidecar.
        layer: encoder stage for GradCAM.
    """
    model = TrainedModel(weights)
    with quiet():
        image = model.preprocessing(item)["image"].as_tensor()
    clinical = None
    statistics = Standardiser.from_settings(model.clinical)
    if statistics is not None:
        if item.get("clinical") is None:
            raise CaseRefused("clinical_invalid", f"needed: {', '.join(statistics.names)}")
        scaled, _ = statistics(row_values(item["clinical"], statistics.names))
        clinical = torch.from_numpy(scaled)[None]
    heat = gradcam(model.network_def, image[None], layer, clinical=clinical)
    return image[0].numpy(), heat[0].numpy()


def _draw_beside(
    item: Json, weights: str | Path, beside: str | Path, layer: str, folder: Path
) -> None:
    """Draw two models' heat maps of one case, as the paper's Figure 3 does."""
    facts = json.loads((folder / "prediction.json").read_text(encoding="utf-8"))
    configs = [read_sidecar(w)["config"] for w in (weights, beside)]
    names = [IMAGE_CLASSES.get(c["image_class"], c["image_class"]) for c in configs]
    windows = [(float(c["window_hu"][0]), float(c["window_hu"][1])) for c in configs]
    first, second = (picture(item, w, layer) for w in (weights, beside))
    montage(
        *first,
        slice_titles(facts),
        folder / "gradcam_beside.png",
        second=second,
        names=(names[0], names[1]),
        caption=score_caption(facts),
        window_hu=windows[0],
        second_window_hu=windows[1],
    )
