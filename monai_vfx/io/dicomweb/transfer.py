"""Retrieving the CT of a study (QIDO-RS, WADO-RS) and storing results (STOW-RS)."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from monai_vfx.core.errors import CaseRefused, SettingError, reason
from monai_vfx.io.dicomweb.address import FORM, PacsAddress
from monai_vfx.io.dicomweb.client import answering, connection, send_whole

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom import Dataset
    from requests import HTTPError

    from monai_vfx.core.arrays import Json

_AS_STORED = (("application/dicom", "*"),)
"""Any transfer syntax: a service must not decompress, and so perhaps change, what it holds."""
_MODALITY, _SERIES, _INSTANCE = "00080060", "0020000E", "00080018"
_DUPLICATE = 0x0111
"""Failure reason of an object that is there already (DICOM PS3.7, C.4.5)."""
_LOG = logging.getLogger(__name__)


@contextmanager
def local_image(
    image: Path | PacsAddress,
    series_uid: str | None = None,
    tell: Callable[[str], None] = _LOG.info,
) -> Iterator[Path]:
    """Yield a path of an image; one in a PACS is retrieved into a private folder for as long.

    Of a study without a series all CT series are retrieved, so that the choice among them is the
    one that is made in a folder. The folder is readable by its owner only.

    Args:
        image: a path, which is yielded as it is; or the address of a study or series.
        series_uid: which series of the study.
        tell: called with a line about what was retrieved.

    Raises:
        CaseRefused: ``pacs_unreachable``, ``pacs_denied``, ``not_in_pacs``, ``not_ct``,
            ``retrieval_incomplete`` or ``pacs_error``.
        MissingDependencyError: dicomweb-client is not installed.
        SettingError: the address names no study, or another series than ``series_uid``.
    """
    if isinstance(image, Path):
        yield image
        return
    with _ended_by_exit(), TemporaryDirectory(prefix="vfx_pacs_") as folder:
        retrieve(image, Path(folder), series_uid, tell)
        yield Path(folder)


@contextmanager
def _ended_by_exit() -> Iterator[None]:
    """Let a request to end the process (SIGTERM) clean up what was retrieved.

    A handler of the caller's own stays; in a thread other than the main one there can be none.
    """
    plain = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not plain or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def retrieve(
    address: PacsAddress,
    folder: Path,
    series_uid: str | None = None,
    tell: Callable[[str], None] = _LOG.info,
) -> None:
    """Retrieve the CT of an address into a folder, a sub-folder a series; see :func:`local_image`.

    File names are numbers. The instances keep the transfer syntax that the PACS holds them in.
    """
    if address.study_uid is None:
        raise SettingError(f"the address of an image must name a study: {FORM}/studies/STUDY")
    if series_uid and address.series_uid and series_uid != address.series_uid:
        raise SettingError("--series names another series than the address: leave it out")
    only = address.series_uid or series_uid
    with connection(address) as client:
        wanted = [only] if only else _ct_series(client, address, address.study_uid)
        for number, series in enumerate(wanted, start=1):
            target = folder / str(number)
            target.mkdir()
            count = _retrieve_series(client, address, (address.study_uid, series), target)
            tell(f"{count} instances retrieved from {address.host}")


def store(files: Sequence[Path], address: PacsAddress) -> None:
    """Store DICOM objects, one after the other; one that is there already counts as stored.

    Args:
        files: DICOM files of our own making; messages name them.
        address: of the service.

    Raises:
        CaseRefused: ``store_failed`` names all objects that the PACS does not take or does not
            show; ``pacs_unreachable``, ``pacs_denied``, ``not_in_pacs`` or ``pacs_error``.
        MissingDependencyError: dicomweb-client is not installed.
    """
    from pydicom import dcmread

    failures = []
    with connection(address) as client:
        send_whole(client)
        for file in files:
            dataset = dcmread(file)
            with answering(address):
                why = _store_one(client, dataset)
            if why is not None:
                failures.append(f"{file.name} ({why})")
    if failures:
        raise CaseRefused(
            "store_failed",
            f"{address.host} did not take {len(failures)} of {len(files)} objects: "
            f"{', '.join(failures)}",
        )


def _ct_series(client: DICOMwebClient, address: PacsAddress, study: str) -> list[str]:
    """Return the UIDs of the CT series of a study."""
    with answering(address):
        found = _all_pages(lambda n: client.search_for_series(study, offset=n), _SERIES)
    if not found:
        raise CaseRefused("not_in_pacs", f"{address.host} has no such study")
    modality = {uid: _value(series, _MODALITY) or "none" for uid, series in found.items()}
    ct = [uid for uid, kind in modality.items() if kind == "CT"]
    if not ct:
        kinds = ", ".join(sorted(set(modality.values())))
        raise CaseRefused("not_ct", f"modality is {kinds}, must be CT")
    return sorted(ct)


def _retrieve_series(
    client: DICOMwebClient, address: PacsAddress, series: tuple[str, str], folder: Path
) -> int:
    """Write every instance of a series (study, series) to a folder; return how many there are."""
    with answering(address):
        announced = _all_pages(
            lambda n: client.search_for_instances(*series, offset=n, fields=["SOPInstanceUID"]),
            _INSTANCE,
        )
        if not announced:
            raise CaseRefused("not_in_pacs", f"{address.host} has no such series")
        instances = client.iter_series(*series, media_types=_AS_STORED)
    received = set()
    for number, instance in enumerate(_received(instances, address), start=1):
        try:
            instance.save_as(folder / f"{number:05}.dcm")
        except OSError as error:
            raise CaseRefused(
                "retrieval_incomplete", f"an instance cannot be kept: {reason(error)}"
            ) from error
        received.add(str(instance.get("SOPInstanceUID", "")))
    missing = set(announced) - received
    if missing:
        raise CaseRefused(
            "retrieval_incomplete",
            f"{address.host} sent {len(announced) - len(missing)} of the {len(announced)} "
            "instances that it lists for a series",
        )
    return len(received)


def _received(instances: Iterable[Dataset], address: PacsAddress) -> Iterator[Dataset]:
    with answering(address, begun=True):
        yield from instances


def _all_pages(search: Callable[[int], list[Json]], key: str) -> dict[str, Json]:
    """Ask on until nothing new comes: a service may send a part of what it finds.

    Args:
        search: takes how many results to leave out.
        key: tag of the UID that tells results apart.

    Returns:
        UID → result.
    """
    found: dict[str, Json] = {}
    while True:
        page = {_value(result, key): result for result in search(len(found))}
        new = {uid: result for uid, result in page.items() if uid and uid not in found}
        if not new:
            return found
        found |= new


def _value(result: Json, tag: str) -> str:
    """Return the first value of a tag in DICOM JSON (PS3.18, F.2); empty where there is none.

    >>> _value({"00080060": {"vr": "CS", "Value": ["CT"]}}, "00080060"), _value({}, "00080060")
    ('CT', '')
    """
    values: list[Any] = result.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _store_one(client: DICOMwebClient, dataset: Dataset) -> str | None:
    """Store an object; return why it is not in the PACS, None if it is."""
    from requests import HTTPError

    try:
        answer = client.store_instances([dataset])
    except HTTPError as error:
        why = _failure_reason(error)
        if why is None:
            raise
        return None if why == _DUPLICATE else f"failure reason {why:04X}"
    for item in answer.get("FailedSOPSequence", ()):
        if item.get("FailureReason") != _DUPLICATE:
            return f"failure reason {item.get('FailureReason', 0):04X}"
    named = [item.ReferencedSOPInstanceUID for item in answer.get("ReferencedSOPSequence", ())]
    if dataset.SOPInstanceUID in named or _holds(client, dataset):
        return None
    return "the PACS does not confirm it"


def _failure_reason(error: HTTPError) -> int | None:
    """Return the reason that an answer in error gives for the object (PS3.18, I.2), if any."""
    try:
        failed = error.response.json()["00081198"]["Value"][0]
        return int(failed["00081197"]["Value"][0])
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _holds(client: DICOMwebClient, dataset: Dataset) -> bool:
    """Whether the PACS finds an object: asked where its answer to the store leaves it open."""
    found = client.search_for_instances(
        dataset.StudyInstanceUID,
        dataset.SeriesInstanceUID,
        search_filters={"SOPInstanceUID": dataset.SOPInstanceUID},
    )
    return dataset.SOPInstanceUID in [_value(result, _INSTANCE) for result in found]
