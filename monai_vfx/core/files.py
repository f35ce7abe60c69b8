"""Small files written whole or not at all, and read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_vfx.core.arrays import Json
from monai_vfx.core.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path to write to; it takes the place of ``path`` once the block ends without an error.

    The folder is made. A file that is half written never bears the final name.

    Args:
        path: the final name; its ending is kept, as some libraries choose a format by it.

    Yields:
        A path beside it, in the same folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:])  # .nii.gz
    partial = path.with_name(f".{path.name.removesuffix(ending)}.partial{ending}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document, whole or not at all.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON document.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_jsonl(path: Path, documents: Iterable[Json]) -> None:
    """Write JSON documents, one a line, whole or not at all."""
    write_text(path, "".join(json.dumps(document) + "\n" for document in documents))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a CSV, whole or not at all.

    Args:
        path: of the table.
        columns: names, in order.
        rows: column → value; None and what is missing become an empty cell.

    Raises:
        ValueError: a row has a column that is not in ``columns``.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_frame(path: Path, frame: pd.DataFrame, index: bool = False) -> None:
    """Write a data frame as a CSV, whole or not at all."""
    with writing(path) as partial:
        frame.to_csv(partial, index=index, lineterminator="\n")


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the lock ends with the process, however it ends.

    Args:
        folder: made where it is not there.

    Raises:
        SettingError: another run works in the folder.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise SettingError(f"{folder} is in use by another run") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
