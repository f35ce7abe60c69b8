"""Masks by spine-segment, where that tool is installed.

Walle, "spine-segment" (PyPI): segments, names and segments vertebrae after Payer et al. 2020, and
tells bodies from processes. Its weights (``weights/*.pt``, a "model bundle") lie in the folder that
its variable ``SPINE_SEGMENT_MODEL_BUNDLE`` names, else in its cache.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from monai_vfx.io.volume import Volume
from monai_vfx.vertebrae.sources.label_map import write_label_map
from monai_vfx.vertebrae.sources.tools import (
    ct_in_scratch,
    find_program,
    refuse_without_weights,
    run_program,
)

PROGRAM = "spine-segment"
INSTALL = "pip install spine-segment"
BODY = 2
"""The tool's label of a vertebral body in its map of bodies and processes."""

WEIGHTS = (
    *("spine-locator.pt", "vertebra-locator.pt", "vertebra-segmenter.pt"),
    "process-body-segmenter.pt",
)
"""Files of weights that it needs."""

_BUNDLE_VERSION = "v0.1.0"  # names the cache's folder; the tool has had no other so far
_POINTER_BYTES = 1024  # a smaller file is a pointer of Git LFS in a checkout, no checkpoint


def find_tool() -> tuple[str, str]:
    """Return the tool's path and its version, ``unknown`` where that cannot be found out.

    The program states no version; the interpreter that its first line names knows it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    found = find_program(PROGRAM, INSTALL, PROGRAM)
    with Path(found).open("rb") as script:
        first = script.readline(400).decode("utf-8", errors="replace").strip()
    if not first.startswith("#!"):
        return found, "unknown"
    question = f"from importlib.metadata import version; print(version({PROGRAM!r}))"
    try:
        stated = subprocess.run(
            [*first[2:].split(), "-c", question], capture_output=True, text=True, check=False
        )
    except OSError:  # the interpreter is gone: running the tool will say so
        return found, "unknown"
    return found, stated.stdout.strip() if stated.returncode == 0 else "unknown"


def weights_folder(environ: Mapping[str, str]) -> Path:
    """Return the model bundle that the tool would use.

    >>> weights_folder({"SPINE_SEGMENT_CACHE_DIR": "/cache"}).as_posix()
    '/cache/models/v0.1.0'
    """
    if environ.get("SPINE_SEGMENT_MODEL_BUNDLE"):
        return Path(environ["SPINE_SEGMENT_MODEL_BUNDLE"])
    cache = environ.get("SPINE_SEGMENT_CACHE_DIR")
    if not cache:
        cache = str(Path(environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / PROGRAM)
    return Path(cache) / "models" / _BUNDLE_VERSION


def missing_weights(folder: Path) -> list[str]:
    """Name the files of weights that are not there, or are mere pointers of Git LFS."""
    files = {name: folder / "weights" / name for name in WEIGHTS}
    return [
        f"weights/{name}"
        for name, file in files.items()
        if not file.is_file() or file.stat().st_size < _POINTER_BYTES
    ]


def run_spine_segment(volume: Volume, path: Path) -> str:
    """Have the tool segment a CT; the bodies of its vertebrae are kept under its VerSe numbers.

    Args:
        volume: the CT.
        path: of the label map to write, ending in ``.nii.gz``.

    Returns:
        Name and version of the tool.

    Raises:
        MissingDependencyError: it is not installed.
        CaseRefused: ``mask_not_made``, or what reading the CT raises.
    """
    import nibabel as nib

    program, version = find_tool()
    called = f"{PROGRAM} {version}"
    bundle = weights_folder(os.environ)
    refuse_without_weights(
        called,
        bundle,
        missing_weights(bundle),
        f"Run {PROGRAM} once where there is a network and name the folder of its model bundle with "
        "SPINE_SEGMENT_MODEL_BUNDLE.",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with ct_in_scratch(volume) as ct:
        made = [ct.with_name(f"ct_{name}.nii.gz") for name in ("vertebral-level", "process-body")]
        words = [program, str(ct), "--output", str(ct.parent), "--model-bundle", str(bundle)]
        run_program(called, words, made)
        levels, parts = (nib.nifti1.load(file) for file in made)
        inside = np.asarray(parts.dataobj) == BODY
        labels = np.where(inside, np.asarray(levels.dataobj), 0).astype(np.uint8)
        write_label_map(path, labels, np.asarray(levels.affine, dtype=np.float64))
    return called
