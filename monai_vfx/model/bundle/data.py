"""Patients, datasets and batches; a refused case is written down and left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from torch import Tensor

from monai_vfx.analysis.cohort.training_items import CohortItem, read_cohort, split_folds
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError, find_refusal
from monai_vfx.model.bundle.covariates import (
    NO_MODEL,
    Standardiser,
    clinical_values,
    follow_up,
    model_variables,
    row_values,
)
from monai_vfx.model.bundle.hazards import CLASSES
from monai_vfx.model.bundle.prepared import PreparedImages, first_random

_LOG = logging.getLogger(__name__)


def split_cohort(
    cohort: str | Path,
    fold: int,
    folds: int,
    seed: int,
    test_fold: int | None = None,
    clinical: Json | None = None,
    hazard_years: int = 0,
) -> dict[str, list[CohortItem]]:
    """Return the patients of one training, by the keys ``train``, ``validate`` and ``test``.

    Args:
        cohort: table of ``read_cohort``; its column ``fold``, where it has one, is the split.
        fold: which fold is held out for validation, from 0.
        folds: number of folds.
        seed: of the split.
        test_fold: the fold that is left out entirely; None leaves out none.
        clinical: statistics by which the items' ``clinical`` (F,) is standardised; None adds none.
        hazard_years: above 0 the items get their ``outcome``: (years, 1 for a fracture).

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: a fold does not exist, or the cohort is too small for the folds.
    """
    for name, number in (("fold", fold), ("test_fold", test_fold)):
        if number is not None and not 0 <= number < folds:
            raise SettingError(f"{name} ({number}) must lie in 0 … {folds - 1}: folds is {folds}")
    if fold == test_fold:
        raise SettingError(
            f"test_fold ({test_fold}) must be another than fold: what chooses the epoch tests "
            "nothing"
        )
    parts = split_folds(read_cohort(cohort), folds, seed)
    train, validate = parts[fold]
    test = [] if test_fold is None else parts[test_fold][1]
    tested = {item["case_id"] for item in test}
    train = [item for item in train if item["case_id"] not in tested]
    added = _additions(cohort, Standardiser.from_settings(clinical), hazard_years)
    split = {"train": train, "validate": validate, "test": test}
    return {
        part: [cast(CohortItem, {**item, **added.get(item["case_id"], {})}) for item in items]
        for part, items in split.items()
    }


def _additions(
    cohort: str | Path, clinical: Standardiser | None, hazard_years: int
) -> dict[str, Json]:
    """Return what the table adds to each case's item."""
    added: dict[str, Json] = {}
    if clinical is not None:
        for case, values in clinical_values(cohort, clinical.names).items():
            added.setdefault(case, {})["clinical"] = clinical(values)[0]
    if hazard_years:
        for case, outcome in follow_up(cohort).items():
            added.setdefault(case, {})["outcome"] = np.array(outcome, dtype=np.float32)
    return added


def fit_clinical(
    model: str,
    cohort: str | Path,
    fold: int,
    folds: int,
    seed: int,
    test_fold: int | None = None,
) -> Json | None:
    """Return the statistics of a clinical model's variables over the training part of a fold.

    Args:
        model: ``none``, or a key of :data:`monai_vfx.analysis.clinical.variables.MODELS`.
        cohort: table with the model's variables.
        fold: held out for validation.
        folds: number of folds.
        seed: of the split.
        test_fold: left out entirely.

    Returns:
        ``names``, ``mean``, ``sd`` and ``missing``, see :class:`Standardiser`; None for ``none``.

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: an unknown model, or a variable that no training patient has.
    """
    if model == NO_MODEL:
        return None
    names = model_variables(model)
    values = clinical_values(cohort, names)
    train = split_cohort(cohort, fold, folds, seed, test_fold)["train"]
    return Standardiser.fit([values[item["case_id"]] for item in train], names).to_settings()


