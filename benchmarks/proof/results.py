"""From scores to the tables of the experiment, all by the package's own evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from claims import claims
from plan import NO_MUSCLE, Model, PatientSet, models, patient_sets

from monai_vfx.analysis.clinical.crossfit import threshold_rows
from monai_vfx.analysis.evaluation.bootstrap import (
    auroc_samples,
    draw_counts,
    percentile_interval,
)
from monai_vfx.analysis.evaluation.discrimination import auroc
from monai_vfx.analysis.evaluation.summary import evaluate_scores
from monai_vfx.core.files import write_json
from monai_vfx.simulation.attainable import best_scores

MAIN, OTHER = "bone_muscle", "bone"
FRAX = ("frax_major", "frax_hip")
SEES = {
    **{
        f"{kind}_{letter}": f"clinical_{letter}"
        for kind in ("clinical", "logistic")
        for letter in "ABCD"
    },
    "imaging_baseline": "image_bone_muscle",
}
"""Score without a network → class of models whose attainable AUROC it is held against."""


def write_results(out: Path, plan: dict[str, Any], results: Path) -> None:
    """Write all tables of what is there so far.

    Args:
        out: folder of the run.
        plan: of its size.
        results: folder, with ``saliency.csv`` and ``clinical_curve.csv`` where these were
            measured, for ``claims.csv``,
            ``aurocs.csv`` (a row a model and set), ``seeds.csv`` (a row a training
            and set), ``pairs.csv`` (DeLong and McNemar), ``points.csv`` (accuracy, sensitivity,
            specificity at the frozen threshold), ``learning_curve.csv``, ``steps.csv`` (seconds).
    """
    results.mkdir(parents=True, exist_ok=True)
    found = models(plan)
    rows: list[dict[str, Any]] = []
    seeds: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    for patients in patient_sets(plan):
        folder = out / "sets" / patients.name
        if not patients.tested or not (folder / "complete").is_file():
            continue
        table = pd.read_csv(folder / "cohort.csv", dtype={"case_id": str})
        scores, single, sees = collect(out, found, patients.name, table)
        ideal = ideal_scores(folder, patients, sorted(set(sees.values())), plan["draws"])
        for (name, seed), score in single.items():
            seeds.append(
                {"set": patients.name, "model": name, "seed": seed} | measured(table, score)
            )
        for name in scores:
            row = {"set": patients.name, "model": name} | measured(table, table[name])
            if name in sees:
                row |= share(table, name, ideal[sees[name]], plan["bootstrap"])
            rows.append(row)
        if scores:
            document = compare(out, found, table, scores, patients.name.startswith(NO_MUSCLE))
            write_json(results / f"evaluation_{patients.name}.json", document)
            pairs += list(pair_rows(patients.name, document))
            points += list(point_rows(patients.name, document))
    for name, content in {"aurocs": rows, "seeds": seeds, "pairs": pairs, "points": points}.items():
        pd.DataFrame(content).to_csv(results / f"{name}.csv", index=False, float_format="%.5g")
    learning_curve(plan, pd.DataFrame(rows), pd.DataFrame(seeds)).to_csv(
        results / "learning_curve.csv", index=False, float_format="%.5g"
    )
    maps = results / "saliency.csv"
    tables = [pd.DataFrame(content) for content in (rows, pairs)]
    for path in (maps, results / "clinical_curve.csv"):
        tables.append(pd.read_csv(path) if path.is_file() else pd.DataFrame())
    pd.DataFrame(claims(*tables)).to_csv(results / "claims.csv", index=False)
    step_seconds(out).to_csv(results / "steps.csv", index=False)
    write_json(results / "run.json", {"plan": plan})


def ideal_scores(
    folder: Path, patients: PatientSet, classes: list[str], draws: int
) -> pd.DataFrame:
    """Return what the best model of each class would score each patient of a set.

    With it the attainable AUROC is that of the very patients a model is tested on, so that their
    chance is shared.
    """
    table, truth = (
        pd.read_csv(folder / name, dtype={"case_id": str}) for name in ("cohort.csv", "truth.csv")
    )
    known = table.merge(truth, on="case_id", how="left", validate="1:1")
    return best_scores(known, patients.hospital, patients.signal, count=draws, classes=classes)


def collect(
    out: Path, found: list[Model], test: str, table: pd.DataFrame
) -> tuple[list[str], dict[tuple[str, int], pd.Series[float]], dict[str, str]]:
    """Add every score of a set as a column of its table.

    A model's score is the mean over its seeds, those that are there.

    Returns:
        Names of the columns, each training's own score by (model, seed), and by score the class of
        models it is held against.
    """
    names: list[str] = []
    sees: dict[str, str] = {}
    single: dict[tuple[str, int], pd.Series[float]] = {}
    for model in found:
        folder = out / "models" / model.name
        parts = []
        for seed in model.seeds:
            paths = sorted((folder / f"seed_{seed}" / test).glob("block_*/predictions.csv"))
            if paths:
                blocks = [pd.read_csv(path, dtype={"case_id": str}) for path in paths]
                scored = pd.concat(blocks).set_index("case_id")["score"]
                parts.append(scored.reindex(table["case_id"]).reset_index(drop=True))
                single[model.name, seed] = parts[-1]
        if parts:
            name = model.name.removeprefix(f"{NO_MUSCLE}_")
            table[name] = np.mean(parts, axis=0)
            names.append(name)
            if model.sees:
                sees[name] = model.sees
    path = out / "clinical" / test / "scores.csv"
    if path.is_file():
        others = (
            pd.read_csv(path, dtype={"case_id": str}).set_index("case_id").loc[table["case_id"]]
        )
        for name in others:
            table[name] = others[name].to_numpy()
            names.append(str(name))
            if name in SEES:
                sees[str(name)] = SEES[str(name)]
        names += [name for name in FRAX if name in table]
    return names, single, sees


def measured(table: pd.DataFrame, score: pd.Series[float]) -> dict[str, Any]:
    """Return n, events, AUROC with error and interval (DeLong) and the score's SD where known."""
    known = score.notna().to_numpy()
    found = auroc(table["fracture"].to_numpy()[known], score.to_numpy()[known])
    return {
        "n": found.n,
        "events": found.events,
        "auroc": found.value,
        "se": found.variance**0.5,
        "ci_low": found.low,
        "ci_high": found.high,
        "score_sd": float(score[known].std()),
    }


