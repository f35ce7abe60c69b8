"""Addresses, credentials, and what a service's answers mean: a small local service that errs."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from dicomweb_service import (
    JSON,
    QIDO,
    SERIES,
    STOW,
    STUDY,
    WADO,
    Answer,
    Service,
    as_json,
    multipart,
    named,
    serving,
    stored,
)

from monai_vfx.cli import main
from monai_vfx.core.errors import CaseRefused, SettingError
from monai_vfx.io.dicomweb import client
from monai_vfx.io.dicomweb.address import (
    AUTHORITY,
    PASSWORD,
    TOKEN,
    USER,
    PacsAddress,
    parse_address,
    read_credentials,
)
from monai_vfx.io.dicomweb.transfer import local_image, store
from monai_vfx.simulation.dicom_series import SeriesFacts, write_ct_series
from phantoms import Phantom


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as there:
        yield there


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER, PASSWORD, TOKEN, AUTHORITY):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A series of 12 small slices."""
    hu = np.arange(4 * 5 * 12, dtype=np.int16).reshape(4, 5, 12)
    facts = SeriesFacts("pacs", patient_id="SECRET7", patient_name="Doe^Jane")
    return write_ct_series(tmp_path_factory.mktemp("slices"), hu, np.eye(4), facts)


def image(service: Service, study: str = STUDY, series: str = "") -> PacsAddress:
    return parse_address(f"{service.address}/studies/{study}" + (series and f"/series/{series}"))


def refusal(address: PacsAddress) -> CaseRefused:
    with pytest.raises(CaseRefused) as refused, local_image(address):
        pass
    assert STUDY not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    ("text", "service", "study", "series"),
    [
        ("dicomweb://h/studies/1.2", "http://h", "1.2", None),
        ("dicomweb://h:80/a/b/studies/1.2/series/1.3/", "http://h:80/a/b", "1.2", "1.3"),
        ("DICOMweb+HTTPS://h/dicom-web/", "https://h/dicom-web", None, None),
        ("dicomweb://h/studies/x/studies/1.2", "http://h/studies/x", "1.2", None),
    ],
)
def test_an_address_is_taken_apart(
    text: str, service: str, study: str | None, series: str | None
) -> None:
    assert parse_address(text) == PacsAddress(service, study, series)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("http://h/studies/1.2", "begin with dicomweb"),
        ("dicomweb:///studies/1.2", "name a host"),
        ("dicomweb://h:x/studies/1.2", "malformed"),
        ("dicomweb://[::1]:80/studies/1.2", "no bare IPv6"),
        ("dicomweb://doe:SECRET7@h/studies/1.2", "no credentials"),
        ("dicomweb://h/studies/1.2?PatientID=SECRET7", "without"),
        ("dicomweb://h/studies/SECRET7", "UIDs"),
        ("dicomweb://h/studies/", "UIDs"),
        ("dicomweb://h/studies/1.2/series", "UIDs"),
        ("dicomweb://h/studies/1.2/instances/1.3", "UIDs"),
        (f"dicomweb://h/studies/1.{'2' * 63}", "at most 64"),
    ],
)
def test_another_form_is_wrong_use_and_not_repeated(text: str, rule: str) -> None:
    with pytest.raises(SettingError, match=rule) as wrong:
        parse_address(text)
    assert "SECRET7" not in str(wrong.value)
    result = CliRunner().invoke(main, ["check", text])
    assert result.exit_code == 2
    assert "SECRET7" not in result.output


def test_credentials_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER, "me")
    with pytest.raises(SettingError, match="both or neither"):
        read_credentials()
    monkeypatch.setenv(PASSWORD, "secret")
    monkeypatch.setenv(TOKEN, "t")
    with pytest.raises(SettingError, match="unset"):
        read_credentials()
    monkeypatch.setenv(TOKEN, "")
    assert read_credentials().user == "me"
    monkeypatch.setenv(AUTHORITY, "nowhere.pem")
    with pytest.raises(SettingError, match="file of certificates"):
        read_credentials()


