"""Sizes in bytes, as people write them."""

import re
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30
SIZE_PATTERN: Final = r"^\d{1,18}(\.\d{1,3})? ?([KMGTkmgt]?[Ii]?[Bb])?$"
"""Of texts that `parse_bytes` may read, for JSON Schemas."""

_UNITS: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,3})?) ?([A-Za-z]*)")


def parse_bytes(value: object) -> int:
    """Reads a whole number of bytes, or a text such as "512MiB", "1.5 GiB" or "20 MB".

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError("must be a number of bytes or a size such as 512MiB, 1.5GiB or 20MB")
    whole, _, thousandths = match[1].partition(".")
    return int(whole) * unit + int(thousandths.ljust(3, "0")) * unit // 1000


def format_bytes(value: int) -> str:
    """The shortest exact notation: 536870912 is "512MiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % _UNITS[unit.lower()] == 0:
            return f"{value // _UNITS[unit.lower()]}{unit}"
    return str(value)


def show_bytes(value: int) -> str:
    """To three digits or so, for reading: 1.62 GiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (2**10, "KiB")):
        if value >= unit:
            return f"{value / unit:.2f} {name}"
    return f"{value} bytes"
