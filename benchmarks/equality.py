r"""Same inputs, same results: run one set of commands with two checkouts and compare the files.

    python -m benchmarks.equality OLD NEW --out runs/equality [--data DIR] [--stages predict,…]

``OLD`` and ``NEW`` are checkouts with a virtual environment in ``.venv``. Every stage runs in both,
unless its folder is finished. The inputs are the old checkout's: simulated hospitals and tables,
under the column names that each side reads; weights are each side's own, compared first. Compared
are JSON and CSV (numbers exactly, or within 1e-9 in the stages that ``benchmarks/equality.yaml``
names with a reason), NIfTI (voxels and affines), DICOM pixels and checkpoints (every tensor). Names
that differ on purpose are in the same file, as is every accepted difference with its reason. Exit
status 1 if any other remains.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import torch
import yaml

RULES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
IGNORED: list[str] = RULES["ignored_fields"]
RENAMED: dict[str, str] = RULES["renamed"]
COMPARED: dict[str, str] = {}
ACCEPTED: list[dict[str, str]] = RULES["accepted"]


@dataclass(frozen=True)
class Side:
    """One checkout and what it calls things."""

    root: Path
    out: Path
    data: Path | None
    renamed: bool

    @property
    def columns(self) -> dict[str, str]:
        """Return the old columns that identify → this side's."""
        new = ("case_id", "patient_id", "pair_id") if self.renamed else ("case", "patient", "pair")
        return dict(zip(("case", "patient", "pair"), new, strict=True))

    @property
    def bundle(self) -> Path:
        """Return the folder of the risk model's bundle."""
        ending = "_ct_classification" if self.renamed else ""
        return self.root / "bundles" / f"vertebral_fracture_risk{ending}"

    def weights(self, name: str) -> Path:
        """Return this side's own checkpoint; that both have equal tensors is compared first."""
        return self.out.parent / "train" / name / "model.pt"

    def word(self, old: str) -> str:
        """Return an option or command of the old side as this side has it."""
        return RENAMED.get(old, old) if self.renamed else old

    def vfx(self, *arguments: object, refused: bool = False) -> None:
        """Run the command line; with ``refused`` exit status 3 is right as well."""
        self.call(
            self.root / ".venv/bin/vfx",
            *(self.word(str(a)) for a in arguments),
            ok=(0, 3) if refused else (0,),
        )

    def call(self, *command: object, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> None:
        """Run a program of this side."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words, cwd=cwd or self.out, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        if done.returncode not in ok:
            raise SystemExit(f"exit status {done.returncode}: {' '.join(words)}")

    def table(
        self,
        source: Path,
        target: str,
        edit: Callable[[list[str], list[list[str]]], None] | None = None,
    ) -> Path:
        """Write a table of the old side under this side's names, with absolute image paths."""
        with source.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        if edit:
            edit(header, rows)
        for name in ("image", "mask"):
            if name in header:
                place = header.index(name)
                for row in rows:
                    row[place] = str((source.parent / row[place]).resolve()) if row[place] else ""
        path = self.out / target
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [[self.columns.get(h, h) for h in header], *rows]
            )
        return path


def simulate(side: Side, _: Path) -> None:
    """Two hospitals with images, a table without."""
    for name, options in {
        "home": (
            "--patients",
            24,
            "--seed",
            3,
            "--format",
            "nifti",
            "--field-of-view",
            "quick",
            "--signal",
            "strong",
        ),
        "dicom": (
            "--patients",
            2,
            "--seed",
            5,
            "--field-of-view",
            "full",
            "--hospital",
            "external",
        ),
        "table": ("--registry", "--seed", 1),
    }.items():
        side.vfx("simulate", side.out / name, *options)


