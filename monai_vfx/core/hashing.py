"""Digests of files and documents: SHA-256, as 64 hexadecimal digits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(facts: Any) -> str:
    """Return the SHA-256 of a text, of bytes, or of anything else as JSON.

    What JSON does not know, such as a path or a date, counts as its text.

    >>> digest_of("")[:8]
    'e3b0c442'
    """
    if not isinstance(facts, bytes):
        facts = (facts if isinstance(facts, str) else json.dumps(facts, default=str)).encode()
    return hashlib.sha256(facts).hexdigest()


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files in the order of their own hashes.

    File names take no part: they may carry a patient's name.
    """
    if path.is_file():
        return sha256_of(path)
    return digest_of("".join(sorted(sha256_of(f) for f in path.rglob("*") if f.is_file())))


def file_state(path: Path) -> str:
    """Return a digest of what tells whether a file, or any in a folder, is still the one it was.

    Size and time of each file count, and where it lies in the folder; nothing is read. A path at
    which there is nothing has a state as well.
    """
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    stats = []
    for file in files:
        name = str(file.relative_to(path))
        found = file.stat() if file.exists() else None
        stats.append([name, *((found.st_size, found.st_mtime_ns) if found else ())])
    return digest_of(stats)
