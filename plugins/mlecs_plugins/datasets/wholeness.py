"""Damage that decoders pass over, and what they raise for damage that they see."""

from __future__ import annotations

import struct
import zlib
from typing import IO

from PIL.Image import DecompressionBombError

PNG = b"\x89PNG\r\n\x1a\n"
UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""What programs that write into a pipe put where the size of a sound belongs."""

PICTURE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, OverflowError, ZeroDivisionError, MemoryError, struct.error, DecompressionBombError),
)
"""What Pillow raises for files that are no whole pictures, of which its documentation names the first alone."""


def damage_of_png(content: bytes) -> str:
    """Return what is wrong with a PNG file, "" for a whole one and for any other kind of file.

    Pillow stops at the last pixel: it looks at no checksum behind the pixels, and misses some bits that were flipped.
    """
    if not content.startswith(PNG):
        return ""
    at, kind = len(PNG), b""
    while kind != b"IEND":
        if at + 12 > len(content):
            return "it is cut short"
        (length,), kind = struct.unpack_from(">I", content, at), content[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(content):
            return "it is cut short"
        if struct.unpack_from(">I", content, end)[0] != zlib.crc32(content[at + 4 : end]):
            return f"its part at byte {at} does not have its checksum"
        at = end + 4
    return ""


def damage_of_wave(file: IO[bytes]) -> str:
    """Return what is wrong with the size of a WAVE file, "" for a whole one and for any other kind of file."""
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return ""
    size = file.seek(0, 2)
    at = 12
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"data":
            lacking = at + 8 + length - size
            return f"it lacks {lacking:,} of the {length:,} bytes of its sound" * (
                lacking > 0 and length not in UNKNOWN_SIZES
            )
        at += 8 + length + length % 2
    return "it is cut short before its sound"
