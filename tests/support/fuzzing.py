"""The fuzz run: bad files from good ones, each read by a process with limits on time and memory.

``python tests/support/fuzzing.py --count 20000`` runs it (``make fuzz``), ``--case N`` shows one
case. A case is a function of its number. Every outcome must be a result or a code of the package: a
traceback, a process that dies, takes longer than :data:`SECONDS` or more memory than
:data:`MEMORY` is a finding, and so is a message that holds the patient's name or a path.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
from fuzz_mutations import mutate
from fuzz_seeds import SEEDS, Seed, build_seeds

SECONDS = 10.0
"""The longest that a case may take, of a processor's time: the machine may have other work."""
PATIENCE = 10
"""So many times longer it may take by the clock."""
MEMORY = 2 << 30
"""The most memory that a process may use for a case, in bytes."""
RESERVED = 3 * MEMORY
"""It may reserve so much and not use it: Python reserves what a length of 32 bits asks for, and
fills what the file holds. More it does not get, which shows as a ``MemoryError``."""
Reader = Callable[[Seed, Path], list[str]]
"""Reads a seed's files in a folder and returns the refusals."""
SECRETS = ("xanthippe", "quirina", "xq-1", "vfx_fuzz")
"""Parts of the patient's name and of the paths of inputs; small letters."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        number: of the case.
        seed: name of the good input.
        done: what was changed.
        kind: ``result`` or ``code``; otherwise a finding: ``traceback``, ``told``, ``hang``,
            ``memory`` or ``crash``.
        text: the refusals, one a line, or what went wrong.
        seconds: of a processor, for the reading alone.
        peak_mib: most memory of the process during the case.
    """

    number: int
    seed: str
    done: tuple[str, ...]
    kind: str
    text: str
    seconds: float = 0.0
    peak_mib: float = 0.0

    @property
    def is_finding(self) -> bool:
        """Whether the package has to be mended."""
        return self.kind not in ("result", "code")


def prepare(number: int, seeds: Path, folder: Path) -> tuple[Seed, tuple[str, ...]]:
    """Write the files of a case into an empty folder."""
    seed = SEEDS[number % len(SEEDS)]
    shutil.copytree(seeds / seed.name, folder, dirs_exist_ok=True)
    files = sorted(folder.glob(seed.targets))
    return seed, tuple(mutate(np.random.default_rng([2026, number]), files, seed.form))


def read(seed: Seed, folder: Path) -> list[str]:
    """Read a case as the commands do; return the codes that it was refused with."""
    from monai_vfx.core.errors import CaseRefused, SettingError

    if seed.form == "table":
        return _read_table(folder / seed.image)
    from monai_vfx.case.case import check_report
    from monai_vfx.io.volume import open_volume

    told = []
    mapping = folder / "labels.yaml"
    scheme = str(mapping) if mapping.is_file() else None
    try:
        _, refusal = check_report(
            folder / seed.image, folder / seed.mask, case_id="a", scheme=scheme
        )
    except SettingError:
        if seed.name == "mapping":
            return ["wrong use: of the mapping"]
        raise
    if refusal is not None:
        told.append(refusal)
    if seed.mask == "mask.nii":  # the image is what was damaged: read all of it
        try:
            open_volume(folder / seed.image).read()
        except CaseRefused as further:
            told.append(further)
    return [str(refusal) for refusal in told]


def _read_table(path: Path) -> list[str]:
    from monai_vfx.analysis.cohort.patients_csv import read_patients
    from monai_vfx.analysis.cohort.training_items import read_cohort
    from monai_vfx.analysis.evaluation.score_table import read_score_table
    from monai_vfx.analysis.morphometry.readings import read_heights
    from monai_vfx.core.errors import CaseRefused

    told = []
    for reader in (read_cohort, read_patients, read_score_table, read_heights):
        try:
            reader(path)
        except CaseRefused as refusal:
            told.append(str(refusal))
    return told


class _Kept(logging.Handler):
    """Keeps what libraries log, as it would reach a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _peak_mib(reset: bool = False) -> float:
    """Return the process's peak of resident memory, or begin to measure anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def try_case(number: int, seeds: Path, reader: Reader = read) -> Outcome:
    """Make one case and read it in this process."""
    folder = Path(tempfile.mkdtemp(prefix="vfx_fuzz_"))
    logs = _Kept()
    logging.getLogger().addHandler(logs)
    _peak_mib(reset=True)
    try:
        begin, done = time.process_time(), tuple[str, ...]()
        try:
            seed, done = prepare(number, seeds, folder)
            logs.texts.clear()  # making the files is nobody's concern
            begin = time.process_time()
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                refusals = reader(seed, folder)
            texts = [*refusals, *logs.texts, *(str(w.message) for w in heard)]
            leaks = [t for t in texts if any(secret in t.lower() for secret in SECRETS)]
            kind = "told" if leaks else "code" if refusals else "result"
            text = leaks[0] if leaks else "\n".join(refusals)
        except Exception:  # whatever it is, it is what is looked for
            kind, text = "traceback", traceback.format_exc()
        name = SEEDS[number % len(SEEDS)].name
        return Outcome(number, name, done, kind, text, time.process_time() - begin, _peak_mib())
    finally:
        logging.getLogger().removeHandler(logs)
        shutil.rmtree(folder, ignore_errors=True)


