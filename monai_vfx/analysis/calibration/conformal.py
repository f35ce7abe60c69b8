"""Sets of outcomes that hold the true one with a stated chance, in each class on its own.

Class-conditional (Mondrian) conformal prediction (Vovk, Gammerman and Shafer 2005) by the library
crepes. Of future patients who will fracture, at least the stated share get a set that holds
"fracture", and of those who will not, a set that holds "no fracture". The one assumption is that
within each class future patients and the calibration's are exchangeable: same hospital, protocol
and selection. Sampling by outcome does not harm it; matching does for the class without fracture,
whose patients are then like the matched controls and not like everyone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from crepes import ConformalClassifier

from monai_vfx.analysis.evaluation.estimates import Bools, Floats, check_outcome
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

OUTCOMES = ("no fracture", "fracture")


@dataclass(frozen=True)
class ConformalSets:
    """Class-conditional conformal sets of the outcome.

    Args:
        without: calibration scores of the patients without fracture, rising.
        fracture: of those with, rising.
        confidence: least share of each class whose set holds the true outcome.
    """

    without: tuple[float, ...]
    fracture: tuple[float, ...]
    confidence: float

    @classmethod
    def fit(
        cls, scores: npt.ArrayLike, labels: npt.ArrayLike, *, confidence: float = 0.9
    ) -> ConformalSets:
        """Keep the scores of patients whom the model did not see.

        Raises:
            SettingError: a class too small for the level: its sets would always hold it.
            ValueError: faulty scores or labels.
        """
        if not 0 < confidence < 1:
            raise SettingError(f"confidence ({confidence}) must lie between 0 and 1")
        outcome, checked = check_outcome(labels, scores=scores)
        values = _unit(checked["scores"])
        smaller = int(min(outcome.sum(), (~outcome).sum()))
        needed = int(np.ceil(1 / (1 - confidence) - 1e-9))
        if smaller < needed:
            raise SettingError(
                f"the smaller class has {smaller} patients; {needed} are needed for sets at "
                f"{confidence:.0%}"
            )
        classes = (np.sort(values[~outcome]), np.sort(values[outcome]))
        return cls(tuple(classes[0].tolist()), tuple(classes[1].tolist()), confidence)

    def p_values(self, scores: npt.ArrayLike) -> Floats:
        """Return (n, 2): for each outcome the p-value of "this patient belongs to it"."""
        values = _unit(np.asarray(scores, np.float64).reshape(-1))
        # How strange a score is for a class: high without fracture, low with one.
        columns = []
        for known, strange in (
            (np.array(self.without), values),
            (1 - np.array(self.fracture), 1 - values),
        ):
            classifier = ConformalClassifier()
            classifier.fit(known)
            columns.append(classifier.predict_p(strange[:, None], smoothing=False)[:, 0])
        return np.column_stack(columns)

    def sets(self, scores: npt.ArrayLike) -> Bools:
        """Return (n, 2): whether each of :data:`OUTCOMES` is in the patient's set.

        Both in it: the score does not decide. None in it: the score is strange for either class.
        """
        return np.asarray(self.p_values(scores) > 1 - self.confidence, np.bool_)

    def to_json(self) -> Json:
        """Return the document."""
        return {
            "confidence": self.confidence,
            "scores": {OUTCOMES[0]: list(self.without), OUTCOMES[1]: list(self.fracture)},
        }

    @classmethod
    def from_json(cls, document: Json) -> ConformalSets:
        """Return the sets of a document."""
        known = document["scores"]
        return cls(tuple(known[OUTCOMES[0]]), tuple(known[OUTCOMES[1]]), document["confidence"])


def name_set(row: npt.ArrayLike) -> str:
    """Return a set in words.

    >>> name_set([True, True]), name_set([False, True]), name_set([False, False])
    ('no fracture or fracture', 'fracture', 'none')
    """
    members = [name for name, held in zip(OUTCOMES, np.asarray(row), strict=True) if held]
    return " or ".join(members) or "none"


def _unit(scores: Floats) -> Floats:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must lie in [0, 1]")
    return scores
