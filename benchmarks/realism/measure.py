"""Hold the simulated CT against real ones: attenuation, noise and sizes in stated ranges.

    VFX_TEST_DATA=DIR python benchmarks/realism/measure.py OUT

Writes ``cases.csv`` (a row a CT), ``ranges.csv`` (a row a quantity) and ``histograms.png``; prints
the table and ends with 1 if a median of the phantoms lies outside its range. Without VFX_TEST_DATA
the real columns are empty.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from cases import Seen, phantoms, real_cases
from matplotlib.figure import Figure
from scipy import ndimage

from monai_vfx.anatomy import MUSCLES, VERTEBRAE
from monai_vfx.bodies import voxel_spacing
from monai_vfx.report.figures import COLOURS, INK, calm, figure_png
from monai_vfx.shapes import BoolVolume, HUVolume

HERE = Path(__file__).resolve().parent
COARSE_MM = 2.0
"""Pixels on which noise and fat are compared, since both depend on what a pixel averages over."""
ERODE_MM, MUSCLE_MM = 5.0, 4.0
FAT_HU = (-190.0, -30.0)
SHOWN = {"trabecular": (-50, 350), "erector": (-150, 150), "psoas": (-50, 150), "fat": (-150, -50)}


def measure(case: Seen) -> dict[str, float]:
    """Return the quantities of ``ranges.yaml``; NaN where a case does not show one.

    HU, mm and cm². Noise: robust SD of the difference of neighbouring slices within the psoas,
    over the square root of 2, on pixels of about 2 mm. Trabecular bone: median and SD within the
    body less 5 mm at its edge. Lean muscle and fat: the most frequent value. Aorta: the 90th
    percentile of a smoothed box in front of L2 and L3 to the left, calcium left out. Width and
    depth of a body: extent of its middle third; height: its volume over that part's mean area.
    """
    spacing = np.array(voxel_spacing(case.affine))
    coarse, labels = _coarse(case, spacing)
    step = spacing * (np.array(case.hu.shape) / np.array(coarse.shape))
    erector, psoas = (labels == MUSCLES[name] for name in ("erector_spinae", "psoas"))
    found = {"noise_sd": _noise(coarse, ndimage.binary_erosion(psoas, _ball(MUSCLE_MM, step)))}
    for level in ("L1", "L3"):
        body = case.labels == VERTEBRAE[level]
        if not body.any():
            continue
        core = case.hu[_eroded(body, spacing)]
        name = level.lower()
        found[f"trabecular_{name}"] = float(np.median(core)) if core.size else np.nan
        if level == "L3":
            found["trabecular_sd"] = float(core.std()) if core.size else np.nan
        for quantity, value in body_size(body, spacing).items():
            found[f"{quantity}_{name}"] = value
    inside = coarse[erector]
    if inside.size:
        found["erector_lean"] = _mode(inside, (-30, 150))
        found["erector_fat"] = float(np.mean((inside > FAT_HU[0]) & (inside < FAT_HU[1])))
    if psoas.any():
        found["psoas"] = float(np.median(coarse[psoas]))
    found["fat"] = _mode(coarse[(coarse > -150) & (coarse < -50)], (-150, -50))
    return found | _at_l3(case, spacing)


def body_size(body: BoolVolume, spacing: np.ndarray) -> dict[str, float]:
    """Return width (left-right), depth and height in mm of a body, as :func:`measure` says.

    >>> box = np.zeros((30, 30, 20), bool)
    >>> box[5:25, 5:20, 4:14] = True
    >>> {name: round(value, 1) for name, value in body_size(box, np.array([2.0, 2.0, 2.5])).items()}
    {'width': 40.0, 'depth': 30.0, 'height': 25.0}
    """
    areas = body.sum(axis=(0, 1))
    slices = np.flatnonzero(areas)
    third = slices[len(slices) // 3 : max(len(slices) - len(slices) // 3, len(slices) // 3 + 1)]
    middle = body[:, :, third]
    height = body.sum() * spacing[2] / areas[third].mean()
    extent = [np.median(middle.any(axis=other).sum(axis=0)) for other in (1, 0)]
    return {
        "width": float(extent[0] * spacing[0]),
        "depth": float(extent[1] * spacing[1]),
        "height": float(height),
    }


def _at_l3(case: Seen, spacing: np.ndarray) -> dict[str, float]:
    """Return what is measured in the slice through the middle of L3, and the aorta."""
    at = np.argwhere(case.labels == VERTEBRAE["L3"])
    if not len(at):
        return {}
    middle = np.rint(at.mean(axis=0)).astype(int)
    labels, hu = case.labels[:, :, middle[2]], case.hu[:, :, middle[2]]
    pixel = spacing[0] * spacing[1] / 100
    found = {
        f"{short}_area": float((labels == MUSCLES[name]).sum() * pixel)
        for short, name in (("erector", "erector_spinae"), ("psoas", "psoas"))
    }
    pieces, count = ndimage.label(ndimage.binary_opening(hu > -300, iterations=3))
    if count:
        trunk = pieces == 1 + np.argmax(ndimage.sum_labels(hu > -300, pieces, range(1, count + 1)))
        cut = trunk[0].any() or trunk[-1].any() or trunk[:, 0].any() or trunk[:, -1].any()
        if not cut:
            found["trunk_width"] = float(trunk.any(axis=1).sum() * spacing[0])
            found["trunk_depth"] = float(trunk.any(axis=0).sum() * spacing[1])
    if case.enhanced:
        found["aorta"] = _aorta(case, middle, spacing)
    return found


def _aorta(case: Seen, middle: np.ndarray, spacing: np.ndarray) -> float:
    low = middle + np.array([-24.0, 18.0, 0.0]) / spacing  # RAS: left is less, front is more
    high = middle + np.array([2.0, 42.0, 30.0]) / spacing
    box = tuple(
        slice(max(round(a), 0), min(round(b) + 1, n))
        for a, b, n in zip(low, high, case.hu.shape, strict=True)
    )
    part = case.hu[box].astype(np.float32)
    smooth = ndimage.gaussian_filter(part, (2.0 / spacing[0], 2.0 / spacing[1], 0))
    return float(np.percentile(smooth[smooth < 300], 90)) if (smooth < 300).any() else np.nan


def _coarse(case: Seen, spacing: np.ndarray) -> tuple[HUVolume, np.ndarray]:
    """Return HU and labels on pixels of about 2 mm: means, and the label of the middle."""
    factors = np.maximum(np.rint(COARSE_MM / spacing[:2]), 1).astype(int)
    i, j = (n // f * f for n, f in zip(case.hu.shape, factors, strict=False))
    hu = case.hu[:i, :j].reshape(i // factors[0], factors[0], j // factors[1], factors[1], -1)
    labels = case.labels[factors[0] // 2 : i : factors[0], factors[1] // 2 : j : factors[1]]
    return hu.mean(axis=(1, 3)), labels


def _noise(hu: HUVolume, inside: BoolVolume) -> float:
    both = inside[:, :, 1:] & inside[:, :, :-1]
    change = (hu[:, :, 1:].astype(float) - hu[:, :, :-1])[both]
    if change.size < 30:
        return np.nan
    return float(1.4826 * np.median(np.abs(change - np.median(change))) / np.sqrt(2))


def _mode(values: np.ndarray, between: tuple[float, float]) -> float:
    counts, edges = np.histogram(values, np.arange(between[0], between[1] + 1, 2.0))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 2.0)
    return float(edges[int(np.argmax(smooth))] + 1)


def _eroded(body: BoolVolume, spacing: np.ndarray) -> BoolVolume:
    return ndimage.distance_transform_edt(body, sampling=spacing) > ERODE_MM


def _ball(radius: float, spacing: np.ndarray) -> BoolVolume:
    reach = np.maximum(np.floor(radius / spacing[:2]), 1).astype(int)
    x, y = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    inside = (x * spacing[0]) ** 2 + (y * spacing[1]) ** 2 <= radius**2
    return inside[:, :, None]


def samples(case: Seen) -> dict[str, np.ndarray]:
    """Return the HU whose histograms are drawn, on pixels of about 2 mm."""
    spacing = np.array(voxel_spacing(case.affine))
    hu, labels = _coarse(case, spacing)
    bodies = np.isin(labels, [VERTEBRAE[level] for level in ("L1", "L2", "L3", "L4")])
    step = np.array([*(spacing[:2] * np.array(case.hu.shape[:2]) / hu.shape[:2]), spacing[2]])
    return {
        "trabecular": hu[_eroded(bodies, step)],
        "erector": hu[labels == MUSCLES["erector_spinae"]],
        "psoas": hu[labels == MUSCLES["psoas"]],
        "fat": hu[(hu > -150) & (hu < -50)],
    }


def summary(table: pd.DataFrame, ranges: dict[str, dict[str, object]]) -> pd.DataFrame:
    """Return a row a quantity: real values, range, phantoms by hospital, whether inside."""
    rows = []
    for name, entry in ranges.items():
        row: dict[str, object] = {"quantity": name, "unit": entry["unit"]}
        own = table[["name", "source", *([name] if name in table else [])]]
        if name not in own:
            continue
        real = own[own["source"] == "real"]
        row["real"] = ", ".join(f"{v:.3g}" for v in real[name] if np.isfinite(v))
        row["range"] = f"{entry['low']} to {entry['high']}"
        inside = True
        for source, part in own[own["source"] != "real"].groupby("source", sort=False):
            values = part[name].dropna()
            if values.empty:
                continue
            low, middle, high = np.percentile(values, [5, 50, 95])
            row[str(source)] = f"{middle:.3g} ({low:.3g} to {high:.3g})"
            inside &= bool(entry["low"] <= middle <= entry["high"])  # type: ignore[operator]
        row["inside"] = "yes" if inside else "no"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def histograms(groups: dict[str, list[dict[str, np.ndarray]]]) -> Figure:
    """Draw the HU of each tissue, one line a real CT, one for all phantoms of a source."""
    figure = Figure(figsize=(8.4, 5.4), layout="constrained", facecolor="white")
    for axes, (name, (low, high)) in zip(figure.subplots(2, 2).flat, SHOWN.items(), strict=True):
        edges = np.linspace(low, high, 61)
        for number, (label, parts) in enumerate(groups.items()):
            values = np.concatenate([part[name] for part in parts])
            axes.stairs(
                *np.histogram(values, edges, density=True),
                color=COLOURS[number],
                linestyle="--" if label.startswith("real") else "-",
                linewidth=1.4,
                label=label,
            )
        axes.set_title(name, fontsize=10, color=INK)
        axes.set_xlabel("HU")
        axes.set_yticks([])
        calm(axes)
    figure.axes[0].legend(frameon=False, fontsize=7, labelcolor=INK)
    return figure


def collect(cases: Iterable[Seen], source: str) -> tuple[list[dict[str, object]], list[dict]]:
    """Measure cases; return their rows and the HU to draw."""
    rows, drawn = [], []
    for case in cases:
        rows.append({"name": case.name, "source": source, **measure(case)})
        drawn.append(samples(case))
    return rows, drawn


def run(out: Path, quick: int, full: int) -> bool:
    """Measure and write all; return whether every median is inside its range."""
    ranges = yaml.safe_load((HERE / "ranges.yaml").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    rows, groups = [], {}
    data = os.environ.get("VFX_TEST_DATA")
    for case in real_cases(Path(data)) if data else ():
        own, drawn = collect([case], "real")
        rows += own
        groups[f"real: {case.name}"] = drawn
    for hospital, field, count in (
        ("development", "quick", quick),
        ("external", "quick", quick),
        ("development", "full", full),
    ):
        source = f"{hospital}, {field}"
        own, drawn = collect(phantoms(count, hospital, field), source)  # type: ignore[arg-type]
        rows += own
        groups[f"simulated: {source}"] = drawn
    table = pd.DataFrame(rows)
    table.to_csv(out / "cases.csv", index=False, float_format="%.4g")
    found = summary(table, ranges)
    found.to_csv(out / "ranges.csv", index=False)
    (out / "histograms.png").write_bytes(figure_png(histograms(groups), dpi=110))
    print(found.to_string(index=False))
    return bool((found["inside"] == "yes").all())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for tables and histograms")
    parser.add_argument("--quick", type=int, default=60, help="patients a hospital, small field")
    parser.add_argument("--full", type=int, default=6, help="patients, whole abdomen")
    args = parser.parse_args()
    raise SystemExit(0 if run(args.out, args.quick, args.full) else 1)
