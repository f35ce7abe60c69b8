"""The check of many cases, resumable: ``check.jsonl``, ``check.csv``, ``check.html``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_vfx.case.case import refused_report
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.hashing import content_hash
from monai_vfx.io.dicomweb.address import PacsAddress
from monai_vfx.workflows.check.case import check_one
from monai_vfx.workflows.check.table import row_of, write_table
from monai_vfx.workflows.manifest import CaseInput
from monai_vfx.workflows.many import CaseJob, run_many


@dataclass(frozen=True, kw_only=True)
class CheckCases(CaseJob):
    """Check a case; a mask that is made goes to ``masks/CASE`` in ``out``.

    Args:
        mask: who makes the mask of a case without one (:data:`monai_vfx.core.anatomy.MADE_MASKS`).
        compare_mask: whether a given mask's levels are compared with the vertebra segmentation's.
        scheme: label scheme of given masks, or path of a mapping; found out by default.
    """

    mask: str = "auto"
    compare_mask: bool = True
    scheme: str | None = None
    command = name = "check"

    @property
    def facts(self) -> tuple[Json, Json]:
        """Settings, and the content of a mapping of labels."""
        settings = {"mask": self.mask, "compare_mask": self.compare_mask, "scheme": self.scheme}
        if self.scheme is None or not Path(self.scheme).is_file():
            return settings, {}
        mapping = Path(self.scheme)
        return settings | {"scheme": mapping.name}, {"labels": content_hash(mapping)}

    def __call__(self, row: CaseInput) -> Json:
        """Return the report of a case."""
        report, refusal = check_one(
            row,
            self.out / "masks" / row.case_id,
            mask=self.mask,
            scheme=self.scheme,
            compare_mask=self.compare_mask,
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

    def table_row(self, document: Json) -> Json:
        """Return nothing: :meth:`finish` writes the whole table."""
        return {}

    def finish(self, records: Sequence[Json]) -> None:
        """Write table and page."""
        from monai_vfx.outputs.report.check_page import write_check_page

        rows = [row_of(record) for record in records]
        write_table(self.out / "check.csv", rows)
        write_check_page(self.out / "check.html", rows)


def check_many(
    job: CheckCases,
    cases: Sequence[CaseInput],
    *,
    workers: int = 1,
    tell: Callable[[str], None],
) -> Json:
    """Check cases; see :func:`monai_vfx.workflows.many.run_many`.

    Returns:
        ``studies``, ``accepted``, ``refused``, and by code ``refusals`` and ``warnings``.
    """
    reports = [record["report"] for record in run_many(job, cases, workers=workers, tell=tell)]
    refused = Counter(r["refusal"]["code"] for r in reports if r["refusal"] is not None)
    warned = Counter(code for r in reports for code in {w["code"] for w in r["warnings"]})
    return {
        "studies": len(reports),
        "accepted": len(reports) - refused.total(),
        "refused": refused.total(),
        "refusals": dict(refused.most_common()),
        "warnings": dict(warned.most_common()),
    }


def _content(path: Path | PacsAddress | None) -> str | None:
    try:
        return content_hash(path) if isinstance(path, Path) and path.exists() else None
    except OSError:
        return None