def test_credentials_go_to_the_service_and_no_netrc_does(
    service: Service, slices: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    service.holds(slices)
    monkeypatch.setenv(TOKEN, "abc")
    with local_image(image(service)):
        pass
    assert {headers["Authorization"] for _, _, headers in service.asked} == {"Bearer abc"}
    service.asked.clear()
    monkeypatch.delenv(TOKEN)
    monkeypatch.setenv(USER, "Aladdin")
    monkeypatch.setenv(PASSWORD, "open sesame")
    with local_image(image(service)):
        pass
    expected = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # the example of RFC 7617
    assert {headers["Authorization"] for _, _, headers in service.asked} == {expected}


def test_a_password_in_clear_text_is_remarked_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(TOKEN, "abc")
    for text in ("dicomweb://localhost/x", "dicomweb://127.0.0.9/x", "dicomweb+https://pacs/x"):
        with client.connection(parse_address(text)):
            pass
    assert caplog.text == ""
    with client.connection(parse_address("dicomweb://pacs/x")):
        pass
    assert "clear text" in caplog.text
    assert "abc" not in caplog.text


def test_a_series_arrives_whole_in_a_folder_that_goes(service: Service, slices: list[Path]) -> None:
    service.holds(slices)
    lines: list[str] = []
    with local_image(image(service), tell=lines.append) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        got = sorted(pydicom.dcmread(f).PixelData for f in folder.rglob("*.dcm"))
        assert got == sorted(pydicom.dcmread(f).PixelData for f in slices)
        assert "Doe" not in " ".join(str(file) for file in folder.rglob("*"))
    assert not folder.exists()
    assert lines == [f"12 instances retrieved from 127.0.0.1:{service.port}"]
    accepted = next(headers for _, path, headers in service.asked if path == WADO)["Accept"]
    assert accepted == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    with pytest.raises(ZeroDivisionError), local_image(image(service)) as folder:
        raise ZeroDivisionError
    assert not folder.exists()


def test_a_process_that_is_asked_to_end_leaves_nothing(
    service: Service, slices: list[Path]
) -> None:
    service.holds(slices)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, local_image(image(service)) as folder:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert not folder.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_path_is_yielded_as_it_is(tmp_path: Path) -> None:
    with local_image(tmp_path) as folder:
        assert folder is tmp_path


def test_a_series_by_its_uid_is_not_searched_for(service: Service, slices: list[Path]) -> None:
    service.holds(slices)
    with local_image(image(service, series=SERIES)), local_image(image(service), SERIES):
        pass
    assert QIDO not in [path for _, path, _ in service.asked]
    with (
        pytest.raises(SettingError, match="another series"),
        local_image(image(service, series=SERIES), "1.2.3.5"),
    ):
        pass


def test_results_that_come_in_pages_are_all_asked_for(service: Service, slices: list[Path]) -> None:
    service.holds(slices)
    all_uids = [named("00080018", str(pydicom.dcmread(file).SOPInstanceUID)) for file in slices]
    pages = iter([all_uids[:7], all_uids[7:], []])
    service.answers[f"{WADO}/instances"] = lambda: as_json(next(pages))
    service.answers[WADO] = multipart([file.read_bytes() for file in slices[:11]])
    refused = refusal(image(service))
    assert refused.code == "retrieval_incomplete"
    assert "11 of the 12" in refused.message


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "pacs_denied"), (403, "pacs_denied"), (404, "not_in_pacs"), (500, "pacs_error")],
)
def test_a_status_has_a_code(service: Service, slices: list[Path], status: int, code: str) -> None:
    for path in (QIDO, f"{WADO}/instances", WADO):
        service.holds(slices)
        service.answers[path] = (status, {}, b"")
        assert refusal(image(service)).code == code, path


