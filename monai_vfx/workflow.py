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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose

from monai_vfx.bundle_parts import split_cohort
from monai_vfx.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.explanation import gradcam
from monai_vfx.report.montage import montage, score_caption, slice_titles
from monai_vfx.results import ModelFacts, Prediction, Refusal, SliceRecord, run_record, write_json
from monai_vfx.shapes import Json
from monai_vfx.volumes import content_hash
from monai_vfx.weights import TrainedModel, bundle_root, read_sidecar

IMAGE_CLASSES = {"bone_muscle": "bone + muscle", "bone": "bone only"}
"""Image class of the configs → its name on figures."""


def config_files(names: Iterable[str]) -> list[str]:
    """Return the paths of the bundle's configs of these names; a path to a YAML file stays.

    Raises:
        SettingError: a name that is neither, with the names there are.

    >>> [Path(p).name for p in config_files(["common", "bone_only"])]
    ['common.yaml', 'bone_only.yaml']
    """
    folder = bundle_root() / "configs"
    paths = []
    for name in names:
        path = folder / f"{name}.yaml"
        if not path.is_file():
            path = Path(name)
        if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
            raise SettingError(f"overlay {name!r} is neither a file nor one of: {known}")
        paths.append(str(path))
    return paths


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
    with _quiet():
        chain: Compose = parser.get_parsed_content("preprocessing")
    return chain


