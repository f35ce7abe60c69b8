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
from yaml import YAMLError

from monai_vfx.bundle_parts import check_overlay, split_cohort
from monai_vfx.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.explanation import gradcam
from monai_vfx.report.montage import montage, score_caption, slice_titles
from monai_vfx.results import (
    ModelFacts,
    Prediction,
    Refusal,
    SliceRecord,
    check_case_name,
    run_record,
    write_json,
)
from monai_vfx.shapes import Json
from monai_vfx.volumes import content_hash
from monai_vfx.weights import TrainedModel, bundle_root, read_sidecar

IMAGE_CLASSES = {"bone_muscle": "bone + muscle", "bone": "bone only"}
"""Image class of the configs → its name on figures."""
UNCHANGED = "unchanged"
"""Leaves a setting as the configs have it, where None is a value."""
OVERLAYS = ("bone_only", "cpu_small")
"""The bundle's overlays for training in one process."""
RESULTS = ("prediction.json", "refused.json", "run.json", "gradcam*.*", "attention_*.*")
"""What a prediction leaves in its folder."""


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
    """Run the bundle with these configs, later ones over earlier ones, and these settings.

    A text among the settings is read as MONAI's configuration language ($ runs Python, @ and %
    refer, # becomes ::). What comes from the user goes in as a Path or within a tuple, which the
    parser leaves alone.
    """
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
    check_case_name(case)
    item = {"case": case, "image": str(image), "mask": None if mask is None else str(mask)}
    item |= {"series_uid": series_uid} if series_uid else {}
    item |= {"scheme": scheme} if scheme else {}
    names = ["common", "inference", *(["gradcam"] if explain else [])]
    settings: Json = {"layer": layer, "show_attention": True} if explain else {}
    with tempfile.TemporaryDirectory(dir=out, prefix=".run_") as scratch:
        run_bundle(
            names,
            "infer",
            weights=Path(weights),
            cases=(item,),
            output_dir=Path(scratch),
            **settings,
        )
        made = Path(scratch) / case
        prediction = read_prediction(made / "prediction.json")
        if prediction.refusal is not None:
            refusal = prediction.refusal
            raise CaseRefused(refusal.code, refusal.message, refusal.remedy)
        if beside is not None:
            _draw_beside(item, weights, beside, layer, made)
        for pattern in RESULTS:  # of an earlier case; a heat map must not outlive its score
            for file in out.glob(pattern):
                file.unlink()
        for file in made.iterdir():
            shutil.move(file, out / file.name)
    inputs = {
        "image": content_hash(Path(image)),
        "mask": None if mask is None else content_hash(Path(mask)),
        "weights": read_sidecar(weights)["weights_sha256"],
        "beside": None if beside is None else read_sidecar(beside)["weights_sha256"],
    }
    facts = {
        "case": case,
        "labels": scheme,
        "series_uid": series_uid,
        "explain": explain,
        "layer": layer if explain else None,
    }
    write_json(out / "run.json", run_record("predict", facts, inputs))
    return prediction


def train(
    cohort: str | Path,
    *,
    out: str | Path,
    fold: int = 0,
    folds: int | None = None,
    overlays: Sequence[str] = (),
    epochs: int | None = None,
    seed: int | None = None,
    pretrained: str | None = UNCHANGED,
) -> Json:
    """Train on one fold; a run that was stopped goes on from its newest checkpoint.

    Args:
        cohort: table as :func:`monai_vfx.cohort.read_cohort` takes it.
        out: folder for ``model.pt``, its sidecar, the learning curve and checkpoints.
        fold: which fold is held out for validation, from 0.
        folds: number of folds; the overlays' or 10 by default.
        overlays: of :data:`OVERLAYS`, or YAML files.
        epochs: number of epochs; the overlays' or 50 by default.
        seed: of folds, weights and draws; 0 by default.
        pretrained: first weights of the encoder: ``imagenet``, a local file, or None for random
            ones; the overlays' or ``imagenet`` by default.

    Returns:
        ``weights``, and ``epoch`` and ``val_auroc`` of the best checkpoint.

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: a fold, overlay or setting that cannot be used.
    """
    out = Path(out)
    names = ["common", "train", *_check_overlays(overlays)]
    chosen: Json = {"fold": fold, "folds": folds, "max_epochs": epochs, "seed": seed}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if pretrained != UNCHANGED:
        chosen["pretrained"] = _plain_or_path(pretrained)
    merged = ConfigParser.load_config_files(config_files(names)) | chosen
    # Wrong folds are named before weights are fetched.
    split_cohort(cohort, fold, merged["folds"], merged["seed"])
    run_bundle(names, "train", cohort=Path(cohort), output_dir=out, resume=True, **chosen)
    facts = {**chosen, "overlays": [_named(overlay) for overlay in overlays]}
    if isinstance(chosen.get("pretrained"), Path):
        facts["pretrained"] = _named(chosen["pretrained"])
    inputs = {"cohort": content_hash(Path(cohort))}
    write_json(out / "run.json", run_record("train", facts, inputs))
    best = read_sidecar(out / "model.pt")["validation"]
    return {"weights": str(out / "model.pt"), "epoch": best["epoch"], "val_auroc": best["auroc"]}


def default_folds(overlays: Sequence[str]) -> int:
    """Return the number of folds that the configs name."""
    names = ["common", "train", *_check_overlays(overlays)]
    return int(ConfigParser.load_config_files(config_files(names))["folds"])


def _check_overlays(overlays: Sequence[str]) -> Sequence[str]:
    """Refuse what is no overlay of training in one process.

    Raises:
        SettingError: with what to do.
    """
    for name in overlays:
        if name == "multi_gpu":
            raise SettingError(
                "overlay 'multi_gpu' needs a process a GPU: torchrun --nproc_per_node=N -m "
                "monai.bundle run training …, see the bundle's README"
            )
        if name not in OVERLAYS and not Path(name).is_file():
            raise SettingError(f"overlay {name!r} is neither a file nor one of {OVERLAYS}")
        if name not in OVERLAYS:
            try:
                check_overlay(name)
            except (YAMLError, UnicodeDecodeError) as error:
                raise SettingError(f"overlay {name!r} is not YAML") from error
    return overlays


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
        cohort=Path(cohort),
        weights=Path(weights),
        output_dir=Path(out),
        workers=workers,
    )
    inputs = {
        "cohort": content_hash(Path(cohort)),
        "weights": read_sidecar(weights)["weights_sha256"],
    }
    write_json(Path(out) / "run.json", run_record("evaluate", {}, inputs))
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
