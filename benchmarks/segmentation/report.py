r"""Tables and figures of the segmentation's evaluation, from the CSV and JSON files of its scripts.

    python -m benchmarks.segmentation.report run --checkpoint 5000=early --checkpoint 20000=run \
        --calibration calibrated --real real --risk risk --out benchmarks/segmentation/results

RUN is a folder of synthetic.py. Writes ``results.md``, PNG figures beside it and ``cases.csv``, the
run's table. All parts but RUN may be left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import imread

from benchmarks.segmentation.assessment import (
    acceptance,
    calibration_error,
    clopper_pearson,
    reliability_table,
)
from monai_vfx.analysis.evaluation.estimates import Estimate
from monai_vfx.core.anatomy import LEVELS
from monai_vfx.outputs.report.figures import COLOURS, INK, QUIET, calm

SIZE = (7.2, 3.4)
NOISE_CUTS = (0, 10, 20, 35, np.inf)
SHOWN = 6
"""Pictures of the worst and of refused cases each."""


def read_run(folder: Path) -> pd.DataFrame:
    """Return a run's cases, by number, with columns that the tables group by."""
    cases = pd.read_csv(folder / "cases.csv", dtype={"message": str}).sort_values("case_id")
    for column in ("fractured", "variants", "found_levels", "message"):
        cases[column] = cases[column].fillna("")
    cases["accepted"] = cases["outcome"] == "accepted"
    cases["right"] = cases["right"].fillna(0).astype(bool)
    cases["right_strict"] = cases["right_strict"].fillna(0).astype(bool)
    cases["in_view"] = cases["in_view"].astype(bool)
    cases["dice"] = cases[[f"dice_{level}" for level in LEVELS]].mean(axis=1)
    cases["centre_mm"] = cases[[f"centre_mm_{level}" for level in LEVELS]].mean(axis=1)
    cases["noise"] = pd.cut(cases["noise_hu"], NOISE_CUTS).astype(str)
    cases["contrast"] = cases["enhanced"].map({1: "enhanced", 0: "native"}).fillna("not known")
    study = cases["fractured"].map(lambda text: {part.split(":")[0] for part in text.split()})
    cases["fractures"] = ["in T12-L4" if set(LEVELS) & one else "none there" for one in study]
    counts = cases["thoracic"].astype(str) + " + " + cases["lumbar"].astype(str)
    cases["vertebrae"] = counts
    return cases


