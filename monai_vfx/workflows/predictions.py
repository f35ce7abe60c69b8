"""Predictions of one or many cases as the command line makes them: each case in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_csv, write_json
from monai_vfx.core.hashing import content_hash
from monai_vfx.core.results import Prediction, place_for_refusal, run_record
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.workflows.manifest import CaseInput, read_manifest
from monai_vfx.workflows.many import run_many, write_refusals
from monai_vfx.workflows.predictor import Predictor

LEDGER, TABLE, REFUSED = "predictions.jsonl", "predictions.csv", "refused.jsonl"
COLUMNS = (
    *("case_id", "status", "score", "risk_5y", "risk_5y_low", "risk_5y_high"),
    *("code", "message", "warnings"),
)
"""Columns of :data:`TABLE`; ``warnings`` holds codes with blanks between."""


@dataclass(frozen=True)
class PredictCases:
    """Predict a case into its folder and record a refusal there too.

    Args:
        predictor: scores.
        out: folder of the results.
        one: the only case's results lie in ``out`` itself, not in a folder of its name.
    """

    predictor: Predictor
    out: Path
    one: bool = False

    @property
    def facts(self) -> Any:
        """Settings and digests of the files that they name."""
        service = self.predictor.service
        return [*self.predictor.facts(), self.predictor.mask, service and service.service]

    def folder(self, row: CaseInput) -> Path:
        """Return the folder of a case."""
        return self.out if self.one else self.out / row.case_id

    def __call__(self, row: CaseInput) -> Json:
        """Return the prediction of a case."""
        return self.predictor(row, self.folder(row)).to_json()

    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        """Record a refusal, never over an earlier result."""
        document = Prediction.refused(row.case_id, refusal).to_json()
        if self.predictor.deidentify:
            document = Deidentifier().document(document)
        write_json(place_for_refusal(self.folder(row)), document)
        return document

    def inputs(self, row: CaseInput, states: dict[str, str | None]) -> Json:
        """Return nothing: ``run.json`` of the case has the digests."""
        return {}

    def stands(self, row: CaseInput) -> bool:
        """Whether the result is still there."""
        return (self.folder(row) / "prediction.json").is_file()


def predict_many(
    manifest: str | Path,
    predictor: Predictor,
    out: str | Path,
    *,
    workers: int = 1,
    tell: Callable[[str], None],
) -> Json:
    """Predict every case of a manifest; a run that was stopped resumes.

    Args:
        manifest: see :func:`monai_vfx.workflows.manifest.read_manifest`.
        predictor: scores each case.
        out: folder: one folder a case, ``predictions.csv``, ``predictions.jsonl``,
            ``refused.jsonl`` and ``run.json``.
        workers: processes; 0 works in this one.
        tell: called with a line about each case.

    Returns:
        ``cases``, ``done`` (now or before) and ``refused``, the numbers of each.

    Raises:
        CaseRefused: the manifest or the weights cannot be used.
        SettingError: the folder holds results by other weights or settings; DICOM objects are asked
            for, and a row's image is no DICOM.
    """
    out = Path(out)
    rows = read_manifest(manifest)
    for row in rows:
        predictor.check_export(row)
        if row.case_id in (LEDGER, TABLE, REFUSED, "run.json"):
            raise SettingError(f"case_id {row.case_id} is the name of a file of the results")

    def finish(records: Sequence[Json]) -> None:
        write_csv(out / TABLE, COLUMNS, [_table_row(record["report"]) for record in records])
        write_refusals(out / REFUSED, records)

    job = PredictCases(predictor, out)
    records = run_many(
        job, rows, out / LEDGER, workers=workers, tell=tell, finish=finish, mixed=False
    )
    settings, inputs = predictor.facts()
    inputs["manifest"] = content_hash(Path(manifest))
    write_json(out / "run.json", run_record("predict", {**settings, "workers": workers}, inputs))
    refused = sum(record["report"]["refusal"] is not None for record in records)
    return {"cases": len(rows), "done": len(rows) - refused, "refused": refused}


def _table_row(document: Json) -> Json:
    refusal = document["refusal"] or {}
    low, high = document["risk_5y_interval"] or (None, None)
    codes = dict.fromkeys(warning["code"] for warning in document["warnings"])
    return {
        **{name: document[name] for name in ("case_id", "status", "score", "risk_5y")},
        "risk_5y_low": low,
        "risk_5y_high": high,
        "code": refusal.get("code"),
        "message": refusal.get("message"),
        "warnings": " ".join(codes),
    }
