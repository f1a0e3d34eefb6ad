"""The reference of all settings, made from their JSON Schema.

`python -m triptych.config.reference docs` writes the page and the schema into a folder.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triptych.config.spec import ClusterSpec
from triptych.core.sizes import format_bytes

Schema = dict[str, Any]

_HEAD = """\
# Settings

`triptych serve --config FILE` reads a YAML file with the keys below; only `model` has to be there, and flags win over
the file. A key that does not exist, a key given twice or a value out of bounds is refused with its line and column.
Sizes are a number of bytes or a text such as `512MiB`.

This page is made by `make docs` from the JSON Schema of the settings, which editors can check a file against:
[configuration.schema.json](configuration.schema.json).
"""

_TABLE = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n"


def reference_markdown() -> str:
    """The page: one table for each kind of section."""
    schema = ClusterSpec.model_json_schema()
    titles: dict[str, list[str]] = {}
    for path, reference in _sections(schema, schema, ""):
        titles.setdefault(reference, []).append(path)
    parts = [_part("The cluster", schema, schema)]
    parts += [_part(", ".join(paths), schema["$defs"][name], schema) for name, paths in titles.items()]
    return _HEAD + "".join(parts)


def schema_text() -> str:
    """The JSON Schema of a settings file."""
    return json.dumps(ClusterSpec.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def write_reference(folder: Path) -> None:
    """Writes configuration.md and configuration.schema.json."""
    (folder / "configuration.md").write_text(reference_markdown(), encoding="utf-8")
    (folder / "configuration.schema.json").write_text(schema_text(), encoding="utf-8")


def _part(title: str, section: Schema, schema: Schema) -> str:
    return f"\n## {title}\n\n{section['description']}\n\n{_TABLE}{''.join(_rows(section, schema))}"


def _sections(section: Schema, schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Where each section stands (`stages.decode`), and the name of its definition."""
    for key, value in section["properties"].items():
        if name := _referenced(value):
            inner = f"{path}.{key}".removeprefix(".")
            yield inner, name
            yield from _sections(schema["$defs"][name], schema, inner)


def _rows(section: Schema, schema: Schema) -> Iterator[str]:
    required = section.get("required", ())
    for key, value in section["properties"].items():
        if name := _referenced(value):
            meaning = value.get("description", schema["$defs"][name]["description"])
            yield f"| `{key}` | section | – | {meaning} |\n"
        else:
            default = "required" if key in required else _default(value)
            yield f"| `{key}` | {_kind(value)} | {default} | {' '.join(value['description'].split())} |\n"


def _referenced(value: Schema) -> str | None:
    """The name of the definition that a property takes its form from."""
    references = (choice["$ref"] for choice in (value, *value.get("anyOf", ())) if "$ref" in choice)
    return next((reference.rpartition("/")[2] for reference in references), None)


def _default(value: Schema) -> str:
    default = value["default"]
    if default is None:
        return "–"
    if isinstance(default, bool):
        return f"`{default}`".lower()
    return f"`{format_bytes(default) if _is_size(value) else default}`".replace(".0`", "`")


def _kind(value: Schema) -> str:
    if "anyOf" in value:
        return " or ".join(_kind(choice) for choice in value["anyOf"] if choice != {"type": "null"})
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if _is_size(value):
        return f"size, {format_bytes(value['minimum'])} to {format_bytes(value['maximum'])}"
    if value["type"] == "object":
        return f"names, each with a {_kind(value['additionalProperties'])}"
    if value["type"] == "boolean":
        return "`true`, `false`"
    return f"{ {'string': 'text', 'integer': 'integer', 'number': 'number'}[value['type']] }{_bounds(value)}"


def _is_size(value: Schema) -> bool:
    return value.get("type") == ["integer", "string"]


def _bounds(value: Schema) -> str:
    if "exclusiveMinimum" in value:
        return f", above {value['exclusiveMinimum']:g} to {value['maximum']:g}"
    if "minimum" not in value:
        return ""
    return f", {value['minimum']} to {value['maximum']}" if "maximum" in value else f", at least {value['minimum']}"


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
