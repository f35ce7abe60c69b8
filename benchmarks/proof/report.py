"""The experiment's page, Markdown with figures, from the tables of ``results.py`` alone.

python benchmarks/proof/report.py benchmarks/proof/results
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monai_vfx.analysis.evaluation.forest import ForestRow, forest_figure
from monai_vfx.outputs.report.figures import COLOURS, INK, QUIET, calm, figure_png
from monai_vfx.outputs.report.slice_montage import HEAT_COLOURS, grey

NAMES = {
    "bone": "image, bone-only",
    "bone_muscle": "image, bone + muscle",
    "imaging_baseline": "imaging baseline",
    "frax_major": "FRAX stand-in, major",
    "frax_hip": "FRAX stand-in, hip",
}
SETS = {
    "held_out": "development hospital, held out",
    "confirmation": "development hospital, drawn last (confirmation)",
    "external": "external hospital",
    "no_muscle_held_out": "development hospital, muscle without signal",
}
TABLES = {
    "Table 3. Bone-only against bone + muscle": ("bone", "bone_muscle"),
    "Table 4. Image against clinical models": (
        *("bone_muscle", "clinical_A", "clinical_B", "clinical_C", "clinical_D"),
        *("frax_major", "frax_hip"),
    ),
    "Table S1. Image against image + clinical": (
        *("bone_muscle", "fusion_A", "fusion_B", "fusion_C", "fusion_D"),
    ),
}


def write_report(results: Path) -> Path:
    """Write ``results.md`` and its figures beside the tables; return its path."""
    aurocs, pairs = _read(results, "aurocs"), _read(results, "pairs")
    points, seeds = _read(results, "points"), _read(results, "seeds")
    plan = json.loads((results / "run.json").read_text(encoding="utf-8"))["plan"]
    lines = [
        "# What the experiment found",
        "",
        "Simulated patients only: nothing here is clinical.",
    ]
    lines += [
        "",
        "The rows are the tables beside this page; the command that makes them is in "
        "[README.md](../README.md).",
        "",
        f"Sizes: {', '.join(f'{name} {n}' for name, n in plan['hospitals'].items())}; "
        f"signal {plan['signal']}; seeds {', '.join(map(str, plan['seeds']))}. A network's score "
        "is the mean of its seeds; image + clinical has the first alone. Shares are "
        "(AUROC - 0.5) / (attainable - 0.5), their intervals "
        "bootstrapped over patients.",
    ]
    lines += ["", "## Claims", "", *markdown(_read(results, "claims"))]
    for test in aurocs["set"].unique() if len(aurocs) else ():
        elsewhere = aurocs["model"].str.contains("_of_|^permuted")  # sections of their own
        part = aurocs[(aurocs["set"] == test) & ~elsewhere]
        lines += ["", f"## {SETS.get(test, test)}", "", *auroc_table(part)]
        _save(forest(part), results / f"forest_{test}.png")
        lines += ["", f"![AUROCs with intervals](forest_{test}.png)"]
        for title, models in TABLES.items():
            table = model_table(models, part, pairs, points, str(test))
            if table:
                lines += ["", f"### {title}", "", *table]
    lines += ["", "## Spread over seeds", "", *seed_table(seeds)]
    if len(aurocs) and aurocs["model"].str.startswith("permuted").any():
        lines += ["", "## Permuted outcomes", "", *permuted_lines(aurocs)]
    curve = _read(results, "learning_curve")
    if len(curve):
        _save(learning_figure(curve), results / "learning_curve.png")
        lines += ["", "## Learning curve", "", "![AUROC by patients](learning_curve.png)", ""]
        lines += learning_table(curve)
    if (results / "clinical_curve.csv").is_file():
        lines += ["", "## Clinical models by number of patients", ""]
        lines += [
            "Fitted on sets drawn anew, without images, and tested on the same large set.",
            "",
        ]
        lines += clinical_table(_read(results, "clinical_curve"))
    if (results / "saliency.csv").is_file():
        lines += ["", "## Where the network looks", "", *saliency_lines(results)]
    if (results / "ablations.csv").is_file():
        lines += ["", "## Ablations", "", *ablation_lines(_read(results, "ablations"), seeds)]
    page = results / "results.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def auroc_table(part: pd.DataFrame) -> list[str]:
    """Return the AUROCs of one set as lines of Markdown."""
    shown = pd.DataFrame({"model": [name_of(name) for name in part["model"]]})
    for label, value, low, high in (
        ("AUROC (95 %)", "auroc", "ci_low", "ci_high"),
        ("share of attainable (95 %)", "share", "share_low", "share_high"),
    ):
        if value in part:
            shown[label] = estimates(part, value, low, high)
    shown.insert(2, "SE", [f"{value:.4f}" for value in part["se"]])
    if "attainable" in part:
        shown.insert(3, "attainable", numbers(part["attainable"]))
    shown["fractures"] = [f"{e} of {n}" for e, n in zip(part["events"], part["n"], strict=True)]
    return markdown(shown)


def model_table(
    models: tuple[str, ...],
    part: pd.DataFrame,
    pairs: pd.DataFrame,
    points: pd.DataFrame,
    test: str,
) -> list[str]:
    """Return one of the study's tables for one set; the first model is the reference."""
    rows, reference = [], models[-1] if "bone" in models else models[0]
    for model in models:
        own = part[part["model"] == model]
        if own.empty:
            continue
        first = own.iloc[0]
        row = {"model": name_of(model)}
        row["AUROC"] = estimate(first["auroc"], first["ci_low"], first["ci_high"])
        rule = points[(points["set"] == test) & (points["model"] == model)]
        rule = rule[rule["rule"] == "youden"]
        for quantity in ("accuracy", "sensitivity", "specificity"):
            cells = (
                [rule[f"{quantity}{end}"].iloc[0] for end in ("", "_low", "_high")]
                if len(rule)
                else [np.nan] * 3
            )
            row[quantity] = estimate(*cells)
        row["p"] = delong_p(pairs, test, reference, model)
        rows.append(row)
    return markdown(pd.DataFrame(rows)) if len(rows) > 1 else []


