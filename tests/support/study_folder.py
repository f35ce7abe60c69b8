"""A study's folder as ``vfx study`` leaves it, small and quick: numbers from real computations.

Patients are drawn from a latent risk; scores are that risk seen through more or less noise. What
takes training (weights, heat maps) is stood in for by files of the same form.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from monai_vfx.analysis.cohort.baseline_tables import baseline_table
from monai_vfx.analysis.cohort.figures import flow_figure, love_plot
from monai_vfx.analysis.cohort.flow import Eligibility, select_eligible
from monai_vfx.analysis.evaluation.summary import evaluate_scores
from monai_vfx.analysis.evaluation.thresholds import choose_thresholds
from monai_vfx.core.files import write_json
from monai_vfx.outputs.report.figures import save_figure
from monai_vfx.outputs.report.slice_montage import png

STRENGTHS = {
    "image_bone": 0.8,
    "image_bone_muscle": 1.2,
    "clinical_A": 0.5,
    "clinical_B": 0.5,
    "clinical_C": 0.65,
    "clinical_D": 0.65,
    "logistic_A": 0.55,
    "imaging_baseline": 0.8,
    "frax_major": 0.4,
    "frax_hip": 0.3,
    "fusion_A": 1.15,
    "late_fusion_A": 1.2,
    "matched_only": 0.0,
    "image_hazard": 1.1,
    "risk_image_bone_muscle": 1.2,
}
CONFIG = {
    "image_class": "bone_muscle",
    "crop_size": [96, 144],
    "pixel_mm": 1.0,
    "posterior_mm": 24.0,
    "masked": False,
    "window_hu": [-200.0, 1000.0],
    "slices": 14,
    "min_area": 0.25,
    "include_discs": False,
    "backbone": "resnext50_32x4d",
    "attention": "pc",
    "attention_layers": ["layer2", "layer3"],
    "include_global": False,
    "decoder": "gru",
    "rnn_hidden": 256,
    "bidirectional": False,
    "slice_pooling": "last",
    "dropout": 0.5,
}


def build_study(root: Path, *, external: bool = True, seed: int = 5, signal: float = 1.0) -> Path:
    """Write a study's folder and return it.

    Args:
        root: the folder, made if missing.
        external: whether there is an external set.
        seed: of all draws.
        signal: how strongly scores follow the risk; 0 makes them noise.
    """
    rng = np.random.default_rng(seed)
    sides = {"development": predictions(rng, 240, 0.0, signal)}
    if external:
        sides["external"] = predictions(rng, 200, -1.9, signal)
    write_json(root / "study.json", about(external))
    thresholds = frozen_thresholds(sides["development"])
    for side, frame in sides.items():
        _write_side(root, side, frame, thresholds)
    _write_csv(root / "predictions" / "thresholds.csv", thresholds)
    _write_models(root)
    _write_rest(root, sides["development"])
    _write_pictures(root, sides)
    return root


def about(external: bool) -> dict[str, object]:
    """Return ``study.json``."""
    return {
        "name": "Two simulated hospitals",
        "seed": 7,
        "simulated": True,
        "settings": {
            "name": "Two simulated hospitals",
            "development": {"table": None, "simulate": {"hospital": "registry", "patients": 240}},
            "external": {"table": None, "simulate": {"hospital": "external", "patients": 200}}
            if external
            else None,
            "seed": 7,
            "folds": 5,
            "eligibility": {
                "min_age": 50,
                "max_age": 80,
                "min_follow_up_years": 1.0,
                "exclude_baseline_fracture": True,
                "exclude_spinal_surgery": True,
                "first_scan_only": True,
                "need_image_quality": True,
            },
            "matching": {
                "method": "propensity",
                "ratio": 1,
                "caliper": 0.2,
                "replacement": False,
                "variables": ["age", "sex", "bmi", "scan_year", "follow_up_years"],
                "age_tolerance_years": 2.0,
                "year_tolerance": 1,
            },
            "clinical": ["A", "B", "C", "D"],
            "images": {"main": "bone_muscle", "fusion": ["A"], "hazard": True},
            "subgroups": ["sex", "scanner"],
            "bootstrap": 200,
        },
        "steps": [{"name": "cohort/development", "seconds": 1.2, "status": "done"}],
        "versions": {"monai_vfx": "0.1.0", "numpy": np.__version__},
    }


def predictions(rng: np.random.Generator, n: int, intercept: float, signal: float) -> pd.DataFrame:
    """Return a table of contract form: outcome, times, scores, and columns for subgroups."""
    latent = rng.normal(size=n)
    fracture = rng.uniform(size=n) < expit(intercept + 1.3 * latent)
    time = np.where(fracture, rng.uniform(0.2, 5.0, n), rng.uniform(3.0, 8.0, n))
    death = ~fracture & (rng.uniform(size=n) < 0.1)
    frame = pd.DataFrame(
        {
            "case_id": [f"case_{k}" for k in range(n)],
            "patient_id": [f"patient_{k}" for k in range(n)],
            "fold": np.arange(n) % 5 if intercept == 0 else np.nan,
            "fracture": fracture.astype(int),
            "time_years": time.round(3),
            "event": np.where(fracture, 1, np.where(death, 2, 0)),
            "sex": rng.choice(["F", "M"], n, p=[0.7, 0.3]),
            "scanner": rng.choice(["Scanner A", "Scanner B", "Scanner C"], n, p=[0.6, 0.38, 0.02]),
        }
    )
    for name, strength in STRENGTHS.items():
        noise = rng.normal(size=n)
        frame[name] = expit(intercept + signal * strength * latent + 0.8 * noise).round(5)
    frame[["frax_major", "frax_hip"]] *= 100
    frame.loc[3, "image_bone_muscle"] = np.nan
    return frame


def frozen_thresholds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``thresholds.csv``: by fold from the next fold, and frozen for the external set."""
    rows = []
    for score in STRENGTHS:
        for fold in [*range(5), "frozen"]:
            part = frame if fold == "frozen" else frame[frame["fold"] == (int(fold) + 1) % 5]
            part = part.dropna(subset=[score])
            chosen = choose_thresholds(
                part["fracture"], part[score], ("youden", "sensitivity_0.80")
            )
            rows += [
                {
                    "score": score,
                    "fold": str(fold),
                    "rule": found.rule,
                    "threshold": found.threshold,
                    "chosen_on": "development out-of-fold"
                    if fold == "frozen"
                    else "validation fold",
                    "n": found.n,
                    "events": found.events,
                }
                for found in chosen
            ]
    return pd.DataFrame(rows)


