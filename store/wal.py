"""Reads SQLite's write-ahead log as far as SQLite would, and looks at what lies behind.

SQLite stops at the first frame whose checksum is another one, and forgets the rest without a word: that is
how it drops a transaction that was being written when the power went. A flipped bit in the middle looks the
same to it. The format is that of sqlite.org/fileformat2.html#walformat.
"""

import struct
from pathlib import Path

HEADER = struct.Struct(">8I")
FRAME = struct.Struct(">6I")
MAGIC = 0x377F0682  # the last bit: checksums over big-endian words
WORD = 0xFFFFFFFF


def torn(log: Path) -> str | None:
    """Return what is wrong with a log that nobody writes to any more; None where all of it is read.

    A frame of this log behind one that cannot be read was written after it: either a transaction that was
    never confirmed, cut off with the power, or one that is lost.

    Args:
        log: `….sqlite-wal`; may be missing or empty.
    """
    data = log.read_bytes() if log.exists() else b""
    if not data:
        return None
    if len(data) < HEADER.size:
        return "its log has no whole header"
    magic, _, page, _, *salts, sum1, sum2 = HEADER.unpack_from(data)
    words = ">" if magic & 1 else "<"
    if magic & ~1 != MAGIC or _checksum(data[:24], words, (0, 0)) != (sum1, sum2):
        return "the header of its log is broken"
    size = FRAME.size + page
    frames = (len(data) - HEADER.size) // size
    seen = (sum1, sum2)
    for number in range(frames):
        at = HEADER.size + number * size
        _, _, *frame_salts, sum1, sum2 = FRAME.unpack_from(data, at)
        seen = _checksum(data[at : at + 8], words, seen)
        seen = _checksum(data[at + FRAME.size : at + size], words, seen)
        # Our logs are never begun anew, so all their frames have the header's salts.
        if frame_salts != salts or seen != (sum1, sum2):
            return f"its log is broken at frame {number + 1} of {frames}"
    return None


def _checksum(data: bytes, words: str, start: tuple[int, int]) -> tuple[int, int]:
    """Return the running checksum of the format's section 4.2."""
    first, second = start
    numbers = struct.unpack(f"{words}{len(data) // 4}I", data)
    for index in range(0, len(numbers), 2):
        first = (first + numbers[index] + second) & WORD
        second = (second + numbers[index + 1] + first) & WORD
    return first, second
