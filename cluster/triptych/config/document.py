"""YAML to plain values, with the place of every key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]
"""Keys and indices from the top of a document."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Line and column in a file, counted from one."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at a place; None is the top of the document."""

    place: Place | None
    text: str


@dataclass(slots=True)
class Document:
    """A YAML document.

    Attributes:
        value: Its content.
        places: Where each key, or each item of a list, stands.
        problems: What was wrong with its form.
    """

    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place_of(self, path: Path) -> Place | None:
        """Where a path stands, or the innermost part of it that the document has."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return None


def read_document(text: str) -> Document:
    """Parses one YAML document of scalars, lists and mappings with text keys.

    Duplicate keys, keys that are not text, anchors used twice and broken syntax become problems; YAML's usual loader
    lets the first pass, and expands the third without bound.
    """
    document = Document()
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.value = _Reader(document, loader).read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = ", ".join(part for part in (error.context, error.problem) if part)
        document.problems.append(Problem(_place(mark) if mark else None, text))
    except yaml.YAMLError as error:
        document.problems.append(Problem(None, " ".join(str(error).split())))
    except RecursionError:
        document.problems.append(Problem(None, "is nested too deeply"))
    return document


def report(problems: list[Problem], file: str) -> str:
    """Every problem in a line of its own, in the order of the file; `file` is empty where there is none."""
    lines = [
        f"{_where(problem.place, file)}{problem.text}"
        for problem in sorted(problems, key=lambda p: p.place or Place(0, 0))
    ]
    return lines[0] if len(lines) == 1 else f"{len(lines)} mistakes in the settings\n" + "\n".join(lines)


def _where(place: Place | None, file: str) -> str:
    if not file:
        return ""
    return f"{file}:{place.line}:{place.column}: " if place else f"{file}: "


class _Reader:
    def __init__(self, document: Document, loader: yaml.SafeLoader) -> None:
        self._document = document
        self._loader = loader
        self._seen: set[int] = set()

    def read(self, node: Node, path: Path) -> Any:
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if id(node) in self._seen:
            self._report(node, "an anchor may be used once only")
            return None
        self._seen.add(id(node))
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        assert isinstance(node, SequenceNode)
        items = []
        for index, item in enumerate(node.value):
            self._document.places[(*path, index)] = _place(item.start_mark)
            items.append(self.read(item, (*path, index)))
        return items

    def _scalar(self, node: ScalarNode) -> Any:
        try:
            return self._loader.construct_object(node)
        except ValueError as error:  # 2026-13-45 looks like a date
            self._report(node, f"{node.value!r:.60} cannot be read: {error}")
            return None

    def _mapping(self, node: MappingNode, path: Path) -> Mapping[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                self._report(
                    key_node, f"a key must be text, got {key!r}" if key is not None else "a key must be text"
                )
            elif key in values:
                first = self._document.places[(*path, key)].line
                self._report(key_node, f"the key {key!r} is given twice, first in line {first}")
            else:
                self._document.places[(*path, key)] = _place(key_node.start_mark)
                values[key] = self.read(value_node, (*path, key))
        return values

    def _report(self, node: Node, text: str) -> None:
        self._document.problems.append(Problem(_place(node.start_mark), text))


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)
