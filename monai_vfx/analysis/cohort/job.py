"""Select cases and controls from a patient table: flow, matching, folds, tables, figures.

Every row of the table is either selected or listed in ``excluded.csv`` with the step and reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from monai_vfx.analysis.cohort.balance import balance
from monai_vfx.analysis.cohort.baseline_tables import baseline_table
from monai_vfx.analysis.cohort.check_table import Gate, judge
from monai_vfx.analysis.cohort.figures import flow_figure, love_plot
from monai_vfx.analysis.cohort.flow import Eligibility, Flow, select_eligible, with_adequate_images
from monai_vfx.analysis.cohort.matching import Matched, Matching, match
from monai_vfx.analysis.cohort.patients_csv import read_patients, write_patients
from monai_vfx.analysis.cohort.variables import CLINICAL, VARIABLES
from monai_vfx.analysis.folds import table_folds
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_csv, write_frame, write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.results import run_record
from monai_vfx.core.tables import Fault, FaultyTable
from monai_vfx.outputs.report.figures import save_figure


def run_cohort(
    table: str | Path,
    out: str | Path,
    eligibility: Eligibility | None = None,
    matching: Matching | None = None,
    folds: int | None = 10,
    seed: int = 0,
    need: Sequence[str] = (),
    gate: Gate | None = None,
) -> Json:
    """Select the patients of a study.

    Writes ``flow.json``; ``analysed.csv`` (who passed the rules of eligibility), ``selected.csv``
    (cases and controls with adequate images, with ``pair_id`` and ``fold``), ``excluded.csv``
    (case_id, step, reason), ``balance.csv``, ``table2.csv``, ``cohort.json`` (what is returned),
    ``run.json``, and ``figures/flow`` and ``figures/love``, each as SVG and PNG. Without matching
    there is no balance and no love plot. The same inputs give the same bytes, but for the time
    in ``run.json``.

    Args:
        table: patient table (``docs/cohort.md``).
        out: folder for the results.
        eligibility: rules; the study's by default.
        matching: of controls; the study's by default.
        folds: number of folds, at least 2; None leaves ``fold`` empty (a set that is only
            tested). A table with its own column ``fold`` keeps it.
        seed: of matching and folds.
        need: columns that the table must have, such as ``image`` and ``mask``, which must then be
            there for every row. Images and masks that are named must exist in any case.
        gate: results of ``vfx check``; cases it leaves out are counted in the flow's first step.

    Returns:
        Counts with n and events, settings, the result of matching, and the files.

    Raises:
        FaultyTable: the table has faults; all are in ``out/faults.csv``.
        CaseRefused: ``cohort_invalid``, when no case or no non-case is left; ``gate_stale``.
        SettingError: a rule needs a column that the table lacks, or ``folds`` cannot be had.
    """
    table, out = Path(table), Path(out)
    eligibility, matching = eligibility or Eligibility(), matching or Matching()
    frame = _read(table, out, need)
    passed, flow = (frame, None) if gate is None else _gated(frame, gate)
    analysed, flow = select_eligible(passed, eligibility, flow)
    pool = with_adequate_images(analysed, eligibility)
    _check_groups(pool)
    matched = match(pool, matching, seed)
    if matching.method != "none":
        flow = _matched_step(flow, pool, matched, matching)
    fold = float("nan") if folds is None else table_folds(matched.frame, folds, seed)
    selected = matched.frame.drop(columns="fold", errors="ignore").assign(fold=fold)
    files = _write_tables(out, analysed, selected, flow)
    files |= _write_comparisons(out, pool, matched.expanded(), matching)
    tables = {"scans": frame, "analysed": analysed, "adequate_images": pool, "selected": selected}
    result: Json = {
        "counts": {
            name: {"n": len(rows), "events": int(rows["fracture"].sum())}
            for name, rows in tables.items()
        },
        "eligibility": asdict(eligibility),
        "matching": {**asdict(matching), "variables": list(matching.variables)},
        "matched": matched.to_json() if matching.method != "none" else None,
        "gate": None if gate is None else list(gate.exclude_warnings),
        "folds": folds,
        "seed": seed,
        "simulated": bool("simulated" in frame and (frame["simulated"] == 1).any()),
        "flow": flow.to_json(),
        "files": {name: str(path.relative_to(out)) for name, path in sorted(files.items())},
    }
    write_json(out / "cohort.json", result)
    inputs = {"table": sha256_of(table)} | ({} if gate is None else {"gate": gate.sha256})
    settings = {name: result[name] for name in ("eligibility", "matching", "gate", "folds", "seed")}
    write_json(out / "run.json", run_record("cohort", settings, inputs))
    return result


def _read(table: Path, out: Path, need: Sequence[str]) -> pd.DataFrame:
    """Read the table; where it has faults, list them all in ``faults.csv``."""
    listing = out / "faults.csv"
    try:
        frame = read_patients(table, need, check_paths=True)
    except FaultyTable as refusal:
        write_csv(listing, [f.name for f in fields(Fault)], map(vars, refusal.faults))
        raise
    listing.unlink(missing_ok=True)  # of an earlier run, before the table was corrected
    return frame


def _gated(frame: pd.DataFrame, gate: Gate) -> tuple[pd.DataFrame, Flow]:
    """Leave out the cases that the check refused or warned of."""
    if "image" not in frame:
        raise SettingError("gate: the table needs the column image, whose CTs were checked")
    masks = frame["mask"] if "mask" in frame else pd.Series("", index=frame.index)
    paths = zip(frame["case_id"], frame["image"].fillna(""), masks.fillna(""), strict=True)
    left_out = judge(gate, ((str(case), image, mask) for case, image, mask in paths))
    why = frame["case_id"].map(lambda case: left_out[case].reason if case in left_out else "")
    rules = [(reason, why == reason) for reason in sorted({*why} - {""})]
    flow = Flow.start(frame)
    return flow.leave_out("gate", "Accepted by the check", frame, rules)


def _check_groups(pool: pd.DataFrame) -> None:
    events = int(pool["fracture"].sum())
    if not 0 < events < len(pool):
        raise CaseRefused(
            "cohort_invalid",
            f"after the rules of eligibility {events} rows with and {len(pool) - events} without "
            "a fracture are left; both are needed",
            "Check the columns that the rules use, or relax the rules.",
        )


def _matched_step(flow: Flow, pool: pd.DataFrame, matched: Matched, settings: Matching) -> Flow:
    """Count who was not matched or not chosen, with the reason."""
    listings = pd.concat([matched.unmatched_cases, matched.unusable_controls])
    reason_of = {str(case): _readable(str(reason)) for case, reason in listings.to_numpy()}
    out = ~pool["case_id"].isin(matched.frame["case_id"])
    reasons = pool["case_id"].map(reason_of)
    rules = [(words, out & (reasons == words)) for words in sorted(set(reason_of.values()))]
    rules.append(("Not chosen as a control", out))
    method = {"propensity": "matched", "risk_set": "drawn from risk sets,"}[settings.method]
    words = f"Cases and controls, {method} 1:{settings.ratio}"
    return flow.leave_out("matched", words, pool, rules)[1]


def _readable(reason: str) -> str:
    """Give variables in a reason their names for people.

    >>> _readable("bmi, scan_year not known")
    'BMI, year of the CT not known'
    """
    names, sign, rest = reason.rpartition(" not known")
    if not sign or rest:
        return reason[:1].upper() + reason[1:]
    titles = [VARIABLES[n].title if n in VARIABLES else n for n in names.split(", ")]
    words = [titles[0], *(t if t.isupper() else t[:1].lower() + t[1:] for t in titles[1:])]
    return ", ".join(words) + sign


def _write_tables(
    out: Path, analysed: pd.DataFrame, selected: pd.DataFrame, flow: Flow
) -> dict[str, Path]:
    files = {name: out / f"{name}.csv" for name in ("analysed", "selected", "excluded")}
    write_patients(analysed, files["analysed"])
    write_patients(selected, files["selected"])
    columns = ["case_id", "step", "reason"]
    excluded = (dict(zip(columns, row, strict=True)) for row in flow.excluded)
    write_csv(files["excluded"], columns, excluded)
    files["flow"] = out / "flow.json"
    write_json(files["flow"], flow.to_json())
    return files | _save("flow", flow_figure(flow.to_json()), out)


def _save(name: str, figure: Figure, out: Path) -> dict[str, Path]:
    """Draw a figure as SVG and PNG."""
    made = save_figure(figure, out / "figures" / name)
    return {f"{name}_{path.suffix[1:]}": path for path in made}


def _write_comparisons(
    out: Path, pool: pd.DataFrame, compared: pd.DataFrame, settings: Matching
) -> dict[str, Path]:
    """Write Table 2 and, after matching, how alike the groups are."""
    files = {"table2": out / "table2.csv"}
    write_frame(files["table2"], baseline_table(compared, "fracture"))
    if settings.method == "none":
        return files
    columns = {*pool.columns, *(["scan_year"] if "scan_date" in pool else [])}
    extra = [name for name in (*settings.variables, "scan_year") if name not in CLINICAL]
    names = [name for name in dict.fromkeys([*CLINICAL, *extra]) if name in columns]
    names = [name for name in names if name == "scan_year" or pool[name].notna().any()]
    result = balance(pool, compared, names)
    files["balance"] = out / "balance.csv"
    write_frame(files["balance"], result)
    # A case's follow-up ends at its fracture, so its length cannot and need not be balanced.
    shown = result[result["variable"] != "follow_up_years"]
    return files | _save("love", love_plot(shown, len(pool), len(compared)), out)