def share(table: pd.DataFrame, name: str, ideal: pd.Series[float], samples: int) -> dict[str, Any]:
    """Return what was attainable, and which share of its excess over 0.5 was reached.

    The interval is a bootstrap over patients, who count in both AUROCs.

    Args:
        table: patients with ``fracture`` and the score.
        name: of the score.
        ideal: (n,) the score of the best model of its class.
        samples: of the bootstrap.
    """
    known = table[name].notna().to_numpy()
    y, score = table["fracture"].to_numpy()[known], table[name].to_numpy(float)[known]
    perfect = ideal.to_numpy(float)[known]
    own, best = auroc(y, score), auroc(y, perfect)
    counts = draw_counts(y, samples=samples)
    excess = auroc_samples(y, perfect, counts) - 0.5
    drawn = auroc_samples(y, score, counts) - 0.5
    real = excess > 0  # of a dozen patients some draws show no signal at all
    low, high = percentile_interval(drawn[real] / excess[real])
    return {
        "attainable": best.value,
        "attainable_se": best.variance**0.5,
        "share": (own.value - 0.5) / (best.value - 0.5),
        "share_low": low,
        "share_high": high,
    }


def compare(
    out: Path, found: list[Model], table: pd.DataFrame, scores: list[str], no_muscle: bool
) -> dict[str, Any]:
    """Evaluate a set's scores at frozen thresholds, and the pairs that the claims are about."""
    wanted = [(MAIN, OTHER), (MAIN, "clinical_D"), (OTHER, "clinical_D"), (MAIN, "permuted")]
    wanted += [(MAIN, name) for name in scores if name.startswith(("clinical_", "fusion_"))]
    wanted += [(MAIN, name) for name in (*FRAX, "imaging_baseline")]
    there = [pair for pair in dict.fromkeys(wanted) if set(pair) <= set(scores)]
    prefix = f"{NO_MUSCLE}_" if no_muscle else ""
    return evaluate_scores(
        table[["case_id", "fracture", *scores]],
        "fracture",
        scores,
        thresholds=frozen_thresholds(out, found, prefix),
        comparisons=there,
        bootstrap=200,
    )


