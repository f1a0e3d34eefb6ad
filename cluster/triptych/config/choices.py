"""Fields with a notation of their own: what the program may choose itself, layouts, addresses."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from triptych.config.layout import PATTERN, Layout
from triptych.core.errors import InvalidArgument

AUTO: Final = "auto"

_ADDRESS: Final = r"^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}$"


@dataclass(frozen=True, slots=True)
class OrAuto:
    """Annotation of a field that the program fills in itself when it holds "auto", which is None in Python."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Lets "auto" and None past the validation of the value."""
        return core_schema.no_info_wrap_validator_function(
            lambda value, inner: None if value is None or value == AUTO else inner(value),
            handler(source),
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda value, inner: AUTO if value is None else inner(value), schema=handler(source)
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The word, or the value's own schema."""
        value = handler(schema)
        choices = [choice for choice in value.get("anyOf", [value]) if choice != {"type": "null"}]
        return {"anyOf": [{"const": AUTO, "type": "string"}, *choices]}


def say_auto(schema: dict[str, Any]) -> None:
    """Writes the default of `OrAuto` fields into a JSON Schema as users write it."""
    for value in schema["properties"].values():
        if value.get("default") is None and {"const": AUTO, "type": "string"} in value.get("anyOf", ()):
            value["default"] = AUTO


def _parse_layout(value: object) -> Layout:
    if isinstance(value, Layout):
        return value
    try:
        return Layout.parse(str(value))
    except InvalidArgument as error:
        raise ValueError(error.message.removeprefix("layout ")) from error


def _check_address(value: str) -> str:
    if not re.fullmatch(_ADDRESS, value) or int(value.rpartition(":")[2]) > 65535:
        raise ValueError("must be HOST:PORT with a port of at most 65535, and an IPv6 host in brackets")
    return value


LayoutText = Annotated[
    Layout,
    PlainValidator(_parse_layout),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": PATTERN}),
]
"""A layout such as 1E1P1D."""

Address = Annotated[str, AfterValidator(_check_address), WithJsonSchema({"type": "string", "pattern": _ADDRESS})]
"""HOST:PORT."""
