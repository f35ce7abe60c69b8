"""What an independent checker (dciodvfy of dicom3tools) says of the objects that we write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from exported import ABSENT_IN_THE_CT, KINDS, Exported, check_conformance

from monai_vfx.outputs.hospital.dicom_headers import Deidentifier


@pytest.mark.parametrize("kind", KINDS)
def test_no_object_has_an_error(kind: str, kinds: Callable[[str], tuple[Exported, Path]]) -> None:
    files = sorted(kinds(kind)[1].glob("*.dcm"))
    assert len(files) == 4
    check_conformance(*files, allowed=ABSENT_IN_THE_CT if kind == "bare" else ())


def test_no_de_identified_object_has_an_error(
    kinds: Callable[[str], tuple[Exported, Path]], tmp_path: Path
) -> None:
    kinds("enhanced")[0].write(tmp_path, "dicom", hide=Deidentifier())
    check_conformance(*tmp_path.glob("*.dcm"), allowed=ABSENT_IN_THE_CT)
