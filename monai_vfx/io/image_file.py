"""What readers of image files have in common: their axes, and failures to read voxels."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from monai_vfx.core.errors import CaseRefused, access_refused, reason


def three_axes(subject: str, sizes: Iterable[int]) -> tuple[int, int, int]:
    """Accept three axes, or more of which the further ones have one frame."""
    shape = [int(size) for size in sizes]
    if len(shape) < 3 or min(shape) < 1 or any(size != 1 for size in shape[3:]):
        raise CaseRefused("not_volume", f"{subject} has shape {tuple(shape)}")
    return shape[0], shape[1], shape[2]


@contextmanager
def voxel_errors(subject: str, unreadable: str) -> Iterator[None]:
    """Turn what damaged or missing voxels raise into ``file_truncated``."""
    with access_refused(unreadable):
        try:
            yield
        except PermissionError:
            raise
        except (EOFError, OSError, RuntimeError, ValueError, zlib.error) as error:
            raise CaseRefused(
                "file_truncated", f"{subject}: voxels cannot be read ({reason(error)})"
            ) from error