def test_a_study_without_ct_and_one_that_is_not_there(service: Service) -> None:
    service.answers[QIDO] = as_json([named("0020000E", SERIES, **{"00080060": "MR"})])
    refused = refusal(image(service))
    assert (refused.code, refused.message) == ("not_ct", "modality is MR, must be CT")
    service.answers[QIDO] = as_json([])
    assert refusal(image(service)).code == "not_in_pacs"
    service.answers[QIDO] = (204, {}, b"")
    assert refusal(image(service)).code == "not_in_pacs"
    service.answers[f"{WADO}/instances"] = as_json([])
    assert refusal(image(service, series=SERIES)).code == "not_in_pacs"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (QIDO, (200, {"Content-Type": JSON}, b"<html>")),
        (QIDO, as_json(["x"])),
        (QIDO, as_json([{"0020000E": {"Value": 3}}])),
        (f"{WADO}/instances", (200, {"Content-Type": JSON}, b"[{")),
        (WADO, (200, {"Content-Type": "text/html"}, b"sign in")),
        (WADO, (200, {}, b"")),
        (WADO, multipart([b"no DICOM"])),
    ],
)
def test_an_answer_that_is_not_dicomweb(
    service: Service, slices: list[Path], path: str, answer: Answer
) -> None:
    service.holds(slices)
    service.answers[path] = answer
    assert refusal(image(service)).code == "pacs_error"


def test_what_breaks_off_is_incomplete(service: Service, slices: list[Path]) -> None:
    service.holds(slices)
    status, headers, body = multipart([file.read_bytes() for file in slices])
    cut = body[: len(body) // 2]
    service.answers[WADO] = (status, {**headers, "Content-Length": str(len(body))}, cut)
    assert refusal(image(service)).code == "retrieval_incomplete"
    service.answers[WADO] = (status, headers, cut)  # as if that were all
    assert refusal(image(service)).code == "retrieval_incomplete"


def test_a_disc_that_is_full(
    service: Service, slices: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "Doe_Jane")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    service.holds(slices)
    refused = refusal(image(service))
    assert refused.code == "retrieval_incomplete"
    assert refused.message == "an instance cannot be kept: No space left on device"


def test_nobody_answers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused = refusal(parse_address(f"dicomweb://127.0.0.1:{port}/studies/{STUDY}"))
    assert refused.code == "pacs_unreachable"
    assert f"127.0.0.1:{port}" in refused.message
    refused = refusal(parse_address(f"dicomweb+https://127.0.0.1:{service.port}/studies/{STUDY}"))
    assert refused.code == "pacs_unreachable"
    assert AUTHORITY in refused.remedy
    let_go = threading.Event()
    service.answers[QIDO] = lambda: let_go.wait(10) and as_json([])
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.2)
    refused = refusal(image(service))
    let_go.set()
    assert (refused.code, "0.2 s" in refused.message) == ("pacs_unreachable", True)


