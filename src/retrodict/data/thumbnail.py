"""A small picture of an image for notebooks."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
import torch

from retrodict.data.image import Image
from retrodict.data.units import unit as unit_named

__all__ = ["html", "picture"]


EDGE = 256
"""Pixels of the longer edge of a picture."""


def picture(image: Image) -> bytes:
    """Return the middle slice as an 8 bit PNG, in the window of the unit or between the 1st and 99th percentile.

    Pixels are as wide and high in it as their spacing says; of several channels the first is shown, or three as RGB.
    """
    from PIL import Image as Pillow

    values = image.values.abs() if image.values.is_complex() else image.values
    values = values[:, values.shape[1] // 2] if values.ndim == 4 else values
    color = image.channels == ("r", "g", "b")
    shown = (values if color else values[:1]).to(torch.float32).cpu().numpy()
    step = max(1, max(shown.shape[1:]) // (2 * EDGE))  # nothing is seen of more
    shown = shown[:, ::step, ::step]
    low, high = _window(image, shown)
    gray = np.clip(np.rint((shown - low) / max(high - low, 1e-30) * 255), 0, 255).astype(np.uint8)
    drawn = Pillow.fromarray(np.ascontiguousarray(np.moveaxis(gray, 0, -1)) if color else gray[0])
    dy, dx = image.spacing[-2:]
    height, width = values.shape[-2] * dy, values.shape[-1] * dx
    scale = EDGE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    buffer = io.BytesIO()
    drawn.resize(size, Pillow.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def _window(image: Image, shown: np.ndarray) -> tuple[float, float]:
    known = unit_named(image.unit).window
    if known is not None:
        center, width = known
        return center - width / 2, center + width / 2
    low, high = (float(v) for v in np.quantile(shown, (0.01, 0.99)))
    return low, high


def html(image: Image) -> str:
    """Return the picture and one line of text as HTML; only the text where Pillow is not installed."""
    text = escape(repr(image)[len("Image(") : -1])
    try:
        drawn = base64.b64encode(picture(image)).decode()
    except ImportError:
        return f"<div>{text}</div>"
    return f'<div><img src="data:image/png;base64,{drawn}" alt="{text}"><br><small>{text}</small></div>'
