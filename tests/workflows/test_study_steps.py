"""Steps of a study: done once, done again when altered, and nothing lost when killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import only_run_in
from monai_vfx.workflows.study.steps import Steps, same_study

COUNT = 6
WORKER = """
import sys, time
from pathlib import Path
from monai_vfx.core.files import only_run_in
from monai_vfx.workflows.study.steps import Steps, same_study

out = Path(sys.argv[1])

def work(number):
    folder = out / f"part_{number}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "result.txt").open("w") as file:
        for line in range(10):
            file.write(f"{number} {line} " + "x" * 20000 + "\\n")
            file.flush()
            time.sleep(0.01)
    return [folder / "result.txt"]

with only_run_in(out):
    same_study(out, {"seed": 1})
    log = Steps(out, lambda line: print(line, flush=True))
    for number in range(6):
        log.run(f"part/{number}", lambda: work(number))
print("END", flush=True)
"""


def silent(line: str) -> None:
    del line


def writer(out: Path, name: str, calls: list[str]) -> Callable[[], list[Path]]:
    """Return work that notes that it was done and leaves a file."""

    def work() -> list[Path]:
        calls.append(name)
        (out / f"{name}.txt").write_text(f"content of {name}")
        return [out / f"{name}.txt"]

    return work


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return script


def start(worker: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(worker), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def content(out: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in sorted(out.glob("part_*/result.txt"))}


# --- done once -----------------------------------------------------------------------------------


def test_a_step_is_done_once(tmp_path: Path) -> None:
    calls: list[str] = []
    told: list[str] = []
    for _ in range(2):
        steps = Steps(tmp_path, told.append)
        steps.run("a/b", writer(tmp_path, "one", calls))
    assert calls == ["one"]
    assert told == ["a/b", "a/b: done before"]
    assert [(entry["name"], entry["outputs"]) for entry in steps.done] == [("a/b", 1)]
    record = json.loads((tmp_path / "steps" / "a.b.json").read_text())
    assert list(record["outputs"]) == ["one.txt"]


@pytest.mark.parametrize("harm", ["altered", "missing", "emptied"])
def test_a_step_with_a_harmed_output_is_done_again(tmp_path: Path, harm: str) -> None:
    calls: list[str] = []
    told: list[str] = []
    for name in ("one", "two"):
        Steps(tmp_path, silent).run(name, writer(tmp_path, name, calls))
    path = tmp_path / "one.txt"
    if harm == "missing":
        path.unlink()
    else:
        path.write_text("content of onE" if harm == "altered" else "")
    for name in ("one", "two"):
        Steps(tmp_path, told.append).run(name, writer(tmp_path, name, calls))
    assert calls == ["one", "two", "one"]
    assert path.read_text() == "content of one"
    assert told[0] == "one: one.txt is missing or was changed"


def test_work_that_keeps_what_it_finds_does_not_find_an_altered_file(tmp_path: Path) -> None:
    path, kept = tmp_path / "large.txt", tmp_path / "kept.txt"

    def resume() -> list[Path]:
        for file in (path, kept):
            if not file.is_file():
                file.write_text("right")
        return [path, kept]

    Steps(tmp_path, silent).run("large", resume)
    path.write_text("wrong")
    before = kept.stat().st_mtime_ns
    Steps(tmp_path, silent).run("large", resume)
    assert path.read_text() == "right"
    assert kept.stat().st_mtime_ns == before


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    calls: list[str] = []

    def fail() -> list[Path]:
        (tmp_path / "one.txt").write_text("half")
        raise KeyboardInterrupt

    steps = Steps(tmp_path, silent)
    steps.run("zero", writer(tmp_path, "zero", calls))
    with pytest.raises(KeyboardInterrupt):
        steps.run("one", fail)
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["zero.json"]
    again = Steps(tmp_path, silent)
    for name in ("zero", "one"):
        again.run(name, writer(tmp_path, name, calls))
    assert calls == ["zero", "one"]
    assert (tmp_path / "one.txt").read_text() == "content of one"


def test_a_step_that_does_not_leave_what_it_names_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Steps(tmp_path, silent).run("one", lambda: [tmp_path / "none.txt"])
    assert not (tmp_path / "steps" / "one.json").exists()


def test_a_torn_record_counts_as_none(tmp_path: Path) -> None:
    calls: list[str] = []
    Steps(tmp_path, silent).run("one", writer(tmp_path, "one", calls))
    record = tmp_path / "steps" / "one.json"
    record.write_text(record.read_text()[:20])
    Steps(tmp_path, silent).run("one", writer(tmp_path, "one", calls))
    assert calls == ["one", "one"]


# --- killed --------------------------------------------------------------------------------------


def test_kills_lose_nothing_and_change_nothing(worker: Path, tmp_path: Path) -> None:
    whole = start(worker, tmp_path / "whole")
    assert whole.communicate(timeout=120)[0].endswith("END\n")
    moments = random.Random(4)
    out = tmp_path / "killed"
    finished: set[str] = set()
    for _ in range(3):
        process = start(worker, out)
        first_line(process)  # it works: waits for no import
        time.sleep(moments.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        records = {path.name for path in (out / "steps").glob("part.*.json")}
        assert finished <= records
        finished = records
    assert len(finished) < COUNT + 1
    last = start(worker, out)
    told = last.communicate(timeout=120)[0].splitlines()
    assert last.returncode == 0
    assert {f"part.{line[5]}.json" for line in told if line.endswith("done before")} == finished
    assert content(out) == content(tmp_path / "whole")
    assert len(content(out)) == COUNT


# --- one run at a time, one study a folder -------------------------------------------------------


def test_a_second_run_is_refused_while_the_first_lives(worker: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(worker, out)
    first_line(process)
    with pytest.raises(SettingError, match="in use by another run"), only_run_in(out):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    with only_run_in(out):  # nothing to clean up by hand
        same_study(out, {"seed": 1})


def test_the_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_run_in(tmp_path / "new"):
        _ = 1 / 0
    with only_run_in(tmp_path / "new"):
        pass


def test_another_study_in_the_folder_is_refused_naming_what_differs(tmp_path: Path) -> None:
    settings = {"seed": 0, "folds": 3, "matching": {"ratio": 1}, "development_sha256": "a"}
    same_study(tmp_path, settings)
    same_study(tmp_path, settings)
    other = {**settings, "matching": {"ratio": 2}, "development_sha256": "b", "gallery": 1}
    with pytest.raises(SettingError) as caught:
        same_study(tmp_path, other)
    assert "(development_sha256, gallery, matching)" in str(caught.value)
    assert json.loads((tmp_path / "steps" / "settings.json").read_text()) == settings
