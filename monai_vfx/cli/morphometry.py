"""Measure vertebral heights and identify fractures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from monai_vfx.cli.common import (
    EXISTING,
    FILE,
    FOLDER,
    LABELS,
    MaskChoice,
    answer,
    say,
    writable,
)
from monai_vfx.core.errors import CaseRefused, SettingError

if TYPE_CHECKING:
    from monai_vfx.core.arrays import Json  # imports numpy


@click.command()
@click.argument("source", type=EXISTING)
@click.option(
    "--mask",
    type=MaskChoice(),
    help="Take the bodies of a CT from this label map, folder of per-structure files, DICOM SEG or "
    "RTSTRUCT, or have them segmented by this package (auto) or by the named tool.  "
    "[default: auto]",
)
@LABELS
@click.option("--series", "series_uid", help="Take the series with this SeriesInstanceUID.")
@click.option("--case-id", default="case", help="Name the case of a CT.")
@click.option("--allow-thick", is_flag=True, help="Also measure CTs with slices thicker than 3 mm.")
@click.option(
    "--normal",
    metavar="paper|genant|FILE",
    help="Use this preset or JSON file of normal values.  [default: genant]",
)
@click.option("--fit-normal", is_flag=True, help="Fit normal values to the table's patients.")
@click.option(
    "--second",
    type=FILE,
    help="Compare with these heights by another reader.",
)
@click.option(
    "--baseline",
    type=FILE,
    help="Find new fractures since these earlier heights.",
)
@click.option(
    "--pictures",
    type=click.IntRange(0),
    default=20,
    help="Draw figures of at most this number of patients of a table, fractured ones first.",
)
@click.option("--out", required=True, type=FOLDER, help="Write tables and figures to this folder.")
def morphometry(
    source: Path, out: Path, fit_normal: bool, pictures: int, case_id: str, **settings: Any
) -> None:
    """Measure vertebral heights and identify fractures, T12-L4.

    SOURCE is a CT, or a CSV of heights that a reader measured: case_id, level, anterior_mm,
    middle_mm, posterior_mm. A vertebra that cannot be judged is "not assessable", never "normal".
    """
    is_table = source.suffix.lower() == ".csv"
    of_image = {name: settings.pop(name) for name in ("mask", "scheme", "series_uid")}
    of_image["allow_thick"] = settings.pop("allow_thick")
    if is_table and any(of_image.values()):
        raise SettingError("--mask, --labels, --series and --allow-thick go with an image only")
    if fit_normal and not is_table:
        raise SettingError("--fit-normal needs a table of heights: one CT is no normal population")
    writable(out)
    from monai_vfx.analysis.morphometry.job import run_morphometry_case, run_morphometry_table

    try:
        if is_table:
            settings |= {"fit_normal": fit_normal, "pictures": pictures}
            document = run_morphometry_table(source, out, **settings)
        else:
            mask = of_image.pop("mask") or "auto"
            settings |= {"case_id": case_id, **of_image}
            document = run_morphometry_case(source, mask, out, **settings)
    except CaseRefused as refusal:
        answer(_refused(refusal, out))
        raise
    click.echo(json.dumps(document))
    _tell(document)


def _refused(refusal: CaseRefused, out: Path) -> Json:
    """Write the record of a refusal, with every fault of a table."""
    from monai_vfx.core.files import write_json
    from monai_vfx.core.tables import FaultyTable

    document: Json = {"status": "refused", "refusal": refusal.to_json()}
    if isinstance(refusal, FaultyTable):
        document["faults"] = [vars(fault) for fault in refusal.faults]
    write_json(out / "refused.json", document)
    return document


def _tell(document: Json) -> None:
    for warning in document["warnings"]:
        say(f"warning {warning['code']}: {warning['message']}")
    for name in ("patients", "vertebrae"):
        counts = document[name]
        say(
            f"{name}: {counts['n']}, of them {counts['fractured']} fractured, {counts['normal']} "
            f"normal, {counts['not_assessable']} not assessable"
        )
    for entry in document.get("not_measured", ()):
        say(f"{entry['level']} not measured: {entry['reason']}")