def delong_p(pairs: pd.DataFrame, test: str, reference: str, model: str) -> str:
    """Return the p of DeLong's test against the reference as text."""
    if model == reference:
        return "reference"
    if pairs.empty:
        return ""
    own = pairs[(pairs["set"] == test) & (pairs["test"] == "delong")]
    own = own[((own["a"] == reference) & (own["b"] == model))]
    return "" if own.empty else f"{own['p'].iloc[0]:.2g}"


def seed_table(seeds: pd.DataFrame) -> list[str]:
    """Return mean, spread and every seed's AUROC as lines of Markdown."""
    rows = []
    for (test, model), part in seeds.groupby(["set", "model"], sort=False) if len(seeds) else ():
        if len(part) > 1:
            row = {"set": SETS.get(str(test), str(test)), "model": name_of(str(model))}
            row |= {"mean": number(part["auroc"].mean()), "SD": f"{part['auroc'].std():.4f}"}
            rows.append(row | {"seeds": ", ".join(numbers(part["auroc"]))})
    return markdown(pd.DataFrame(rows)) if rows else ["One seed a model."]


def permuted_lines(aurocs: pd.DataFrame) -> list[str]:
    """Return what networks trained on shuffled outcomes reach, a row a mirrored pair."""
    found = aurocs.set_index("model")["auroc"]
    mirrored = found[found.index.str.match(r"permuted_\d+$")].to_numpy()
    lines = []
    if "permuted" in found:
        row = aurocs[aurocs["model"] == "permuted"].iloc[0]
        lines += [
            f"Shuffled freely, once: {estimate(row['auroc'], row['ci_low'], row['ci_high'])}, "
            f"probabilities with an SD of {row['score_sd']:.2g}."
        ]
    if len(mirrored) > 2:
        pairs = mirrored.reshape(-1, 2)
        error = pairs.mean(axis=1).std(ddof=1) / np.sqrt(len(pairs))
        lines += [
            "",
            f"Shuffled between neighbours in true risk: mean of {mirrored.size} networks "
            f"{mirrored.mean():.3f}, standard error over the pairs {error:.3f}. Single networks "
            "rank patients by whatever their weights respond to, with probabilities that hardly "
            "differ.",
            "",
        ]
        rows = {"pair_id": range(len(pairs)), "first": numbers(pairs[:, 0])}
        rows |= {"mirrored": numbers(pairs[:, 1]), "mean": numbers(pairs.mean(axis=1))}
        lines += markdown(pd.DataFrame(rows))
    return lines


def learning_table(curve: pd.DataFrame) -> list[str]:
    """Return the learning curve as lines of Markdown."""
    shown = {"model": [name_of(image) for image in curve["image"]], "patients": curve["patients"]}
    shown |= {"AUROC (95 %)": estimates(curve, "auroc", "ci_low", "ci_high")}
    shown |= {"attainable": numbers(curve["attainable"]), "share": numbers(curve["share"])}
    shown |= {"single seeds": spans(curve, "min_seed", "max_seed")}
    return markdown(pd.DataFrame(shown))


