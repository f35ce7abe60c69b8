"""Train on a cohort."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from monai_vfx.cli.common import (
    EXCLUDE_WARNINGS,
    FILE,
    FOLDER,
    GATE,
    MADE_MASKS_OPTION,
    SEED,
    check_gate,
    say,
    writable,
)


@click.command()
@click.argument("cohort", type=FILE)
@click.option(
    "--out",
    required=True,
    type=FOLDER,
    help="Write checkpoints and curves to this folder.",
)
@click.option("--fold", type=click.IntRange(0), help="Train this fold only, counted from 0.")
@click.option(
    "--test-fold", type=click.IntRange(0), help="Leave this fold out entirely, for testing."
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Divide the cohort into this number of folds.  [default: from the table's column fold, "
    "else 10]",
)
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    help="Change the paper's settings by this overlay: bone_only, cpu_small, three_windows, "
    "hazard, clinical_A … clinical_D, recommended or a YAML file. Repeatable.",
)
@click.option("--epochs", type=click.IntRange(1), help="Train for this number of epochs.")
@click.option(
    "--pretrained",
    help="Start the encoder from these weights: imagenet or timm/NAME (a download), none, or a "
    "local file.",
)
@MADE_MASKS_OPTION
@GATE
@EXCLUDE_WARNINGS
@click.option(
    "--seed", type=SEED, help="Use this seed for folds, weights and augmentation.  [default: 0]"
)
def train(
    cohort: Path,
    out: Path,
    fold: int | None,
    test_fold: int | None,
    folds: int | None,
    overlays: tuple[str, ...],
    pretrained: str | None,
    **settings: Any,
) -> None:
    """Train the network on your own cohort.

    COHORT is a CSV with the columns case_id, image, mask and fracture (0 or 1). A mask is made for
    each row without one and kept in OUT/masks.

    Run the same command again to resume an interrupted training from its last checkpoint; its
    results are those of an uninterrupted one.
    """
    from monai_vfx.analysis.cohort.training_items import read_cohort

    read_cohort(cohort)  # faults are named before anything heavy is loaded
    check_gate(settings["gate"], settings["exclude_warnings"])
    writable(out)
    from monai_vfx.model.bundle.overlays import default_folds
    from monai_vfx.workflows.train import train as run

    folds = folds or default_folds(overlays, cohort)
    if pretrained is not None:
        settings["pretrained"] = None if pretrained == "none" else pretrained
    validated = [fold] if fold is not None else [k for k in range(folds) if k != test_fold]
    for number in validated:
        trained = run(
            cohort,
            out=out if fold is not None else out / f"fold_{number}",
            fold=number,
            folds=folds,
            test_fold=test_fold,
            overlays=overlays,
            mask_dir=out / "masks",
            tell=say,
            **settings,
        )
        click.echo(json.dumps({"fold": number, **trained}))
