"""What automatic masks do to the risk score: a hospital scored with its true masks and with ours.

    vfx simulate hospital --patients 60 --format nifti
    python -m benchmarks.segmentation.risk hospital/cohort.csv --risk-weights model.pt --out risk

Segments every CT of the table (masks are kept in OUT, so a stopped run resumes), scores the
accepted ones twice through ``vfx evaluate``, and compares: differences of the score, correlation,
AUROC of both on the same patients with DeLong's test where both outcomes are there.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr
from tqdm import tqdm

from benchmarks.segmentation.assessment import body_agreement, names_right
from monai_vfx.analysis.evaluation.discrimination import delong_test
from monai_vfx.case.mask.load import load_masks
from monai_vfx.core.anatomy import LEVELS, VERTEBRAE
from monai_vfx.core.errors import CaseRefused
from monai_vfx.core.files import write_json
from monai_vfx.io.volume import open_volume
from monai_vfx.vertebrae.segmentation.locate import segment
from monai_vfx.workflows.train import evaluate

LIMITS = (0.01, 0.02, 0.05, 0.1)
"""Differences of the score that are counted."""


def make_mask(image: Path, given: Path, weights: Path | None, target: Path) -> dict[str, Any]:
    """Segment one CT, write its mask and return how it fits the given one."""
    volume = open_volume(image)
    try:
        found = segment(volume, weights=weights)
    except CaseRefused as refusal:
        return {"outcome": refusal.code}
    truth = load_masks(given, volume.shape, volume.affine).labels
    values = {level: VERTEBRAE[level] for level in LEVELS}
    agreed = body_agreement(truth, found.labels, volume.affine, values)
    partial = target.with_name(f"partial_{target.name}")
    nib.save(nib.Nifti1Image(found.labels, volume.affine), partial)
    partial.replace(target)
    return {
        "outcome": "accepted",
        "confidence": round(found.confidence, 5),
        "names_right": int(names_right(truth, found.labels, list(values.values()))),
        "dice": round(float(np.mean([agreed[level].dice for level in LEVELS])), 4),
        "seconds": round(found.seconds["total"], 2),
    }


def make_masks(table: Path, weights: Path | None, out: Path, most: int | None) -> pd.DataFrame:
    """Return one row a case; what is in ``OUT/masks.jsonl`` already is not done again."""
    cases = pd.read_csv(table, dtype={"case_id": str}).head(most)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    record = out / "masks.jsonl"
    done = {}
    if record.is_file():
        lines = record.read_text(encoding="utf-8").splitlines()
        done = {row["case_id"]: row for row in map(json.loads, lines)}
    with record.open("a", encoding="utf-8") as file:
        for _, row in tqdm(cases.iterrows(), "segment", len(cases), mininterval=10):
            if row["case_id"] in done:
                continue
            image, given = table.parent / row["image"], table.parent / row["mask"]
            target = out / "masks" / f"{row['case_id']}.nii.gz"
            done[row["case_id"]] = {
                "case_id": row["case_id"],
                **make_mask(image, given, weights, target),
            }
            file.write(json.dumps(done[row["case_id"]]) + "\n")
            file.flush()
    return pd.DataFrame([done[case] for case in cases["case_id"]])


def score_both(table: Path, made: pd.DataFrame, risk_weights: Path, out: Path) -> pd.DataFrame:
    """Return ``case_id``, ``label``, and both scores of the accepted cases."""
    cases = pd.read_csv(table, dtype=str, keep_default_na=False)
    accepted = made.loc[made["outcome"] == "accepted", "case_id"]
    cases = cases[cases["case_id"].isin(accepted)]
    cases["image"] = [str((table.parent / name).resolve()) for name in cases["image"]]
    masks = {
        "given": [str((table.parent / name).resolve()) for name in cases["mask"]],
        "auto": [str((out / "masks" / f"{case}.nii.gz").resolve()) for case in cases["case_id"]],
    }
    scored = []
    for name, paths in masks.items():
        cohort = out / f"cohort_{name}.csv"
        cases.assign(mask=paths).to_csv(cohort, index=False, quoting=csv.QUOTE_MINIMAL)
        evaluate(cohort, weights=risk_weights, out=out / name)
        predictions = pd.read_csv(out / name / "predictions.csv", dtype={"case_id": str})
        scored.append(predictions.set_index("case_id")[["label", "score"]])
    both = scored[0].join(scored[1]["score"].rename("auto"), how="inner")
    return both.rename(columns={"score": "given"}).reset_index()


def summarise(made: pd.DataFrame, both: pd.DataFrame) -> dict[str, Any]:
    """Return the comparison in numbers."""
    apart = both["auto"] - both["given"]
    facts: dict[str, Any] = {
        "cases": len(made),
        "outcomes": made["outcome"].value_counts().to_dict(),
        "scored_with_both": len(both),
        "mean_difference": float(apart.mean()),
        "sd_difference": float(apart.std()),
        "mean_absolute_difference": float(apart.abs().mean()),
        "largest_absolute_difference": float(apart.abs().max()),
        "share_within": {str(limit): float((apart.abs() <= limit).mean()) for limit in LIMITS},
        "sd_of_given": float(both["given"].std()),
    }
    if "dice" in made:
        facts["mean_dice"] = float(made["dice"].mean())
        facts["names_right"] = int(made["names_right"].sum())
    if len(both) > 2:
        facts["pearson"] = float(pearsonr(both["given"], both["auto"]).statistic)
        facts["spearman"] = float(spearmanr(both["given"], both["auto"]).statistic)
    if both["label"].value_counts().reindex([0, 1], fill_value=0).min() >= 2:
        test = delong_test(both["label"], both["auto"], both["given"])
        error = 1.959964 * float(np.sqrt(test.variance))
        facts |= {"auroc_auto": test.auroc_a, "auroc_given": test.auroc_b}
        facts |= {"auroc_change": test.difference, "delong_p": test.p}
        facts["auroc_change_ci"] = [test.difference - error, test.difference + error]
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path, help="table with image, mask and fracture")
    parser.add_argument("--risk-weights", type=Path, required=True, help="checkpoint of vfx train")
    parser.add_argument(
        "--weights", type=Path, help="folder of the vertebra segmentation's two networks"
    )
    parser.add_argument("--cases", type=int, help="only the table's first ones")
    parser.add_argument("--out", type=Path, default=Path("segmentation_risk"))
    arguments = parser.parse_args()
    made = make_masks(arguments.cohort, arguments.weights, arguments.out, arguments.cases)
    made.to_csv(arguments.out / "masks.csv", index=False)
    print(made["outcome"].value_counts().to_string())
    if not (made["outcome"] == "accepted").any():
        return
    both = score_both(arguments.cohort, made, arguments.risk_weights, arguments.out)
    both.to_csv(arguments.out / "scores.csv", index=False)
    facts = summarise(made, both)
    write_json(arguments.out / "risk.json", facts)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
