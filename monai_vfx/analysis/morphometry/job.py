"""Morphometry as a whole job: one CT with its mask, or a table of heights.

Files of both: ``heights.csv`` (as measured; a table that the command takes again),
``morphometry.csv`` (a row a vertebra T12-L4), ``patients.csv`` (a row a patient),
``morphometry.json`` (what is returned), ``normal_values.json``, ``run.json`` and ``figures/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_vfx.analysis.morphometry.agreement import reader_agreement
from monai_vfx.analysis.morphometry.chart import ratio_figure
from monai_vfx.analysis.morphometry.figures import sagittal_figure, sagittal_view
from monai_vfx.analysis.morphometry.heights import MEASURED, BodyHeights, measure_heights
from monai_vfx.analysis.morphometry.normals import GENANT, NormalValues, fit_normals, load_normals
from monai_vfx.analysis.morphometry.ratios import HEIGHTS, RATIOS, add_ratios
from monai_vfx.analysis.morphometry.readings import read_heights, write_heights
from monai_vfx.analysis.morphometry.rules import (
    FRACTURED,
    NORMAL,
    NOT_ASSESSABLE,
    STATUSES,
    classify,
    incident_fractures,
    patient_statuses,
)
from monai_vfx.case.case import check_case, check_spacing, load_case
from monai_vfx.core.anatomy import LEVELS
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash, sha256_of
from monai_vfx.core.results import check_case_name, run_record
from monai_vfx.io.volume import Volume, open_volume
from monai_vfx.outputs.report.figures import figure_png
from monai_vfx.vertebrae.sources.source import MaskSource

COARSE_MM = 1.5
"""Slices further apart, or thicker, are warned of."""
TOO_COARSE_MM = 3.0
"""Slices further apart, or thicker, are refused unless told otherwise."""
PICTURES = 20
"""So many patients of a table are drawn unless told otherwise; fractured ones first."""
_WHOLE_NUMBERS = ["fracture", "grade", "worst_grade", "baseline_fracture", "incident_fracture"]


def run_morphometry_case(
    image: str | Path,
    mask: str | Path | None,
    out: str | Path,
    *,
    case_id: str = "case",
    normal: str | Path | None = None,
    second: str | Path | None = None,
    baseline: str | Path | None = None,
    allow_thick: bool = False,
    series_uid: str | None = None,
    scheme: str | None = None,
) -> Json:
    """Measure one CT, judge its vertebrae, draw them.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD.
        mask: label map or folder of per-structure files; ``auto``, ``totalsegmentator`` or
            ``spine-segment``: made by that method and written to ``out`` with a preview.
        out: folder for the results.
        case_id: the caller's name for the case, also in ``second`` and ``baseline``.
        normal: ``genant`` (default), ``paper`` or a file of normal values.
        second: a reader's table of heights to compare with.
        baseline: table of heights of an earlier time.
        allow_thick: measure slices thicker than 3 mm all the same.
        series_uid: which series, where the folder holds several.
        scheme: label scheme of the mask.

    Raises:
        CaseRefused: the CT or mask breaks a rule, slices are too thick, or a table is faulty.
        SettingError: the normal values cannot be used.
    """
    out, case_id = Path(out), check_case_name(case_id)
    values = load_normals(normal) if normal is not None else GENANT
    others = _read_others(second, baseline)
    volume = open_volume(image, series_uid)
    check_spacing(volume)  # before a mask is made
    check_resolution(volume, allow_thick)
    source = MaskSource(image, mask, out, series_uid=series_uid, compare=False, picture=True)
    own_scheme = scheme if source.kind == "given" else None
    loaded = load_case(volume, source, scheme=own_scheme)
    warnings = [*loaded.warnings, *check_resolution(loaded.volume, allow_thick)]
    check_case(loaded)
    source.review(loaded)
    warnings += source.warnings
    masks = loaded.masks
    bodies, reasons = measure_heights(masks.labels, volume.affine, masks.cut)
    heights = _heights_of(case_id, bodies, volume.sex)
    document, tables = _judge(heights, values, others, simulated=values.simulated)
    document["warnings"] += [asdict(warning) for warning in warnings]
    document["case_id"] = case_id
    document["mask"] = source.record
    document["not_measured"] = [{"level": k, "reason": v} for k, v in reasons.items()]
    document["slice_distance_mm"] = volume.spacing_mm[volume.slice_axis]
    _clear(out)
    if bodies:
        note = "; ".join(w.message for w in warnings if w.code == "heights_coarse")
        view = sagittal_view(volume, bodies)
        figure = sagittal_figure(view, bodies, tables["morphometry"], values, note)
        _save(figure, out / "figures" / "patient_0001.png", dpi=150)
        document["pictures"] = 1
        tables["patients"]["figure"] = "figures/patient_0001.png"
    tables["heights"] = heights
    inputs = {
        "image": content_hash(Path(image)),
        "mask": None if source.path is None else content_hash(source.path),
        **_digests(normal, second, baseline),
    }
    _write(out, document, tables, values, {"allow_thick": allow_thick}, inputs)
    return document


def run_morphometry_table(
    table: str | Path,
    out: str | Path,
    *,
    normal: str | Path | None = None,
    fit_normal: bool = False,
    second: str | Path | None = None,
    baseline: str | Path | None = None,
    pictures: int = PICTURES,
) -> Json:
    """Judge a table of heights.

    Args:
        table: CSV (``data_schemas/vertebral_heights.schema.json``).
        out: folder for the results.
        normal: ``genant`` (default), ``paper`` or a file of normal values.
        fit_normal: fit normal values on this table: on the patients whose ``fracture`` is 0 where
            it has that column, else on all, relying on trimming.
        second: the same vertebrae by another reader.
        baseline: the same patients at an earlier time, judged by the same normal values.
        pictures: draw at most so many patients: fractured ones first, then those not assessable.

    Raises:
        FaultyTable: a table has faults; all are named.
        SettingError: ``normal`` and ``fit_normal`` together, or normal values cannot be had.
    """
    if fit_normal and normal is not None:
        raise SettingError("choose one: normal values are fitted on the table, or given")
    out = Path(out)
    heights = read_heights(table)
    others = _read_others(second, baseline)
    simulated = bool("simulated" in heights and (heights["simulated"] == 1).any())
    fitted_on: Json | None = None
    if fit_normal:
        values, fitted_on = _fit(heights, simulated)
    else:
        values = load_normals(normal) if normal is not None else GENANT
    document, tables = _judge(heights, values, others, simulated or values.simulated)
    document["fitted_on"] = fitted_on
    _clear(out)
    document["pictures"] = _draw_charts(out, tables, values, pictures)
    tables["heights"] = heights
    inputs = {"table": sha256_of(table), **_digests(normal, second, baseline)}
    _write(out, document, tables, values, {"fit_normal": fit_normal}, inputs)
    return document


def check_resolution(volume: Volume, allow_thick: bool) -> list[CaseWarning]:
    """Warn of slices too thick for heights; refuse them above 3 mm unless ``allow_thick``.

    The larger of slice distance along the spine and nominal thickness counts.
    """
    step = volume.spacing_mm[volume.slice_axis]
    resolution = max(step, volume.thickness_mm or 0.0)
    if resolution > TOO_COARSE_MM + 0.01 and not allow_thick:
        raise CaseRefused(
            "heights_too_coarse",
            f"slices of {resolution:.1f} mm; heights need at most {TOO_COARSE_MM:g} mm",
        )
    if resolution > COARSE_MM + 0.01:
        text = (
            f"slices of {resolution:.1f} mm: the SD of a height is about a quarter of that; "
            f"best are slices of at most {COARSE_MM:g} mm"
        )
        return [CaseWarning("heights_coarse", text)]
    return []


def _heights_of(case_id: str, bodies: Mapping[str, BodyHeights], sex: str | None) -> pd.DataFrame:
    """Return a case's measurements as a table of heights, one row a level T11-L4."""
    rows = [
        [getattr(bodies[level], name) if level in bodies else np.nan for name in HEIGHTS]
        for level in MEASURED
    ]
    frame = pd.DataFrame(rows, columns=list(HEIGHTS))
    frame.insert(0, "case_id", case_id)
    frame.insert(1, "level", MEASURED)
    if sex in ("F", "M"):
        frame["sex"] = sex
    return frame


