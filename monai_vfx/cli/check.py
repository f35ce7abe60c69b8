"""Check one CT, or many."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from monai_vfx.cli.common import (
    CASE_ID,
    COMPARE,
    FOLDER,
    IMAGE,
    LABELS,
    MASK,
    REFUSED,
    SERIES,
    WORKERS,
    answer,
    options,
    refuse,
    say,
    warn,
    writable,
)
from monai_vfx.core.anatomy import MADE_MASKS
from monai_vfx.core.errors import CaseWarning, SettingError
from monai_vfx.io.dicomweb.address import PacsAddress


@click.command()
@options(IMAGE, MASK, COMPARE, LABELS, SERIES, CASE_ID)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report of one CT to this file.",
)
@click.option(
    "--studies",
    is_flag=True,
    help="Take every entry of the folder IMAGE as a case of its own.",
)
@WORKERS
@click.option(
    "--out",
    type=FOLDER,
    help="Write a mask that is made and its preview to this folder; for many cases, their tables.",
)
def check(
    image: Path | PacsAddress,
    studies: bool,
    out: Path | None,
    workers: int,
    json_file: Path | None,
    mask: str | Path,
    series_uid: str | None,
    case_id: str,
    **settings: Any,
) -> None:
    """Check whether a CT would be accepted, and if not, why.

    IMAGE is a DICOM folder, zip, tar, DICOMDIR or file, a NIfTI or NRRD file, or a study or series
    in a PACS (dicomweb://HOST:PORT/PATH/studies/UID[/series/UID]). If there are several series, the
    most suitable one is taken, and the reason is given for each of the others. No weights are
    needed; warnings that depend on a model's crop appear at prediction.

    For many CTs, IMAGE is a table MANIFEST.csv (case_id, image; optionally mask, series_uid, age,
    sex, scan_date), for example a cohort table, or with --studies a folder of CTs. The folder --out
    then holds check.csv (accepted as --gate by train and cohort, and as gate in a study),
    check.jsonl and check.html. Run the same command again to resume. The exit status is 3 if any
    case was refused.
    """
    if not studies and not (isinstance(image, Path) and image.suffix.lower() == ".csv"):
        _check_one(image, mask, series_uid, case_id, json_file, out, **settings)
        return
    if not isinstance(image, Path) or (studies and not image.is_dir()):
        raise SettingError("studies: IMAGE must be a folder of studies")
    if json_file or series_uid or case_id != "case":
        raise SettingError("json, series and case-id belong to the check of one CT")
    if isinstance(mask, Path):
        words = ", ".join(MADE_MASKS)
        raise SettingError(f"mask must be one of {words}: a manifest names the masks")
    if out is None:
        raise SettingError("out is needed: the folder for the tables of many cases")
    _check_many(image, studies, out, workers, mask=mask, **settings)


def _check_one(
    image: Path | PacsAddress,
    mask: str | Path,
    series_uid: str | None,
    case_id: str,
    json_file: Path | None,
    out: Path | None,
    **settings: Any,
) -> None:
    from monai_vfx.core.files import write_json
    from monai_vfx.workflows.check.case import check_one
    from monai_vfx.workflows.manifest import CaseInput

    made, given = (mask, None) if isinstance(mask, str) else (None, mask)
    row = CaseInput(case_id, image, given, series_uid)
    with TemporaryDirectory(prefix="vfx_") as scratch:
        folder = Path(scratch) if out is None else writable(out)
        report, refusal = check_one(
            row, folder, mask=made, picture=out is not None, tell=say, **settings
        )
    if json_file is not None:
        write_json(json_file, report)
    answer(report)
    _tell_series(report["series"])
    warn(tuple(CaseWarning(**warning) for warning in report["warnings"]))
    if refusal is not None:
        refuse(refusal)
    say(f"accepted: {', '.join(report['levels'])} in {report['slices']} slices")


def _check_many(source: Path, studies: bool, out: Path, workers: int, **settings: Any) -> None:
    from monai_vfx.workflows.check.many import CheckCases, check_many
    from monai_vfx.workflows.manifest import find_studies, read_manifest

    found = find_studies(source, out) if studies else read_manifest(source)
    job = CheckCases(out=writable(out), **settings)
    summary = check_many(job, found, workers=workers, tell=say)
    answer(summary)
    say(
        f"{summary['accepted']} of {summary['studies']} accepted; look at {out / 'check.html'}, "
        f"give {out / 'check.csv'} to --gate"
    )
    if summary["refused"]:
        sys.exit(REFUSED)


def _tell_series(series: dict[str, Any] | None) -> None:
    """Report which series was taken, why the others were not, and which other files there are."""
    if series is None or (len(series["candidates"]) < 2 and not series["other_files"]):
        return
    for one in series["candidates"]:
        number = "no number" if one["number"] is None else f"number {one['number']}"
        about = f"{number}, patient {one['patient']}, {one['slices']} slices"
        fate = "taken" if one["chosen"] else f"not taken ({one['lost_by'] or 'input refused'})"
        say(f"series {one['series_uid']} ({about}): {fate}")
    if series["other_files"]:
        counts = (f"{count} {kind}" for kind, count in series["other_files"].items())
        say(f"other files: {', '.join(counts)}")
