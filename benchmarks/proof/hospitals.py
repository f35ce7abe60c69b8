"""Patients of the experiment: drawn, scanned and prepared in chunks, of which only crops stay.

A set of 7,200 CTs would fill the disk many times over as raw images and takes an hour to make, so
each chunk is simulated, taken through the bundle's own chain into the cache of prepared images
that training and evaluation read, and emptied: image and mask keep name, size and time, by which
the cache knows them, and lose their content. A chain that was not prepared for therefore refuses
the case as unreadable; nothing is ever scored on an empty image.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from monai.bundle import ConfigParser
from monai.transforms import Compose
from plan import PatientSet

from monai_vfx.analysis.clinical.imaging import IMAGING_VARIABLES, feature_table
from monai_vfx.analysis.cohort.training_items import read_cohort
from monai_vfx.core.errors import find_refusal
from monai_vfx.core.files import write_json
from monai_vfx.model.bundle.datasets import PreparedImages
from monai_vfx.model.bundle.overlays import config_files, training_configs
from monai_vfx.simulation.hospital import simulate_hospital
from monai_vfx.simulation.phantom import EDGE_SD_MM
from monai_vfx.workflows.run_bundle import quiet

TABLES = ("cohort.csv", "truth.csv", "features.csv")
Variant = Callable[[Path, pd.DataFrame], None]


def chunks(patients: PatientSet, size: int) -> list[tuple[int, int, int]]:
    """Return (number, patients, seed) of each chunk; a rest of one patient joins the one before.

    >>> chunks(PatientSet("held_out", "development", "paper", 9, 12000, True), 4)
    [(0, 4, 12000), (1, 5, 12001)]
    """
    starts = list(range(0, patients.patients, size))
    if len(starts) > 1 and patients.patients - starts[-1] < 2:
        starts.pop()
    ends = [*starts[1:], patients.patients]
    return [
        (number, end - start, patients.seed + number)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def simulate_chunk(
    folder: Path, patients: PatientSet, count: int, seed: int, mask_error_mm: float = EDGE_SD_MM
) -> pd.DataFrame:
    """Write a chunk's CTs, masks and tables anew; return the cohort with absolute paths."""
    if folder.exists():
        shutil.rmtree(folder)
    simulate_hospital(
        folder,
        patients=count,
        seed=seed,
        hospital=patients.hospital,
        signal=patients.signal,
        file_format="nifti",
        field_of_view=patients.field_of_view,  # type: ignore[arg-type]
        workers=1,
        mask_error_mm=mask_error_mm,
    )
    table = pd.read_csv(folder / "cohort.csv", dtype={"case_id": str})
    for name in ("image", "mask"):
        table[name] = [str((folder / path).resolve()) for path in table[name]]
    return table


def make_chunk(
    folder: Path,
    patients: PatientSet,
    count: int,
    seed: int,
    chains: Sequence[Sequence[str]],
    cache: Path,
    keep: bool = False,
) -> list[Path]:
    """Simulate a chunk, measure it, prepare it by each chain, and empty its images.

    Args:
        folder: of the chunk.
        patients: the set that it belongs to.
        count: patients of the chunk.
        seed: of the chunk.
        chains: overlays of each training whose images are prepared.
        cache: folder of prepared images.
        keep: leave the images as they are, for chains to come.

    Returns:
        The tables that stay.
    """
    table = simulate_chunk(folder, patients, count, seed)
    features, refused = feature_table(table)
    features[["case_id", *IMAGING_VARIABLES]].to_csv(folder / "features.csv", index=False)
    facts: dict[str, Any] = {"patients": count, "seed": seed, "unmeasured": refused, "refused": []}
    for overlays in chains:
        facts["refused"] += prepare(folder / "cohort.csv", overlays, cache)
    if not keep:
        for name in (*table["image"], *table["mask"]):
            empty(Path(name))
    write_json(folder / "chunk.json", facts)
    mark = cache / f"{patients.name}.{folder.name}"  # goes with the crops: then all is made again
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return [*(folder / name for name in TABLES), folder / "chunk.json", mark]


