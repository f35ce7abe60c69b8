"""What ``vfx predict`` and ``vfx segment`` do with each case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import content_hash
from monai_vfx.core.results import Prediction, place_for_refusal
from monai_vfx.io.dicomweb.address import PacsAddress
from monai_vfx.io.dicomweb.transfer import local_image, store
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.outputs.hospital.export import check_export
from monai_vfx.vertebrae.sources.segment import segment_case
from monai_vfx.vertebrae.sources.source import FACTS, SEGMENTATION
from monai_vfx.vertebrae.sources.writing import refused_segmentation
from monai_vfx.workflows.manifest import CaseInput
from monai_vfx.workflows.many import CaseJob
from monai_vfx.workflows.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class PredictCases(CaseJob):
    """Predict a case into its folder; a refusal is recorded there, never over a result."""

    predictor: Predictor
    command, name, result, mixed = "predict", "predictions", "prediction.json", False
    columns = (
        *("case_id", "status", "score", "risk_5y", "risk_5y_low", "risk_5y_high"),
        *("code", "message", "warnings"),
    )

    @property
    def facts(self) -> tuple[Json, Json]:
        """The predictor's settings, and the digests of the files that they name."""
        settings, digests = self.predictor.facts()
        service = self.predictor.service
        return settings | {
            "mask": self.predictor.mask,
            "store": service and service.service,
        }, digests

    def check(self, row: CaseInput) -> None:
        """Refuse DICOM objects of an image that is no DICOM."""
        _check_export(self.predictor.export, row)

    def __call__(self, row: CaseInput) -> Json:
        """Return the prediction of a case."""
        return self.predictor(row, self.folder(row)).to_json()

    def refused(self, row: CaseInput, refusal: CaseRefused) -> Json:
        """Return and record the refusal."""
        document = Prediction.refused(row.case_id, refusal).to_json()
        if self.predictor.deidentify:
            document = Deidentifier().document(document)
        write_json(place_for_refusal(self.folder(row)), document)
        return document

    def table_row(self, document: Json) -> Json:
        """Return score and risk."""
        low, high = document["risk_5y_interval"] or (None, None)
        scores = {name: document[name] for name in ("score", "risk_5y")}
        return {**scores, "risk_5y_low": low, "risk_5y_high": high}


@dataclass(frozen=True, kw_only=True)
class SegmentCases(CaseJob):
    """Segment a case into its folder.

    Args:
        weights: folder with the vertebra segmentation's weights; those of the package by default.
        deidentify: leave the patient out of ``mask.dcm``.
        service: PACS that stores ``mask.dcm``.
    """

    weights: Path | None = None
    deidentify: bool = False
    service: PacsAddress | None = None
    command, name, result = "segment", "segmentations", FACTS
    columns = ("case_id", "status", "confidence", "levels", "code", "message", "warnings")

    def __post_init__(self) -> None:
        if self.service is not None and self.deidentify:
            raise SettingError(
                "--store puts results into the patient's study and --deidentify takes them out: "
                "leave one out"
            )

    @property
    def facts(self) -> tuple[Json, Json]:
        """Settings, and the digest of the weights."""
        weights = None if self.weights is None else content_hash(self.weights)
        store_at = self.service and self.service.service
        return {"deidentify": self.deidentify, "store": store_at}, {"weights": weights}

    def check(self, row: CaseInput) -> None:
        """Refuse DICOM objects of an image that is no DICOM."""
        _check_export(() if self.service is None else ("dicom",), row)

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
        """Return and record the refusal."""
        document = refused_segmentation(refusal)
        write_json(self.folder(row) / FACTS, document)
        return document

    def table_row(self, document: Json) -> Json:
        """Return confidence and levels."""
        levels = " ".join(level["name"] for level in document["levels"])
        return {"confidence": document["confidence"], "levels": levels}


def _check_export(kinds: tuple[str, ...], row: CaseInput) -> None:
    if isinstance(row.image, Path):
        try:
            check_export(kinds, row.image)
        except SettingError as error:
            raise SettingError(f"case {row.case_id}: {error}") from error
