"""One CT through every step of a prediction; opened, checked and preprocessed once.

Nothing heavy is imported before a case has passed the checks of its header and mask, so that a
refusal is quick.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from monai_vfx.case.case import Case, age_warnings, check_case, load_case
from monai_vfx.case.mask.mapping import is_mapping_file
from monai_vfx.core.anatomy import MADE_MASKS
from monai_vfx.core.arrays import Json, Region
from monai_vfx.core.errors import CaseRefused, CaseWarning, SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.core.hashing import content_hash
from monai_vfx.core.results import Prediction, run_record
from monai_vfx.io.dicom.facts import Expected, check_expected
from monai_vfx.io.dicomweb.address import PacsAddress
from monai_vfx.io.dicomweb.transfer import local_image, store
from monai_vfx.io.volume import Volume, open_volume
from monai_vfx.model.checkpoint import TrainedModel
from monai_vfx.outputs.hospital.dicom_headers import Deidentifier
from monai_vfx.outputs.hospital.export import FILES as EXPORTED
from monai_vfx.outputs.hospital.export import MASK as MASK_OBJECT
from monai_vfx.outputs.hospital.export import OBJECTS, Export
from monai_vfx.vertebrae.sources.source import (
    DISAGREEMENT,
    GIVEN_PICTURE,
    MADE_FILES,
    MaskSource,
)
from monai_vfx.workflows.manifest import CaseInput

if TYPE_CHECKING:
    from monai_vfx.workflows.scoring import ScoredCase

_LOG = logging.getLogger(__name__)
RESULTS = (
    *("prediction.json", "refused.json", "run.json", "gradcam*.*", "attention_*.*"),
    *(*MADE_FILES, GIVEN_PICTURE, DISAGREEMENT, *EXPORTED),
)
"""What a prediction leaves in its folder."""


@dataclass(frozen=True)
class _Run:
    """What belongs to one call of a predictor: the row with a local image, and its folders."""

    row: CaseInput
    scratch: Path
    out: Path | None
    hide: Deidentifier | None

    @property
    def made(self) -> Path:
        return self.scratch / "results"


class Predictor:
    """Score CTs with networks that are loaded once; can be pickled.

    Args:
        weights: checkpoints with their sidecars. Of several the score is the mean probability. One
            with an ``outliers.json`` beside it says whether a case is unlike its training's.
        mask: who makes the mask of a row without one: ``auto`` (the vertebra segmentation),
            ``totalsegmentator`` or ``spine-segment``. None refuses such rows.
        scheme: label scheme of given masks, or path of a label mapping; found out by default.
        compare_mask: whether the levels of a mask that the segmentation did not make are compared
            with what it finds.
        calibration: ``calibration.json`` that turns the score into an absolute five-year risk; with
            several weights also into its interval.
        explain: write the heat maps of the first network.
        beside: a second checkpoint, drawn beside the first in ``gradcam_beside.png``.
        layer: encoder stage for GradCAM.
        export: ``dicom`` and ``fhir``, see :mod:`monai_vfx.outputs.hospital`.
        deidentify: leave everything out of all files that leads back to the patient: identity,
            dates, UIDs and the digests of CT, mask and clinical row.
        service: PACS that stores the DICOM objects of each case; they are written for it, too.
        tell: called with a line about what a PACS is asked for.

    Raises:
        CaseRefused: ``weights_unreadable`` or ``weights_mismatch``.
        SettingError: settings that exclude each other, or a calibration that cannot be used.
    """

    def __init__(
        self,
        weights: str | Path | Sequence[str | Path],
        *,
        mask: str | None = "auto",
        scheme: str | None = None,
        compare_mask: bool = True,
        calibration: str | Path | None = None,
        explain: bool = False,
        beside: str | Path | None = None,
        layer: str = "layer3",
        export: Sequence[str] = (),
        deidentify: bool = False,
        service: PacsAddress | None = None,
        tell: Callable[[str], None] = _LOG.info,
    ) -> None:
        if service is not None and deidentify:
            raise SettingError(
                "--store puts results into the patient's study and --deidentify takes them out: "
                "leave one out"
            )
        if calibration is not None:
            from monai_vfx.analysis.calibration.model import read_calibration

            read_calibration(calibration)
        paths = [weights] if isinstance(weights, str | Path) else weights
        self.members = [TrainedModel(path) for path in paths]
        self.beside = None if beside is None else TrainedModel(beside)
        self.mask, self.scheme, self.compare_mask = mask, scheme, compare_mask
        self.calibration = None if calibration is None else Path(calibration)
        self.explain, self.layer, self.deidentify = explain, layer, deidentify
        kinds = (*export, "dicom") if service is not None else export
        self.export = tuple(dict.fromkeys(kinds))
        self.service, self.tell = service, tell

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings; networks are loaded again where they are used."""
        settings = {name: value for name, value in vars(self).items() if name != "members"}
        settings["beside"] = None if self.beside is None else self.beside.weights
        paths = [member.weights for member in self.members if member.weights is not None]
        return partial(Predictor, paths, **settings), ()

    def __call__(self, row: CaseInput, out: str | Path | None = None) -> Prediction:
        """Score one case.

        Args:
            row: the case.
            out: folder for ``prediction.json``, ``run.json``, figures, heat maps and exports; what
                an earlier case left there goes once this one has succeeded. None writes nothing.

        Raises:
            CaseRefused: with the code of the rule that the case breaks. With ``mask_disagrees`` the
                figure ``mask_disagrees.png`` is left in ``out``.
            MissingDependencyError: a tool is asked for and not installed.
            SettingError: what is asked for cannot be written of this image, or without ``out``.
        """
        if out is None and (self.explain or self.beside or self.export):
            raise SettingError("explain, beside and export need out, a folder for their files")
        hide = Deidentifier() if self.deidentify else None
        with local_image(row.image, row.series_uid, self.tell) as image, _scratch(out) as scratch:
            run = _Run(replace(row, image=image), scratch, None if out is None else Path(out), hide)
            exporter = Export(self.export, image, row.series_uid, hide)
            volume, patient, warnings = _open(run.row)
            source = self._mask_source(run)
            case = self._settle_mask(volume, source, run)
            scored = self._score(case, patient, run)
            prediction = self._judge(scored, patient, source, warnings)
            if run.out is not None:
                record = self._record(run, source)
                prediction = self._write(prediction, scored, exporter, run, source)
                _replace_results(run, source)
                write_json(run.out / "run.json", record)
        if self.service is not None and run.out is not None:
            store([run.out / name for name in OBJECTS if (run.out / name).exists()], self.service)
        return prediction

    def facts(self) -> tuple[Json, Json]:
        """Return the settings, and the SHA-256 of the files that they name."""
        sidecars = [member.sidecar or {} for member in self.members]
        inputs = {"weights": sidecars[0]["weights_sha256"]}
        inputs |= {f"weights_{n}": s["weights_sha256"] for n, s in enumerate(sidecars[1:], start=2)}
        beside = None if self.beside is None else (self.beside.sidecar or {})["weights_sha256"]
        inputs["beside"] = beside
        inputs["calibration"] = None if self.calibration is None else content_hash(self.calibration)
        mapping = self.scheme is not None and is_mapping_file(self.scheme)
        inputs |= {"labels": content_hash(Path(self.scheme))} if mapping and self.scheme else {}
        settings = {
            "labels": "mapping" if mapping else self.scheme,
            "compare_mask": self.compare_mask,
            "explain": self.explain,
            "layer": self.layer if self.explain else None,
            "export": list(self.export),
            "deidentify": self.deidentify,
        }
        return settings, inputs

    def _mask_source(self, run: _Run) -> MaskSource:
        return MaskSource(
            run.row.image if isinstance(run.row.image, Path) else "",
            self.mask if run.row.mask is None else run.row.mask,
            run.scratch / "mask",
            series_uid=run.row.series_uid,
            compare=self.compare_mask,
            hide=run.hide,
            picture=run.out is not None,
        )

    def _settle_mask(self, volume: Volume, source: MaskSource, run: _Run) -> Case:
        """Take or make the mask, check both with the voxels, compare and draw.

        Raises:
            CaseRefused: the CT, the segmentation or the comparison; a figure of a disagreement
                stays.
        """
        case = load_case(volume, source, scheme=self.scheme if source.kind == "given" else None)
        case = case.holding(_surroundings(case))
        case = replace(case, checked=check_case(case))
        try:
            source.review(case)
        except CaseRefused:
            if run.out is not None and (source.folder / DISAGREEMENT).exists():
                shutil.move(source.folder / DISAGREEMENT, run.out / DISAGREEMENT)
            raise
        return case

    def _score(self, case: Case, patient: pd.DataFrame | None, run: _Run) -> ScoredCase:
        from monai_vfx.workflows.scoring import ScoredCase  # MONAI, only for what has passed

        scored = ScoredCase(run.row.case_id, case, patient, self.members)
        _ = scored.scores
        return scored

    def _judge(
        self,
        scored: ScoredCase,
        patient: pd.DataFrame | None,
        source: MaskSource,
        warnings: tuple[CaseWarning, ...],
    ) -> Prediction:
        """Put together score, risk, mask and warnings."""
        from monai_vfx.model.bundle.ensemble import calibrate

        prediction = scored.prediction
        if self.calibration is not None:
            scores = [score for score, _ in scored.scores]
            prediction = calibrate(prediction, scores, self.calibration, patient)
        found = tuple(dict.fromkeys((*prediction.warnings, *source.warnings)))
        return replace(prediction, mask=source.record, warnings=(*found, *warnings))

    def _write(
        self,
        prediction: Prediction,
        scored: ScoredCase,
        exporter: Export,
        run: _Run,
        source: MaskSource,
    ) -> Prediction:
        """Write heat maps, exports and the result; return it with warnings of the exports."""
        made = run.made
        heats = scored.explain(made, self.layer) if self.explain else {}
        if run.hide is not None:
            prediction = Prediction.from_json(run.hide.document(prediction.to_json()))
        if exporter.kinds:
            drawn = made / "gradcam.png"
            if not heats:
                drawn = run.scratch / "slices.png"
                scored.draw_slices(prediction, drawn)
            for file in source.folder.glob(MASK_OBJECT):
                shutil.move(file, made / file.name)
            labels = scored.case.masks.labels
            lacks = exporter.write(made, prediction, labels, drawn, heats.get("gradcam"))
            prediction = replace(prediction, warnings=(*prediction.warnings, *lacks))
        write_json(made / "prediction.json", prediction.to_json())
        if self.beside is not None:
            scored.draw_beside(prediction, self.beside, self.layer, made / "gradcam_beside.png")
        return prediction

    def _record(self, run: _Run, source: MaskSource) -> Json:
        """Return the record of the run; de-identified, without what leads back to the patient."""
        settings, inputs = self.facts()
        files = {"image": run.row.image, "mask": source.path, "clinical": run.row.clinical}
        inputs |= {n: content_hash(f) if isinstance(f, Path) else None for n, f in files.items()}
        settings |= {"case_id": run.row.case_id, "mask_source": source.kind}
        settings["series_uid"] = run.row.series_uid
        record = run_record("predict", settings, inputs)
        if run.hide is None:
            return record
        # Whoever holds the input could know it again by its digest, and the run by the day.
        inputs |= dict.fromkeys(files)
        settings["series_uid"] = None
        return record | {"time": None, "inputs_sha256": inputs}


