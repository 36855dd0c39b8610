"""Damage that decoders pass over, and what they raise for damage that they see."""

from __future__ import annotations

import struct
from typing import IO

from PIL.Image import DecompressionBombError

UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""What programs that write into a pipe put where the size of a sound belongs."""

PICTURE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, OverflowError, ZeroDivisionError, MemoryError, struct.error, DecompressionBombError),
)
"""What Pillow raises for files that are no whole pictures, of which its documentation names the first alone."""


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
