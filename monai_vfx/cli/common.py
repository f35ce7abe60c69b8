"""What the commands share: exit statuses, messages, types of arguments.

Nothing heavy is imported before a command needs it: help and refusals answer at once. Results go
to files and one JSON line a case to stdout; progress and messages for people go to stderr.

Exit status: 0 done; 2 wrong use; 3 a case was refused; 1 anything else.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

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
from monai_vfx.io.dicomweb.address import PacsAddress, is_address, parse_address

P = ParamSpec("P")

WEIGHTS = click.Path(exists=True, dir_okay=False, path_type=Path)
TABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING = click.Path(exists=True, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)
REFUSED = 3
ANSWERED = "monai_vfx.answered"
"""Whether the command has written its line of JSON already."""


class MaskChoice(click.ParamType):  # type: ignore[type-arg]
    """A path that exists, or the name of what makes the mask."""

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


class ImageChoice(click.ParamType):  # type: ignore[type-arg]
    """A path that exists, or the address of a study or series in a PACS."""

    name = "image"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | PacsAddress:
        """Return an address taken apart, anything else as a path."""
        if isinstance(value, str) and is_address(value):
            return _address(value, param, ctx, study=True)
        found: Path = EXISTING.convert(value, param, ctx)
        return found


class ServiceChoice(click.ParamType):  # type: ignore[type-arg]
    """The address of a PACS."""

    name = "service"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> PacsAddress:
        """Return the address taken apart."""
        return value if isinstance(value, PacsAddress) else _address(value, param, ctx, study=False)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return how help shows it."""
        return "dicomweb://HOST:PORT/PATH"


def _address(
    text: str, param: click.Parameter | None, ctx: click.Context | None, *, study: bool
) -> PacsAddress:
    try:
        address = parse_address(text)
    except SettingError as error:
        raise click.BadParameter(str(error), ctx, param) from error
    if study != (address.study_uid is not None):
        rule = "must name a study: …/studies/UID" if study else "must end before /studies"
        raise click.BadParameter(f"a PACS's address {rule}", ctx, param)
    return address


MEMBERS_OPTION = click.option(
    "--weights",
    required=True,
    multiple=True,
    type=WEIGHTS,
    help="Checkpoint of vfx train. Repeat for an ensemble: the score is the mean.",
)
CALIBRATION_OPTION = click.option(
    "--calibration",
    type=TABLE,
    help="calibration.json of vfx calibrate: adds the absolute five-year risk.",
)
SERIES_OPTION = click.option(
    "--series", "series_uid", help="SeriesInstanceUID, if there are several."
)
IMAGE_ARGUMENT = click.argument("image", type=ImageChoice())
STORE_OPTION = click.option(
    "--store",
    "service",
    type=ServiceChoice(),
    help="Also write the results as DICOM objects and store these in a PACS. Its user and password "
    "stand in VFX_DICOMWEB_USER and VFX_DICOMWEB_PASSWORD.",
)
MASK_OPTION = click.option(
    "--mask",
    type=MaskChoice(),
    default="auto",
    show_default=True,
    help="auto: the segmentation makes one; a label map (NIfTI, NRRD); a folder of per-structure "
    "files; a DICOM SEG or RTSTRUCT; totalsegmentator, spine-segment: that tool, where it is "
    "installed.",
)
MADE_MASKS_OPTION = click.option(
    "--mask",
    "made_masks",
    type=click.Choice(MADE_MASKS),
    default="auto",
    show_default=True,
    help="Who makes the masks of rows that name none: the segmentation, or a tool by its name.",
)
COMPARE_OPTION = click.option(
    "--compare-mask/--no-compare-mask",
    default=True,
    show_default=True,
    help="Whether the levels of a mask that is given are compared with the segmentation's (some "
    "seconds); a case whose levels differ is refused.",
)

