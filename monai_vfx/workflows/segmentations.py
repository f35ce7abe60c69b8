"""Segmentations of one or many CTs as the command line makes them: each case in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_csv, write_json
from monai_vfx.core.hashing import content_hash
from monai_vfx.core.results import run_record
from monai_vfx.io.dicomweb.address import PacsAddress
from monai_vfx.io.dicomweb.transfer import local_image, store
from monai_vfx.vertebrae.sources.source import (
    FACTS,
    SEGMENTATION,
    refused_segmentation,
    segment_case,
)
from monai_vfx.workflows.manifest import CaseInput, read_manifest
from monai_vfx.workflows.many import run_many, write_refusals

LEDGER, TABLE, REFUSED = "segmentations.jsonl", "segmentations.csv", "refused.jsonl"
COLUMNS = ("case_id", "status", "confidence", "levels", "code", "message", "warnings")
"""Columns of :data:`TABLE`; ``levels`` and ``warnings`` with blanks between."""


@dataclass(frozen=True)
class SegmentCases:
    """Segment a case into its folder.

    Args:
        out: folder of the results.
        weights: folder with the vertebra segmentation's weights; those of the package by default.
        deidentify: leave the patient out of ``mask.dcm``.
        service: PACS that stores ``mask.dcm``.
        one: the only case's results lie in ``out`` itself, not in a folder of its name.
    """

    out: Path
    weights: Path | None = None
    deidentify: bool = False
    service: PacsAddress | None = None
    one: bool = False

    def __post_init__(self) -> None:
        if self.service is not None and self.deidentify:
            raise SettingError(
                "--store puts results into the patient's study and --deidentify takes them out: "
                "leave one out"
            )

    @property
    def facts(self) -> Json:
        """Settings, and the digest of the weights."""
        weights = None if self.weights is None else content_hash(self.weights)
        service = self.service and self.service.service
        return {"weights": weights, "deidentify": self.deidentify, "store": service}

    def folder(self, row: CaseInput) -> Path:
        """Return the folder of a case."""
        return self.out if self.one else self.out / row.case_id

    def __call__(self, row: CaseInput) -> Json:
        """Return what ``segmentation.json`` holds."""
        folder = self.folder(row)
        with local_image(row.image, row.series_uid) as image:
            document = segment_case(
                image,
                folder,
                series_uid=row.series_uid,
                weights=self.weights,
                deidentify=self.deidentify,
            )
        if self.service is not None and (folder / SEGMENTATION).exists():
            store([folder / SEGMENTATION], self.service)
        return document

    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        """Record a refusal in place of ``segmentation.json``."""
        document = refused_segmentation(refusal)
        write_json(self.folder(row) / FACTS, document)
        return document

    def inputs(self, row: CaseInput, states: dict[str, str | None]) -> Json:
        """Return nothing."""
        return {}

    def stands(self, row: CaseInput) -> bool:
        """Whether the result is still there."""
        return (self.folder(row) / FACTS).is_file()


def segment_many(
    manifest: str | Path, job: SegmentCases, *, workers: int = 1, tell: Callable[[str], None]
) -> Json:
    """Segment every CT of a manifest; a run that was stopped resumes.

    Args:
        manifest: see :func:`monai_vfx.workflows.manifest.read_manifest`; masks are ignored.
        job: what is done with each.
        workers: processes; 0 works in this one.
        tell: called with a line about each case.

    Returns:
        ``cases``, ``done`` (now or before) and ``refused``, the numbers of each.
    """
    rows = read_manifest(manifest)

    def finish(records: Sequence[Json]) -> None:
        write_csv(job.out / TABLE, COLUMNS, [_table_row(record) for record in records])
        write_refusals(job.out / REFUSED, records)

    records = run_many(job, rows, job.out / LEDGER, workers=workers, tell=tell, finish=finish)
    inputs = {"manifest": content_hash(Path(manifest)), "weights": job.facts["weights"]}
    settings = {"deidentify": job.deidentify, "workers": workers}
    write_json(job.out / "run.json", run_record("segment", settings, inputs))
    refused = sum(record["report"]["refusal"] is not None for record in records)
    return {"cases": len(rows), "done": len(rows) - refused, "refused": refused}


def _table_row(record: Json) -> Json:
    document = record["report"]
    refusal = document["refusal"] or {}
    return {
        "case_id": record["case_id"],
        "status": document["status"],
        "confidence": document["confidence"],
        "levels": " ".join(level["name"] for level in document["levels"]),
        "code": refusal.get("code"),
        "message": refusal.get("message"),
        "warnings": " ".join(dict.fromkeys(w["code"] for w in document["warnings"])),
    }
