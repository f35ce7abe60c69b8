"""Is a case unlike those a model was trained on? A distance of its features and a threshold.

Mahalanobis distance with a shrunken covariance (Ledoit and Wolf 2004) of the first principal
components and of what they leave out. Nearest neighbours would do as well but need the training
patients' features at hand; this needs a mean, a few directions and a small matrix. The threshold
is a quantile of distances that the training cases have from detectors fitted without them, so
that about the stated share of like cases stays unflagged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from monai_vfx.analysis.evaluation.estimates import Bools, Floats
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

MAX_COMPONENTS = 32
CASES_A_COMPONENT = 5
MIN_CASES = 20
FOLDS = 10
QUANTILE = 0.95
"""Of the training cases' distances: the threshold lies there unless it is set otherwise."""


@dataclass(frozen=True)
class OutlierDetector:
    """A distance from the training cases and the threshold above which a case is flagged.

    Args:
        mean: (d,) of the features.
        scale: (d,) their SD; 1 where they do not vary.
        components: (k, d) principal directions of the standardised features.
        centre: (k or k + 1,) mean of the components and, where k < d, of the log residual.
        precision: inverse of their shrunken covariance.
        threshold: distance above which a case is flagged.
        quantile: of the training cases' distances at which the threshold lies.
        n: training cases.
    """

    mean: Floats
    scale: Floats
    components: Floats
    centre: Floats
    precision: Floats
    threshold: float
    quantile: float
    n: int

    @classmethod
    def fit(
        cls, features: npt.ArrayLike, *, quantile: float = QUANTILE, seed: int = 0
    ) -> OutlierDetector:
        """Learn the distance and its threshold from the training cases.

        Args:
            features: (n, d), one row a case: the vector before the network's last layer.
            quantile: share of like cases that shall not be flagged, in (0.5, 1).
            seed: of the folds behind the threshold.

        Raises:
            SettingError: fewer than 20 cases, a quantile outside its range, or fewer cases than
                the quantile needs (99 for 0.99).
            ValueError: features that are not finite numbers (n, d).
        """
        rows = _table(features)
        if len(rows) < MIN_CASES:
            raise SettingError(f"{len(rows)} cases; at least {MIN_CASES} are needed")
        if not 0.5 < quantile < 1:
            raise SettingError(f"quantile ({quantile}) must lie between 0.5 and 1")
        # The smallest rank whose exceedance by a like case is at most 1 - quantile.
        rank = int(np.ceil((len(rows) + 1) * quantile - 1e-9))
        if rank > len(rows):
            raise SettingError(f"quantile ({quantile}) needs more than the {len(rows)} cases given")
        # The folds' detectors have as many components as the final one: distances must compare.
        fewest = len(rows) - -(-len(rows) // FOLDS)
        count = max(1, min(MAX_COMPONENTS, fewest // CASES_A_COMPONENT, rows.shape[1]))
        order = np.random.default_rng(seed).permutation(len(rows))
        distances = np.empty(len(rows))
        for held_out in np.array_split(order, FOLDS):
            rest = np.delete(np.arange(len(rows)), held_out)
            distances[held_out] = cls(*_fit_parts(rows[rest], count), 0.0, quantile, 0).distance(
                rows[held_out]
            )
        threshold = float(np.sort(distances)[rank - 1])
        return cls(*_fit_parts(rows, count), threshold, quantile, len(rows))

    def distance(self, features: npt.ArrayLike) -> Floats:
        """Return (n,): Mahalanobis distance of each case from the training cases' centre."""
        rows = _table(features)
        if rows.shape[1] != self.mean.size:
            raise ValueError(f"features have {rows.shape[1]} columns; {self.mean.size} are needed")
        away = _coordinates(rows, self.mean, self.scale, self.components) - self.centre
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", away, self.precision, away)))

    def flag(self, features: npt.ArrayLike) -> Bools:
        """Return (n,): True where a case is farther than the threshold."""
        return np.asarray(self.distance(features) > self.threshold, np.bool_)

    def to_json(self) -> Json:
        """Return the document; numbers only, no case."""
        return {
            "method": "mahalanobis_ledoit_wolf",
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "components": self.components.tolist(),
            "centre": self.centre.tolist(),
            "precision": self.precision.tolist(),
            "threshold": self.threshold,
            "quantile": self.quantile,
            "n": self.n,
        }

    @classmethod
    def from_json(cls, document: Json) -> OutlierDetector:
        """Return the detector of a document."""
        arrays = ("mean", "scale", "components", "centre", "precision")
        return cls(
            **{name: np.asarray(document[name], np.float64) for name in arrays},
            threshold=float(document["threshold"]),
            quantile=float(document["quantile"]),
            n=int(document["n"]),
        )


def _fit_parts(rows: Floats, count: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Return mean, scale, components, centre and precision."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale < 1e-12 * (1 + np.abs(mean))] = 1.0
    directions = PCA(count, svd_solver="full").fit((rows - mean) / scale).components_
    directions = np.ascontiguousarray(directions)  # as a document's, to the last bit
    found = _coordinates(rows, mean, scale, directions)
    # Shrinkage is towards equal variances, so coordinates of one size go into it.
    spread = found.std(axis=0)
    spread[spread == 0] = 1.0
    covariance = LedoitWolf().fit(found / spread)
    precision = np.ascontiguousarray(covariance.precision_ / np.outer(spread, spread))
    return mean, scale, directions, covariance.location_ * spread, precision


def _coordinates(rows: Floats, mean: Floats, scale: Floats, components: Floats) -> Floats:
    """Return the components and, where they do not hold everything, the log of what is left."""
    standard = (rows - mean) / scale
    inside = standard @ components.T
    if len(components) == rows.shape[1]:
        return np.asarray(inside, np.float64)
    left = np.linalg.norm(standard - inside @ components, axis=1)
    # A residual of rounding alone (features on a plane) must not become a coordinate of noise.
    return np.column_stack([inside, np.log(left + 1e-6)])


def _table(features: npt.ArrayLike) -> Floats:
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(f"features of shape {rows.shape} must be finite numbers (cases, features)")
    return rows
