r"""The experiment: two simulated hospitals with a known answer, and all models of the study.

    python benchmarks/proof/run.py OUT --size cpu --workers 2
    python benchmarks/proof/run.py OUT --size cpu --only 'train/bone_muscle/*'
    python benchmarks/proof/run.py OUT --steps results report --results benchmarks/proof/results

Killed at any moment it goes on where it was: every chunk of patients, training and scoring is a
step with a record in ``OUT/steps``. Patients of the external hospital are made, scored by every
network and dropped block by block. Sizes are in ``plan.yaml``, hours in ``README.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from clinical_curve import fit_by_size
from hospitals import TABLES, blocks, make_chunk, merge, training_tables
from jobs import (
    Step,
    chosen_steps,
    clinical_scores,
    is_recorded,
    run_steps,
    score_set,
    train_model,
)
from plan import FULL, NO_MUSCLE, Model, PatientSet, models, overlays_of, patient_sets, read_plan

from monai_vfx.core.files import only_run_in
from monai_vfx.workflows.study.steps import same_study

STAGES = ("hospitals", "train", "score", "stream", "clinical", "saliency", "results", "report")


def hospital_steps(
    out: Path, plan: dict[str, Any], patients: PatientSet, block: int, cache: Path
) -> list[Step]:
    """List the chunks of one block of a set."""
    chains = [overlays_of(plan, bone=True), overlays_of(plan)]
    return [
        Step(
            f"hospitals/{patients.name}/chunk_{number:03d}",
            make_chunk,
            {
                "folder": out / "sets" / patients.name / f"chunk_{number:03d}",
                "patients": patients,
                "count": count,
                "seed": seed,
                "chains": chains,
                "cache": cache,
                "keep": patients.name == FULL and plan["keep_images"],
            },
        )
        for number, count, seed in blocks(patients, plan["chunk"], plan["block"])[block]
    ]


def make_block(
    out: Path, plan: dict[str, Any], patients: PatientSet, block: int, workers: int
) -> Path:
    """Make a block of a set with its crops and tables; return the folder of the crops."""
    cache = out / "crops" if patients.kept else out / f"crops_{patients.name}_{block}"
    chains = [[step] for step in hospital_steps(out, plan, patients, block, cache)]
    run_steps(out, chains, (), workers)
    folder, parts = out / "sets" / patients.name, blocks(patients, plan["chunk"], plan["block"])
    merge(folder, [number for number, *_ in parts[block]], "cohort.csv", f"block_{block}.csv")
    if block == len(parts) - 1:  # the set is complete
        for name in TABLES:
            merge(folder, [number for part in parts for number, *_ in part], name, name)
        if not patients.tested:
            whole = patients.name == FULL
            parts_of = plan["learning_curve"] if whole else []
            training_tables(folder, parts_of, plan["permutations"] if whole else 0)
        (folder / "complete").touch()
    return cache


def scoring_step(out: Path, model: Model, seed: int, test: str, block: int, cache: Path) -> Step:
    """Return the step that scores one block of a set with one network."""
    folder, name = out / "models" / model.name / f"seed_{seed}", f"{test}/block_{block}"
    table = out / "sets" / test / f"block_{block}.csv"
    settings = {"weights": folder / "model.pt", "table": table, "cache": cache}
    score = f"score/{model.name}/seed_{seed}/{name}"
    return Step(score, score_set, {"folder": folder / name, **settings})


def model_chains(out: Path, plan: dict[str, Any], stages: tuple[str, ...]) -> list[list[Step]]:
    """List, for each model and seed, its training and its scoring of the sets that are kept.

    A model is scored as soon as it is trained, so that a run cut short has its first rows.
    """
    kept = {patients.name for patients in patient_sets(plan) if patients.kept}
    chains = []
    for model in models(plan):
        for seed in model.seeds:
            training = {
                "folder": out / "models" / model.name / f"seed_{seed}",
                "table": out / "sets" / model.training_set / f"{model.train_on}.csv",
                "overlays": model.overlays,
                "seed": seed,
                "folds": plan["folds"],
                "epochs": plan["epochs"],
                "longer": model.longer,
                "cache": out / "crops",
            }
            chain = [Step(f"train/{model.name}/seed_{seed}", train_model, training)]
            for test in kept.intersection(model.test_on):
                chain.append(scoring_step(out, model, seed, test, 0, out / "crops"))
            chains.append([step for step in chain if step.name.split("/")[0] in stages])
    return chains


def stream(out: Path, plan: dict[str, Any], only: tuple[str, ...], workers: int) -> None:
    """Score the sets that are not kept, block by block; a block's crops go when all is scored."""
    for patients in patient_sets(plan):
        if patients.kept:
            continue
        for block in range(len(blocks(patients, plan["chunk"], plan["block"]))):
            cache = out / f"crops_{patients.name}_{block}"
            steps = [
                scoring_step(out, model, seed, patients.name, block, cache)
                for model in models(plan)
                if patients.name in model.test_on
                for seed in model.seeds
            ]
            steps = [step for step in chosen_steps(steps, only) if not is_recorded(out, step)]
            if not steps:
                shutil.rmtree(
                    cache, ignore_errors=True
                )  # of a run that was killed at this very line
                continue
            make_block(out, plan, patients, block, workers)
            run_steps(out, [[step] for step in steps], (), workers)
            shutil.rmtree(cache)


