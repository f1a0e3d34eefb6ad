"""Sizes in bytes, as people write them."""

import re
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

MIB: Final = 2**20
GIB: Final = 2**30

_UNITS: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,3})?) ?([A-Za-z]*)")
_PATTERN: Final = r"^\d{1,18}(\.\d{1,3})? ?([KMGTkmgt]?[Ii]?[Bb])?$"


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


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Annotation of a pydantic field that holds a size between two bounds."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validates by `parse_bytes` and the bounds."""
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(format_bytes)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A number within the bounds, or a text."""
        return {"type": ["integer", "string"], "minimum": self.low, "maximum": self.high, "pattern": _PATTERN}

    def _validate(self, value: object) -> int:
        size = parse_bytes(value)
        if not self.low <= size <= self.high:
            raise ValueError(f"must be {format_bytes(self.low)} to {format_bytes(self.high)}")
        return size
