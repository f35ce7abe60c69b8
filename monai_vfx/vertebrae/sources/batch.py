"""Many CTs segmented one after the other, as the vertebra segmentation's bundle does it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import CaseRefused, find_refusal
from monai_vfx.core.files import write_json
from monai_vfx.vertebrae.sources.source import FACTS, refused_segmentation, segment_case

_LOG = logging.getLogger(__name__)


class SegmentStep:
    """The step of MONAI's evaluator (``iteration_update``): segment each CT of a batch.

    Leaves ``CASE/segmentation.json`` and, unless the case is refused, its mask and picture.

    Args:
        output_dir: folder of the results.
        weights: folder with both networks' weights; those of the package by default.
    """

    def __init__(
        self, output_dir: str | PathLike[str], weights: str | PathLike[str] | None = None
    ) -> None:
        self.output_dir = Path(output_dir)
        self.weights = weights

    def __call__(self, engine: object, batch: Sequence[Mapping[str, Any]]) -> list[Json]:
        """Return the document of each case, with its name under ``case_id``.

        Args:
            engine: the evaluator; it is not needed.
            batch: cases, each with its name ``case_id``, the path of the ``image`` and, where this
                holds several, a ``series``.
        """
        return [{"case_id": item["case_id"], **self._one(item)} for item in batch]

    def _one(self, item: Mapping[str, Any]) -> Json:
        folder = self.output_dir / str(item["case_id"])
        try:
            return segment_case(
                item["image"], folder, series_uid=item.get("series"), weights=self.weights
            )
        except Exception as error:  # one bad case must not stop the others
            refusal = find_refusal(error)
            if refusal is None:
                _LOG.exception("case %s", item["case_id"])
                refusal = CaseRefused(
                    "internal", f"{type(error).__name__} in the vertebra segmentation"
                )
            document = refused_segmentation(refusal)
            write_json(folder / FACTS, document)
            return document


def as_list(items: list[Json]) -> list[Json]:
    """Return a batch of cases as it is (``collate_fn``): their CTs differ in size.

    >>> as_list([{"case_id": "a", "image": "a.nii.gz"}])
    [{'case_id': 'a', 'image': 'a.nii.gz'}]
    """
    return items