EXPORT_OPTION = click.option(
    "--export",
    multiple=True,
    type=click.Choice(["dicom", "fhir"]),
    help="Also write DICOM objects (SEG, montage, heat map, report) or a FHIR RiskAssessment. "
    "Repeat for both.",
)
DEIDENTIFY_OPTION = click.option(
    "--deidentify",
    is_flag=True,
    help="Leave the patient out of all files: identity, dates, UIDs and digests of the input.",
)


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
        found: Path = TABLE.convert(value, param, ctx)
        try:
            read_mapping(found)
        except SettingError as error:
            self.fail(str(error), param, ctx)
        return str(found)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return how help shows it."""
        return f"{'|'.join(SCHEMES)}|FILE"


LABELS_OPTION = click.option(
    "--labels",
    "scheme",
    type=LabelScheme(),
    help="What the mask's labels mean: a scheme, or a file (JSON, YAML) that maps values or names "
    "to structures; by default from names, else from ids.",
)
GATE_OPTION = click.option(
    "--gate",
    type=TABLE,
    help="check.csv of vfx check on this table: whom it refuses is left out and counted.",
)
EXCLUDE_OPTION = click.option(
    "--exclude-warning",
    "exclude_warnings",
    multiple=True,
    metavar="CODE",
    help="Leave out whom the gate warned of this as well, such as metal_or_cement. Repeatable.",
)


def say(message: str) -> None:
    """Tell the person at the keyboard (stderr)."""
    click.echo(message, err=True)


def answer(document: dict[str, Any]) -> None:
    """Give a machine its one line (stdout)."""
    click.echo(json.dumps(document))
    click.get_current_context().meta[ANSWERED] = True


def warn(warnings: tuple[CaseWarning, ...]) -> None:
    """Tell what a reader of the result must know."""
    for warning in warnings:
        say(f"warning {warning.code}: {warning.message}")


def tell_series(series: dict[str, Any] | None) -> None:
    """Say which series was taken, why each other one was not, and what else there is."""
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


def refuse(refusal: CaseRefused) -> NoReturn:
    """Say why a case is refused and end with exit status 3."""
    say(f"refused {refusal.code}: {refusal.message}. {refusal.remedy}")
    sys.exit(REFUSED)


def exit_statuses(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a refusal into exit status 3 and wrong use into 2, also where MONAI wrapped them."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except Exception as error:
            refusal, setting = find_refusal(error), find_cause(error, SettingError)
            if refusal is not None and refusal.code == "internal":
                raise click.ClickException(str(refusal)) from error
            if refusal is not None:
                if not click.get_current_context().meta.get(ANSWERED):
                    facts = {n: getattr(refusal, n) for n in ("code", "message", "remedy")}
                    answer({"status": "refused", "refusal": facts})
                refuse(refusal)
            if setting is not None:
                raise click.UsageError(str(setting)) from error
            missing = find_cause(error, MissingDependencyError)
            if missing is not None:
                raise click.ClickException(str(missing)) from error
            raise

    return wrapped


def check_gate(gate: Path | None, exclude_warnings: tuple[str, ...]) -> None:
    """Name what is wrong with a gate before anything heavy is loaded."""
    from monai_vfx.analysis.cohort.check_table import read_gate

    if gate is not None:
        read_gate(gate, exclude_warnings)
    elif exclude_warnings:
        raise SettingError("exclude-warning needs --gate: the check.csv that holds the warnings")


def _case_name(_: click.Context, __: click.Parameter, value: str) -> str:
    from monai_vfx.core.results import check_case_name

    try:
        return check_case_name(value)
    except SettingError as error:
        raise click.BadParameter(str(error)) from error


def writable(folder: Path) -> Path:
    """Make a folder for results; refuse one that cannot be written before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.UsageError(f"{folder} cannot be written to")
    return folder


def case_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where a case lies."""
    for option in reversed(
        (
            IMAGE_ARGUMENT,
            MASK_OPTION,
            COMPARE_OPTION,
            LABELS_OPTION,
            SERIES_OPTION,
            click.option(
                "--case-id",
                "case_name",
                default="case",
                show_default=True,
                callback=_case_name,
                help="Name of the case in the results; the patient's identity is never used.",
            ),
        )
    ):
        command = option(command)
    return command
