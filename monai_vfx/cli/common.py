"""Provide what the commands share: exit statuses, messages, types of arguments.

Nothing heavy is imported before a command needs it, so help and refusals appear at once. Results go
to files, one JSON line for each case to stdout, and progress and messages for people to stderr.

Exit status: 0 done; 2 wrong use; 3 a case was refused; 130 interrupted; 1 anything else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from monai_vfx.core.anatomy import MADE_MASKS, SCHEMES
from monai_vfx.core.errors import (
    CaseRefused,
    CaseWarning,
    MissingDependencyError,
    SettingError,
    find_cause,
    find_refusal,
)
from monai_vfx.core.files import only_run_in
from monai_vfx.io.dicomweb.address import PacsAddress, is_address, parse_address

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)
REFUSED, INTERRUPTED = 3, 130
ANSWERED = "monai_vfx.answered"
"""Whether the command has written its line of JSON already."""
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Commands(click.Group):
    """Commands that end with the exit statuses of this package, also where MONAI wrapped errors."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            say("interrupted")
            ctx.exit(INTERRUPTED)
        except Exception as error:
            self._end(ctx, error)
            raise

    def _end(self, ctx: click.Context, error: Exception) -> None:
        refusal, setting = find_refusal(error), find_cause(error, SettingError)
        if refusal is not None and refusal.code == "internal":
            raise click.ClickException(str(refusal)) from error
        if refusal is not None:
            if not ctx.meta.get(ANSWERED):
                answer({"status": "refused", "refusal": refusal.to_json()})
            refuse(refusal)
        if setting is not None:
            raise click.UsageError(str(setting)) from error
        missing = find_cause(error, MissingDependencyError)
        if missing is not None:
            raise click.ClickException(str(missing)) from error


class MaskChoice(click.ParamType):  # type: ignore[type-arg]
    """Accept an existing path, or the name of a tool that makes the mask."""

    name = "mask"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        """Return the word as it is, anything else as a path."""
        if isinstance(value, str) and value in MADE_MASKS:
            return value
        found: Path = EXISTING.convert(value, param, ctx)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return how help shows it."""
        return f"{'|'.join(MADE_MASKS)}|PATH"


class Address(click.ParamType):  # type: ignore[type-arg]
    """The address of a PACS; or a path that exists, or the address of a study or series in a PACS.

    Args:
        image: which of both.
    """

    def __init__(self, *, image: bool) -> None:
        self.image = image
        self.name = "image" if image else "service"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | PacsAddress:
        """Return an address taken apart, anything else as a path."""
        if isinstance(value, PacsAddress):
            return value
        if self.image and not is_address(value):
            found: Path = EXISTING.convert(value, param, ctx)
            return found
        try:
            address = parse_address(value)
        except SettingError as error:
            raise click.BadParameter(str(error), ctx, param) from error
        if self.image != (address.study_uid is not None):
            rule = "name a study: …/studies/UID" if self.image else "end before /studies"
            raise click.BadParameter(f"a PACS's address must {rule}", ctx, param)
        return address


class LabelScheme(click.ParamType):  # type: ignore[type-arg]
    """A scheme's name, or the path of a mapping file that exists."""

    name = "labels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return a known name or an existing path; a mapping is read here, to fail early."""
        from monai_vfx.case.mask.mapping import is_mapping_file, read_mapping

        if value in SCHEMES:
            return str(value)
        if not is_mapping_file(str(value)):
            self.fail(f"{value} is neither of {', '.join(SCHEMES)} nor a .json or .yaml file")
        found: Path = FILE.convert(value, param, ctx)
        try:
            read_mapping(found)
        except SettingError as error:
            self.fail(str(error), param, ctx)
        return str(found)


def _case_id(_: click.Context, __: click.Parameter, value: str) -> str:
    from monai_vfx.core.results import check_case_name

    try:
        return check_case_name(value)
    except SettingError as error:
        raise click.BadParameter(str(error)) from error