def _read_others(second: str | Path | None, baseline: str | Path | None) -> dict[str, pd.DataFrame]:
    """Read the further tables before any work is done."""
    given = {"second": second, "baseline": baseline}
    return {name: read_heights(path) for name, path in given.items() if path is not None}


def _fit(heights: pd.DataFrame, simulated: bool) -> tuple[NormalValues, Json]:
    """Return fitted normal values, and the patients that they were fitted on."""
    ratios = add_ratios(heights)
    cases = heights.drop_duplicates("case_id")[["case_id"]]
    rule = "all patients, as the table has no column fracture"
    chosen = cases["case_id"]
    if "fracture" in heights:
        outcome = heights.groupby("case_id", sort=False)["fracture"].first()
        chosen = pd.Series(outcome.index[outcome == 0])
        rule = "patients with fracture 0"
    facts = {"rule": rule, "patients": len(chosen), "left_out": len(cases) - len(chosen)}
    return fit_normals(ratios[ratios["case_id"].isin(chosen)], simulated), facts


def _judge(
    heights: pd.DataFrame,
    values: NormalValues,
    others: Mapping[str, pd.DataFrame],
    simulated: bool,
) -> tuple[Json, dict[str, pd.DataFrame]]:
    """Return the document and the tables of a reading."""
    vertebrae = classify(add_ratios(heights), values)
    patients = patient_statuses(vertebrae)
    agreement = incident = None
    if "second" in others:
        second = classify(add_ratios(others["second"]), values)
        agreement = reader_agreement(vertebrae, second)
        if not agreement["vertebrae"]:
            raise SettingError("second: no case of the first table is in it")
    if "baseline" in others:
        first = classify(add_ratios(others["baseline"]), values)
        vertebrae, outcomes = incident_fractures(first, vertebrae)
        patients = patients.merge(outcomes, on="case_id", sort=False)
        incident = _incident_counts(outcomes, first, vertebrae)
    crude = "one cut of 0.67 for all levels and ratios: neighbours' ratios lie around 1, not 0.91"
    warnings = [CaseWarning("normal_values_crude", crude)] if values.source == "paper" else []
    document: Json = {
        "status": "ok",
        "simulated": simulated,
        "normal": {
            "source": values.source,
            "patients": values.patients,
            "by_sex": any(values.group(sex) == sex for sex in ("F", "M")),
        },
        "patients": _counts(patients["status"]),
        "vertebrae": _counts(vertebrae["status"]),
        "missing_ratios": {
            name: int(vertebrae["missing"].str.split(";").map(lambda v, n=name: n in v).sum())
            for name in RATIOS
        },
        "levels": {
            level: _counts(vertebrae.loc[vertebrae["level"] == level, "status"]) for level in LEVELS
        },
        "agreement": agreement,
        "incident": incident,
        "warnings": [asdict(warning) for warning in warnings],
        "pictures": 0,
    }
    return document, {"morphometry": vertebrae, "patients": patients}


