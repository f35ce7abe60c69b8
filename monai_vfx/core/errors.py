"""Refusals and warnings: why a case is not accepted, in words a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from monai_vfx.core.codes import REFUSALS, WARNINGS

E = TypeVar("E", bound=BaseException)


class CaseRefused(Exception):  # noqa: N818 - a refusal is an outcome, not a program error
    """A case breaks a rule.

    Args:
        code: a key of :data:`~monai_vfx.core.codes.REFUSALS`; any other raises KeyError.
        message: what was found, with the offending value and the rule. Must not hold a patient's
            name or ID.
        remedy: what to do; by default that of the code.

    >>> raise CaseRefused("level_missing", "L2 has no voxel in the mask")
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.CaseRefused: level_missing: L2 has no voxel in the mask. All of T12, ...
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        default = REFUSALS[code].remedy
        self.code, self.message = code, message.rstrip(".")
        self.remedy = default if remedy is None else remedy
        super().__init__(f"{code}: {self.message}. {self.remedy}")

    def __reduce__(self) -> tuple[type[CaseRefused], tuple[str, str, str]]:
        """Pickle, on the way back from a worker process."""
        return type(self), (self.code, self.message, self.remedy)

    def to_json(self) -> dict[str, str]:
        """Return ``code``, ``message`` and ``remedy``."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> CaseRefused:
        """Return the refusal that :meth:`to_json` described; other keys are ignored.

        >>> CaseRefused.from_json(CaseRefused("mask_empty", "no label").to_json()).message
        'no label'
        """
        return CaseRefused(facts["code"], facts["message"], facts["remedy"])


@dataclass(frozen=True)
class CaseWarning:
    """Something that the reader of a case's result must know.

    Args:
        code: a key of :data:`~monai_vfx.core.codes.WARNINGS`; any other raises KeyError.
        message: what was found, with values and units.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in WARNINGS:
            raise KeyError(self.code)


class SettingError(ValueError):
    """A setting cannot be used (exit status 2); the message names it, its value and the rule."""


class MissingDependencyError(ImportError):
    """An optional package is missing; the message holds the exact install command.

    Args:
        package: the name of what is missing.
        extra: the extra of this package that installs it, or a whole command.
        purpose: what it is needed for.

    >>> print(MissingDependencyError("WeasyPrint", "pdf", "for a PDF"))
    WeasyPrint is needed for a PDF: pip install 'monai_vfx[pdf]'
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._arguments = (package, extra, purpose)
        command = extra if " " in extra else f"pip install 'monai_vfx[{extra}]'"
        super().__init__(f"{package} is needed {purpose}: {command}")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """Pickle, on the way back from a worker process."""
        return type(self), self._arguments


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the error of this kind among ``error`` and its causes, or None.

    MONAI wraps what a transform or a part of a config raises in a ``RuntimeError``, whose cause it
    then is. An error raised while another was handled is not caused by that one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__
    return None


def find_refusal(error: BaseException | None) -> CaseRefused | None:
    """Return the refusal among ``error`` and its causes, or None; see :func:`find_cause`.

    >>> try:
    ...     try:
    ...         raise CaseRefused("mask_empty", "no label")
    ...     except CaseRefused as refusal:
    ...         raise RuntimeError("applying transform") from refusal
    ... except RuntimeError as error:
    ...     find_refusal(error).code
    'mask_empty'
    """
    return find_cause(error, CaseRefused)


@contextmanager
def refusing(code: str, what: str) -> Iterator[None]:
    """Turn any error of the block into a refusal: parsers of foreign bytes raise anything.

    Refusals, setting errors and missing packages pass unchanged. The error's type is added to
    ``what``, its text is not: it may hold a path or a patient's name.

    >>> with refusing("mask_unreadable", "the header cannot be read"):
    ...     {}["affine"]
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.CaseRefused: mask_unreadable: the header cannot be read (KeyError). ...
    """
    try:
        yield
    except (CaseRefused, SettingError, MissingDependencyError):
        raise
    except Exception as error:
        raise CaseRefused(code, f"{what} ({type(error).__name__})") from error


ACCESS_REMEDY = "Give yourself read access to the file or folder and run again."
"""Remedy where the operating system denies access."""


@contextmanager
def access_refused(code: str = "input_unreadable") -> Iterator[None]:
    """Turn a permission error of the operating system into a refusal with this code."""
    try:
        yield
    except PermissionError as error:
        raise CaseRefused(
            code, "the system denies access to a file or folder", ACCESS_REMEDY
        ) from error


def reason(error: BaseException) -> str:
    """Describe an error without a file's name, as that may carry a patient's.

    >>> reason(OSError(28, "No space left on device", "Doe_Jane.nii")), reason(EOFError("Doe_Jane"))
    ('No space left on device', 'EOFError')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
