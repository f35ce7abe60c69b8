"""Clinical models A-D and imaging baselines of a table, cross-validated (``vfx clinical``)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.crossfit import CrossFit, cross_fit, ensemble_score
from monai_vfx.analysis.clinical.engines import Floats
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES, feature_table
from monai_vfx.analysis.clinical.models import ClinicalModel
from monai_vfx.analysis.clinical.scores import (
    FRAX,
    IMAGING_BASELINE,
    MATCHED_ONLY,
    ModelPlan,
    both_outcomes,
    frozen_thresholds,
    lettered_models,
    other_folds_thresholds,
    save_fits,
)
from monai_vfx.analysis.clinical.variables import MATCHING_VARIABLES, MODELS, design_matrix
from monai_vfx.analysis.cohort.patients_csv import outcome_times, read_patients
from monai_vfx.analysis.cohort.variables import label
from monai_vfx.analysis.evaluation.discrimination import auroc, auroc_json
from monai_vfx.analysis.evaluation.estimates import CONFIDENCE
from monai_vfx.analysis.folds import table_folds
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import write_frame, write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.results import run_record

LABELS = {
    "sex": "Sex, female",
    "l1_trabecular_hu": "Trabecular bone of L1, HU",
    "t12_l4_trabecular_hu": "Trabecular bone of T12-L4, HU",
    "muscle_hu": "Muscle attenuation, HU",
    "muscle_area_cm2": "Muscle area at L3, cm²",
    "muscle_fat_fraction": "Muscle fat fraction",
}
"""Headings that the patient table's own do not give."""

Progress = Callable[[str, int, int], None]


