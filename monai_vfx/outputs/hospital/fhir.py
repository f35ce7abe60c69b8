"""The result as a FHIR R4B RiskAssessment, in plain JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from hashlib import sha256
from importlib import metadata
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.results import Prediction
from monai_vfx.outputs.hospital.terms import RISK, SCHEME_UID, SCORE, standing, statements

RISK_ASSESSMENT = "risk_assessment.fhir.json"
YEARS = 5
_SNOMED, _UCUM = "http://snomed.info/sct", "http://unitsofmeasure.org"
_FRACTURE = {"system": _SNOMED, "code": "125605004", "display": "Fracture of bone"}
_OUTCOME = "Fracture of a vertebra T12-L4 within five years of the CT"


def risk_assessment(
    prediction: Prediction, header: Any | None, *, deidentified: bool = False
) -> Json:
    """Return the resource (http://hl7.org/fhir/R4B/riskassessment.html).

    The probability is the calibrated risk, in percent as FHIR counts it; the network's score is no
    probability of the outcome and is an Observation that the assessment is based on.

    Args:
        prediction: an accepted one.
        header: of the CT; None for other formats.
        deidentified: whether the header holds nothing of the patient, and no date may be stated.

    Raises:
        ValueError: a refused case: it has no risk that could be assessed.
    """
    if prediction.status != "ok" or prediction.model is None:
        raise ValueError("a refused case has no risk assessment")
    document: Json = {
        "resourceType": "RiskAssessment",
        "contained": [_score(prediction), _software(prediction)],
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": _identifier(prediction, header)}],
        "status": "preliminary",
        "method": {
            "text": f"{prediction.model.bundle} {prediction.model.version}, "
            f"weights sha256:{prediction.model.weights_sha256}"
        },
        "code": {"coding": [_own(RISK)], "text": RISK.meaning},
        "subject": _subject(header, deidentified),
        "performer": {"reference": "#software"},
        "basis": [*_study(header), {"reference": "#score"}],
        "prediction": _predictions(prediction, _study_date(header)),
        "note": [{"text": text} for text in _notes(prediction)],
    }
    if not deidentified:
        document["occurrenceDateTime"] = datetime.now(UTC).isoformat(timespec="seconds")
    return document


def _own(code: Any) -> Json:
    return {"system": f"urn:oid:{SCHEME_UID}", "code": code.value, "display": code.meaning}


def _identifier(prediction: Prediction, header: Any | None) -> str:
    from pydicom.uid import generate_uid

    series = "" if header is None else str(header.SeriesInstanceUID)
    digest = sha256(json.dumps(prediction.to_json(), sort_keys=True).encode()).hexdigest()
    return f"urn:oid:{generate_uid(entropy_srcs=['monai_vfx', 'fhir', series, digest])}"


def _subject(header: Any | None, deidentified: bool) -> Json:
    if deidentified:
        return {"type": "Patient", "display": "de-identified"}
    if header is None or not header.PatientID:
        return {"type": "Patient", "display": "not stated in the image"}
    identifier: Json = {"value": str(header.PatientID)}
    if header.get("IssuerOfPatientID"):
        identifier["assigner"] = {"display": str(header.IssuerOfPatientID)}
    return {"type": "Patient", "identifier": identifier}


def _study(header: Any | None) -> list[Json]:
    if header is None:
        return []
    uid = {"system": "urn:dicom:uid", "value": f"urn:oid:{header.StudyInstanceUID}"}
    return [{"type": "ImagingStudy", "identifier": uid}]


def _study_date(header: Any | None) -> date | None:
    from pydicom.valuerep import DA

    found: date | None = None if header is None else DA(header.StudyDate)
    return found


def _score(prediction: Prediction) -> Json:
    return {
        "resourceType": "Observation",
        "id": "score",
        "status": "preliminary",
        "code": {"coding": [_own(SCORE)], "text": f"{SCORE.meaning}, 0 to 1, not a risk"},
        "valueQuantity": {"value": prediction.score, "system": _UCUM, "code": "1"},
    }


def _software(prediction: Prediction) -> Json:
    return {
        "resourceType": "Device",
        "id": "software",
        "deviceName": [{"name": "monai_vfx", "type": "model-name"}],
        "version": [{"value": metadata.version("monai_vfx")}],
        "note": [{"text": standing(prediction)}],
    }


def _predictions(prediction: Prediction, start: date | None) -> list[Json]:
    """Return the risk and, where there is one, its interval."""
    common: Json = {"outcome": {"coding": [_FRACTURE], "text": _OUTCOME}}
    if start is not None:
        leap = (start.month, start.day) == (2, 29)
        end = start.replace(year=start.year + YEARS, day=28 if leap else start.day)
        common["whenPeriod"] = {"start": start.isoformat(), "end": end.isoformat()}
    if prediction.risk_5y is None:
        return [{**common, "rationale": "No calibration: the score says nothing of how probable."}]
    risk = {
        **common,
        "probabilityDecimal": _percent(prediction.risk_5y),
        "rationale": "Calibrated risk, in percent",
    }
    if prediction.risk_5y_interval is None:
        return [risk]
    low, high = (
        {"value": _percent(bound), "unit": "%", "system": _UCUM, "code": "%"}
        for bound in prediction.risk_5y_interval
    )
    interval = {
        **common,
        "probabilityRange": {"low": low, "high": high},
        "rationale": "95 % interval of that risk, for one more network of the ensemble",
    }
    return [risk, interval]


def _percent(share: float) -> float:
    return round(100 * share, 6)


def _notes(prediction: Prediction) -> list[str]:
    return [f"{code.meaning}: {text}" for code, text in statements(prediction)]
