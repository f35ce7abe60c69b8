"""The segmentation on synthetic CT of unseen people: names, bodies, refusals, time and memory.

    python -m benchmarks.segmentation.synthetic --cases 200 --out run --workers 2

Each case is drawn, written as a NIfTI file and segmented as ``vfx`` does it. ``run/cases.csv`` has
one row a case, of refused ones with the names that they would have had; a run that was stopped goes
on where it was. Of cases that were refused though T12-L4 are in view, named wrong or segmented
badly, ``run/pictures`` keeps a picture. ``--evidence-only`` leaves bodies and pictures out; what
naming saw of each case is always kept in ``run/evidence`` (see calibrate.py, which needs
``--series calibration``).
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import multiprocessing
import os
import resource
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.segmentation.assessment import (
    body_agreement,
    by_convention,
    label_centres,
    levels_at_edge,
    names_right,
)
from benchmarks.segmentation.cases import Case, make_case, study_in_view
from benchmarks.segmentation.pictures import draw_case
from benchmarks.segmentation.watching import ACCEPTED, Watched, watched_segment
from monai_vfx.core.anatomy import LEVEL_NAMES, LEVELS, VERTEBRAE
from monai_vfx.core.files import write_json
from monai_vfx.core.hashing import sha256_of
from monai_vfx.io.volume import open_volume
from monai_vfx.vertebrae.segmentation.networks import NETWORKS, bundle_root

MEASURED = (*LEVELS, "L5")
STUDY = [VERTEBRAE[level] for level in LEVELS]
SAME_BODY_MM = 15.0
"""A body found this near to a true one's centre is that one; neighbours stand 25 mm apart."""
GOOD_DICE = 0.8
"""Accepted cases with a level below this are drawn."""
COLUMNS = (
    *("case_id", "field_of_view", "thickness_mm", "pixel_mm", "noise_hu", "enhanced", "circle"),
    *("oblique", "slices", "thoracic", "lumbar", "last_ribs_mm", "variants", "scoliosis_deg"),
    *("fractured", "true_levels", "in_view", "found_levels", "outcome", "confidence", "right"),
    *("right_strict", "sacrum_seen", "worst_dice"),
    *(f"{kind}_{level}" for kind in ("dice", "centre_mm") for level in MEASURED),
    *("seconds", "peak_mb", "message"),
)


@dataclass(frozen=True)
class Settings:
    """Of a run.

    Attributes:
        series: of the people.
        weights: folder of the networks; None for the shipped ones.
        out: folder of the run.
        threads: of torch, a process.
        evidence_only: no comparison of bodies, no pictures.
    """

    series: str
    weights: Path | None
    out: Path
    threads: int
    evidence_only: bool


def run_case(number: int, settings: Settings) -> dict[str, Any]:
    """Make and segment one case and return its row."""
    torch.set_num_threads(settings.threads)
    case = make_case(settings.series, number)
    row = describe(number, case)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "ct.nii"
        nib.save(nib.Nifti1Image(case.hu, case.affine), path)
        reset_peak()
        start = time.perf_counter()
        try:
            seen = watched_segment(open_volume(path), settings.weights)
        except Exception as error:  # a defect must not end the run, and must be seen in its table
            traceback.print_exc()
            return row | {"outcome": "internal", "message": repr(error)[:200]}
        row |= {"seconds": round(time.perf_counter() - start, 2), "peak_mb": round(peak_mb())}
    row |= judge(case, seen, bodies=not settings.evidence_only)
    write_json(settings.out / "evidence" / f"{number:06d}.json", evidence(case, seen))
    poor = not row.get("right") or row.get("worst_dice", 1.0) < GOOD_DICE
    accepted = row["outcome"] == ACCEPTED
    if not settings.evidence_only and (poor if accepted else row["in_view"]):
        title = f"case {number}: {row['outcome']}, {row['field_of_view']}, {row['thickness_mm']} mm"
        draw_case(case, seen.labels, title, settings.out / "pictures" / f"{number:06d}.png")
    gc.collect()
    return row


def describe(number: int, case: Case) -> dict[str, Any]:
    """Return what is known before anything is segmented."""
    plan, scan = case.plan, case.conditions
    present = [int(v) for v in np.unique(case.truth) if v]
    centres = label_centres(case.truth, case.affine)
    ordered = sorted(present, key=lambda value: -centres[value][2])
    conventional = by_convention(case.truth)
    return {
        "case_id": number,
        "field_of_view": scan.field_of_view,
        "thickness_mm": scan.thickness_mm,
        "pixel_mm": scan.pixel_mm,
        "noise_hu": scan.noise_hu,
        "enhanced": "" if case.enhanced is None else int(case.enhanced),
        "circle": int(scan.circle),
        "oblique": int(any(scan.turn_deg)),
        "slices": case.hu.shape[2],
        "thoracic": plan.thoracic,
        "lumbar": plan.lumbar,
        "last_ribs_mm": " ".join(f"{x:.0f}" for x in plan.ribs.get(f"T{plan.thoracic}", (0, 0))),
        "variants": " ".join(sorted(plan.variants)),
        "scoliosis_deg": round(plan.scoliosis, 1),
        "fractured": " ".join(f"{level}:{kind}" for level, kind in plan.fractured.items()),
        "true_levels": " ".join(LEVEL_NAMES.get(value, str(value)) for value in ordered),
        "in_view": int(study_in_view(conventional, levels_at_edge(conventional))),
    }


