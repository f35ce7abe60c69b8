"""Masks by TotalSegmentator, where that tool is installed; it runs as a program of its own.

Wasserthal et al. 2023, "TotalSegmentator", task ``total``. The tool brings other versions of this
package's libraries and fetches its weights when they are first needed; on a machine without a
network they lie in the folder that its variable ``TOTALSEG_WEIGHTS_PATH`` (or
``TOTALSEG_HOME_DIR``) names, which is passed on as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from monai_vfx.errors import CaseRefused, MissingDependencyError
from monai_vfx.volumes import Volume

PROGRAM = "TotalSegmentator"
INSTALL = "pip install TotalSegmentator"
LEVELS = ("T11", "T12", "L1", "L2", "L3", "L4", "L5")
STRUCTURES = (
    *(f"vertebrae_{level}" for level in LEVELS),
    *("autochthon_left", "autochthon_right", "iliopsoas_left", "iliopsoas_right"),
)
"""What is asked of the tool, by its own names; they stand in the file that it writes."""


def find_tool() -> tuple[str, str]:
    """Return the tool's path and its version, ``unknown`` where it states none.

    Raises:
        MissingDependencyError: it is not installed.
    """
    found = shutil.which(PROGRAM)
    if found is None:
        beside = Path(sys.executable).with_name(PROGRAM)  # an environment that is not activated
        found = str(beside) if beside.is_file() else None
    if found is None:
        raise MissingDependencyError(PROGRAM, INSTALL, "for --mask totalsegmentator")
    stated = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    words = stated.stdout.split()
    return found, words[-1] if stated.returncode == 0 and words else "unknown"


def run_totalsegmentator(volume: Volume, path: Path) -> str:
    """Have the tool segment a CT; its label map of whole vertebrae is kept.

    Args:
        volume: the CT. The tool gets it as NIfTI, so that it sees the series that was chosen and
            no header of the patient's.
        path: of the label map to write, ending in ``.nii.gz``.

    Returns:
        Name and version of the tool.

    Raises:
        MissingDependencyError: it is not installed.
        CaseRefused: ``mask_not_made``, or what reading the CT raises.
    """
    import nibabel as nib

    program, version = find_tool()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vfx_") as scratch:
        ct, made = Path(scratch) / "ct.nii.gz", Path(scratch) / "labels.nii.gz"
        hu = np.clip(np.rint(volume.read()), -32768, 32767).astype(np.int16)
        picture = nib.Nifti1Image(hu, volume.affine)
        picture.set_sform(volume.affine, code=1)
        picture.set_qform(volume.affine, code=1)
        nib.save(picture, ct)
        del hu, picture
        words = [program, "-i", str(ct), "-o", str(made), "--ml", "--task", "total"]
        ended = subprocess.run(
            [*words, "--roi_subset", *STRUCTURES], capture_output=True, text=True, check=False
        )
        if ended.returncode != 0 or not made.is_file():
            said = (ended.stderr.strip() or ended.stdout.strip() or "nothing").splitlines()[-1]
            raise CaseRefused(
                "mask_not_made",
                f"{PROGRAM} {version} ended with status {ended.returncode} and no label map; "
                f"it said: {said.replace(scratch, '')[:200]}",
            )
        partial = path.with_name(f".{path.name}.partial")
        shutil.copyfile(made, partial)
        partial.replace(path)
    return f"{PROGRAM} {version}"