IMAGE = click.argument("image", type=Address(image=True))
OUT = click.option("--out", required=True, type=FOLDER, help="Write the results to this folder.")
SERIES = click.option("--series", "series_uid", help="Take the series with this SeriesInstanceUID.")
CASE_ID = click.option(
    "--case-id",
    default="case",
    callback=_case_id,
    help="Name the case in the results; the patient's identity is never used.",
)
MASK = click.option(
    "--mask",
    type=MaskChoice(),
    default="auto",
    help="Take the vertebral bodies from this label map (NIfTI, NRRD), folder of per-structure "
    "files, DICOM SEG or RTSTRUCT, or have them segmented: auto by this package, otherwise by the "
    "named tool, if it is installed. A manifest names its masks itself; missing masks are made.",
)
MADE_MASKS_OPTION = click.option(
    "--mask",
    "made_masks",
    type=click.Choice(MADE_MASKS),
    default="auto",
    help="Make the masks of rows without one by this package (auto) or by the named tool.",
)
COMPARE = click.option(
    "--compare-mask/--no-compare-mask",
    default=True,
    help="Compare the levels of a given mask with the vertebra segmentation's (some seconds), and "
    "refuse the case if they differ.",
)
LABELS = click.option(
    "--labels",
    "scheme",
    type=LabelScheme(),
    metavar=f"{'|'.join(SCHEMES)}|FILE",
    help="Read the mask's labels by this scheme, or by a file (JSON, YAML) that maps values or "
    "names to structures; by default from the names in the file, otherwise from the values.",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0, 256),
    default=1,
    help="Work on this number of cases of a manifest at once, each in its own process (0: in the "
    "command's own process).",
)
STORE = click.option(
    "--store",
    "service",
    type=Address(image=False),
    metavar="dicomweb://HOST:PORT/PATH",
    help="Also write the results as DICOM objects and store them in a PACS. User and password are "
    "read from VFX_DICOMWEB_USER and VFX_DICOMWEB_PASSWORD.",
)
DEIDENTIFY = click.option(
    "--deidentify",
    is_flag=True,
    help="Leave what identifies the patient out of all files: identity, dates, UIDs and digests of "
    "the input.",
)
GATE = click.option(
    "--gate",
    type=FILE,
    help="Exclude, and count, the cases that this check.csv (vfx check on the same table) refuses.",
)
EXCLUDE_WARNINGS = click.option(
    "--exclude-warning",
    "exclude_warnings",
    multiple=True,
    metavar="CODE",
    help="Also exclude cases with this warning in check.csv, such as metal_or_cement. Repeatable.",
)


def options(*given: Decorator) -> Decorator:
    """Combine options into one decorator; help shows them in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(given):
            command = option(command)
        return command

    return decorate


def say(message: str) -> None:
    """Print a message for people (stderr)."""
    click.echo(message, err=True)


def answer(document: dict[str, Any]) -> None:
    """Print the one line of JSON for programs (stdout)."""
    click.echo(json.dumps(document))
    click.get_current_context().meta[ANSWERED] = True


def answer_many(counts: dict[str, Any], out: Path) -> None:
    """Print the counts of many cases; end with exit status 3 if any was refused."""
    answer(counts)
    if counts["refused"]:
        say(f"{counts['refused']} of {counts['cases']} cases are refused: {out / 'refused.jsonl'}")
        sys.exit(REFUSED)


def warn(warnings: tuple[CaseWarning, ...]) -> None:
    """Print the warnings that a reader of the result must know."""
    for warning in warnings:
        say(f"warning {warning.code}: {warning.message}")


def refuse(refusal: CaseRefused) -> NoReturn:
    """Print why a case is refused and end with exit status 3."""
    say(f"refused {refusal.code}: {refusal.message}. {refusal.remedy}")
    sys.exit(REFUSED)


def check_gate(gate: Path | None, exclude_warnings: tuple[str, ...]) -> None:
    """Check the table of --gate before anything heavy is loaded."""
    from monai_vfx.analysis.cohort.check_table import read_gate

    if gate is not None:
        read_gate(gate, exclude_warnings)
    elif exclude_warnings:
        raise SettingError("exclude-warning needs --gate: the check.csv that holds the warnings")


def writable(folder: Path) -> Path:
    """Make the folder for results and lock it until the command ends.

    Wrong use, before any work, if it cannot be written to or another run is working in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.UsageError(f"{folder} cannot be written to")
    click.get_current_context().with_resource(only_run_in(folder))
    return folder
