"""The connection to a DICOMweb service, and what its answers mean.

The environment's proxies and ``.netrc`` play no part, and a redirection is not followed: what is
sent goes to the address that was given, or nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from monai_vfx.core.errors import CaseRefused, MissingDependencyError, reason
from monai_vfx.io.dicomweb.address import AUTHORITY, Credentials, PacsAddress, read_credentials

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from requests import RequestException, Response, Session

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a connection."""
READ_TIMEOUT_S = 300.0
"""Longest wait for the next bytes: an archive may fetch a study from tape."""
_MAX_MESSAGE = 1 << 30
_LOG = logging.getLogger(__name__)


@contextmanager
def connection(address: PacsAddress) -> Iterator[DICOMwebClient]:
    """Yield a client of the address's service; nothing is sent yet.

    Raises:
        MissingDependencyError: dicomweb-client is not installed.
        SettingError: the credentials in the environment cannot be used.
    """
    try:
        from dicomweb_client import DICOMwebClient
        from requests import Session
    except ImportError as error:
        raise MissingDependencyError("dicomweb-client", "pacs", "to talk to a PACS") from error
    credentials = read_credentials()
    with Session() as session, ExitStack() as answers:

        def close_later(answer: Response, **_: object) -> None:
            answers.callback(answer.close)  # one in error, or that is not read to its end, as well

        session.trust_env = False
        session.max_redirects = 0
        session.headers["Accept"] = "application/dicom+json"  # other than a store say their own
        _authenticate(session, credentials)
        if address.exposes_credentials and (credentials.user or credentials.token):
            _LOG.warning("credentials go to %s in clear text: use dicomweb+https://", address.host)
        client = DICOMwebClient(
            address.service,
            session=session,
            callback=close_later,
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
        )
        # The library would repeat any request that fails, a refused connection for half a minute.
        client.set_http_retry_params(retry=False)
        yield client


def _authenticate(session: Session, credentials: Credentials) -> None:
    if credentials.authority is not None:
        session.verify = str(credentials.authority)
    if credentials.user is not None and credentials.password is not None:
        session.auth = (credentials.user, credentials.password)
    if credentials.token is not None:
        session.headers["Authorization"] = f"Bearer {credentials.token}"


def send_whole(client: DICOMwebClient) -> None:
    """Let a store announce its length: not every service takes a message in chunks."""
    client.set_chunk_size(_MAX_MESSAGE)


@contextmanager
def answering(address: PacsAddress, *, begun: bool = False) -> Iterator[None]:
    """Turn what a PACS answers, or that it does not, into a refusal.

    Args:
        address: whose host the message names.
        begun: whether a retrieval has begun, so that a failure of the connection cuts it off.

    Raises:
        CaseRefused: ``pacs_unreachable`` or, once begun, ``retrieval_incomplete``;
            ``pacs_denied``, ``not_in_pacs`` or ``pacs_error``.
    """
    from requests.exceptions import HTTPError, InvalidJSONError, RequestException

    try:
        yield
    except CaseRefused:
        raise
    except HTTPError as error:
        raise _refused(address, error.response.status_code) from error
    except RequestException as error:
        if isinstance(error, InvalidJSONError):
            raise CaseRefused(
                "pacs_error", f"the answer of {address.host} is no DICOM JSON"
            ) from error
        raise CaseRefused(
            "retrieval_incomplete" if begun else "pacs_unreachable", *_failed(address, error)
        ) from error
    except Exception as error:  # reading what another program sends raises anything
        raise CaseRefused(
            "pacs_error",
            f"the answer of {address.host} is not what DICOMweb prescribes ({reason(error)})",
        ) from error


def _refused(address: PacsAddress, status: int) -> CaseRefused:
    if status in (401, 403):
        return CaseRefused("pacs_denied", f"{address.host} answers {status} (access denied)")
    if status in (404, 410):
        return CaseRefused(
            "not_in_pacs",
            f"{address.host} answers {status}: it has no such object, or no service at this path",
        )
    return CaseRefused("pacs_error", f"{address.host} answers {status}")


def _failed(address: PacsAddress, error: RequestException) -> tuple[str, str | None]:
    """Return how a connection failed, and what helps where that is something special."""
    from requests import exceptions as failures

    if isinstance(error, failures.SSLError):
        return (
            f"no secure connection to {address.host}: its certificate is not trusted, or it does "
            "not speak TLS",
            f"Name the file of its certificate authority in {AUTHORITY}, or correct the address.",
        )
    if isinstance(error, failures.TooManyRedirects):
        return (
            f"{address.host} sends the request on to another address, which is not followed",
            "Give the address that the service itself has.",
        )
    if isinstance(error, failures.ConnectTimeout):
        return f"{address.host} takes no connection in {CONNECT_TIMEOUT_S:g} s", None
    if isinstance(error, failures.Timeout):
        return f"{address.host} sends nothing for {READ_TIMEOUT_S:g} s", None
    return f"the connection to {address.host} is refused or breaks off", None