def cohort_cases(
    cohort: str | Path,
    fold: int | None = None,
    folds: int = 10,
    seed: int = 0,
    clinical: Standardiser | None = None,
) -> list[CohortItem]:
    """Return all patients of a table, or those that a fold holds out.

    Args:
        cohort: table as :func:`monai_vfx.analysis.cohort.training_items.read_cohort` takes it.
        fold: which fold; None takes all.
        folds: number of folds.
        seed: of the split.
        clinical: of the weights; adds each case's raw values, which :class:`CaseDataset` then
            standardises.
    """
    items = read_cohort(cohort)
    if fold is not None:
        if not 0 <= fold < folds:
            raise SettingError(f"fold ({fold}) must lie in 0 … {folds - 1}: folds is {folds}")
        items = split_folds(items, folds, seed)[fold][1]
    if clinical is None:
        return items
    values = clinical_values(cohort, clinical.names)
    return [cast(CohortItem, {**item, "clinical": values[item["case_id"]]}) for item in items]


class CohortCache(CacheDataset):
    """MONAI's cache of the deterministic part of the chain, without the cases that are refused.

    Args:
        data: patients, each with a ``label``.
        transform: the chain; what follows its first random transform runs at each iteration.
        refusals: file for the refused cases, one JSON line each; None writes none.
        prepared: where images that went through this part before are kept; None keeps none.
        **settings: of :class:`monai.data.CacheDataset`.

    Raises:
        SettingError: what is left does not hold both classes.
    """

    def __init__(
        self,
        data: Sequence[CohortItem],
        transform: Callable[..., Any],
        refusals: str | Path | None = None,
        prepared: PreparedImages | None = None,
        **settings: Any,
    ) -> None:
        self.prepared = prepared or PreparedImages(None, {})
        super().__init__(data=data, transform=transform, **settings)
        refused = {
            str(item["case_id"]): cached
            for item, cached in zip(data, self._cache, strict=True)
            if isinstance(cached, CaseRefused)
        }
        self.data = [item for item in data if item["case_id"] not in refused]
        self._cache = [c for c in self._cache if not isinstance(c, CaseRefused)]
        self.cache_num = len(self._cache)
        for case, refusal in refused.items():
            _LOG.warning("case %s is left out: %s", case, refusal.code)
        if refusals is not None:
            append_refusals(refusals, refused)
        labels = {item["label"] for item in self.data}
        if labels != {0, 1}:
            raise SettingError(
                f"{len(self.data)} of {len(data)} patients were accepted; patients with and "
                f"without fracture are needed, found labels {sorted(labels)}"
            )

    def _load_cache_item(self, idx: int) -> Any:
        try:
            return self.prepared(
                self.data[idx], lambda: super(CohortCache, self)._load_cache_item(idx)
            )
        except Exception as error:
            refusal = find_refusal(error)
            if refusal is None:
                raise
            return refusal


