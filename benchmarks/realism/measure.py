"""Hold the simulated CT against real ones: attenuation, noise and sizes in stated ranges.

    VFX_TEST_DATA=DIR python -m benchmarks.realism.measure OUT [--quick N] [--full N]

``quantities.py`` says what is measured and how, ``ranges.yaml`` where it should lie and by whom
that is known. Writes ``cases.csv`` (a row a CT), ``ranges.csv`` (a row a quantity) and
``histograms.png``, prints the table and ends with 1 if a median of the phantoms lies outside its
range. CTs that OUT already holds (``measured.jsonl``) are not measured again: begin a new folder
after a change of the simulation. Without VFX_TEST_DATA the real columns are empty.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from benchmarks.realism.cases import REAL, Seen, phantoms, real_case, resliced
from benchmarks.realism.quantities import measure
from monai_vfx.outputs.report.figures import COLOURS, INK, calm, figure_png

RANGES = Path(__file__).resolve().with_name("ranges.yaml")
SHOWN = {
    "trabecular": np.arange(-50.5, 400, 5),
    "erector": np.arange(-150.5, 150, 5),
    "psoas": np.arange(-100.5, 150, 5),
    "fat": np.arange(-160.5, -40, 3),
}
"""Tissue → edges of its histogram's bins; a whole number of HU each, as the voxels are."""
AVERAGED = ", averaged to 5 mm"
NOISE_BINS = np.linspace(5, 30, 26)

Row = dict[str, Any]


def measured(case: Seen, name: str, source: str) -> Row:
    """Return a CT's quantities and the counts of its tissues' histograms."""
    found, tissues = measure(case)
    counts = {
        tissue: np.histogram(tissues.get(tissue, ()), edges)[0].tolist()
        for tissue, edges in SHOWN.items()
    }
    numbers = {quantity: value for quantity, value in found.items() if np.isfinite(value)}
    return {"name": name, "source": source, "numbers": numbers, "counts": counts}


def jobs(data: Path | None, quick: int, full: int) -> Iterator[tuple[str, str, Callable[[], Seen]]]:
    """Yield (name, source, what makes the CT): the real ones, then the phantoms by hospital."""
    for folder, name in REAL.items() if data else ():
        if data and (data / folder).is_dir():
            yield name, "real", partial(real_case, data, folder)
            yield f"{name}{AVERAGED}", "real", partial(_averaged, data, folder)
    for field, count in (("quick", quick), ("full", full)):
        for hospital in ("development", "external"):
            made = phantoms(count, hospital, field)  # type: ignore[arg-type]
            for name, make in made:
                yield name, f"{hospital}, {field}", make


def _averaged(data: Path, folder: str) -> Seen:
    return resliced(real_case(data, folder))


def measure_all(out: Path, data: Path | None, quick: int, full: int) -> list[Row]:
    """Measure what ``OUT/measured.jsonl`` lacks, add it there, and return all asked for."""
    out.mkdir(parents=True, exist_ok=True)
    store = out / "measured.jsonl"
    lines = store.read_text(encoding="utf-8").splitlines() if store.exists() else []
    known = {(row["name"], row["source"]): row for row in map(json.loads, lines)}
    rows = []
    for name, source, make in jobs(data, quick, full):
        if (name, source) not in known:
            known[name, source] = measured(make(), name, source)
            with store.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(known[name, source]) + "\n")
        rows.append(known[name, source])
    return rows


def summary(table: pd.DataFrame, ranges: dict[str, Row]) -> pd.DataFrame:
    """Return a row a quantity: real values, range, phantoms by hospital, whether inside.

    Args:
        table: ``name``, ``source`` (``real`` or a hospital) and a column a quantity.
        ranges: quantity → ``low``, ``high``, ``unit``.
    """
    rows = []
    for name, entry in ranges.items():
        if name not in table:
            continue
        row: Row = {"quantity": name, "unit": entry["unit"]}
        real = table.loc[table["source"] == "real", name]
        row["real"] = ", ".join(f"{v:.3g}" if np.isfinite(v) else "-" for v in real)
        row["range"] = f"{entry['low']} to {entry['high']}"
        outside, spread = [], [np.inf, -np.inf]
        for source, part in table[table["source"] != "real"].groupby("source", sort=False):
            values = part[name].dropna()
            if values.empty:
                continue
            low, middle, high = np.percentile(values, [5, 50, 95])
            row[str(source)] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
            spread = [min(spread[0], low), max(spread[1], high)]
            beyond = max(entry["low"] - middle, middle - entry["high"])
            if beyond > 0:
                outside.append(f"{source}: by {beyond:.2g}")
        seen = real.dropna()
        row["real within 5-95 %"] = f"{seen.between(*spread).sum()} of {len(seen)}"
        row["inside"] = f"no ({'; '.join(outside)})" if outside else "yes"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def histograms(rows: list[Row]) -> Figure:
    """Draw the HU of each tissue and the noise: a line a real CT, one for a hospital's phantoms.

    Real CT is shown averaged to slices of 5 mm, as thick as the phantoms'.
    """
    rows = [r for r in rows if r["source"] != "real" or r["name"].endswith(AVERAGED)]
    labels = [f"real: {r['name']}" if r["source"] == "real" else r["source"] for r in rows]
    groups = {
        label: [r for r, own in zip(rows, labels, strict=True) if own == label] for label in labels
    }
    figure = Figure(figsize=(8.4, 7.2), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 2).ravel()
    for number, (label, members) in enumerate(groups.items()):
        real = label.startswith("real")
        style = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.4}
        style["linestyle"] = "--" if real else "-"
        for axis, name in zip(axes, SHOWN, strict=False):
            counts = np.sum([r["counts"][name] for r in members], axis=0)
            axis.stairs(counts / max(counts.sum(), 1), SHOWN[name], label=label, **style)
            axis.set_title(f"{name}, HU", fontsize=10, color=INK)
        noise = [r["numbers"]["noise_sd"] for r in members if "noise_sd" in r["numbers"]]
        if real:
            axes[4].axvline(noise[0], **style)
        else:
            axes[4].stairs(np.histogram(noise, NOISE_BINS)[0] / len(noise), NOISE_BINS, **style)
    axes[4].set_title("noise in the aorta on the CT's own voxels, SD in HU", fontsize=10, color=INK)
    for axis in axes[:5]:
        axis.set_yticks([])
        calm(axis)
    axes[5].axis("off")
    axes[5].legend(
        *axes[0].get_legend_handles_labels(), loc="center", frameon=False, labelcolor=INK
    )
    return figure


def run(out: Path, data: Path | None, quick: int, full: int) -> bool:
    """Measure and write all; return whether every median is inside its range."""
    rows = measure_all(out, data, quick, full)
    table = pd.DataFrame([{"name": r["name"], "source": r["source"], **r["numbers"]} for r in rows])
    table.to_csv(out / "cases.csv", index=False, float_format="%.4g")
    found = summary(table, yaml.safe_load(RANGES.read_text(encoding="utf-8")))
    found.to_csv(out / "ranges.csv", index=False)
    (out / "histograms.png").write_bytes(figure_png(histograms(rows), dpi=110))
    print(found.to_string(index=False))
    return bool((found["inside"] == "yes").all())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for tables and histograms")
    parser.add_argument("--quick", type=int, default=60, help="patients a hospital, small field")
    parser.add_argument("--full", type=int, default=24, help="patients a hospital, whole abdomen")
    args = parser.parse_args()
    folder = os.environ.get("VFX_TEST_DATA")
    raise SystemExit(
        0 if run(args.out, Path(folder) if folder else None, args.quick, args.full) else 1
    )
