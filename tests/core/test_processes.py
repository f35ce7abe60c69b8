"""Processes that share the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import torch
from monai_vfx.core.workers import run_tasks

def threads(task):
    return torch.get_num_threads()

def died(task):
    raise RuntimeError(task)

if __name__ == "__main__":
    workers = int(sys.argv[1])
    print(*(found for _, found in run_tasks(threads, range(workers), workers, died)))
"""


@pytest.mark.parametrize(("workers", "chosen"), [(1, None), (2, None), (2, "1"), (1, "3")])
def test_a_library_imported_before_takes_its_share_of_the_cores(
    tmp_path: Path, workers: int, chosen: str | None
) -> None:
    """A script's imports come before the pool can set the environment of its processes."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    if chosen:
        environment["OMP_NUM_THREADS"] = chosen
    done = subprocess.run(
        [sys.executable, str(script), str(workers)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    share = int(chosen) if chosen else max(1, (os.cpu_count() or 1) // workers)
    assert [int(found) for found in done.stdout.split()] == [share] * workers