class CaseDataset(Dataset):
    """Cases for prediction; one that is refused comes as ``{"case_id", "refusal"}``.

    Args:
        data: cases; where the weights take clinical variables, each with ``clinical``: the path of
            a one-row table, or raw values by name.
        transform: the chain.
        clinical: how the weights' clinical variables are standardised; None: they take none.
        prepared: where images that went through the deterministic part before are kept; what is
            read from there lacks the facts of the CT that a ``prediction.json`` holds.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[..., Any],
        clinical: Standardiser | None = None,
        prepared: PreparedImages | None = None,
    ) -> None:
        super().__init__(data=data, transform=transform)
        self.clinical = clinical
        self.prepared = prepared or PreparedImages(None, {})

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        try:
            # Before the image: a bad row is found at once.
            clinical = clinical_input(self.clinical, item.get("clinical"))
            return {**self._prepare(item), **clinical}
        except Exception as error:  # one bad case must not stop the others
            refusal = find_refusal(error)
            if refusal is None:
                _LOG.exception("case %s", item["case_id"])
                refusal = CaseRefused("internal", f"{type(error).__name__} in the preprocessing")
            return {"case_id": item["case_id"], "refusal": refusal}

    def _prepare(self, item: Mapping[str, Any]) -> Json:
        first = first_random(self.transform)
        kept = self.prepared(item, lambda: self.transform(dict(item), end=first))
        return cast(Json, self.transform(kept, start=first))


def clinical_input(standardiser: Standardiser | None, values: Any) -> Json:
    """Return a network's standardised ``clinical`` (F,), and which were ``clinical_missing``.

    Args:
        standardiser: of the weights; None: they take no clinical variables, nothing is returned.
        values: raw values by name, or the table of one patient or its path.

    Raises:
        CaseRefused: ``clinical_invalid`` or ``cohort_invalid``.
    """
    if standardiser is None:
        return {}
    if values is None:
        needed = ", ".join(standardiser.names)
        raise CaseRefused("clinical_invalid", f"these weights need clinical data: {needed}")
    if not isinstance(values, Mapping):
        values = row_values(values, standardiser.names)
    scaled, missing = standardiser(values)
    return {"clinical": torch.from_numpy(scaled), "clinical_missing": missing}


def collate_cases(items: Sequence[Mapping[Hashable, Any]]) -> Json:
    """Batch the accepted cases and keep everything about each.

    Returns:
        ``image`` (B, C, H, W, D) plain tensor and ``label`` (B,) of the accepted cases, -1 where
        none is known; ``clinical`` (B, F) where the weights take any; ``accepted`` and
        ``refused`` the items themselves.
    """
    accepted = [item for item in items if "refusal" not in item]
    images = [item["image"] for item in accepted]
    plain = [i.as_tensor() if isinstance(i, MetaTensor) else i for i in images]
    batch: Json = {
        "image": torch.stack(plain) if plain else torch.empty(0),
        "label": torch.tensor([int(item.get("label", -1)) for item in accepted]),
        "accepted": accepted,
        "refused": [item for item in items if "refusal" in item],
    }
    if accepted and torch.is_tensor(accepted[0].get("clinical")):
        batch["clinical"] = torch.stack([item["clinical"] for item in accepted])
    return batch


def prepare_batch(
    batch: dict[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor, tuple[Any, ...], dict[str, Tensor]]:
    """Name the network's inputs and the loss's target in a batch (``prepare_batch`` of engines).

    Returns:
        image; target: label (B,), or (B, 3) of label, years and event where the batch holds an
        ``outcome``; no further arguments; ``clinical`` (B, F) by name where the batch holds it.
    """
    extra = {"clinical": "clinical"} if "clinical" in batch else {}
    prepare = PrepareBatchExtraInput(extra)
    image, target, others, named = prepare(batch, device, non_blocking, **kwargs)
    if "outcome" in batch:
        outcome = batch["outcome"].to(device=device, non_blocking=non_blocking, **kwargs)
        target = torch.cat([target[:, None].to(outcome.dtype), outcome], dim=1)
    return image, target, others, named


def evaluate_accepted(engine: SupervisedEvaluator, batch: Json) -> Json:
    """Run MONAI's evaluation step where a batch holds an accepted case (``iteration_update``)."""
    if not batch["accepted"]:
        return {"pred": torch.empty(0, CLASSES), "label": torch.empty(0, dtype=torch.long)}
    return cast(Json, engine._iteration(engine, batch))


def score_and_label(output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scores (B, 1) and labels (B, 1) of a step, as MONAI's ROCAUC takes them."""
    label = output["label"].reshape(len(output["pred"]), -1)[:, :1]  # without years and event
    return fracture_score(output["pred"])[:, None], label


def fracture_score(logits: Tensor) -> Tensor:
    """Probability of class 1 (B,) from logits (B, 2), or from the first two of (B, 2 + years)."""
    return logits[:, :CLASSES].float().softmax(dim=1)[:, 1]


def append_refusals(path: str | Path, refused: Mapping[str, CaseRefused]) -> None:
    """Add one JSON line for each refused case that the file does not name yet.

    A line holds case, code, message and remedy.
    """
    path = Path(path)
    known = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = {json.loads(line)["case_id"] for line in known}
    new = {case: refusal for case, refusal in refused.items() if case not in named}
    if not new:
        return
    with path.open("a", encoding="utf-8") as file:
        for case, refusal in new.items():
            line = {"case_id": case, "code": refusal.code, "message": refusal.message}
            file.write(json.dumps({**line, "remedy": refusal.remedy}) + "\n")