def predict(
    image: str | Path | PacsAddress,
    mask: str | Path | None = "auto",
    *,
    weights: str | Path | Sequence[str | Path],
    out: str | Path | None,
    case_id: str = "case",
    series_uid: str | None = None,
    clinical: str | Path | None = None,
    **settings: Any,
) -> Prediction:
    """Score one CT. For many, make one :class:`Predictor` and call it for each.

    Args:
        image: DICOM folder, zip or file, NIfTI or NRRD; or an address in a PACS.
        mask: label map or folder of per-structure files; or who makes one
            (:data:`monai_vfx.core.anatomy.MADE_MASKS`).
        weights: checkpoint or checkpoints with their sidecars.
        out: folder for the results, see :class:`Predictor`.
        case_id: the caller's name for the case.
        series_uid: which series, where there are several.
        clinical: table of one row, for weights or a calibration that take clinical variables.
        **settings: of :class:`Predictor`.

    Raises:
        CaseRefused: with the code of the rule that the case breaks.
        SettingError: settings that cannot be used.
    """
    made = mask is None or mask in MADE_MASKS
    row = CaseInput(
        case_id,
        image if isinstance(image, PacsAddress) else Path(image),
        None if made or mask is None else Path(mask),
        series_uid,
        None if clinical is None else Path(clinical),
    )
    maker = str(mask) if made and mask is not None else None
    return Predictor(weights, mask=maker, **settings)(row, out)


