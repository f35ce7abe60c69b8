"""Training on a cohort."""

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
@click.option("--out", required=True, type=FOLDER, help="Folder for checkpoints and curves.")
@click.option("--fold", type=click.IntRange(0), help="Train this fold only (from 0).")
@click.option(
    "--test-fold", type=click.IntRange(0), help="Leave this fold out entirely, to test on."
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Number of folds.  [default: the table's, where it has a column fold, else 10]",
)
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    help="Settings laid over the paper's: bone_only, cpu_small, three_windows, hazard, "
    "clinical_A … clinical_D, recommended or a YAML file. Repeatable.",
)
@click.option("--epochs", type=click.IntRange(1), help="Number of epochs.")
@click.option(
    "--pretrained",
    help="Start the encoder from these weights: imagenet or timm/NAME (a download), none, or a "
    "local file.",
)
@MADE_MASKS_OPTION
@GATE
@EXCLUDE_WARNINGS
@click.option("--seed", type=SEED, help="Of folds, weights and draws.  [default: 0]")
def train(
    cohort: Path,
    out: Path,
    fold: int | None,
    test_fold: int | None,
    folds: int | None,
    overlays: tuple[str, ...],
    epochs: int | None,
    pretrained: str | None,
    made_masks: str,
    gate: Path | None,
    exclude_warnings: tuple[str, ...],
    seed: int | None,
) -> None:
    """Train on your own cohort: COHORT.csv with case, image, mask and fracture (0 or 1).

    A row without a mask gets one, kept in OUT/masks.

    A run that was stopped goes on where its last checkpoint left it, and ends as if it had never
    been stopped.
    """
    from monai_vfx.analysis.cohort.training_items import read_cohort

    read_cohort(cohort)  # faults are named before anything heavy is loaded
    check_gate(gate, exclude_warnings)
    writable(out)
    from monai_vfx.model.bundle.overlays import default_folds
    from monai_vfx.workflows.train import train as run

    folds = folds or default_folds(overlays, cohort)
    settings: dict[str, Any] = {}
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
            epochs=epochs,
            seed=seed,
            made_masks=made_masks,
            mask_dir=out / "masks",
            gate=gate,
            exclude_warnings=exclude_warnings,
            tell=say,
            **settings,
        )
        click.echo(json.dumps({"fold": number, **trained}))