def groups(cases: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield heading, value and cases of every group that the tables show."""
    yield "all", "", cases
    for column, heading in (
        ("thickness_mm", "slice thickness, mm"),
        ("noise", "noise SD, HU"),
        ("contrast", "contrast medium"),
        ("field_of_view", "field of view"),
        ("fractures", "fractures"),
        ("vertebrae", "thoracic + lumbar"),
    ):
        for value, part in cases.groupby(column, sort=True):
            yield heading, str(value), part


def share(one: Estimate | None) -> str:
    """Spell a share with its 95 % interval, in percent."""
    if one is None:
        return "-"
    return f"{100 * one.value:.1f} % ({100 * one.low:.1f}-{100 * one.high:.1f})"


def spread(values: pd.Series) -> str:
    """Spell the median and the worst twentieth's bound of values (low for Dice)."""
    known = values.dropna()
    return f"{known.median():.3f} ({known.quantile(0.05):.3f})" if len(known) else "-"


def names_table(cases: pd.DataFrame) -> list[str]:
    """Return the table of accepted, refused and wrong cases by group."""
    lines = [
        "| group | value | cases | T12-L4 in view | of these accepted (95 % interval) "
        "| accepted | all named right | Dice, median (5 %) | centre error, mm, mean |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for heading, value, part in groups(cases):
        seen = part[part["in_view"]]
        able = clopper_pearson(int(seen["accepted"].sum()), len(seen)) if len(seen) else None
        taken = part[part["accepted"]]
        error = f"{taken['centre_mm'].mean():.2f}" if len(taken) else "-"
        lines.append(
            f"| {heading} | {value} | {len(part)} | {len(seen)} | {share(able)} | {len(taken)} "
            f"| {int(taken['right'].sum())} | {spread(taken['dice'])} | {error} |"
        )
    return lines


def summary(cases: pd.DataFrame) -> list[str]:
    """Return what matters most in sentences."""
    table = acceptance(cases["accepted"], cases["right"])
    strict = acceptance(cases["accepted"], cases["right_strict"])
    seen, unseen = cases[cases["in_view"]], cases[~cases["in_view"]]
    lines = [
        f"{table.n} synthetic CT of people whom training never saw; T12-L4 are whole in view in "
        f"{len(seen)}.",
        "",
        f"- Accepted: {table.accepted}, {share(table.share_accepted)}.",
        f"- Of these, T12 to L4 all named right: {table.right}, {share(table.share_right)}",
    ]
    if table.right_lower_bound is not None:
        lines[-1] += f", one-sided 95 % lower bound {100 * table.right_lower_bound:.1f} %."
    lines.append(f"- Right also when counted from the first rib: {strict.right}.")
    if len(seen):
        lines.append(
            f"- Refused though T12-L4 are in view: {int((~seen['accepted']).sum())} of {len(seen)}."
        )
    if len(unseen):
        lines.append(
            f"- Accepted though they are not: {int(unseen['accepted'].sum())} of {len(unseen)}."
        )
    stated = cases[cases["confidence"].notna()]
    if len(stated):
        error = calibration_error(stated["confidence"], stated["right"])
        lines.append(f"- Expected calibration error of the confidence: {error:.3f}.")
    seconds, peak = cases["seconds"].dropna(), cases["peak_mb"].dropna()
    if len(seconds):
        lines.append(
            f"- Seconds a case: median {seconds.median():.1f}, longest {seconds.max():.1f}; peak "
            f"memory: median {peak.median():.0f} MB, most {peak.max():.0f} MB (the process that "
            "made the CT)."
        )
    return lines


def outcome_table(cases: pd.DataFrame) -> list[str]:
    """Return outcomes by field of view."""
    counts = pd.crosstab(cases["field_of_view"], cases["outcome"])
    lines = ["| field of view | " + " | ".join(counts.columns) + " |"]
    lines.append("|---|" + "---|" * len(counts.columns))
    for name, row in counts.iterrows():
        lines.append(f"| {name} | " + " | ".join(str(n) for n in row) + " |")
    return lines


def level_table(cases: pd.DataFrame) -> list[str]:
    """Return Dice and centre error by level, of accepted cases."""
    taken = cases[cases["accepted"]]
    lines = [
        "| level | bodies | Dice, mean | median | 5 % | worst | centre error, mm, mean | 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for level in (*LEVELS, "L5"):
        dice, error = taken[f"dice_{level}"].dropna(), taken[f"centre_mm_{level}"].dropna()
        if len(dice):
            lines.append(
                f"| {level} | {len(dice)} | {dice.mean():.3f} | {dice.median():.3f} "
                f"| {dice.quantile(0.05):.3f} | {dice.min():.3f} | {error.mean():.2f} "
                f"| {error.quantile(0.95):.2f} |"
            )
    return lines


def wrong_table(cases: pd.DataFrame) -> list[str]:
    """List accepted cases whose names are wrong: the worst that can happen."""
    wrong = cases[cases["accepted"] & ~cases["right"]]
    if wrong.empty:
        return ["No accepted case is named wrong."]
    lines = ["| case | confidence | true | found | field of view | vertebrae |", "|---|" * 2]
    lines[1] = "|---|---|---|---|---|---|"
    for _, row in wrong.iterrows():
        lines.append(
            f"| {row['case_id']} | {row['confidence']:.4f} | {row['true_levels']} "
            f"| {row['found_levels']} | {row['field_of_view']} | {row['vertebrae']} |"
        )
    return lines


def quality_figure(cases: pd.DataFrame, column: str, label: str) -> Figure:
    """Draw Dice and centre error of accepted cases against a condition."""
    taken = cases[cases["accepted"]]
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("dice", "centre_mm"),
        ("Dice, mean of T12-L4", "centre error, mm"),
        strict=True,
    ):
        axes.scatter(taken[column], taken[name], s=9, color=COLOURS[0], alpha=0.5, linewidths=0)
        groups = taken[column]
        if groups.nunique() > 12:
            groups = pd.qcut(groups, 6, duplicates="drop").map(lambda one: one.mid).astype(float)
        middle = taken[name].groupby(groups).median()
        axes.plot(middle.index, middle, color=COLOURS[1], marker="o", markersize=3, label="median")
        axes.set(xlabel=label, ylabel=title)
        axes.set_ylim(bottom=0 if name == "centre_mm" else None)
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        calm(axes)
    return figure


def reliability_figure(cases: pd.DataFrame) -> Figure:
    """Draw the share of right names by stated confidence, on a scale that shows the top."""
    known = cases[cases["confidence"].notna()]
    rows = reliability_table(known["confidence"], known["right"])
    figure = Figure(figsize=(4.8, 3.7), layout="constrained", facecolor="white")
    axes = figure.subplots()
    x = np.arange(len(rows))
    shares = np.array([row.right.value for row in rows])
    low = shares - [row.right.low for row in rows]
    high = np.array([row.right.high for row in rows]) - shares
    axes.errorbar(
        *(x, shares, np.stack([low, high])),
        fmt="o",
        color=COLOURS[0],
        capsize=3,
        label="right (95 % interval)",
    )
    axes.scatter(
        x, [row.confidence for row in rows], marker="_", s=160, color=COLOURS[1], label="stated"
    )
    axes.set_xticks(x, [f"{row.low:g}-{row.high:g}\nn={row.right.n}" for row in rows], fontsize=7)
    axes.set(xlabel="stated confidence", ylabel="share with T12-L4 all right", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    calm(axes)
    axes.tick_params(axis="x", labelsize=7)
    return figure


def learning_figure(runs: dict[int, pd.DataFrame]) -> Figure:
    """Draw acceptance, rightness and Dice of several checkpoints on the same cases."""
    common = sorted(set.intersection(*(set(run["case_id"]) for run in runs.values())))
    figure = Figure(figsize=SIZE, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    steps = sorted(runs)
    at = {step: runs[step][runs[step]["case_id"].isin(common)] for step in steps}
    seen = {step: run[run["in_view"]] for step, run in at.items()}
    accepted = [seen[step]["accepted"].mean() for step in steps]
    both = [(seen[step]["accepted"] & seen[step]["right"]).mean() for step in steps]
    left.plot(steps, accepted, color=COLOURS[0], marker="o", label="accepted")
    left.plot(steps, both, color=COLOURS[1], marker="s", linestyle="--", label="and right")
    left.set(xlabel="iterations of the locator", ylim=(0, 1.03), ylabel="share of cases in view")
    dice = [at[step].loc[at[step]["accepted"], "dice"].median() for step in steps]
    right.plot(steps, dice, color=COLOURS[0], marker="o", label="Dice, median of accepted")
    right.set(xlabel="iterations of the locator", ylabel="Dice")
    figure.suptitle(f"the same {len(common)} cases at each checkpoint", fontsize=9, color=QUIET)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        calm(axes)
    return figure


def gallery(folder: Path, numbers: list[int]) -> Figure | None:
    """Lay the pictures of cases side by side; None where there is none."""
    files = [path for n in numbers if (path := folder / "pictures" / f"{n:06d}.png").is_file()]
    if not files:
        return None
    rows = -(-len(files) // 2)
    figure = Figure(figsize=(9.6, 2.8 * rows), layout="constrained", facecolor="white")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, path in zip(panels, files, strict=False):
        axes.imshow(imread(path))
    return figure


def worst_and_refused(cases: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Return the numbers of the cases to show: wrong ones first, then the lowest Dice; refused."""
    taken = cases[cases["accepted"]].sort_values(["right", "worst_dice"])
    refused = cases[~cases["accepted"] & cases["in_view"]]
    return taken["case_id"].head(SHOWN).tolist(), refused["case_id"].head(SHOWN).tolist()


def other_parts(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the sections of calibration, real CT and risk, where they are given."""
    if arguments.calibration:
        facts = json.loads((arguments.calibration / "calibration.json").read_text(encoding="utf-8"))
        rates = json.dumps(facts["after"]["rates"])
        yield "\n## Calibration (other people than the test's)\n"
        yield f"Rates and threshold: `{rates}`\n\nCounts: `{json.dumps(facts['counts'])}`\n"
        for name in ("before", "after"):
            table = facts[name]["acceptance"]
            yield f"- {name}: {table['accepted']} of {table['n']} accepted, {table['right']} right"
        table = facts["left_out"]
        yield f"- on cases left out: {table['accepted']} of {table['n']}, {table['right']} right"
    for folder in arguments.real or []:
        facts = json.loads((folder / "real.json").read_text(encoding="utf-8"))
        yield f"\n## Real CT: {facts['name']}\n"
        yield f"{facts['outcome']}, confidence {facts.get('confidence')}, {facts['seconds']:.1f} s "
        yield f"on {facts['threads']} threads, {facts['peak_mb']:.0f} MB, {facts['shape']} voxels\n"
        if (folder / "real.csv").is_file():
            yield from markdown(pd.read_csv(folder / "real.csv", keep_default_na=False))
        if "slices" in facts:
            yield f"\nThe network's slices: `{json.dumps(facts['slices'])}`"
    if arguments.risk:
        facts = json.loads((arguments.risk / "risk.json").read_text(encoding="utf-8"))
        yield "\n## Risk score with automatic and given masks\n"
        yield from (f"- {name}: {json.dumps(value)}" for name, value in facts.items())


def markdown(frame: pd.DataFrame) -> list[str]:
    """Return a table."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    lines += ["| " + " | ".join(str(v) for v in row) + " |" for row in frame.to_numpy()]
    return lines


def risk_figure(folder: Path) -> Figure:
    """Draw the score with the automatic mask against that with the given one."""
    scores = pd.read_csv(folder / "scores.csv")
    figure = Figure(figsize=(3.7, 3.7), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    axes.scatter(scores["given"], scores["auto"], s=10, color=COLOURS[0], alpha=0.7, linewidths=0)
    axes.set(xlabel="score, given mask", ylabel="score, automatic mask", xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")
    calm(axes)
    return figure


def figures(arguments: argparse.Namespace, cases: pd.DataFrame) -> dict[str, tuple[str, Figure]]:
    """Return file stem → (caption, figure)."""
    made: dict[str, tuple[str, Figure]] = {}
    if cases["dice"].notna().any():
        made["thickness"] = (
            "Bodies of accepted cases by slice thickness",
            quality_figure(cases, "thickness_mm", "slice thickness, mm"),
        )
        made["noise"] = (
            "Bodies of accepted cases by noise",
            quality_figure(cases, "noise_hu", "noise SD, HU"),
        )
    if cases["confidence"].notna().any():
        made["reliability"] = ("Is the confidence true?", reliability_figure(cases))
    if arguments.checkpoint:
        runs = {
            int(n): read_run(Path(p))
            for n, _, p in (c.partition("=") for c in arguments.checkpoint)
        }
        made["learning"] = ("Learning curve", learning_figure(runs))
    for stem, caption, numbers in zip(
        ("worst", "refused"),
        ("Accepted cases of lowest Dice or wrong names (blue: true, red: found)", "Refused cases"),
        worst_and_refused(cases),
        strict=True,
    ):
        panels = gallery(arguments.run, numbers)
        if panels is not None:
            made[stem] = (caption, panels)
    if arguments.risk and (arguments.risk / "scores.csv").is_file():
        made["risk"] = ("Risk score, automatic against given mask", risk_figure(arguments.risk))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of synthetic.py")
    parser.add_argument(
        "--checkpoint", action="append", metavar="ITERATIONS=FOLDER", help="of the learning curve"
    )
    parser.add_argument("--calibration", type=Path, help="folder of calibrate.py")
    parser.add_argument("--real", type=Path, action="append", help="folder of real.py")
    parser.add_argument("--risk", type=Path, help="folder of risk.py")
    parser.add_argument("--out", type=Path, default=Path("segmentation_report"))
    arguments = parser.parse_args()
    cases = read_run(arguments.run)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = ["# The vertebra segmentation, measured\n", *summary(cases)]
    lines += ["\n## Names and bodies by group\n", *names_table(cases)]
    lines += ["\n## Outcomes\n", *outcome_table(cases), "\n## Accepted and wrong\n"]
    lines += [*wrong_table(cases), "\n## Bodies by level\n", *level_table(cases)]
    lines += other_parts(arguments)
    lines.append("\n## Figures\n")
    for stem, (caption, figure) in figures(arguments, cases).items():
        figure.savefig(arguments.out / f"{stem}.png", dpi=110)
        lines.append(f"![{caption}]({stem}.png)\n")
    (arguments.out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copyfile(arguments.run / "cases.csv", arguments.out / "cases.csv")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
