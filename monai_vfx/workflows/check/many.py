"""The check of many cases, resumable: ``check.jsonl``, ``check.csv``, ``check.html``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_vfx.case.case import refused_report
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash
from monai_vfx.core.results import run_record
from monai_vfx.io.dicomweb.address import PacsAddress
from monai_vfx.workflows.check.case import check_one
from monai_vfx.workflows.check.table import row_of, write_table
from monai_vfx.workflows.manifest import CaseInput
from monai_vfx.workflows.many import run_many

REPORTS, TABLE, PAGE, MASKS = "check.jsonl", "check.csv", "check.html", "masks"


@dataclass(frozen=True)
class Settings:
    """How every case is checked.

    Args:
        mask: who makes the mask of a case without one (:data:`monai_vfx.core.anatomy.MADE_MASKS`).
        compare_mask: whether a given mask's levels are compared with the vertebra segmentation's.
        scheme: label scheme of given masks, or path of a mapping; found out by default.
    """

    mask: str = "auto"
    compare_mask: bool = True
    scheme: str | None = None


@dataclass(frozen=True)
class CheckCases:
    """Check a case; a mask that is made goes to ``masks/CASE`` in ``out``."""

    settings: Settings
    out: Path

    @property
    def facts(self) -> Any:
        """Settings, and the content of a mapping of labels."""
        scheme = self.settings.scheme
        mapping = scheme is not None and Path(scheme).is_file()
        return [asdict(self.settings), content_hash(Path(scheme)) if mapping and scheme else None]

    def __call__(self, row: CaseInput) -> Json:
        """Return the report of a case."""
        report, refusal = check_one(
            row,
            self.out / MASKS / row.case_id,
            mask=self.settings.mask,
            scheme=self.settings.scheme,
            compare_mask=self.settings.compare_mask,
            segmentation=False,  # it would hold the patient's name
        )
        if refusal is not None and refusal.code.startswith("weights_"):
            raise refusal
        return report

    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        """Return the report of a case of which only the refusal is known."""
        return refused_report(row.case_id, refusal)

    def inputs(self, row: CaseInput, states: dict[str, str | None]) -> Json:
        """Return state and SHA-256 of image and mask: the gate knows by them what was checked."""
        return {
            "image_state": states.get("image"),
            "image_sha256": _content(row.image) if states else None,
            "mask_state": states.get("mask"),
            "mask_sha256": _content(row.mask) if states else None,
        }

    def stands(self, row: CaseInput) -> bool:
        """Whether the report stands; all of it is in the ledger."""
        return True


def check_many(
    cases: Sequence[CaseInput],
    out: Path,
    settings: Settings | None = None,
    *,
    workers: int = 1,
    tell: Callable[[str], None],
) -> Json:
    """Check cases; a refused one stops no other.

    Args:
        cases: each with a name of its own.
        out: folder for the tables, and for masks that are made (``masks/CASE``).
        settings: how.
        workers: processes; 0 works in this one.
        tell: called with a line about each case.

    Returns:
        ``studies``, ``accepted``, ``refused``, and by code ``refusals`` and ``warnings``.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``: no mask at all can be made.
        MissingDependencyError: a tool is asked for and not installed.
    """
    settings = settings or Settings()

    def finish(records: Sequence[Json]) -> None:
        from monai_vfx.outputs.report.check_page import write_check_page

        rows = [row_of(record) for record in records]
        write_table(out / TABLE, rows)
        write_check_page(out / PAGE, rows)

    job = CheckCases(settings, out)
    records = run_many(job, cases, out / REPORTS, workers=workers, tell=tell, finish=finish)
    used = asdict(settings) | {"scheme": settings.scheme and Path(settings.scheme).name}
    write_json(out / "run.json", run_record("check", used, {}))
    return _summary([record["report"] for record in records])


def _content(path: Path | PacsAddress | None) -> str | None:
    try:
        return content_hash(path) if isinstance(path, Path) and path.exists() else None
    except OSError:
        return None


def _summary(reports: Sequence[Json]) -> Json:
    refused = Counter(r["refusal"]["code"] for r in reports if r["refusal"] is not None)
    warned = Counter(code for r in reports for code in {w["code"] for w in r["warnings"]})
    return {
        "studies": len(reports),
        "accepted": len(reports) - refused.total(),
        "refused": refused.total(),
        "refusals": dict(refused.most_common()),
        "warnings": dict(warned.most_common()),
    }
