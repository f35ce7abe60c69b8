"""Datasets and batches: refused cases are recorded and left out, prepared images are read back."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from monai.config import KeysCollection
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.engines import PrepareBatchExtraInput, SupervisedEvaluator
from monai.transforms import Compose, MapTransform
from monai.transforms.traits import RandomizableTrait
from torch import Tensor

from monai_vfx.analysis.cohort.training_items import CohortItem
from monai_vfx.analysis.measures.measured import study_exclusions
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, SettingError, find_refusal
from monai_vfx.core.files import writing
from monai_vfx.core.hashing import digest_of, file_state
from monai_vfx.model.bundle.cohort import Standardiser, row_values
from monai_vfx.model.bundle.losses import CLASSES
from monai_vfx.model.network import NETWORK_SETTINGS
from monai_vfx.transforms.loading import LocateSpined
from monai_vfx.transforms.slices import PER_SLICE_META

_LOG = logging.getLogger(__name__)


class PreparedImages:
    """Run the deterministic part of a preprocessing pipeline, or read what it gave before.

    Folds, models and seeds of a study share it. What it gives depends on the files and on a few
    settings; a file's name is a digest of both and holds no path and no name of a case. Plain
    tensors, read without un-pickling objects.

    Args:
        folder: for the files; None prepares every time.
        settings: the ``model_settings`` of the configs, plain values.
    """

    def __init__(self, folder: str | Path | None, settings: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.settings = {k: v for k, v in settings.items() if k not in NETWORK_SETTINGS}
        self.settings["version"] = metadata.version("monai_vfx")

    def __call__(self, item: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """Return an item after the deterministic part.

        Args:
            item: with ``image`` and ``mask``, paths; what else it holds stays as it is.
            run: does that part.
        """
        if self.folder is None:
            return run()
        paths = [Path(item[key]).resolve() for key in ("image", "mask") if item.get(key)]
        files = [[str(path), file_state(path)] for path in paths]
        facts = [files, item.get("scheme"), dict(sorted(self.settings.items()))]
        path = self.folder / f"{digest_of(facts)}.pt"
        kept = _read(path)
        if kept is not None:
            meta = {name: kept[name].numpy() for name in PER_SLICE_META}
            image = MetaTensor(kept["image"], affine=kept["affine"], meta=meta)
            return {**{k: v for k, v in item.items() if k != "mask"}, "image": image}
        done = run()
        image = done["image"]
        kept = {name: torch.as_tensor(image.meta[name]) for name in PER_SLICE_META}
        with writing(path) as partial:
            torch.save(kept | {"image": image.as_tensor(), "affine": image.affine}, partial)
        return done


def _read(path: Path) -> Json | None:
    """Return what a file holds; None where there is none, or one that is damaged."""
    if not path.is_file():
        return None
    try:
        kept: Json = torch.load(path, weights_only=True)
    except Exception:  # damage makes torch raise almost anything; the image is prepared again
        _LOG.warning("a prepared image is damaged and is prepared again")
        return None
    return kept


def first_random(pipeline: Compose) -> int:
    """Return the place of the first random transform of a pipeline, its length without one."""
    place = pipeline.get_index_of_first(lambda t: isinstance(t, RandomizableTrait))
    return len(pipeline.transforms) if place is None else int(place)


class CohortCache(CacheDataset):
    """MONAI's cache of the deterministic part of the pipeline, without the cases that are refused.

    Args:
        data: patients, each with a ``label``.
        transform: the pipeline; what follows its first random transform runs at each iteration.
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
        transform: the pipeline.
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


class StudyExclusionsd(MapTransform):
    """Add the warnings of :func:`study_exclusions` to a CT that was located and not yet read.

    Stands between ``LocateSpined`` and ``LoadImaged``, where the whole mask is still at hand.
    Training does not need it: there the check decides (``docs/checking.md``).
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with the warnings in its CT."""
        d = dict(data)
        for key in self.keys:
            handle = d[key]
            found = handle.case.exclusions
            if found is None:
                _, found = study_exclusions(handle.case)
            d[key] = dataclasses.replace(handle, warnings=(*handle.warnings, *found))
        return d


def with_exclusions(pipeline: Compose) -> Compose:
    """Return the preprocessing with :class:`StudyExclusionsd` behind ``LocateSpined``."""
    steps = list(pipeline.transforms)
    place = 1 + next(n for n, step in enumerate(steps) if isinstance(step, LocateSpined))
    key = steps[place - 1].keys[0]
    return Compose([*steps[:place], StudyExclusionsd(key), *steps[place:]])