def _work(
    pipe: multiprocessing.connection.Connection, seeds: Path, scratch: Path, reader: Reader
) -> None:
    """Read cases by the numbers that come through the pipe, until None comes."""
    tempfile.tempdir = str(scratch)
    for seed in SEEDS if reader is read else ():  # to import all there is takes seconds
        read(seed, seeds / seed.name)
    resource.setrlimit(resource.RLIMIT_AS, (RESERVED, RESERVED))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path(os.devnull).open("w") as nowhere:  # ITK and decoders write there by themselves
        os.dup2(nowhere.fileno(), 2)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        pipe.send(try_case(number, seeds, reader))


def _used_seconds(pid: int | None) -> float:
    """Return the processor's time that a process has used."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


class _Worker:
    """One process that reads cases; a new one replaces it when it dies or hangs."""

    def __init__(self, seconds: float, *arguments: object) -> None:
        self._seconds, self._arguments = seconds, arguments
        self._process: multiprocessing.process.BaseProcess | None = None
        self.number: int | None = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, *self._arguments), daemon=True)
        # Each thread of a pool reserves memory that nobody uses.
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"):
            self._process.start()
        theirs.close()
        self.pipe.recv()  # it is ready

    def give(self, number: int) -> None:
        if self._process is None:
            self._start()
        assert self._process is not None
        self.number, self._since = number, time.monotonic()
        self._used = _used_seconds(self._process.pid)
        self.pipe.send(number)

    def overdue(self) -> bool:
        if self.number is None or self._process is None:
            return False
        # Making the files takes time as well; how long the reading took decides below.
        by_clock = time.monotonic() - self._since > PATIENCE * self._seconds
        return by_clock or _used_seconds(self._process.pid) - self._used > 2 * self._seconds

    def take(self) -> Outcome:
        """Return the outcome of the case; start anew where there is none."""
        number, process = self.number, self._process
        assert number is not None
        assert process is not None
        self.number = None
        seed = SEEDS[number % len(SEEDS)].name
        try:
            if not self.pipe.poll():  # then it is overdue
                process.kill()
                raise TimeoutError
            found: Outcome = self.pipe.recv()
        except (EOFError, ConnectionError, TimeoutError) as error:
            process.join()
            self._process = None
            kind = "hang" if isinstance(error, TimeoutError) else "crash"
            return Outcome(number, seed, (), kind, f"exit status {process.exitcode}")
        if found.is_finding:
            return found
        if found.peak_mib > MEMORY / 2**20 or "MemoryError" in found.text:
            return replace(found, kind="memory")
        slow = found.seconds > self._seconds
        return replace(found, kind="hang", text=f"{found.seconds:.1f} s") if slow else found

    def stop(self) -> None:
        if self._process is not None:
            self.pipe.send(None)
            self._process.join(5)
            self._process.kill()


def run(
    numbers: Sequence[int], workers: int, reader: Reader = read, seconds: float = SECONDS
) -> Iterator[Outcome]:
    """Read cases, several at a time; yield each outcome as it comes.

    Args:
        numbers: of the cases.
        workers: processes that read.
        reader: reads one case; named in a module, as it goes to other processes.
        seconds: the longest that a case may take.
    """
    with tempfile.TemporaryDirectory(prefix="vfx_fuzz_") as root:
        seeds, scratch = Path(root) / "seeds", Path(root) / "scratch"
        scratch.mkdir()
        build_seeds(seeds)
        team = [_Worker(seconds, seeds, scratch, reader) for _ in range(workers)]
        waiting = iter(numbers)
        try:
            for worker, number in zip(team, waiting, strict=False):
                worker.give(number)
            while busy := [worker for worker in team if worker.number is not None]:
                ready = multiprocessing.connection.wait([w.pipe for w in busy], timeout=1)
                for worker in busy:
                    if worker.pipe in ready or worker.overdue():
                        yield worker.take()
                        number = next(waiting, None)
                        if number is not None:
                            worker.give(number)
        finally:
            for worker in team:
                worker.stop()


def _keep(number: int, folder: Path) -> int:
    with tempfile.TemporaryDirectory() as seeds:
        build_seeds(Path(seeds))
        seed, done = prepare(number, Path(seeds), folder)
    print(seed, *done, sep="\n")
    return 0


def main() -> int:
    """Run from the command line; exit status 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--case", type=int, help="one number: show what it does")
    parser.add_argument("--keep", type=Path, help="with --case: only write its files here")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    numbers = range(options.start, options.start + options.count)
    if options.case is not None:
        numbers = range(options.case, options.case + 1)
    if options.keep is not None:
        return _keep(options.case, options.keep)
    began, kinds, peak, longest, findings = time.monotonic(), Counter[str](), 0.0, 0.0, 0
    for done, found in enumerate(run(numbers, options.workers), start=1):
        kinds.update([found.kind if found.kind != "code" else found.text.partition(":")[0]])
        peak, longest = max(peak, found.peak_mib), max(longest, found.seconds)
        findings += found.is_finding
        if found.is_finding or options.case is not None:
            print(found.number, found.seed, found.kind, *found.done, sep=" | ", flush=True)
            print(found.text, flush=True)
        if done % 1000 == 0:
            print(
                f"{done} cases, {time.monotonic() - began:.0f} s, {findings} findings", flush=True
            )
    seconds = time.monotonic() - began
    print(
        f"{len(numbers)} cases in {seconds:.0f} s ({len(numbers) / seconds:.0f} a second); "
        f"longest {longest:.1f} s, peak {peak:.0f} MiB, findings {findings}"
    )
    print(", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
