"""Fixtures of all tests: the phantom, and the way to real CT."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from phantoms import Phantom, grid, make_phantom

if TYPE_CHECKING:
    from exported import Exported

# The same examples at each run: a failure that comes and goes helps nobody. To search anew:
# pytest --hypothesis-profile=search
# The time to draw an input depends on how busy the machine is (the first float draw alone reads
# the constants of the whole package), so it decides nothing.
settings.register_profile(
    "repeatable", derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real CT series."""
    folder = os.environ.get("VFX_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("VFX_TEST_DATA names no folder with real CT")
    return Path(folder)


@pytest.fixture(scope="session")
def tcga_series(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real DICOM series, unpacked."""
    folder = tmp_path_factory.mktemp("tcga")
    with tarfile.open(real_data / "tcga_ov_abdomen" / "dicom.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def kinds(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Exported, Path]]:
    """Return what gives a series of a kind and the folder of all that was exported from it."""
    from exported import make_exported

    @cache
    def make(kind: str) -> tuple[Exported, Path]:
        folder = tmp_path_factory.mktemp(kind)
        exported = make_exported(folder, kind)
        assert exported.write(folder / "out") == ()
        return exported, folder / "out"

    return make


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """An anisotropic phantom in RAS order, 0.9 × 1.1 × 4 mm."""
    return make_phantom(*grid((0.9, 1.1, 4.0), (190.0, 170.0, 236.0)))
