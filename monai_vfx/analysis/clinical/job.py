"""Clinical models A-D and imaging baselines of a table, cross-validated (``vfx clinical``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.clinical.crossfit import CrossFit, cross_fit, threshold_rows
from monai_vfx.analysis.clinical.engines import Floats, Kind
from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES, feature_table
from monai_vfx.analysis.clinical.variables import MATCHING_VARIABLES, MODELS, design_matrix
from monai_vfx.analysis.cohort.patients_csv import outcome_times, read_patients
from monai_vfx.analysis.cohort.variables import label
from monai_vfx.analysis.evaluation.discrimination import auroc, auroc_json
from monai_vfx.analysis.evaluation.estimates import CONFIDENCE
from monai_vfx.analysis.folds import table_folds
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash
from monai_vfx.core.results import run_record

FRAX = ("frax_major", "frax_hip")
"""Scores that a table may bring along, in percent; compared as they are."""
MATCHED_ONLY = "matched_only"
IMAGING_BASELINE = "imaging_baseline"
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
    inputs = {
        "table": content_hash(Path(table)),
        "external": None if external is None else content_hash(Path(external)),
    }
    if inputs["external"] == inputs["table"]:
        raise SettingError("external must not be the table that the models are trained on")
    frame = read_patients(table, need)
    frame["fold"] = table_folds(frame, folds, seed)
    other = None if external is None else read_patients(external, need)
    if other is not None:
        _check_apart(frame, other)
    tell: Progress = progress or (lambda what, done, of: None)
    out = Path(out)
    refused: list[Json] = []
    if imaging:
        frame = _measured(frame, "development", out, workers, tell, refused)
        if other is not None:
            other = _measured(other, "external", out, workers, tell, refused)
        pd.DataFrame(refused, columns=["set", "case_id", "code", "message"]).pipe(
            _write, out / "refused.csv"
        )
    fits: dict[str, CrossFit] = {}
    for done, (name, (kind, variables)) in enumerate(plan.items()):
        tell("models", done, len(plan))
        fits[name] = cross_fit(frame, variables, kind, seed, name=name)
    tell("models", len(plan), len(plan))
    scores = {name: fit.scores for name, fit in fits.items()} | _frax(frame)
    y = frame["fracture"].to_numpy(dtype=np.float64)
    document: Json = {
        "n": len(frame),
        "events": int(y.sum()),
        "folds": int(frame["fold"].nunique()),
        "seed": seed,
        "matched": "pair_id" in frame.columns and bool(frame["pair_id"].notna().any()),
        "simulated": "simulated" in frame.columns and bool((frame["simulated"] == 1).any()),
        "images_refused": len(refused) if imaging else None,
        "scores": {name: _summary(y, values) for name, values in scores.items()},
        "models": {name: _facts(fit) for name, fit in fits.items()},
        "external": None,
    }
    _write(_predictions(frame, scores, fold=True), out / "predictions.csv")
    _write(_thresholds(frame, y, fits, scores), out / "thresholds.csv")
    if other is not None:
        tested = {name: fit.predict(other) for name, fit in fits.items()} | _frax(other)
        outcome = other["fracture"].to_numpy(dtype=np.float64)
        document["external"] = {
            "n": len(other),
            "events": int(outcome.sum()),
            "scores": {name: _summary(outcome, values) for name, values in tested.items()},
        }
        _write(_predictions(other, tested, fold=False), out / "external.csv")
    _write_fits(frame, fits, out)
    write_json(out / "clinical.json", document)
    settings = {"models": models, "folds": document["folds"], "seed": seed, "imaging": imaging}
    write_json(out / "run.json", run_record("clinical", settings, inputs))
    return document


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


def _plan(models: str, imaging: bool) -> dict[str, tuple[Kind, tuple[str, ...]]]:
    """Return score → kind of model and its variables, in the order of the tables."""
    letters = list(dict.fromkeys(models.upper()))
    unknown = [letter for letter in letters if letter not in MODELS]
    if unknown or not letters:
        raise SettingError(f"models ({models!r}) must be letters of {''.join(MODELS)}")
    plan: dict[str, tuple[Kind, tuple[str, ...]]] = {}
    plan |= {f"clinical_{letter}": ("xgboost", MODELS[letter]) for letter in letters}
    plan |= {f"logistic_{letter}": ("logistic", MODELS[letter]) for letter in letters}
    plan[MATCHED_ONLY] = ("logistic", MATCHING_VARIABLES)
    if imaging:
        plan[IMAGING_BASELINE] = ("logistic", IMAGING_VARIABLES)
    return plan


def _columns(plan: dict[str, tuple[Kind, tuple[str, ...]]], imaging: bool) -> list[str]:
    """Return the columns of the patient table that a plan takes."""
    names = [name for _, variables in plan.values() for name in variables]
    wanted = [name for name in dict.fromkeys(names) if name not in IMAGING_VARIABLES]
    return [*wanted, "image", "mask"] if imaging else wanted


def _measured(
    frame: pd.DataFrame,
    name: str,
    out: Path,
    workers: int,
    tell: Progress,
    refused: list[Json],
) -> pd.DataFrame:
    """Return the table with the images' measurements, which are also written."""
    found, refusals = feature_table(
        frame, workers, lambda done, of: tell(f"{name} images", done, of)
    )
    refused += [{"set": name, **refusal} for refusal in refusals]
    _write(found, out / "imaging" / f"{name}.csv")
    table = frame.drop(columns=list(IMAGING_VARIABLES), errors="ignore").reset_index(drop=True)
    return pd.concat([table, found[list(IMAGING_VARIABLES)]], axis=1)