def clinical_chains(out: Path, plan: dict[str, Any]) -> list[list[Step]]:
    """List the fits of models without a network: by size, and once a complete set to score."""
    settings = {"folder": out / "clinical" / "curve", "signal": plan["signal"]}
    settings |= {"sizes": plan["clinical_sets"], "tested": plan["clinical_tested"]}
    curve = Step("clinical/curve", fit_by_size, {**settings, "draws": plan["draws"]})
    return [[curve]] + [
        [
            Step(
                f"clinical/{patients.name}",
                clinical_scores,
                {
                    "folder": out / "clinical" / patients.name,
                    "training": out / "sets" / FULL,
                    "test": out / "sets" / patients.name,
                    "seed": 0,
                },
            )
        ]
        for patients in patient_sets(plan)
        if patients.tested
        and not patients.name.startswith(NO_MUSCLE)
        and (out / "sets" / patients.name / "complete").is_file()
    ]


def run(
    out: Path,
    size: str,
    stages: tuple[str, ...] = STAGES,
    only: tuple[str, ...] = (),
    workers: int = 1,
    results: Path | None = None,
) -> None:
    """Run the chosen stages; see the module's text."""
    out, plan = out.resolve(), read_plan(size)
    with only_run_in(out):
        same_study(out, {"size": size, "plan": plan})
        if "hospitals" in stages:
            for patients in patient_sets(plan):
                if patients.kept:
                    make_block(out, plan, patients, 0, workers)
        run_steps(out, model_chains(out, plan, stages), only, workers)
        if "stream" in stages:
            stream(out, plan, only, workers)
        if "clinical" in stages:
            run_steps(out, clinical_chains(out, plan), only, workers)
        if "saliency" in stages:
            from saliency import saliency_steps

            run_steps(out, [[step] for step in saliency_steps(out, plan)], only, workers)
        if "results" in stages:
            from ablations import summarise as ablations
            from clinical_curve import summarise as curve
            from results import write_results
            from saliency import summarise as saliency

            folder = results or out / "results"
            saliency(out, folder)
            curve(out, folder)
            write_results(out, plan, folder)
            ablations(out, plan, folder)
        if "report" in stages:
            from report import write_report

            write_report(results or out / "results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("--size", default="cpu", help="of plan.yaml: cpu, gpu or toy")
    parser.add_argument("--steps", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--only", nargs="+", default=(), help="patterns of steps, such as train/b*")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, help="folder for tables and report")
    args = parser.parse_args()
    run(args.out, args.size, tuple(args.steps), tuple(args.only), args.workers, args.results)


if __name__ == "__main__":
    main()
