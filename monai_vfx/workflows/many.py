"""One job on many cases: resumable, over processes, and one bad case stops no other.

Each finished case is a line of a ledger. A case is done again only if its files (by size and time),
its row, the settings or the version have changed, or if its refusal may have been the fault of a
file system, a network or a tool.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import (
    CaseRefused,
    MissingDependencyError,
    SettingError,
    find_cause,
    find_refusal,
)
from monai_vfx.core.files import write_csv, write_json, write_jsonl
from monai_vfx.core.hashing import content_hash, digest_of
from monai_vfx.core.ledger import Ledger
from monai_vfx.core.results import run_record
from monai_vfx.core.workers import run_tasks
from monai_vfx.workflows.manifest import CaseInput, read_manifest

_LOG = logging.getLogger(__name__)
REFUSED, RECORD = "refused.jsonl", "run.json"
_STOPS_ALL = ("weights_unreadable", "weights_mismatch")
_TRIED_AGAIN = (
    *("internal", "mask_not_made", "input_unreadable", "file_truncated", "pacs_unreachable"),
    *("pacs_denied", "not_in_pacs", "retrieval_incomplete", "pacs_error", "store_failed"),
)


@dataclass(frozen=True, kw_only=True)
class CaseJob(ABC):
    """What a command does with each case; can be pickled.

    Args:
        out: folder of the results; each case has a folder of its own name in it.
        one: the results of the only case are in ``out`` itself.
    """

    out: Path
    one: bool = False
    command: ClassVar[str]
    name: ClassVar[str]
    """Of the ledger (``NAME.jsonl``) and the table (``NAME.csv``)."""
    result: ClassVar[str]
    """The file in a case's folder without which the case is done again."""
    columns: ClassVar[tuple[str, ...]]
    mixed: ClassVar[bool] = True
    """Whether ``out`` may hold cases that were done with other settings."""

    @property
    @abstractmethod
    def facts(self) -> tuple[Json, Json]:
        """The settings, without paths, and the SHA-256 of the files that they name."""

    @abstractmethod
    def __call__(self, row: CaseInput) -> Json:
        """Return the document of a case: ``status``, ``refusal``, ``warnings`` and more."""

    @abstractmethod
    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        """Return, and leave in the case's folder, the document of a case that is refused."""

    @abstractmethod
    def table_row(self, document: Json) -> Json:
        """Return what the table says of a case beside its name, status, refusal and warnings."""

    def check(self, row: CaseInput) -> None:  # noqa: B027 - most jobs take every row
        """Name what cannot be done with a row, before any work.

        Raises:
            SettingError: an export that is not possible of this image.
        """

    def folder(self, row: CaseInput) -> Path:
        """Return the folder of a case."""
        return self.out if self.one else self.out / row.case_id

    def inputs(self, row: CaseInput, states: dict[str, str | None]) -> Json:
        """Return what identifies the files of a case; empty where that is not of interest."""
        return {}

    def stands(self, row: CaseInput) -> bool:
        """Whether the results that an earlier run left of a case are still there."""
        return (self.folder(row) / self.result).is_file()

    def finish(self, records: Sequence[Json]) -> None:
        """Write the cases side by side, and a line for each refused case."""
        rows = []
        for record in records:
            document = record["report"]
            codes = dict.fromkeys(warning["code"] for warning in document["warnings"])
            refusal = document["refusal"] or {}
            row = {"case_id": record["case_id"], "status": document["status"]}
            row |= {name: refusal.get(name) for name in ("code", "message")}
            rows.append({**row, "warnings": " ".join(codes), **self.table_row(document)})
        write_csv(self.out / f"{self.name}.csv", self.columns, rows)
        refused = [record for record in records if record["report"]["refusal"] is not None]
        lines = ({"case_id": r["case_id"], **r["report"]["refusal"]} for r in refused)
        write_jsonl(self.out / REFUSED, lines)