def _frax(frame: pd.DataFrame) -> dict[str, Floats]:
    return {name: frame[name].to_numpy(dtype=np.float64) for name in FRAX if name in frame.columns}


def _predictions(frame: pd.DataFrame, scores: dict[str, Floats], *, fold: bool) -> pd.DataFrame:
    """Return the table of scores: who, outcome, time, then a column a score."""
    table = frame[["case_id", "patient_id"]].copy()
    table["pair_id"] = frame["pair_id"] if "pair_id" in frame.columns else np.nan
    if fold:
        table["fold"] = frame["fold"]
    table["fracture"] = frame["fracture"]
    table["time_years"], table["event"] = np.nan, np.nan
    if "follow_up_years" in frame.columns:
        table["time_years"], table["event"] = outcome_times(frame)
    return table.assign(**scores)


def _thresholds(
    frame: pd.DataFrame, y: Floats, fits: dict[str, CrossFit], scores: dict[str, Floats]
) -> pd.DataFrame:
    """Return the thresholds of each fold, and those frozen for other hospitals."""
    rows = [fit.thresholds for fit in fits.values()]
    folds = frame["fold"].to_numpy()
    for name, values in scores.items():
        known = np.isfinite(values)
        if name not in fits:  # nothing was fitted: the other folds are free to choose on
            rows += [
                threshold_rows(
                    name, int(fold), y[folds != fold], values[folds != fold], "other folds"
                )
                for fold in sorted(set(folds.tolist()))
                if _both(y[(folds != fold) & known])
            ]
        if _both(y[known]):
            rows.append(threshold_rows(name, "frozen", y, values, "development out-of-fold"))
    return pd.concat(rows, ignore_index=True)


def _both(y: Floats) -> bool:
    return bool(0 < y.sum() < y.size)


def _summary(y: Floats, scores: Floats) -> Json:
    """Return a score's AUROC with its interval; null where only one outcome has scores."""
    known = np.isfinite(scores)
    facts = {"n": int(known.sum()), "events": int(y[known].sum()), "missing": int((~known).sum())}
    if not _both(y[known]):
        return {**facts, "auroc": None, "note": "the patients with a score share one outcome"}
    return {**facts, **auroc_json(auroc(y[known], scores[known])), "confidence": CONFIDENCE}


def _facts(fit: CrossFit) -> Json:
    """Return what the fold models of a score are."""
    first = next(iter(fit.models.values()))
    return {
        "kind": first.kind,
        "variables": list(first.variables),
        "folds": {
            str(fold): {
                "hyperparameters": model.hyperparameters,
                **{key: model.trained_on[key] for key in ("n", "events", "left_out", "missing")},
                "constant": model.trained_on["constant"],
            }
            for fold, model in fit.models.items()
        },
    }


def _write_fits(frame: pd.DataFrame, fits: dict[str, CrossFit], out: Path) -> None:
    """Write models, what they rest on, and what each variable adds."""
    from monai_vfx.analysis.clinical.figures import contribution_figure
    from monai_vfx.outputs.report.figures import save_figure

    tables = []
    for name, fit in fits.items():
        for fold, model in fit.models.items():
            model.save(out / name / f"model_fold_{fold}.json")
        write_json(out / name / "fits.json", {"fits": fit.audit})
        _write(fit.inner, out / name / "inner.csv")
        variables = next(iter(fit.models.values())).variables
        values = design_matrix(frame, variables).set_axis(list(variables), axis=1)
        parts = fit.contributions(frame)
        known = np.isfinite(fit.scores)
        tables.append(_long(name, frame["case_id"], values[known], parts[known]))
        if name != MATCHED_ONLY:
            labels = {variable: LABELS.get(variable, label(variable)) for variable in variables}
            figure = contribution_figure(values[known], parts[known], labels)
            save_figure(figure, out / "figures" / f"contributions_{name}")
    _write(pd.concat(tables, ignore_index=True), out / "contributions.csv")


def _long(
    name: str, cases: pd.Series[str], values: pd.DataFrame, parts: pd.DataFrame
) -> pd.DataFrame:
    """Return rows (case, score, variable, value, contribution), patients in the table's order."""
    tables = [
        pd.DataFrame(
            {
                "case_id": cases.loc[parts.index],
                "score": name,
                "variable": variable,
                "value": values[variable] if variable in values.columns else np.nan,
                "contribution": parts[variable],
            }
        )
        for variable in parts.columns
    ]
    return pd.concat(tables, ignore_index=True)


def _write(table: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    table.to_csv(partial, index=False, lineterminator="\n")
    partial.replace(path)
