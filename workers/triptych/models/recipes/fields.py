"""Typed reads of a Hugging Face config dict."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar

from triptych.core.errors import InvalidArgument, Unimplemented

_Text = TypeVar("_Text", bound=str)
_FEW = 4096  # ten times the largest models there are


class Fields:
    """One section of a config.

    A field that a config leaves out has the value that transformers gives it: that of `defaults`, or else the one
    that a getter is given, None where there is none. Getters raise InvalidArgument or Unimplemented, naming the
    field, what it may be and what it is.

    Args:
        values: The section.
        path: Its name with a trailing dot; empty for the whole.
        defaults: Of a family, where they differ from Llama's.
    """

    def __init__(
        self, values: Mapping[str, Any], path: str = "", defaults: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._values = values
        self._path = path
        self._defaults = defaults

    @property
    def names(self) -> tuple[str, ...]:
        """All fields that are there."""
        return tuple(self._values)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._values.get(name) is not None

    def section(self, name: str) -> "Fields":
        """A nested dict; empty when it is left out."""
        value = self._values.get(name) or {}
        if not isinstance(value, Mapping):
            raise self._invalid(name, "an object", value)
        return Fields(value, f"{self._path}{name}.")

    def count(self, name: str, default: int | None) -> int:
        """A positive integer."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._invalid(name, "a positive integer", value)
        return value

    def few(self, name: str, default: int | None) -> int:
        """A positive integer, of things that are built one by one: a config cannot ask for all memory."""
        value = self.count(name, default)
        if value > _FEW:
            raise self._invalid(name, f"at most {_FEW}", value)
        return value

    def optional_count(self, name: str, default: int | None) -> int | None:
        """A positive integer, or null for none; `default` where the field is left out."""
        if name in self._values and self._values[name] is None:
            return None
        return None if default is None and name not in self._values else self.count(name, default)

    def integer(self, name: str, default: int) -> int:
        """Any integer."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._invalid(name, "an integer", value)
        return value

    def positive(self, name: str, default: float | None) -> float:
        """A finite number above zero."""
        value = self._get(name, default)
        if not _is_positive(value):
            raise self._invalid(name, "a positive number", value)
        return float(value)

    def cap(self, name: str, default: float | None) -> float:
        """A positive number, or null for no cap: 0."""
        if name in self._values and self._values[name] is None:
            return 0.0
        return 0.0 if default is None and name not in self._values else self.positive(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._invalid(name, "true or false", value)
        return value

    def choice(self, name: str, default: str, supported: tuple[_Text, ...]) -> _Text:
        """One of the values that this version has."""
        value = self._get(name, default)
        for known in supported:
            if value == known:
                return known
        raise self.unsupported(name, value, " or ".join(supported))

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """A list of so many positive numbers."""
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) != length or not all(_is_positive(item) for item in value):
            raise self._invalid(name, f"a list of {length} positive numbers", value)
        return tuple(float(item) for item in value)

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A list of integers that are not negative."""
        value = self._get(name, list(default))
        if not isinstance(value, list) or not all(_is_index(item) for item in value):
            raise self._invalid(name, "a list of integers from 0", value)
        return tuple(value)

    def pairs(self, name: str, default: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """A list of pairs of integers that are not negative; at least one pair."""
        value = self._get(name, [list(pair) for pair in default])
        if not isinstance(value, list) or not value or not all(_is_pair(item) for item in value):
            raise self._invalid(name, "a list of pairs of integers from 0", value)
        return tuple((first, second) for first, second in value)

    def texts(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """A list of words."""
        value = self._values.get(name)
        value = list(default) if value is None else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._invalid(name, "a list of words", value)
        return tuple(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One id, several, or none."""
        value = self._values.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
            raise self._invalid(name, "a token id or a list of them", value)
        return tuple(ids)

    def refuse(self, name: str, neutral: object) -> None:
        """Refuses a setting unless it is absent, null or `neutral`."""
        value = self._values.get(name)
        if value is not None and value != neutral:
            raise self.unsupported(name, value, repr(neutral) if neutral is not None else "none")

    def unsupported(self, name: str, value: object, supported: str) -> Unimplemented:
        """The error for a value that means something, but nothing that this version does."""
        return Unimplemented(
            f"config: {self._path}{name} {value!r:.60} is not supported; supported: {supported}",
            field=self._path + name,
        )

    def _get(self, name: str, default: object) -> object:
        value = self._values.get(name)
        return self._defaults.get(name, default) if value is None else value

    def _invalid(self, name: str, wanted: str, value: object) -> InvalidArgument:
        return InvalidArgument(
            f"config: {self._path}{name} must be {wanted}, got {value!r:.60}", field=self._path + name
        )


def _is_positive(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_index(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_index(item) for item in value)
