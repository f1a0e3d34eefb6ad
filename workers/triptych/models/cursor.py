"""Reads little-endian values from a mapped file, one after the other, and never past its end."""

import mmap
import struct
from collections.abc import Collection
from pathlib import Path

from triptych.core.errors import DataLoss

_SIZE = struct.Struct("<Q")


class Cursor:
    """A place in the header of a file.

    Every method raises DataLoss, naming file, byte and size, where the file is too short for what it announces.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.place = 0
        self._data = data

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return len(self._data)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._require(self.place + count)
        self.place += count
        return self._data[self.place - count : self.place]

    def unpack(self, layout: str) -> tuple[int, ...]:
        """The next values, by the letters of `struct`."""
        packed = struct.Struct("<" + layout)
        return packed.unpack(self.take(packed.size))

    def array(self, length: int, letter: str) -> tuple[int, ...]:
        """As many values of one kind; nothing is made of a length that the file has no room for."""
        self._require(self.place + length)
        return self.unpack(f"{length}{letter}")

    def string(self) -> str:
        """A length and that many bytes of UTF-8."""
        raw = self.take(*self.unpack("Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise DataLoss(f"{self.path}: the header holds text that is not UTF-8: {raw[:40]!r}") from None

    def skip_strings(self, count: int) -> None:
        """Passes over strings without making any."""
        data, place = self._data, self.place
        self._require(place + count * _SIZE.size)
        for _ in range(count):
            self._require(place + _SIZE.size)
            place += _SIZE.size + _SIZE.unpack_from(data, place)[0]
        self.place = place

    def find_strings(self, start: int, count: int, wanted: Collection[str]) -> dict[str, int]:
        """Which of `count` strings are wanted ones, and the number of each; `skip_strings` has passed over all."""
        data, place, found = self._data, start, dict[str, int]()
        texts = {text.encode(): text for text in wanted}
        lengths = {len(text) for text in texts}
        for number in range(count):
            length = _SIZE.unpack_from(data, place)[0]
            place += _SIZE.size + length
            if length in lengths and (raw := data[place - length : place]) in texts:
                found[texts[raw]] = number
        return found

    def _require(self, end: int) -> None:
        if end > len(self._data):
            raise DataLoss(f"{self.path} is cut short: its header needs byte {end:,}, the file has {self.size:,}")
