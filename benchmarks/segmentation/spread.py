"""How far the segmentation's results spread between whole trainings: the same cases, other weights.

    python -m benchmarks.segmentation.spread --out benchmarks/segmentation/results \
        "as shipped=benchmarks/segmentation/results" "retrained=run" \
        --real "as shipped=real" --real "retrained=real_retrained"

Each NAME=FOLDER is a run of synthetic.py (or holds its ``cases.csv``); runs are compared on the
cases that all have. Each ``--real NAME=FOLDER`` is a run of real.py. Writes ``spread.md``.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.segmentation.report import read_run
from monai_vfx.core.anatomy import LEVELS


def named(text: str) -> tuple[str, Path]:
    """Split NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not folder:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FOLDER")
    return name, Path(folder)


def run_table(runs: dict[str, pd.DataFrame]) -> list[str]:
    """Return a row a training: what it accepts, names and segments."""
    rows = [
        "| weights | cases | T12-L4 in view | of these accepted | of these named right | accepted "
        "though not in view | Dice T12-L4, median (5 %) | centre error, mm, mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, cases in runs.items():
        seen = cases[cases["in_view"]]
        taken = seen[seen["accepted"]]
        dice = taken["dice"]
        rows.append(
            f"| {name} | {len(cases)} | {len(seen)} | {len(taken)} | {int(taken['right'].sum())} | "
            f"{int(cases.loc[~cases['in_view'], 'accepted'].sum())} | {dice.median():.3f} "
            f"({dice.quantile(0.05):.3f}) | {taken['centre_mm'].mean():.2f} |"
        )
    return rows


def paired_table(runs: dict[str, pd.DataFrame]) -> list[str]:
    """Return a row a pair of trainings: the same cases, one set beside the other."""
    rows = [
        "| weights | accepted by both | by the first only | by the second only | Dice, second - "
        "first, mean (95 % of cases) | centre error likewise, mm |",
        "|---|---|---|---|---|---|",
    ]
    for (first, one), (second, other) in combinations(runs.items(), 2):
        a, b = one["accepted"], other["accepted"]
        both = a & b
        spans = []
        for column in ("dice", "centre_mm"):
            change = other.loc[both, column] - one.loc[both, column]
            low, high = np.percentile(change, [2.5, 97.5])
            spans.append(f"{change.mean():+.3f} ({low:+.3f} to {high:+.3f})")
        counts = f"{int(both.sum())} | {int((a & ~b).sum())} | {int((b & ~a).sum())}"
        rows.append(f"| {first}, {second} | {counts} | {' | '.join(spans)} |")
    return rows


def real_table(folders: dict[str, Path]) -> list[str]:
    """Return a row a training: a real CT against its annotation."""
    levels = [*LEVELS, "L5"]
    rows = [
        f"| weights | case | outcome, confidence | {' | '.join(f'Dice {x}' for x in levels)} | "
        "largest centre error, mm | largest move of a slice, mm |",
        "|---" * (len(levels) + 5) + "|",
    ]
    for name, folder in folders.items():
        facts = json.loads((folder / "real.json").read_text(encoding="utf-8"))
        cells = [name, facts["name"], facts["outcome"]]
        if (folder / "real.csv").is_file() and facts["outcome"] == "accepted":
            cells[-1] += f", {facts['confidence']:.3f}"
            bodies = pd.read_csv(folder / "real.csv", index_col="level")
            cells += [f"{bodies.loc[level, 'dice']:.3f}" for level in levels]
            cells.append(f"{bodies.loc[list(LEVELS), 'centre_error_mm'].max():.2f}")
            cells.append(f"{facts['slices']['largest_shift_along_z_mm']:.1f}")
        else:
            cells += ["-"] * (len(levels) + 2)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=named, nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--real", type=named, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, default=Path("segmentation_report"))
    arguments = parser.parse_args()
    tables = {name: read_run(folder).set_index("case_id") for name, folder in arguments.runs}
    shared = sorted(set.intersection(*(set(cases.index) for cases in tables.values())))
    runs = {name: cases.loc[shared] for name, cases in tables.items()}
    lines = [
        "# Whole trainings compared\n",
        f"The {len(shared)} synthetic cases that all runs have.\n",
        *run_table(runs),
        "",
        *paired_table(runs),
    ]
    if arguments.real:
        lines += ["\n## Real CT\n", *real_table(dict(arguments.real))]
    text = "\n".join(lines) + "\n"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "spread.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
