"""Patients, datasets and batches; a refused case is written down and left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import Tensor

from monai_vfx.cohort import CohortItem, read_cohort, split_folds
from monai_vfx.errors import CaseRefused, SettingError, find_refusal
from monai_vfx.shapes import Json

_LOG = logging.getLogger(__name__)


def check_output_dir(output_dir: str | Path, bundle_root: str | Path) -> None:
    """Create the output folder; refuse one inside the bundle, which is installed with the code.

    Raises:
        SettingError: the folder lies in the bundle.
    """
    folder, bundle = Path(output_dir).resolve(), Path(bundle_root).resolve()
    if folder == bundle or bundle in folder.parents:
        raise SettingError(
            f"output_dir ({folder}) must not lie in the bundle: give --output_dir another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)


def split_cohort(
    cohort: str | Path, fold: int, folds: int, seed: int
) -> dict[str, list[CohortItem]]:
    """Return the patients of one fold, by the keys ``train`` and ``validate``.

    Args:
        cohort: table as :func:`monai_vfx.cohort.read_cohort` takes it.
        fold: which fold is held out, from 0.
        folds: number of folds.
        seed: of the split.

    Raises:
        CaseRefused: ``cohort_invalid``.
        SettingError: the fold does not exist, or the cohort is too small for the folds.
    """
    if not 0 <= fold < folds:
        raise SettingError(f"fold ({fold}) must lie in 0 … {folds - 1}: folds is {folds}")
    train, held_out = split_folds(read_cohort(cohort), folds, seed)[fold]
    return {"train": train, "validate": held_out}


def cohort_cases(
    cohort: str | Path, fold: int | None = None, folds: int = 10, seed: int = 0
) -> list[CohortItem]:
    """Return all patients of a table, or those that a fold holds out."""
    if fold is None:
        return read_cohort(cohort)
    return split_cohort(cohort, fold, folds, seed)["validate"]


class CohortCache(CacheDataset):
    """MONAI's cache of the deterministic part of the chain, without the cases that are refused.

    Args:
        data: patients, each with a ``label``.
        transform: the chain; what follows its first random transform runs at each iteration.
        refusals: file for the refused cases, one JSON line each; None writes none.
        **settings: of :class:`monai.data.CacheDataset`.

    Raises:
        SettingError: what is left does not hold both classes.
    """

    def __init__(
        self,
        data: Sequence[CohortItem],
        transform: Callable[..., Any],
        refusals: str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(data=data, transform=transform, **settings)
        refused = {
            str(item["case"]): cached
            for item, cached in zip(data, self._cache, strict=True)
            if isinstance(cached, CaseRefused)
        }
        self.data = [item for item in data if item["case"] not in refused]
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
            return super()._load_cache_item(idx)
        except Exception as error:
            refusal = find_refusal(error)
            if refusal is None:
                raise
            return refusal


class CaseDataset(Dataset):
    """Cases for prediction; one that is refused comes as ``{"case", "refusal"}``."""

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        try:
            return super()._transform(index)
        except Exception as error:  # one bad case must not stop the others
            refusal = find_refusal(error)
            if refusal is None:
                _LOG.exception("case %s", item["case"])
                refusal = CaseRefused("internal", f"{type(error).__name__} in the preprocessing")
            return {"case": item["case"], "refusal": refusal}


def collate_cases(items: Sequence[Mapping[Hashable, Any]]) -> Json:
    """Batch the accepted cases and keep everything about each.

    Returns:
        ``image`` (B, C, H, W, D) plain tensor and ``label`` (B,) of the accepted cases, -1 where
        none is known; ``accepted`` and ``refused`` the items themselves.
    """
    accepted = [item for item in items if "refusal" not in item]
    images = [item["image"] for item in accepted]
    plain = [i.as_tensor() if isinstance(i, MetaTensor) else i for i in images]
    return {
        "image": torch.stack(plain) if plain else torch.empty(0),
        "label": torch.tensor([int(item.get("label", -1)) for item in accepted]),
        "accepted": accepted,
        "refused": [item for item in items if "refusal" in item],
    }


def evaluate_accepted(engine: SupervisedEvaluator, batch: Json) -> Json:
    """Run MONAI's evaluation step where a batch holds an accepted case (``iteration_update``)."""
    if not batch["accepted"]:
        return {"pred": torch.empty(0, 2), "label": torch.empty(0, dtype=torch.long)}
    return cast(Json, engine._iteration(engine, batch))


def score_and_label(output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return scores (B, 1) and labels (B, 1) of a step, as MONAI's ROCAUC takes them."""
    return fracture_score(output["pred"])[:, None], output["label"][:, None]


def fracture_score(logits: Tensor) -> Tensor:
    """Probability of class 1 (B,) from logits (B, 2)."""
    return logits.float().softmax(dim=1)[:, 1]


def append_refusals(path: str | Path, refused: Mapping[str, CaseRefused]) -> None:
    """Add one JSON line for each refused case that the file does not name yet.

    A line holds case, code, message and remedy.
    """
    path = Path(path)
    known = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    named = {json.loads(line)["case"] for line in known}
    new = {case: refusal for case, refusal in refused.items() if case not in named}
    if not new:
        return
    with path.open("a", encoding="utf-8") as file:
        for case, refusal in new.items():
            line = {"case": case, "code": refusal.code, "message": refusal.message}
            file.write(json.dumps({**line, "remedy": refusal.remedy}) + "\n")