def run_bundle(
    names: Iterable[str], workflow_type: Literal["train", "infer"], **settings: Any
) -> None:
    """Run the bundle with these configs, later ones over earlier ones, and these settings."""
    with _quiet():
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
def _quiet() -> Iterator[None]:
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
    mask: str | Path | None,
    *,
    weights: str | Path,
    out: str | Path,
    case: str = "case",
    series_uid: str | None = None,
    scheme: str | None = None,
    explain: bool = False,
    beside: str | Path | None = None,
    layer: str = "layer3",
) -> Prediction:
    """Score one CT through the bundle's inference.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        mask: label map or folder of per-structure files.
        weights: checkpoint with its sidecar.
        out: folder for ``prediction.json`` and ``run.json``; with ``explain`` also
            ``gradcam.nii.gz``, ``gradcam.png`` and the attention maps likewise.
        case: the caller's name for the case.
        series_uid: which series, where there are several.
        scheme: label scheme of the mask, where it is not to be found out.
        explain: write heat maps.
        beside: a second checkpoint, drawn beside the first in ``gradcam_beside.png``.
        layer: encoder stage for GradCAM.

    Raises:
        CaseRefused: with the code of the rule that the case breaks.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    item = {"case": case, "image": str(image), "mask": None if mask is None else str(mask)}
    item |= {"series_uid": series_uid} if series_uid else {}
    item |= {"scheme": scheme} if scheme else {}
    names = ["common", "inference", *(["gradcam"] if explain else [])]
    settings: Json = {"layer": layer, "show_attention": True} if explain else {}
    with tempfile.TemporaryDirectory(dir=out, prefix=".run_") as scratch:
        run_bundle(
            names,
            "infer",
            weights=str(weights),
            cases=[item],
            output_dir=scratch,
            **settings,
        )
        for file in (Path(scratch) / case).iterdir():
            shutil.move(str(file), out / file.name)
    prediction = read_prediction(out / "prediction.json")
    if prediction.refusal is not None:
        refusal = prediction.refusal
        raise CaseRefused(refusal.code, refusal.message, refusal.remedy)
    if beside is not None:
        _draw_beside(item, weights, beside, layer, out / "gradcam_beside.png")
    inputs = {
        "image": content_hash(Path(image)),
        "weights": str(read_sidecar(weights)["weights_sha256"]),
    }
    if mask is not None:
        inputs["mask"] = content_hash(Path(mask))
    command = "explain" if explain else "predict"
    facts = {"case": case, "labels": scheme, "layer": layer if explain else None}
    write_json(out / "run.json", run_record(command, facts, inputs))
    return prediction


def train(
    cohort: str | Path,
    *,
    out: str | Path,
    fold: int = 0,
    folds: int = 10,
    overlays: Sequence[str] = (),
    epochs: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> Json:
    """Train on one fold; a run that was stopped goes on from its newest checkpoint.

    Args:
        cohort: table as :func:`monai_vfx.cohort.read_cohort` takes it.
        out: folder for ``model.pt``, its sidecar, the learning curve and checkpoints.
        fold: which fold is held out for validation, from 0.
        folds: number of folds.
        overlays: names of the bundle's overlays, or YAML files.
        epochs: number of epochs; the overlays' or the study's by default.
        seed: of folds, weights and draws.
        **settings: values for any other setting of the configs.

    Returns:
        ``weights``, and ``epoch`` and ``val_auroc`` of the best checkpoint.

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: a fold or overlay that does not exist.
    """
    out = Path(out)
    chosen: Json = {"cohort": str(cohort), "output_dir": str(out), "seed": seed}
    chosen |= {"fold": fold, "folds": folds, "resume": True, **settings}
    if epochs is not None:
        chosen["max_epochs"] = epochs
    split_cohort(cohort, fold, folds, seed)  # wrong folds are named before weights are fetched
    run_bundle(["common", "train", *overlays], "train", **chosen)
    facts = {**chosen, "overlays": list(overlays)}
    facts = {name: value for name, value in facts.items() if name not in ("cohort", "output_dir")}
    write_json(out / "run.json", run_record("train", facts, {"cohort": content_hash(Path(cohort))}))
    best = read_sidecar(out / "model.pt")["validation"]
    return {"weights": str(out / "model.pt"), "epoch": best["epoch"], "val_auroc": best["auroc"]}


def evaluate(cohort: str | Path, *, weights: str | Path, out: str | Path, workers: int = 0) -> Json:
    """Score a labelled cohort through the bundle: ``predictions.csv`` and ``metrics.json``.

    Args:
        cohort: table as :func:`monai_vfx.cohort.read_cohort` takes it.
        weights: checkpoint with its sidecar.
        out: folder for the results.
        workers: processes that prepare images; 0 prepares them in this one.

    Returns:
        The metrics: AUROC with its DeLong interval, n and events.
    """
    run_bundle(
        ["common", "inference", "evaluate"],
        "infer",
        cohort=str(cohort),
        weights=str(weights),
        output_dir=str(out),
        workers=workers,
    )
    metrics: Json = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def read_prediction(path: str | Path) -> Prediction:
    """Read a ``prediction.json``."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    model, refusal, interval = (document[n] for n in ("model", "refusal", "risk_5y_interval"))
    slices = tuple(
        SliceRecord(**{**record, "centre_mm": tuple(record["centre_mm"])})
        for record in document["slices"]
    )
    return Prediction(
        **{
            **document,
            "model": None if model is None else ModelFacts(**model),
            "levels": tuple(document["levels"]),
            "spacing_mm": document["spacing_mm"] and tuple(document["spacing_mm"]),
            "risk_5y_interval": interval and tuple(interval),
            "slices": slices,
            "warnings": tuple(CaseWarning(**warning) for warning in document["warnings"]),
            "refusal": None if refusal is None else Refusal(**refusal),
        }
    )


def picture(
    item: Json, weights: str | Path, layer: str = "layer3"
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the network's input (H, W, slices) in [-1, 1] and its heat in [0, 1] for drawing."""
    model = TrainedModel(weights)
    with _quiet():
        image = model.preprocessing(item)["image"].as_tensor()
    heat = gradcam(model.network_def, image[None], layer)
    return image[0].numpy(), heat[0].numpy()


def _draw_beside(
    item: Json, weights: str | Path, beside: str | Path, layer: str, path: Path
) -> None:
    """Draw two models' heat maps of one case, as the paper's Figure 3 does."""
    facts = json.loads((path.parent / "prediction.json").read_text(encoding="utf-8"))
    classes = [str(read_sidecar(w)["config"]["image_class"]) for w in (weights, beside)]
    names = [IMAGE_CLASSES.get(image_class, image_class) for image_class in classes]
    first, second = (picture(item, w, layer) for w in (weights, beside))
    montage(
        *first,
        slice_titles(facts),
        path,
        second=second,
        names=(names[0], names[1]),
        caption=score_caption(facts),
    )