def judge(case: Case, seen: Watched, *, bodies: bool) -> dict[str, Any]:
    """Compare what was found with the truth; of refused cases, what the names would have been."""
    out: dict[str, Any] = {"outcome": seen.outcome, "message": seen.message[:200]}
    if seen.chain is None or seen.naming is None or seen.labels is None:
        return out
    conventional = by_convention(case.truth)
    out |= {
        "confidence": round(seen.naming.confidence, 6),
        "found_levels": " ".join(seen.naming.names),
        "sacrum_seen": round(seen.chain.sacrum, 3),
    }
    for name, truth in (("right", conventional), ("right_strict", case.truth)):
        all_found = set(LEVELS) <= set(seen.naming.names)
        out[name] = int(all_found and names_right(truth, seen.labels, STUDY))
    if bodies:
        levels = {name: VERTEBRAE[name] for name in MEASURED}
        compared = body_agreement(conventional, seen.labels, case.affine, levels)
        for name, one in compared.items():
            out[f"dice_{name}"] = round(one.dice, 4)
            out[f"centre_mm_{name}"] = round(one.centre_error_mm, 2)
        study = [one.dice for name, one in compared.items() if name in LEVELS]
        out |= {"worst_dice": round(min(study), 4)} if study else {}
    return out


def true_names(
    truth: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], centres: np.ndarray[Any, Any]
) -> list[str | None]:
    """Return the true name of the body at each centre (n, 3) in mm, None where there is none."""
    known = label_centres(truth, affine)
    values = list(known)
    places = np.array([known[value] for value in values]).reshape(-1, 3)
    names: list[str | None] = []
    for centre in centres:
        apart = np.linalg.norm(places - centre, axis=1)
        near = apart.size and apart.min() <= SAME_BODY_MM
        names.append(LEVEL_NAMES.get(values[int(apart.argmin())]) if near else None)
    return names


def evidence(case: Case, seen: Watched) -> dict[str, Any]:
    """Return what naming saw beside the truth, as calibrate.py reads it."""
    chain = seen.chain
    conventional = by_convention(case.truth)
    bodies: list[dict[str, Any]] = []
    if chain is not None:
        true = true_names(case.truth, case.affine, seen.centres_mm)
        bodies = [
            {**asdict(body), "centre_mm": list(map(float, centre)), "true": name}
            for body, centre, name in zip(chain.bodies, seen.centres_mm, true, strict=True)
        ]
    document = {
        "outcome": seen.outcome,
        "confidence": None if seen.naming is None else seen.naming.confidence,
        "names": [] if seen.naming is None else list(seen.naming.names),
        "sacrum": None if chain is None else chain.sacrum,
        "bodies": bodies,
        "thoracic": case.plan.thoracic,
        "lumbar": case.plan.lumbar,
        "ribs_mm": {name: list(map(float, both)) for name, both in case.plan.ribs.items()},
        "in_view": study_in_view(conventional, levels_at_edge(conventional)),
        "conditions": asdict(case.conditions),
    }
    return json.loads(json.dumps(document, default=float))


def reset_peak() -> None:
    """Let the kernel forget this process's largest resident set, where it can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_mb() -> float:
    """Return the largest resident set since :func:`reset_peak`; else of the process's life."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def note_run(settings: Settings) -> None:
    """Record what a run is about; refuse to add rows of other weights or people to it.

    Raises:
        SystemExit: the folder holds another run.
    """
    folder = settings.weights or bundle_root() / "models"
    facts = {
        "series": settings.series,
        "weights_sha256": {name: sha256_of(folder / f"{name}.safetensors") for name in NETWORKS},
        "threads": settings.threads,
        "evidence_only": settings.evidence_only,
    }
    record = settings.out / "run.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != facts:
        raise SystemExit(f"{settings.out} holds a run with other settings or weights")
    write_json(record, facts)


def numbers_done(table: Path) -> set[int]:
    """Return the cases that a table has."""
    if not table.is_file():
        return set()
    with table.open(newline="", encoding="utf-8") as file:
        return {int(row["case_id"]) for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--series", default="test", help="other people for each name")
    parser.add_argument("--weights", type=Path, help="folder of the two networks")
    parser.add_argument("--out", type=Path, default=Path("segmentation_synthetic"))
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each process")
    parser.add_argument("--evidence-only", action="store_true")
    arguments = parser.parse_args()
    settings = Settings(
        arguments.series,
        arguments.weights,
        arguments.out,
        arguments.threads,
        arguments.evidence_only,
    )
    note_run(settings)
    table = settings.out / "cases.csv"
    done = numbers_done(table)
    numbers = [
        number
        for number in range(arguments.first, arguments.first + arguments.cases)
        if number not in done
    ]
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # of the workers, from their start on
    context = multiprocessing.get_context("spawn")
    with (
        table.open("a", newline="", encoding="utf-8") as file,
        ProcessPoolExecutor(arguments.workers, mp_context=context) as pool,
    ):
        rows = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if not done:
            rows.writeheader()
        jobs = [pool.submit(run_case, number, settings) for number in numbers]
        for job in tqdm(as_completed(jobs), "cases", len(jobs), mininterval=10):
            rows.writerow(job.result())
            file.flush()


if __name__ == "__main__":
    main()
