"""A real PACS for the slow tests: Debian's Orthanc with its DICOMweb plugin, on this machine only.

Every Orthanc has its own storage, configuration and free ports, and is stopped at the end.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
import requests
from pynetdicom import AE

USER, PASSWORD = "vfx", "a secret of the test's own"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_S = 30.0
STOP_S = 20.0


@dataclass(frozen=True)
class Orthanc:
    """One that runs.

    Attributes:
        web: port of its web services.
        dimse: port of its classic DICOM services.
    """

    web: int
    dimse: int

    @property
    def address(self) -> str:
        """What ``--store`` takes."""
        return f"dicomweb://localhost:{self.web}/dicom-web"

    def study(self, uid: str, series: str | None = None) -> str:
        """What ``IMAGE`` takes."""
        return f"{self.address}/studies/{uid}" + (f"/series/{series}" if series else "")

    def c_store(self, files: Sequence[Path]) -> None:
        """Send files as a scanner does: C-STORE, each in the transfer syntax it has."""
        entity = AE(ae_title="VFX")
        contexts = {_context(file) for file in files}
        for kind, syntax in sorted(contexts):
            entity.add_requested_context(kind, syntax)
        association = entity.associate("127.0.0.1", self.dimse, ae_title="ORTHANC")
        assert association.is_established
        try:
            for file in files:
                status = association.send_c_store(str(file))
                assert status.Status == 0x0000, (file.name, status)
        finally:
            association.release()

    def rest(self, path: str) -> requests.Response:
        """Ask Orthanc's own interface, past the code under test."""
        url = f"http://localhost:{self.web}{path}"
        return requests.get(url, auth=(USER, PASSWORD), timeout=START_S)


@contextmanager
def running(folder: Path) -> Iterator[Orthanc]:
    """Start an Orthanc in a folder and stop it at the end; skip where none is installed.

    Args:
        folder: for its storage, configuration and log.
    """
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None or not PLUGIN.exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed: orthanc-dicomweb")
    web, dimse = _free_ports()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": web,
        "DicomPort": dimse,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomAlwaysAllowStore": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": {"vfx": ["VFX", "127.0.0.1", 104]},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    orthanc = Orthanc(web, dimse)
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(orthanc, process, folder / "log.txt")
            yield orthanc
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if orthanc.rest("/dicom-web/studies").ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError(f"Orthanc does not start: {log.read_text()[-2000:]}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _context(file: Path) -> tuple[str, str]:
    meta = pydicom.dcmread(file, stop_before_pixels=True).file_meta
    return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