def read_prediction(path: str | Path) -> Prediction:
    """Read a ``prediction.json``."""
    return Prediction.from_json(read_json(path))


@contextmanager
def _scratch(out: str | Path | None) -> Iterator[Path]:
    """Yield a private folder: beside the results, so that these can be moved into their place."""
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".run_") as scratch:
        (Path(scratch) / "results").mkdir()
        yield Path(scratch)


def _open(row: CaseInput) -> tuple[Volume, pd.DataFrame | None, tuple[CaseWarning, ...]]:
    """Open the CT by its headers and compare them with what tables say of the patient.

    Returns:
        The CT, the clinical row, and a warning of the row's age where the header has none.

    Raises:
        CaseRefused: ``header_conflict``; what opening the CT or the row raises.
    """
    volume = open_volume(row.image if isinstance(row.image, Path) else "", row.series_uid)
    expected, patient = row.expected, None
    if row.clinical is not None:
        from monai_vfx.model.bundle.cohort import read_row

        patient = read_row(row.clinical)
        age, sex, scanned = (
            None if name not in patient or pd.isna(patient[name][0]) else patient[name][0]
            for name in ("age", "sex", "scan_date")
        )
        day = None if scanned is None else pd.Timestamp(scanned).date()
        check_expected(volume.facts, expected)
        expected = Expected(None if age is None else float(age), sex, day)
    check_expected(volume.facts, expected)
    known = volume.facts is not None and volume.facts.age_years is not None
    return volume, patient, () if known else tuple(age_warnings(expected.age_years))


def _surroundings(case: Case) -> Region:
    """Return the box of voxels around T12-L4 that checks, crops and figures take."""
    import numpy as np

    from monai_vfx.outputs.report.segmentation_preview import body_centres, drawn_box

    spots = np.array(list(body_centres(case.masks.labels, case.volume.affine).values()))
    i, j, k = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(case.region(), drawn_box(case.volume, spots), strict=True)
    )
    return i, j, k


def _replace_results(run: _Run, source: MaskSource) -> None:
    """Put the results into their folder in place of an earlier case's.

    A heat map must not outlive its score; but a mask of an earlier run may be given to this one.
    """
    if run.out is None:
        return
    kept = {path.resolve() for path in (run.row.image, source.path) if isinstance(path, Path)}
    for pattern in RESULTS:
        for file in run.out.glob(pattern):
            if file.resolve() not in kept:
                file.unlink()
    for file in (*run.made.iterdir(), *source.folder.glob("*")):
        shutil.move(file, run.out / file.name)
