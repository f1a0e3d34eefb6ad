"""A checkpoint of packed weights, seen as one of plain weights."""

from collections.abc import Mapping

from triptych.models.extent import Extent
from triptych.models.packed.arrays import Arrays
from triptych.models.packed.scheme import Endings, Scheme
from triptych.models.sources import FloatArray, Plain, Shape, Shapes


class PackedSource:
    """Plain tensors instead of the arrays that they are packed in; they are unpacked in float32 as they are read.

    Args:
        source: The arrays. No shard is opened before its tensors are asked for.
        scheme: How they are packed.
    """

    interleaved = False

    def __init__(self, source: Plain, scheme: Scheme) -> None:
        self.path = source.path
        self.files = source.files
        self._source, self._scheme = source, scheme
        self._packed = _find(source.shapes, scheme.endings)
        used = {array for arrays in self._packed.values() for array in arrays.values()}
        unread = scheme.endings.unread
        rest = (name for name in source.shapes if name not in used and not (unread and name.endswith(unread)))
        self._shapes: dict[str, Shape] = {}
        self.shapes: Mapping[str, Shape] = Shapes(dict.fromkeys((*rest, *self._packed)), self._shape)

    def describe(self, name: str) -> str:
        """The file, and the array of packed numbers."""
        return self._source.describe(self._array(name))

    def origin(self, name: str) -> str:
        """What is unpacked, and how."""
        inner = self._source.origin(self._array(name))
        return f"{inner} by {self._scheme!r}" if name in self._packed else inner

    def stored(self, name: str) -> Extent:
        """Where a tensor that is not packed lies."""
        return self._source.stored(name)

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is not packed and stored as `dtype`."""
        return None if name in self._packed else self._source.extent(name, dtype)

    def blocks(self, name: str) -> None:
        """None that a kernel reads."""

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop), unpacked."""
        if name not in self._packed:
            return self._source.read(name, start, stop)
        return self._scheme.read(self._arrays(name), start, stop)

    def _array(self, name: str) -> str:
        return self._packed[name][self._scheme.endings.packed] if name in self._packed else name

    def _arrays(self, name: str) -> Arrays:
        extents = {ending: self._source.stored(array) for ending, array in self._packed[name].items()}
        return Arrays(self.describe(name), extents)

    def _shape(self, name: str) -> Shape:
        if name not in self._packed:
            return self._source.shapes[name]
        if name not in self._shapes:
            self._shapes[name] = self._scheme.shape(self._arrays(name))
        return self._shapes[name]


def _find(names: Mapping[str, Shape], endings: Endings) -> dict[str, dict[str, str]]:
    """The arrays of every packed tensor, by the tensor's plain name and the arrays' endings."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        stem = name.removesuffix(endings.packed)
        if name.endswith(endings.packed) and any(stem + scales in names for scales in endings.scales):
            all_endings = (endings.packed, *endings.scales, *endings.others)
            found[stem + endings.plain] = {end: stem + end for end in all_endings if stem + end in names}
    return found
