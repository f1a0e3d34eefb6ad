"""Settings from YAML and from flags, with errors that name the line."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from triptych.config.document import Document, Path, Problem, read_document, report
from triptych.config.spec import ClusterSpec
from triptych.core.errors import InvalidArgument, NotFound

MAX_FILE_BYTES: Final = 2**20

NO_OVERRIDES: Final[Mapping[str, object]] = {}


def load_spec(path: FilePath, overrides: Mapping[str, object] = NO_OVERRIDES) -> ClusterSpec:
    """Reads a cluster's settings from a YAML file.

    Args:
        path: The file.
        overrides: What flags say, which wins over the file: dotted keys (`router.grpc`) and their values.

    Raises:
        NotFound: there is no such file.
        InvalidArgument: every mistake in it, each as `file:line:column: what`; `field` is the key of the first.
    """
    document = read_document(_read_text(path))
    if document.value is None and not document.problems:
        document.value = {}
    if not isinstance(document.value, dict) and not document.problems:
        document.problems.append(Problem(None, "must be a mapping of keys to values, such as `model: NAME`"))
    return _validate(document, overrides, str(path))


def make_spec(overrides: Mapping[str, object]) -> ClusterSpec:
    """Settings from flags alone: dotted keys (`router.grpc`) and their values.

    Raises:
        InvalidArgument: every mistake in them.
    """
    return _validate(Document(value={}), overrides, "")


def _read_text(path: FilePath) -> str:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"{path} is not a file", field="config") from error
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}", field="config") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidArgument(f"{path} may have at most {MAX_FILE_BYTES} bytes, got {len(data)}", field="config")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 text (byte {error.start})", field="config") from error


def _validate(document: Document, overrides: Mapping[str, object], file: str) -> ClusterSpec:
    problems = list(document.problems)
    field = ""
    if isinstance(document.value, dict):
        try:
            spec = ClusterSpec.model_validate(_merged(document, overrides))
            if not problems:
                return spec
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False)
            problems += [_problem(detail, document, overrides) for detail in details]
            field = _dotted(details[0]["loc"])
    raise InvalidArgument(report(problems, file), field=field or "config")


def _merged(document: Document, overrides: Mapping[str, object]) -> dict[str, Any]:
    """The document with the overrides laid over it."""
    merged: dict[str, Any] = dict(document.value)
    for dotted, value in overrides.items():
        *sections, key = dotted.split(".")
        inner = merged
        for section in sections:
            copy = inner.get(section)
            inner[section] = dict(copy) if isinstance(copy, dict) else {}
            inner = inner[section]
        inner[key] = value
    return merged


def _problem(detail: ErrorDetails, document: Document, overrides: Mapping[str, object]) -> Problem:
    text = _explain(detail)
    if _dotted(detail["loc"]) in overrides:
        return Problem(None, f"{text} (set by a flag)")
    return Problem(document.place_of(detail["loc"]), text)


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _explain(detail: ErrorDetails) -> str:
    """One line of plain words for one pydantic error."""
    path: Path = detail["loc"]
    name = _dotted(path)
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key {name!r}{_suggestion(path)}"
        case "missing":
            return f"the key {name!r} is missing"
        case "model_type":
            message = "must be a section of keys and values"
        case _:
            message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            message = message.replace("String should have", "must have")
    got = "" if "got " in message else f", got {_shown(detail['input'])}"
    return f"{name} {message}{got}"


def _suggestion(path: Path) -> str:
    section: type[BaseModel] = ClusterSpec
    for key in path[:-1]:
        annotation = section.model_fields[str(key)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        section = next(kind for kind in options if isinstance(kind, type) and issubclass(kind, BaseModel))
    close = difflib.get_close_matches(str(path[-1]), section.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(section.model_fields)}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
