"""Packed checkpoints, seen as plain ones."""

from collections.abc import Mapping
from typing import Any

from triptych.models.packed.settings import find_schemes
from triptych.models.packed.source import PackedSource
from triptych.models.sources import Plain

__all__ = ["unpacked"]


def unpacked(source: Plain, config: Mapping[str, Any]) -> Plain:
    """The plain tensors of a checkpoint, whatever its configuration says that they are packed in.

    Raises:
        Unimplemented, InvalidArgument: a setting of quantization_config that is not read; the message names it.
    """
    for scheme in find_schemes(config):
        source = PackedSource(source, scheme)
    return source