def run_many(
    job: CaseJob,
    rows: Sequence[CaseInput],
    *,
    workers: int = 1,
    tell: Callable[[str], None],
    inputs: Json | None = None,
) -> list[Json]:
    """Do a job on each case that is not done already; a run that was stopped resumes.

    Args:
        job: what is done.
        rows: the cases, each with a name of its own.
        workers: processes; 0 works in this one.
        tell: called with a line about each case.
        inputs: digests of further files, for ``run.json``.

    Returns:
        A record for each row, as it is in the ledger: ``case_id``, ``report`` (the job's document),
        ``inputs``, ``seconds``, and ``stamp`` and ``settings``, digests by which the next run knows
        what is done.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``: no case can be done.
        MissingDependencyError: a tool is asked for and not installed.
        SettingError: a setting that no case can be done with; a folder with results by other ones.
    """
    for row in rows:
        job.check(row)
    files = {f"{job.name}.jsonl", f"{job.name}.csv", REFUSED, RECORD}
    if taken := files & {row.case_id for row in rows}:
        raise SettingError(f"case_id {min(taken)} is the name of a file of the results")
    records: dict[str, Json] = {}
    began = time.monotonic()
    settings, digests = job.facts
    attempt = _Attempt(job, digest_of([settings, digests]))
    with Ledger(job.out / f"{job.name}.jsonl") as done:
        known = {name: record for name, record in done.records.items() if record.get("stamp")}
        if not job.mixed and {r["settings"] for r in known.values()} - {attempt.settings}:
            raise SettingError(
                "out holds results by other weights or settings: give another folder"
            )
        tasks = [(row, known.get(row.case_id, {}).get("stamp")) for row in rows]
        try:
            for (row, _), record in run_tasks(attempt, tasks, workers, attempt.died):
                if record is not None:
                    done.add(record)
                records[row.case_id] = record or known[row.case_id]
                left = (time.monotonic() - began) / len(records) * (len(rows) - len(records)) / 60
                tell(
                    f"{len(records)} of {len(rows)}, {row.case_id}: {_outcome(record)} "
                    f"(about {left:.0f} min left)"
                )
            done.rewrite([row.case_id for row in rows])
        finally:  # whatever stopped the rest, the results so far can be used
            job.finish([records[row.case_id] for row in rows if row.case_id in records])
    facts = {**settings, "workers": workers}
    write_json(job.out / RECORD, run_record(job.command, facts, digests | (inputs or {})))
    return [records[row.case_id] for row in rows]


def run_manifest(
    job: CaseJob, manifest: str | Path, workers: int, tell: Callable[[str], None]
) -> Json:
    """Do a job on each case of a manifest.

    Returns:
        ``cases``, ``done`` (now or before) and ``refused``, the numbers of each.
    """
    inputs = {"manifest": content_hash(Path(manifest))}
    records = run_many(job, read_manifest(manifest), workers=workers, tell=tell, inputs=inputs)
    refused = sum(record["report"]["refusal"] is not None for record in records)
    return {"cases": len(records), "done": len(records) - refused, "refused": refused}


def _outcome(record: Json | None) -> str:
    if record is None:
        return "kept"
    refusal = record["report"]["refusal"]
    return "done" if refusal is None else f"refused {refusal['code']}"


@dataclass(frozen=True)
class _Attempt:
    """Do a job on a case unless an earlier record stands; never raises for the case's sake."""

    job: CaseJob
    settings: str

    def __call__(self, task: tuple[CaseInput, str | None]) -> Json | None:
        row, earlier = task
        states = row.states()  # of the files as they are before the work
        stamp = digest_of([row.stamp(states), self.settings, metadata.version("monai_vfx")])
        if stamp == earlier and self.job.stands(row):
            return None
        began = time.monotonic()
        report = attempt(self.job, row)
        seconds = round(time.monotonic() - began, 2)
        again = (report["refusal"] or {}).get("code") in _TRIED_AGAIN
        inputs = self.job.inputs(row, states)
        return self._record(row, None if again else stamp, seconds, inputs, report)

    def died(self, task: tuple[CaseInput, str | None]) -> Json:
        row, _ = task
        message = "the process that worked on this case ended (out of memory?)"
        report = self.job.refused(row, CaseRefused("internal", message))
        inputs = dict.fromkeys(self.job.inputs(row, {}))
        return self._record(row, None, None, inputs, report)

    def _record(
        self, row: CaseInput, stamp: str | None, seconds: float | None, inputs: Json, report: Json
    ) -> Json:
        facts = {"case_id": row.case_id, "stamp": stamp, "settings": self.settings}
        return {**facts, "seconds": seconds, "inputs": inputs, "report": report}


def attempt(job: CaseJob, row: CaseInput) -> Json:
    """Return the document of a case; any error that is its own is a refusal.

    Raises:
        CaseRefused, MissingDependencyError, SettingError: what is wrong for every case.
    """
    try:
        job.check(row)
        return job(row)
    except Exception as error:
        for kind in (SettingError, MissingDependencyError):
            if find_cause(error, kind) is not None:
                raise
        refusal = find_refusal(error)
        if refusal is None:
            # The error's own text may hold a path, and a path a patient's name.
            _LOG.exception("case %s", row.case_id)
            refusal = CaseRefused("internal", f"{type(error).__name__} in the software")
        if refusal.code in _STOPS_ALL:
            raise refusal from error
        return job.refused(row, refusal)