def clinical_table(curve: pd.DataFrame) -> list[str]:
    """Return the clinical models by number of patients as lines of Markdown."""
    kinds = {"xgboost": "boosted trees", "logistic": "logistic regression"}
    shown = {"model": [name_of(model) for model in curve["model"]]}
    shown |= {"fitted by": [kinds[kind] for kind in curve["kind"]]}
    shown |= {"patients": curve["patients"], "sets": curve["sets"]}
    shown |= {"AUROC": numbers(curve["auroc"]), "attainable": numbers(curve["attainable"])}
    shown |= {"share": numbers(curve["share"])}
    shown |= {"sets from, to": spans(curve, "min_share", "max_share")}
    return markdown(pd.DataFrame(shown))


def ablation_lines(table: pd.DataFrame, seeds: pd.DataFrame) -> list[str]:
    """Return the ablations; where their references are not this run's networks, say so first."""
    own = seeds[seeds["set"] == "held_out"]
    names = own["model"] + ", seed " + own["seed"].astype(str)
    own = own.assign(against=names).merge(table, on=["against", "n"], suffixes=("", "_ablation"))
    differs = own[(own["reference"] - own["auroc"]).abs() > 1e-3]
    lines = []
    if len(differs):
        first = differs.iloc[0]
        lines += [
            "These come from another run than the rest of the page: "
            f"{str(first['against']).replace('_', ' ')} had {first['reference']:.3f} in it, here "
            f"it has {first['auroc']:.3f}. Each ablation is compared "
            "with the network of its own run.",
            "",
        ]
    return lines + ablation_table(table)


def ablation_table(table: pd.DataFrame) -> list[str]:
    """Return the ablations as lines of Markdown."""
    shown = {"ablation": table["ablation"].str.replace("_", " "), "question": table["question"]}
    shown |= {"patients": table["n"], "AUROC": numbers(table["auroc"])}
    against = zip(table["reference"], table["against"].str.replace("_", " "), strict=True)
    shown |= {"against": [f"{value:.3f} ({name})" for value, name in against]}
    shown |= {"difference (95 %)": estimates(table, "difference", "ci_low", "ci_high")}
    shown |= {"DeLong p": [f"{value:.2g}" for value in table["p"]]}
    return markdown(pd.DataFrame(shown))


def saliency_table(table: pd.DataFrame) -> list[str]:
    """Return the measures of the maps as lines of Markdown."""
    shown = table[["map", "region", "measure", "control"]].replace("_", " ", regex=True)
    for who, label in (("trained", "trained"), ("control", "its control")):
        cells = table[[f"{who}_{end}" for end in ("mean", "least", "greatest")]].to_numpy()
        shown[f"{label} (from, to)"] = [
            estimate(*row) if row[1] < row[2] else number(row[0]) for row in cells
        ]
    shown["difference (95 %)"] = estimates(table, "difference", "ci_low", "ci_high")
    for who, label in (("trained", "empty"), ("control", "of the control")):
        shown[label] = [f"{value:.2g}" for value in table[f"{who}_empty"]]
    return markdown(shown)


def saliency_lines(results: Path) -> list[str]:
    """Return the measures of the maps, and the panel if its pixels are there."""
    table = _read(results, "saliency")
    shares = table.groupby("region", sort=False)["area_share"].mean()
    areas = ", ".join(f"{region} {share:.2f}" for region, share in shares.items())
    lines = [
        "Energy ratio: share of the heat within the region over the region's share of the picture "
        "(1: no better than chance). Pointing: share of patients whose hottest place lies within. "
        "Trained is the mean over seeds, the control that over draws of random weights, least and "
        "greatest beside them; the interval is over patients, for these very networks. Empty: "
        "share of maps that are zero everywhere. Cascades have random weights from the head down "
        "to the named part and are compared with the seed that they were made from. GradCAM weighs "
        "each place by its own gradient, averaged GradCAM by the slice's mean, as first published.",
        "",
        f"Patients: {several(table['n'])}; maps left out: {several(table['left_out'])}. Share of "
        f"the area: {areas}.",
        "",
        *saliency_table(table),
    ]
    if (results / "saliency.png").is_file():
        lines += ["", "![GradCAM of trained and randomised networks](saliency.png)", ""]
        lines += ["Deeper stage, first seed, first draw; the slices with the most heat."]
    return lines


