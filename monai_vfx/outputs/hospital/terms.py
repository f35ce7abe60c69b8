"""The words of our reports: standard codes where there are some, our own where there are none.

>>> SCORE.value, SCORE.scheme_designator
('SCORE', '99MVFX')
"""

from __future__ import annotations

from pydicom.sr.coding import Code

from monai_vfx.core.results import Prediction

SCHEME = "99MVFX"
"""Designator of our own coding scheme; DICOM leaves those that begin with 99 to anyone."""
SCHEME_UID = "2.25.39054196950935378484268677612936286668"
"""The scheme's UID, made once from a random number (DICOM PS3.5, B.2)."""
SCHEME_NAME = "monai_vfx: vertebral fracture risk from CT"

OWN_CODES: dict[str, str] = {
    "SCORE": "Vertebral fracture score",
    "RISK5Y": "Five-year risk of vertebral fracture T12-L4",
    "STANDING": "Standing of the result",
    "CALIBRATION": "Calibration of the risk",
    "INTERVAL": "Interval of the risk",
    "MASK": "Origin of the vertebral mask",
    "WARNING": "Warning about the result",
}
"""Code → meaning in our scheme."""


def own(code: str) -> Code:
    """Return a code of our scheme.

    Raises:
        KeyError: it has no such code.
    """
    return Code(code, SCHEME, OWN_CODES[code])


SCORE, RISK = own("SCORE"), own("RISK5Y")


def standing(prediction: Prediction) -> str:
    """Return what a result must not be taken for."""
    if prediction.simulated_weights:
        return "SIMULATED weights: not a clinical result"
    return "Research software, not a medical device: not for clinical use"


def short_standing(prediction: Prediction) -> str:
    """Return the word that begins the description of a series."""
    return "SIMULATED" if prediction.simulated_weights else "RESEARCH"


def statements(prediction: Prediction) -> list[tuple[Code, str]]:
    """Return what a report says in words, each with its concept."""
    said = [(own("STANDING"), standing(prediction))]
    if prediction.calibration is not None:
        facts = prediction.calibration
        text = f"{facts['method']}, prevalence {facts['prevalence']:.4g}, {facts['source']}"
        said.append((own("CALIBRATION"), text))
    if prediction.risk_5y_interval is not None:
        low, high = prediction.risk_5y_interval
        text = f"95 % interval for one more network of the ensemble: {low:.4f} to {high:.4f}"
        said.append((own("INTERVAL"), text))
    if prediction.mask is not None:
        text = str(prediction.mask["source"])
        if prediction.mask["tool"]:
            text += f", {prediction.mask['tool']}"
        if prediction.mask["confidence"] is not None:
            text += f", confidence {prediction.mask['confidence']:.3f} that T12-L4 are named right"
        said.append((own("MASK"), text))
    said += [(own("WARNING"), f"{w.code}: {w.message}") for w in prediction.warnings]
    return said
