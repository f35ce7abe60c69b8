"""Steps that are done once: a study that was killed at any moment resumes.

A step is done when its record exists and every file that it names still has the same content. A
step without a record is done again; its work must therefore be repeatable: the same inputs and
seeds give the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError
from monai_vfx.core.files import read_json, write_json
from monai_vfx.core.hashing import sha256_of


class Steps:
    """Steps of the study in ``out``, with records in ``out/steps``; ``tell`` gets one line each."""

    def __init__(self, out: Path, tell: Callable[[str], None]) -> None:
        self.out = out
        self.tell = tell
        self.done: list[Json] = []

    def run(self, name: str, work: Callable[[], Iterable[Path]]) -> None:
        """Do a step such as ``image/bone/fold_3`` unless it is done.

        The work returns the files that it leaves, all under ``out``.
        """
        record = self.out / "steps" / f"{name.replace('/', '.')}.json"
        earlier = self._intact(record)
        if earlier is not None:
            self.tell(f"{name}: done before")
            self.done.append({**earlier, "outputs": len(earlier["outputs"])})
            return
        self.tell(name)
        self._clear(record)
        start = time.monotonic()
        outputs = {str(p.relative_to(self.out)): sha256_of(p) for p in sorted(set(work()))}
        entry: Json = {
            "name": name,
            "seconds": round(time.monotonic() - start, 1),
            "outputs": outputs,
        }
        write_json(record, entry)
        self.done.append({**entry, "outputs": len(outputs)})

    def _intact(self, record: Path) -> Json | None:
        """Return the record of a step whose files are all as it left them."""
        entry = _read(record)
        if entry is None:
            return None
        for name, digest in entry["outputs"].items():
            path = self.out / name
            if not path.is_file() or sha256_of(path) != digest:
                self.tell(f"{entry['name']}: {name} is missing or was changed")
                return None
        return entry

    def _clear(self, record: Path) -> None:
        """Remove a record and its changed files, lest a training resume on them."""
        for name, digest in (_read(record) or {"outputs": {}})["outputs"].items():
            path = self.out / name
            if path.is_file() and sha256_of(path) != digest:
                path.unlink()
        record.unlink(missing_ok=True)


def _read(record: Path) -> Json | None:
    """Return a record; None where there is none, or it is incomplete."""
    try:
        entry: Json = read_json(record)
    except (FileNotFoundError, ValueError):
        return None
    return entry


def same_study(out: Path, settings: Json) -> None:
    """Record everything that decides a study's numbers; refuse a folder with other settings."""
    record = out / "steps" / "settings.json"
    if record.is_file():
        earlier = read_json(record)
        changed = sorted(
            name for name in {*earlier, *settings} if earlier.get(name) != settings.get(name)
        )
        if changed:
            raise SettingError(
                f"{out} holds a study with other settings ({', '.join(changed)}): "
                "give another --out"
            )
    write_json(record, settings)