def train(side: Side, old: Path) -> None:
    """A network on both inputs and one on bone, two epochs."""
    cohort = side.table(old / "simulate/home/cohort.csv", "cohort.csv")
    small = (
        "--overlay",
        "cpu_small",
        "--overlay",
        side.root / "examples/quick_overlay.yaml",
        "--pretrained",
        "none",
    )
    for name, more in {
        "bone_muscle": (),
        "bone_only": ("--overlay", "bone_only"),
        "clinical": ("--overlay", "clinical_A"),
    }.items():
        side.vfx(
            "train",
            cohort,
            "--out",
            side.out / name,
            "--fold",
            0,
            "--folds",
            3,
            "--epochs",
            2,
            *small,
            *more,
        )


def _case(old: Path, number: int) -> tuple[Path, Path]:
    with (old / "simulate/home/cohort.csv").open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[number]
    folder = old / "simulate/home"
    return folder / row["image"], folder / row["mask"]


def predict(side: Side, old: Path) -> None:
    """One CT by an ensemble with heat maps and exports; many by a manifest."""
    weights = [side.weights(name) for name in ("bone_muscle", "bone_only")]
    image, mask = _case(old, 1)
    given = ("--mask", mask, "--no-compare-mask")
    side.vfx(
        "predict",
        image,
        *given,
        "--weights",
        weights[0],
        "--weights",
        weights[1],
        "--explain",
        "--export",
        "fhir",
        "--out",
        side.out / "ensemble",
    )
    side.vfx(
        "explain",
        image,
        *given,
        "--weights",
        weights[0],
        "--beside",
        weights[1],
        "--out",
        side.out / "explain",
    )
    series = next((old / "simulate/dicom/images").iterdir())
    side.vfx(
        "predict",
        series,
        "--weights",
        weights[0],
        "--explain",
        "--export",
        "dicom",
        "--out",
        side.out / "series",
        refused=True,
    )
    manifest = side.table(old / "simulate/home/cohort.csv", "manifest.csv", _first(6))
    side.vfx(
        "batch",
        manifest,
        "--weights",
        weights[0],
        "--no-compare-mask",
        "--out",
        side.out / "many",
        refused=True,
    )


def _first(count: int) -> Callable[[list[str], list[list[str]]], None]:
    def edit(header: list[str], rows: list[list[str]]) -> None:
        keep = [header.index(name) for name in ("case", "image", "mask")]
        header[:] = [header[n] for n in keep]
        rows[:] = [[row[n] for n in keep] for row in rows[:count]]

    return edit


def real(side: Side, old: Path) -> None:
    """The real CT: segmentation, check, prediction, heights."""
    if side.data is None:
        return
    weights = side.weights("bone_muscle")
    for name in ("tcga_ov_abdomen", "tcga_coad_abdomen"):
        folder = side.out / "input" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            side.call("tar", "-xf", side.data / name / "dicom.tar.xz", "-C", folder)
        side.vfx("localise", folder, "--out", side.out / name / "segment", refused=True)
        side.vfx(
            "check",
            folder,
            "--json",
            side.out / name / "check.json",
            "--out",
            side.out / name / "check",
            refused=True,
        )
        side.vfx(
            "predict",
            folder,
            "--weights",
            weights,
            "--explain",
            "--export",
            "dicom",
            "--out",
            side.out / name / "predict",
            refused=True,
        )
        side.vfx("morphometry", folder, "--out", side.out / name / "heights", refused=True)
    given = side.data / "tcga_ov_abdomen"
    folder = side.out / "input/tcga_ov_abdomen"
    side.vfx(
        "predict",
        folder,
        "--mask",
        given / "vertebral_bodies.nii.gz",
        "--weights",
        weights,
        "--explain",
        "--out",
        side.out / "given",
    )
    small = side.data / "totalseg_example"
    for mask in ("v1_masks", "seg_v2_117class_fast.nii.gz"):
        side.vfx(
            "check",
            small / "ct.nii.gz",
            "--mask",
            small / mask,
            "--no-compare-mask",
            "--json",
            side.out / f"small_{mask}.json",
            refused=True,
        )


