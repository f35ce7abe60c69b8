"""Masks by TotalSegmentator, where that tool is installed.

Wasserthal et al. 2023, "TotalSegmentator", task ``total``. Its weights lie in the folder that its
variable ``TOTALSEG_WEIGHTS_PATH`` names, else in ``nnunet/results`` of ``TOTALSEG_HOME_DIR`` or of
``~/.totalsegmentator``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from monai_vfx.io.volume import Volume
from monai_vfx.vertebrae.sources.tools import (
    ct_in_scratch,
    find_program,
    refuse_without_weights,
    run_program,
)

PROGRAM = "TotalSegmentator"
INSTALL = "pip install TotalSegmentator"
LEVELS = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
STRUCTURES = (
    *(f"vertebrae_{level}" for level in LEVELS),
    *("autochthon_left", "autochthon_right", "iliopsoas_left", "iliopsoas_right"),
)
"""What is asked of the tool, by its own names; they stand in the file that it writes."""

WEIGHTS = ("Dataset292", "Dataset294", "Dataset298")
"""Folders of weights that version 2 needs for them begin so: vertebrae, muscles, a rough search."""


def find_tool() -> tuple[str, str]:
    """Return the tool's path and its version, ``unknown`` where it states none.

    Raises:
        MissingDependencyError: it is not installed.
    """
    found = find_program(PROGRAM, INSTALL, "totalsegmentator")
    stated = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    words = stated.stdout.split()
    return found, words[-1] if stated.returncode == 0 and words else "unknown"


def weights_folder(environ: Mapping[str, str]) -> Path:
    """Return where the tool looks for its weights.

    >>> weights_folder({"TOTALSEG_HOME_DIR": "/models"}).as_posix()
    '/models/nnunet/results'
    """
    if "TOTALSEG_WEIGHTS_PATH" in environ:
        return Path(environ["TOTALSEG_WEIGHTS_PATH"])
    home = environ.get("TOTALSEG_HOME_DIR", Path.home() / ".totalsegmentator")
    return Path(home) / "nnunet" / "results"


def missing_weights(folder: Path) -> list[str]:
    """Name the folders of weights that version 2 of the tool lacks."""
    checkpoint = "*/fold_*/checkpoint_final.pth"
    return [f"{name}_…" for name in WEIGHTS if not any(folder.glob(f"{name}_*/{checkpoint}"))]


def run_totalsegmentator(volume: Volume, path: Path) -> str:
    """Have the tool segment a CT; its label map of whole vertebrae is kept.

    Args:
        volume: the CT.
        path: of the label map to write, ending in ``.nii.gz``.

    Returns:
        Name and version of the tool.

    Raises:
        MissingDependencyError: it is not installed.
        CaseRefused: ``mask_not_made``, or what reading the CT raises.
    """
    program, version = find_tool()
    called = f"{PROGRAM} {version}"
    if version.startswith("2."):  # what another version needs is not known here
        folder = weights_folder(os.environ)
        refuse_without_weights(
            called,
            folder,
            missing_weights(folder),
            "Run totalseg_download_weights -t total where there is a network and name the folder "
            "with TOTALSEG_WEIGHTS_PATH.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with ct_in_scratch(volume) as ct:
        made = ct.with_name("labels.nii.gz")
        words = [program, "-i", str(ct), "-o", str(made), "--ml", "--task", "total"]
        run_program(called, [*words, "--roi_subset", *STRUCTURES], [made])
        partial = path.with_name(f".{path.name}.partial")
        shutil.copyfile(made, partial)
        partial.replace(path)
    return called
