"""The work of single steps: each in a process of its own, done once, repeatable after a kill."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from monai.bundle import ConfigParser

from monai_vfx.analysis.clinical.crossfit import threshold_rows
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES
from monai_vfx.analysis.clinical.models import fit_clinical
from monai_vfx.analysis.clinical.variables import MODELS
from monai_vfx.core.workers import run_tasks
from monai_vfx.model.bundle.overlays import config_files
from monai_vfx.workflows.study.images import check_failures
from monai_vfx.workflows.study.steps import Steps
from monai_vfx.workflows.train import evaluate, train

RESULT = ("model.pt", "model.json", "split.json", "metrics_history.csv")
_WATCH = "watch of the parent"
MAX_REFUSED = 0.01
"""Share of a set that may be refused: simulated patients should all be accepted."""


@dataclass(frozen=True)
class Step:
    """A piece of work.

    Args:
        name: as ``train/bone/seed_0``; records and choices go by it.
        work: of this package's modules, returns the files that it leaves.
        settings: its arguments, to be pickled.
    """

    name: str
    work: Callable[..., Iterable[Path]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def run_steps(
    out: Path, chains: Sequence[Sequence[Step]], only: Sequence[str], workers: int
) -> None:
    """Do the chosen steps that are not done, chains side by side in ``workers`` processes.

    Args:
        out: folder of the experiment.
        chains: steps of one chain follow each other; no chain needs another.
        only: patterns such as ``train/bone*``; a step is chosen if any fits, or if there is none.
        workers: processes.

    Raises:
        RuntimeError: a process died.
    """
    tasks = []
    for chain in chains:
        chosen = chosen_steps(chain, only)
        if chosen:
            tasks.append((out, chosen, os.getpid()))
    for _ in run_tasks(_run_chain, tasks, workers, _died):
        pass


def chosen_steps(steps: Sequence[Step], only: Sequence[str]) -> tuple[Step, ...]:
    """Return the steps that a pattern fits, all where there is none."""
    return tuple(s for s in steps if not only or any(fnmatch(s.name, one) for one in only))


def is_recorded(out: Path, step: Step) -> bool:
    """Tell whether a step was done once, in this folder."""
    return (out / "steps" / f"{step.name.replace('/', '.')}.json").is_file()


def _run_chain(task: tuple[Path, tuple[Step, ...], int]) -> None:
    out, chain, parent = task
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_end_with, args=(parent,), name=_WATCH, daemon=True).start()
    for step in chain:
        Steps(out, _tell).run(step.name, partial(step.work, **step.settings))


def _end_with(parent: int) -> None:
    """End this process soon after its parent, lest a second run finds it in the same folder."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _died(task: tuple[Path, tuple[Step, ...], int]) -> None:
    names = ", ".join(step.name for step in task[1])
    raise RuntimeError(f"the process of {names} died (memory?): start again to go on")


def train_model(
    folder: Path,
    table: Path,
    overlays: Sequence[str],
    seed: int,
    folds: int,
    epochs: int | None,
    cache: Path,
    longer: float = 1.0,
) -> list[Path]:
    """Train one network, its first fold choosing the epoch, and score that fold.

    Args:
        folder: for the weights and the scores of the validation fold.
        table: the cohort.
        overlays: of the training.
        seed: of the training.
        folds: of the cohort; the first is held out.
        epochs: None as the overlays say.
        cache: folder of prepared images.
        longer: factor of the epochs.

    Raises:
        RuntimeError: images could not be prepared.
    """
    files = [folder / name for name in RESULT]
    begun = any(folder.glob("last_checkpoint_epoch=*.pt"))
    if begun and not all(path.is_file() for path in files):
        shutil.rmtree(folder)  # checkpoints alone do not bring back the best epoch's weights
    if longer != 1:
        epochs = round(longer * (epochs or epochs_of(overlays)))
    train(
        table,
        out=folder,
        fold=0,
        folds=folds,
        overlays=overlays,
        epochs=epochs,
        seed=seed,
        cache_dir=cache,
    )
    evaluate(table, weights=folder / "model.pt", out=folder / "validation", fold=0, cache_dir=cache)
    check_failures(folder)
    for checkpoint in folder.glob("last_checkpoint_epoch=*.pt"):
        checkpoint.unlink()
    return [*files, folder / "validation" / "predictions.csv"]


def epochs_of(overlays: Sequence[str]) -> int:
    """Return the epochs that a training with these overlays has."""
    merged = ConfigParser.load_config_files(config_files(["common", "train", *overlays]))
    return int(merged["max_epochs"])


def score_set(
    folder: Path, weights: Path, table: Path, cache: Path | None, max_refused: float = MAX_REFUSED
) -> list[Path]:
    """Score a set of patients with one network.

    Raises:
        RuntimeError: more than a share of ``max_refused`` of the patients were refused, as when
            the cache of prepared images was removed.
    """
    metrics = evaluate(table, weights=weights, out=folder, cache_dir=cache)
    check_failures(folder)
    (folder / "features.csv").unlink()
    if metrics["refused"] > max_refused * (metrics["n"] + metrics["refused"]):
        raise RuntimeError(
            f"{metrics['refused']} patients of {table.parent.name} were refused, see "
            f"{folder / 'refused.jsonl'}; if crops/ was removed, remove the set's folder too"
        )
    return [folder / "predictions.csv", folder / "metrics.json"]


def clinical_scores(folder: Path, training: Path, test: Path, seed: int) -> list[Path]:
    """Fit models A-D and the imaging baseline on one set and score another.

    Args:
        folder: for ``<model>.json``, ``scores.csv`` (case and a column a model) and
            ``thresholds.csv``.
        training: folder of the training set.
        test: folder of the set to score.
        seed: of the inner folds.
    """
    frame, table = _with_features(training), _with_features(test)
    fits = [(f"clinical_{letter}", MODELS[letter], "xgboost") for letter in MODELS]
    fits += [(f"logistic_{letter}", MODELS[letter], "logistic") for letter in MODELS]
    fits.append(("imaging_baseline", IMAGING_VARIABLES, "logistic"))
    scores, thresholds = table[["case_id"]].copy(), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, variables, kind in fits:
        model = fit_clinical(frame, variables, kind, seed)  # type: ignore[arg-type]
        model.save(folder / f"{name}.json")
        thresholds.append(
            threshold_rows(name, "frozen", frame["fracture"], model.inner_scores, "inner folds")
        )
        scores[name] = model.predict(table)
    scores.to_csv(folder / "scores.csv", index=False)
    pd.concat(thresholds).to_csv(folder / "thresholds.csv", index=False)
    names = [*(f"{name}.json" for name, *_ in fits), "scores.csv", "thresholds.csv"]
    return [folder / name for name in names]


def _with_features(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "cohort.csv", dtype={"case_id": str})
    features = pd.read_csv(folder / "features.csv", dtype={"case_id": str})
    return table.merge(features, on="case_id", validate="1:1")