def tables(side: Side, old: Path) -> None:
    """Every command that takes a table."""
    source = old / "simulate/table/cohort.csv"
    chosen = side.table(
        source, "patients.csv", lambda _, rows: rows.__setitem__(slice(None), rows[:6000])
    )
    side.vfx("cohort", chosen, "--out", side.out / "cohort", "--folds", 3, "--set", "caliper=0.5")
    selected = old / "tables/cohort/selected.csv"
    side.vfx(
        "clinical",
        side.table(selected, "selected.csv"),
        "--out",
        side.out / "clinical",
        "--folds",
        3,
    )
    scores = side.table(old / "tables/clinical/predictions.csv", "scores.csv")
    names = scores.read_text(encoding="utf-8").splitlines()[0].split(",")
    wanted = [name for name in names if name.startswith("clinical_")][:3]
    options = [word for name in wanted for word in ("--score", name)]
    side.vfx(
        "evaluate",
        scores,
        "--label",
        "fracture",
        *options,
        "--out",
        side.out / "evaluate",
        "--bootstrap",
        200,
    )
    population = (
        side.table(old / "tables/cohort/eligible.csv", "eligible.csv")
        if (old / "tables/cohort/eligible.csv").exists()
        else chosen
    )
    side.vfx(
        "calibrate",
        scores,
        "--score",
        wanted[0],
        "--population",
        population,
        "--out",
        side.out / "calibrate",
        refused=True,
    )


def study(side: Side, _: Path) -> None:
    """The quick study on two simulated hospitals, whole."""
    side.vfx("study", side.root / "examples/quick_study.yaml", "--out", side.out / "quick")


def bundle(side: Side, old: Path) -> None:
    """The bundle by MONAI's own command line: inference and heat maps."""
    image, mask = _case(old, 2)
    run = (side.root / ".venv/bin/python", "-m", "monai.bundle", "run")
    more = (
        "--meta_file",
        "configs/metadata.json",
        "--image",
        image,
        "--mask",
        mask,
        "--weights",
        side.weights("bone_muscle"),
    )
    configs = {
        "inference": "['configs/common.yaml','configs/inference.yaml']",
        "explaining": "['configs/common.yaml','configs/inference.yaml','configs/gradcam.yaml']",
    }
    for job, files in configs.items():
        side.call(
            *run,
            job,
            "--config_file",
            files,
            *more,
            "--output_dir",
            side.out / job,
            cwd=side.bundle,
        )


STAGES: dict[str, Callable[[Side, Path], None]] = {
    "simulate": simulate,
    "train": train,
    "predict": predict,
    "real": real,
    "tables": tables,
    "study": study,
    "bundle": bundle,
}


def new_name(path: str) -> str:
    """Return where the new side has a file of the old."""
    return "/".join(RENAMED.get(p, p) if "." in p else p for p in path.split("/"))


def kind_of(path: Path) -> str:
    """Return the ending that says what a file holds."""
    return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix


def compare(old: Path, new: Path) -> Iterator[tuple[str, str]]:
    """Yield every difference as its file and what differs."""
    files = sorted(
        p.relative_to(old).as_posix()
        for p in old.rglob("*")
        if p.is_file() and "input" not in p.relative_to(old).parts
    )
    for name in files:
        if any(fnmatch.fnmatch(name, pattern) for pattern in RULES["not_compared"]):
            continue
        other = new / new_name(name)
        if not other.is_file():
            yield name, "is missing"
            continue
        COMPARED[name] = kind_of(other)
        for difference in _differences(old / name, other):
            yield name, difference


def _differences(first: Path, second: Path) -> Iterator[str]:
    kind = kind_of(first)
    if kind == ".json":
        a, b = (json.loads(p.read_text(encoding="utf-8")) for p in (first, second))
        yield from _values(a, b, "")
    elif kind == ".jsonl":
        a, b = (
            [json.loads(line) for line in p.read_text(encoding="utf-8").splitlines()]
            for p in (first, second)
        )
        yield from _values(a, b, "")
    elif kind == ".csv":
        a, b = (list(csv.DictReader(p.open(encoding="utf-8"))) for p in (first, second))
        yield from _values(a, b, "")
    elif kind in (".nii.gz", ".nii"):
        yield from _images(nib.load(first), nib.load(second))
    elif kind in (".dcm", ""):
        yield from _dicom(first, second)
    elif kind == ".pt":
        yield from _tensors(first, second)
    elif first.read_bytes() != second.read_bytes():
        yield "other bytes"


