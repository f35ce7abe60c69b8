"""Where something lies in a PACS, and who asks for it.

Nothing of an address but host and port is ever repeated in a message: its UIDs lead to a patient.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from monai_vfx.core.errors import SettingError

SCHEMES = {"dicomweb": "http", "dicomweb+https": "https"}
"""Scheme of an address → that of its requests."""
USER, PASSWORD = "VFX_DICOMWEB_USER", "VFX_DICOMWEB_PASSWORD"
TOKEN, AUTHORITY = "VFX_DICOMWEB_TOKEN", "VFX_DICOMWEB_CA"
"""Variables of the environment: they stand in no list of processes and no shell's history."""
FORM = "dicomweb://HOST:PORT/PATH"
_OBJECT = re.compile(r"/studies/(?P<study>[^/]+)(?:/series/(?P<series>[^/]+))?")
_UID = re.compile(r"\d+(\.\d+)+", re.ASCII)  # as PS3.5, 9.1, but scanners write leading zeros
_MAX_UID = 64


@dataclass(frozen=True)
class PacsAddress:
    """A DICOMweb service, or a study or series in it.

    Attributes:
        service: URL that ``/studies`` is appended to.
        study_uid, series_uid: what is meant there; None where the address goes less far.
    """

    service: str
    study_uid: str | None = None
    series_uid: str | None = None

    @property
    def host(self) -> str:
        """Host and port, as messages name the PACS."""
        return urlsplit(self.service).netloc

    @property
    def exposes_credentials(self) -> bool:
        """Whether a password would cross a network in clear text."""
        parts = urlsplit(self.service)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


@dataclass(frozen=True)
class Credentials:
    """Who asks: a user with a password, or a bearer token; neither where the PACS asks nobody."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    authority: Path | None = None


def is_address(text: str) -> bool:
    """Whether a text is meant as an address in a PACS.

    >>> is_address("dicomweb://pacs:8042/dicom-web/studies/1.2"), is_address("dicomweb/1.dcm")
    (True, False)
    """
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse_address(text: str) -> PacsAddress:
    """Take an address apart.

    Args:
        text: ``dicomweb://HOST:PORT/PATH/studies/STUDY/series/SERIES`` (HTTP) or
            ``dicomweb+https://…``; without its series, or without its study.

    Raises:
        SettingError: it has another form, or holds credentials.

    >>> address = parse_address("dicomweb+https://pacs/dicom-web/studies/1.2.3/series/1.2.4")
    >>> address.service, address.study_uid, address.series_uid
    ('https://pacs/dicom-web', '1.2.3', '1.2.4')
    >>> parse_address("dicomweb://me:secret@pacs/studies/1.2")
    Traceback (most recent call last):
    ...
    monai_vfx.core.errors.SettingError: a PACS's address must hold no credentials: ...
    """
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in SCHEMES:
        raise SettingError(f"a PACS's address must begin with {' or '.join(SCHEMES)} and ://")
    try:
        parts = urlsplit(f"{SCHEMES[scheme.lower()]}://{rest}")
        name, _ = parts.hostname, parts.port
    except ValueError as error:
        raise SettingError(f"host or port of a PACS's address is malformed: {FORM}") from error
    if "@" in parts.netloc:
        raise SettingError(
            f"a PACS's address must hold no credentials: set {USER} and {PASSWORD}, or {TOKEN}"
        )
    if not name or ":" in name:
        raise SettingError(f"a PACS's address must name a host (no bare IPv6 number): {FORM}")
    if parts.query or parts.fragment:
        raise SettingError(f"a PACS's address must end with its path, without ? or #: {FORM}")
    path = parts.path.rstrip("/")
    before, found, _ = f"{path}/".rpartition("/studies/")
    if not found:
        return PacsAddress(f"{parts.scheme}://{parts.netloc}{path}")
    target = _OBJECT.fullmatch(path, len(before))
    uids = [] if target is None else [uid for uid in target.groups() if uid is not None]
    if not uids or not all(_is_uid(uid) for uid in uids):
        raise SettingError(
            f"a PACS's address must go on {FORM}/studies/STUDY/series/SERIES with UIDs: numbers "
            f"and dots, at most {_MAX_UID} characters"
        )
    return PacsAddress(f"{parts.scheme}://{parts.netloc}{before}", *uids)


def read_credentials() -> Credentials:
    """Return what the environment says; an empty variable counts as none.

    Raises:
        SettingError: half a pair, a pair and a token, or a file of authorities that is not there.
    """
    user, password, token, authority = (
        os.environ.get(name) or None for name in (USER, PASSWORD, TOKEN, AUTHORITY)
    )
    if (user is None) != (password is None):
        raise SettingError(f"{USER} and {PASSWORD} must be set both or neither")
    if user is not None and token is not None:
        raise SettingError(f"{TOKEN} must be unset where {USER} is set, or the other way round")
    if authority is not None and not Path(authority).is_file():
        raise SettingError(f"{AUTHORITY} ({authority}) must name a file of certificates (PEM)")
    return Credentials(user, password, token, None if authority is None else Path(authority))


def _is_uid(text: str) -> bool:
    return len(text) <= _MAX_UID and _UID.fullmatch(text) is not None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