def prepare(cohort: Path, overlays: Sequence[str], cache: Path) -> list[str]:
    """Take a table's images through the deterministic part of a training's chain into the cache.

    Returns:
        ``case: code`` of each refused case.
    """
    names, settings = training_configs(overlays)
    parser = ConfigParser()
    parser.read_config(config_files(names))
    parser.update(settings)
    with quiet():
        chain = Compose(parser.get_parsed_content("deterministic_transforms"))
    prepared = PreparedImages(cache, parser.get_parsed_content("model_settings"))
    refused = []
    for item in read_cohort(cohort):
        try:
            prepared(item, lambda item=item: chain(dict(item)))  # type: ignore[misc]
        except Exception as error:
            refusal = find_refusal(error)
            if refusal is None:
                raise
            refused.append(f"{item['case_id']}: {refusal.code}")
    return refused


def empty(path: Path) -> None:
    """Take a file's content and leave its name, size and time."""
    state = path.stat()
    os.truncate(path, 0)
    os.truncate(path, state.st_size)  # a hole: no block of the disk
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def blocks(patients: PatientSet, chunk: int, block: int) -> list[list[tuple[int, int, int]]]:
    """Group a set's chunks: all in one where its crops are kept, else by so many patients."""
    parts = chunks(patients, chunk)
    step = len(parts) if patients.kept else max(1, block // chunk)
    return [parts[start : start + step] for start in range(0, len(parts), step)]


def merge(folder: Path, numbers: Sequence[int], name: str, target: str) -> None:
    """Join one of the tables of some chunks; a case's name begins with its chunk's number.

    Args:
        folder: of the set.
        numbers: of the chunks.
        name: one of :data:`TABLES`.
        target: file to write.
    """
    parts = []
    for number in numbers:
        part = pd.read_csv(folder / f"chunk_{number:03d}" / name, dtype={"case_id": str})
        part["case_id"] = [f"{number:03d}_{case}" for case in part["case_id"]]
        if name == "cohort.csv":
            part["patient_id"] = part["case_id"]
            for column in ("image", "mask"):
                part[column] = [f"chunk_{number:03d}/{path}" for path in part[column]]
        parts.append(part)
    pd.concat(parts, ignore_index=True).to_csv(folder / target, index=False)


def training_tables(
    folder: Path, first: Sequence[int], permutations: int = 0, seed: int = 0
) -> None:
    """Write the tables that networks are trained on beside the whole set.

    Args:
        folder: of the set.
        first: numbers N of ``first_N.csv``, N/2 of each outcome.
        permutations: even number of ``permuted_k.csv``, outcomes shuffled between neighbours in
            true risk. A free shuffle (``permuted.csv``) keeps a chance association with the risk,
            of a correlation of about 0.03 with 1,214 patients. An AUROC does not see how faint a
            score is, so that chance alone can move it by 0.1 where the image shows the risk well.
            Every second one is the mirror of the one before, in which the other patient of each
            pair has the fracture: chance associations are opposite in the two.
        seed: of the shuffles.
    """
    table, truth = (
        pd.read_csv(folder / name, dtype={"case_id": str}) for name in ("cohort.csv", "truth.csv")
    )
    rng = np.random.default_rng(seed)
    outcomes = {"permuted": rng.permutation(table["fracture"].to_numpy())}
    risk = (
        table[["case_id"]].merge(truth, on="case_id", validate="1:1")["five_year_risk"].to_numpy()
    )
    for number in range(0, permutations, 2):
        shuffled = between_neighbours(risk, rng)
        outcomes |= {f"permuted_{number}": shuffled, f"permuted_{number + 1}": 1 - shuffled}
    for name, outcome in outcomes.items():
        table.assign(fracture=outcome).to_csv(folder / f"{name}.csv", index=False)
    for count in first:
        rows = [table.index[table["fracture"] == value][: count // 2] for value in (0, 1)]
        table.loc[np.sort(np.concatenate(rows))].to_csv(folder / f"first_{count}.csv", index=False)


def between_neighbours(
    risk: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return an outcome for each patient: of two neighbours in risk one at random has a fracture.

    Args:
        risk: (n,) of the patients.
        rng: source.

    Returns:
        (n,) of 0 and 1, half of each; with an odd number the highest risk has none.
    """
    order = np.argsort(risk, kind="stable")
    outcome = np.zeros(len(risk), dtype=np.int64)
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    outcome[pairs[np.arange(len(pairs)), rng.integers(0, 2, len(pairs))]] = 1
    return outcome
