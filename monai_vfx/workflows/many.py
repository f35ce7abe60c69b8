"""Many cases from a manifest, one after the other or in several processes at once.

A case is whatever :func:`monai_vfx.workflows.predict` makes of it; this module decides which cases
are still to do, keeps the networks loaded, and puts the results side by side.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError, find_refusal
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash, file_state
from monai_vfx.core.results import Prediction, check_case_name, place_for_refusal, run_record
from monai_vfx.core.tables import Fault, Table, read_table, refuse_faults
from monai_vfx.core.workers import run_tasks
from monai_vfx.io.dicomweb import PacsAddress, is_address, local_image, parse_address, store
from monai_vfx.model.checkpoint import read_sidecar
from monai_vfx.outputs.hospital.export import OBJECTS, check_export

if TYPE_CHECKING:
    from monai_vfx.model.checkpoint import TrainedModel

_LOG = logging.getLogger(__name__)
NEEDED, OPTIONAL = ("case_id", "image"), ("mask", "series_uid", "clinical")
"""Columns of a manifest; others are left alone."""
TABLE, REFUSED, RECORD, STATE = "predictions.csv", "refused.jsonl", "run.json", "batch.json"
COLUMNS = (
    *("case_id", "status", "score", "risk_5y", "risk_5y_low", "risk_5y_high"),
    *("code", "message", "warnings"),
)
"""Columns of :data:`TABLE`; ``warnings`` holds codes with blanks between."""
_networks: dict[Path, TrainedModel] = {}
"""What this process has loaded; a batch's processes serve that batch alone."""


