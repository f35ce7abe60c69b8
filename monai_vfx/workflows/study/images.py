"""The networks of a study: trained fold by fold, each tested on patients it never saw.

Of K folds, model k is tested on fold k, chooses its epoch and thresholds on fold k + 1 and trains
on the others. On the external hospital the mean of the K probabilities is the score.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from monai_vfx.core.errors import SettingError
from monai_vfx.workflows.study.plan import Plan


@dataclass(frozen=True)
class ImageModel:
    """One network of a study.

    ``name`` is its folder under ``image/``, ``score`` its column in the study's predictions and
    ``column`` that in its own evaluations. ``further_seed``: it only shows the spread over seeds.
    """

    name: str
    score: str
    overlays: tuple[str, ...]
    seed: int
    column: str = "score"
    further_seed: bool = False


def image_models(plan: Plan) -> list[ImageModel]:
    """List the networks that a plan trains, in the order of the paper's tables."""
    images = plan.images
    # Those of every training come last: they may make any image class small.
    main = (*images.models.get(images.main, ()), *images.overlays)
    models = [
        ImageModel(name, f"image_{name}", (*overlays, *images.overlays), plan.seed)
        for name, overlays in images.models.items()
    ]
    if not images.models:
        return []
    models += [
        ImageModel(f"fusion_{m}", f"fusion_{m}", (*main, f"clinical_{m}"), plan.seed)
        for m in images.fusion
    ]
    if images.hazard:
        models.append(
            ImageModel("hazard", "image_hazard", (*main, "hazard"), plan.seed, "risk_year_5")
        )
    further = [
        replace(model, name=f"{model.name}_seed_{seed}", seed=seed, further_seed=True)
        for seed in images.further_seeds
        for model in models[: len(images.models)]
    ]
    return models + further


def check_models(plan: Plan) -> None:
    """Check overlays and pretrained weights before the first training."""
    models = image_models(plan)
    if not models:
        return
    from monai.bundle import ConfigParser

    from monai_vfx.model.bundle.overlays import config_files, training_configs
    from monai_vfx.model.encoder import check_pretrained

    given = [model.name for model in models]
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise SettingError(
            f"images: models: {', '.join(twice)}: the study itself gives this name, choose another"
        )
    first = plan.images.pretrained
    if first is not None and Path(first).is_absolute() and not Path(first).is_file():
        raise SettingError(f"images: pretrained: {Path(first).name!r} does not exist")
    for model in models:
        names, settings = training_configs(model.overlays)
        merged = ConfigParser.load_config_files(config_files(names)) | settings
        chosen = merged["pretrained"] if first is None else first
        check_pretrained(merged["backbone"], None if chosen == "none" else chosen)


def train_fold(
    plan: Plan, model: ImageModel, fold: int, table: Path, folder: Path, cache: Path
) -> list[Path]:
    """Train on all folds but two, score these two, and return the files of the result.

    ``fold`` is tested on, the next one chooses the epoch. A training resumes from the newest
    checkpoint in ``folder``; all share the prepared images in ``cache``.
    """
    from monai_vfx.workflows.train import train

    settings: dict[str, Any] = {}
    if plan.images.pretrained is not None:
        chosen = plan.images.pretrained
        settings["pretrained"] = None if chosen == "none" else chosen
    validation = (fold + 1) % plan.folds
    result = [folder / name for name in ("model.pt", "model.json", "split.json")]
    begun = any(folder.glob("last_checkpoint_epoch=*.pt"))
    if begun and not all(path.is_file() for path in result):
        shutil.rmtree(folder)  # checkpoints alone do not bring back the best epoch's weights
    train(
        table,
        out=folder,
        fold=validation,
        test_fold=fold,
        folds=plan.folds,
        overlays=model.overlays,
        epochs=plan.images.epochs,
        seed=model.seed,
        cache_dir=cache,
        **settings,
    )
    parts: dict[str, int | None] = {"test": fold, "validation": validation}
    if model.name == plan.images.main:  # whose features say what the network was trained on
        parts["everyone"] = None
    for part, scored in parts.items():
        _evaluate(plan, table, folder, part, cache, fold=scored, folds=plan.folds)
    check_failures(folder)
    for checkpoint in folder.glob("last_checkpoint_epoch=*.pt"):
        checkpoint.unlink()  # hundreds of MB, of no use once the training is done
    made = [*result, *(folder / part / "predictions.csv" for part in parts)]
    return made + [folder / part / "features.csv" for part in parts]


def score_external(plan: Plan, table: Path, folder: Path, cache: Path) -> list[Path]:
    """Score the external patients with one fold's network."""
    _evaluate(plan, table, folder, "external", cache)
    return [folder / "external" / name for name in ("predictions.csv", "features.csv")]


def _evaluate(plan: Plan, table: Path, folder: Path, part: str, cache: Path, **folds: Any) -> None:
    """Score patients with one fold's network, into the folder ``part`` of its training."""
    from monai_vfx.workflows.train import evaluate

    weights, workers, out = folder / "model.pt", plan.images.workers, folder / part
    evaluate(table, weights=weights, out=out, workers=workers, cache_dir=cache, **folds)
    check_failures(out)


def check_failures(folder: Path) -> None:
    """Stop where a failure (code ``internal``), such as a full disk, left out an image."""
    path = folder / "refused.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    failed = [line for line in map(json.loads, lines) if line["code"] == "internal"]
    if failed:
        raise RuntimeError(
            f"{len(failed)} images could not be prepared ({failed[0]['message']}): remove the "
            "cause and start the study again"
        )


def fold_scores(folder: Path, part: str, column: str = "score") -> pd.Series[float]:
    """Return the scores of one evaluation by case; a refused case has none."""
    table = pd.read_csv(folder / part / "predictions.csv", dtype={"case_id": str})
    return table.set_index("case_id")[column].astype(float)


def out_of_fold(root: Path, model: ImageModel, folds: int) -> pd.Series[float]:
    """Return each development patient's score by the network that never saw this patient."""
    return pd.concat(
        [fold_scores(root / model.name / f"fold_{k}", "test", model.column) for k in range(folds)]
    )


def ensemble(root: Path, model: ImageModel, folds: int) -> pd.DataFrame:
    """Return the external patients' scores, a column a fold; their mean is the study's score."""
    members = {
        f"fold_{k}": fold_scores(root / model.name / f"fold_{k}", "external", model.column)
        for k in range(folds)
    }
    return pd.DataFrame(members)


def validation_scores(root: Path, model: ImageModel, folds: int) -> pd.DataFrame:
    """Return the scores of the patients who chose an epoch: rows (case_id, fold, score).

    ``fold`` is the one that the network is tested on.
    """
    parts = []
    for k in range(folds):
        scores = fold_scores(root / model.name / f"fold_{k}", "validation", model.column)
        parts.append(pd.DataFrame({"case_id": scores.index, "fold": k, "score": scores.to_numpy()}))
    return pd.concat(parts, ignore_index=True)
