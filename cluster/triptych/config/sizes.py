"""Fields that hold sizes."""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from triptych.core.sizes import SIZE_PATTERN, format_bytes, parse_bytes


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
        return {"type": ["integer", "string"], "minimum": self.low, "maximum": self.high, "pattern": SIZE_PATTERN}

    def _validate(self, value: object) -> int:
        size = parse_bytes(value)
        if not self.low <= size <= self.high:
            raise ValueError(f"must be {format_bytes(self.low)} to {format_bytes(self.high)}")
        return size