def frozen_thresholds(out: Path, found: list[Model], prefix: str) -> pd.DataFrame | None:
    """Return the thresholds that no tested patient had a part in.

    A network's come from the validation folds of all its seeds, pooled, a clinical model's from
    its inner folds.
    """
    parts = []
    for model in found:
        if model.name.startswith(NO_MUSCLE) != bool(prefix):
            continue
        folder = out / "models" / model.name
        paths = [folder / f"seed_{seed}" / "validation" / "predictions.csv" for seed in model.seeds]
        held = [pd.read_csv(path) for path in paths if path.is_file()]
        if held:
            pooled, name = pd.concat(held), model.name.removeprefix(prefix)
            parts.append(
                threshold_rows(name, "frozen", pooled["label"], pooled["score"], "validation folds")
            )
    paths = sorted((out / "clinical").glob("*/thresholds.csv"))  # the same fits for every set
    if paths and not prefix:
        parts.append(pd.read_csv(paths[0]))
    return pd.concat(parts, ignore_index=True) if parts else None


def pair_rows(test: str, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the comparisons of an evaluation as rows."""
    for entry in document["comparisons"]:
        plain = {k: v for k, v in entry.items() if not isinstance(v, dict | list)}
        for key, value in entry.items():
            if isinstance(value, list) and len(value) == 2:
                plain |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        yield {"set": test} | plain


def point_rows(test: str, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield accuracy, sensitivity and specificity of each score and rule as rows."""
    for name, entry in document["scores"].items():
        for point in entry["operating_points"]:
            row = {"set": test, "model": name, "rule": point["rule"]}
            row["chosen_on"] = point["chosen_on"]
            for quantity in ("accuracy", "sensitivity", "specificity"):
                share_of = point[quantity]
                row |= {quantity: share_of["value"]}
                row |= {f"{quantity}_low": share_of["ci"][0], f"{quantity}_high": share_of["ci"][1]}
            yield row


def learning_curve(plan: dict[str, Any], rows: pd.DataFrame, seeds: pd.DataFrame) -> pd.DataFrame:
    """Return AUROCs on the held-out set by number of training patients.

    Those of the mean of the seeds' scores, and beside them the least and greatest of one seed.
    """
    columns = ["image", "patients", "n", "auroc", "se", "ci_low", "ci_high", "attainable", "share"]
    columns += ["min_seed", "max_seed"]
    if rows.empty or seeds.empty:
        return pd.DataFrame(columns=columns)
    full = int(plan["hospitals"]["development"])
    found = []
    for image in (OTHER, MAIN):
        for count in (*plan["learning_curve"], full):
            name = image if count == full else f"{image}_of_{count}"
            mean, single = (
                frame[(frame["set"] == "held_out") & (frame["model"] == name)]
                for frame in (rows, seeds)
            )
            if mean.empty:
                continue
            one = mean.iloc[0].to_dict() | {"image": image, "patients": count}
            one |= {"min_seed": single["auroc"].min(), "max_seed": single["auroc"].max()}
            found.append(one)
    return pd.DataFrame(found, columns=columns)


def step_seconds(out: Path) -> pd.DataFrame:
    """Return the seconds of each step that is done."""
    records = [json.loads(p.read_text()) for p in sorted((out / "steps").glob("*.json"))]
    rows = [{"step": r["name"], "seconds": r["seconds"]} for r in records if "seconds" in r]
    return pd.DataFrame(rows, columns=["step", "seconds"])
