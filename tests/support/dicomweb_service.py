"""A DICOMweb service that answers what it is told, for tests of both ends."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom

STUDY, SERIES = "1.2.3", "1.2.3.4"
QIDO = f"/dicom-web/studies/{STUDY}/series"
WADO = f"{QIDO}/{SERIES}"
STOW = "/dicom-web/studies"
JSON = "application/dicom+json"
Answer = tuple[int, dict[str, str], bytes]


def as_json(document: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": JSON}, json.dumps(document).encode()


def named(tag: str, value: str, **more: str) -> dict[str, Any]:
    facts = {tag: value, **more}
    return {name: {"vr": "UI", "Value": [text]} for name, text in facts.items()}


def multipart(parts: list[bytes], *, whole: bool = True) -> Answer:
    head = b"--frame\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(head + part + b"\r\n" for part in parts)
    kind = 'multipart/related; type="application/dicom"; boundary=frame'
    return 200, {"Content-Type": kind}, body + (b"--frame--\r\n" if whole else b"")


@dataclass
class Service:
    """A service that answers what it is told, path by path, and remembers what it was asked."""

    port: int
    answers: dict[str, Answer | Callable[[], Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"dicomweb://127.0.0.1:{self.port}/dicom-web"

    def holds(self, files: list[Path]) -> None:
        """Offer a study with one series."""
        self.answers[QIDO] = as_json([named("0020000E", SERIES, **{"00080060": "CT"})])
        uids = [str(pydicom.dcmread(file).SOPInstanceUID) for file in files]
        self.answers[f"{WADO}/instances"] = as_json([named("00080018", uid) for uid in uids])
        self.answers[WADO] = multipart([file.read_bytes() for file in files])


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Service]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            there.asked.append((self.command, path, dict(self.headers)))
            answer = there.answers.get(path, (404, {}, b""))
            status, headers, body = answer() if callable(answer) else answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    there = Service(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield there
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stored(*uids: str, failed: dict[str, int] | None = None) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if uids:
        items = [named("00081155", uid) for uid in uids]
        document["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        items = [
            named("00081155", uid) | {"00081197": {"vr": "US", "Value": [why]}}
            for uid, why in failed.items()
        ]
        document["00081198"] = {"vr": "SQ", "Value": items}
    return document
