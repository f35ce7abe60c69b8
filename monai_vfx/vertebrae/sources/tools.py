"""What the tools that make masks have in common: programs of their own, run on a copy of the CT.

Such a tool brings other versions of this package's libraries, so it is not imported. It gets the
voxels as NIfTI: the series that was chosen, and no header of the patient's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from monai_vfx.core.errors import CaseRefused, MissingDependencyError
from monai_vfx.io.volume import Volume


def find_program(name: str, install: str, mask: str) -> str:
    """Return the path of a tool's program.

    Args:
        name: of the program.
        install: the command that installs it.
        mask: what was given as ``--mask``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        beside = Path(sys.executable).with_name(name)  # an environment that is not activated
        found = str(beside) if beside.is_file() else None
    if found is None:
        raise MissingDependencyError(name, install, f"for --mask {mask}")
    return found


@contextmanager
def ct_in_scratch(volume: Volume) -> Iterator[Path]:
    """Write a CT as NIfTI, int16 HU, for as long as a tool works on it.

    Yields:
        Its path; the folder is the tool's to write to, and is removed at the end.

    Raises:
        CaseRefused: what reading the CT raises.
    """
    import nibabel as nib

    hu = np.clip(np.rint(volume.read()), -32768, 32767).astype(np.int16)
    picture = nib.Nifti1Image(hu, volume.affine)
    picture.set_sform(volume.affine, code=1)
    picture.set_qform(volume.affine, code=1)
    with tempfile.TemporaryDirectory(prefix="vfx_") as scratch:
        path = Path(scratch) / "ct.nii.gz"
        nib.save(picture, path)
        yield path


def run_program(called: str, words: Sequence[str], made: Sequence[Path]) -> None:
    """Run a tool and make sure that it left what it should.

    Args:
        called: name and version, for the message.
        words: program and arguments.
        made: the files that must be there at the end; they lie in one scratch folder.

    Raises:
        CaseRefused: ``mask_not_made`` with what the tool said last.
    """
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode != 0 or not all(path.is_file() for path in made):
        said = (ended.stderr.strip() or ended.stdout.strip() or "nothing").splitlines()[-1]
        raise CaseRefused(
            "mask_not_made",
            f"{called} ended with status {ended.returncode} and no label map; "
            f"it said: {said.replace(str(made[0].parent), '')[:200]}",
        )


def refuse_without_weights(called: str, folder: Path, missing: Sequence[str], remedy: str) -> None:
    """Refuse to run a tool whose weights are not there: nothing is fetched behind one's back.

    Raises:
        CaseRefused: ``mask_not_made`` where ``missing`` names anything.
    """
    if missing:
        raise CaseRefused(
            "mask_not_made",
            f"{called} finds no weights in {folder}: missing are {', '.join(missing)}",
            remedy,
        )
