"""Words on pictures, in any script: labels are folder names, and folder names may be 划痕 or царапина.

OpenCV 5 carries an outline font with Chinese, Japanese, Korean and Cyrillic glyphs; with an older OpenCV a font of the system is taken,
and Pillow's own (Latin only) where there is none.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

_SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf", "DejaVuSans.ttf", "arial.ttf",
)  # fmt: skip

_DRAWING = threading.Lock()  # a font face keeps the size it was last used with


def draw_text(canvas: np.ndarray, text: str, at: tuple[int, int], *, size: int, colour: Colour, bold: bool = False) -> None:
    """Draw one line of text onto `canvas`, in place; what lies outside is cut off.

    Args:
        canvas: HWC uint8 RGB, contiguous.
        text: any Unicode; line breaks become spaces.
        at: x and y of the top left corner of the line, in pixels.
        size: height of the line's capitals and descenders together, in pixels.
        colour: red, green, blue.
        bold: heavier strokes, where the font has them.
    """
    text, (x, y) = _one_line(text), at
    face = _face()
    if face is not None:
        with _DRAWING:
            cv2.putText(canvas, text, (x, y + size - size // 5), colour, face, size, 700 if bold else 400)
        return
    patch = Image.fromarray(canvas)
    ImageDraw.Draw(patch).text((x, y), text, fill=colour, font=_font(size))
    canvas[:] = np.asarray(patch)


def text_width(text: str, *, size: int, bold: bool = False) -> int:
    """Width of one line of text in pixels, as `draw_text` would draw it."""
    face = _face()
    if face is not None:
        with _DRAWING:
            box = cv2.getTextSize((1, 1), _one_line(text), (0, 0), face, size, 700 if bold else 400)
        return int(box[2])
    return int(_font(size).getlength(_one_line(text)) + 0.5)


def fit_text(text: str, width: int, *, size: int, bold: bool = False) -> str:
    """`text`, or as much of its beginning as fits into `width` pixels with an ellipsis."""
    if text_width(text, size=size, bold=bold) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle] + "…", size=size, bold=bold) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"


def _one_line(text: str) -> str:
    """Printable: no line breaks, and no halves of characters from undecodable file names."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


@cache
def _face() -> Any:
    """OpenCV's own outline font, None before OpenCV 5."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


@cache
def _font(size: int) -> Any:
    for name in _SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, round(size * 0.85))
        except OSError:
            continue
    return ImageFont.load_default(round(size * 0.85))
