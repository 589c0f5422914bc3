"""The PNG that data sets are full of, 8 bits, grey or RGB, with nothing odd about it: decoded in half of Pillow's time.

Most of the time goes into zlib. libdeflate inflates in less than half of it, but knows nothing of PNG's filters; libpng undoes those
in vectors, but brings zlib along. So what was inflated is handed to libpng as a PNG of stored blocks, which cost zlib next to nothing.
Whatever is not plain, or is damaged in any way, is left to `aoi.data.decoding`, which knows what it becomes and what to say about it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LARGEST = 32_000_000
"""Pixels. The filtered bytes are held twice for a moment; Pillow needs no such memory."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = 8 + 25  # signature and IHDR
_CHANNELS = {0: 1, 2: 3}  # of the colour types grey and RGB
_INDIFFERENT = frozenset({b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"tIME", b"tEXt", b"iTXt"})
"""Chunks that change no pixel; of any other, transparency, animation and orientation among them, nothing is assumed."""
_OF_CAMERAS = (b"Raw profile type", b"XML:com.adobe.xmp")
"""Texts that may tell an orientation."""
_BLOCK = 65535
"""Bytes in a stored block, at most (RFC 1951, 3.2.4)."""

Decode = Callable[..., Any]


def read_plain_png(path: Path) -> np.ndarray | None:
    """HW or HWC uint8 RGB, contiguous and writable; None where the file is anything but plain or libraries are missing."""
    content = plain_content(path)
    return None if content is None else decode_plain_png(content)


def plain_content(path: Path) -> bytes | None:
    """The bytes of a file whose header is plain; None where it is not, or libraries to decode it are missing."""
    if _codecs() is None:
        return None
    with contextlib.suppress(OSError, ValueError):
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe could wait for ever
            return None
        with path.open("rb", buffering=0) as file:
            head = file.read(_HEADER)
            return head + file.read() if _plain_header(head) else None
    return None


@functools.cache
def _codecs() -> tuple[Decode, Decode, Decode] | None:
    """Inflating, decoding a PNG, and CRC-32, by libdeflate, libpng and libdeflate; or None."""
    try:
        from imagecodecs import deflate_crc32, deflate_decode, png_decode

        deflate_decode(zlib.compress(b"a"), out=memoryview(bytearray(1)))
        if deflate_crc32(b"a") != zlib.crc32(b"a"):
            return None
    except Exception:  # not installed, or built without one of the two
        return None
    return deflate_decode, png_decode, deflate_crc32


def _plain_header(head: bytes) -> bool:
    """Whether a file that starts so is a PNG of 8 bits, grey or RGB, not interlaced, of a bearable size."""
    if len(head) < _HEADER or head[:16] != _SIGNATURE + b"\0\0\0\rIHDR" or head[24:29] not in (b"\10\0\0\0\0", b"\10\2\0\0\0"):
        return False
    width, height = struct.unpack(">II", head[16:24])
    return bool(0 < width < 2**16 and 0 < height < 2**16 and width * height <= LARGEST)


def decode_plain_png(content: bytes) -> np.ndarray | None:
    """The pixels of a file whose header is plain, HW or HWC uint8; None where something else is not plain, or libraries are missing."""
    codecs, packed = _codecs(), _packed(content)
    if codecs is None or packed is None:
        return None
    inflate, decode, crc32 = codecs
    width, height = struct.unpack(">II", content[16:24])
    stride = 1 + width * _CHANNELS[content[25]]
    filtered = np.empty(height * stride, np.uint8)
    try:
        if len(inflate(packed, out=filtered.data)) != len(filtered) or filtered[::stride].max() > 4:
            return None
        pixels = decode(_stored(content[:_HEADER], filtered, packed[-4:], crc32))
    except Exception:  # whatever the libraries raise, damage is explained elsewhere
        return None
    return np.asarray(pixels) if pixels.shape[:2] == (height, width) and pixels.dtype == np.uint8 else None


def _packed(content: bytes) -> bytes | None:
    """The zlib stream of a PNG, which must be all of it but for chunks that change no pixel."""
    parts: list[bytes] = []
    place = 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, body = content[place + 4 : place + 8], place + 8
        end = body + length + 4
        if kind == b"IEND":
            return b"".join(parts) if parts else None
        if end > len(content):
            return None
        if kind == b"IDAT":
            parts.append(content[body : end - 4])  # what it holds has a checksum of its own
        elif parts or not _harmless(kind, content[place + 4 : end], first=place == 8):
            return None
        place = end
    return None


def _harmless(kind: bytes, chunk: bytes, *, first: bool) -> bool:
    """Whether a chunk before the pixels, kind to checksum, is whole and changes nothing."""
    known = kind == b"IHDR" if first else kind in _INDIFFERENT
    return known and not chunk[4:].startswith(_OF_CAMERAS) and zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:], "big")


def _stored(head: bytes, filtered: np.ndarray, checksum: bytes, crc32: Decode) -> np.ndarray:
    """A PNG of the same header and filtered bytes that is not compressed; `checksum` is that of the bytes, which are the same."""
    count = -(-len(filtered) // _BLOCK)
    start, length = len(head) + 8, 2 + 5 * count + len(filtered) + 4
    found = np.empty(start + length + 4 + 12, np.uint8)
    found[:start] = np.frombuffer(head + struct.pack(">I", length) + b"IDAT", np.uint8)
    found[start : start + 2] = 0x78, 0x01
    place = start + 2
    for i in range(count):
        part = filtered[i * _BLOCK : (i + 1) * _BLOCK]
        found[place : place + 5] = np.frombuffer(struct.pack("<BHH", i == count - 1, len(part), _BLOCK - len(part)), np.uint8)
        found[place + 5 : place + 5 + len(part)] = part
        place += 5 + len(part)
    found[place : place + 4] = np.frombuffer(checksum, np.uint8)
    tail = struct.pack(">I", crc32(found[start - 4 : place + 4].data)) + b"\0\0\0\0IEND\xae\x42\x60\x82"
    found[place + 4 :] = np.frombuffer(tail, np.uint8)
    return found
