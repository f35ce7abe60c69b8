"""From the network's input and a heat map to colours: one look for montage and page."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

Window = tuple[float, float]
"""Hounsfield units, low and high."""
INPUT_HU: Window = (-200.0, 1000.0)
"""What -1 and 1 of the network's input stand for in the study; the setting ``window_hu``."""
WINDOW_HU: Window = (-150.0, 450.0)
"""Shown from black to white: fat dark, muscle mid-grey, spongy bone light, cortical bone white."""
HEAT_RGB = (0.92, 0.11, 0.14)
HEAT_OPACITY = 0.75
"""Opacity of a heat of 1, so that the strongest spot still shows the CT beneath."""

Stack = npt.NDArray[np.floating]
"""(H, W, D): rows to posterior, columns to the patient's left, slices cranial to caudal."""
Bytes = npt.NDArray[np.uint8]
View = tuple[Stack, Stack | None]
"""Network input in [-1, 1] and its heat in [0, 1], if there is one."""


def check_view(image: Stack, heat: Stack | None, name: str = "image") -> None:
    """Let pass only what can be drawn.

    Args:
        image: (H, W, D), in [-1, 1].
        heat: (H, W, D), in [0, 1], or None.
        name: of the argument, for the message.

    Raises:
        ValueError: names the argument, what was found, and the rule.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"{name} has the shape {image.shape}; (H, W, slices) is needed")
    if not np.isfinite(image).all() or np.abs(image).max() > 1.001:
        raise ValueError(f"{name} must hold finite values in [-1, 1]")
    if heat is None:
        return
    if heat.shape != image.shape:
        raise ValueError(
            f"the heat of {name} has the shape {heat.shape}; the image's is {image.shape}"
        )
    if not np.isfinite(heat).all() or heat.min() < 0 or heat.max() > 1.001:
        raise ValueError(f"the heat of {name} must hold finite values in [0, 1]")


def grey(image: Stack, window_hu: Window = INPUT_HU) -> Bytes:
    """Return the CT as grey levels 0-255 of :data:`WINDOW_HU`, any shape.

    Args:
        image: network input in [-1, 1].
        window_hu: what -1 and 1 stand for, HU.

    >>> grey(np.array([-1.0, 1.0])).tolist()
    [0, 255]
    """
    low, high = window_hu
    hu = (np.asarray(image, np.float64) + 1) / 2 * (high - low) + low
    shown = (hu - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0])
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def overlay(heat: Stack) -> Bytes:
    """Return (…, 4): red whose opacity grows with the heat, clear where it is 0.

    >>> overlay(np.array([0.0, 1.0]))[:, 3].tolist()
    [0, 191]
    """
    out = np.empty((*heat.shape, 4), np.uint8)
    out[..., :3] = np.rint(np.array(HEAT_RGB) * 255)
    out[..., 3] = np.rint(np.clip(heat, 0, 1) * HEAT_OPACITY * 255)
    return out


def png(pixels: Bytes) -> bytes:
    """Encode (H, W) grey or (H, W, 4) RGBA pixels as PNG."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    target = BytesIO()
    imsave(target, pixels, format="png")
    return target.getvalue()


def data_uri(content: bytes) -> str:
    """Return a PNG as something an ``img`` can hold."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