def test_a_certificate_must_be_vouched_for(
    slices: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    words += ["-keyout", str(file)]
    made = subprocess.run(["openssl", *words], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + made.stdout)
    with serving(file) as service:
        service.holds(slices)
        address = f"dicomweb+https://localhost:{service.port}/dicom-web/studies/{STUDY}"
        refused = refusal(parse_address(address))
        assert (refused.code, AUTHORITY in refused.remedy) == ("pacs_unreachable", True)
        assert service.asked == []
        monkeypatch.setenv(AUTHORITY, str(file))
        with local_image(parse_address(address)) as folder:
            assert len([*folder.rglob("*.dcm")]) == len(slices)


def test_a_redirection_is_not_followed(service: Service, slices: list[Path]) -> None:
    service.holds(slices)
    service.answers["/elsewhere"] = service.answers[QIDO]
    service.answers[QIDO] = (307, {"Location": "/elsewhere"}, b"")
    refused = refusal(image(service))
    assert (refused.code, len(service.asked)) == ("pacs_unreachable", 1)


def test_a_store_is_checked_object_by_object(service: Service, slices: list[Path]) -> None:
    address = parse_address(service.address)
    uids = [str(pydicom.dcmread(file).SOPInstanceUID) for file in slices[:2]]
    service.answers[STOW] = as_json(stored(*uids))
    store(slices[:2], address)
    posts = [path for method, path, _ in service.asked if method == "POST"]
    assert posts == [STOW, STOW]
    service.answers[STOW] = as_json(stored(uids[0], failed={uids[1]: 0xA700}))
    with pytest.raises(CaseRefused) as refused:
        store(slices[1:2], address)
    assert refused.value.code == "store_failed"
    assert f"{slices[1].name} (failure reason A700)" in refused.value.message


@pytest.mark.parametrize("status", [200, 202, 409])
def test_an_object_that_is_there_already_is_stored(
    service: Service, slices: list[Path], status: int
) -> None:
    dataset = pydicom.dcmread(slices[0])
    uid = str(dataset.SOPInstanceUID)
    service.answers[STOW] = as_json(stored(failed={uid: 0x0111}), status)
    place = f"{STOW}/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances"
    service.answers[place] = as_json([named("00080018", uid)])
    store(slices[:1], parse_address(service.address))


@pytest.mark.parametrize(
    "answer",
    [(200, {}, b""), (200, {"Content-Type": f"{JSON}; charset=utf-8"}, b"{}"), as_json({})],
)
def test_an_answer_that_names_no_object_is_checked(
    service: Service, slices: list[Path], answer: Answer
) -> None:
    dataset = pydicom.dcmread(slices[0])
    uid = str(dataset.SOPInstanceUID)
    place = f"{STOW}/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances"
    service.answers[STOW] = answer
    service.answers[place] = as_json([named("00080018", uid)])
    store(slices[:1], parse_address(service.address))
    service.answers[place] = as_json([])
    with pytest.raises(CaseRefused, match="does not confirm") as refused:
        store(slices[:1], parse_address(service.address))
    assert refused.value.code == "store_failed"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (as_json(stored(failed={"1.2": 0x0122}), 409), "store_failed"),
        ((409, {}, b""), "pacs_error"),
        ((403, {}, b""), "pacs_denied"),
        ((500, {"Content-Type": JSON}, b"{}"), "pacs_error"),
    ],
)
def test_a_store_that_fails(
    service: Service, slices: list[Path], answer: Answer, code: str
) -> None:
    service.answers[STOW] = answer
    with pytest.raises(CaseRefused) as refused:
        store(slices[:1], parse_address(service.address))
    assert refused.value.code == code
    assert "SECRET7" not in str(refused.value)


def test_the_command_says_why_and_ends_with_3(service: Service) -> None:
    service.answers[QIDO] = (401, {}, b"")
    result = CliRunner().invoke(main, ["check", f"{service.address}/studies/{STUDY}"])
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["refusal"]["code"] == "pacs_denied"
    assert PASSWORD in document["refusal"]["remedy"]
    for arguments, rule in (
        ([service.address], "name a study"),
        (["x.nii", "--store", f"{service.address}/studies/{STUDY}"], "end before"),
    ):
        result = CliRunner().invoke(main, ["segment", *arguments, "--out", "x"])
        assert result.exit_code == 2
        assert rule in result.output


def test_what_cannot_be_stored_is_wrong_use(phantom: Phantom, tmp_path: Path) -> None:
    ct, _ = phantom.save(tmp_path / "nifti")
    (tmp_path / "dicom").mkdir()
    words = ["--store", "dicomweb://pacs/x", "--out", str(tmp_path / "out")]
    for image, more, rule in (
        (ct, [], "DICOM"),
        (tmp_path / "dicom", ["--deidentify"], "leave one out"),
    ):
        result = CliRunner().invoke(main, ["segment", str(image), *words, *more])
        assert result.exit_code == 2
        assert rule in result.output
    assert not (tmp_path / "out").exists()