def _write_side(root: Path, side: str, frame: pd.DataFrame, thresholds: pd.DataFrame) -> None:
    _write_csv(root / "predictions" / f"{side}.csv", frame)
    document = evaluate_scores(
        frame if side == "development" else frame.drop(columns="fold"),
        "fracture",
        list(STRENGTHS),
        thresholds=thresholds,
        subgroups=("sex", "scanner"),
        adjust_for=("sex",),
        time="time_years",
        event="event",
        risk_scores=("risk_image_bone_muscle",),
        comparisons=[("image_bone_muscle", s) for s in STRENGTHS if s != "image_bone_muscle"],
        bootstrap=100,
    )
    write_json(root / "evaluation" / side / "evaluation.json", document)
    _, flow = select_eligible(_before_eligibility(frame), Eligibility())
    write_json(root / "cohort" / side / "flow.json", flow.to_json())


def _before_eligibility(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the patients of a set with 12 more who are too young."""
    young = [f"young_{k}" for k in range(12)]
    return pd.DataFrame(
        {
            "case_id": [*frame["case_id"], *young],
            "patient_id": [*frame["patient_id"], *young],
            "fracture": [*frame["fracture"], *[0] * 12],
            "age": [70.0] * len(frame) + [41.0] * 12,
            "follow_up_years": 4.0,
            "baseline_fracture": 0,
            "spinal_surgery": 0,
            "image_adequate": 1,
        }
    )


def _write_models(root: Path) -> None:
    for name in ("bone", "bone_muscle", "fusion_A", "hazard"):
        small = {"image_class": "bone", "crop_size": [96, 96], "posterior_mm": 0.0, "masked": True}
        sidecar = {
            "bundle": "vertebral_fracture_risk_ct_classification",
            "version": "0.1.0",
            "weights_sha256": "ab" * 32,
            "image_class": "bone" if name == "bone" else "bone_muscle",
            "config": {**CONFIG, **(small if name == "bone" else {})},
            "training": {
                "learning_rate": 1e-05,
                "batch_size": 128,
                "micro_batch": 8,
                "max_epochs": 50,
                "pretrained": "imagenet",
                "seed": 7,
            },
            "trained_on": {"cohort_sha256": "cd" * 32, "patients": 144, "fractures": 72},
            "validation": {"epoch": 9, "auroc": 0.75, "patients": 48, "fractures": 24},
            "simulated": True,
            "calibration": None,
        }
        write_json(root / "image" / name / "fold_0" / "model.json", sidecar)


def _write_pictures(root: Path, sides: dict[str, pd.DataFrame]) -> None:
    """Write the figures that jobs draw; heat maps as plain ramps."""
    for side in sides:
        flow = json.loads((root / "cohort" / side / "flow.json").read_text())
        save_figure(flow_figure(flow), root / "cohort" / side / "figures" / "flow")
    balance = pd.read_csv(root / "cohort" / "development" / "balance.csv")
    save_figure(love_plot(balance), root / "cohort" / "development" / "figures" / "love")
    (root / "gallery").mkdir()
    ramp = np.tile(np.linspace(0, 255, 420).astype(np.uint8), (150, 1))
    (root / "gallery" / "inputs.png").write_bytes(png(ramp))
    entries = []
    for number, fracture in ((4, 1), (17, 0)):
        (root / "gallery" / f"case_{number}.png").write_bytes(png(ramp))
        entries.append(
            {
                "set": "development",
                "case_number": number,
                "fracture": fracture,
                "score": 0.71,
                "png": f"case_{number}.png",
                "alt": f"Heat of the bone-only and the bone + muscle network on case {number}",
            }
        )
    write_json(root / "gallery/gallery.json", {"pictures": entries, "inputs": "inputs.png"})


def _write_rest(root: Path, frame: pd.DataFrame) -> None:
    people = frame[["fracture", "sex"]].assign(age=70 + 8 * frame["image_bone"])
    (root / "cohort" / "development").mkdir(parents=True, exist_ok=True)
    for path, by in (("table1.csv", "hospital"), ("development/table2.csv", "fracture")):
        side = np.where(frame["scanner"] == "Scanner A", "development", "external")
        grouped = people.assign(hospital=side)
        variables = [name for name in ("age", "sex") if name != by]
        baseline_table(grouped, by, variables).to_csv(root / "cohort" / path, index=False)
    balance = pd.DataFrame(
        {
            "variable": ["age", "sex"],
            "level": ["", ""],
            "label": ["Age, years", "Sex: female"],
            **{
                f"{part}_{when}": [1.0, 0.7]
                for when in ("before", "after")
                for part in ("n", "missing", "cases", "others", "smd", "variance_ratio")
            },
        }
    )
    _write_csv(root / "cohort" / "development" / "balance.csv", balance)
    spread = pd.DataFrame(
        {
            "score": ["image_bone", "image_bone_muscle"] * 3,
            "seed": [7, 7, 8, 8, 9, 9],
            "auroc": [0.70, 0.77, 0.69, 0.78, 0.71, 0.76],
        }
    )
    _write_csv(root / "seeds" / "spread.csv", spread)
    refused = [("case_3", "level_missing", "L4 has no voxel in the mask")]
    columns = ["case_id", "code", "message"]
    _write_csv(root / "imaging/development_refused.csv", pd.DataFrame(refused, columns=columns))
    _write_csv(root / "imaging/external_refused.csv", pd.DataFrame([], columns=columns))
    line = {**dict(zip(columns, refused[0], strict=True)), "remedy": "Give a whole mask."}
    folder = root / "image" / "bone_muscle" / "fold_0" / "test"
    folder.mkdir()
    (folder / "refused.jsonl").write_text(json.dumps(line) + "\n")
    checks = [
        {"name": "patients in one fold", "passed": True, "detail": f"{len(frame)} patients"},
        {"name": "standardiser", "passed": True, "detail": "fusion_A, fold 0"},
        {"name": "standardiser", "passed": True, "detail": "fusion_A, fold 1"},
    ]
    write_json(root / "audit" / "leakage.json", {"passed": True, "checks": checks})
    offset = {"name": "age", "centre": 70.0, "scale": 8.0, "knots": None}
    fitted = {
        "kind": "matched_controls",
        "terms": [offset],
        "coefficients": [-3.1, 0.97, 0.2],
        "covariance": [[0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]],
        "n": 239,
        "events": 115,
        "missing": 1,
        "population_n": 3000,
        "population_events": 120,
        "offset": [-4.0, -3.2, -2.5],
        "refitted": None,
    }
    folder = root / "calibration"
    document = {**fitted, "score": "image_bone_muscle", "simulated": True}
    write_json(folder / "calibration.json", document)
    sets = {"no fracture": 120, "fracture": 11, "no fracture or fracture": 69}
    conformal = {
        "score": "image_bone_muscle",
        "confidence": 0.9,
        "n": 200,
        "events": 30,
        "sets": sets,
        "coverage": {"no fracture": 0.91, "fracture": None},
        "fitted": {"scores": []},
    }
    write_json(folder / "conformal.json", conformal)
    outliers = {"quantile": 0.99, "training_n": [144] * 5, "n": 200, "flagged": 7}
    write_json(folder / "outliers.json", outliers)


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
