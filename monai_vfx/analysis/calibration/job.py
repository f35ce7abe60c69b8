"""Absolute risks of a table of scores: calibrate, or refit at a new site (``vfx calibrate``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monai_vfx.analysis.calibration.assessment import group_risks, sampled_summary
from monai_vfx.analysis.calibration.conformal import ConformalSets, name_set
from monai_vfx.analysis.calibration.model import Calibration, Kind, read_calibration
from monai_vfx.analysis.calibration.risk import MATCHED, fit_calibration, refit
from monai_vfx.analysis.calibration.sampling import sampling_weights
from monai_vfx.analysis.cohort.patients_csv import read_patients
from monai_vfx.analysis.evaluation.calibration_curve import calibration_summary
from monai_vfx.analysis.evaluation.figures import calibration_figure
from monai_vfx.analysis.evaluation.score_table import Columns, check_table, read_score_table
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.results import run_record
from monai_vfx.outputs.report.figures import save_figure

GROUPING = ("age", "sex")
MAX_GAP = 0.25
"""Relative difference in the share of fractures above which patients are called no random part."""


def run_calibration(
    predictions: str | Path,
    score: str,
    out: str | Path,
    *,
    label: str = "fracture",
    population: str | Path | None = None,
    kind: Kind = "matched_controls",
    variables: Sequence[str] = MATCHED,
    refit_of: str | Path | None = None,
    confidence: float = 0.9,
) -> Json:
    """Turn a score into an absolute five-year risk and say how well it fits.

    Three uses. With ``population`` and without ``refit_of`` the predictions are of a sample of
    cases and controls, and the population is the whole eligible cohort they were taken from. With
    ``refit_of`` an existing calibration is adapted to the patients of a new site, who came
    unselected. With neither, a bare score is calibrated on unselected patients.

    Args:
        predictions: CSV with ``case_id``, the label and the score in [0, 1] from models that did
            not see the patient.
        score: column; empty cells are counted and left out.
        out: folder for ``calibration.json``, ``summary.json``, ``groups.csv``, ``risks.csv``,
            ``conformal.json`` (where both classes are large enough), ``figures/calibration.svg``
            and ``.png``, ``run.json``.
        label: column, 0 or 1.
        population: patient table; in a refit the site's, for the calibration's variables.
        kind: how the controls were sampled; of no use in a refit.
        variables: matched on and known on the day of the CT.
        refit_of: ``calibration.json`` of an earlier run.
        confidence: of the conformal sets.

    Returns:
        The document of ``summary.json``.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell.
        SettingError: too few patients, a column missing, or settings that do not fit together.
    """
    out = Path(out)
    inputs = {"predictions": predictions, "population": population, "calibration": refit_of}
    digests = {name: None if path is None else sha256_of(path) for name, path in inputs.items()}
    old = None if refit_of is None else read_calibration(refit_of)
    needed = old.variables if old is not None else tuple(variables) if population else ()
    table = _read(predictions, score, label, population, needed)
    patients = table.patients
    if old is not None or table.cohort is None:
        calibration = refit(old, patients["score"], patients["label"], patients)
        cohort = None
    else:
        cohort = table.cohort
        calibration = fit_calibration(
            patients["score"],
            patients["label"],
            kind=kind,
            population=cohort,
            selected=patients,
            variables=variables,
        )
        patients["weight"] = sampling_weights(cohort, patients, variables)
    patients["risk"] = calibration.risk(patients["score"], patients)
    summary = _summary(calibration, patients, cohort, old)
    document = {
        "score": score,
        "kind": calibration.kind,
        "refitted": calibration.refitted,
        "simulated": table.simulated or _was_simulated(refit_of),
        "n": calibration.n,
        "events": calibration.events,
        "missing": calibration.missing,
        "population_n": calibration.population_n,
        "population_events": calibration.population_events,
        **summary,
        "notes": _notes(calibration, patients, table.cohort, old),
    }
    conformal = _conformal(patients, confidence, document)
    write_json(out / "calibration.json", calibration.to_json() | _origin(document))
    write_json(out / "summary.json", document)
    if conformal is not None:
        write_json(out / "conformal.json", conformal.to_json())
    _write_tables(out, calibration, patients, conformal, document["groups"])
    save_figure(calibration_figure(_panels(document, score)), out / "figures" / "calibration")
    settings: Json = {"score": score, "label": label, "kind": calibration.kind}
    settings |= {"variables": list(needed), "confidence": confidence}
    write_json(out / "run.json", run_record("calibrate", settings, digests))
    return document


def _origin(document: Json) -> Json:
    return {name: document[name] for name in ("score", "simulated")}


def _notes(
    calibration: Calibration,
    patients: pd.DataFrame,
    cohort: pd.DataFrame | None,
    old: Calibration | None,
) -> list[str]:
    """Return what a reader of the risks must know."""
    notes = []
    share = float(patients["label"].mean())
    if old is not None or cohort is None:
        notes.append(
            f"The {len(patients)} patients were taken as they come: {share:.1%} of them fractured, "
            "and so will the mean risk say. Of sampled cases and controls this is no risk: give "
            "the whole cohort with --population and no --refit."
        )
        if cohort is not None and abs(share - cohort["fracture"].mean()) > MAX_GAP * share:
            notes.append(
                f"In the population {cohort['fracture'].mean():.1%} of {len(cohort)} fractured, "
                f"among the patients with a score {share:.1%}: they are no random part of it."
            )
    elif len(patients) == len(cohort):
        notes.append(
            f"The population holds nobody but the {len(cohort)} patients with a score, "
            f"{share:.1%} of whom fractured: is it the whole eligible cohort?"
        )
    if calibration.coefficients[1] < 0:
        notes.append(
            f"The slope of the score is {calibration.coefficients[1]:.2f}: a higher score goes "
            "with a lower risk. Was the score turned round?"
        )
    return notes


def _was_simulated(refit_of: str | Path | None) -> bool:
    """Whether an earlier calibration rests on simulated patients; what follows from it does too."""
    if refit_of is None:
        return False
    return bool(read_json(refit_of).get("simulated", False))


@dataclass(frozen=True)
class _Tables:
    """The patients with a score, their cohort, and whether any of them is simulated."""

    patients: pd.DataFrame
    cohort: pd.DataFrame | None
    simulated: bool


def _read(
    path: str | Path,
    score: str,
    label: str,
    population: str | Path | None,
    needed: Sequence[str],
) -> _Tables:
    """Read both tables; a patient's variables come from the cohort's table where there is one."""
    raw = read_score_table(path)
    checked = check_table(raw, Columns(label, (score,), risk_scores=(score,)))
    patients = pd.DataFrame({"score": checked[score], "label": checked[label].astype(int)})
    patients.insert(0, "case_id", _cases(raw))
    cohort = None if population is None else read_patients(population, ("case_id", *needed))
    source = raw if cohort is None else cohort
    simulated = "simulated" in source and bool(
        pd.to_numeric(source["simulated"], errors="coerce").eq(1).any()
    )
    columns = [n for n in dict.fromkeys((*needed, *GROUPING)) if n in source]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise SettingError(f"no table has the columns {', '.join(missing)}: give --population")
    if cohort is not None:
        strange = int((~patients["case_id"].isin(cohort["case_id"])).sum())
        if strange:
            raise SettingError(f"{strange} cases of the predictions are not in the population")
        rows = cohort.set_index("case_id").loc[patients["case_id"], columns]
    else:
        rows = raw[columns].apply(_typed)
    patients[columns] = rows.to_numpy()
    for name in columns:
        if name != "sex":
            patients[name] = patients[name].astype(np.float64)
    return _Tables(patients.reset_index(drop=True), cohort, simulated)


def _cases(raw: pd.DataFrame) -> pd.Series[str]:
    if "case_id" not in raw:
        raise SettingError("the predictions have no column 'case_id'")
    if raw["case_id"].duplicated().any():
        raise SettingError("the predictions name a case twice")
    return raw["case_id"].astype(str)


def _typed(column: pd.Series[str]) -> pd.Series[float] | pd.Series[str]:
    """Return a column of text as numbers, sex as it is; empty cells as NaN."""
    cells = column.where(column != "")
    try:
        return cells if column.name == "sex" else pd.to_numeric(cells).astype(np.float64)
    except ValueError as error:
        raise SettingError(f"column {column.name!r} must hold numbers: {error}") from error


def _summary(
    calibration: Calibration,
    patients: pd.DataFrame,
    cohort: pd.DataFrame | None,
    old: Calibration | None,
) -> Json:
    """Return the reliability (and, of a refit, that before it) and the mean risks of groups."""
    known = patients[patients["risk"].notna()]
    if cohort is not None:
        after = sampled_summary(known["label"], known["risk"], known["weight"])
    else:
        after = calibration_summary(known["label"], known["risk"])
    before = None
    if old is not None:
        before = calibration_summary(known["label"], old.risk(known["score"], known))
    groups = group_risks(calibration, patients, cohort)
    return {"reliability": after, "reliability_before": before, "groups": groups}


def _conformal(patients: pd.DataFrame, confidence: float, document: Json) -> ConformalSets | None:
    known = patients[patients["score"].notna()]
    try:
        found = ConformalSets.fit(known["score"], known["label"], confidence=confidence)
    except SettingError as error:
        document["conformal"] = {"confidence": confidence, "reason": str(error)}
        return None
    document["conformal"] = {"confidence": confidence, "reason": None}
    return found


def _write_tables(
    out: Path,
    calibration: Calibration,
    patients: pd.DataFrame,
    conformal: ConformalSets | None,
    groups: list[Json],
) -> None:
    risks = patients[["case_id", "label", "score", "risk"]].copy()
    bounds = calibration.risk_interval(patients["score"], patients)
    risks["risk_low"], risks["risk_high"] = bounds.T
    if conformal is not None:
        known = risks["score"].notna()
        sets = [name_set(row) for row in conformal.sets(risks.loc[known, "score"])]
        risks["conformal_set"] = pd.Series(sets, index=risks.index[known])
    risks.to_csv(out / "risks.csv", index=False, lineterminator="\n")
    rows = []
    for group in groups:
        observed = group["observed"]
        low, high = group["ci"] or (None, None)
        seen_low, seen_high = observed["ci"] or (None, None)
        rows.append(
            {name: group[name] for name in ("variable", "value", "n", "events", "mean_risk")}
            | {"mean_risk_low": low, "mean_risk_high": high, "observed": observed["value"]}
            | {"observed_low": seen_low, "observed_high": seen_high}
            | {"observed_n": observed["n"], "observed_events": observed["events"]}
        )
    pd.DataFrame(rows).to_csv(out / "groups.csv", index=False, lineterminator="\n")


def _panels(document: Json, score: str) -> dict[str, Json]:
    before = document["reliability_before"]
    if before is None:
        return {score: document["reliability"]}
    return {f"{score}, before": before, f"{score}, refitted": document["reliability"]}
