"""The results of a run: the prediction of a case or its refusal, and the record of the run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.core.files import read_json
from monai_vfx.core.schemas import violations

_PACKAGES = (
    *("monai_vfx", "monai", "torch", "timm", "numpy", "scipy", "pandas", "scikit-learn"),
    *("xgboost", "pydicom", "nibabel"),
)


@dataclass(frozen=True)
class SliceRecord:
    """One of the slices that the network saw.

    Attributes:
        index: slice number counted from the feet, from 0.
        sop_instance_uid: UID of the DICOM slice; None for other formats.
        level: vertebra at this height, such as ``L1``.
        centre_mm: smoothed centroid of the vertebral body in this slice, LPS mm.
    """

    index: int
    sop_instance_uid: str | None
    level: str
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True)
class ModelFacts:
    """The model that gave a score.

    Attributes:
        bundle: name of the bundle.
        version: version of the bundle that trained the weights.
        weights_sha256: SHA-256 of the weights; of an ensemble, those of its first member.
        members: SHA-256 of all members of an ensemble; empty for a single network.
    """

    bundle: str
    version: str
    weights_sha256: str
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """The result of one case, or its refusal (``data_schemas/prediction.schema.json``).

    Attributes:
        case_id: the caller's name for the case; never taken from the patient's identity.
        status: ``ok`` or ``refused``.
        score: the network's probability of the fracture class, 0-1; the mean over the members of an
            ensemble. Not a five-year risk.
        risk_5y: absolute five-year risk, 0-1; None without a calibration, or where a variable that
            it needs is missing.
        risk_5y_interval: where one more network like an ensemble's would place the risk, with 95 %
            confidence; None without an ensemble.
        calibration: method, prevalence and source of the calibration.
        simulated_weights: whether the weights were trained on simulated patients.
        spacing_mm: voxel spacing of the CT along (i, j, k).
        slices: cranial to caudal.
        mask: origin of the mask, as :func:`mask_record` gives it.
        refusal: ``code``, ``message`` and ``remedy`` of a refused case.
    """

    case_id: str
    status: str
    score: float | None = None
    risk_5y: float | None = None
    risk_5y_interval: tuple[float, float] | None = None
    calibration: Json | None = None
    simulated_weights: bool | None = None
    model: ModelFacts | None = None
    levels: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    slices: tuple[SliceRecord, ...] = ()
    mask: Json | None = None
    warnings: tuple[CaseWarning, ...] = ()
    refusal: Json | None = None

    def __post_init__(self) -> None:
        check_case_name(self.case_id)

    @classmethod
    def refused(cls, case_id: str, refusal: CaseRefused) -> Prediction:
        """Return the record of a case that is not accepted.

        >>> Prediction.refused("a", CaseRefused("mask_empty", "no label")).refusal["code"]
        'mask_empty'
        """
        return cls(case_id=case_id, status="refused", refusal=refusal.to_json())

    @classmethod
    def from_json(cls, document: Json) -> Prediction:
        """Return the prediction of a document that :meth:`to_json` gave."""
        model, spacing = document["model"], document["spacing_mm"]
        interval = document["risk_5y_interval"]
        typed = {
            "model": model and ModelFacts(**{**model, "members": tuple(model.get("members", ()))}),
            "levels": tuple(document["levels"]),
            "spacing_mm": spacing and tuple(spacing),
            "risk_5y_interval": interval and tuple(interval),
            "slices": tuple(
                SliceRecord(**{**record, "centre_mm": tuple(record["centre_mm"])})
                for record in document["slices"]
            ),
            "warnings": tuple(CaseWarning(**warning) for warning in document["warnings"]),
        }
        return cls(**{**document, **typed})

    def to_json(self) -> Json:
        """Return the document, checked against its schema.

        Raises:
            ValueError: a field breaks the schema.
        """
        document: Json = json.loads(json.dumps(asdict(self)))
        broken = violations(document, "prediction")
        if broken:
            raise ValueError("prediction breaks its schema: " + "; ".join(broken))
        return document


def mask_record(source: str, levels: Sequence[str] = ()) -> Json:
    """Return the origin of a mask of which only the source and the levels are known.

    Args:
        source: ``given``, ``auto``, ``totalsegmentator`` or ``spine-segment``.
        levels: names of its vertebral bodies, cranial to caudal.
    """
    return {
        "source": source,
        "confidence": None,
        "threshold": None,
        "levels": [{"name": name, "probability": None} for name in levels],
        "weights_sha256": None,
        "tool": None,
        "comparison": None,
    }


def check_case_name(name: str) -> str:
    """Return the name of a case if it can serve as the name of a folder.

    >>> check_case_name("P 017")
    'P 017'
    >>> check_case_name("../x")
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.SettingError: case_id '../x' must have 1 to 100 ...
    """
    printable = 1 <= len(name) <= 100 and name.isprintable()
    if not printable or name.startswith(".") or {"/", "\\"} & {*name}:
        raise SettingError(
            f"case_id {name!r} must have 1 to 100 printable characters, no slash and no leading "
            "dot: it becomes the name of a folder"
        )
    return name


def place_for_refusal(folder: Path) -> Path:
    """Return the path of a refusal in the folder of a case, never that of an earlier result."""
    earlier = folder / "prediction.json"
    if earlier.exists() and read_json(earlier)["status"] == "ok":
        return folder / "refused.json"
    return earlier


def run_record(command: str, settings: Json, inputs: Mapping[str, str | None]) -> Json:
    """Return what is needed to repeat a run (``run.json``).

    Args:
        command: name of the command.
        settings: the settings in force. Must not hold paths that name a patient.
        inputs: role → SHA-256 of the content, None where there was none.
    """
    return {
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "settings": settings,
        "inputs_sha256": dict(inputs),
    }
