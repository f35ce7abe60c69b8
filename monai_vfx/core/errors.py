"""Refusals and warnings: why a case is not accepted, in words a user can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from monai_vfx.core.codes import REFUSALS, WARNINGS

E = TypeVar("E", bound=BaseException)


class CaseRefused(Exception):  # noqa: N818 - a refusal is an outcome, not a program error
    """A case does not fulfil a rule.

    Args:
        code: a key of :data:`~monai_vfx.core.codes.REFUSALS`.
        message: what was found, with the offending value and the rule. Must not hold a patient's
            name or ID.
        remedy: what to do; by default the sentence of :data:`~monai_vfx.core.codes.REFUSALS`.

    Raises:
        KeyError: when ``code`` is not registered.

    >>> raise CaseRefused("level_missing", "L2 has no voxel in the mask")
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.CaseRefused: level_missing: L2 has no voxel in the mask. All of T12, ...
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        self.code = code
        self.message = message.rstrip(".")
        known = REFUSALS[code]
        self.remedy = known.remedy if remedy is None else remedy
        super().__init__(f"{code}: {self.message}. {self.remedy}")

    def __reduce__(self) -> tuple[type[CaseRefused], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.code, self.message, self.remedy)

    def to_json(self) -> dict[str, str]:
        """Return ``code``, ``message`` and ``remedy``."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> CaseRefused:
        """Return the refusal of what :meth:`to_json` gave; other keys are left aside.

        >>> CaseRefused.from_json(CaseRefused("mask_empty", "no label").to_json()).message
        'no label'
        """
        return CaseRefused(facts["code"], facts["message"], facts["remedy"])


@dataclass(frozen=True)
class CaseWarning:
    """Something about a case that a reader of its result must know.

    Args:
        code: a key of :data:`~monai_vfx.core.codes.WARNINGS`.
        message: what was found, with values and units.
    """

    code: str
    message: str

    def __post_init__(self) -> None:
        if self.code not in WARNINGS:
            raise KeyError(self.code)


class SettingError(ValueError):
    """A setting cannot be used; the message names it, its value and the rule. Wrong use: exit 2."""


class MissingDependencyError(ImportError):
    """An optional package is needed; the message holds the exact install command.

    Args:
        package: its name.
        extra: of this package that brings it, or the whole command that installs it.
        purpose: what it is needed for.

    >>> print(MissingDependencyError("WeasyPrint", "pdf", "for a PDF"))
    WeasyPrint is needed for a PDF: pip install 'monai_vfx[pdf]'
    >>> print(MissingDependencyError("A tool", "pip install a-tool", "here"))
    A tool is needed here: pip install a-tool
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self._facts = (package, extra, purpose)
        command = extra if " " in extra else f"pip install 'monai_vfx[{extra}]'"
        super().__init__(f"{package} is needed {purpose}: {command}")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), self._facts


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """Return the error of this kind that lies behind ``error``, or None.

    MONAI wraps what a transform or a part of a config raises in a ``RuntimeError``; what was
    raised is then its cause. Only causes count: an error that happened while another was handled
    is an error of its own.

    >>> try:
    ...     try:
    ...         raise CaseRefused("mask_empty", "no label")
    ...     except CaseRefused as refusal:
    ...         raise RuntimeError("applying transform") from refusal
    ... except RuntimeError as error:
    ...     find_cause(error, CaseRefused).code
    'mask_empty'
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, kind):
            return error
        seen.add(id(error))
        error = error.__cause__
    return None


def find_refusal(error: BaseException | None) -> CaseRefused | None:
    """Return the refusal that lies behind ``error``, or None; see :func:`find_cause`."""
    return find_cause(error, CaseRefused)


@contextmanager
def refusing(code: str, what: str) -> Iterator[None]:
    """Turn any error of the block into a refusal: parsers of foreign bytes raise anything.

    A refusal, a setting error or a missing package passes as it is. The error's own text is left
    out: it may hold a path or a
    patient's name.

    Args:
        code: a key of :data:`~monai_vfx.core.codes.REFUSALS`.
        what: what could not be done, such as ``the header cannot be read``; the error's kind is
        added.

    >>> with refusing("mask_unreadable", "the header cannot be read"):
    ...     {}["affine"]
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.CaseRefused: mask_unreadable: the header cannot be read (KeyError). The
    ...
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