@dataclass(frozen=True)
class Row:
    """One case of a manifest.

    Attributes:
        case: its name in the results.
        image: a path, or an address in a PACS.
        mask, clinical: paths; None where the cell is empty.
        series_uid: SeriesInstanceUID, likewise.
    """

    case_id: str
    image: str
    mask: Path | None = None
    series_uid: str | None = None
    clinical: Path | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what the manifest says of the case, and of the state of its files.

        A digest, because paths may name a patient. What lies in a PACS has no state.
        """
        parts = [str(part) for part in (self.image, self.mask, self.series_uid, self.clinical)]
        files = [None if is_address(self.image) else Path(self.image), self.mask, self.clinical]
        parts += [_state_of(file) for file in files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _state_of(file: Path | None) -> str:
    try:
        return "" if file is None else file_state(file)
    except OSError:  # closed to us: the case will be refused for it
        return ""


def read_manifest(path: str | Path) -> list[Row]:
    """Read which cases are to be predicted.

    Args:
        path: CSV with the columns ``case_id`` and ``image`` (a path from the table's folder on, or
            the address of a study or series in a PACS), optionally ``mask``,
            ``series_uid`` and ``clinical`` (a one-row table); other columns are left alone.

    Raises:
        CaseRefused: ``cohort_invalid``, naming every bad cell. That a file is not there is the
            refusal of its case alone, when its turn comes.
    """
    path = Path(path)
    sheet = read_table(path)
    faults = list(sheet.faults)
    faults += [
        Fault(1, name, "", "the column is missing")
        for name in NEEDED
        if sheet.header and name not in sheet.header
    ]
    known = {name: n for n, name in enumerate(sheet.header) if name in (*NEEDED, *OPTIONAL)}
    cells = [{name: row[n].strip() for name, n in known.items()} for row in sheet.cells]
    if not faults:
        faults += _cell_faults(sheet, cells)
    refuse_faults(faults)

    def place(text: str | None) -> Path | None:
        return path.parent / text if text else None

    return [
        Row(
            case_id=row["case_id"],
            image=row["image"] if is_address(row["image"]) else str(path.parent / row["image"]),
            mask=place(row.get("mask")),
            series_uid=row.get("series_uid") or None,
            clinical=place(row.get("clinical")),
        )
        for row in cells
    ]


def _cell_faults(sheet: Table, cells: Sequence[dict[str, str]]) -> Iterator[Fault]:
    seen: set[str] = set()
    for number, row in zip(sheet.numbers, cells, strict=True):
        name, image = row["case_id"], row["image"]
        if name.casefold() in seen:  # folders of some systems do not tell A from a
            yield Fault(number, "case_id", name, "the name is there twice")
        seen.add(name.casefold())
        try:
            check_case_name(name)
        except SettingError:
            yield Fault(number, "case_id", name, "must be fit for a folder's name")
        if name in (TABLE, REFUSED, RECORD, STATE):
            yield Fault(number, "case_id", name, "is the name of a file of the batch")
        if not image:
            yield Fault(number, "image", "", "must not be empty")
        elif is_address(image):
            try:
                if parse_address(image).study_uid is None:
                    yield Fault(number, "image", "", "must name a study of the PACS")
            except SettingError as error:
                yield Fault(number, "image", "", str(error))


def predict_batch(
    manifest: str | Path,
    *,
    weights: Sequence[str | Path],
    out: str | Path,
    workers: int = 1,
    tell: Callable[[str], None] = _LOG.info,
    service: PacsAddress | None = None,
    **settings: Any,
) -> Json:
    """Predict every case of a manifest; a batch that was stopped goes on where it stood.

    A case is done when its ``prediction.json`` is no refusal, the manifest still says the same of
    it, and its files are (by size and time) the ones they were. Refused cases are tried again: a
    PACS may answer now.

    Args:
        manifest: see :func:`read_manifest`.
        weights: checkpoints; see :func:`monai_vfx.workflows.predict`.
        out: folder: one folder a case, ``predictions.csv``, ``refused.jsonl`` and ``run.json``.
        workers: processes; 1 works in this one.
        tell: called with a line about each case.
        service: PACS to which each case's DICOM objects go; they are written for it, too. A case
            whose objects it does not take is refused, and tried again in the next call.
        **settings: of :func:`monai_vfx.workflows.predict`: ``calibration``, ``compare_mask``,
            ``explain``, ``export``; and ``mask``, who makes the masks of rows that name none.

    Returns:
        ``cases``, ``done`` (now or before) and ``refused``, the numbers of each.

    Raises:
        CaseRefused: the manifest or the weights cannot be used.
        SettingError: the folder holds a batch with other weights or settings; DICOM objects are
            asked for, and a row's image is no DICOM.
    """
    rows = read_manifest(manifest)
    settings["export"] = _exports(rows, settings.get("export", ()), service)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    state = _state(weights, settings, service)
    digests = {row.case_id: row.digest for row in rows}  # of the files as they are before the work
    done = _done(out, digests, state)
    waiting = [row for row in rows if row.case_id not in done]
    if done:
        tell(f"{len(done)} of {len(rows)} cases are done already")
    refusals: dict[str, CaseRefused] = {}
    paths = [Path(member) for member in weights]
    try:
        results = _run(waiting, paths, out, settings, workers, service)
        for number, (row, refusal) in enumerate(results, start=1):
            outcome = "done"
            if refusal is None:
                done[row.case_id] = digests[row.case_id]
                write_json(out / STATE, {**state, "rows": done})
            else:
                refusals[row.case_id] = refusal
                outcome = f"refused {refusal.code}: {refusal.message}"
            tell(f"{number} of {len(waiting)}: {row.case_id} {outcome}")
    finally:  # what is there can be used, whatever stopped the rest
        _write_tables(out, rows, done, refusals)
    inputs = {"manifest": content_hash(Path(manifest)), **state["inputs"]}
    write_json(out / RECORD, run_record("batch", {**state["settings"], "workers": workers}, inputs))
    return {"cases": len(rows), "done": len(done), "refused": len(refusals)}


def _exports(
    rows: Sequence[Row], kinds: Sequence[str], service: PacsAddress | None
) -> tuple[str, ...]:
    """Return what is to be written of each case; refuse before any work what no row can have."""
    if service is not None:
        kinds = (*kinds, "dicom")
    for row in rows:
        if not is_address(row.image):
            try:
                check_export(kinds, row.image)
            except SettingError as error:
                raise SettingError(f"case {row.case_id}: {error}") from error
    return tuple(dict.fromkeys(kinds))


def _state(
    weights: Sequence[str | Path], settings: Json, service: PacsAddress | None = None
) -> Json:
    """Return what must be the same for results to stand in one table."""
    inputs = {f"weights_{n}": read_sidecar(w)["weights_sha256"] for n, w in enumerate(weights, 1)}
    calibration = settings.get("calibration")
    inputs["calibration"] = None if calibration is None else content_hash(Path(calibration))
    plain = {name: value for name, value in settings.items() if name != "calibration"}
    plain["store"] = None if service is None else service.service
    return {"settings": json.loads(json.dumps(plain)), "inputs": inputs}


def _done(out: Path, digests: dict[str, str], state: Json) -> dict[str, str]:
    """Return the cases that need nothing more, with their digests."""
    if not (out / STATE).is_file():
        return {}
    earlier = json.loads((out / STATE).read_text(encoding="utf-8"))
    if {name: earlier.get(name) for name in state} != state:
        raise SettingError("out holds a batch with other weights or settings: give another folder")
    same = {case: now for case, now in digests.items() if earlier["rows"].get(case) == now}
    return {case: digest for case, digest in same.items() if _result(out, case) is not None}


def _result(out: Path, case_id: str) -> Prediction | None:
    """Return the result of a case; None where there is none or it was refused."""
    path = out / case_id / "prediction.json"
    if not path.is_file():
        return None
    prediction = Prediction.from_json(json.loads(path.read_text(encoding="utf-8")))
    return prediction if prediction.status == "ok" else None


def _run(
    rows: Sequence[Row],
    weights: list[Path],
    out: Path,
    settings: Json,
    workers: int,
    service: PacsAddress | None = None,
) -> Iterator[tuple[Row, CaseRefused | None]]:
    """Yield each case as it ends, with its refusal if there is one."""
    predict = partial(_predict, weights=weights, out=out, settings=settings, service=service)
    if workers == 1:
        yield from ((row, predict(row)) for row in rows)
        return

    def died(row: Row) -> CaseRefused:
        message = "the process that worked on the case ended (out of memory?)"
        return _note(out / row.case_id, row.case_id, CaseRefused("internal", message))

    yield from run_tasks(predict, rows, min(workers, max(len(rows), 1)), died)


def _predict(
    row: Row, weights: list[Path], out: Path, settings: Json, service: PacsAddress | None = None
) -> CaseRefused | None:
    """Predict one case into its folder; return why it is refused, if it is."""
    from monai_vfx.workflows import predict

    folder = out / row.case_id
    chosen = {**settings, "clinical": row.clinical, "series_uid": row.series_uid}
    if row.mask is not None:
        chosen["mask"] = row.mask
    try:
        image = parse_address(row.image) if is_address(row.image) else Path(row.image)
        with local_image(image, row.series_uid) as local:
            predict(
                local,
                weights=weights,
                out=folder,
                case_id=row.case_id,
                networks=_networks,
                **chosen,
            )
        if service is not None:
            store([folder / name for name in OBJECTS if (folder / name).exists()], service)
    except Exception as error:  # one bad case must not stop the others
        refusal = find_refusal(error)
        if refusal is None:
            if isinstance(error, SettingError | ImportError):
                raise  # wrong for every case
            _LOG.exception("case %s", row.case_id)
            refusal = CaseRefused("internal", f"{type(error).__name__} in the prediction")
        return _note(folder, row.case_id, refusal)
    return None


def _note(folder: Path, case_id: str, refusal: CaseRefused) -> CaseRefused:
    write_json(place_for_refusal(folder), Prediction.refused(case_id, refusal).to_json())
    return refusal


def _write_tables(
    out: Path, rows: Sequence[Row], done: dict[str, str], refusals: dict[str, CaseRefused]
) -> None:
    """Write the cases side by side, in the manifest's order; those not reached are left out."""
    partial = out / f"{TABLE}.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in rows:
            refusal = refusals.get(row.case_id)
            result = _result(out, row.case_id) if row.case_id in done else None
            if refusal is not None:
                table.writerow(
                    (row.case_id, "refused", *[""] * 4, refusal.code, refusal.message, "")
                )
            elif result is not None:
                low, high = result.risk_5y_interval or (None, None)
                codes = " ".join(dict.fromkeys(warning.code for warning in result.warnings))
                table.writerow(
                    (row.case_id, "ok", result.score, result.risk_5y, low, high, "", "", codes)
                )
    partial.replace(out / TABLE)
    lines = [
        json.dumps({"case_id": case, "code": r.code, "message": r.message, "remedy": r.remedy})
        for case, r in refusals.items()
    ]
    (out / REFUSED).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
