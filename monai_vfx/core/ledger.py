"""The ledger of finished work: one line a case, appended when it is done.

A line costs the same whether ten cases are done or a million. A kill leaves at most one torn line
at the end, which is left aside when the ledger is read and closed off before the next is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

from monai_vfx.core.arrays import Json
from monai_vfx.core.files import write_jsonl


class Ledger:
    """Records of finished work by key, in a file of one JSON object a line; a context manager.

    Args:
        path: the file; made, with its folder, by the first record.
        key: the field that identifies a record. Of several with one key the last counts.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "done.jsonl"
    >>> with Ledger(path) as ledger:
    ...     ledger.add({"case_id": "a", "stamp": 1})
    >>> Ledger(path).records["a"]["stamp"]
    1
    """

    def __init__(self, path: Path, key: str = "case_id") -> None:
        self.path = path
        self.key = key
        self.records: dict[str, Json] = {}
        self._file: IO[str] | None = None
        lines = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in lines.splitlines():
            try:
                record = json.loads(line)
                self.records[record[key]] = record
            except (ValueError, KeyError, TypeError):  # torn by a kill
                continue
        self._torn = bool(lines) and not lines.endswith("\n")

    def add(self, record: Json) -> None:
        """Append a record; it is on disk when this returns."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            if self._torn:
                self._file.write("\n")
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records[record[self.key]] = record

    def rewrite(self, keys: list[str]) -> None:
        """Leave the records of these keys only, in this order."""
        self.close()
        write_jsonl(self.path, (self.records[key] for key in keys if key in self.records))
        self._torn = False

    def close(self) -> None:
        """Close the file; a later record opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
