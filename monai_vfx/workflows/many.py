"""One job on many cases: resumable, over processes, and one bad case stops no other.

Each finished case is a line of a ledger. A case is done again only if its files (by size and time),
its row, the settings or the version have changed, or if its refusal may have been the fault of a
file system, a network or a tool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import (
    CaseRefused,
    MissingDependencyError,
    SettingError,
    find_cause,
    find_refusal,
)
from monai_vfx.core.files import write_jsonl
from monai_vfx.core.hashing import digest_of
from monai_vfx.core.ledger import Ledger
from monai_vfx.core.workers import run_tasks
from monai_vfx.workflows.manifest import CaseInput

_LOG = logging.getLogger(__name__)
_STOPS_ALL = ("weights_unreadable", "weights_mismatch")
_TRIED_AGAIN = (
    *("internal", "mask_not_made", "input_unreadable", "file_truncated", "pacs_unreachable"),
    *("pacs_denied", "not_in_pacs", "retrieval_incomplete", "pacs_error", "store_failed"),
)


class CaseJob(Protocol):
    """What is done with each case; can be pickled."""

    @property
    def facts(self) -> Any:
        """The settings, and digests of the files that they name; no paths."""

    def __call__(self, row: CaseInput) -> Json:
        """Return the document of a case: ``status``, ``refusal`` and what else it holds."""

    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        """Return the document of a case that is refused."""

    def inputs(self, row: CaseInput, states: dict[str, str | None]) -> Json:
        """Return what identifies the files of a case; empty where that is not of interest."""

    def stands(self, row: CaseInput) -> bool:
        """Whether the files that an earlier run left of a case are still there."""


def run_many(
    job: CaseJob,
    rows: Sequence[CaseInput],
    ledger: Path,
    *,
    workers: int,
    tell: Callable[[str], None],
    finish: Callable[[list[Json]], None],
    mixed: bool = True,
) -> list[Json]:
    """Do a job on each case that is not done already.

    Args:
        job: what is done.
        rows: the cases, each with a name of its own.
        ledger: file of one JSON object a case: ``case_id``, ``report`` (the job's document),
            ``inputs``, ``seconds``, and ``stamp`` and ``settings``, digests by which the next run
            knows what is done.
        workers: processes; 0 works in this one.
        tell: called with a line about each case.
        finish: called with the records, in the order of the rows, whatever stopped the rest.
        mixed: whether cases may stay that were done with other settings; otherwise such a ledger is
            an error.

    Returns:
        The records, in the order of the rows.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``: no case can be done.
        MissingDependencyError: a tool is asked for and not installed.
        SettingError: a setting that no case can be done with, or another run's ledger.
    """
    records: dict[str, Json] = {}
    began = time.monotonic()
    attempt = _Attempt(job, digest_of(job.facts))
    with Ledger(ledger) as done:
        known = {name: record for name, record in done.records.items() if record.get("stamp")}
        if not mixed and {r["settings"] for r in known.values()} - {attempt.settings}:
            raise SettingError(
                f"{ledger.parent} holds results by other weights or settings: give another folder"
            )
        tasks = [(row, known.get(row.case_id, {}).get("stamp")) for row in rows]
        try:
            for (row, _), record in run_tasks(attempt, tasks, workers, attempt.died):
                if record is None:
                    record = known[row.case_id]
                    outcome = "kept"
                else:
                    done.add(record)
                    refusal = record["report"]["refusal"]
                    outcome = "done" if refusal is None else f"refused {refusal['code']}"
                records[row.case_id] = record
                left = (time.monotonic() - began) / len(records) * (len(rows) - len(records)) / 60
                tell(
                    f"{len(records)} of {len(rows)}, {row.case_id}: {outcome} "
                    f"(about {left:.0f} min left)"
                )
            done.rewrite([row.case_id for row in rows])
        finally:
            finish([records[row.case_id] for row in rows if row.case_id in records])
    return [records[row.case_id] for row in rows]


def write_refusals(path: Path, records: Sequence[Json]) -> None:
    """Write ``refused.jsonl``: a line of case, code, message and remedy for each refused case."""
    refused = [record for record in records if record["report"]["refusal"] is not None]
    write_jsonl(path, ({"case_id": r["case_id"], **r["report"]["refusal"]} for r in refused))


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
