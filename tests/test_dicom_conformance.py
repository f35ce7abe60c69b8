"""What an independent checker (dciodvfy of dicom3tools) says of the objects that we write."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported import ABSENT_IN_THE_CT, KINDS, check_conformance, make_exported
from pydicom.config import disable_value_validation

from monai_vfx.dicom.headers import Deidentifier


@pytest.mark.parametrize("kind", KINDS)
def test_no_object_has_an_error(kind: str, tmp_path: Path) -> None:
    with disable_value_validation():
        exported = make_exported(tmp_path, kind)
    exported.write(tmp_path / "out", "dicom")
    files = sorted((tmp_path / "out").glob("*.dcm"))
    assert len(files) == 4
    check_conformance(*files, allowed=ABSENT_IN_THE_CT if kind == "bare" else ())


def test_no_de_identified_object_has_an_error(tmp_path: Path) -> None:
    exported = make_exported(tmp_path, "oblique")
    exported.write(tmp_path / "out", "dicom", hide=Deidentifier())
    check_conformance(*(tmp_path / "out").glob("*.dcm"), allowed=ABSENT_IN_THE_CT)
