"""The whole study: from two tables of patients to every table and figure, in steps done once."""

from __future__ import annotations

import json
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
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.analysis.evaluation.job import run_evaluation
from monai_vfx.analysis.evaluation.thresholds import FIXED
from monai_vfx.case.mask.read import REFUSED_MASK
from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import only_run_in, write_json
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

RISK_THRESHOLDS = (0.05, 0.10, 0.20)
"""Five-year risks from which a patient counts as positive, fixed before any patient was seen."""


def run_study(
    plan_file: str | Path, out: str | Path, pdf: bool = False, made_masks: str = "auto"
) -> Json:
    """Run a study, or go on with one that was stopped.

    Args:
        plan_file: a STUDY.yaml (:func:`monai_vfx.workflows.study.plan.read_plan`).
        out: folder of the study.
        pdf: also write the report as PDF.
        made_masks: who makes the masks of rows that name none: ``auto`` (the segmentation) or
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
    study = Study(plan, Path(out).resolve(), _tell, made_masks)
    with only_run_in(study.out):
        same_study(study.out, study.fingerprint())
        for name, work in study.steps():
            study.log.run(name, work)
        return study.finish(pdf)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Study:
    """One study in its folder; every method that is a step returns the files that it leaves.

    Args:
        plan: what is done.
        out: where.
        tell: called with a line about each step.
        made_masks: who makes the masks of rows that name none.
    """

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
        for side, hospital in self.hospitals.items():
            if hospital.table is not None:
                settings[f"{side}_sha256"] = sha256_of(hospital.table)
            if hospital.gate is not None:
                settings[f"{side}_gate_sha256"] = sha256_of(hospital.gate)
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
        for side, hospital in self.hospitals.items():
            if hospital.simulate is not None:
                yield f"simulate/{side}", partial(self.simulate, side, hospital.simulate)
            yield f"cohort/{side}", partial(self.cohort, side)
            if self.plan.images.models and count_missing_masks(self.selected_path(side)):
                yield f"masks/{side}", partial(self.masks, side)
            yield f"imaging/{side}", partial(self.imaging, side)
        if "external" in self.hospitals:
            yield "cohort/table1", self.baseline_tables
        selected = self.masked_path("development")
        for model in images.image_models(self.plan):
            for fold in range(self.plan.folds):
                folder = self.fold_folder(model.name, fold)
                yield (
                    f"image/{model.name}/fold_{fold}",
                    partial(
                        images.train_fold, self.plan, model, fold, selected, folder, self.cache
                    ),
                )
        yield "predictions/development", self.predict_development
        yield "calibration", self.calibrate
        if "external" in self.hospitals:
            yield from self._external_steps()
        for side in self.hospitals:
            yield f"evaluation/{side}", partial(self.evaluate, side)
        if self.plan.images.models:
            yield "gallery", self.gallery
        yield "audit", self.audit

    def _external_steps(self) -> Iterator[Step]:
        for model in images.image_models(self.plan):
            for fold in range(0 if model.further_seed else self.plan.folds):
                yield (
                    f"external/{model.name}/fold_{fold}",
                    partial(
                        images.score_external,
                        self.plan,
                        self.masked_path("external"),
                        self.fold_folder(model.name, fold),
                        self.cache,
                    ),
                )
        yield "predictions/external", self.predict_external

    # places

    def table(self, side: str) -> Path:
        """Return a hospital's patient table."""
        given = self.hospitals[side].table
        return given if given is not None else self.out / "hospitals" / side / "cohort.csv"

    def selected_path(self, side: str) -> Path:
        """Return the table of the patients that a study scores."""
        return self.out / "cohort" / side / "selected.csv"

    def masked_path(self, side: str) -> Path:
        """Return the same table with a mask in every row, where some had to be made."""
        made = self.out / "masks" / side / FILLED_TABLE
        return made if made.is_file() else self.selected_path(side)

    def fold_folder(self, model: str, fold: int) -> Path:
        """Return the folder of one training."""
        return self.out / "image" / model / f"fold_{fold}"

    def patients(self, side: str) -> scores.Patients:
        """Return the selected patients with their measurements."""
        frame = read_patients(self.selected_path(side))
        measured = pd.read_csv(self.out / "imaging" / f"{side}.csv", dtype={"case_id": str})
        return scores.Patients(frame, measured)

    # steps

    def simulate(self, side: str, settings: Json) -> Iterable[Path]:
        """Write a simulated hospital."""
        from monai_vfx.simulation import simulate_hospital

        table = self.table(side)
        if not table.is_file():  # a complete hospital may lack its record alone
            simulate_hospital(
                table.parent,
                **{"file_format": "nifti", "field_of_view": "quick", **settings},
            )
        return [table, table.parent / "hospital.json"]

    def cohort(self, side: str) -> Iterable[Path]:
        """Choose the patients: eligibility, at home matching and folds as well."""
        out = self.out / "cohort" / side
        home, hospital = side == "development", self.hospitals[side]
        gate = None
        if hospital.gate is not None:
            gate = read_gate(hospital.gate, hospital.exclude_warnings)
        run_cohort(
            self.table(side),
            out,
            eligibility=self.plan.eligibility,
            matching=self.plan.matching if home else Matching(method="none"),
            folds=self.plan.folds if home else None,
            seed=self.plan.seed,
            need=scores.columns(self.plan),
            gate=gate,
        )
        return [out / name for name in ("flow.json", "analysed.csv", "selected.csv", "table2.csv")]

    def masks(self, side: str) -> Iterable[Path]:
        """Make the masks that the table does not name; a CT that is refused is listed later."""
        folder = self.out / "masks" / side
        table = fill_missing_masks(self.selected_path(side), folder, self.made_masks, self.log.tell)
        made = [*folder.glob(f"*/{MASK}"), *folder.glob(f"*/{REFUSED_MASK}")]
        return [table, table.with_suffix(".json"), *made]

    def imaging(self, side: str) -> Iterable[Path]:
        """Measure bone and muscle on every CT; a CT that is refused has no measurement.

        A study without networks takes tables without CTs as well; nobody is measured then.
        """
        from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES, feature_table

        need = ("image", "mask")
        frame = read_patients(self.masked_path(side), need if self.plan.images.models else ())
        refusals: list[Json] = []
        if set(need) <= set(frame):
            table, refusals = feature_table(frame, workers=max(1, self.plan.images.workers))
        else:
            self.log.tell(f"imaging/{side}: the table names no images and masks, none is measured")
            table = frame[["case_id"]].reindex(columns=["case_id", *IMAGING_VARIABLES, "note"])
        folder = self.out / "imaging"
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / f"{side}.csv", index=False)
        columns = ["case_id", "code", "message"]
        pd.DataFrame(refusals, columns=columns).to_csv(folder / f"{side}_refused.csv", index=False)
        return [folder / f"{side}.csv", folder / f"{side}_refused.csv"]

    def baseline_tables(self) -> Iterable[Path]:
        """Write Table 1, which compares the hospitals; Table 2 is the cohort's own."""
        frames = [
            read_patients(self.selected_path(side)).assign(hospital=side) for side in self.hospitals
        ]
        path = self.out / "cohort" / "table1.csv"
        baseline_table(pd.concat(frames, ignore_index=True), "hospital").to_csv(path, index=False)
        return [path]

    def predict_development(self) -> Iterable[Path]:
        """Gather all out-of-fold scores and choose all thresholds, the frozen ones too."""
        table, thresholds, fits = scores.development_tables(
            self.plan, self.out / "image", self.patients("development")
        )
        folder = self.out / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / "development.csv", index=False)
        thresholds.to_csv(folder / "thresholds.csv", index=False)
        made = save_fits(self.out / "clinical", fits)
        spread = self._spread(table)
        return [folder / "development.csv", folder / "thresholds.csv", *spread, *made]

    def _spread(self, table: pd.DataFrame) -> list[Path]:
        """Write the AUROC of every seed: how far training alone moves it, patients apart."""
        rows = []
        for model in images.image_models(self.plan):
            if model.name in self.plan.images.models or model.further_seed:
                own = images.out_of_fold(self.out / "image", model, self.plan.folds)
                known = table["case_id"].isin(own.index)
                result = auroc(table.loc[known, "fracture"], own.loc[table.loc[known, "case_id"]])
                rows.append({"score": model.score, "seed": model.seed, "auroc": result.value})
        if not self.plan.images.further_seeds:
            return []
        path = self.out / "seeds" / "spread.csv"
        path.parent.mkdir(exist_ok=True)
        pd.DataFrame(rows).sort_values(["score", "seed"]).to_csv(path, index=False)
        return [path]

    def calibrate(self) -> Iterable[Path]:
        """Fit the correction from sampled controls to absolute risk."""
        folder = self.out / "calibration"
        document = absolute.calibrate(
            self.plan,
            self.predictions("development"),
            # Those who could have been chosen, as the controls were.
            with_adequate_images(
                read_patients(self.out / "cohort" / "development" / "analysed.csv"),
                self.plan.eligibility,
            ),
            read_patients(self.selected_path("development")),
        )
        return [absolute.save_calibration(folder, document)]

    def predictions(self, side: str) -> pd.DataFrame:
        """Return a predictions table."""
        text = {"case_id": str, "patient_id": str, "pair_id": str}
        return pd.read_csv(self.out / "predictions" / f"{side}.csv", dtype=text)

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
        table.to_csv(path, index=False)
        sets = absolute.prediction_sets(score, development, table)
        write_json(folder / "conformal.json", sets)
        made = [path, folder / "conformal.json"]
        if self.plan.images.models:
            folds = [self.fold_folder(self.plan.images.main, k) for k in range(self.plan.folds)]
            flags, facts = absolute.outlier_flags(folds, "external")
            flags.to_csv(folder / "outliers.csv")
            write_json(folder / "outliers.json", facts)
            made += [folder / "outliers.csv", folder / "outliers.json"]
        return made

    def evaluate(self, side: str) -> Iterable[Path]:
        """Judge all scores of a hospital."""
        table = self.predictions(side)
        names = scores.score_names(table)
        risks = [name for name in names if name.startswith("risk_")]
        selected = read_patients(self.selected_path(side))
        further = [
            name
            for name in dict.fromkeys((*self.plan.subgroups, "age", "sex", "bmi"))
            if name in selected and name not in table and selected[name].notna().any()
        ]
        for name in self.plan.subgroups:
            if name not in selected or selected[name].isna().all():
                self.log.tell(f"evaluation/{side}: no column {name} for subgroups")
        table = table.merge(selected[["case_id", *further]], on="case_id", validate="1:1")
        timed = "time_years" in table
        out = self.out / "evaluation" / side
        run_evaluation(
            table,
            "fracture",
            names,
            out,
            thresholds=self._thresholds(risks),
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

    def _thresholds(self, risks: list[str]) -> pd.DataFrame:
        """Return all thresholds; those on absolute risk are fixed in advance, not chosen."""
        chosen = pd.read_csv(self.out / "predictions" / "thresholds.csv", dtype={"fold": str})
        fixed = [
            {"score": name, "fold": "frozen", "rule": f"risk_{risk:.2f}", "threshold": risk}
            | {"chosen_on": FIXED, "n": 0, "events": 0}
            for name in risks
            for risk in RISK_THRESHOLDS
        ]
        return pd.concat([chosen, pd.DataFrame(fixed)], ignore_index=True)

    def gallery(self) -> Iterable[Path]:
        """Draw the pictures: of external patients where there are such."""
        side = list(self.hospitals)[-1]
        return draw_gallery(
            self.plan,
            self.out / "image",
            read_patients(self.masked_path(side)),
            self.predictions(side),
            side,
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
            bool(read_patients(self.selected_path(side)).get("simulated", pd.Series([0])).any())
            for side in self.hospitals
        )
        record = run_record("study", self.plan.to_json(), {})
        write_json(
            self.out / "study.json",
            {
                "name": self.plan.name,
                "seed": self.plan.seed,
                "simulated": simulated,
                "settings": self.plan.to_json(),
                "steps": self.log.done,
                "versions": record["versions"],
                "time": record["time"],
            },
        )
        self.log.tell("report")
        page = write_study_report(self.out, pdf=pdf)
        shutil.rmtree(self.cache, ignore_errors=True)  # images of patients, and large
        return {"report": str(page), "leakage_audit": True, "aurocs": self._headline()}

    def _headline(self) -> Json:
        facts: Json = {}
        for side in self.hospitals:
            path = self.out / "evaluation" / side / "evaluation.json"
            entries = json.loads(path.read_text(encoding="utf-8"))["scores"]
            name = scores.main_score(self.plan, list(entries))
            entry = entries[name]
            facts[side] = {
                "score": name,
                **{key: entry[key] for key in ("auroc", "auroc_ci", "n", "events")},
            }
        return facts