def _counts(statuses: pd.Series[str]) -> Json:
    return {"n": len(statuses), **{s: int((statuses == s).sum()) for s in STATUSES}}


def _incident_counts(outcomes: pd.DataFrame, first: pd.DataFrame, vertebrae: pd.DataFrame) -> Json:
    known = outcomes["incident_fracture"]
    both = set(first["case_id"]) & set(vertebrae["case_id"])
    return {
        "n": len(outcomes),
        "fracture": int((known == 1).sum()),
        "no_fracture": int((known == 0).sum()),
        "not_assessable": int(known.isna().sum()),
        "baseline_fracture": int((outcomes["baseline_fracture"] == 1).sum()),
        "without_baseline": len(set(vertebrae["case_id"]) - both),
        "baseline_only": len(set(first["case_id"]) - both),
    }


def _clear(out: Path) -> None:
    """Remove figures and refusal of an earlier run."""
    for path in (out / "figures").glob("patient_*.png"):
        path.unlink()
    (out / "refused.json").unlink(missing_ok=True)


def _draw_charts(
    out: Path, tables: dict[str, pd.DataFrame], values: NormalValues, most: int
) -> int:
    """Draw patients, fractured ones before the others; return how many."""
    patients, vertebrae = tables["patients"], tables["morphometry"]
    rank = patients["status"].map({FRACTURED: 0, NOT_ASSESSABLE: 1, NORMAL: 2})
    chosen = rank.sort_values(kind="stable").index[:most]
    groups = {str(name): rows for name, rows in vertebrae.groupby("case_id", sort=False)}
    names = pd.Series("", index=patients.index)
    for place in sorted(chosen):
        names[place] = f"figures/patient_{place + 1:04d}.png"
        figure = ratio_figure(groups[str(patients.at[place, "case_id"])], values)
        _save(figure, out / names[place], dpi=110)
    patients["figure"] = names
    return len(chosen)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(figure_png(figure, dpi=dpi))


def _digests(
    normal: str | Path | None, second: str | Path | None, baseline: str | Path | None
) -> dict[str, str | None]:
    given = {"normal": normal, "second": second, "baseline": baseline}
    return {
        name: sha256_of(path) if path is not None and Path(path).is_file() else None
        for name, path in given.items()
    }


def _write(
    out: Path,
    document: Json,
    tables: Mapping[str, pd.DataFrame],
    values: NormalValues,
    settings: Json,
    inputs: Mapping[str, str | None],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_heights(tables["heights"], out / "heights.csv")
    for name in ("morphometry", "patients"):
        frame = tables[name].copy()
        whole = frame.columns.intersection(_WHOLE_NUMBERS)
        frame[whole] = frame[whole].astype("Int64")
        frame.to_csv(out / f"{name}.csv", index=False, lineterminator="\n", float_format="%.4f")
    write_json(out / "normal_values.json", values.to_json())
    write_json(out / "morphometry.json", document)
    chosen = {"normal": values.source, **settings}
    write_json(out / "run.json", run_record("morphometry", chosen, inputs))
