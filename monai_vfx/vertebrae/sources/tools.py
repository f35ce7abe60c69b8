"""Masks by TotalSegmentator or spine-segment, where these tools are installed.

Such a tool brings other versions of this package's libraries, so it is not imported but run on a
copy of the CT: the voxels of the chosen series as NIfTI, without the patient's header. Weights are
never fetched.

TotalSegmentator: Wasserthal et al. 2023, task ``total``; its label map of whole vertebrae is kept.
spine-segment: Walle (PyPI), after Payer et al. 2020; it tells bodies from processes, and the bodies
are kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from monai_vfx.core.errors import CaseRefused, MissingDependencyError
from monai_vfx.core.files import writing
from monai_vfx.io.volume import Volume
from monai_vfx.vertebrae.sources.writing import write_label_map

STRUCTURES = (
    *(f"vertebrae_{level}" for level in ("T11", "T12", "L1", "L2", "L3", "L4", "L5")),
    *("autochthon_left", "autochthon_right", "iliopsoas_left", "iliopsoas_right"),
)
"""What is asked of TotalSegmentator, by its own names; they are in the file that it writes."""
TOTALSEGMENTATOR_WEIGHTS = ("Dataset292", "Dataset294", "Dataset298")
"""Folders of weights that version 2 needs begin so: vertebrae, muscles, a rough search."""
SPINE_WEIGHTS = (
    *("spine-locator.pt", "vertebra-locator.pt", "vertebra-segmenter.pt"),
    "process-body-segmenter.pt",
)
"""Files of weights that spine-segment needs."""
BODY = 2
"""spine-segment's label of a vertebral body in its map of bodies and processes."""
_BUNDLE_VERSION = "v0.1.0"  # names the cache's folder; the tool has had no other so far
_POINTER_BYTES = 1024  # a smaller file is a pointer of Git LFS in a checkout, no checkpoint


def run_tool(name: str, volume: Volume, path: Path) -> str:
    """Have a tool segment a CT.

    Args:
        name: ``totalsegmentator`` or ``spine-segment``.
        volume: the CT.
        path: of the label map to write, ending in ``.nii.gz``.

    Returns:
        Name and version of the tool.

    Raises:
        MissingDependencyError: it is not installed.
        CaseRefused: ``mask_not_made``, or what reading the CT raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    run = _run_totalsegmentator if name == "totalsegmentator" else _run_spine_segment
    return run(volume, path)


def _run_totalsegmentator(volume: Volume, path: Path) -> str:
    program = _find("TotalSegmentator", "totalsegmentator")
    words = _said([program, "--version"]).split()
    called = f"TotalSegmentator {words[-1] if words else 'unknown'}"
    if called.startswith("TotalSegmentator 2."):  # what another version needs is not known here
        folder = totalsegmentator_weights(os.environ)
        checkpoint = "*/fold_*/checkpoint_final.pth"
        _refuse_without(
            called,
            folder,
            [
                f"{n}_…"
                for n in TOTALSEGMENTATOR_WEIGHTS
                if not any(folder.glob(f"{n}_*/{checkpoint}"))
            ],
            "Run totalseg_download_weights -t total where there is a network and name the folder "
            "with TOTALSEG_WEIGHTS_PATH.",
        )
    with _ct_in_scratch(volume) as ct:
        made = ct.with_name("labels.nii.gz")
        command = [program, "-i", str(ct), "-o", str(made), "--ml", "--task", "total"]
        _run(called, [*command, "--roi_subset", *STRUCTURES], [made])
        with writing(path) as partial:
            shutil.copyfile(made, partial)
    return called


def _run_spine_segment(volume: Volume, path: Path) -> str:
    import nibabel as nib

    program = _find("spine-segment", "spine-segment")
    called = f"spine-segment {_version_beside(program)}"
    bundle = spine_segment_bundle(os.environ)
    files = {f"weights/{name}": bundle / "weights" / name for name in SPINE_WEIGHTS}
    _refuse_without(
        called,
        bundle,
        [n for n, f in files.items() if not f.is_file() or f.stat().st_size < _POINTER_BYTES],
        "Run spine-segment once where there is a network and name the folder of its model bundle "
        "with SPINE_SEGMENT_MODEL_BUNDLE.",
    )
    with _ct_in_scratch(volume) as ct:
        made = [ct.with_name(f"ct_{name}.nii.gz") for name in ("vertebral-level", "process-body")]
        command = [program, str(ct), "--output", str(ct.parent), "--model-bundle", str(bundle)]
        _run(called, command, made)
        levels, parts = (nib.nifti1.load(file) for file in made)
        inside = np.asarray(parts.dataobj) == BODY
        labels = np.where(inside, np.asarray(levels.dataobj), 0).astype(np.uint8)
        write_label_map(path, labels, np.asarray(levels.affine, dtype=np.float64))
    return called


def totalsegmentator_weights(environ: Mapping[str, str]) -> Path:
    """Return where TotalSegmentator looks for its weights.

    >>> totalsegmentator_weights({"TOTALSEG_HOME_DIR": "/models"}).as_posix()
    '/models/nnunet/results'
    """
    if "TOTALSEG_WEIGHTS_PATH" in environ:
        return Path(environ["TOTALSEG_WEIGHTS_PATH"])
    home = environ.get("TOTALSEG_HOME_DIR", Path.home() / ".totalsegmentator")
    return Path(home) / "nnunet" / "results"


def spine_segment_bundle(environ: Mapping[str, str]) -> Path:
    """Return the model bundle that spine-segment would use.

    >>> spine_segment_bundle({"SPINE_SEGMENT_CACHE_DIR": "/cache"}).as_posix()
    '/cache/models/v0.1.0'
    """
    if environ.get("SPINE_SEGMENT_MODEL_BUNDLE"):
        return Path(environ["SPINE_SEGMENT_MODEL_BUNDLE"])
    cache = environ.get("SPINE_SEGMENT_CACHE_DIR")
    if not cache:
        cache = str(Path(environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spine-segment")
    return Path(cache) / "models" / _BUNDLE_VERSION


def _find(program: str, mask: str) -> str:
    """Return the path of a tool's program, also in an environment that is not activated."""
    found = shutil.which(program)
    beside = Path(sys.executable).with_name(program)
    if found is None and beside.is_file():
        return str(beside)
    if found is None:
        raise MissingDependencyError(program, f"pip install {program}", f"for --mask {mask}")
    return found


