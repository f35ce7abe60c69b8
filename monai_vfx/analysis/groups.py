"""Groups of rows that belong together, directly or through other rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

Rows = npt.NDArray[np.int64]


def connected_groups(first: npt.ArrayLike, second: npt.ArrayLike, n: int) -> Rows:
    """Return for each of ``n`` rows the first row of its group, (n,).

    Args:
        first: (k,) row at one end of each connection.
        second: (k,) row at the other end.
        n: number of rows.

    >>> connected_groups([1, 3], [3, 4], 5).tolist()
    [0, 1, 2, 1, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.asarray(first, np.int64), np.asarray(second, np.int64)
    graph = coo_array((np.ones(ends[0].size), ends), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    _, lowest, member = np.unique(label, return_index=True, return_inverse=True)
    return np.asarray(lowest[member], np.int64)


def tied_rows(n: int, *columns: Iterable[object]) -> Rows:
    """Return for each of ``n`` rows the first row that shared entries tie it to, (n,).

    Args:
        n: number of rows.
        *columns: (n,) each, such as patients and matched pairs. Rows with the same entry (as text)
            in a column are tied; an empty or missing entry ties nothing.

    >>> tied_rows(4, ["a", "b", "a", None], ["", "p", "p", ""]).tolist()
    [0, 0, 0, 3]
    """
    ties: list[tuple[int, int]] = []
    for column in columns:
        first_with: dict[str, int] = {}
        for row, entry in enumerate(column):
            if not pd.isna(entry) and str(entry):  # type: ignore[call-overload]
                ties.append((first_with.setdefault(str(entry), row), row))
    first, second = np.array(ties, np.int64).reshape(-1, 2).T
    return connected_groups(first, second, n)
