"""A cohort through the bundle: training on one fold, scores of a table."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from monai.bundle import ConfigParser

from monai_vfx.analysis.cohort.check_table import apply_gate, gate_facts, read_gate
from monai_vfx.analysis.cohort.training_items import read_cohort, table_sha256
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash, sha256_of
from monai_vfx.core.results import run_record
from monai_vfx.model.bundle.cohort import fit_clinical, split_cohort
from monai_vfx.model.bundle.datasets import append_refusals
from monai_vfx.model.bundle.overlays import config_files, default_folds, training_configs
from monai_vfx.model.checkpoint import read_sidecar
from monai_vfx.model.encoder import TIMM, check_pretrained
from monai_vfx.workflows.missing_masks import fill_missing_masks
from monai_vfx.workflows.run_bundle import run_bundle

_LOG = logging.getLogger(__name__)
UNCHANGED = "unchanged"
"""Leaves a setting as the configs have it, where None is a value."""


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
        cohort: table as :func:`monai_vfx.analysis.cohort.training_items.read_cohort` takes it.
        out: folder for ``model.pt``, its sidecar, ``split.json``, the learning curve and
            checkpoints.
        fold: which fold is held out for validation, from 0: it chooses the epoch.
        folds: number of folds; by default that of the table's column ``fold``, where it has one,
            else the overlays' or 10.
        test_fold: which fold is left out entirely, to test on; None leaves out none.
        overlays: names in :mod:`monai_vfx.model.bundle.overlays`, or YAML files, in order.
        epochs: number of epochs; the overlays' or 50 by default.
        seed: of folds, weights and draws; 0 by default.
        pretrained: weights that the encoder starts from: ``imagenet``, ``timm/NAME``, a local
            file, or None for random ones; the overlays' or ``imagenet`` by default.
        cache_dir: folder of prepared images, which further trainings may share.
        made_masks: who makes the masks of rows that name none: ``auto`` (the segmentation) or
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
    # Wrong settings, folds and tables are named before anything is made or fetched.
    check_pretrained(merged["backbone"], merged["pretrained"])
    split = (fold, merged["folds"], merged["seed"], test_fold)
    clinical = fit_clinical(merged["clinical_model"], cohort, *split)
    split_cohort(cohort, *split, clinical, merged["hazard_years"])
    table = fill_missing_masks(cohort, mask_dir or out / "masks", made_masks, tell)
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
    if text is None or text.isidentifier() or text.startswith(TIMM):
        return text
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
        cohort: table as :func:`monai_vfx.analysis.cohort.training_items.read_cohort` takes it.
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
        cohort=fill_missing_masks(cohort, mask_dir or Path(out) / "masks", made_masks, _LOG.info),
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
