"""The pre-flight over many studies, resumable: ``check.jsonl``, ``check.csv``, ``check.html``.

``check.jsonl`` grows line by line while studies are done, so that a run that was stopped goes on
where it was: a study whose files, row and settings are the same is not checked again.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from monai_vfx.case.case import refused_report
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, MissingDependencyError, SettingError, find_refusal
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash, file_state
from monai_vfx.core.results import run_record
from monai_vfx.core.workers import run_tasks
from monai_vfx.workflows.check.case import check_one
from monai_vfx.workflows.check.manifest import Study
from monai_vfx.workflows.check.table import row_of, write_table

REPORTS, TABLE, PAGE, MASKS = "check.jsonl", "check.csv", "check.html", "masks"
_STOPS_ALL = ("weights_unreadable", "weights_mismatch")
_WORTH_ANOTHER_TRY = ("internal", "mask_not_made", "input_unreadable", "file_truncated")


@dataclass(frozen=True)
class Settings:
    """How every study is checked.

    Args:
        made_masks: who makes the mask of a study without one
            (:data:`monai_vfx.core.anatomy.MADE_MASKS`).
        compare: whether a given mask's levels are compared with the vertebra segmentation's.
        scheme: label scheme of given masks, or path of a mapping; found out by default.
    """

    made_masks: str = "auto"
    compare: bool = True
    scheme: str | None = None


@dataclass(frozen=True)
class _Task:
    study: Study
    settings: Settings
    folder: Path
    stamp: str | None  # of an earlier report


def check_many(
    studies: Sequence[Study],
    out: Path,
    settings: Settings | None = None,
    workers: int = 1,
    tell: Callable[[str], None] | None = None,
) -> Json:
    """Check studies; a refused one stops no other.

    Args:
        studies: each with a name of its own.
        out: folder for the tables, and for masks that are made (``masks/CASE``).
        settings: how.
        workers: processes.
        tell: called with a line about each study.

    Returns:
        ``studies``, ``accepted``, ``refused``, and by code ``refusals`` and ``warnings``.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``: no mask at all can be made.
        MissingDependencyError: a tool is asked for and not installed.
    """
    settings, tell = settings or Settings(), tell or _tell
    out.mkdir(parents=True, exist_ok=True)
    earlier = _read_reports(out / REPORTS)
    tasks = [
        _Task(s, settings, out / MASKS / s.case_id, earlier.get(s.case_id, {}).get("stamp"))
        for s in studies
    ]
    records: dict[str, Json] = {}
    began = time.monotonic()
    with (out / REPORTS).open("a", encoding="utf-8") as file:
        for task, record in run_tasks(_check, tasks, workers, _died):
            case = task.study.case_id
            if record.get("kept"):
                record = earlier[case]
            else:
                file.write(json.dumps(record) + "\n")
                file.flush()
            records[case] = record
            tell(_progress(len(records), len(tasks), record, began))
    ordered = [records[study.case_id] for study in studies]
    _write_reports(out / REPORTS, ordered)
    rows = [row_of(record) for record in ordered]
    write_table(out / TABLE, rows)
    from monai_vfx.outputs.report.check_page import write_check_page

    write_check_page(out / PAGE, rows)
    used = asdict(settings)
    used["scheme"] = settings.scheme and Path(settings.scheme).name
    write_json(out / "run.json", run_record("check", used, {}))
    return _summary(rows)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check(task: _Task) -> Json:
    """Check one study, unless an earlier report still holds; never raises for the study's sake."""
    study, settings = task.study, task.settings
    states = {"image_state": _state(study.image), "mask_state": _state(study.mask)}
    stamp = _stamp(task, states)
    if stamp == task.stamp:
        return {"kept": True}
    began = time.monotonic()
    report = _report(study, settings, task.folder)
    again = (report["refusal"] or {}).get("code") in _WORTH_ANOTHER_TRY
    return {
        "case_id": study.case_id,
        "stamp": None if again else stamp,
        "seconds": round(time.monotonic() - began, 2),
        "inputs": {
            "image_state": states["image_state"],
            "image_sha256": _content(study.image),
            "mask_state": states["mask_state"],
            "mask_sha256": _content(study.mask),
        },
        "report": report,
    }


def _report(study: Study, settings: Settings, folder: Path) -> Json:
    try:
        report, refusal = check_one(
            study.image,
            settings.made_masks if study.mask is None else study.mask,
            folder,
            case_id=study.case_id,
            series_uid=study.series_uid,
            scheme=settings.scheme,
            compare=settings.compare,
            segmentation=False,  # it would hold the patient's name
            expected=study.expected,
        )
    except MissingDependencyError:
        raise
    except SettingError as error:  # a series asked of a NIfTI, say
        return refused_report(study.case_id, CaseRefused("cohort_invalid", str(error)))
    except Exception as error:  # whatever one study does, the others must be checked
        refusal = find_refusal(error)
        if refusal is None:
            # The error's own text may hold a path, and a path a patient's name.
            text = f"{type(error).__name__} in the check"
            return refused_report(study.case_id, CaseRefused("internal", text))
        report = refused_report(study.case_id, refusal)
    if refusal is not None and refusal.code in _STOPS_ALL:
        raise refusal
    return report


def _died(task: _Task) -> Json:
    refusal = CaseRefused("internal", "the process that checked this study died")
    return {
        "case_id": task.study.case_id,
        "stamp": None,
        "seconds": None,
        "inputs": dict.fromkeys(("image_state", "image_sha256", "mask_state", "mask_sha256")),
        "report": refused_report(task.study.case_id, refusal),
    }


def _state(path: Path | None) -> str | None:
    try:
        return None if path is None else file_state(path)
    except OSError:  # a folder that is closed to us
        return None


def _content(path: Path | None) -> str | None:
    try:
        return None if path is None or not path.exists() else content_hash(path)
    except OSError:
        return None


def _stamp(task: _Task, states: Json) -> str:
    """Return a digest of all that decides a report."""
    row = asdict(task.study)
    row["image"] = row["mask"] = None  # their states count, not where they lie
    facts: list[Any] = [row, states, asdict(task.settings), metadata.version("monai_vfx")]
    if task.settings.scheme and Path(task.settings.scheme).is_file():  # a mapping of labels
        facts.append(content_hash(Path(task.settings.scheme)))
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _read_reports(path: Path) -> dict[str, Json]:
    """Return the last report of each case; a line that was cut in the writing is none."""
    found: dict[str, Json] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            found[record["case_id"]] = record
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _write_reports(path: Path, records: list[Json]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    partial.replace(path)


def _progress(done: int, total: int, record: Json, began: float) -> str:
    refusal = record["report"]["refusal"]
    outcome = "accepted" if refusal is None else f"refused {refusal['code']}"
    left = (time.monotonic() - began) / done * (total - done)
    return f"{done} of {total}, {record['case_id']}: {outcome} (about {left / 60:.0f} min left)"


def _summary(rows: list[dict[str, Any]]) -> Json:
    refused = Counter(row["code"] for row in rows if row["status"] == "refused")
    warned = Counter(code for row in rows for code in row["warnings"])
    return {
        "studies": len(rows),
        "accepted": len(rows) - refused.total(),
        "refused": refused.total(),
        "refusals": dict(refused.most_common()),
        "warnings": dict(warned.most_common()),
    }
