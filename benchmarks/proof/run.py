r"""The experiment: two simulated hospitals with a known answer, and all models of the study.

    python benchmarks/proof/run.py OUT --size cpu --workers 2
    python benchmarks/proof/run.py OUT --size cpu --only 'train/bone_muscle/*'
    python benchmarks/proof/run.py OUT --steps results report --results benchmarks/proof/results

Killed at any moment it goes on where it was: every chunk of patients, training and scoring is a
step with a record in ``OUT/steps``. Sizes are in ``plan.yaml``, hours in ``README.md``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from hospitals import chunks, make_chunk, merge, training_tables
from jobs import Step, clinical_scores, run_steps, score_set, train_model
from plan import FULL, NO_MUSCLE, Model, models, overlays_of, patient_sets, read_plan

from monai_vfx.results import write_json
from monai_vfx.study.steps import alone_in, same_study

STAGES = ("hospitals", "clinical", "train", "score", "saliency", "results", "report")


def hospital_steps(out: Path, plan: dict[str, Any]) -> list[Step]:
    """List the chunks of all sets."""
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
                "cache": out / "crops",
                "keep": patients.name == FULL,  # ablations train on other chains
            },
        )
        for patients in patient_sets(plan)
        for number, count, seed in chunks(patients, plan["chunk"])
    ]


def merge_sets(out: Path, plan: dict[str, Any]) -> None:
    """Join the chunks of each set that is complete, unless that was done."""
    for patients in patient_sets(plan):
        folder, parts = out / "sets" / patients.name, chunks(patients, plan["chunk"])
        whole = all((folder / f"chunk_{n:03d}" / "chunk.json").is_file() for n, *_ in parts)
        if whole and not (folder / "merged.json").is_file():
            merge(folder, len(parts))
            if not patients.tested:
                training_tables(folder, plan["learning_curve"] if patients.name == FULL else [])
            write_json(folder / "merged.json", {"chunks": len(parts)})


def clinical_steps(out: Path, plan: dict[str, Any]) -> list[Step]:
    """List the fits of models without a network: one step."""
    tests = {
        patients.name: out / "sets" / patients.name
        for patients in patient_sets(plan)
        if patients.tested and not patients.name.startswith(NO_MUSCLE)
    }
    settings = {"training": out / "sets" / FULL, "tests": tests, "seed": 0}
    return [Step("clinical", clinical_scores, {"folder": out / "clinical", **settings})]


def model_chains(
    out: Path, plan: dict[str, Any], found: list[Model], stages: tuple[str, ...] = STAGES
) -> list[list[Step]]:
    """List, for each model and seed, its training and then its scoring of each set.

    A model is scored as soon as it is trained, so that a run cut short has its first rows.
    """
    chains = []
    for model in found:
        for seed in model.seeds:
            folder = out / "models" / model.name / f"seed_{seed}"
            sets, cache = out / "sets", out / "crops"
            training = {
                "folder": folder,
                "table": sets / model.training_set / f"{model.train_on}.csv",
                "overlays": model.overlays,
                "seed": seed,
                "folds": plan["folds"],
                "epochs": plan["epochs"],
                "cache": cache,
            }
            chain = [Step(f"train/{model.name}/seed_{seed}", train_model, training)]
            for test in model.test_on:
                scoring = {"folder": folder / test, "weights": folder / "model.pt"}
                scoring |= {"table": sets / test / "cohort.csv", "cache": cache}
                chain.append(Step(f"score/{model.name}/seed_{seed}/{test}", score_set, scoring))
            chains.append([step for step in chain if step.name.split("/")[0] in stages])
    return chains


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
    with alone_in(out):
        same_study(out, {"size": size, "plan": plan})
        if "hospitals" in stages:
            chains = [[step] for step in hospital_steps(out, plan)]
            run_steps(out, chains, only, workers)
            merge_sets(out, plan)
        if "clinical" in stages:
            run_steps(out, [clinical_steps(out, plan)], only, 1)
        run_steps(out, model_chains(out, plan, models(plan), stages), only, workers)
        if "saliency" in stages:
            from saliency import saliency_steps

            run_steps(out, [saliency_steps(out, plan)], only, workers)
        if "results" in stages:
            from ablations import summarise as ablations
            from results import write_results
            from saliency import summarise as saliency

            folder = results or out / "results"
            write_results(out, plan, folder)
            saliency(out, folder)
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
