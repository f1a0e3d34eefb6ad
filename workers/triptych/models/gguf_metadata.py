"""Typed reads of GGUF metadata."""

from typing import TypeVar

import numpy as np

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.gguf_header import GgufHeader, Value

_Kind = TypeVar("_Kind", int, float, str)


class Metadata:
    """The metadata of one file; keys of the model's own are given without its architecture.

    Getters raise DataLoss or Unimplemented, naming file, key and value.
    """

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.architecture = self._checked("general.architecture", str)

    def has(self, key: str) -> bool:
        """Whether the model's own metadata say this."""
        return self._key(key) in self.header.metadata

    def need(self, key: str, kind: type[_Kind]) -> _Kind:
        """One value that the model cannot do without; numbers are positive.

        A file has numbers in float32; they come as the shortest decimals that mean the same, as config.json has them.
        """
        return self._checked(self._key(key), kind)

    def get(self, key: str, kind: type[_Kind], default: _Kind) -> _Kind:
        """One value, or what llama.cpp takes where it is left out."""
        return self.need(key, kind) if self.has(key) else default

    def raw(self, key: str) -> Value | None:
        """Whatever stands there."""
        return self.header.metadata.get(self._key(key))

    def token(self, name: str) -> int | None:
        """The id of a special token, such as bos."""
        value = self.header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return value if isinstance(value, int) else None

    def _key(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def _checked(self, key: str, kind: type[_Kind]) -> _Kind:
        path, value = self.header.path, self.header.metadata.get(key)
        if value is None:
            raise DataLoss(f"{path} has no metadata {key}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Unimplemented(f"{path}: metadata {key} must be one {kind.__name__}, got {value!r:.60}")
        if kind is not str and value <= 0:  # type: ignore[operator]
            raise DataLoss(f"{path}: metadata {key} must be positive, got {value}")
        return kind(str(np.float32(value))) if kind is float else value