def _values(a: Any, b: Any, where: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key, value in a.items():
            if key in IGNORED:
                continue
            name = RENAMED.get(key, key)
            if name not in b and key in b:
                name = key
            if name not in b:
                yield f"{where}/{key} is missing"
            else:
                yield from _values(value, b[name], f"{where}/{key}")
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{where}: {len(a)} entries, {len(b)} now"
        for n, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from _values(x, y, f"{where}/{n}")
    elif not _same(a, b):
        yield f"{where}: {a!r}, now {b!r}"


def _same(a: Any, b: Any) -> bool:
    if a == b or (isinstance(a, str) and isinstance(b, str) and RENAMED.get(a, a) == b):
        return True
    try:
        x, y = float(a), float(b)
    except (TypeError, ValueError):
        if isinstance(a, str) and isinstance(b, str):
            return re.sub(r"\w+", lambda m: RENAMED.get(m[0], m[0]), a) == b
        return False
    return (math.isnan(x) and math.isnan(y)) or (
        math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9) and (x == y or _loose)
    )


_loose = False


def _images(a: Any, b: Any) -> Iterator[str]:
    if a.shape != b.shape or not np.array_equal(a.affine, b.affine):
        yield "another grid"
    elif not np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj)):
        yield f"{int((np.asarray(a.dataobj) != np.asarray(b.dataobj)).sum())} voxels differ"


def _dicom(first: Path, second: Path) -> Iterator[str]:
    try:
        a, b = (pydicom.dcmread(p) for p in (first, second))
    except pydicom.errors.InvalidDicomError:
        return
    if "PixelData" in a and not np.array_equal(a.pixel_array, b.pixel_array):
        yield "pixels differ"


def _tensors(first: Path, second: Path) -> Iterator[str]:
    a, b = (torch.load(p, weights_only=True, map_location="cpu") for p in (first, second))
    a, b = a.get("network", a), b.get("network", b)
    if a.keys() != b.keys():
        yield "other keys"
    yield from (f"{key} differs" for key in a if key in b and not torch.equal(a[key], b[key]))


def main() -> int:
    """Run what is missing, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=os.environ.get("VFX_TEST_DATA"))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--only", choices=("old", "new"), help="run this side and compare nothing")
    options = parser.parse_args()
    left = 0
    for stage in options.stages.split(","):
        for name, root in (("old", options.old), ("new", options.new)):
            out = (options.out / name / stage).resolve()
            if options.only not in (None, name) or (out / "DONE").exists():
                continue
            out.mkdir(parents=True, exist_ok=True)
            data = None if options.data is None else Path(options.data).resolve()
            STAGES[stage](
                Side(root.resolve(), out, data, name == "new"), (options.out / "old").resolve()
            )
            (out / "DONE").touch()
        if options.only is None:
            left += _report(stage, options.out)
    print("no difference but the accepted ones" if not left else f"{left} differences")
    return bool(left)


def _report(stage: str, out: Path) -> int:
    global _loose
    left = 0
    _loose = bool(RULES["within_1e-9"].get(stage))
    COMPARED.clear()
    for name, what in compare(out / "old" / stage, out / "new" / stage):
        line = f"{stage}/{name}: {what}"
        reasons = [a["reason"] for a in ACCEPTED if fnmatch.fnmatch(line, a["line"])]
        left += not reasons
        print(line + (f"  (accepted: {reasons[0]})" if reasons else ""), flush=True)
    kinds = ", ".join(f"{n} {kind or 'nameless'}" for kind, n in Counter(COMPARED.values()).items())
    print(f"{stage}: compared {kinds or 'nothing'}", flush=True)
    return left


if __name__ == "__main__":
    sys.exit(main())