def _version_beside(program: str) -> str:
    """Return spine-segment's version: it states none, but the interpreter in its first line can."""
    with Path(program).open("rb") as script:
        first = script.readline(400).decode("utf-8", errors="replace").strip()
    if not first.startswith("#!"):
        return "unknown"
    question = "from importlib.metadata import version; print(version('spine-segment'))"
    return _said([*first[2:].split(), "-c", question]) or "unknown"


def _said(words: Sequence[str]) -> str:
    """Return what a program prints; nothing where it fails."""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:  # the interpreter is gone: running the tool will fail with a reason
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


@contextmanager
def _ct_in_scratch(volume: Volume) -> Iterator[Path]:
    """Yield a copy of the CT as NIfTI, int16 HU; the tool may write to its folder."""
    import nibabel as nib

    hu = np.clip(np.rint(volume.read()), -32768, 32767).astype(np.int16)
    image = nib.Nifti1Image(hu, volume.affine)
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    with tempfile.TemporaryDirectory(prefix="vfx_") as scratch:
        path = Path(scratch) / "ct.nii.gz"
        nib.save(image, path)
        yield path


def _run(called: str, words: Sequence[str], made: Sequence[Path]) -> None:
    """Run a tool; refuse with what it said last unless it leaves the files ``made``."""
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode != 0 or not all(path.is_file() for path in made):
        said = (ended.stderr.strip() or ended.stdout.strip() or "nothing").splitlines()[-1]
        raise CaseRefused(
            "mask_not_made",
            f"{called} ended with status {ended.returncode} and no label map; "
            f"it said: {said.replace(str(made[0].parent), '')[:200]}",
        )


def _refuse_without(called: str, folder: Path, missing: Sequence[str], remedy: str) -> None:
    if missing:
        text = f"{called} finds no weights in {folder}: missing are {', '.join(missing)}"
        raise CaseRefused("mask_not_made", text, remedy)
