"""Drive the bundle: merged configs → MONAI workflow → results. The same configs as on its own.

Every function here runs what ``python -m monai.bundle run`` runs with the bundle's configs; it adds
the record of the run and puts the files where the command line promises them.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose

from monai_vfx.bundle_parts import Standardiser, fit_clinical, split_cohort
from monai_vfx.bundle_parts.combining import calibrate, combine, judge_distance
from monai_vfx.bundle_parts.covariates import read_row, row_values
from monai_vfx.bundle_parts.data import append_refusals
from monai_vfx.bundle_parts.exporting import export_case
from monai_vfx.bundle_parts.overlays import (
    config_files,
    default_folds,
    training_configs,
)
from monai_vfx.cohort import read_cohort, table_sha256
from monai_vfx.cohort.gate import apply_gate, gate_facts, read_gate
from monai_vfx.dicom.facts import Expected, check_expected
from monai_vfx.dicom.headers import Deidentifier
from monai_vfx.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.explanation import gradcam
from monai_vfx.label_mapping import is_mapping_file
from monai_vfx.mask_sources import MaskSource
from monai_vfx.mask_sources.cohorts import with_masks
from monai_vfx.mask_sources.source import DISAGREEMENT, GIVEN_PICTURE, MADE_FILES
from monai_vfx.outputs import Export
from monai_vfx.outputs.export import FILES as EXPORTED
from monai_vfx.preflight import age_warnings, check_case, load_case
from monai_vfx.report.montage import montage, score_caption, slice_titles
from monai_vfx.results import (
    Prediction,
    check_case_name,
    run_record,
    write_json,
)
from monai_vfx.shapes import Json
from monai_vfx.volumes import content_hash, open_volume
from monai_vfx.weights import TrainedModel, bundle_root, read_sidecar, sha256_of

_LOG = logging.getLogger(__name__)
IMAGE_CLASSES = {
    "bone_muscle": "bone + muscle",
    "bone": "bone only",
    "bone_muscle_three_windows": "bone + muscle, three windows",
}
"""Image class of the configs → its name on figures."""
UNCHANGED = "unchanged"
"""Leaves a setting as the configs have it, where None is a value."""
RESULTS = (
    *("prediction.json", "refused.json", "run.json", "gradcam*.*", "attention_*.*"),
    *(*MADE_FILES, GIVEN_PICTURE, DISAGREEMENT, *EXPORTED),
)
"""What a prediction leaves in its folder."""


def preprocessing(**settings: Any) -> Compose:
    """Return the bundle's chain from paths to the network's input, without random parts.

    Args:
        **settings: values for settings of ``common.yaml``, such as ``masked=True``.

    Returns:
        Takes ``{"image": path, "mask": path}``; its ``image`` is (1, H, W, slices) in [-1, 1].

    Raises:
        KeyError: a setting that ``common.yaml`` does not have.
    """
    parser = ConfigParser()
    parser.read_config(config_files(["common"]))
    unknown = sorted(set(settings) - set(parser.get("model_settings")))
    if unknown:
        raise KeyError(f"not a setting of the chain: {', '.join(unknown)}")
    parser.update(settings)
    with quiet():
        chain: Compose = parser.get_parsed_content("preprocessing")
    return chain


def run_bundle(
    names: Iterable[str], workflow_type: Literal["train", "infer"], **settings: Any
) -> None:
    """Run the bundle with these configs, later ones over earlier ones, and these settings.

    A text among the settings is read as MONAI's configuration language ($ runs Python, @ and %
    refer, # becomes ::). What comes from the user goes in as a Path or within a tuple, which the
    parser leaves alone.
    """
    with quiet():
        workflow = ConfigWorkflow(
            config_file=config_files(names),
            meta_file=str(bundle_root() / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type=workflow_type,
            **settings,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep two remarks of MONAI from the user, who can do nothing about them.

    ``LoadImage`` creates every reader it knows and one of them misses a GPU decoder; the workflow
    says that no logging file was given.
    """
    loggers = [
        logging.getLogger(name)
        for name in ("monai.data.nvimgcodec_pydicom_plugin", "monai.bundle.workflows")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "NvImgCodecPydicomReader", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def predict(
    image: str | Path,
    mask: str | Path | None = "auto",
    *,
    weights: str | Path | Sequence[str | Path],
    out: str | Path,
    case: str = "case",
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
        mask: label map or folder of per-structure files; ``auto``: the localiser makes one;
            ``totalsegmentator``, ``spine-segment``: that tool does.
        weights: checkpoint with its sidecar; of several the score is the mean probability. One
            with an ``outliers.json`` beside it says whether the case is unlike its training's.
        out: folder for ``prediction.json`` and ``run.json``; with ``explain`` also
            ``gradcam.nii.gz``, ``gradcam.png`` and the attention maps likewise. Of a mask that is
            made also ``mask.nii.gz``, ``mask.dcm`` (of a DICOM series) and ``localiser.png``, of
            one that is given ``mask.png``.
        case: the caller's name for the case.
        series_uid: which series, where there are several.
        scheme: label scheme of the mask, or path of a label mapping, where it is not to be found
            out.
        clinical: table of one row, for weights or a calibration that take clinical variables.
        calibration: ``calibration.json`` that turns the score into an absolute five-year risk;
            with several weights also into its interval.
        explain: write heat maps, of the first weights.
        beside: a second checkpoint, drawn beside the first in ``gradcam_beside.png``.
        layer: encoder stage for GradCAM.
        compare_mask: whether the levels of a mask that the localiser did not make are compared
            with what it finds.
        export: ``dicom`` and ``fhir``, see :mod:`monai_vfx.outputs`.
        deidentify: leave everything out of all files that leads back to the patient: identity,
            dates, UIDs and the digests of CT, mask and clinical row.
        networks: those that earlier cases loaded; further ones are added.

    Raises:
        CaseRefused: with the code of the rule that the case breaks, ``header_conflict`` where the
            clinical row contradicts the header among them; with ``mask_disagrees`` the
            picture ``mask_disagrees.png`` is left in ``out``.
        MissingDependencyError: TotalSegmentator is asked for and not installed.
        SettingError: a calibration that cannot be used; an export of DICOM from another format.
    """
    out = Path(out)
    hide = Deidentifier() if deidentify else None
    exporter = Export(export, image, series_uid, hide)
    out.mkdir(parents=True, exist_ok=True)
    check_case_name(case)
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
        item: Json = {"case": case, "image": str(image)}
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
        made = folders[0] / case
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
        "case": case,
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
        CaseRefused: the CT, the localiser or the comparison; a picture of a disagreement stays.
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
    prediction = read_prediction(folder / item["case"] / "prediction.json")
    if prediction.refusal is not None:
        refusal = prediction.refusal
        raise CaseRefused(refusal.code, refusal.message, refusal.remedy)
    return prediction


def train(
    cohort: str | Path,
    *,
    out: str | Path,
    fold: int = 0,
    folds: int | None = None,
    test_fold: int | None = None,
    overlays: Sequence[str] = (),
    epochs: int | None = None,
    seed: int | None = None,
    pretrained: str | None = UNCHANGED,
    cache_dir: str | Path | None = None,
    made_masks: str = "auto",
    mask_dir: str | Path | None = None,
    gate: str | Path | None = None,
    exclude_warnings: Sequence[str] = (),
    tell: Callable[[str], None] = _LOG.info,
) -> Json:
    """Train on one fold; a run that was stopped goes on from its newest checkpoint.

    However often it was stopped, it ends with the weights of a run that never was.

    Args:
        cohort: table as :func:`monai_vfx.cohort.read_cohort` takes it.
        out: folder for ``model.pt``, its sidecar, ``split.json``, the learning curve and
            checkpoints.
        fold: which fold is held out for validation, from 0: it chooses the epoch.
        folds: number of folds; by default that of the table's column ``fold``, where it has one,
            else the overlays' or 10.
        test_fold: which fold is left out entirely, to test on; None leaves out none.
        overlays: names in :mod:`monai_vfx.bundle_parts.overlays`, or YAML files, in order.
        epochs: number of epochs; the overlays' or 50 by default.
        seed: of folds, weights and draws; 0 by default.
        pretrained: first weights of the encoder: ``imagenet``, a local file, or None for random
            ones; the overlays' or ``imagenet`` by default.
        cache_dir: folder of prepared images, which further trainings may share.
        made_masks: who makes the masks of rows that name none: ``auto`` (the localiser) or
            a tool's name. A CT whose vertebrae cannot be named is listed in
            ``refused.jsonl`` and left out.
        mask_dir: folder of such masks, which further trainings may share; ``masks`` in ``out``
            by default.
        gate: ``check.csv`` of the table's CTs; whom it refuses is left out before the folds are
            made, and listed in ``refused.jsonl``. What remains is ``gate/cohort.csv`` in ``out``.
        exclude_warnings: codes of its warnings that leave out as well.
        tell: called with a line about each such mask.

    Returns:
        ``weights``, and ``epoch`` and ``val_auroc`` of the best checkpoint.

    Raises:
        CaseRefused: ``cohort_invalid``, or ``gate_stale``.
        SettingError: a fold, overlay or setting that cannot be used.
    """
    out, given = Path(out), Path(cohort)
    gated: Json = {}
    left_out: dict[str, CaseRefused] = {}
    if gate is not None:
        verdicts = read_gate(gate, exclude_warnings)
        cohort, found = apply_gate(cohort, verdicts, out / "gate")
        gated = {"gate": gate_facts(verdicts, found)}
        left_out = {case: entry.refusal for case, entry in found.items()}
    names, settings = training_configs(overlays)
    chosen: Json = {"fold": fold, "folds": folds or default_folds(overlays, cohort)}
    chosen |= {"test_fold": test_fold, "max_epochs": epochs, "seed": seed, **settings}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if pretrained != UNCHANGED:
        chosen["pretrained"] = _plain_or_path(pretrained)
    merged = ConfigParser.load_config_files(config_files(names)) | chosen
    # Wrong folds and tables are named before weights are fetched.
    split = (fold, merged["folds"], merged["seed"], test_fold)
    clinical = fit_clinical(merged["clinical_model"], cohort, *split)
    split_cohort(cohort, *split, clinical, merged["hazard_years"])
    table = with_masks(cohort, mask_dir or out / "masks", made_masks, tell)
    paths = {"cohort": table, "output_dir": out}
    paths |= {} if cache_dir is None else {"cache_dir": Path(cache_dir)}
    run_bundle(names, "train", resume=True, **paths, **chosen)
    append_refusals(out / "refused.jsonl", left_out)
    facts = {**chosen, **gated, "overlays": [_named(overlay) for overlay in overlays]}
    facts |= {} if table == Path(cohort) else {"made_masks": made_masks}
    if isinstance(chosen.get("pretrained"), Path):
        facts["pretrained"] = _named(chosen["pretrained"])
    inputs = {"cohort": content_hash(given)}
    inputs |= {} if gate is None else {"gate": sha256_of(gate)}
    write_json(out / "run.json", run_record("train", facts, inputs))
    best = read_sidecar(out / "model.pt")["validation"]
    return {"weights": str(out / "model.pt"), "epoch": best["epoch"], "val_auroc": best["auroc"]}


def _plain_or_path(text: str | None) -> str | Path | None:
    """Return a file's path as an object that the config parser does not read as its language."""
    if text is None or text.isidentifier():
        return text
    if not Path(text).is_file():
        raise SettingError(f"pretrained {text!r} is neither imagenet nor an existing file")
    return Path(text)


def _named(file: str | Path) -> str:
    """Return how a record names a file: its own name and the SHA-256 of its content."""
    path = Path(file)
    return f"{path.name} sha256:{content_hash(path)}" if path.is_file() else str(file)


def evaluate(
    cohort: str | Path,
    *,
    weights: str | Path,
    out: str | Path,
    fold: int | None = None,
    folds: int | None = None,
    seed: int | None = None,
    workers: int = 0,
    cache_dir: str | Path | None = None,
    made_masks: str = "auto",
    mask_dir: str | Path | None = None,
) -> Json:
    """Score a labelled cohort through the bundle.

    Args:
        cohort: table as :func:`monai_vfx.cohort.read_cohort` takes it.
        weights: checkpoint with its sidecar.
        out: folder for ``predictions.csv`` (case, label, score, with a hazard head
            ``risk_year_1`` …), ``features.csv`` (what the network's head sees), ``metrics.json``
            and ``refused.jsonl``.
        fold: score the patients of this fold only, such as the training's ``test_fold``.
        folds: number of folds; by default that of the weights' training.
        seed: of the split; by default that of the weights' training.
        workers: processes that prepare images; 0 prepares them in this one.
        cache_dir: folder of prepared images, which trainings on the same images may share.
        made_masks: who makes the masks of rows that name none, as for :func:`train`.
        mask_dir: folder of such masks; ``masks`` in ``out`` by default.

    Returns:
        The metrics: AUROC with its DeLong interval, n and events.

    Raises:
        CaseRefused: ``cohort_invalid``, or the weights cannot be used.
        SettingError: the weights were trained on this fold of this very table.
    """
    sidecar = read_sidecar(weights)
    chosen: Json = {}
    if fold is not None:
        training = sidecar["training"]
        defaults = {"folds": folds or training.get("folds"), "seed": seed}
        defaults["seed"] = training.get("seed") if seed is None else seed
        chosen = {"fold": fold, **{n: v for n, v in defaults.items() if v is not None}}
        _check_unseen(fold, sidecar, cohort)
    read_cohort(cohort)  # faults are named before masks are made
    run_bundle(
        ["common", "inference", "evaluate"],
        "infer",
        cohort=with_masks(cohort, mask_dir or Path(out) / "masks", made_masks, _LOG.info),
        weights=Path(weights),
        output_dir=Path(out),
        workers=workers,
        cache_dir=None if cache_dir is None else Path(cache_dir),
        **chosen,
    )
    inputs = {"cohort": content_hash(Path(cohort)), "weights": sidecar["weights_sha256"]}
    write_json(Path(out) / "run.json", run_record("evaluate", chosen, inputs))
    metrics: Json = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _check_unseen(fold: int, sidecar: Json, cohort: str | Path) -> None:
    """Refuse to score a fold that the weights were trained on as if it had been held out."""
    training = sidecar["training"]
    held_out = [training[n] for n in ("fold", "test_fold") if training.get(n) is not None]
    same_table = sidecar["trained_on"]["cohort_sha256"] == table_sha256(cohort)
    if same_table and fold not in held_out:
        raise SettingError(
            f"fold ({fold}) is one that these weights were trained on; held out were {held_out}"
        )


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