def saliency_panel(pixels: dict[str, Any], path: Path) -> None:
    """Draw the trained heat's hottest slice of some patients, and the random heat's own hottest."""
    count = sum(name.startswith("image_") for name in pixels)
    views = {
        "labels": "region",
        "trained": "trained gradcam",
        "trained, averaged": "trained averaged gradcam",
        "random weights, own slice": "randomised gradcam",
    }
    figure = Figure(figsize=(7.2, 1.3 * count), layout="constrained", facecolor="white")
    axes = figure.subplots(count, len(views), squeeze=False)
    for n in range(count):
        image = pixels[f"image_{n}"]
        for place, (title, key) in zip(axes[n], views.items(), strict=True):
            leading = key if key.startswith("randomised") else "trained gradcam"
            at = int(pixels[f"{leading}_{n}"].sum(axis=(0, 1)).argmax())
            place.imshow(grey(image[..., at]), cmap="gray", vmin=0, vmax=255)
            shown = np.asarray(pixels[f"{key}_{n}"][..., at], np.float64)
            if key != "region":
                place.imshow(HEAT_COLOURS(shown))
            region = np.asarray(pixels[f"region_{n}"][..., at], np.float64)
            place.contour(region, levels=[0.5], colors=[COLOURS[5]], linewidths=0.6)
            place.set_axis_off()
            if n == 0:
                place.set_title(title, fontsize=9, color=INK)
    _save(figure, path)


def learning_figure(curve: pd.DataFrame) -> Figure:
    """Draw AUROC by number of training patients with what is attainable."""
    figure = Figure(figsize=(5.4, 3.8), layout="constrained", facecolor="white")
    axes = figure.subplots()
    shift = 0.004 * curve["patients"].max()  # lest the bars of the two hide each other
    for n, (image, part) in enumerate(curve.groupby("image", sort=False)):
        style = {"color": COLOURS[n], "marker": "os"[n % 2], "markersize": 4, "capsize": 2}
        error = np.array([part["auroc"] - part["ci_low"], part["ci_high"] - part["auroc"]])
        places = part["patients"] + shift * (2 * n - 1)
        axes.errorbar(places, part["auroc"], error, label=name_of(str(image)), **style)
        best = part["attainable"].iloc[0]
        axes.axhline(best, color=COLOURS[n], linestyle="--", linewidth=1)
    axes.set_xticks(sorted(curve["patients"].unique()))
    axes.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_xlabel("training patients, validation included")
    axes.set_ylabel("AUROC, held-out patients")
    axes.legend(
        frameon=False, fontsize=8, labelcolor=INK, title_fontsize=8, ncols=2,
        title="95 % intervals over patients; dashed: attainable",
        loc="lower center", bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip
    calm(axes)
    return figure


def forest(part: pd.DataFrame) -> Figure:
    """Draw the AUROCs of one set."""
    rows: list[ForestRow] = [
        {
            "variable": "",
            "value": name_of(row.model),
            "n": int(row.n),
            "events": int(row.events),
            "auroc": float(row.auroc),
            "ci": [float(row.ci_low), float(row.ci_high)],
            "note": None,
        }
        for row in part.itertuples()
    ]
    return forest_figure(rows)


def name_of(model: str) -> str:
    """Return how a score is called on the page."""
    model, _, patients = model.removeprefix("no_muscle_").partition("_of_")
    kind, _, rest = model.partition("_")
    words = {"fusion": "image + ", "clinical": "clinical ", "logistic": "logistic "}
    name = NAMES.get(model) or (words[kind] + rest if kind in words else model.replace("_", " "))
    return f"{name}, {patients} patients" if patients else name


def number(value: float) -> str:
    """Return three digits, or nothing for a missing value."""
    return "" if pd.isna(value) else f"{value:z.3f}"


def numbers(values: Iterable[float]) -> list[str]:
    """Return each with three digits."""
    return [number(value) for value in values]


def estimate(value: float, low: float, high: float) -> str:
    """Return a value with its interval."""
    return "" if pd.isna(value) else f"{value:z.3f} ({low:z.3f} to {high:z.3f})"


def estimates(table: pd.DataFrame, *names: str) -> list[str]:
    """Return the values of a column with those of the two columns of their ends."""
    return [estimate(*row) for row in table[list(names)].to_numpy()]


def spans(table: pd.DataFrame, low: str, high: str) -> list[str]:
    """Return from where to where each row goes."""
    ends = table[[low, high]].to_numpy()
    return [f"{a:.3f} to {b:.3f}" if a < b else number(a) for a, b in ends]


def several(values: pd.Series) -> str:
    """Return the one value, or the least and the greatest."""
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def markdown(frame: pd.DataFrame) -> list[str]:
    """Return a frame as the lines of a Markdown table."""
    cells = frame.map(lambda v: f"{v:.3g}" if isinstance(v, float) else str(v)).replace("nan", "")
    head = ["| " + " | ".join(map(str, frame.columns)) + " |", "|---" * len(frame.columns) + "|"]
    return head + ["| " + " | ".join(row) + " |" for row in cells.to_numpy().tolist()]


def _read(results: Path, name: str) -> pd.DataFrame:
    try:
        return pd.read_csv(results / f"{name}.csv")
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def _save(figure: Figure, path: Path) -> None:
    path.write_bytes(figure_png(figure, dpi=130))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    print(write_report(parser.parse_args().results))
