"""Define the command ``vfx``: one click command for each step, grouped by kind of work."""

from __future__ import annotations

import click

from monai_vfx.cli.calibrate import calibrate
from monai_vfx.cli.cases import explain, predict, segment
from monai_vfx.cli.check import check
from monai_vfx.cli.clinical import clinical
from monai_vfx.cli.cohort import cohort
from monai_vfx.cli.common import Commands
from monai_vfx.cli.evaluate import evaluate
from monai_vfx.cli.morphometry import morphometry
from monai_vfx.cli.simulated import demo, simulate
from monai_vfx.cli.study import study
from monai_vfx.cli.training import train

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=Commands, context_settings=_HELP)
@click.version_option(package_name="monai_vfx")
def main() -> None:
    """Predict the five-year risk of a vertebral fracture (T12-L4) from a routine abdominal CT.

    Research software, not a medical device. No clinical weights exist: every output of weights
    trained on simulated patients is marked as simulated.
    """


for command in (
    *(demo, simulate, check, segment, predict, explain, train),
    *(cohort, morphometry, clinical, evaluate, calibrate, study),
):
    main.add_command(command)