def run_clinical(
    table: str | Path,
    out: str | Path,
    models: str = "ABCD",
    folds: int | None = None,
    seed: int = 0,
    *,
    external: str | Path | None = None,
    imaging: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Json:
    """Cross-validate the clinical models of a table, and test them on another.

    Scores: ``clinical_A`` … (XGBoost), ``logistic_A`` …, ``matched_only`` (logistic on age, sex
    and BMI: after matching on these it should find nothing), ``imaging_baseline`` (logistic on
    the measurements), and FRAX as the table has it.

    Args:
        table: patient table (``data_schemas/cohort.schema.json``). Its ``fold`` column is used
            where it has one; else folds are drawn that keep patients and pairs together.
        out: folder; for its files see ``docs/clinical.md``.
        models: letters of ``MODELS``.
        folds: of a table without folds, 10 by default.
        seed: of folds and inner folds; the same table and seed give the same files.
        external: a second table, scored by the fold ensemble; nothing is learned from it.
        imaging: also measure the images and fit ``imaging_baseline``. A refused image has no
            measurement and no such score; it is listed in ``refused.csv``.
        workers: processes that measure.
        progress: called with (what, done, of).

    Returns:
        What ``clinical.json`` holds.

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: letters or folds that cannot be used, too few patients.
    """
    plan = _plan(models, imaging)
    need = _columns(plan, imaging)
    other_sha256 = None if external is None else sha256_of(external)
    inputs = {"table": sha256_of(table), "external": other_sha256}
    tables = {"development": read_patients(table, need)}
    tables["development"]["fold"] = table_folds(tables["development"], folds, seed)
    if external is not None:
        tables["external"] = read_patients(external, need)
        _check_apart(tables["development"], tables["external"])
    tell: Progress = progress or (lambda what, done, of: None)
    out = Path(out)
    refused = _measure_tables(tables, out, workers, tell) if imaging else []
    frame = tables["development"]
    fits = {}
    for done, (name, (kind, variables)) in enumerate(plan.items()):
        tell("models", done, len(plan))
        fits[name] = cross_fit(frame, variables, kind, seed, name=name)
    tell("models", len(plan), len(plan))
    _write_contributions(frame, fits, out)
    save_fits(out, fits)
    scores = {name: fit.scores for name, fit in fits.items()} | _frax(frame)
    document: Json = {
        **_judged(frame, scores),
        "folds": int(frame["fold"].nunique()),
        "seed": seed,
        "matched": "pair_id" in frame.columns and bool(frame["pair_id"].notna().any()),
        "simulated": "simulated" in frame.columns and bool((frame["simulated"] == 1).any()),
        "images_refused": len(refused) if imaging else None,
        "models": {name: _facts(fit) for name, fit in fits.items()},
        "external": None,
    }
    write_frame(out / "predictions.csv", _predictions(frame, scores))
    write_frame(out / "thresholds.csv", _thresholds(frame, fits, scores))
    if external is not None:
        other = tables["external"]
        tested = {name: ensemble_score(fit.models, other) for name, fit in fits.items()}
        tested |= _frax(other)
        document["external"] = _judged(other, tested)
        write_frame(out / "external.csv", _predictions(other, tested).drop(columns="fold"))
    write_json(out / "clinical.json", document)
    settings = {"models": models, "folds": document["folds"], "seed": seed, "imaging": imaging}
    write_json(out / "run.json", run_record("clinical", settings, inputs))
    return document


def _measure_tables(
    tables: dict[str, pd.DataFrame], out: Path, workers: int, tell: Progress
) -> list[Json]:
    """Add the imaging measures to each table; return and write the refused images."""
    refused: list[Json] = []
    for name, frame in tables.items():
        tables[name], refusals = _measured(frame, name, out, workers, tell)
        refused += refusals
    columns = ["set", "case_id", "code", "message"]
    write_frame(out / "refused.csv", pd.DataFrame(refused, columns=columns))
    return refused


def _check_apart(frame: pd.DataFrame, other: pd.DataFrame) -> None:
    """Refuse external patients whom the models were trained on.

    Two hospitals may count their patients alike, so a shared name alone says nothing: a row is the
    same when all that both tables know of it is.
    """
    unlike = {"fold", "pair_id", "simulated", "image", "mask"}
    columns = [name for name in frame if name in other and name not in unlike]
    shared = len(frame[columns].merge(other[columns].drop_duplicates(), on=columns))
    if shared:
        raise SettingError(
            f"external holds {shared} patients of the table that the models are trained on: it "
            "must hold others"
        )


def _plan(models: str, imaging: bool) -> ModelPlan:
    """Return score → kind of model and its variables, in the order of the tables."""
    letters = list(dict.fromkeys(models.upper()))
    if not letters or not {*letters} <= {*MODELS}:
        raise SettingError(f"models ({models!r}) must be letters of {''.join(MODELS)}")
    plan = lettered_models(letters)
    plan[MATCHED_ONLY] = ("logistic", MATCHING_VARIABLES)
    if imaging:
        plan[IMAGING_BASELINE] = ("logistic", IMAGING_VARIABLES)
    return plan


def _columns(plan: ModelPlan, imaging: bool) -> list[str]:
    """Return the columns of the patient table that a plan takes."""
    names = [name for _, variables in plan.values() for name in variables]
    wanted = [name for name in dict.fromkeys(names) if name not in IMAGING_VARIABLES]
    return [*wanted, "image", "mask"] if imaging else wanted


def _measured(
    frame: pd.DataFrame, name: str, out: Path, workers: int, tell: Progress
) -> tuple[pd.DataFrame, list[Json]]:
    """Return the table with the images' measurements, which are also written, and refusals."""
    measured = partial(tell, f"{name} images")
    found, refusals = feature_table(frame, workers, measured)
    write_frame(out / "imaging" / f"{name}.csv", found)
    table = frame.drop(columns=list(IMAGING_VARIABLES), errors="ignore").reset_index(drop=True)
    table = pd.concat([table, found[list(IMAGING_VARIABLES)]], axis=1)
    return table, [{"set": name, **refusal} for refusal in refusals]


def _frax(frame: pd.DataFrame) -> dict[str, Floats]:
    return {name: frame[name].to_numpy(dtype=np.float64) for name in FRAX if name in frame.columns}


def _predictions(frame: pd.DataFrame, scores: dict[str, Floats]) -> pd.DataFrame:
    """Return the table of scores: who, outcome, time, then a column a score."""
    table = frame[["case_id", "patient_id"]].copy()
    for name in ("pair_id", "fold"):
        table[name] = frame.get(name, np.nan)
    table["fracture"] = frame["fracture"]
    table["time_years"], table["event"] = np.nan, np.nan
    if "follow_up_years" in frame.columns:
        table["time_years"], table["event"] = outcome_times(frame)
    return table.assign(**scores)


def _thresholds(
    frame: pd.DataFrame, fits: dict[str, CrossFit[ClinicalModel]], scores: dict[str, Floats]
) -> pd.DataFrame:
    """Return the thresholds of each fold, and those frozen for other hospitals."""
    rows = [fit.thresholds for fit in fits.values()]
    y, folds = frame["fracture"].to_numpy(np.float64), frame["fold"].to_numpy(np.float64)
    for name, values in scores.items():
        if name not in fits:
            rows += other_folds_thresholds(name, folds, y, values)
        rows += frozen_thresholds(name, y, values)
    return pd.concat(rows, ignore_index=True)


def _judged(frame: pd.DataFrame, scores: dict[str, Floats]) -> Json:
    """Return the numbers of a table, and each score's AUROC with its interval.

    The AUROC is null where only one outcome has scores.
    """
    y = frame["fracture"].to_numpy(np.float64)
    summaries: Json = {}
    for name, values in scores.items():
        known = np.isfinite(values)
        facts: Json = {"n": int(known.sum()), "events": int(y[known].sum())}
        facts["missing"] = int((~known).sum())
        if both_outcomes(y, values):
            facts |= auroc_json(auroc(y[known], values[known])) | {"confidence": CONFIDENCE}
        else:
            facts |= {"auroc": None, "note": "the patients with a score share one outcome"}
        summaries[name] = facts
    return {"n": len(frame), "events": int(y.sum()), "scores": summaries}


def _facts(fit: CrossFit[ClinicalModel]) -> Json:
    """Return what the fold models of a score are."""
    first = next(iter(fit.models.values()))
    told = ("n", "events", "left_out", "missing", "constant")
    return {
        "kind": first.kind,
        "variables": list(first.variables),
        "folds": {
            str(fold): {
                "hyperparameters": model.hyperparameters,
                **{key: model.trained_on[key] for key in told},
            }
            for fold, model in fit.models.items()
        },
    }


def _write_contributions(
    frame: pd.DataFrame, fits: dict[str, CrossFit[ClinicalModel]], out: Path
) -> None:
    """Write what each variable adds to each patient's log odds, by the model of its fold."""
    from monai_vfx.analysis.clinical.figures import contribution_figure
    from monai_vfx.outputs.report.figures import save_figure

    tables = []
    for name, fit in fits.items():
        variables = next(iter(fit.models.values())).variables
        values = design_matrix(frame, variables).set_axis(list(variables), axis=1)
        by_fold = [m.contributions(frame[frame["fold"] == k]) for k, m in fit.models.items()]
        parts = pd.concat(by_fold).loc[frame.index]
        known = np.isfinite(fit.scores)
        tables.append(_long(name, frame["case_id"], values[known], parts[known]))
        if name != MATCHED_ONLY:
            labels = {variable: LABELS.get(variable, label(variable)) for variable in variables}
            figure = contribution_figure(values[known], parts[known], labels)
            save_figure(figure, out / "figures" / f"contributions_{name}")
    write_frame(out / "contributions.csv", pd.concat(tables, ignore_index=True))


def _long(
    name: str, cases: pd.Series[str], values: pd.DataFrame, parts: pd.DataFrame
) -> pd.DataFrame:
    """Return rows (case, score, variable, value, contribution), patients in the table's order."""
    columns = {
        "case_id": np.tile(cases.loc[parts.index], parts.shape[1]),
        "score": name,
        "variable": np.repeat(parts.columns, len(parts)),
        "value": values.reindex(columns=parts.columns).to_numpy().ravel("F"),
        "contribution": parts.to_numpy().ravel("F"),
    }
    return pd.DataFrame(columns)
