"""The whole study: from two tables of patients to every table and figure, in steps done once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import pandas as pd

from monai_vfx.analysis.clinical.scores import save_fits
from monai_vfx.analysis.cohort.baseline_tables import baseline_table
from monai_vfx.analysis.cohort.check_table import read_gate
from monai_vfx.analysis.cohort.flow import with_adequate_images
from monai_vfx.analysis.cohort.job import run_cohort
from monai_vfx.analysis.cohort.matching import Matching
from monai_vfx.analysis.cohort.patients_csv import read_patients
from monai_vfx.analysis.cohort.training_items import FILLED_TABLE
from monai_vfx.analysis.evaluation.job import run_evaluation
from monai_vfx.case.mask.read import REFUSED_MASK
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import only_run_in, read_json, write_frame, write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.core.results import run_record
from monai_vfx.vertebrae.sources.source import MASK
from monai_vfx.workflows.missing_masks import count_missing_masks, fill_missing_masks
from monai_vfx.workflows.study import absolute_risk as absolute
from monai_vfx.workflows.study import images, scores
from monai_vfx.workflows.study.heat_maps import draw_gallery
from monai_vfx.workflows.study.leakage import write_audit
from monai_vfx.workflows.study.plan import Hospital, Plan, read_plan
from monai_vfx.workflows.study.steps import Steps, same_study

Step = tuple[str, Callable[[], Iterable[Path]]]


def run_study(
    plan_file: str | Path, out: str | Path, pdf: bool = False, made_masks: str = "auto"
) -> Json:
    """Run a study, or resume one that was stopped.

    Args:
        plan_file: a STUDY.yaml (:func:`monai_vfx.workflows.study.plan.read_plan`).
        out: folder of the study.
        pdf: also write the report as PDF.
        made_masks: what makes the masks of rows that name none: ``auto`` (the segmentation),
            ``totalsegmentator`` or ``spine-segment``.

    Returns:
        ``report``, ``leakage_audit`` (whether it passed) and by hospital the main score with
        its AUROC, interval, n and events.

    Raises:
        SettingError: a setting that cannot be used, or a folder that holds another study.
        CaseRefused: ``cohort_invalid``.
        MissingDependencyError: a PDF is wanted and cannot be made here.
    """
    if pdf:  # before hours of work
        from monai_vfx.workflows.study.report.report import require_pdf

        require_pdf()
    plan = read_plan(plan_file)
    images.check_models(plan)
    tell = partial(print, file=sys.stderr, flush=True)
    study = Study(plan, Path(out).resolve(), tell, made_masks)
    with only_run_in(study.out):
        same_study(study.out, study.fingerprint())
        for name, work in study.steps():
            study.log.run(name, work)
        return study.finish(pdf)


class Study:
    """One study in its folder; every method that is a step returns the files that it writes."""

    def __init__(
        self, plan: Plan, out: Path, tell: Callable[[str], None], made_masks: str = "auto"
    ) -> None:
        self.plan = plan
        self.out = out
        self.made_masks = made_masks
        self.cache = out / "prepared"
        self.log = Steps(out, tell)
        self.hospitals: dict[str, Hospital] = {"development": plan.development}
        if plan.external is not None:
            self.hospitals["external"] = plan.external

    def fingerprint(self) -> Json:
        """Return all that decides the numbers: the settings, the tables, files of overlays."""
        settings = self.plan.to_json()
        for site, hospital in self.hospitals.items():
            if hospital.table is not None:
                settings[f"{site}_sha256"] = sha256_of(hospital.table)
            if hospital.gate is not None:
                settings[f"{site}_gate_sha256"] = sha256_of(hospital.gate)
        files = {name for m in images.image_models(self.plan) for name in m.overlays}
        for name in sorted(files | {self.plan.images.pretrained or ""}):
            if Path(name).is_file():
                settings[f"{Path(name).name}_sha256"] = sha256_of(name)
        settings["images"].pop("workers")  # decides no number
        if self.made_masks != "auto":
            settings["made_masks"] = self.made_masks
        settings["version"] = metadata.version("monai_vfx")
        return settings

    def steps(self) -> Iterator[Step]:
        """Name every step with its work, in order: the external patients come last."""
        for site, hospital in self.hospitals.items():
            if hospital.simulate is not None:
                yield f"simulate/{site}", partial(self.simulate, site, hospital.simulate)
            yield f"cohort/{site}", partial(self.cohort, site)
            if self.plan.images.models and count_missing_masks(self.selected_path(site)):
                yield f"masks/{site}", partial(self.masks, site)
            yield f"imaging/{site}", partial(self.imaging, site)
        if "external" in self.hospitals:
            yield "cohort/table1", self.baseline_tables
        table = self.masked_path("development")
        for model in images.image_models(self.plan):
            for fold in range(self.plan.folds):
                name, folder = f"image/{model.name}/fold_{fold}", self.fold_folder(model.name, fold)
                train = partial(images.train_fold, self.plan, model, fold, table)
                yield name, partial(train, folder, self.cache)
        yield "predictions/development", self.predict_development
        yield "calibration", self.calibrate
        if "external" in self.hospitals:
            yield from self._external_steps()
        for site in self.hospitals:
            yield f"evaluation/{site}", partial(self.evaluate, site)
        if self.plan.images.models:
            yield "gallery", self.gallery
        yield "audit", self.audit

    def _external_steps(self) -> Iterator[Step]:
        table = self.masked_path("external")
        for model in images.image_models(self.plan):
            for fold in range(0 if model.further_seed else self.plan.folds):
                name, folder = f"{model.name}/fold_{fold}", self.fold_folder(model.name, fold)
                score = partial(images.score_external, self.plan, table, folder, self.cache)
                yield f"external/{name}", score
        yield "predictions/external", self.predict_external

    # places

    def table(self, site: str) -> Path:
        """Return a hospital's patient table."""
        given = self.hospitals[site].table
        return given if given is not None else self.out / "hospitals" / site / "cohort.csv"

    def selected_path(self, site: str) -> Path:
        """Return the table of the patients that a study scores."""
        return self.out / "cohort" / site / "selected.csv"

    def masked_path(self, site: str) -> Path:
        """Return the same table with a mask in every row, where some had to be made."""
        made = self.out / "masks" / site / FILLED_TABLE
        return made if made.is_file() else self.selected_path(site)

    def fold_folder(self, model: str, fold: int) -> Path:
        """Return the folder of one training."""
        return self.out / "image" / model / f"fold_{fold}"

    def patients(self, site: str) -> scores.Patients:
        """Return the selected patients with their measurements."""
        frame = read_patients(self.selected_path(site))
        measured = pd.read_csv(self.out / "imaging" / f"{site}.csv", dtype={"case_id": str})
        return scores.Patients(frame, measured)

    # steps

    def simulate(self, site: str, settings: Json) -> Iterable[Path]:
        """Write a simulated hospital."""
        from monai_vfx.simulation.hospital import simulate_hospital

        table = self.table(site)
        if not table.is_file():  # a complete site may lack its record alone
            quick = {"file_format": "nifti", "field_of_view": "quick"}
            simulate_hospital(table.parent, **{**quick, **settings})
        return [table, table.parent / "hospital.json"]

    def cohort(self, site: str) -> Iterable[Path]:
        """Select the patients: by eligibility, and for development by matching and folds too."""
        out, hospital = self.out / "cohort" / site, self.hospitals[site]
        development, gate = site == "development", None
        if hospital.gate is not None:
            gate = read_gate(hospital.gate, hospital.exclude_warnings)
        run_cohort(
            self.table(site),
            out,
            eligibility=self.plan.eligibility,
            matching=self.plan.matching if development else Matching(method="none"),
            folds=self.plan.folds if development else None,
            seed=self.plan.seed,
            need=scores.columns(self.plan),
            gate=gate,
        )
        return [out / name for name in ("flow.json", "analysed.csv", "selected.csv", "table2.csv")]

    def masks(self, site: str) -> Iterable[Path]:
        """Make the masks that the table does not name; a CT that is refused is listed later."""
        folder = self.out / "masks" / site
        table = fill_missing_masks(self.selected_path(site), folder, self.made_masks, self.log.tell)
        made = [*folder.glob(f"*/{MASK}"), *folder.glob(f"*/{REFUSED_MASK}")]
        return [table, table.with_suffix(".json"), *made]

    def imaging(self, site: str) -> Iterable[Path]:
        """Measure bone and muscle on every CT; a CT that is refused has no measurement.

        A study without networks takes tables without CTs as well; none is measured then.
        """
        from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES, feature_table

        need = ("image", "mask")
        frame = read_patients(self.masked_path(site), need if self.plan.images.models else ())
        refusals: list[Json] = []
        if set(need) <= set(frame):
            table, refusals = feature_table(frame, workers=max(1, self.plan.images.workers))
        else:
            self.log.tell(f"imaging/{site}: the table names no images and masks, none is measured")
            table = frame[["case_id"]].reindex(columns=["case_id", *IMAGING_VARIABLES, "note"])
        refused = pd.DataFrame(refusals, columns=["case_id", "code", "message"])
        made = [self.out / "imaging" / f"{name}.csv" for name in (site, f"{site}_refused")]
        write_frame(made[0], table)
        write_frame(made[1], refused)
        return made

    def baseline_tables(self) -> Iterable[Path]:
        """Write Table 1, which compares the hospitals; Table 2 is the cohort's own."""
        frames = [
            read_patients(self.selected_path(site)).assign(hospital=site) for site in self.hospitals
        ]
        path = self.out / "cohort" / "table1.csv"
        write_frame(path, baseline_table(pd.concat(frames, ignore_index=True), "hospital"))
        return [path]

    def predict_development(self) -> Iterable[Path]:
        """Gather all out-of-fold scores and choose all thresholds, the frozen ones too."""
        table, thresholds, fits = scores.development_tables(
            self.plan, self.out / "image", self.patients("development")
        )
        folder = self.out / "predictions"
        write_frame(folder / "development.csv", table)
        write_frame(folder / "thresholds.csv", thresholds)
        made = [folder / "development.csv", folder / "thresholds.csv"]
        made += save_fits(self.out / "clinical", fits)
        if self.plan.images.further_seeds:
            made.append(self.out / "seeds" / "spread.csv")
            write_frame(made[-1], scores.spread_over_seeds(self.plan, self.out / "image", table))
        return made

    def calibrate(self) -> Iterable[Path]:
        """Fit the correction from sampled controls to absolute risk."""
        folder = self.out / "calibration"
        analysed = read_patients(self.out / "cohort" / "development" / "analysed.csv")
        # Those who could have been chosen, as the controls were.
        pool = with_adequate_images(analysed, self.plan.eligibility)
        selected = read_patients(self.selected_path("development"))
        document = absolute.calibrate(self.plan, self.predictions("development"), pool, selected)
        return [absolute.save_calibration(folder, document)]

    def predictions(self, site: str) -> pd.DataFrame:
        """Return a predictions table."""
        text = {"case_id": str, "patient_id": str, "pair_id": str}
        return pd.read_csv(self.out / "predictions" / f"{site}.csv", dtype=text)

    def predict_external(self) -> Iterable[Path]:
        """Score the external patients once, with everything frozen, and give absolute risks."""
        patients, development = self.patients("external"), self.predictions("development")
        models = scores.load_all_models(self.out / "clinical", development)
        table = scores.external_table(self.plan, self.out / "image", patients, models)
        folder = self.out / "calibration"
        calibration, score = absolute.read_calibration(folder)
        if calibration is not None:
            table[f"risk_{score}"] = calibration.risk(table[score], patients.frame)
        path = self.out / "predictions" / "external.csv"
        write_frame(path, table)
        sets = absolute.prediction_sets(score, development, table)
        write_json(folder / "conformal.json", sets)
        made = [path, folder / "conformal.json"]
        if self.plan.images.models:
            folds = [self.fold_folder(self.plan.images.main, k) for k in range(self.plan.folds)]
            flags, facts = absolute.outlier_flags(folds, "external")
            write_frame(folder / "outliers.csv", flags, index=True)
            write_json(folder / "outliers.json", facts)
            made += [folder / "outliers.csv", folder / "outliers.json"]
        return made

    def evaluate(self, site: str) -> Iterable[Path]:
        """Judge all scores of a hospital."""
        table = self.predictions(site)
        names = scores.score_names(table)
        risks = [name for name in names if name.startswith("risk_")]
        selected = read_patients(self.selected_path(site))
        further = [
            name
            for name in dict.fromkeys((*self.plan.subgroups, "age", "sex", "bmi"))
            if name in selected and name not in table and selected[name].notna().any()
        ]
        for name in self.plan.subgroups:
            if name not in selected or selected[name].isna().all():
                self.log.tell(f"evaluation/{site}: no column {name} for subgroups")
        table = table.merge(selected[["case_id", *further]], on="case_id", validate="1:1")
        timed = "time_years" in table
        chosen = pd.read_csv(self.out / "predictions" / "thresholds.csv", dtype={"fold": str})
        out = self.out / "evaluation" / site
        run_evaluation(
            table,
            "fracture",
            names,
            out,
            thresholds=absolute.with_fixed_thresholds(chosen, risks),
            subgroups=[name for name in self.plan.subgroups if name in table],
            adjust_for=[name for name in ("age", "sex", "bmi") if name in table],
            time="time_years" if timed else None,
            event="event" if timed else None,
            risk_scores=risks,
            comparisons=scores.comparisons(self.plan, names),
            bootstrap=self.plan.bootstrap,
            seed=self.plan.seed,
        )
        return [out / "evaluation.json"]

    def gallery(self) -> Iterable[Path]:
        """Draw heat maps and inputs, of external patients where there are such."""
        site = list(self.hospitals)[-1]
        return draw_gallery(
            self.plan,
            self.out / "image",
            read_patients(self.masked_path(site)),
            self.predictions(site),
            site,
            self.out / "gallery",
        )

    def audit(self) -> Iterable[Path]:
        """Look for leakage; one that is found stops the study before it reports anything."""
        path, checks = write_audit(self.out)
        failed = [check for check in checks if not check.passed]
        if failed:
            raise SettingError(
                "the leakage audit failed: " + "; ".join(f"{c.name}: {c.detail}" for c in failed)
            )
        return [path]

    def finish(self, pdf: bool) -> Json:
        """Write ``study.json`` and the report; return what a reader wants to know first."""
        from monai_vfx.workflows.study.report.report import write_study_report

        simulated = any(
            bool(read_patients(self.selected_path(site)).get("simulated", pd.Series([0])).any())
            for site in self.hospitals
        )
        record = run_record("study", self.plan.to_json(), {})
        document = {
            "name": self.plan.name,
            "seed": self.plan.seed,
            "simulated": simulated,
            "settings": self.plan.to_json(),
            "steps": self.log.done,
            "versions": record["versions"],
            "time": record["time"],
        }
        write_json(self.out / "study.json", document)
        self.log.tell("report")
        page = write_study_report(self.out, pdf=pdf)
        shutil.rmtree(self.cache, ignore_errors=True)  # images of patients, and large
        return {"report": str(page), "leakage_audit": True, "aurocs": self._headline()}

    def _headline(self) -> Json:
        facts: Json = {}
        for site in self.hospitals:
            entries = read_json(self.out / "evaluation" / site / "evaluation.json")["scores"]
            name = scores.main_score(self.plan, list(entries))
            told = ("auroc", "auroc_ci", "n", "events")
            facts[site] = {"score": name, **{key: entries[name][key] for key in told}}
        return facts
