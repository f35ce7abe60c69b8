"""The pre-flight: of one CT, or of many studies."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from monai_vfx.cli.common import (
    FOLDER,
    REFUSED,
    answer,
    case_options,
    exit_statuses,
    refuse,
    say,
    tell_series,
    warn,
    writable,
)
from monai_vfx.core.anatomy import MADE_MASKS
from monai_vfx.core.errors import CaseWarning, SettingError
from monai_vfx.io.dicomweb import PacsAddress, local_image


@click.command()
@case_options
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Result file."
)
@click.option(
    "--studies", is_flag=True, help="IMAGE is a folder whose every entry is a study of its own."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes, for many studies.",
)
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for a mask that is made and the picture to check it by; for many studies, their "
    "tables.",
)
@exit_statuses
def check(
    image: Path | PacsAddress,
    mask: str | Path,
    compare_mask: bool,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    json_file: Path | None,
    studies: bool,
    workers: int,
    out: Path | None,
) -> None:
    """Pre-flight: would this CT be accepted, and if not, why. Or many: one row a study.

    IMAGE is a DICOM folder, zip, tar, DICOMDIR or file, NIfTI or NRRD, or a study or series in a
    PACS: dicomweb://HOST:PORT/PATH/studies/UID[/series/UID]. Of several series the one that suits
    best is taken, and why each other one was not is said. Needs no weights; warnings that depend
    on a model's crop appear at prediction.

    Many studies: IMAGE is a table MANIFEST.csv (case, image; optional mask, series_uid, age, sex,
    scan_date) such as a cohort's, or with --studies a folder of studies. Leaves check.csv (which
    train, cohort and study take with --gate), check.jsonl and check.html in --out; a run that was
    stopped goes on where it was. Exit status 3 if a study was refused.
    """
    if studies or (isinstance(image, Path) and image.suffix.lower() == ".csv"):
        if not isinstance(image, Path):
            raise SettingError("studies: IMAGE must be a folder of studies")
        if json_file or series_uid or case_name != "case":
            raise SettingError("json, series and case belong to the check of one CT")
        if isinstance(mask, Path):
            words = ", ".join(MADE_MASKS)
            raise SettingError(f"mask must be one of {words}: a manifest names the masks")
        if out is None:
            raise SettingError("out is needed: the folder for the tables of many studies")
        _check_many(image, mask, compare_mask, scheme, studies, workers, out)
    else:
        _check_one(image, mask, compare_mask, scheme, series_uid, case_name, json_file, out)


def _check_one(
    image: Path | PacsAddress,
    mask: str | Path,
    compare: bool,
    scheme: str | None,
    series_uid: str | None,
    case_name: str,
    json_file: Path | None,
    out: Path | None,
) -> None:
    from monai_vfx.core.files import write_json
    from monai_vfx.workflows.check.case import check_one

    with (
        local_image(image, series_uid, say) as local,
        TemporaryDirectory(prefix="vfx_") as scratch,
    ):
        report, refusal = check_one(
            local,
            mask,
            Path(scratch) if out is None else writable(out),
            case_id=case_name,
            series_uid=series_uid,
            scheme=scheme,
            compare=compare,
            picture=out is not None,
        )
    if json_file is not None:
        writable(json_file.parent)
        write_json(json_file, report)
    answer(report)
    tell_series(report["series"])
    warn(tuple(CaseWarning(**warning) for warning in report["warnings"]))
    if refusal is not None:
        refuse(refusal)
    say(f"accepted: {', '.join(report['levels'])} in {report['slices']} slices")


def _check_many(
    source: Path,
    made_masks: str,
    compare: bool,
    scheme: str | None,
    studies: bool,
    workers: int,
    out: Path,
) -> None:
    from monai_vfx.workflows.check.manifest import find_studies, read_manifest
    from monai_vfx.workflows.check.many import Settings, check_many

    if studies and not source.is_dir():
        raise SettingError("studies: IMAGE must be a folder of studies")
    found = find_studies(source, out) if studies else read_manifest(source)
    writable(out)
    summary = check_many(found, out, Settings(made_masks, compare, scheme), workers, say)
    answer(summary)
    say(
        f"{summary['accepted']} of {summary['studies']} accepted; look at {out / 'check.html'}, "
        f"give {out / 'check.csv'} to --gate"
    )
    if summary["refused"]:
        sys.exit(REFUSED)
